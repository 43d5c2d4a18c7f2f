//! Openings while a change goes out at a pace.

use std::cell::Cell;

use super::{testing::*, *};
use crate::{
    config_service::report::Report,
    model::offer::{Convergence, convergence},
    proto::opamp::AgentToServer,
};

/// Decides by the policy with this text, of which there may be so many offers now. Returns the record as it is stored then, and
/// whether anything is offered.
fn decided(row: Option<AgentRecord>, report: &Report, text: &str, may_offer: u32) -> (AgentRecord, bool) {
    let mut policy = policy("base", "group = web", 0, &[("a.yaml", text)]);
    policy.revision.content.max_per_second = 7;
    let policies = snapshot(if text == "one" { 1 } else { 2 }, vec![policy]);
    let left = Cell::new(may_offer);
    let may_offer = |pace: Option<&Pace>| {
        assert_eq!(pace.map(|pace| pace.per_second), Some(7));
        let is_free = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        is_free
    };
    let context = Context { is_gateway_dead: &|_| true, may_offer: &may_offer, ..context(&policies) };
    match decide(uid(1), row.clone(), report, None, &context) {
        Outcome::Write(decided) => {
            let mut record = decided.record;
            record.version += 1;
            (record, !decided.verdict.offers.is_empty())
        }
        Outcome::Answer(verdict) => (row.unwrap(), !verdict.offers.is_empty()),
        other => panic!("{other:?}"),
    }
}

fn opens(generation: u64, message: &AgentToServer) -> Report {
    let mut report = report("a", 1, generation, 1);
    (report.opening, report.message) = (opening(7, None), encoded(message));
    report
}

/// An agent that runs the first text.
fn running() -> AgentRecord {
    let (row, is_offered) = decided(None, &opens(10, &full("web")), "one", 0);
    assert!(is_offered, "what an agent lacks does not wait");
    let hash = row.desired.config.hash.unwrap();
    let mut applied = report("a", 1, 10, 2);
    applied.message = encoded(&status(1, hash.as_bytes()));
    decided(Some(row), &applied, "one", 0).0
}

#[test]
fn a_change_waits_and_is_left_to_be_found() {
    let (row, is_offered) = decided(Some(running()), &opens(20, &full("web")), "two", 0);
    assert!(!is_offered);
    assert_eq!(convergence(&row, PolicyKind::Config), Convergence::Behind);
    assert_eq!((row.desired.config.offered_at, row.desired.config.unproven), (None, None));
    // Neither a repeat of the report nor another brings it before its turn.
    let (row, is_offered) = decided(Some(row), &opens(20, &full("web")), "two", 0);
    assert!(!is_offered);
    let mut health = report("a", 1, 20, 2);
    health.message = encoded(&AgentToServer { health: Some(Default::default()), ..Default::default() });
    let (row, is_offered) = decided(Some(row), &health, "two", 0);
    assert!(!is_offered);
    let policies = snapshot(2, vec![policy("base", "group = web", 0, &[("a.yaml", "two")])]);
    assert_eq!(reconcile(row, &policies, NOW).unwrap().offers.len(), 1);
}

#[test]
fn a_change_comes_at_once_where_there_is_room_and_what_agents_have_needs_none() {
    assert!(decided(Some(running()), &opens(20, &full("web")), "two", 1).1);
    let (row, is_offered) = decided(Some(running()), &opens(20, &full("web")), "one", 0);
    assert!(!is_offered);
    assert_eq!(convergence(&row, PolicyKind::Config), Convergence::Converged);
    // One that was started anew, without what it had.
    let mut lost = running();
    lost.observed.config = Default::default();
    assert!(decided(Some(lost), &opens(20, &full("web")), "one", 0).1);
    let anew = Report { opening: opening(0, None), ..opens(20, &full("web")) };
    assert!(decided(Some(running()), &anew, "one", 0).1);
}
