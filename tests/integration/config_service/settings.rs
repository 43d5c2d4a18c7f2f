//! Connection settings: offered once, and remembered.

use muster::{
    model::{
        offer::{self, Convergence},
        policy::PolicyKind,
    },
    proto::{
        bus,
        opamp::{
            AgentCapabilities, AgentToServer, ConnectionSettingsOffers, ConnectionSettingsStatus,
            ConnectionSettingsStatuses, TelemetryConnectionSettings,
        },
    },
};
use prost::{Message, bytes::Bytes};

use super::{
    cluster::{Backend, Cluster, actor, quick},
    gateway::{self, Gateway, full, opening, report, uid},
};

/// An agent that takes a destination for its own metrics.
fn agent() -> AgentToServer {
    let capabilities = AgentCapabilities::ReportsStatus as u64 | AgentCapabilities::ReportsOwnMetrics as u64;
    AgentToServer { capabilities, ..full("web") }
}

fn reported(status: ConnectionSettingsStatuses, hash: &Bytes) -> AgentToServer {
    let status = ConnectionSettingsStatus {
        last_connection_settings_hash: hash.clone(),
        status: status as i32,
        error_message: "no route".into(),
    };
    AgentToServer { connection_settings_status: Some(status), ..Default::default() }
}

async fn apply(cluster: &Cluster, selector: &str, endpoint: &str) {
    let own_metrics = TelemetryConnectionSettings { destination_endpoint: endpoint.into(), ..Default::default() };
    let settings = ConnectionSettingsOffers { own_metrics: Some(own_metrics), ..Default::default() };
    cluster.apply_settings("telemetry", selector, settings).await;
    cluster.settled().await;
}

/// What a verdict offers, which is connection settings or nothing.
fn offered(verdict: &bus::Verdict) -> Option<Bytes> {
    gateway::offered(bus::OfferKind::ConnectionSettings, verdict)
}

async fn body(gateway: &mut Gateway, hash: &Bytes) -> ConnectionSettingsOffers {
    let body = gateway.body(bus::OfferKind::ConnectionSettings, hash).await;
    ConnectionSettingsOffers::decode(body).unwrap()
}

pub async fn what_was_sent_is_remembered_by_every_node(backend: Backend) {
    let (cluster, replica) = Cluster::start(backend).await;
    apply(&cluster, "group = web", "http://metrics").await;
    let mut gateway = cluster.gateway("g").await;
    let hash = offered(&gateway.tell(opening(uid(1), 10, 1, &agent())).await).expect("an offer");
    let settings = body(&mut gateway, &hash).await;
    assert_eq!(settings.hash, hash);
    assert_eq!(settings.own_metrics.unwrap().destination_endpoint, "http://metrics");
    // It may never have been put on the connection: it is offered again.
    let again = offered(&gateway.tell(opening(uid(1), 20, 2, &agent())).await);
    assert_eq!(again, Some(hash.clone()));

    let sent = bus::Report { sent_connection_settings: hash.clone(), ..report(uid(1), 20, 2, &Default::default()) };
    gateway.tell(sent).await;
    // The client forgets the hash, and begins from 0, here and elsewhere.
    assert_eq!(offered(&gateway.tell(opening(uid(1), 30, 0, &agent())).await), None);
    replica.stop().await;
    let _replica = cluster.replica("another", quick()).await;
    let mut elsewhere = cluster.gateway("h").await;
    let left = bus::Report { ending: Some(bus::Ending::default()), ..report(uid(1), 30, 2, &Default::default()) };
    gateway.tell(left).await;
    assert_eq!(offered(&elsewhere.tell(opening(uid(1), 40, 0, &agent())).await), None);
    let row = cluster.row(uid(1)).await.unwrap();
    assert_eq!(offer::convergence(&row, PolicyKind::ConnectionSettings), Convergence::Converged);

    // A change is another hash, and a withdrawal one more, with an empty endpoint.
    apply(&cluster, "group = web", "http://elsewhere").await;
    let changed = offered(&elsewhere.tell(opening(uid(1), 50, 0, &agent())).await).expect("an offer");
    assert_ne!(changed, hash);
    apply(&cluster, "group = none", "http://elsewhere").await;
    let withdrawn = offered(&elsewhere.tell(opening(uid(1), 60, 0, &agent())).await).expect("an offer");
    let settings = body(&mut elsewhere, &withdrawn).await;
    assert_eq!(settings.own_metrics, Some(TelemetryConnectionSettings::default()));
}

pub async fn refused_settings_are_not_offered_again(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    apply(&cluster, "group = web", "http://metrics").await;
    let mut gateway = cluster.gateway("g").await;
    let hash = offered(&gateway.tell(opening(uid(1), 10, 1, &agent())).await).expect("an offer");
    gateway.tell(report(uid(1), 10, 2, &reported(ConnectionSettingsStatuses::Failed, &hash))).await;
    let row = cluster.row(uid(1)).await.unwrap();
    assert_eq!(offer::convergence(&row, PolicyKind::ConnectionSettings), Convergence::Quarantined);
    assert_eq!(row.observed.connection_settings.error, "no route");
    assert_eq!(offered(&gateway.tell(opening(uid(1), 20, 0, &agent())).await), None);
    let hint = bus::Hint { agents_to_reconcile: uid(1).to_bytes(), ..Default::default() };
    cluster.store.lift_quarantine(uid(1), &actor()).await.unwrap();
    cluster.hint(hint).await;
    assert_eq!(gateway.offer_to(uid(1)).await.config_hash[..], hash[..]);
    gateway.tell(report(uid(1), 20, 2, &reported(ConnectionSettingsStatuses::Applied, &hash))).await;
    let row = cluster.row(uid(1)).await.unwrap();
    assert_eq!(offer::convergence(&row, PolicyKind::ConnectionSettings), Convergence::Converged);
}

/// An agent that comes to take connection settings while it is connected gets them at once.
pub async fn a_new_capability_brings_an_offer(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    apply(&cluster, "group = web", "http://metrics").await;
    let mut gateway = cluster.gateway("g").await;
    let incapable = AgentToServer { capabilities: AgentCapabilities::ReportsStatus as u64, ..full("web") };
    assert_eq!(offered(&gateway.tell(opening(uid(1), 10, 1, &incapable)).await), None);
    let capable = AgentToServer { capabilities: agent().capabilities, ..Default::default() };
    assert!(offered(&gateway.tell(report(uid(1), 10, 2, &capable)).await).is_some());
}
