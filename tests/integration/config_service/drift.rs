//! What agents say that they run, beside what they were offered.

use bytes::Bytes;
use muster::{
    model::{InstanceUid, effective::Effective, policy::PolicyKind, status::Status, status::status as word},
    proto::{
        bus,
        opamp::{
            AgentCapabilities, AgentConfigMap, AgentConfigObject, AgentToServer, EffectiveConfig, RemoteConfigStatuses,
        },
    },
};

use super::{
    cluster::{Backend, Cluster, Replica, actor, quick},
    gateway::{Gateway, Offered, full, opening, report, status, uid},
};

const OFFERED: &str = "receivers: {otlp: {}}\nservice: {extensions: [health_check]}\n";
/// As the Supervisor makes it of that.
const MERGED: &str = "receivers:\n  otlp: null\nservice:\n  extensions: [opamp, health_check]\n  telemetry: {}\n";
const EDITED: &str = "receivers: {jaeger: {}}\nservice: {extensions: [opamp, health_check]}\n";

fn effective(body: &str) -> AgentToServer {
    let file = AgentConfigObject { body: Bytes::copy_from_slice(body.as_bytes()), ..Default::default() };
    let config_map = Some(AgentConfigMap { config_map: [(String::new(), file)].into() });
    AgentToServer { effective_config: Some(EffectiveConfig { config_map }), ..Default::default() }
}

fn says_what_it_runs() -> AgentToServer {
    let mut message = full("web");
    message.capabilities |= AgentCapabilities::ReportsEffectiveConfig as u64;
    message
}

/// One agent, and what it has to say.
struct Scene {
    cluster: Cluster,
    gateway: Gateway,
    uid: InstanceUid,
    number: u64,
    offered: Bytes,
}

impl Scene {
    /// It has been offered [`OFFERED`].
    async fn set(backend: Backend) -> (Self, Replica) {
        let (cluster, replica) = Cluster::start(backend).await;
        cluster.settle("base", "group = web", OFFERED).await;
        let mut gateway = cluster.gateway("g").await;
        let offered = gateway.tell(opening(uid(1), 10, 1, &says_what_it_runs())).await.config_hash();
        (Self { cluster, gateway, uid: uid(1), number: 1, offered }, replica)
    }

    /// Gives what is known of what it runs, once it has said this.
    async fn says(&mut self, message: &AgentToServer) -> (Effective, Status) {
        self.number += 1;
        self.gateway.tell(report(self.uid, 10, self.number, message)).await;
        self.stands().await
    }

    async fn stands(&self) -> (Effective, Status) {
        let row = self.cluster.row(self.uid).await.unwrap();
        (row.desired.effective, word(&row, PolicyKind::Config))
    }

    async fn retry(&self) {
        self.cluster.store.lift_quarantine(self.uid, &actor()).await.unwrap();
        self.cluster.hint(bus::Hint { agents_to_reconcile: self.uid.to_bytes(), ..Default::default() }).await;
    }

    fn applied(&self) -> AgentToServer {
        status(RemoteConfigStatuses::Applied, &self.offered)
    }
}

pub async fn an_agent_drifts_from_what_it_applied_and_comes_back(backend: Backend) {
    let (mut scene, _replica) = Scene::set(backend).await;
    // What it ran before says nothing of what it is to run.
    assert_eq!(scene.says(&effective(EDITED)).await, (Effective::Unknown, Status::Offered));
    let applied = scene.applied();
    assert_eq!(scene.says(&applied).await, (Effective::Differs, Status::Healthy));
    assert_eq!(scene.says(&effective(MERGED)).await, (Effective::Matches, Status::Healthy));
    assert_eq!(scene.says(&effective(EDITED)).await, (Effective::Drifted, Status::Drifted));
    let quiet = scene.gateway.rest();
    assert!(quiet.is_empty(), "drift offers nothing: {quiet:?}");
    assert_eq!(scene.says(&effective("receivers: {}")).await, (Effective::Drifted, Status::Drifted));
    assert_eq!(scene.says(&effective(OFFERED)).await, (Effective::Matches, Status::Healthy));

    // An operator has it offered again: once, however the agent answers.
    assert_eq!(scene.says(&effective(EDITED)).await, (Effective::Drifted, Status::Drifted));
    scene.retry().await;
    let again = scene.gateway.offer_to(scene.uid).await;
    assert_eq!((&again.config_hash[..], again.repeat), (&scene.offered[..], true));
    assert_eq!(scene.stands().await, (Effective::Retried, Status::Offered));
    let applied = scene.applied();
    assert_eq!(scene.says(&applied).await, (Effective::Drifted, Status::Drifted));
    scene.retry().await;
    scene.gateway.offer_to(scene.uid).await;
    let both = AgentToServer { effective_config: effective(MERGED).effective_config, ..scene.applied() };
    assert_eq!(scene.says(&both).await, (Effective::Matches, Status::Healthy));
    scene.retry().await;
    assert_eq!(scene.stands().await, (Effective::Matches, Status::Healthy), "there is nothing to retry");

    // Another configuration: what is known is not of that one.
    scene.cluster.apply("base", "group = web", EDITED).await;
    scene.offered = scene.gateway.offer_to(scene.uid).await.config_hash.into();
    assert_eq!(scene.stands().await, (Effective::Unknown, Status::Offered));
    let applied = scene.applied();
    assert_eq!(scene.says(&applied).await, (Effective::Differs, Status::Healthy));
    assert_eq!(scene.says(&effective(EDITED)).await, (Effective::Matches, Status::Healthy));
}

pub async fn what_never_was_the_same_has_not_drifted(backend: Backend) {
    let (mut scene, _replica) = Scene::set(backend).await;
    let both = AgentToServer { effective_config: effective(EDITED).effective_config, ..scene.applied() };
    assert_eq!(scene.says(&both).await, (Effective::Differs, Status::Healthy));
    assert_eq!(scene.says(&effective("not: that")).await, (Effective::Differs, Status::Healthy));
    let failed = status(RemoteConfigStatuses::Failed, &scene.offered);
    assert_eq!(scene.says(&failed).await, (Effective::Unknown, Status::Failed));
}

/// A change that is taken back before the agent has heard of it: what it runs is right, and nobody reports anything.
pub async fn what_is_right_again_without_a_report_is_found(backend: Backend) {
    let (mut scene, replica) = Scene::set(backend).await;
    let both = AgentToServer { effective_config: effective(MERGED).effective_config, ..scene.applied() };
    assert_eq!(scene.says(&both).await, (Effective::Matches, Status::Healthy));
    scene.cluster.settle("base", "group = web", EDITED).await;
    assert_eq!(scene.stands().await, (Effective::Unknown, Status::Offered));
    scene.cluster.settle("base", "group = web", OFFERED).await;
    assert_eq!(scene.stands().await, (Effective::Matches, Status::Healthy));

    // As does a sweep, of rows that a version wrote which compared nothing.
    replica.stop().await;
    let mut row = scene.cluster.row(scene.uid).await.unwrap();
    row.desired.effective = Effective::Unknown;
    assert_eq!(scene.cluster.store.write_agents(&[row], &[]).await.unwrap(), []);
    let config = muster::config_service::Config { full_sweep_interval: quick().sweep_interval, ..quick() };
    let _replica = scene.cluster.replica("next", config).await;
    scene.cluster.row_when(scene.uid, |row| row.desired.effective == Effective::Matches).await;
}
