//! What each kind of report leads to.

use super::{testing::*, *};
use crate::{
    config_service::report::Report,
    model::{
        ContentHash,
        agent::{OfferStatus, Transport},
    },
    proto::opamp::{self, AgentCapabilities, AgentToServer},
};

fn policies() -> Snapshot {
    snapshot(1, vec![policy("base", "group = web", 0, &[("a.yaml", "one")])])
}

fn decided_by(row: Option<AgentRecord>, report: &Report, resolution: Option<&Resolution>) -> Outcome {
    let policies = policies();
    let is_gateway_dead = &|gateway: &str| gateway == "dead";
    let context = Context { is_gateway_dead, ..context(&policies) };
    decide(uid(1), row, report, resolution, &context)
}

fn written(outcome: Outcome) -> Decided {
    match outcome {
        Outcome::Write(decided) => *decided,
        other => panic!("nothing is written: {other:?}"),
    }
}

fn answered(outcome: Outcome) -> crate::proto::bus::Verdict {
    match outcome {
        Outcome::Answer(verdict) => verdict,
        other => panic!("not just an answer: {other:?}"),
    }
}

/// Agent 1, stored complete: connected to gateway `a` with generation 10, report 5, sequence number 50.
fn stored() -> AgentRecord {
    let mut first = report("a", 1, 10, 5);
    first.sequence_num = 50;
    first.message = encoded(&full("web"));
    first.opening = opening(50, None);
    let mut record = written(decided_by(None, &first, None)).record;
    record.version = 1;
    record
}

/// The only thing that is offered.
fn offered(verdict: &crate::proto::bus::Verdict) -> Option<ContentHash> {
    assert!(verdict.offers.len() < 2, "{verdict:?}");
    ContentHash::from_slice(&verdict.offers.first()?.hash)
}

fn desired() -> ContentHash {
    stored().desired.config.hash.unwrap()
}

/// A newcomer's first report, at gateway `b`.
fn newcomer(first: u64, previous: Option<u64>) -> Report {
    Report { sequence_num: first, opening: opening(first, previous), ..report("b", 1, 20, 1) }
}

fn disconnected() -> AgentRecord {
    let mut record = stored();
    record.presence.connected = false;
    record
}

#[test]
fn a_full_first_report_is_stored_and_gets_its_offer() {
    let mut first = report("a", 1, 10, 1);
    first.message = encoded(&full("web"));
    first.opening = opening(0, None);
    let Decided { record, verdict, meaning, is_visible, .. } = written(decided_by(None, &first, None));
    assert!(record.observed.complete && record.presence.connected && is_visible);
    assert!(!verdict.report_full_state);
    assert_eq!(verdict.report_number, 1);
    assert_eq!(offered(&verdict), Some(meaning.config.unwrap().hash));
    assert_eq!((verdict.offers[0].generation, record.desired.config.generation), (1_700_000_000, 1_700_000_000));
    assert_eq!((record.desired.config.offered_at, record.desired.config.offer_attempts), (Some(NOW), 1));
}

#[test]
fn an_agent_that_accepts_configurations_again_is_offered_one_at_once() {
    let mut first = newcomer(7, None);
    first.message = encoded(&full("web"));
    let mut record = written(decided_by(None, &first, None)).record;
    for (capabilities, is_offered) in [(1, false), (capabilities(), true)] {
        let mut next = first.clone();
        (next.number, next.opening) = (record.presence.report_number + 1, None);
        next.message = encoded(&AgentToServer { capabilities, ..Default::default() });
        let decided = written(decided_by(Some(record), &next, None));
        assert_eq!(offered(&decided.verdict).is_some(), is_offered);
        record = decided.record;
    }
}

#[test]
fn an_unknown_agents_delta_asks_for_everything_and_offers_nothing() {
    let mut first = newcomer(7, None);
    first.message = encoded(&AgentToServer { capabilities: capabilities(), ..Default::default() });
    let policies = snapshot(1, vec![policy("all", "", 0, &[("a", "b")])]);
    let context = context(&policies);
    let Decided { verdict, record, .. } = written(decide(uid(1), None, &first, None, &context));
    assert!(verdict.report_full_state && verdict.offers.is_empty() && !record.observed.complete);
}

#[test]
fn a_forgotten_agent_that_stayed_connected_is_asked_for_everything() {
    let decided = written(decided_by(None, &report("a", 1, 10, 9), None));
    assert!(decided.verdict.report_full_state);
}

#[test]
fn an_empty_delta_that_follows_on_asks_for_nothing() {
    // By the row; by what the gateway knows; as a retransmission.
    for (first, previous) in [(51, None), (50, None), (90, Some(89)), (0, Some(0))] {
        let decided = written(decided_by(Some(disconnected()), &newcomer(first, previous), None));
        assert!(!decided.verdict.report_full_state, "{first} {previous:?}");
        assert!(decided.record.observed.complete && decided.record.presence.connected);
        assert_eq!(decided.record.presence.gateway, "b");
    }
}

#[test]
fn a_gap_asks_for_everything_unless_the_report_is_full() {
    for (first, previous) in [(52, None), (0, None), (51, Some(49)), (0, Some(u64::MAX))] {
        let decided = written(decided_by(Some(disconnected()), &newcomer(first, previous), None));
        assert!(decided.verdict.report_full_state, "{first} {previous:?}");
        assert!(!decided.record.observed.complete);
        assert_eq!(decided.record.observed.description, stored().observed.description, "kept and shown");
        let mut full_report = newcomer(first, previous);
        full_report.message = encoded(&full("web"));
        assert!(!written(decided_by(Some(disconnected()), &full_report, None)).verdict.report_full_state);
    }
}

/// Clones count alike: that the numbers follow on proves nothing.
#[test]
fn a_connection_that_another_took_the_place_of_asks_for_everything() {
    for (first, previous) in [(51, None), (50, Some(50))] {
        let mut report = newcomer(first, previous);
        report.opening.as_mut().unwrap().follows_another = true;
        assert!(written(decided_by(Some(disconnected()), &report, None)).verdict.report_full_state);
    }
}

#[test]
fn an_older_connection_elsewhere_is_probed_first() {
    let old = Connection { gateway: "a".into(), generation: 10 };
    assert_eq!(decided_by(Some(stored()), &newcomer(51, None), None), Outcome::Probe(old.clone()));
    for transport in [Transport::Http, Transport::WebSocket] {
        let mut row = stored();
        row.presence.transport = transport;
        assert_eq!(decided_by(Some(row), &newcomer(51, None), None), Outcome::Probe(old.clone()));
    }
    // What was found about another connection is of no use.
    let other = Resolution { of: Connection { generation: 9, ..old.clone() }, found: Found::Alive };
    assert_eq!(decided_by(Some(stored()), &newcomer(51, None), Some(&other)), Outcome::Probe(old));
}

#[test]
fn no_probe_where_there_is_nobody_to_ask() {
    let mut on_dead_gateway = stored();
    on_dead_gateway.presence.gateway = "dead".into();
    let mut same_gateway = newcomer(51, Some(50));
    same_gateway.gateway = "a".into();
    written(decided_by(Some(on_dead_gateway), &newcomer(51, None), None));
    written(decided_by(Some(disconnected()), &newcomer(51, None), None));
    written(decided_by(Some(stored()), &same_gateway, None));
}

fn found(found: Found) -> Resolution {
    Resolution { of: Connection { gateway: "a".into(), generation: 10 }, found }
}

#[test]
fn a_gone_connection_is_taken_over_with_its_last_number() {
    // Heartbeats moved the old gateway's count beyond the row's.
    let gone = found(Found::Gone { last_sequence_num: Some(77) });
    let decided = written(decided_by(Some(stored()), &newcomer(78, None), Some(&gone)));
    assert!(!decided.verdict.report_full_state);
    let timed_out = found(Found::Gone { last_sequence_num: None });
    assert!(written(decided_by(Some(stored()), &newcomer(78, None), Some(&timed_out))).verdict.report_full_state);
    assert!(!written(decided_by(Some(stored()), &newcomer(51, None), Some(&timed_out))).verdict.report_full_state);
}

#[test]
fn a_live_duplicate_gets_another_uid_and_always_the_same() {
    let alive = found(Found::Alive);
    let Outcome::StoreUnder(new) = decided_by(Some(stored()), &newcomer(51, None), Some(&alive)) else {
        panic!("not renamed");
    };
    assert_eq!(decided_by(Some(stored()), &newcomer(51, None), Some(&alive)), Outcome::StoreUnder(new));
    let mut first = newcomer(51, None);
    first.message = encoded(&full("web"));
    let policies = policies();
    let context = context(&policies);
    let Decided { mut record, verdict, .. } = written(decide(new, None, &first, None, &context));
    assert_eq!((record.uid, &verdict.instance_uid), (new, &uid(1).to_bytes()));
    assert_eq!((verdict.new_instance_uid, verdict.report_number), (new.to_bytes(), 1));
    // The offer comes when the gateway knows the new uid; then it is still due.
    assert!(verdict.offers.is_empty() && record.desired.config.offered_at.is_none());
    // The verdict was lost: the same again, and nothing written.
    record.version = 1;
    let again = answered(decide(new, Some(record), &first, None, &context));
    assert_eq!((again.new_instance_uid, again.report_number), (new.to_bytes(), 1));
    // A newcomer that has left before it got a name leaves nothing behind.
    let left = Report { is_ending: true, ..first };
    assert_eq!(answered(decide(new, None, &left, None, &context)).report_number, 1);
}

#[test]
fn a_report_of_an_older_connection_is_not_taken() {
    let old = report("b", 1, 9, 3);
    let verdict = answered(decided_by(Some(stored()), &old, None));
    assert_eq!((verdict.newer_connection_generation, verdict.report_number), (10, 0));
    let ending = Report { is_ending: true, ..old };
    let verdict = answered(decided_by(Some(stored()), &ending, None));
    assert_eq!((verdict.newer_connection_generation, verdict.report_number), (0, 3));
    // Two gateways, one number.
    let verdict = answered(decided_by(Some(stored()), &report("b", 1, 10, 6), None));
    assert_eq!((verdict.newer_connection_generation, verdict.report_number), (10, 0));
}

#[test]
fn a_repeat_is_answered_as_the_first_time_and_not_written() {
    let mut repeat = report("a", 1, 10, 5);
    repeat.opening = opening(50, None);
    let verdict = answered(decided_by(Some(stored()), &repeat, None));
    assert_eq!((verdict.report_number, verdict.report_full_state), (5, false));
    assert_eq!(offered(&verdict), Some(desired()), "the offer may have been lost with the verdict");
    let mut incomplete = stored();
    incomplete.observed.complete = false;
    assert!(answered(decided_by(Some(incomplete.clone()), &repeat, None)).report_full_state);
    // Without an opening the gateway asks by itself.
    assert!(!answered(decided_by(Some(incomplete), &report("a", 1, 10, 5), None)).report_full_state);
}

#[test]
fn an_ending_keeps_the_last_number_for_the_next_connection() {
    let ending = Report { is_ending: true, sequence_num: 99, last_seen: 7, ..report("a", 1, 10, 6) };
    let Decided { mut record, verdict, .. } = written(decided_by(Some(stored()), &ending, None));
    assert!(!record.presence.connected && verdict.offers.is_empty());
    assert_eq!((record.presence.sequence_num, record.presence.last_seen, verdict.report_number), (99, 7, 6));
    record.version += 1;
    assert!(!written(decided_by(Some(record), &newcomer(100, None), None)).verdict.report_full_state);
}

#[test]
fn a_new_connection_is_offered_again_what_was_not_answered() {
    let mut row = disconnected();
    row.desired.config.offered_at = Some(NOW);
    row.desired.config.offer_attempts = 9;
    let decided = written(decided_by(Some(row), &newcomer(51, None), None));
    assert_eq!(offered(&decided.verdict), Some(desired()));
    assert_eq!(decided.record.desired.config.offer_attempts, 1);
}

#[test]
fn what_the_agent_has_or_refused_is_not_offered() {
    for status_number in [1, 2, 3] {
        let mut first = newcomer(51, None);
        first.message = encoded(&status(status_number, &desired().0));
        let Decided { record, verdict, .. } = written(decided_by(Some(disconnected()), &first, None));
        assert!(verdict.offers.is_empty());
        assert_eq!(record.desired.config.quarantined.is_some(), status_number == 3);
        assert_eq!(record.observed.config.status, OfferStatus::from_number(status_number));
    }
}

#[test]
fn an_unknown_agent_is_not_offered_what_it_says_it_refused() {
    let refused =
        AgentToServer { remote_config_status: status(3, desired().as_bytes()).remote_config_status, ..full("web") };
    let first = Report { message: encoded(&refused), opening: opening(0, None), ..report("a", 9, 10, 1) };
    let decided = written(decided_by(None, &first, None));
    assert_eq!(decided.record.desired.config.hash, Some(desired()));
    assert!(decided.verdict.offers.is_empty());
}

#[test]
fn decisions_by_newer_policies_stand() {
    let mut row = disconnected();
    row.desired.epoch = 9;
    row.desired.config.hash = Some(ContentHash([9; 32]));
    let decided = written(decided_by(Some(row.clone()), &newcomer(51, None), None));
    let decision = |record: &AgentRecord| (record.desired.config.hash, record.desired.config.generation);
    assert_eq!(decision(&decided.record), decision(&row));
    assert!(reconcile(row, &policies(), NOW).is_none());
}

#[test]
fn policies_reach_an_established_connection_by_reconciliation_alone() {
    let changed = snapshot(2, vec![policy("base", "group = web", 0, &[("a.yaml", "two")])]);
    let context = context(&changed);
    let health = AgentToServer { health: Some(opamp::ComponentHealth::default()), ..Default::default() };
    let delta = Report { message: encoded(&health), ..report("a", 1, 10, 6) };
    let row = written(decide(uid(1), Some(stored()), &delta, None, &context)).record;
    assert_eq!(row.desired.config.hash, Some(desired()));
    let change = reconcile(row.clone(), &changed, NOW).unwrap();
    assert_ne!(change.record.desired.config.hash, Some(desired()));
    assert_eq!(change.record.desired.config.generation, row.desired.config.generation + 1);
    assert!(change.is_visible && !change.offers[0].repeat);
    let again = AgentRecord { version: 2, ..change.record };
    assert!(reconcile(again, &changed, NOW).is_none(), "twice is harmless");
}

#[test]
fn an_unreadable_message_is_acknowledged_and_changes_nothing_else() {
    let garbage = Report { message: vec![0x2a, 2, 0xff, 0xff].into(), ..report("a", 1, 10, 6) };
    let decided = written(decided_by(Some(stored()), &garbage, None));
    assert!(decided.unreadable.is_some());
    assert_eq!((decided.verdict.report_number, decided.record.observed), (6, stored().observed));
}

#[test]
fn an_effective_config_is_stored_once() {
    let message = AgentToServer { effective_config: Some(opamp::EffectiveConfig::default()), ..Default::default() };
    let first = Report { message: encoded(&message), ..report("a", 1, 10, 6) };
    let Decided { record, contents, .. } = written(decided_by(Some(stored()), &first, None));
    assert_eq!(contents.map(|(hash, _)| hash), record.observed.effective_config);
    let second = Report { number: 7, ..first };
    assert_eq!(written(decided_by(Some(record), &second, None)).contents, None);
}

/// Clients that connect with new settings do not know their hash, and neither do programs that were started again.
#[test]
fn connection_settings_are_offered_again_to_a_client_that_begins_anew_later_than_any_that_took_them_up() {
    const MINUTE_MS: UnixMs = 60_000;
    let policies = snapshot(1, vec![connection_settings_policy("move", "group = web", "wss://elsewhere")]);
    let accepts = AgentCapabilities::AcceptsOpAmpConnectionSettings as u64;
    let first_message = AgentToServer { capabilities: accepts, ..full("web") };
    let connects = |row: Option<AgentRecord>, minute: UnixMs, first: u64, message: &AgentToServer| {
        let now = NOW + minute * MINUTE_MS;
        let context = Context { now, is_gateway_dead: &|gateway| gateway == "a", ..context(&policies) };
        let mut report = report("a", 1, 10 + minute as u64, 1);
        (report.opening, report.message) = (opening(first, None), encoded(message));
        let Decided { mut record, verdict, .. } = written(decide(uid(1), row, &report, None, &context));
        let hash = offered(&verdict);
        if let Some(hash) = hash {
            // It is put on the connection, and that is reported.
            (report.opening, report.message, report.number) = (None, Default::default(), 2);
            report.sent_connection_settings = Some(hash);
            record = written(decide(uid(1), Some(record), &report, None, &context)).record;
        }
        record.version = 1;
        (record, hash)
    };
    let (row, hash) = connects(None, 0, 0, &first_message);
    assert!(hash.is_some());
    let (row, none) = connects(Some(row), 1, 0, &first_message);
    assert_eq!(none, None, "it has taken them up");
    let (row, none) = connects(Some(row), 20, 7, &first_message);
    assert_eq!(none, None, "the same client");
    let status = opamp::ConnectionSettingsStatus {
        last_connection_settings_hash: hash.unwrap().to_bytes(),
        status: opamp::ConnectionSettingsStatuses::Applied as i32,
        ..Default::default()
    };
    let knows = AgentToServer { connection_settings_status: Some(status), ..first_message.clone() };
    let (row, none) = connects(Some(row), 30, 0, &knows);
    assert_eq!(none, None, "it says that it has them");
    let (row, again) = connects(Some(row), 40, 0, &first_message);
    assert_eq!(again, hash, "started again");
    let (row, none) = connects(Some(row), 41, 0, &first_message);
    assert_eq!(none, None, "it has taken them up");
    assert_eq!(connects(Some(row), 52, 1, &first_message).1, hash, "started again, and counts from 1");
}

#[test]
fn a_description_alone_after_a_gap_is_not_everything() {
    let reports_health = AgentCapabilities::ReportsHealth as u64;
    let described = AgentToServer { capabilities: capabilities() | reports_health, ..full("web") };
    let whole = AgentToServer { health: Some(opamp::ComponentHealth::default()), ..described.clone() };
    // What a client that is new says first is all that there is.
    for (first, message, is_asked) in [(60, &described, true), (60, &whole, false), (0, &described, false)] {
        let report = Report { message: encoded(message), ..newcomer(first, None) };
        let decided = written(decided_by(Some(disconnected()), &report, None));
        assert_eq!((decided.verdict.report_full_state, decided.record.observed.complete), (is_asked, !is_asked));
    }
    // As is what one says of which nothing was known.
    let report = Report { message: encoded(&described), ..newcomer(60, None) };
    assert!(!written(decided_by(None, &report, None)).verdict.report_full_state);
}
