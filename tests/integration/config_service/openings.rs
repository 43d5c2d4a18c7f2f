//! How connections start, move and end.

use muster::proto::{
    bus,
    opamp::{AgentToServer, ComponentHealth},
};
use prost::Message;

use super::{
    cluster::{Backend, Cluster},
    gateway::{Heard, ending, full, opening, report, uid},
};

fn empty() -> AgentToServer {
    AgentToServer::default()
}

pub async fn a_first_full_report_is_stored_and_a_lost_verdict_repeated(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("g").await;
    let first = opening(uid(1), 10, 1, &full("web"));
    let verdict = gateway.tell(first.clone()).await;
    assert_eq!((verdict.report_number, verdict.report_full_state), (1, false));
    let row = cluster.row(uid(1)).await.unwrap();
    assert!(row.observed.complete && row.presence.connected);
    assert_eq!(row.presence.gateway, "g");
    assert_eq!(gateway.tell(first).await, verdict);
    assert_eq!(cluster.row(uid(1)).await.unwrap(), row, "a repeat is not written");
}

pub async fn an_unknown_agents_delta_and_a_gap_ask_for_everything(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("g").await;
    assert!(gateway.tell(opening(uid(1), 10, 5, &empty())).await.report_full_state);
    let full_state = bus_report(10, 2, 6);
    assert!(!gateway.tell(full_state).await.report_full_state);
    // Sequence number 7 was missed.
    assert!(gateway.tell(opening(uid(1), 20, 8, &empty())).await.report_full_state);
    assert!(!cluster.row(uid(1)).await.unwrap().observed.complete);
}

fn bus_report(generation: u64, number: u64, sequence_num: u64) -> bus::Report {
    bus::Report { sequence_num, ..report(uid(1), generation, number, &full("web")) }
}

pub async fn after_a_clean_close_an_empty_delta_elsewhere_is_enough(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let (mut one, mut other) = (cluster.gateway("one").await, cluster.gateway("other").await);
    one.tell(opening(uid(1), 10, 1, &full("web"))).await;
    one.tell(ending(uid(1), 10, 2, 41)).await;
    assert!(!cluster.row(uid(1)).await.unwrap().presence.connected);
    let verdict = other.tell(opening(uid(1), 20, 42, &empty())).await;
    assert_eq!((verdict.report_number, verdict.report_full_state), (1, false));
    let row = cluster.row(uid(1)).await.unwrap();
    assert!(row.presence.connected && row.observed.complete);
    assert_eq!(row.presence.gateway, "other");
    assert!(!one.rest().iter().any(|heard| matches!(heard, Heard::Probe(_))));
}

pub async fn a_connection_that_is_gone_is_taken_over_with_its_number(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let (mut one, mut other) = (cluster.gateway("one").await, cluster.gateway("other").await);
    one.tell(opening(uid(1), 10, 1, &full("web"))).await;
    let newcomer = opening(uid(1), 20, 78, &empty());
    other.report(newcomer.clone()).await;
    let probe = one.probe().await;
    assert_eq!((&probe.instance_uid, probe.connection_generation), (&uid(1).to_bytes(), 10));
    assert_eq!(cluster.row(uid(1)).await.unwrap().presence.gateway, "one", "nothing is decided before the answer");
    one.answer_probe(probe, false, Some(77)).await;
    let verdict = other.verdict_on(&newcomer).await;
    assert_eq!((verdict.report_number, verdict.report_full_state), (1, false));
    assert_eq!(cluster.row(uid(1)).await.unwrap().presence.gateway, "other");
    // What the old connection still says is answered with the new one's number; its end is ignored.
    let late = one.tell(report(uid(1), 10, 2, &empty())).await;
    assert_eq!((late.newer_connection_generation, late.report_number), (20, 0));
    assert_eq!(one.tell(ending(uid(1), 10, 3, 99)).await.report_number, 3);
    assert!(cluster.row(uid(1)).await.unwrap().presence.connected);
}

pub async fn a_probe_without_an_answer_ends_in_a_takeover(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let (mut one, mut other) = (cluster.gateway("one").await, cluster.gateway("other").await);
    one.tell(opening(uid(1), 10, 1, &full("web"))).await;
    let verdict = other.tell(opening(uid(1), 20, 78, &empty())).await;
    assert_eq!((verdict.report_number, verdict.report_full_state), (1, true));
}

pub async fn who_lives_on_after_a_probe_that_was_not_answered_is_not_forgotten(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let (mut one, mut other) = (cluster.gateway("one").await, cluster.gateway("other").await);
    let first = opening(uid(1), 10, 1, &full("web"));
    one.tell(first.clone()).await;
    let newcomer = opening(uid(1), 20, 1, &full("web"));
    assert_eq!(other.tell(newcomer.clone()).await.report_number, 1);
    let late = one.probe().await;
    one.answer_probe(late, true, None).await;
    // Its gateway hears who has its record, and announces it anew.
    let told = one.verdict_on(&first).await;
    assert_eq!((told.report_number, told.newer_connection_generation), (0, 20));
    let again = opening(uid(1), 30, 2, &full("web"));
    one.report(again.clone()).await;
    let probe = other.probe().await;
    other.answer_probe(probe, true, None).await;
    let verdict = one.verdict_on(&again).await;
    assert_eq!((verdict.report_number, verdict.new_instance_uid.len()), (1, 16));
    assert_eq!(cluster.agents().await, 2);
}

pub async fn the_end_of_the_old_connection_answers_its_probe(backend: Backend) {
    let mut config = super::cluster::quick();
    config.probe_timeout = std::time::Duration::from_secs(3_600);
    let cluster = Cluster::empty(backend).await;
    let _replica = cluster.replica("replica", config).await;
    let (mut one, mut other) = (cluster.gateway("one").await, cluster.gateway("other").await);
    one.tell(opening(uid(1), 10, 1, &full("web"))).await;
    let newcomer = opening(uid(1), 20, 78, &empty());
    other.report(newcomer.clone()).await;
    let probe = one.probe().await;
    // The old gateway lets go, and still has something to say.
    one.answer_probe(probe, false, None).await;
    let health = AgentToServer { health: Some(ComponentHealth { healthy: true, ..Default::default() }), ..empty() };
    one.report(bus::Report { message: health.encode_to_vec().into(), ..ending(uid(1), 10, 2, 77) }).await;
    let verdict = other.verdict_on(&newcomer).await;
    assert_eq!((verdict.report_number, verdict.report_full_state), (1, false));
    assert_eq!(cluster.row(uid(1)).await.unwrap().observed.healthy, Some(true));
}

pub async fn a_live_duplicate_gets_a_uid_of_its_own(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    cluster.settle("base", "group = web", "one").await;
    let (mut one, mut other) = (cluster.gateway("one").await, cluster.gateway("other").await);
    one.tell(opening(uid(1), 10, 1, &full("web"))).await;
    let original = cluster.row(uid(1)).await.unwrap();
    let newcomer = opening(uid(1), 20, 1, &full("web"));
    other.report(newcomer.clone()).await;
    let probe = one.probe().await;
    one.answer_probe(probe, true, None).await;
    let verdict = other.verdict_on(&newcomer).await;
    assert_eq!(verdict.report_number, 1);
    let new_uid = muster::model::InstanceUid::from_slice(&verdict.new_instance_uid).unwrap();
    assert_ne!(new_uid, uid(1));
    assert_eq!(cluster.row(uid(1)).await.unwrap(), original);
    let row = cluster.row(new_uid).await.unwrap();
    assert_eq!((row.presence.gateway.as_str(), row.observed.complete), ("other", true));
    let offer = other.offer_to(new_uid).await;
    assert_eq!(Some(&offer.config_hash[..]), original.desired.config.hash.as_ref().map(|hash| &hash.0[..]));
    // The verdict was lost: the same uid again.
    other.report(newcomer.clone()).await;
    let probe = one.probe().await;
    one.answer_probe(probe, true, None).await;
    assert_eq!(other.verdict_on(&newcomer).await.new_instance_uid, verdict.new_instance_uid);
}

pub async fn several_reports_of_one_agent_in_a_batch_are_all_taken(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("g").await;
    let reports =
        vec![opening(uid(1), 10, 1, &full("web")), ending(uid(1), 10, 2, 9), opening(uid(1), 20, 10, &empty())];
    let last = reports[2].clone();
    gateway.send(uid(1), bus::ShardBatch { reports, ..Default::default() }).await;
    assert!(gateway.verdict_on(&last).await.report_number == 1);
    assert!(cluster.row(uid(1)).await.unwrap().presence.connected);
}
