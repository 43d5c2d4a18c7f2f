//! Which agents a rollout has reached.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{ALL, Rollout, Step};
use crate::model::{Attributes, InstanceUid, Labels, Selector};

/// Agents are in by a stable hash of rollout and uid, or by a selector of one of the steps so far: so each step contains the
/// ones before it, and an agent that comes back, or is new, is in or out like any other.
#[derive(Clone, Debug, PartialEq)]
pub struct Cohort {
    id: Uuid,
    threshold: u64,
    rings: Vec<Selector>,
}

impl Cohort {
    pub(super) fn new(rollout: &Rollout) -> Self {
        let rings = rollout.plan.steps.iter().take(rollout.step as usize).filter_map(|step| match step {
            Step::Ring(selector) => Some(selector.clone()),
            _ => None,
        });
        Self { id: rollout.id, threshold: rollout.threshold, rings: rings.collect() }
    }

    pub fn contains(&self, uid: InstanceUid, attributes: &Attributes, labels: &Labels) -> bool {
        self.threshold == u64::MAX
            || position(self.id, uid) < self.threshold
            || self.rings.iter().any(|ring| ring.matches(attributes, labels))
    }

    pub fn position(&self, uid: InstanceUid) -> u64 {
        position(self.id, uid)
    }
}

/// Where an agent stands in the order in which a rollout reaches agents. Never the largest number.
fn position(rollout: Uuid, uid: InstanceUid) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(b"muster rollout v1\0");
    hasher.update(rollout.as_bytes());
    hasher.update(uid.as_uuid().as_bytes());
    let digest = hasher.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first).min(u64::MAX - 1)
}

/// The threshold that lets in as many of `positions` as `step` says, at least one, and no fewer than `before`.
pub(super) fn threshold(step: &Step, before: u64, positions: &mut [u64]) -> u64 {
    let count = match step {
        Step::Percent(ALL) => return u64::MAX,
        Step::Percent(points) if positions.is_empty() => {
            return before.max(u64::MAX / u64::from(ALL) * u64::from(*points));
        }
        Step::Percent(points) => {
            let exact = u128::from(*points) * positions.len() as u128;
            usize::try_from(exact.div_ceil(u128::from(ALL))).unwrap_or(usize::MAX)
        }
        Step::Count(count) => usize::try_from(*count).unwrap_or(usize::MAX),
        Step::Ring(_) => return before,
    };
    let count = count.min(positions.len());
    if count == 0 {
        return before;
    }
    let (_, last, _) = positions.select_nth_unstable(count - 1);
    before.max(*last + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_step_lets_in_what_it_says_and_everybody_before(
            numbers in prop::collection::hash_set(any::<u128>(), 1..200),
            percents in prop::collection::btree_set(1..ALL, 1..5),
            id in any::<u128>(),
        ) {
            let id = Uuid::from_u128(id);
            let mut positions: Vec<u64> =
                numbers.iter().map(|number| position(id, InstanceUid::from_uuid(Uuid::from_u128(*number)))).collect();
            let mut before = 0;
            for points in percents {
                let now = threshold(&Step::Percent(points), before, &mut positions);
                prop_assert!(now >= before);
                let inside = positions.iter().filter(|position| **position < now).count();
                let expected = (numbers.len() * points as usize).div_ceil(ALL as usize);
                prop_assert_eq!(inside, expected.max(1));
                before = now;
            }
            prop_assert_eq!(threshold(&Step::Percent(ALL), before, &mut positions), u64::MAX);
        }
    }

    #[test]
    fn a_count_is_that_many_and_no_newcomers_beyond_the_last() {
        let mut positions = vec![50, 10, 30];
        assert_eq!(threshold(&Step::Count(2), 0, &mut positions), 31);
        assert_eq!(threshold(&Step::Count(9), 31, &mut positions), 51);
        assert_eq!(threshold(&Step::Count(9), 31, &mut []), 31);
    }
}
