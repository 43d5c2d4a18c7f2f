//! HTTP agents that poll so seldom that they were taken to have left: when they were last heard is kept for a while, so that
//! the next poll shows their interval, and they do not come and go for ever.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::agents::LONGEST_INTERVAL_S;
use crate::model::InstanceUid;

/// Beyond this the interval of whoever leaves is not learnt: some 3 MB.
const MAX_KEPT: usize = 65_536;

/// When agents that are gone were last heard, by the gateway's clock.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<HashMap<InstanceUid, u32>>);

impl Seldom {
    /// An agent has not polled for too long.
    pub fn left(&self, uid: InstanceUid, heard_s: u32) {
        let mut heard = self.0.lock();
        if heard.len() < MAX_KEPT || heard.contains_key(&uid) {
            heard.insert(uid, heard_s);
        }
    }

    /// An agent polls again: when it was last heard, 0 if that is not known.
    pub fn came_back(&self, uid: &InstanceUid) -> u32 {
        self.0.lock().remove(uid).unwrap_or(0)
    }

    /// Drops those who have been away for longer than any interval that is learnt.
    pub fn forget(&self, now_s: u32) {
        let mut heard = self.0.lock();
        heard.retain(|_, heard_s| now_s.saturating_sub(*heard_s) <= LONGEST_INTERVAL_S);
        if heard.len() < heard.capacity() / 4 {
            heard.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_left_is_remembered_for_as_long_as_its_interval_is_of_use() {
        let seldom = Seldom::default();
        let uid = |n: u8| InstanceUid::from_slice(&[n; 16]).unwrap();
        seldom.left(uid(1), 7);
        seldom.left(uid(2), 7);
        seldom.forget(7 + LONGEST_INTERVAL_S);
        assert_eq!((seldom.came_back(&uid(1)), seldom.came_back(&uid(1))), (7, 0), "once");
        seldom.forget(8 + LONGEST_INTERVAL_S);
        assert_eq!(seldom.came_back(&uid(2)), 0, "it has been away for too long");
    }

    #[test]
    fn there_is_a_limit() {
        let seldom = Seldom::default();
        let uid = |n: u128| InstanceUid::from_slice(&n.to_be_bytes()).unwrap();
        (1..=MAX_KEPT as u128 + 5).for_each(|n| seldom.left(uid(n), 1));
        assert_eq!(seldom.0.lock().len(), MAX_KEPT);
    }
}
