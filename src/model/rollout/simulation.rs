//! Random fleets, plans, outages and clocks: whatever happens, a rollout keeps to its steps and comes to an end.

use std::collections::HashSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::{Attributes, InstanceUid, Labels};

/// What an agent does with the new revision.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    TakesIt,
    Refuses,
    NeverAnswers,
}

#[derive(Clone, Debug)]
struct Agent {
    uid: InstanceUid,
    fate: Fate,
    is_connected: bool,
    revision: u64,
    /// When the present revision was offered.
    offered_at: UnixMs,
}

#[derive(Clone, Debug)]
enum Event {
    /// The driver sees the fleet and acts.
    Drive,
    /// Two drivers see the same, and both act.
    DriveTwice,
    /// The fleet is seen now, and acted upon after the other events, if nobody has acted meanwhile.
    LookAndActLater,
    /// Offers reach the agents that are connected.
    Deliver,
    Flap(usize),
    Join(u128, Fate),
    Clock(i64),
    Operator(Control),
}

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![8 => Just(Fate::TakesIt), 1 => Just(Fate::Refuses), 1 => Just(Fate::NeverAnswers)]
}

fn controls() -> impl Strategy<Value = Control> {
    prop_oneof![
        Just(Control::Pause),
        Just(Control::Resume),
        Just(Control::Promote),
        Just(Control::PromoteFully),
        Just(Control::Abort),
        Just(Control::RollBack),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Drive),
        2 => Just(Event::DriveTwice),
        1 => Just(Event::LookAndActLater),
        6 => Just(Event::Deliver),
        2 => any::<prop::sample::Index>().prop_map(|index| Event::Flap(index.index(1_000))),
        1 => (any::<u128>(), fates()).prop_map(|(uid, fate)| Event::Join(uid, fate)),
        3 => (-20_000_i64..60_000).prop_map(Event::Clock),
        1 => controls().prop_map(Event::Operator),
    ]
}

fn plans() -> impl Strategy<Value = Plan> {
    let steps = prop_oneof![
        Just(vec!["100%"]),
        Just(vec!["1%", "10%", "100%"]),
        Just(vec!["3", "50%", "100%"]),
        Just(vec!["25%", "75%", "100%"]),
    ];
    let on_failure = prop_oneof![Just(OnFailure::Pause), Just(OnFailure::Rollback)];
    (steps, 0..60_u32, 0..3_000_u32, 1..30_u32, on_failure, any::<bool>()).prop_map(
        |(steps, bake_seconds, max_failures, min_sample, on_failure, approval)| Plan {
            steps: steps.into_iter().map(|step| step.parse().unwrap()).collect(),
            bake_seconds,
            agent_deadline_seconds: 30,
            max_failures,
            min_sample,
            on_failure,
            approval,
            windows: Vec::new(),
        },
    )
}

struct World {
    agents: Vec<Agent>,
    rollout: Rollout,
    now: UnixMs,
}

impl World {
    fn is_inside(&self, agent: &Agent) -> bool {
        self.rollout.cohort().contains(agent.uid, &Attributes::default(), &Labels::default())
    }

    fn wanted(&self, agent: &Agent) -> u64 {
        let has_new = self.rollout.state == State::Succeeded || self.rollout.divides() && self.is_inside(agent);
        if has_new { self.rollout.revision } else { self.rollout.stable }
    }

    fn seen(&self) -> Seen {
        let mut seen = Seen::default();
        for agent in &self.agents {
            seen.counts.matching += 1;
            if agent.is_connected {
                seen.positions.push(self.rollout.cohort().position(agent.uid));
            }
            if !self.is_inside(agent) {
                continue;
            }
            seen.counts.in_cohort += 1;
            let has_it = agent.revision == self.wanted(agent);
            let is_new = has_it && agent.revision == self.rollout.revision;
            let is_late = self.now - agent.offered_at > self.rollout.plan.agent_deadline_ms();
            let counter = match agent.fate {
                _ if !agent.is_connected => &mut seen.counts.disconnected,
                Fate::Refuses if is_new => &mut seen.counts.failed,
                Fate::NeverAnswers if is_new && is_late => &mut seen.counts.failed,
                Fate::NeverAnswers if is_new => &mut seen.counts.pending,
                _ if has_it => &mut seen.counts.healthy,
                _ => &mut seen.counts.pending,
            };
            *counter += 1;
        }
        seen
    }

    /// As the store does it: who acts upon another version than the present one changes nothing.
    fn write(&mut self, next: Rollout) -> bool {
        if next.version != self.rollout.version + 1 {
            return false;
        }
        self.rollout = next;
        true
    }

    fn drive(&mut self) {
        let seen = self.seen();
        self.rollout.counts = seen.counts.clone();
        if let Some(next) = advance(&self.rollout, &seen, self.now) {
            assert!(self.write(next));
        }
    }

    fn deliver(&mut self) {
        let wanted: Vec<u64> = self.agents.iter().map(|agent| self.wanted(agent)).collect();
        for (agent, wanted) in self.agents.iter_mut().zip(wanted) {
            if agent.is_connected && agent.revision != wanted {
                (agent.revision, agent.offered_at) = (wanted, self.now);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_rollout_keeps_to_its_steps_and_ends(
        fleet in prop::collection::vec((any::<u128>(), fates(), any::<bool>()), 0..120),
        plan in plans(),
        history in prop::collection::vec(events(), 0..80),
        id in any::<u128>(),
    ) {
        let agent = |(number, fate, is_connected)| Agent {
            uid: InstanceUid::from_uuid(Uuid::from_u128(number)), fate, is_connected, revision: 1, offered_at: 0,
        };
        let rollout = Rollout::new(Uuid::from_u128(id), "p", PolicyKind::Config, (1, 2), Some(&plan)).made_by("o", 0);
        let mut world = World { agents: fleet.into_iter().map(agent).collect(), rollout, now: 0 };
        let mut late: Option<(Rollout, Seen)> = None;
        for event in history {
            let before = world.rollout.clone();
            match event {
                Event::Drive => world.drive(),
                Event::DriveTwice => {
                    let seen = world.seen();
                    let both = [advance(&world.rollout, &seen, world.now), advance(&world.rollout, &seen, world.now)];
                    let written = both.into_iter().flatten().filter(|next| world.write(next.clone())).count();
                    prop_assert!(written <= 1);
                }
                Event::LookAndActLater => match late.take() {
                    None => late = Some((world.rollout.clone(), world.seen())),
                    Some((rollout, seen)) => {
                        if let Some(next) = advance(&rollout, &seen, world.now) {
                            let is_current = rollout.version == world.rollout.version;
                            prop_assert_eq!(world.write(next), is_current);
                        }
                    }
                },
                Event::Deliver => world.deliver(),
                Event::Flap(index) if !world.agents.is_empty() => {
                    let index = index % world.agents.len();
                    world.agents[index].is_connected ^= true;
                }
                Event::Flap(_) => {}
                Event::Join(number, fate) => world.agents.push(agent((number, fate, true))),
                Event::Clock(by) => world.now += by,
                Event::Operator(what) => {
                    if let Ok(next) = control(&world.rollout, what, &world.seen(), "o", world.now) {
                        prop_assert!(world.write(next));
                    }
                }
            }
            let after = &world.rollout;
            if before.state.is_ended() {
                prop_assert_eq!((before.state, before.version), (after.state, after.version));
            }
            prop_assert!(after.threshold >= before.threshold && after.step >= before.step);
            prop_assert!(after.version == before.version || after.version == before.version + 1);
            let is_operator = matches!(event, Event::Operator(_));
            prop_assert!(is_operator || after.step <= before.step + 1);
            prop_assert_eq!(after.ended_at.is_some(), after.state.is_ended());
            for agent in world.agents.iter().filter(|agent| agent.revision == 2) {
                prop_assert!(world.is_inside(agent) || after.state == State::Succeeded);
            }
        }
        // Everybody comes back, and operators go on with what waits for them: it ends, and all have what is right.
        world.agents.iter_mut().for_each(|agent| agent.is_connected = true);
        for _ in 0..200 {
            world.deliver();
            world.drive();
            world.now += 61_000;
            let go_on = match world.rollout.state {
                State::Paused => Control::RollBack,
                State::AwaitingApproval => Control::Promote,
                _ => continue,
            };
            let next = control(&world.rollout, go_on, &world.seen(), "o", world.now);
            prop_assert!(world.write(next.unwrap()));
        }
        prop_assert!(world.rollout.state.is_ended(), "{:?}", world.rollout);
        world.deliver();
        let revisions: HashSet<u64> = world.agents.iter().map(|agent| agent.revision).collect();
        let right = if world.rollout.state == State::Succeeded { 2 } else { 1 };
        prop_assert!(revisions.into_iter().all(|revision| revision == right));
    }
}

#[test]
fn failures_beyond_the_budget_stop_the_first_step() {
    let plan = Plan {
        steps: ["1%", "10%", "100%"].map(|step| step.parse().unwrap()).into(),
        bake_seconds: 60,
        max_failures: 200,
        min_sample: 20,
        on_failure: OnFailure::Rollback,
        ..Plan::default()
    };
    let rollout = Rollout::new(Uuid::from_u128(7), "p", PolicyKind::Config, (1, 2), Some(&plan)).made_by("o", 0);
    let positions: Vec<u64> =
        (0..2_000).map(|n| rollout.cohort().position(InstanceUid::from_uuid(Uuid::from_u128(n)))).collect();
    let seen = |counts: Counts| Seen { counts, positions: positions.clone() };
    let started = advance(&rollout, &seen(Counts::default()), 1).unwrap();
    assert_eq!((started.state, started.step), (State::Progressing, 1));
    assert_eq!(positions.iter().filter(|position| **position < started.threshold).count(), 20);
    // Too few to judge by: no state is changed.
    let early = Counts { in_cohort: 20, pending: 15, failed: 1, healthy: 4, ..Counts::default() };
    assert_eq!(advance(&started, &seen(early), 2), None);
    let failed = Counts { errors: [("bad yaml".to_owned(), 4)].into(), failed: 4, healthy: 16, ..Counts::default() };
    let stopped = advance(&started, &seen(failed), 3).unwrap();
    assert_eq!(stopped.state, State::RollingBack);
    assert_eq!(stopped.reason, "step 1: 4 of 20 agents failed; 4 of them say: bad yaml");
    assert!(!stopped.divides());
    let back = advance(&stopped, &seen(Counts { healthy: 20, ..Counts::default() }), 4).unwrap();
    assert_eq!((back.state, back.ended_at), (State::RolledBack, Some(4)));
}
