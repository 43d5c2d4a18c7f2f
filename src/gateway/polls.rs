//! HTTP agents that poll many times a second. Over HTTP nobody can be held up by their own full socket, so what is too much is
//! refused, with a time to come back.

use std::collections::HashMap;

use crate::model::InstanceUid;

/// How often agents have polled in the present second. Only those are counted that have polled before in it: most agents never
/// are.
#[derive(Debug, Default)]
pub struct Polls {
    second: u32,
    counts: HashMap<InstanceUid, u32>,
}

impl Polls {
    /// A second or further poll of an agent in the second `now_s`. Returns whether that is one too many.
    pub fn is_too_many(&mut self, uid: &InstanceUid, now_s: u32, per_second: u32) -> bool {
        if self.second != now_s {
            *self = Self { second: now_s, counts: HashMap::new() };
        }
        let count = self.counts.entry(*uid).or_insert(1);
        *count = count.saturating_add(1);
        *count > per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_counted_for_each_agent_and_second() {
        let mut polls = Polls::default();
        let uid = |n: u8| InstanceUid::from_slice(&[n; 16]).unwrap();
        let mut refused = |n, now_s, times: usize| (0..times).filter(|_| polls.is_too_many(&uid(n), now_s, 5)).count();
        assert_eq!((refused(1, 7, 4), refused(1, 7, 3)), (0, 3), "with the first, five are let through");
        assert_eq!(refused(2, 7, 4), 0, "another agent");
        assert_eq!(refused(1, 8, 4), 0, "another second");
        assert!(polls.is_too_many(&uid(2), 9, 1));
    }
}
