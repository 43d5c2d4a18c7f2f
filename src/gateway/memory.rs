//! Memory for what agents have said and the config service has not acknowledged: bounded over all agents, for in a long
//! outage each of them may have its largest report pending.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

/// How much may be kept of what agents say.
#[derive(Debug)]
pub struct Memory {
    /// Of one agent.
    max_message_bytes: usize,
    /// Of all together.
    max_bytes: usize,
    held_bytes: Arc<AtomicUsize>,
}

/// A message that is kept; its memory is counted until it is dropped.
#[derive(Debug, Default)]
pub struct Kept {
    message: Bytes,
    counted_in: Option<Arc<AtomicUsize>>,
}

/// Why a message is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// It is over the limit of one agent.
    TooBig,
    /// There is no room for it beside those of all other agents.
    Full,
}

impl Memory {
    pub fn new(max_message_bytes: usize, max_bytes: usize) -> Self {
        Self { max_message_bytes, max_bytes, held_bytes: Arc::default() }
    }

    /// Puts `message` in the place of `kept`, which stays as it is if that cannot be done.
    pub fn replace(&self, kept: &mut Kept, message: Vec<u8>) -> Result<(), NotKept> {
        if message.len() > self.max_message_bytes {
            return Err(NotKept::TooBig);
        }
        let grows_by = message.len().saturating_sub(kept.message.len());
        let held = self.held_bytes.load(Ordering::Relaxed);
        // Several threads at once may go over the limit by a message each.
        if grows_by > 0 && held + grows_by > self.max_bytes {
            return Err(NotKept::Full);
        }
        self.held_bytes.fetch_add(message.len(), Ordering::Relaxed);
        *kept = Kept { message: message.into(), counted_in: Some(self.held_bytes.clone()) };
        Ok(())
    }

    /// Whether so little room is left that nothing more is to be asked for, and nobody new to be taken: a sixteenth, so that
    /// those who are here can still say something.
    pub fn is_scarce(&self) -> bool {
        self.held_bytes.load(Ordering::Relaxed) >= self.max_bytes - self.max_bytes / 16
    }

    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

impl Kept {
    pub fn message(&self) -> &Bytes {
        &self.message
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(counted_in) = &self.counted_in {
            counted_in.fetch_sub(self.message.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_what_is_dropped_makes_room() {
        let memory = Memory::new(60, 100);
        let (mut one, mut two) = (Kept::default(), Kept::default());
        assert_eq!(memory.replace(&mut one, vec![1; 61]), Err(NotKept::TooBig));
        assert_eq!(memory.replace(&mut one, vec![1; 60]), Ok(()));
        assert_eq!(memory.replace(&mut two, vec![2; 41]), Err(NotKept::Full));
        assert_eq!(memory.replace(&mut two, vec![2; 40]), Ok(()));
        assert_eq!((memory.held_bytes(), memory.is_scarce()), (100, true));
        assert_eq!(memory.replace(&mut two, vec![3; 41]), Err(NotKept::Full));
        assert_eq!(two.message()[0], 2, "what was kept stays");
        assert_eq!(memory.replace(&mut two, vec![3; 39]), Ok(()), "what becomes smaller always has room");
        drop(one);
        assert_eq!((memory.held_bytes(), memory.is_scarce()), (39, false));
    }
}
