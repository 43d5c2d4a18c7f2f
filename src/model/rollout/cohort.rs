//! Which agents a rollout has reached, and which its next step will reach.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{ALL, Rollout, State, Step};
use crate::model::{AgentRecord, Attributes, InstanceUid, Selector, UnixMs};

/// Agents are in by a stable hash of rollout and uid, or by a selector of one of the steps so far: so each step contains the
/// ones before it, and an agent that comes back is in or out as before. One that was not known when the step began is in no
/// step but that of everybody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cohort {
    id: Uuid,
    threshold: u64,
    besides: Vec<u64>,
    rings: Vec<Selector>,
    since: UnixMs,
    is_paused: bool,
}

impl Cohort {
    pub(super) fn new(rollout: &Rollout) -> Self {
        Self {
            id: rollout.id,
            threshold: rollout.threshold,
            besides: rollout.besides.clone(),
            rings: rings(rollout, rollout.step),
            since: rollout.step_since,
            is_paused: rollout.state == State::Paused,
        }
    }

    pub fn contains(&self, agent: &AgentRecord, attributes: &Attributes) -> bool {
        if self.threshold == u64::MAX {
            return true;
        }
        let position = self.position(agent.placement());
        let is_placed = position < self.threshold || self.besides.contains(&position);
        let is_in_ring = || self.rings.iter().any(|ring| ring.matches(attributes, &agent.labels));
        agent.first_seen < self.since && (is_placed || is_in_ring())
    }

    /// Whether the agent has the new revision. While the rollout is paused, those have it that it has reached.
    pub fn gives(&self, agent: &AgentRecord, attributes: &Attributes) -> bool {
        (!self.is_paused || self.has_reached(agent)) && self.contains(agent, attributes)
    }

    /// Whether the agent was offered the new revision, as far as its record says.
    pub fn has_reached(&self, agent: &AgentRecord) -> bool {
        agent.desired.reached.contains(&self.id)
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    pub fn position(&self, uid: InstanceUid) -> u64 {
        position(self.id, uid)
    }
}

/// Of the first so many steps.
fn rings(rollout: &Rollout, steps: u32) -> Vec<Selector> {
    let rings = rollout.plan.steps.iter().take(steps as usize).filter_map(|step| match step {
        Step::Ring(selector) => Some(selector.clone()),
        _ => None,
    });
    rings.collect()
}

/// Those whom a rollout's step may reach when it begins: who match, take part and accept this kind of offer. They are counted whether they are
/// connected or not, so that a step is as large as it says also once all are.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    after: u32,
    /// As the next step begins: with its ring, if it is one.
    cohort: Cohort,
    ring: Option<Selector>,
    /// In any order.
    positions: Vec<u64>,
    /// The first position of one that is connected.
    nearest: Option<u64>,
    /// Of the ring.
    in_ring: u64,
    /// One that is connected is in the cohort already, or of the ring.
    has_connected: bool,
}

/// What a step comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reach {
    pub threshold: u64,
    /// The position of one more agent, which is connected, if none below the threshold is.
    pub beside: Option<u64>,
}

impl Candidates {
    /// For the step after so many others, from agents that are read from `at` on. Those that are new since are no candidates.
    pub fn new(rollout: &Rollout, after: u32, at: UnixMs) -> Self {
        let rings = rings(rollout, after + 1);
        let since = at.max(rollout.step_since);
        let ring = match rollout.plan.steps.get(after as usize) {
            Some(Step::Ring(ring)) => Some(ring.clone()),
            _ => None,
        };
        Self { after, cohort: Cohort { rings, since, ..Cohort::new(rollout) }, ring, ..Self::default() }
    }

    /// Of how many steps theirs is the next.
    pub(super) fn after(&self) -> u32 {
        self.after
    }

    /// Takes in one that matches, takes part and accepts this kind of offer.
    pub fn add(&mut self, agent: &AgentRecord, attributes: &Attributes) {
        if agent.first_seen >= self.cohort.since {
            return;
        }
        let position = self.cohort.position(agent.placement());
        self.positions.push(position);
        self.in_ring += u64::from(self.ring.as_ref().is_some_and(|ring| ring.matches(attributes, &agent.labels)));
        if agent.presence.connected {
            self.nearest = self.nearest.into_iter().chain([position]).min();
            self.has_connected = self.has_connected || self.cohort.contains(agent, attributes);
        }
    }

    /// When the step begins for which these are.
    pub(super) fn since(&self) -> UnixMs {
        self.cohort.since
    }

    pub(super) fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    pub(super) fn are_connected(&self) -> bool {
        self.nearest.is_some()
    }

    /// Whether the step is a ring of which nobody is known.
    pub(super) fn is_ring_empty(&self) -> bool {
        self.ring.is_some() && self.in_ring == 0
    }

    /// Whom the step lets in. A ring's agents are in by its selector alone.
    pub(super) fn reach(&self, step: &Step) -> Reach {
        let threshold = threshold(step, self.cohort.threshold, &mut self.positions.clone());
        let has_connected = self.has_connected || self.nearest.is_some_and(|nearest| nearest < threshold);
        let is_ring = matches!(step, Step::Ring(_));
        Reach { threshold, beside: self.nearest.filter(|_| !has_connected && !is_ring) }
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
