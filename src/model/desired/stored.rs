//! Which revisions agents have, from what is stored of policies, rollouts and overrides.

use std::collections::{HashMap, HashSet};

use super::{InForce, Part, PolicySet};
use crate::model::{overrides::Overrides, policy::Policy, rollout::Rollout};

/// What is stored at one epoch.
#[derive(Default)]
pub struct Stored {
    /// Policies that have a stable revision, with it.
    pub stable: Vec<Policy>,
    /// Those that have a rollout with steps in flight, with the newest one.
    pub rolled_out: Vec<Policy>,
    /// Those with overrides, with each revision that is in one.
    pub overriding: Vec<Policy>,
    /// In flight.
    pub rollouts: Vec<Rollout>,
    pub overrides: Overrides,
}

impl Stored {
    pub fn into_set(self, epoch: u64) -> PolicySet {
        let Self { stable, rolled_out, overriding, rollouts, overrides } = self;
        let (mut in_force, mut cohorts) = (Vec::new(), Vec::new());
        let mut dividing = HashMap::new();
        for rollout in rollouts.iter().filter(|rollout| rollout.divides()) {
            dividing.insert(rollout.policy.as_str(), cohorts.len());
            cohorts.push(rollout.cohort());
        }
        for policy in stable {
            let part = dividing.get(policy.name.as_str()).map_or(Part::Everybody, |cohort| Part::Outside(*cohort));
            in_force.push(in_part(policy, part));
        }
        for policy in rolled_out {
            if let Some(cohort) = dividing.get(policy.name.as_str()) {
                in_force.push(in_part(policy, Part::Inside(*cohort)));
            }
        }
        let known: HashSet<(String, u64)> =
            in_force.iter().map(|one| (one.name.clone(), one.revision.number)).collect();
        let further = overriding.into_iter().filter(|one| !known.contains(&(one.name.clone(), one.revision.number)));
        in_force.extend(further.map(|policy| in_part(policy, Part::Overridden)));
        PolicySet::new(epoch, in_force, cohorts).overridden(overrides)
    }
}

fn in_part(policy: Policy, part: Part) -> InForce {
    InForce { name: policy.name, kind: policy.kind, revision: policy.revision, part }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::model::{
        AgentRecord, Attributes, InstanceUid, Selector,
        policy::{PolicyKind, PolicyOffer, Revision, RevisionContent},
        rollout::{Candidates, Control, Plan, Seen, State, control},
    };

    const NAME: &str = "p";

    fn agent(index: usize) -> InstanceUid {
        InstanceUid::from_uuid(Uuid::from_u128(index as u128 + 1))
    }

    fn record(index: usize) -> AgentRecord {
        AgentRecord::new(agent(index), 0)
    }

    fn revision(number: u64) -> Policy {
        let content = RevisionContent {
            selector: Selector::default(),
            // Other policies come before some and after others.
            priority: number as i32 % 3,
            offer: PolicyOffer::Config(BTreeMap::new()),
            allow_empty: true,
            max_per_second: 0,
            plan: None,
        };
        Policy {
            name: NAME.to_owned(),
            kind: PolicyKind::Config,
            etag: String::new(),
            created_at: 0,
            revision: Revision { number, content, author: String::new(), message: String::new(), created_at: 0 },
            stable: 0,
        }
    }

    /// One policy among others, as the store keeps it.
    #[derive(Default)]
    struct World {
        newest: u64,
        stable: u64,
        rollout: Option<Rollout>,
        /// By agent.
        overrides: BTreeMap<usize, u64>,
    }

    #[derive(Clone, Debug)]
    enum Event {
        ApplyAtOnce,
        ApplyInSteps(u128),
        Operator(Control),
        Pin(usize, prop::sample::Index),
        Hold(usize),
        Clear(usize),
    }

    const AGENTS: usize = 12;

    fn events() -> impl Strategy<Value = Event> {
        let controls = prop_oneof![
            3 => Just(Control::Promote),
            1 => Just(Control::PromoteFully),
            1 => Just(Control::Abort),
            1 => Just(Control::RollBack),
            1 => Just(Control::Pause),
            1 => Just(Control::Resume),
        ];
        prop_oneof![
            1 => Just(Event::ApplyAtOnce),
            3 => any::<u128>().prop_map(Event::ApplyInSteps),
            6 => controls.prop_map(Event::Operator),
            2 => (0..AGENTS, any::<prop::sample::Index>()).prop_map(|(agent, number)| Event::Pin(agent, number)),
            2 => (0..AGENTS).prop_map(Event::Hold),
            1 => (0..AGENTS).prop_map(Event::Clear),
        ]
    }

    impl World {
        fn apply(&mut self, rollout: Option<Rollout>) {
            self.newest += 1;
            if rollout.is_none() {
                self.stable = self.newest;
            }
            self.rollout = rollout;
        }

        fn steer(&mut self, what: Control) {
            let Some(rollout) = &self.rollout else { return };
            let mut candidates = Candidates::new(rollout, rollout.step, 1);
            (0..AGENTS).for_each(|index| candidates.add(&record(index), &Attributes::default()));
            let seen = Seen { candidates: Some(candidates), ..Seen::default() };
            let Ok(next) = control(rollout, what, &seen, "o", 1) else { return };
            if next.state == State::Succeeded {
                self.stable = next.revision;
            }
            self.rollout = Some(next).filter(|next| !next.state.is_ended());
        }

        fn set(&self, overrides: &BTreeMap<usize, u64>) -> PolicySet {
            let other = Policy { name: "other".to_owned(), ..revision(1) };
            let stable = (self.stable > 0).then(|| revision(self.stable));
            let numbers: std::collections::BTreeSet<u64> = overrides.values().copied().collect();
            let of_agents = overrides.iter().map(|(index, number)| (agent(*index), Arc::from(NAME), *number));
            let stored = Stored {
                stable: stable.into_iter().chain([other]).collect(),
                rolled_out: self.rollout.iter().map(|_| revision(self.newest)).collect(),
                overriding: numbers.into_iter().filter(|number| *number > 0).map(revision).collect(),
                rollouts: self.rollout.iter().cloned().collect(),
                overrides: Overrides::new(of_agents),
            };
            stored.into_set(1)
        }

        /// The revision that each agent has, and that nothing else is to be seen of its override.
        fn revisions(&self, overrides: &BTreeMap<usize, u64>) -> Vec<u64> {
            let set = self.set(overrides);
            let of = |index: usize| {
                let attributes = Attributes::default();
                let matching = set.matching(&record(index), &attributes);
                let all: Vec<_> = matching.iter().map(|at| &set.policies()[*at as usize]).collect();
                assert_eq!(all.iter().filter(|one| one.name == "other").count(), 1);
                let own: Vec<u64> = all.iter().filter(|one| one.name == NAME).map(|one| one.revision.number).collect();
                assert!(own.len() <= 1, "{own:?}");
                let number = own.first().copied().unwrap_or(0);
                assert_eq!(set.revision_of(NAME, &record(index), &attributes), number);
                assert_eq!(set.override_of(agent(index), NAME), overrides.get(&index).copied());
                number
            };
            (0..AGENTS).map(of).collect()
        }
    }

    proptest! {
        #[test]
        fn whatever_rollouts_do_an_override_holds(history in prop::collection::vec(events(), 1..60)) {
            let plan = Plan { steps: ["25%", "50%", "100%"].map(|step| step.parse().unwrap()).into(), ..Plan::default() };
            let mut world = World::default();
            for event in history {
                let before = world.revisions(&world.overrides);
                match event {
                    Event::ApplyAtOnce => world.apply(None),
                    Event::ApplyInSteps(id) => {
                        let revisions = (world.stable, world.newest + 1);
                        let id = Uuid::from_u128(id);
                        world.apply(Some(Rollout::new(id, NAME, PolicyKind::Config, revisions, Some(&plan))));
                    }
                    Event::Operator(what) => world.steer(what),
                    Event::Pin(_, _) if world.newest == 0 => {}
                    Event::Pin(agent, number) => {
                        world.overrides.insert(agent, number.index(world.newest as usize) as u64 + 1);
                    }
                    Event::Hold(agent) => {
                        world.overrides.insert(agent, before[agent]);
                        prop_assert_eq!(world.revisions(&world.overrides)[agent], before[agent]);
                    }
                    Event::Clear(agent) => {
                        world.overrides.remove(&agent);
                    }
                }
                let without = world.revisions(&BTreeMap::new());
                for (index, number) in world.revisions(&world.overrides).into_iter().enumerate() {
                    prop_assert_eq!(number, world.overrides.get(&index).copied().unwrap_or(without[index]));
                }
                // As a dry run sees it: a revision for everybody passes them by.
                let set = world.set(&world.overrides).with(
                    vec![in_part(revision(world.newest + 1), Part::Everybody)], std::iter::empty());
                for index in 0..AGENTS {
                    let number = set.revision_of(NAME, &record(index), &Attributes::default());
                    prop_assert_eq!(number, world.overrides.get(&index).copied().unwrap_or(world.newest + 1));
                }
            }
        }
    }
}
