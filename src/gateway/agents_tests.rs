use std::sync::LazyLock;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::{
    model::InstanceUid,
    proto::opamp::{AgentCapabilities, AgentDescription, AgentToServer, ComponentHealth, RemoteConfigStatus},
};

const MAX_BYTES: usize = 10_000;
const REPORTS_STATUS: u64 = 1;

fn at(ms: u64) -> Now {
    Now { ms, unix_ms: 1_000_000 + ms }
}

fn memory() -> &'static Memory {
    static MEMORY: LazyLock<Memory> = LazyLock::new(|| Memory::new(MAX_BYTES, usize::MAX));
    &MEMORY
}

fn heartbeat(sequence_num: u64) -> AgentToServer {
    let uid = InstanceUid::from_slice(&[1; 16]).unwrap();
    let capabilities = REPORTS_STATUS;
    AgentToServer { instance_uid: uid.to_bytes(), sequence_num, capabilities, ..Default::default() }
}

fn full(sequence_num: u64) -> AgentToServer {
    AgentToServer { agent_description: Some(AgentDescription::default()), ..heartbeat(sequence_num) }
}

fn health(sequence_num: u64, text: &str) -> AgentToServer {
    let health = ComponentHealth { last_error: text.to_owned(), ..Default::default() };
    AgentToServer { health: Some(health), ..heartbeat(sequence_num) }
}

fn take(entry: &mut Entry, message: &AgentToServer, ms: u64) -> Taken {
    let bytes = message.encode_to_vec();
    entry.take(&Incoming::parse(&bytes).unwrap(), &bytes, at(ms), memory())
}

/// An agent whose first message, in full, has the sequence number 5.
fn opened() -> Entry {
    let mut entry = Entry::new(Link::Http, 0);
    entry.open(Link::Http, 10, 5, None);
    assert_eq!(take(&mut entry, &full(5), 1_000), Taken { is_reported: true, is_gap: false });
    entry
}

#[test]
fn an_empty_first_message_opens_a_connection_too() {
    let mut entry = Entry::new(Link::Http, 0);
    entry.open(Link::Http, 10, 5, Some(4));
    assert!(take(&mut entry, &heartbeat(5), 1_000).is_reported);
    let opening = entry.pending().unwrap().opening.unwrap();
    assert_eq!((opening.first_sequence_num, opening.previous_sequence_num), (5, Some(4)));
    assert!(!take(&mut entry, &heartbeat(6), 1_000).is_reported, "the next is a heartbeat");
}

#[test]
fn an_acknowledged_agent_keeps_nothing() {
    let mut entry = opened();
    assert!(!entry.acknowledged(0) && !entry.acknowledged(2), "neither is about what was said");
    assert!(entry.acknowledged(1));
    entry.tidy(2_000);
    assert!(entry.rare.is_none());
    assert!(!take(&mut entry, &heartbeat(6), 3_000).is_reported);
    assert!(entry.rare.is_none());
}

#[test]
fn an_acknowledged_connection_that_lost_its_place_says_so_when_it_takes_it_again() {
    let follows_another = |entry: &Entry| entry.pending().unwrap().opening.unwrap().follows_another;
    let mut entry = opened();
    entry.reopen(11, at(2_000));
    assert!(!follows_another(&entry), "of which nothing is stored yet");
    assert!(entry.acknowledged(1));
    entry.reopen(11, at(3_000));
    assert!(!follows_another(&entry), "under its own generation");
    assert!(entry.acknowledged(2));
    entry.reopen(12, at(4_000));
    assert!(follows_another(&entry));
}

#[test]
fn an_older_acknowledgement_drops_nothing_newer() {
    let mut entry = opened();
    take(&mut entry, &health(6, "disk"), 1_500);
    assert!(!entry.acknowledged(1));
    let pending = entry.pending().unwrap();
    assert_eq!(pending.opening, None, "the connection is known");
    let said = AgentToServer::decode(pending.message.message().clone()).unwrap();
    assert_eq!((said.health.unwrap().last_error.as_str(), said.agent_description.is_some()), ("disk", true));
}

#[test]
fn after_a_gap_the_number_before_it_is_handed_over_until_state_is_whole() {
    let mut entry = opened();
    assert!(take(&mut entry, &health(9, "x"), 1_000).is_gap);
    take(&mut entry, &heartbeat(10), 1_000);
    assert_eq!((entry.sequence_num, entry.durable_sequence_num()), (10, 5));
    assert!(!take(&mut entry, &full(13), 1_000).is_gap, "full already");
    assert_eq!(entry.durable_sequence_num(), 13);
}

#[test]
fn a_description_alone_after_a_gap_does_not_make_it_good_but_as_an_answer_it_does() {
    let capabilities = REPORTS_STATUS | AgentCapabilities::ReportsHealth as u64;
    let mut entry = opened();
    let description = |sequence_num| AgentToServer { capabilities, ..full(sequence_num) };
    assert!(!take(&mut entry, &description(6), 1_000).is_gap);
    assert!(take(&mut entry, &description(9), 1_000).is_gap, "there may have been another health");
    assert_eq!(entry.durable_sequence_num(), 6);
    entry.rare().full_state.asked(1_500);
    assert!(!take(&mut entry, &description(10), 2_000).is_gap);
    assert_eq!(entry.durable_sequence_num(), 10);
    let whole = AgentToServer { agent_description: Some(AgentDescription::default()), capabilities, ..health(15, "") };
    assert!(!take(&mut entry, &whole, 2_000).is_gap, "with all that it reports");
}

#[test]
fn what_is_pending_goes_along_to_the_next_connection() {
    let mut entry = opened();
    entry.end(Reason::ConnectionClosed, at(2_000));
    assert_eq!((entry.report_number, entry.pending().unwrap().ending), (2, Some(Reason::ConnectionClosed)));
    entry.open(Link::Http, 11, 6, Some(5));
    take(&mut entry, &heartbeat(6), 3_000);
    let pending = entry.pending().unwrap();
    assert_eq!((entry.report_number, pending.ending), (1, None));
    assert!(AgentToServer::decode(pending.message.message().clone()).unwrap().agent_description.is_some());
}

#[test]
fn a_report_that_grows_too_large_keeps_the_newest_and_asks_for_the_rest() {
    let mut entry = opened();
    take(&mut entry, &health(6, &"x".repeat(MAX_BYTES - 100)), 1_000);
    let error_message = "y".repeat(200);
    let status = RemoteConfigStatus { error_message, ..Default::default() };
    take(&mut entry, &AgentToServer { remote_config_status: Some(status), ..heartbeat(7) }, 1_000);
    let pending = entry.pending().unwrap();
    assert!(pending.message.message().len() < 300 && !pending.is_full);
    assert!(entry.rare.as_ref().unwrap().full_state.is_due(1_000));
}

#[test]
fn what_there_is_no_memory_for_is_asked_for_and_what_was_kept_stays() {
    let mut entry = opened();
    let kept = entry.pending().unwrap().message.message().clone();
    let memory = Memory::new(MAX_BYTES, 5);
    let message = health(6, "disk").encode_to_vec();
    let taken = entry.take(&Incoming::parse(&message).unwrap(), &message, at(1_000), &memory);
    assert!(taken.is_reported, "its number is");
    assert_eq!((entry.report_number, entry.pending().unwrap().message.message()), (2, &kept));
    assert_eq!(entry.durable_sequence_num(), 5, "who comes next is to notice that something is missing");
    assert!(entry.rare().full_state.is_due(1_000));
}

#[test]
fn a_message_that_is_over_the_limit_by_itself_is_not_kept() {
    let mut entry = opened();
    entry.merge(&health(6, &"x".repeat(MAX_BYTES)).encode_to_vec(), true, at(1_000), memory());
    let pending = entry.pending().unwrap();
    assert!(pending.message.message().is_empty() && !pending.is_full);
}

#[test]
fn of_two_entries_under_one_uid_nothing_that_was_said_is_lost() {
    let entry = |generation, message: &AgentToServer| {
        let mut entry = Entry::new(Link::Http, 0);
        entry.open(Link::Http, generation, message.sequence_num, None);
        take(&mut entry, message, 1_000);
        entry
    };
    for is_swapped in [false, true] {
        let (older, newer) = (entry(10, &full(5)), entry(11, &health(6, "disk")));
        let (mut one, other) = if is_swapped { (newer, older) } else { (older, newer) };
        one.absorb(other, at(2_000), memory());
        assert_eq!((one.generation, one.sequence_num), (11, 6));
        let pending = one.pending().unwrap();
        assert_eq!(pending.opening.unwrap().first_sequence_num, 6);
        let said = AgentToServer::decode(pending.message.message().clone()).unwrap();
        assert!(said.agent_description.is_some() && said.health.is_some() && said.sequence_num == 6);
        assert!(pending.is_full && one.report_number == 3);
    }
}

#[test]
fn a_full_report_makes_good_its_own_gap() {
    let mut entry = opened();
    entry.acknowledged(entry.report_number);
    entry.tidy(5_000);
    assert!(entry.rare.is_none(), "nothing is known of the agent but its numbers");
    take(&mut entry, &full(99), 6_000);
    assert!(!entry.rare().full_state.is_due(u64::MAX / 2));
}

#[test]
fn an_agent_that_polls_seldom_is_silent_once_only() {
    let heard_s = opened().heard_s;
    assert!(!opened().is_silent(heard_s + 90, 30) && opened().is_silent(heard_s + 91, 30));
    // It was let go of, and comes back after two minutes.
    let mut entry = Entry::new(Link::Http, 0);
    entry.heard_s = heard_s;
    entry.open(Link::Http, 11, 6, Some(5));
    take(&mut entry, &heartbeat(6), u64::from(heard_s + 120) * 1_000);
    let heard_s = entry.heard_s;
    assert!(!entry.is_silent(heard_s + 350, 30) && entry.is_silent(heard_s + 370, 30));
    take(&mut entry, &heartbeat(7), u64::from(heard_s + 60_000) * 1_000);
    assert_eq!(u32::from(entry.interval_s), LONGEST_INTERVAL_S, "what is learnt has a bound");
}

#[test]
fn the_interval_of_polls_is_learnt_and_forgotten_slowly() {
    let mut entry = opened();
    take(&mut entry, &heartbeat(6), 101_000);
    assert_eq!(entry.interval_s, 100);
    take(&mut entry, &heartbeat(7), 102_000);
    assert_eq!(entry.interval_s, 75);
}

#[derive(Clone, Debug)]
enum Step {
    Say(Box<AgentToServer>),
    /// The report reaches the store.
    Publish,
    /// The verdict on the n-th publication from the end reaches the gateway.
    Acknowledge(usize),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let text = "[a-z]{0,6}";
    prop_oneof![
        4 => text.prop_map(|text| Step::Say(health(0, &text).into())),
        2 => text.prop_map(|error_message| {
            let status = RemoteConfigStatus { error_message, ..Default::default() };
            Step::Say(AgentToServer { remote_config_status: Some(status), ..heartbeat(0) }.into())
        }),
        1 => Just(Step::Say(full(0).into())),
        1 => Just(Step::Say(heartbeat(0).into())),
        4 => Just(Step::Publish),
        3 => (0usize..4).prop_map(Step::Acknowledge),
        1 => Just(Step::Reconnect),
    ]
}

/// Statuses of a message: what is to be stored.
fn statuses(message: &[u8]) -> AgentToServer {
    AgentToServer { sequence_num: 0, capabilities: 0, ..AgentToServer::decode(message).unwrap() }
}

proptest! {
    /// Whatever is lost, repeated or acknowledged late: once the last report is stored, so is all that was said.
    #[test]
    fn nothing_that_was_said_is_lost(steps in proptest::collection::vec(step(), 1..60)) {
        let mut entry = opened();
        let (mut said, mut stored) = (full(5).encode_to_vec(), Vec::new());
        let mut published: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Say(message) => {
                    let message = AgentToServer { sequence_num: entry.sequence_num + 1, ..*message };
                    take(&mut entry, &message, 1_000);
                    said = merge::merge(&said, &message.encode_to_vec());
                }
                Step::Publish => if let Some(pending) = entry.pending() {
                    stored = merge::merge(&stored, pending.message.message());
                    published.push((entry.generation, entry.report_number));
                },
                Step::Acknowledge(back) => {
                    let verdict = published.len().checked_sub(back + 1).map(|index| published[index]);
                    if let Some((generation, number)) = verdict && generation == entry.generation {
                        entry.acknowledged(number);
                    }
                }
                Step::Reconnect => {
                    let previous = entry.durable_sequence_num();
                    entry.end(Reason::ConnectionClosed, at(1_000));
                    let (generation, next) = (entry.generation + 1, entry.sequence_num + 1);
                    entry.open(Link::Http, generation, next, Some(previous));
                    take(&mut entry, &heartbeat(next), 1_000);
                }
            }
        }
        if let Some(pending) = entry.pending() {
            stored = merge::merge(&stored, pending.message.message());
        }
        prop_assert_eq!(statuses(&stored), statuses(&said));
    }
}

#[test]
fn a_new_uid_is_told_once_the_store_knows_it() {
    let [one, two, three] = [1, 2, 3].map(|n| InstanceUid::from_slice(&[n; 16]).unwrap());
    let mut entry = opened();
    entry.renamed(one, two, 7);
    entry.rare().tells_uid_to = Some(one);
    let number = entry.report_number;
    let pending = entry.pending().unwrap();
    assert_eq!((pending.former, pending.uid_request, pending.due_ms), (Some(one), 7, 0));
    assert_eq!(entry.rare().uid_is_due(), None);
    // The next uid, before this one is stored: the store knows the first.
    entry.renamed(two, three, 8);
    assert_eq!(entry.pending().unwrap().former, Some(one));
    // Back to that: the store may know it by the one in between.
    entry.renamed(three, one, 0);
    assert_eq!(entry.pending().unwrap().former, Some(three));
    assert!(!entry.acknowledged(number), "there is more to be stored");
    assert_eq!((entry.pending().unwrap().former, entry.rare().uid_is_due()), (None, Some(one)));
    entry.end(Reason::ConnectionClosed, at(2_000));
    assert_eq!(entry.rare().uid_is_due(), None, "nobody is there to be told");
}

/// Else a later answer to a probe would have it announced once more, and an idle agent would keep the memory for it.
#[test]
fn what_superseded_a_connection_is_no_matter_of_the_next_one() {
    let mut entry = opened();
    entry.rare().superseded_by = Some(9);
    entry.reopen(entry.generation, at(1_000));
    assert_eq!(entry.rare().superseded_by, Some(9), "the same one, announced again");
    let next = entry.generation + 1;
    entry.reopen(next, at(1_000));
    assert_eq!(entry.rare().superseded_by, None);
    entry.rare().superseded_by = Some(11);
    entry.open(Link::Http, next + 1, 0, None);
    assert_eq!(entry.rare().superseded_by, None);
}
