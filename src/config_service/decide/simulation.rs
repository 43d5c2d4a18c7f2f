//! Random histories of one agent, its gateways and the policies, by the decisions alone: whatever is lost, repeated or
//! crossed, everything converges, and on the way nothing is done that must not be.

use proptest::prelude::*;

use super::{testing::*, *};
use crate::{
    config_service::report::Report,
    model::{
        ContentHash,
        offer::{Convergence, convergence},
        policy::PolicyKind,
    },
    proto::{bus, opamp::AgentToServer},
    protocol::merge::merge,
};

#[derive(Clone, Debug)]
enum Step {
    /// The agent says something of its state.
    Speak,
    /// The pending report is published, and its verdict arrives or is lost.
    Publish {
        verdict_arrives: bool,
    },
    Reconnect {
        gateway: usize,
        clean: bool,
    },
    ChangePolicies {
        body: u8,
    },
    Reconcile {
        offer_arrives: bool,
    },
    /// An earlier report arrives once more.
    Replay,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Speak),
        4 => any::<bool>().prop_map(|verdict_arrives| Step::Publish { verdict_arrives }),
        2 => (0..2usize, any::<bool>()).prop_map(|(gateway, clean)| Step::Reconnect { gateway, clean }),
        2 => (0..4u8).prop_map(|body| Step::ChangePolicies { body }),
        2 => any::<bool>().prop_map(|offer_arrives| Step::Reconcile { offer_arrives }),
        1 => Just(Step::Replay),
        1 => Just(Step::Wait),
    ]
}

/// Bodies that the agent refuses.
const REFUSED_BODY: u8 = 3;
const GATEWAYS: [&str; 2] = ["a", "b"];

struct World {
    now: UnixMs,
    policies: Snapshot,
    refused: Vec<ContentHash>,
    row: Option<AgentRecord>,
    agent: Agent,
    pending: Option<Report>,
    published: Vec<Report>,
    generation: u64,
    number: u64,
    /// The generation of the last offer on this connection.
    offered_generation: u64,
}

/// An agent like the Supervisor: it keeps what it has when it refuses something.
struct Agent {
    has: Vec<u8>,
    status: i32,
    status_hash: Vec<u8>,
    /// The status was in a message since it changed: deltas leave it out.
    status_was_sent: bool,
    sequence_num: u64,
    gateway: usize,
    says_everything: bool,
}

fn policies_at(epoch: u64, body: u8) -> Snapshot {
    snapshot(epoch, vec![policy("p", "group = web", 0, &[("f", &format!("body {body}"))])])
}

fn hash_of(body: u8) -> ContentHash {
    let attributes = Attributes::from(full("web").agent_description.unwrap());
    policies_at(1, body).target(&AgentRecord::new(uid(1), 0), &attributes).config.unwrap().unwrap().hash
}

impl World {
    fn new() -> Self {
        let agent = Agent {
            has: vec![],
            status: 0,
            status_hash: vec![],
            status_was_sent: false,
            sequence_num: 0,
            gateway: 0,
            says_everything: true,
        };
        let mut world = Self {
            now: 1_700_000_000_000,
            policies: policies_at(1, 0),
            refused: vec![hash_of(REFUSED_BODY)],
            row: None,
            agent,
            pending: None,
            published: Vec::new(),
            generation: 0,
            number: 0,
            offered_generation: 0,
        };
        world.connect(0, None);
        world
    }

    /// Opens a connection; `previous` is what its gateway knows.
    fn connect(&mut self, gateway: usize, previous: Option<u64>) {
        self.generation += 1;
        self.number = 0;
        self.offered_generation = 0;
        self.agent.gateway = gateway;
        self.pending = None;
        let first = self.agent.sequence_num + 1;
        self.speak();
        if let Some(pending) = &mut self.pending {
            pending.opening = opening(first, previous);
        }
    }

    fn speak(&mut self) {
        self.agent.sequence_num += 1;
        let mut message = status(self.agent.status, &self.agent.status_hash);
        let was_sent = std::mem::replace(&mut self.agent.status_was_sent, true);
        if was_sent && !self.agent.says_everything {
            message = AgentToServer::default();
        }
        if std::mem::take(&mut self.agent.says_everything) {
            let remote_config_status = status(self.agent.status, &self.agent.status_hash).remote_config_status;
            message = AgentToServer { remote_config_status, ..full("web") };
        }
        self.number += 1;
        let message = encoded(&message);
        let (merged, opening) = match self.pending.take() {
            Some(pending) => (merge(&pending.message, &message).into(), pending.opening),
            None => (message, None),
        };
        let sequence_num = self.agent.sequence_num;
        let report = report(GATEWAYS[self.agent.gateway], 1, self.generation, self.number);
        self.pending = Some(Report { message: merged, opening, sequence_num, ..report });
    }

    fn publish(&mut self, verdict_arrives: bool) {
        if let Some(report) = self.pending.clone() {
            self.published.push(report.clone());
            let verdict = self.take(&report);
            if verdict_arrives && let Some(verdict) = verdict {
                self.hear(&verdict);
            }
        }
    }

    /// The config service's part; a probe finds the older connection gone.
    fn take(&mut self, report: &Report) -> Option<bus::Verdict> {
        let context = Context { now: self.now, ..context(&self.policies) };
        let before = self.row.clone();
        let mut outcome = decide(uid(1), before.clone(), report, None, &context);
        if let Outcome::Probe(of) = outcome {
            let resolution = Resolution { of, found: Found::Gone { last_sequence_num: None } };
            outcome = decide(uid(1), before.clone(), report, Some(&resolution), &context);
        }
        match outcome {
            Outcome::Answer(verdict) => Some(verdict),
            Outcome::Write(decided) => {
                self.store(decided.record);
                Some(decided.verdict)
            }
            other => panic!("{other:?}"),
        }
    }

    fn store(&mut self, mut record: AgentRecord) {
        record.version += 1;
        if let Some(before) = &self.row {
            let key = |record: &AgentRecord| (record.presence.connection_generation, record.presence.report_number);
            assert!(record.desired.config.generation >= before.desired.config.generation, "the generation went back");
            assert!(key(&record) >= key(before), "an older report replaced a newer one");
        }
        self.row = Some(record);
    }

    fn hear(&mut self, verdict: &bus::Verdict) {
        if verdict.connection_generation != self.generation {
            return;
        }
        if self.pending.as_ref().is_some_and(|pending| pending.number <= verdict.report_number) {
            self.pending = None;
        } else if verdict.report_number > 0
            && let Some(pending) = &mut self.pending
        {
            pending.opening = None;
        }
        if verdict.report_full_state {
            self.agent.says_everything = true;
            self.speak();
        }
        for offer in &verdict.offers {
            self.offered(ContentHash::from_slice(&offer.hash).expect("a hash"), offer.generation, false);
        }
    }

    /// The gateway passes an offer on, and the agent does as it likes.
    fn offered(&mut self, hash: ContentHash, generation: u64, repeat: bool) {
        let row = self.row.as_ref().expect("only stored agents are offered anything");
        assert_ne!(row.desired.config.quarantined, Some(hash), "a quarantined configuration was offered");
        if generation < self.offered_generation || (generation == self.offered_generation && !repeat) {
            return;
        }
        self.offered_generation = generation;
        self.agent.status_hash = hash.0.to_vec();
        self.agent.status = 2;
        self.agent.status_was_sent = false;
        self.speak();
        self.agent.status_was_sent = false;
        if self.refused.contains(&hash) {
            self.agent.status = 3;
        } else {
            self.agent.status = 1;
            self.agent.has = hash.0.to_vec();
        }
        self.speak();
    }

    fn reconcile(&mut self, offer_arrives: bool) {
        let Some(change) = self.row.clone().and_then(|row| reconcile(row, &self.policies, self.now)) else {
            return;
        };
        let desired = change.record.desired.config.clone();
        let gateway = change.record.presence.gateway.clone();
        self.store(change.record);
        let is_there = gateway == GATEWAYS[self.agent.gateway];
        if let (true, Some(offer), Some(hash)) = (offer_arrives && is_there, change.offers.first(), desired.hash) {
            self.offered(hash, desired.generation, offer.repeat);
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Speak => self.speak(),
            Step::Publish { verdict_arrives } => self.publish(verdict_arrives),
            Step::Reconnect { gateway, clean } => {
                if clean && let Some(pending) = &mut self.pending {
                    pending.is_ending = true;
                    self.publish(true);
                }
                self.connect(gateway, None);
            }
            Step::ChangePolicies { body } => self.policies = policies_at(self.policies.epoch() + 1, body),
            Step::Reconcile { offer_arrives } => self.reconcile(offer_arrives),
            Step::Replay => {
                if let Some(report) = self.published.get(self.published.len() / 2).cloned() {
                    self.take(&report);
                }
            }
            Step::Wait => self.now += 60_000,
        }
    }

    /// Nothing is lost any more: reports are repeated, and sweeps run.
    fn settle(&mut self) {
        for _ in 0..40 {
            while self.pending.is_some() {
                self.publish(true);
            }
            self.now += 3_600_000;
            self.reconcile(true);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_history_converges(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
        world.settle();
        let row = world.row.expect("a report was taken");
        let desired = row.desired.config.hash.expect("a policy matches");
        prop_assert!(row.presence.connected && row.observed.complete);
        prop_assert_eq!(row.presence.sequence_num, world.agent.sequence_num);
        prop_assert_eq!(row.observed.config.status as i32, world.agent.status);
        prop_assert_eq!(&row.observed.config.hash[..], &world.agent.status_hash[..]);
        match world.refused.contains(&desired) {
            true => prop_assert_eq!(convergence(&row, PolicyKind::Config), Convergence::Quarantined),
            false => {
                prop_assert_eq!(convergence(&row, PolicyKind::Config), Convergence::Converged);
                prop_assert_eq!(&desired.0[..], &world.agent.has[..]);
            }
        }
    }

    #[test]
    fn desired_state_depends_on_nothing_but_the_policies_and_the_agent(
        specs in prop::collection::vec((0..3u8, -2..3i32, 0..4u8), 1..6),
        order in any::<prop::sample::Index>(),
    ) {
        let make = |(n, (group, priority, body)): (usize, &(u8, i32, u8))| {
            let selector = ["group = web", "group != web", ""][usize::from(*group)];
            policy(&format!("p{n}"), selector, *priority, &[("f", &format!("{body}")), (&format!("own{n}"), "x")])
        };
        let policies: Vec<_> = specs.iter().enumerate().map(make).collect();
        let mut shuffled = policies.clone();
        shuffled.rotate_left(order.index(policies.len()));
        shuffled.reverse();
        let attributes = Attributes::from(full("web").agent_description.unwrap());
        let one = snapshot(1, policies);
        let other = snapshot(7, shuffled);
        let first = one.target(&AgentRecord::new(uid(1), 0), &attributes).config;
        prop_assert_eq!(&first, &other.target(&AgentRecord::new(uid(1), 0), &attributes).config);
        prop_assert_eq!(&first, &one.target(&AgentRecord::new(uid(1), 0), &attributes).config);
    }
}
