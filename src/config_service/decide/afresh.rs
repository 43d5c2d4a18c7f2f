//! Agents that lose what they had: on a disk that they have no more, or by going back to something else.

use prost::Message;

use super::{testing::*, *};
use crate::{
    model::{
        offer::{self, Convergence, convergence},
        policy::PolicyKind,
    },
    proto::{
        bus,
        opamp::{AgentCapabilities, AgentToServer, ConnectionSettingsStatus, CustomCapabilities, PackageStatuses},
    },
};

const APPLIED: i32 = 1;
const FAILED: i32 = 3;

/// One agent, as its row and its connection stand.
struct World {
    policies: Snapshot,
    row: Option<AgentRecord>,
    now: UnixMs,
    generation: u64,
    number: u64,
    news: crate::config_service::decide::report::News,
    /// The settings of which the next report says that they were put on the connection.
    sent: Option<ContentHash>,
}

impl World {
    fn new() -> Self {
        let policies = snapshot(1, vec![policy("base", "group = web", 0, &[("a.yaml", "one")])]);
        let (now, news) = (1_700_000_000_000, Default::default());
        Self { policies, row: None, now, generation: 0, number: 0, news, sent: None }
    }

    fn row(&mut self) -> &mut AgentRecord {
        self.row.as_mut().expect("it is stored")
    }

    /// On a new connection, by this sequence number.
    fn connects(&mut self, first: u64, message: &AgentToServer) -> Vec<bus::Offer> {
        self.generation += 1;
        self.number = 0;
        self.takes(opening(first, None), message)
    }

    fn says(&mut self, message: &AgentToServer) -> Vec<bus::Offer> {
        self.takes(None, message)
    }

    fn takes(&mut self, opening: Option<bus::Opening>, message: &AgentToServer) -> Vec<bus::Offer> {
        self.number += 1;
        let report = report("a", 1, self.generation, self.number);
        let sent_connection_settings = self.sent.take();
        let report = crate::config_service::report::Report {
            opening,
            message: encoded(message),
            sent_connection_settings,
            ..report
        };
        let context = Context {
            policies: &self.policies,
            now: self.now,
            certificates: None,
            is_gateway_dead: &|_| false,
            may_offer: &|_| true,
        };
        match decide(uid(1), self.row.clone(), &report, None, &context) {
            Outcome::Write(decided) => {
                let Decided { mut record, verdict, news, .. } = *decided;
                record.version += 1;
                (self.row, self.news) = (Some(record), news);
                verdict.offers
            }
            other => panic!("nothing is written: {other:?}"),
        }
    }

    /// Seconds until a sweep offers what it should have.
    fn pause_s(&mut self) -> i64 {
        let start = self.now;
        loop {
            let row = self.row().clone();
            if let Some(change) = reconcile(row, &self.policies, self.now)
                && !change.offers.is_empty()
            {
                self.row = Some(change.record);
                return (self.now - start) / 1_000;
            }
            self.now += 1_000;
        }
    }

    fn desired(&mut self) -> ContentHash {
        self.row().desired.config.hash.expect("a policy matches")
    }
}

fn with_status(state: i32, hash: ContentHash) -> AgentToServer {
    AgentToServer { remote_config_status: status(state, &hash.0).remote_config_status, ..full("web") }
}

#[test]
fn an_agent_on_a_new_disk_is_offered_its_configuration() {
    for first in [0, 1] {
        let mut world = World::new();
        assert_eq!(world.connects(0, &full("web")).len(), 1);
        let hash = world.desired();
        assert!(world.says(&status(APPLIED, &hash.0)).is_empty());
        // With an empty delta, it only comes back; so it does with everything, if it counts on.
        assert!(world.connects(7, &AgentToServer::default()).is_empty());
        assert!(world.connects(9, &full("web")).is_empty());
        assert_eq!(world.connects(first, &full("web")).len(), 1);
        assert!(world.row().observed.config.hash.is_empty());
        assert!(world.says(&status(APPLIED, &hash.0)).is_empty());
        assert!(world.connects(first, &with_status(APPLIED, hash)).is_empty(), "it says that it has it");
    }
}

#[test]
fn what_it_refused_is_not_offered_on_a_new_disk_either() {
    let mut world = World::new();
    world.connects(0, &full("web"));
    let hash = world.desired();
    world.says(&status(FAILED, &hash.0));
    assert!(world.connects(0, &full("web")).is_empty());
    assert_eq!(convergence(world.row(), PolicyKind::Config), Convergence::Quarantined);
}

/// Some clients never say in their first message what they have.
#[test]
fn one_that_forgets_each_time_is_offered_it_with_growing_pauses() {
    let mut world = World::new();
    world.connects(0, &full("web"));
    let hash = world.desired();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        world.says(&status(APPLIED, &hash.0));
        let is_offered = !world.connects(0, &full("web")).is_empty();
        pauses.push(if is_offered { 0 } else { world.pause_s() });
    }
    assert_eq!(pauses, [0, 30, 60, 120, 240, 480, 960, 1_920, 3_600]);
    // Long afterwards it is as if it had never happened, and so it is when it remembers.
    world.says(&status(APPLIED, &hash.0));
    world.now += offer::LONGEST_REPEAT_MS;
    assert_eq!(world.connects(0, &full("web")).len(), 1);
    world.says(&status(APPLIED, &hash.0));
    assert!(world.connects(0, &with_status(APPLIED, hash)).is_empty());
    assert_eq!(world.connects(0, &full("web")).len(), 1);
}

#[test]
fn what_else_it_leaves_out_it_has_no_more() {
    let announced = || CustomCapabilities { capabilities: vec!["org.example".into()] };
    let statuses = PackageStatuses { server_provided_all_packages_hash: vec![7; 32].into(), ..Default::default() };
    let everything =
        AgentToServer { package_statuses: Some(statuses), custom_capabilities: Some(announced()), ..full("web") };
    let mut world = World::new();
    world.connects(0, &everything);
    let known = world.row().observed.clone();
    assert_eq!(known.packages.hash, vec![7; 32]);
    world.connects(3, &full("web"));
    assert_eq!(world.row().observed, known, "it counts on");
    assert_eq!(world.news.custom_capabilities, None);
    world.connects(0, &everything);
    assert_eq!(world.row().observed, known);
    assert_eq!(world.news.custom_capabilities, Some(announced().encode_to_vec().into()));
    world.connects(0, &full("web"));
    assert!(world.row().observed.packages.hash.is_empty() && world.row().observed.package_statuses.is_empty());
    assert_eq!(world.news.custom_capabilities, Some(Default::default()));
}

#[test]
fn an_agent_that_goes_back_is_offered_again_at_once_and_then_with_growing_pauses() {
    let mut world = World::new();
    world.connects(0, &full("web"));
    let (hash, other) = (world.desired(), ContentHash([9; 32]));
    assert!(world.says(&status(APPLIED, &hash.0)).is_empty());
    let offers = world.says(&status(APPLIED, &other.0));
    assert!(offers.len() == 1 && offers[0].repeat, "{offers:?}");
    assert!(world.says(&status(APPLIED, &other.0)).is_empty(), "it has been offered");
    let mut pauses = Vec::new();
    for _ in 0..3 {
        world.says(&status(APPLIED, &hash.0));
        assert!(world.says(&status(APPLIED, &other.0)).is_empty());
        pauses.push(world.pause_s());
    }
    assert_eq!(pauses, [30, 60, 120]);
    // On a new connection what differs is offered, as ever.
    let offers = world.connects(7, &status(APPLIED, &other.0));
    assert!(offers.len() == 1 && !offers[0].repeat, "{offers:?}");
}

#[test]
fn what_a_report_makes_due_again_is_sent_again() {
    let mut world = World::new();
    world.connects(0, &full("web"));
    world.now += offer::FIRST_REPEAT_MS;
    let offers = world.says(&AgentToServer::default());
    assert!(offers.len() == 1 && offers[0].repeat, "{offers:?}");
}

#[test]
fn an_agent_that_rolls_back_is_not_offered_what_it_refused() {
    let mut world = World::new();
    world.connects(0, &full("web"));
    let (hash, other) = (world.desired(), ContentHash([9; 32]));
    for (state, hash) in [(2, hash), (FAILED, hash), (APPLIED, other), (APPLIED, other)] {
        assert!(world.says(&status(state, &hash.0)).is_empty());
    }
    assert_eq!(convergence(world.row(), PolicyKind::Config), Convergence::Quarantined);
}

#[test]
fn an_agent_that_comes_back_with_other_settings_than_it_was_sent_is_offered_them() {
    let named = |hash: &[u8]| AgentToServer {
        connection_settings_status: Some(ConnectionSettingsStatus {
            last_connection_settings_hash: hash.to_vec().into(),
            status: APPLIED,
            ..Default::default()
        }),
        ..Default::default()
    };
    let everything =
        AgentToServer { capabilities: AgentCapabilities::AcceptsOpAmpConnectionSettings as u64, ..full("web") };
    let mut world = World::new();
    world.policies = snapshot(1, vec![connection_settings_policy("to", "group = web", "wss://a.example/v1/opamp")]);
    assert_eq!(world.connects(0, &everything).len(), 1);
    let hash = world.row().desired.connection_settings.hash.expect("a policy matches");
    world.sent = Some(hash);
    assert!(world.says(&AgentToServer::default()).is_empty());
    // Clients that were made for them do not know their hash, and may say so.
    for unnamed in [&AgentToServer::default(), &named(b""), &named(&hash.0)] {
        assert!(world.connects(7, unnamed).is_empty());
    }
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let is_offered = !world.connects(7, &named(b"another")).is_empty();
        pauses.push(if is_offered { 0 } else { world.pause_s() });
        world.sent = Some(hash);
        assert!(world.says(&named(b"another")).is_empty(), "on the same connection it says only what it had");
    }
    assert_eq!(pauses, [0, 30, 60, 120]);
}

#[test]
fn settings_that_were_lost_before_it_was_stored_that_they_were_sent_are_offered_again() {
    let mut world = World::new();
    world.policies = snapshot(1, vec![connection_settings_policy("to", "group = web", "wss://a.example/v1/opamp")]);
    let capabilities = AgentCapabilities::AcceptsOpAmpConnectionSettings as u64;
    world.connects(0, &AgentToServer { capabilities, ..full("web") });
    world.sent = world.row().desired.connection_settings.hash;
    let status = ConnectionSettingsStatus {
        last_connection_settings_hash: b"another"[..].into(),
        status: APPLIED,
        ..Default::default()
    };
    let message = AgentToServer { connection_settings_status: Some(status), ..Default::default() };
    assert_eq!(world.connects(7, &message).len(), 1);
}
