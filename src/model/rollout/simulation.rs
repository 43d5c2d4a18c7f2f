//! Random fleets, plans, outages and clocks: whatever happens, a rollout keeps to its steps and comes to an end.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::{AgentRecord, Attributes, ContentHash, InstanceUid, agent::Wanted, proof::Unproven};

/// What an agent does with the new revision.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    TakesIt,
    Refuses,
    NeverAnswers,
    /// Comes back with what it had before.
    Crashes,
}

#[derive(Clone, Debug)]
struct Agent {
    /// Who it is, since when, and whether it is connected.
    record: AgentRecord,
    fate: Fate,
    /// What it should have, as its record says, and the version of the rollout that this was decided by.
    desired: Wanted,
    decided_by: i64,
    /// What it has, 0 for nothing, and the generation of the last offer that it took.
    revision: u64,
    generation: u64,
    /// When that was offered.
    offered_at: UnixMs,
    unproven: Option<Unproven>,
}

/// An offer under way.
#[derive(Clone, Debug)]
struct Offer {
    agent: usize,
    revision: u64,
    generation: u64,
}

#[derive(Clone, Debug)]
enum Event {
    /// The driver sees the fleet and acts.
    Drive,
    /// Two drivers see the same, and both act.
    DriveTwice,
    /// The fleet is seen now, and acted upon after the other events, if nobody has acted meanwhile.
    LookAndActLater,
    /// One of two replicas learns of the rollout as it is.
    Learn(usize),
    /// One of them decides for every agent by what it knows, and offers what is due.
    Decide(usize),
    /// An offer arrives, in whatever order, or is lost with its connection.
    Arrive(usize),
    /// All that was said so far arrives.
    Deliver,
    Flap(usize),
    /// One that was not known before, connected or known from elsewhere.
    Join(u128, Fate),
    /// All that are away come at once.
    AllConnect,
    Clock(i64),
    Operator(Control),
}

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![
        16 => Just(Fate::TakesIt),
        2 => Just(Fate::Refuses),
        2 => Just(Fate::NeverAnswers),
        1 => Just(Fate::Crashes),
    ]
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
    let index = || any::<prop::sample::Index>().prop_map(|index| index.index(1_000));
    prop_oneof![
        6 => Just(Event::Drive),
        2 => Just(Event::DriveTwice),
        1 => Just(Event::LookAndActLater),
        4 => (0..2_usize).prop_map(Event::Learn),
        4 => (0..2_usize).prop_map(Event::Decide),
        4 => index().prop_map(Event::Arrive),
        4 => Just(Event::Deliver),
        2 => index().prop_map(Event::Flap),
        1 => (any::<u128>(), fates()).prop_map(|(uid, fate)| Event::Join(uid, fate)),
        1 => Just(Event::AllConnect),
        3 => (-20_000_i64..60_000).prop_map(Event::Clock),
        1 => controls().prop_map(Event::Operator),
    ]
}

fn plans() -> impl Strategy<Value = Option<Plan>> {
    let steps = prop_oneof![
        Just(vec!["100%"]),
        Just(vec!["1%", "10%", "100%"]),
        Just(vec!["3", "50%", "100%"]),
        Just(vec!["25%", "75%", "100%"]),
        Just(vec!["ring = canary", "50%", "100%"]),
    ];
    let on_failure = prop_oneof![Just(OnFailure::Pause), Just(OnFailure::Rollback)];
    let windows = prop_oneof![3 => Just(Vec::new()), 1 => Just(vec!["* 00:20-12:00".parse().unwrap()])];
    let plan = (steps, 0..60_u32, 0..3_000_u32, 1..30_u32, on_failure, any::<bool>(), windows).prop_map(
        |(steps, bake_seconds, max_failures, min_sample, on_failure, approval, windows)| Plan {
            steps: steps.into_iter().map(|step| step.parse().unwrap()).collect(),
            bake_seconds,
            agent_deadline_seconds: 30,
            max_failures,
            min_sample,
            on_failure,
            approval,
            windows,
            effective_config: false,
        },
    );
    prop_oneof![9 => plan.prop_map(Some), 1 => Just(None)]
}

/// Agents of the ring are those with a number that 7 divides.
fn agent(number: u128, fate: Fate, is_connected: bool, revision: u64, first_seen: UnixMs) -> Agent {
    let mut record = AgentRecord::new(InstanceUid::from_uuid(Uuid::from_u128(number)), first_seen);
    let ring = number.is_multiple_of(7).then(|| ("ring".to_owned(), "canary".to_owned()));
    record.labels = ring.into_iter().collect();
    record.presence.connected = is_connected;
    Agent {
        record,
        fate,
        desired: Wanted::default(),
        decided_by: 0,
        revision,
        generation: 0,
        offered_at: 0,
        unproven: None,
    }
}

impl Agent {
    fn is_connected(&self) -> bool {
        self.record.presence.connected
    }

    fn is_in_ring(&self) -> bool {
        !self.record.labels.is_empty()
    }
}

struct World {
    agents: Vec<Agent>,
    rollout: Rollout,
    now: UnixMs,
    /// By a clock that never goes back.
    latest: UnixMs,
    /// The rollout as each replica knows it.
    known: [Rollout; 2],
    offers: Vec<Offer>,
}

fn is_inside(rollout: &Rollout, agent: &Agent) -> bool {
    rollout.cohort().contains(&agent.record, &Attributes::default())
}

fn gives(rollout: &Rollout, agent: &Agent) -> bool {
    rollout.cohort().gives(&agent.record, &Attributes::default())
}

/// The revision that an agent should have, by the rollout as somebody knows it.
fn wanted(rollout: &Rollout, agent: &Agent) -> u64 {
    let has_new = rollout.at_once || rollout.state == State::Succeeded || rollout.divides() && gives(rollout, agent);
    if has_new { rollout.revision } else { rollout.stable }
}

fn hash(revision: u64) -> Option<ContentHash> {
    (revision > 0).then_some(ContentHash([revision as u8; 32]))
}

impl World {
    fn seen(&self) -> Seen {
        let mut seen = self.seen_for(self.rollout.step);
        if self.rollout.is_hollow(&seen.counts) {
            seen = self.seen_for(self.rollout.step - 1);
        }
        seen
    }

    /// With whom the step after so many others may reach.
    fn seen_for(&self, after: u32) -> Seen {
        let mut seen = Seen::default();
        let mut candidates = Candidates::new(&self.rollout, after, self.now);
        for agent in &self.agents {
            seen.counts.matching += 1;
            seen.counts.capable += 1;
            seen.counts.reachable += u64::from(agent.is_connected());
            candidates.add(&agent.record, &Attributes::default());
            if self.rollout.step == 0 || !is_inside(&self.rollout, agent) {
                continue;
            }
            seen.counts.in_cohort += 1;
            if !gives(&self.rollout, agent) {
                match agent.is_connected() {
                    true => seen.counts.pending += 1,
                    false => seen.counts.disconnected += 1,
                }
                continue;
            }
            let wanted = wanted(&self.rollout, agent);
            let has_it = agent.revision == wanted || wanted == 0;
            let is_new = has_it && agent.revision == self.rollout.revision;
            let deadline_ms = self.rollout.plan.agent_deadline_ms();
            let is_late = self.now - agent.offered_at > deadline_ms;
            let is_lost = agent.desired.hash == hash(wanted)
                && agent.unproven.is_some_and(|it| it.is_returning() && self.now - it.since > deadline_ms);
            let counter = match agent.fate {
                _ if is_lost => &mut seen.counts.failed,
                _ if !agent.is_connected() => &mut seen.counts.disconnected,
                Fate::Refuses if is_new => &mut seen.counts.failed,
                Fate::NeverAnswers if is_new && is_late => &mut seen.counts.failed,
                Fate::NeverAnswers if is_new => &mut seen.counts.pending,
                _ if has_it => &mut seen.counts.healthy,
                _ => &mut seen.counts.pending,
            };
            *counter += 1;
        }
        seen.candidates = Some(candidates);
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

    fn learn(&mut self, replica: usize) {
        self.known[replica] = self.rollout.clone();
    }

    /// As `config_service::decide`: who knows less than the record was decided by leaves it.
    fn decide(&mut self, replica: usize) {
        let rollout = &self.known[replica];
        for (index, agent) in self.agents.iter_mut().enumerate() {
            if agent.decided_by <= rollout.version {
                let wanted = wanted(rollout, agent);
                agent.decided_by = rollout.version;
                if agent.desired.set(hash(wanted), self.now) {
                    agent.unproven = None;
                    if wanted == rollout.revision && agent.revision == wanted && rollout.divides() {
                        agent.record.desired.reached.insert(rollout.id);
                    }
                }
            }
            let Some(hash) = agent.desired.hash.filter(|_| agent.decided_by <= rollout.version) else { continue };
            let revision = u64::from(hash.0[0]);
            if agent.is_connected() && agent.revision != revision {
                if revision == rollout.revision && rollout.divides() {
                    agent.record.desired.reached.insert(rollout.id);
                }
                self.offers.push(Offer { agent: index, revision, generation: agent.desired.generation });
            }
        }
    }

    /// As a gateway does: an offer that is older than what the agent was sent is dropped.
    fn arrive(&mut self, Offer { agent, revision, generation }: Offer) {
        let is_current = self.agents[agent].desired.generation == generation;
        let agent = &mut self.agents[agent];
        if !agent.is_connected() || generation < agent.generation {
            return;
        }
        (agent.generation, agent.offered_at) = (generation, self.now);
        if agent.fate == Fate::Crashes && revision == self.rollout.revision {
            agent.record.presence.connected = false;
            if is_current {
                agent.unproven.get_or_insert(Unproven { since: self.now, returns: 0 });
            }
        } else {
            agent.revision = revision;
        }
    }

    fn deliver(&mut self) {
        for offer in std::mem::take(&mut self.offers) {
            self.arrive(offer);
        }
    }

    fn all_connect(&mut self) {
        let away: Vec<usize> = (0..self.agents.len()).filter(|index| !self.agents[*index].is_connected()).collect();
        away.into_iter().for_each(|index| self.connect(index));
    }

    fn connect(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        agent.record.presence.connected = true;
        if let Some(unproven) = &mut agent.unproven {
            unproven.returns += 1;
        }
    }
}

/// How many of the agents that are known a step is to let in at most, with those of the steps before: one beside those that it says,
/// which is connected.
fn most(step: &Step, known: usize, before: usize, ring: usize) -> usize {
    let own = match step {
        Step::Percent(points) => (known * *points as usize).div_ceil(ALL as usize),
        Step::Count(count) => *count as usize,
        Step::Ring(_) => 0,
    };
    own.max(before) + ring + 1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_rollout_keeps_to_its_steps_and_ends(
        fleet in prop::collection::vec((any::<u128>(), fates(), any::<bool>()), 0..120),
        plan in plans(),
        stable in 0..2_u64,
        history in prop::collection::vec(events(), 0..120),
        id in any::<u128>(),
    ) {
        let revisions = (stable, 2);
        let rollout = Rollout::new(Uuid::from_u128(id), "p", PolicyKind::Config, revisions, plan.as_ref()).made_by("o", 0);
        let known = [rollout.clone(), rollout.clone()];
        let agents = fleet.into_iter().map(|(number, fate, is_connected)| agent(number, fate, is_connected, stable, -1));
        let mut world = World { agents: agents.collect(), rollout, now: 0, latest: 0, known, offers: Vec::new() };
        let mut late: Option<(Rollout, Seen)> = None;
        let mut reached = 0;
        for event in history {
            let (before, fleet) = (world.rollout.clone(), world.agents.clone());
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
                Event::Learn(replica) => world.learn(replica),
                Event::Decide(replica) => {
                    let offers = world.offers.len();
                    world.decide(replica);
                    let known = &world.known[replica];
                    if known.state == State::Paused {
                        // Nobody gets it anew, and who has it keeps it.
                        for (agent, was) in world.agents.iter().zip(&fleet).filter(|(_, was)| was.decided_by <= known.version) {
                            let is_reached = !was.record.desired.reached.is_empty();
                            let had_it = was.desired.hash == hash(2) && is_reached;
                            prop_assert_eq!(agent.desired.hash == hash(2), had_it);
                        }
                        for offer in world.offers[offers..].iter().filter(|offer| offer.revision == 2) {
                            prop_assert!(!fleet[offer.agent].record.desired.reached.is_empty());
                        }
                    }
                }
                Event::Arrive(index) if !world.offers.is_empty() => {
                    let offer = world.offers.swap_remove(index % world.offers.len());
                    world.arrive(offer);
                }
                Event::Arrive(_) => {}
                Event::Deliver => world.deliver(),
                Event::Flap(index) if !world.agents.is_empty() => {
                    let index = index % world.agents.len();
                    match world.agents[index].is_connected() {
                        true => world.agents[index].record.presence.connected = false,
                        false => world.connect(index),
                    }
                }
                Event::Flap(_) => {}
                Event::Join(number, fate) => world.agents.push(agent(number, fate, true, 0, world.latest)),
                Event::AllConnect => world.all_connect(),
                Event::Clock(by) => {
                    world.now += by;
                    world.latest = world.latest.max(world.now);
                }
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
            // A step that begins lets in as many as it says of those that are known, connected or not, and at least one that is.
            let is_fresh = matches!(event, Event::Drive | Event::DriveTwice);
            let is_begun = after.step > before.step || after.step_since > before.step_since;
            if is_begun && after.threshold < u64::MAX {
                let known: Vec<_> = fleet.iter().filter(|agent| agent.record.first_seen < after.step_since).collect();
                let inside = |rollout: &Rollout| known.iter().filter(|agent| is_inside(rollout, agent)).count();
                let of_ring = known.iter().filter(|agent| agent.is_in_ring()).count();
                let step = &after.plan.steps[after.step as usize - 1];
                prop_assert!(inside(after) <= most(step, known.len(), inside(&before), of_ring));
                let proves = known.iter().any(|agent| agent.is_connected() && is_inside(after, agent));
                let is_part = !matches!(step, Step::Ring(_));
                prop_assert!(proves || !is_fresh || !is_part || known.is_empty());
                prop_assert!(is_part || of_ring > 0 || known.is_empty() || after.state == State::AwaitingApproval);
                reached = fleet.iter().filter(|agent| is_inside(after, agent)).count();
            }
            // However many come, or come back, while it lasts.
            if after.threshold < u64::MAX {
                prop_assert!(world.agents.iter().filter(|agent| is_inside(after, agent)).count() <= reached);
            }
            // A step is only followed by another once somebody has proved it.
            if is_fresh && after.step == before.step + 1 && before.step > 0 {
                let mut inside = fleet.iter().filter(|agent| is_inside(&before, agent));
                prop_assert!(fleet.is_empty() || inside.any(|agent| agent.revision == 2 || agent.fate == Fate::Crashes));
            }
            // It is not rolled back while somebody who is connected has still to be offered the way back.
            if after.state == State::RolledBack && matches!(event, Event::Drive | Event::DriveTwice) && stable > 0 {
                let mut connected = world.agents.iter().filter(|agent| agent.is_connected());
                prop_assert!(before.state.is_ended() || connected.all(|agent| !is_inside(after, agent) || agent.revision == stable));
            }
            for (agent, was) in world.agents.iter().zip(&fleet) {
                prop_assert!(agent.generation >= was.generation && agent.desired.generation >= was.desired.generation);
                prop_assert!(agent.decided_by >= was.decided_by);
                let is_changed = agent.desired.hash != was.desired.hash;
                prop_assert!(!is_changed || agent.desired.generation > was.desired.generation);
            }
            // Whichever replica decided, and by however old a state.
            for agent in world.agents.iter().filter(|agent| agent.revision == 2 || agent.desired.hash == hash(2)) {
                prop_assert!(is_inside(after, agent) || after.state == State::Succeeded);
            }
        }
        // Everybody comes back, and operators go on with what waits for them: it ends, and all have what is right.
        for _ in 0..200 {
            world.all_connect();
            for replica in 0..2 {
                world.learn(replica);
                world.decide(replica);
            }
            world.deliver();
            world.drive();
            world.now += 1_201_000;
            let go_on = match world.rollout.state {
                State::Paused => Control::RollBack,
                State::AwaitingApproval => Control::Promote,
                _ => continue,
            };
            let next = control(&world.rollout, go_on, &world.seen(), "o", world.now);
            prop_assert!(world.write(next.unwrap()));
        }
        prop_assert!(world.rollout.state.is_ended(), "{:?}", world.rollout);
        let is_new = world.rollout.at_once || world.rollout.state == State::Succeeded;
        let right = if is_new { 2 } else { stable };
        for agent in world.agents.iter().filter(|agent| right > 0 && !(is_new && agent.fate == Fate::Crashes)) {
            prop_assert_eq!(agent.revision, right);
        }
        prop_assert!(world.agents.iter().all(|agent| agent.desired.hash == hash(right)));
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
    let agents: Vec<Agent> = (0..2_000).map(|n| agent(n, Fate::TakesIt, true, 1, 0)).collect();
    let mut candidates = Candidates::new(&rollout, 0, 1);
    agents.iter().for_each(|agent| candidates.add(&agent.record, &Attributes::default()));
    let seen = |counts: Counts| Seen { counts, candidates: Some(candidates.clone()) };
    let started = advance(&rollout, &seen(Counts::default()), 1).unwrap();
    assert_eq!((started.state, started.step), (State::Progressing, 1));
    assert_eq!(agents.iter().filter(|agent| is_inside(&started, agent)).count(), 20);
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

#[test]
fn a_roll_back_waits_for_those_who_have_not_been_offered_it() {
    let plan = Plan::default();
    let rollout = Rollout::new(Uuid::from_u128(7), "p", PolicyKind::Config, (1, 2), Some(&plan)).made_by("o", 0);
    let started = advance(&rollout, &Seen::default(), 1).unwrap();
    let back = control(&started, Control::RollBack, &Seen::default(), "o", 2).unwrap();
    let seen = |pending, healthy, failed| {
        let counts = Counts { matching: 600, in_cohort: 600, pending, healthy, failed, ..Counts::default() };
        Seen { counts, ..Seen::default() }
    };
    let late = 2 + 2 * plan.agent_deadline_ms();
    assert_eq!(advance(&back, &seen(300, 300, 0), late), None, "at its pace it takes longer than an agent may");
    // Those whose own time is over have failed.
    let ended = advance(&back, &seen(0, 598, 2), late).unwrap();
    assert_eq!(ended.state, State::RolledBack);
    assert!(ended.reason.ends_with("; 2 agents are not back on revision 1 yet"), "{}", ended.reason);
}
