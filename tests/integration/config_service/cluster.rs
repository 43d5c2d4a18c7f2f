//! Replicas of the config service on one store and one bus.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use muster::{
    bus::{Bus, SharedBus, Topic, in_process::InProcess, redis::Redis},
    config_service::{Config, ConfigService},
    model::{
        AgentRecord, ContentHash, InstanceUid,
        policy::{FileRef, PolicyOffer, RevisionContent},
    },
    pki::Issuer,
    proto::{bus, opamp::ConnectionSettingsOffers},
    store::{self, Actor, ApplyPolicy, SharedStore, Store, postgres::PostgresStore, sqlite::SqliteStore},
};
use prost::{Message, bytes::Bytes};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::gateway::Gateway;
use crate::support::{eventually, postgres, redis};

/// What a cluster runs on.
#[derive(Clone, Copy)]
pub enum Backend {
    /// SQLite and the in-process bus, as `standalone` does.
    InProcess,
    /// Postgres and Redis: servers that the tests share, each with a database and a prefix of its own.
    Servers,
}

pub struct Cluster {
    pub store: SharedStore,
    pub bus: SharedBus,
    _dir: tempfile::TempDir,
}

/// A running replica.
pub struct Replica {
    pub stop: CancellationToken,
    pub task: JoinHandle<Result<(), muster::config_service::Error>>,
}

/// Short enough for tests that wait for them to happen.
pub fn quick() -> Config {
    Config {
        probe_timeout: Duration::from_millis(400),
        membership_ttl: Duration::from_millis(900),
        gateway_check_interval: Duration::from_millis(20),
        gateway_grace: Duration::from_millis(200),
        policy_poll_interval: Duration::from_millis(100),
        sweep_interval: Duration::from_millis(100),
        full_sweep_interval: Duration::from_secs(3_600),
        ..Config::default()
    }
}

pub fn actor() -> Actor {
    Actor { name: "test".into(), token_id: String::new(), now: 1 }
}

async fn connect(url: &str) -> SharedStore {
    let store = PostgresStore::connect(url, postgres_config()).unwrap();
    store.migrate().await.unwrap();
    Arc::new(store)
}

/// Does not try for long to reach a server that is down.
fn postgres_config() -> store::postgres::Config {
    store::postgres::Config { acquire_timeout: Duration::from_secs(1), ..Default::default() }
}

impl Cluster {
    /// A store and a bus, and nobody on them.
    pub async fn empty(backend: Backend) -> Self {
        let dir = tempfile::tempdir().unwrap();
        match backend {
            Backend::InProcess => {
                let store = SqliteStore::open(&dir.path().join("muster.db")).await.unwrap();
                Self { store: Arc::new(store), bus: InProcess::new(), _dir: dir }
            }
            Backend::Servers => {
                let store = connect(&postgres::Server::shared().new_database().await).await;
                let prefix = dir.path().file_name().unwrap().to_string_lossy().into_owned();
                let bus = Redis::connect(&redis::Server::shared().await.url(), &prefix).unwrap();
                eventually("Redis is reached", async || bus.is_reachable().then_some(())).await;
                Self { store, bus, _dir: dir }
            }
        }
    }

    /// On servers of the caller's own.
    pub async fn on(postgres_url: &str, redis_url: &str, prefix: &str) -> Self {
        let bus = Redis::connect(redis_url, prefix).unwrap();
        eventually("Redis is reached", async || bus.is_reachable().then_some(())).await;
        Self { store: connect(postgres_url).await, bus, _dir: tempfile::tempdir().unwrap() }
    }

    /// With one ready replica.
    pub async fn start(backend: Backend) -> (Self, Replica) {
        let cluster = Self::empty(backend).await;
        let replica = cluster.replica("replica", quick()).await;
        (cluster, replica)
    }

    pub async fn replica(&self, node: &str, config: Config) -> Replica {
        self.replica_on(self.bus.clone(), node, config).await
    }

    /// One that issues certificates.
    pub async fn issuing_replica(&self, node: &str, config: Config, issuer: Issuer) -> Replica {
        let service = ConfigService::new(config, node.into(), self.store.clone(), self.bus.clone());
        Self::run(service.with_issuer(Some(issuer))).await
    }

    pub async fn replica_on(&self, bus: SharedBus, node: &str, config: Config) -> Replica {
        Self::run(ConfigService::new(config, node.into(), self.store.clone(), bus)).await
    }

    async fn run(service: ConfigService) -> Replica {
        let (handle, stop) = (service.handle(), CancellationToken::new());
        let task = tokio::spawn(service.run(stop.clone()));
        eventually("the replica is ready", async || handle.is_ready().then_some(())).await;
        Replica { stop, task }
    }

    /// A live gateway.
    pub async fn gateway(&self, name: &str) -> Gateway {
        Gateway::start(self.bus.clone(), name).await
    }

    /// Applies a policy without telling anyone.
    pub async fn apply_quietly(&self, name: &str, selector: &str, body: &str) {
        self.apply_paced(name, selector, body, 0).await;
    }

    /// As [`Self::apply_quietly`], with a limit of the offers a second.
    pub async fn apply_paced(&self, name: &str, selector: &str, body: &str, max_per_second: u32) {
        self.apply_files(name, selector, &[("collector.yaml", body)], max_per_second).await;
    }

    /// A policy of these files.
    pub async fn apply_files(&self, name: &str, selector: &str, files: &[(&str, &str)], max_per_second: u32) {
        self.apply_kind_of_files(name, selector, files, false, max_per_second).await;
    }

    /// A policy of these templates.
    pub async fn apply_templates(&self, name: &str, selector: &str, files: &[(&str, &str)]) {
        self.apply_kind_of_files(name, selector, files, true, 0).await;
    }

    async fn apply_kind_of_files(
        &self,
        name: &str,
        selector: &str,
        files: &[(&str, &str)],
        is_template: bool,
        max_per_second: u32,
    ) {
        let (mut refs, mut bodies) = (BTreeMap::new(), Vec::new());
        for (file, body) in files {
            let (content, size) = (ContentHash::of(body.as_bytes()), body.len() as u64);
            let file_ref =
                FileRef { content, content_type: "text/yaml".into(), role: String::new(), size, is_template };
            refs.insert((*file).to_owned(), file_ref);
            bodies.push((content, body.as_bytes().to_vec().into()));
        }
        self.apply_offer(name, selector, PolicyOffer::Config(refs), bodies, max_per_second).await;
    }

    /// A policy of connection settings.
    pub async fn apply_settings(&self, name: &str, selector: &str, settings: ConnectionSettingsOffers) {
        let offer = PolicyOffer::ConnectionSettings(Box::new(settings));
        self.apply_offer(name, selector, offer, Vec::new(), 0).await;
    }

    async fn apply_offer(
        &self,
        name: &str,
        selector: &str,
        offer: PolicyOffer,
        bodies: Vec<(ContentHash, Bytes)>,
        max_per_second: u32,
    ) {
        let apply = ApplyPolicy {
            name: name.into(),
            kind: offer.kind(),
            content: RevisionContent {
                selector: selector.parse().unwrap(),
                priority: 0,
                offer,
                allow_empty: false,
                max_per_second,
                plan: None,
            },
            message: String::new(),
            bodies,
            etag: None,
            validate_only: false,
        };
        self.store.apply_policy(apply, &actor()).await.unwrap();
    }

    /// As an operator does.
    pub async fn apply(&self, name: &str, selector: &str, body: &str) {
        self.apply_quietly(name, selector, body).await;
        self.hint(bus::Hint { policies_epoch: self.store.policy_epoch().await.unwrap(), ..Default::default() }).await;
    }

    /// Applies a policy, and waits until all shards have been brought to it, so that later reports are decided by it.
    pub async fn settle(&self, name: &str, selector: &str, body: &str) {
        self.apply_quietly(name, selector, body).await;
        self.settled().await;
    }

    /// Waits until all shards have been brought to what was applied.
    pub async fn settled(&self) {
        self.hint(bus::Hint { policies_epoch: self.store.policy_epoch().await.unwrap(), ..Default::default() }).await;
        let epoch = self.store.policy_epoch().await.unwrap();
        eventually("all shards are done", async || {
            let progress = self.store.shard_progress().await.unwrap();
            (progress.len() == 64 && progress.iter().all(|(_, done)| *done == epoch)).then_some(())
        })
        .await;
    }

    pub async fn hint(&self, hint: bus::Hint) {
        self.bus.publish(&Topic::ConfigService, hint.encode_to_vec().into()).await.unwrap();
    }

    /// How many agents are stored, up to a thousand.
    pub async fn agents(&self) -> usize {
        self.store.page_agents(Default::default(), None, 1_000).await.unwrap().len()
    }

    pub async fn row(&self, uid: InstanceUid) -> Option<AgentRecord> {
        self.store.read_agents(&[uid]).await.unwrap().pop()
    }

    /// The row, once `check` holds for it.
    pub async fn row_when(&self, uid: InstanceUid, check: impl Fn(&AgentRecord) -> bool) -> AgentRecord {
        eventually("the row is as expected", async || self.row(uid).await.filter(|row| check(row))).await
    }
}

impl Replica {
    /// As SIGTERM does.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}
