//! Agents that take another uid, as the config service is told of it by gateways.

use std::collections::BTreeMap;

use muster::{
    model::InstanceUid,
    proto::{
        bus,
        opamp::{AgentToServer, RemoteConfigStatuses},
    },
};

use super::{
    cluster::{Backend, Cluster, Replica, actor},
    gateway::{Gateway, Heard, Offered, ending, full, opening, report, status, uid},
};

/// A request for another uid, on the connection that the agent has.
fn renamed(number: u64, from: InstanceUid, to: InstanceUid) -> bus::Report {
    let former_instance_uid = from.to_bytes();
    bus::Report { former_instance_uid, uid_request: 77, ..report(to, 10, number, &AgentToServer::default()) }
}

/// The same, in the first message of a connection.
fn asks(generation: u64, from: InstanceUid, to: InstanceUid) -> bus::Report {
    let former_instance_uid = from.to_bytes();
    bus::Report { former_instance_uid, uid_request: 77, ..opening(to, generation, 5, &full("web")) }
}

/// With an agent, 1, that is known well: it has labels, and a configuration that it has refused.
async fn known(backend: Backend) -> (Cluster, Replica, Gateway) {
    let (cluster, replica) = Cluster::start(backend).await;
    cluster.settle("base", "group = web", "one").await;
    let mut gateway = cluster.gateway("one").await;
    let hash = gateway.tell(opening(uid(1), 10, 4, &full("web"))).await.config_hash();
    let refused = report(uid(1), 10, 2, &status(RemoteConfigStatuses::Failed, &hash));
    assert_eq!(gateway.tell(bus::Report { sequence_num: 5, ..refused }).await.report_number, 2);
    let labels = BTreeMap::from([("env".to_owned(), Some("prod".to_owned()))]);
    cluster.store.set_labels(uid(1), &labels, None, &actor()).await.unwrap();
    (cluster, replica, gateway)
}

/// All that is known of agent 1 is known of this one, and nothing of that.
async fn has_moved(cluster: &Cluster, to: InstanceUid) {
    let row = cluster.row(to).await.expect("it is stored");
    assert_eq!(row.labels.get("env").map(String::as_str), Some("prod"));
    assert!(row.observed.complete && row.presence.connected);
    assert!(row.desired.config.quarantined.is_some() && row.desired.config.quarantined == row.desired.config.hash);
    assert_eq!(cluster.agents().await, 1, "no other is left behind");
}

pub async fn the_record_of_an_agent_goes_with_it(backend: Backend) {
    let (cluster, _replica, mut gateway) = known(backend).await;
    let before = cluster.row(uid(1)).await.unwrap();
    let first = renamed(3, uid(1), uid(2));
    let verdict = gateway.tell(first.clone()).await;
    assert_eq!((verdict.report_number, verdict.report_full_state, verdict.new_instance_uid.len()), (3, false, 0));
    assert_eq!(verdict.offers, [], "what it refused stays away");
    has_moved(&cluster, uid(2)).await;
    let after = cluster.row(uid(2)).await.unwrap();
    assert_eq!((after.desired.config, after.first_seen), (before.desired.config, before.first_seen));
    // Again, and what the gateway published before it.
    assert_eq!(gateway.tell(first).await.report_number, 3);
    let late = report(uid(1), 10, 2, &AgentToServer::default());
    assert_eq!(gateway.tell(late).await.report_number, 2);
    has_moved(&cluster, uid(2)).await;
}

pub async fn the_next_connection_may_ask_as_well(backend: Backend) {
    let (cluster, _replica, mut gateway) = known(backend).await;
    let mut other = cluster.gateway("other").await;
    let first = asks(20, uid(1), uid(2));
    other.report(first.clone()).await;
    // The old connection is asked after on behalf of the new uid.
    let probe = gateway.probe().await;
    assert_eq!((&probe.instance_uid, &probe.newcomer_uid), (&uid(1).to_bytes(), &uid(2).to_bytes()));
    assert_eq!(cluster.row(uid(2)).await, None, "nothing is decided before the answer");
    gateway.answer_probe(probe, false, Some(5)).await;
    let verdict = other.verdict_on(&first).await;
    assert_eq!((verdict.report_number, verdict.report_full_state), (1, false));
    has_moved(&cluster, uid(2)).await;
    // The old gateway lets go, under the uid that it knows.
    assert_eq!(gateway.tell(ending(uid(1), 10, 3, 5)).await.report_number, 3);
    has_moved(&cluster, uid(2)).await;
    assert_eq!(cluster.row(uid(2)).await.unwrap().presence.gateway, "other");
}

pub async fn who_asks_beside_a_living_agent_is_a_new_one(backend: Backend) {
    let (cluster, _replica, mut gateway) = known(backend).await;
    let mut other = cluster.gateway("other").await;
    let before = cluster.row(uid(1)).await.unwrap();
    let first = asks(20, uid(1), uid(2));
    other.report(first.clone()).await;
    let probe = gateway.probe().await;
    gateway.answer_probe(probe, true, None).await;
    assert_eq!(other.verdict_on(&first).await.report_number, 1);
    assert_eq!(cluster.row(uid(1)).await.unwrap(), before);
    let row = cluster.row(uid(2)).await.unwrap();
    assert!(row.labels.is_empty() && row.observed.complete);
    assert_eq!(row.desired.config.quarantined, None);
    // It may not know what it is missing; if it says nothing of itself it is asked.
    let silent = bus::Report { message: vec![].into(), ..asks(30, uid(1), uid(3)) };
    other.report(silent.clone()).await;
    let probe = gateway.probe().await;
    gateway.answer_probe(probe, true, None).await;
    assert!(other.verdict_on(&silent).await.report_full_state);
}

pub async fn who_comes_back_under_the_old_uid_has_its_record_there(backend: Backend) {
    let (cluster, _replica, mut gateway) = known(backend).await;
    gateway.tell(renamed(3, uid(1), uid(2))).await;
    // It never heard of its new uid, or ignores it.
    gateway.tell(ending(uid(2), 10, 4, 6)).await;
    let mut other = cluster.gateway("other").await;
    let verdict = other.tell(opening(uid(1), 20, 7, &AgentToServer::default())).await;
    assert_eq!((verdict.report_number, verdict.report_full_state, verdict.new_instance_uid.len()), (1, false, 0));
    has_moved(&cluster, uid(1)).await;
    // And once more, by the other.
    other.tell(ending(uid(1), 20, 2, 7)).await;
    assert!(!gateway.tell(opening(uid(2), 30, 8, &AgentToServer::default())).await.report_full_state);
    has_moved(&cluster, uid(2)).await;
}

pub async fn the_same_request_at_another_gateway_is_answered_by_the_same_uid(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let (mut one, mut other) = (cluster.gateway("one").await, cluster.gateway("other").await);
    let http = |report: bus::Report| bus::Report { transport: bus::Transport::Http as i32, ..report };
    one.tell(http(asks(10, uid(1), uid(2)))).await;
    let again = http(asks(20, uid(1), uid(3)));
    other.report(again.clone()).await;
    let probe = one.probe().await;
    assert_eq!((&probe.instance_uid, &probe.newcomer_uid), (&uid(2).to_bytes(), &uid(3).to_bytes()));
    one.answer_probe(probe, false, Some(5)).await;
    let verdict = other.verdict_on(&again).await;
    assert_eq!((verdict.report_number, verdict.new_instance_uid), (1, uid(2).to_bytes()));
    assert_eq!((cluster.agents().await, cluster.row(uid(2)).await.unwrap().presence.gateway), (1, "other".to_owned()));
    // Of that temporary uid another agent asks as well.
    let another = bus::Report { uid_request: 78, ..http(asks(30, uid(1), uid(4))) };
    assert_eq!(other.tell(another).await.new_instance_uid.len(), 0);
    assert_eq!(cluster.agents().await, 2);
}

pub async fn who_leaves_before_it_hears_of_its_uid_leaves_nothing(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("one").await;
    let left = bus::Report { ending: ending(uid(2), 10, 1, 5).ending, ..asks(10, uid(1), uid(2)) };
    assert_eq!(gateway.tell(left).await.report_number, 1);
    assert_eq!(cluster.agents().await, 0);
}

/// Whoever hears of it second finds it done.
pub async fn two_owners_move_an_agent_once(backend: Backend) {
    let (cluster, _replica, mut gateway) = known(backend).await;
    let _second = cluster.replica("second", super::cluster::quick()).await;
    for (number, pair) in (3..).zip([1, 2, 3, 4, 5].windows(2)) {
        let verdict = gateway.insist(renamed(number, uid(pair[0]), uid(pair[1]))).await;
        assert!(!verdict.report_full_state);
        has_moved(&cluster, uid(pair[1])).await;
    }
    let question = bus::UidQuestion { former_instance_uid: uid(1).to_bytes(), instance_uid: uid(5).to_bytes() };
    let stranger = bus::UidQuestion { instance_uid: uid(6).to_bytes(), ..question.clone() };
    let batch = bus::ShardBatch { uid_questions: vec![question.clone(), stranger.clone()], ..Default::default() };
    gateway.send(uid(5), batch).await;
    for (asked, expected) in [(question, true), (stranger, false)] {
        let answer = gateway.hear(|heard| match heard {
            Heard::UidAnswer(answer) if answer.instance_uid == asked.instance_uid => Some(answer.is_same_agent),
            _ => None,
        });
        assert_eq!(answer.await, expected);
    }
}

/// What waits for the agent, and what is under way to it, is for the uid that it has.
pub async fn a_command_goes_to_the_agent_by_its_new_uid(backend: Backend) {
    let (cluster, _replica, mut gateway) = known(backend).await;
    let restarts = muster::proto::opamp::AgentCapabilities::AcceptsRestartCommand as u64;
    let capable = AgentToServer { capabilities: full("web").capabilities | restarts, ..Default::default() };
    gateway.tell(report(uid(1), 10, 3, &capable)).await;
    let command = muster::store::NewCommand {
        id: muster::model::command::CommandId(uuid::Uuid::from_u128(1)),
        action: muster::model::command::Action::Restart,
        addressee: String::new(),
        per_second: 100,
        targets: vec![(uid(1), muster::model::command::TargetState::Waiting)],
    };
    cluster.store.create_command(&command, &actor()).await.unwrap();
    cluster.hint(bus::Hint { commands_changed: true, ..Default::default() }).await;
    let of = |uid: InstanceUid| {
        move |heard: &Heard| match heard {
            Heard::Command(command) if command.uid == uid => Some(command.generation),
            _ => None,
        }
    };
    assert_eq!(gateway.hear(of(uid(1))).await, 10);
    gateway.tell(renamed(4, uid(1), uid(2))).await;
    assert_eq!(gateway.hear(of(uid(2))).await, 10, "asked about again, for the connection that it was sent to");
    let result = bus::CommandResult {
        command_id: command.id.to_bytes(),
        instance_uid: uid(2).to_bytes(),
        outcome: bus::command_result::Outcome::Sent as i32,
    };
    gateway.send(uid(2), bus::ShardBatch { command_results: vec![result], ..Default::default() }).await;
    crate::support::eventually("the command is settled", async || {
        let progress = cluster.store.get_command(command.id).await.unwrap();
        (progress.counts.get(&muster::model::command::TargetState::Sent) == Some(&1)).then_some(())
    })
    .await;
}
