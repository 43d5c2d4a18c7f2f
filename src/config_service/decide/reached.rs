//! A rollout that is paused keeps to the agents that it has reached.

use uuid::Uuid;

use super::{testing::*, *};
use crate::{
    config_service::report::Report,
    model::{
        desired::Stored,
        policy::Policy,
        rollout::{Control, Plan, Rollout, Seen, control},
    },
    proto::opamp::AgentToServer,
};

fn base(number: u64, text: &str) -> Policy {
    let mut policy = policy("base", "group = web", 0, &[("a.yaml", text)]);
    policy.revision.number = number;
    policy.revision.content.max_per_second = 7;
    policy.stable = 1;
    policy
}

/// From "one" to "two", for everybody.
fn rollout() -> Rollout {
    let new = Rollout::new(Uuid::from_u128(1), "base", PolicyKind::Config, (1, 2), Some(&Plan::default()));
    control(&new, Control::Promote, &Seen::default(), "o", 1).unwrap()
}

fn while_in(epoch: u64, rollout: &Rollout, others: Vec<Policy>) -> Snapshot {
    let stored = Stored {
        stable: [base(1, "one")].into_iter().chain(others).collect(),
        rolled_out: vec![base(2, "two")],
        rollouts: vec![rollout.clone()],
        ..Stored::default()
    };
    Snapshot::new(stored.into_set(epoch), "".into(), None)
}

fn paused() -> Rollout {
    control(&rollout(), Control::Pause, &Seen::default(), "o", 2).unwrap()
}

/// The record as it is stored after a report, and whether anything is offered.
fn decided(row: Option<AgentRecord>, report: &Report, policies: &Snapshot, may_offer: bool) -> (AgentRecord, bool) {
    let may_offer = |_: Option<&Pace>| may_offer;
    let context = Context { is_gateway_dead: &|_| true, may_offer: &may_offer, ..context(policies) };
    match decide(uid(1), row, report, None, &context) {
        Outcome::Write(decided) => {
            let mut record = decided.record;
            record.version += 1;
            (record, !decided.verdict.offers.is_empty())
        }
        other => panic!("{other:?}"),
    }
}

/// It has run for a while: it goes on counting, and what it does not say stays as it was.
fn opens(generation: u64) -> Report {
    let mut report = report("a", 1, generation, 1);
    report.sequence_num = generation;
    (report.opening, report.message) = (opening(generation, None), encoded(&full("web")));
    report
}

fn says(generation: u64, number: u64, message: &AgentToServer) -> Report {
    let mut report = report("a", 1, generation, number);
    report.message = encoded(message);
    report
}

/// An agent that runs "one", and has connected anew while "two" goes out.
fn connected(may_offer: bool) -> AgentRecord {
    let before = snapshot(1, vec![base(1, "one")]);
    let (row, _) = decided(None, &opens(10), &before, true);
    let applied = status(1, row.desired.config.hash.unwrap().as_bytes());
    let (row, _) = decided(Some(row), &says(10, 2, &applied), &before, true);
    let (row, is_offered) = decided(Some(row), &opens(20), &while_in(2, &rollout(), Vec::new()), may_offer);
    assert_eq!(is_offered, may_offer);
    row
}

fn hash_of(files: &[(&str, &str)]) -> Option<ContentHash> {
    let set = snapshot(1, vec![policy("any", "group = web", 0, files)]);
    let mut agent = AgentRecord::new(uid(1), 0);
    agent.labels.insert("group".into(), "web".into());
    set.target(&agent, &Attributes::default()).config.unwrap().map(|config| config.hash)
}

#[test]
fn who_waits_for_its_turn_when_a_rollout_is_paused_is_not_offered_it() {
    let waiting = connected(false);
    assert_eq!(waiting.desired.config.hash, hash_of(&[("a.yaml", "two")]));
    let paused = while_in(3, &paused(), Vec::new());
    // Whether the change of policies comes to it first, or something that it says.
    assert!(reconcile(waiting.clone(), &paused, NOW).unwrap().offers.is_empty());
    let healthy = AgentToServer { health: Some(Default::default()), ..Default::default() };
    let (row, is_offered) = decided(Some(waiting.clone()), &says(20, 2, &healthy), &paused, true);
    assert!(!is_offered);
    assert_eq!(row.desired.config.hash, hash_of(&[("a.yaml", "one")]));
    let (row, is_offered) = decided(Some(waiting), &opens(30), &paused, true);
    assert!(!is_offered);
    // Its turn comes once it goes on.
    assert_eq!(reconcile(row, &while_in(4, &rollout(), Vec::new()), NOW).unwrap().offers.len(), 1);
}

#[test]
fn who_was_offered_it_keeps_it_whatever_else_changes() {
    let reached = connected(true);
    let other = || vec![policy("other", "", 0, &[("b.yaml", "b")])];
    assert!(reconcile(reached.clone(), &while_in(3, &paused(), Vec::new()), NOW).is_none());
    // Also if another policy changes before the pause, or after it, and the agent is away meanwhile.
    let changed = reconcile(reached, &while_in(4, &paused(), other()), NOW).unwrap().record;
    assert_eq!(changed.desired.config.hash, hash_of(&[("a.yaml", "two"), ("b.yaml", "b")]));
    let (row, is_offered) = decided(Some(changed), &opens(30), &while_in(5, &paused(), other()), true);
    assert!(is_offered);
    assert_eq!(row.desired.config.hash, hash_of(&[("a.yaml", "two"), ("b.yaml", "b")]));
    // What has ended is forgotten.
    let ended = reconcile(row, &snapshot(6, vec![base(3, "three")]), NOW).unwrap().record;
    assert!(ended.desired.reached.is_empty());
}

/// It was forgotten, say, and needs no offer.
#[test]
fn who_has_it_already_keeps_it_too() {
    let two = hash_of(&[("a.yaml", "two")]).unwrap();
    let mut first = opens(10);
    first.message =
        encoded(&AgentToServer { remote_config_status: status(1, two.as_bytes()).remote_config_status, ..full("web") });
    let (row, is_offered) = decided(None, &first, &while_in(2, &rollout(), Vec::new()), true);
    assert!(!is_offered && row.desired.config.hash == Some(two));
    assert!(reconcile(row, &while_in(3, &paused(), Vec::new()), NOW).is_none());
}

#[test]
fn who_knows_less_than_a_record_leaves_it() {
    let mut waiting = connected(false);
    waiting.desired.epoch = 3;
    assert!(reconcile(waiting, &while_in(2, &rollout(), Vec::new()), NOW).is_none());
}
