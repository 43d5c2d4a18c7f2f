//! Several replicas, and the deaths of some.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use muster::{
    bus::{Bus, Error, Role, SharedBus, Subscription, Topic},
    model::{
        offer::{self, Convergence},
        policy::PolicyKind,
    },
    proto::opamp::{AgentToServer, RemoteConfigStatuses},
};

use super::{
    cluster::{Backend, Cluster, quick},
    gateway::{Heard, Offered, full, opening, report, status, uid},
};
use crate::support::eventually;

/// The cluster's bus, as one replica sees it when things go wrong.
struct Faulty {
    bus: SharedBus,
    /// The only replica on its list of members, as for a moment after each change of them.
    alone: Option<&'static str>,
    /// Nothing goes out, and the list cannot be read.
    is_away: AtomicBool,
}

impl Faulty {
    fn new(cluster: &Cluster, alone: Option<&'static str>) -> Arc<Self> {
        Arc::new(Self { bus: cluster.bus.clone(), alone, is_away: AtomicBool::new(false) })
    }

    fn check(&self) -> Result<(), Error> {
        match self.is_reachable() {
            true => Ok(()),
            false => Err(Error::Unreachable("as the test wants it".into())),
        }
    }
}

#[async_trait]
impl Bus for Faulty {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<(), Error> {
        self.check()?;
        self.bus.publish(topic, payload).await
    }

    fn subscribe(&self) -> Box<dyn Subscription> {
        self.bus.subscribe()
    }

    async fn announce(&self, role: Role, node: &str, ttl: Duration) -> Result<(), Error> {
        self.check()?;
        self.bus.announce(role, node, ttl).await
    }

    async fn withdraw(&self, role: Role, node: &str) -> Result<(), Error> {
        self.bus.withdraw(role, node).await
    }

    async fn members(&self, role: Role) -> Result<Vec<String>, Error> {
        self.check()?;
        match (role, self.alone) {
            (Role::ConfigService, Some(node)) => Ok(vec![node.to_owned()]),
            _ => self.bus.members(role).await,
        }
    }

    fn is_reachable(&self) -> bool {
        !self.is_away.load(Ordering::Relaxed)
    }
}

pub async fn no_offer_is_wasted_on_a_bus_that_is_away(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let bus = Faulty::new(&cluster, None);
    let _replica = cluster.replica_on(bus.clone(), "replica", quick()).await;
    let mut gateway = cluster.gateway("g").await;
    gateway.tell(opening(uid(1), 10, 1, &full("web"))).await;
    bus.is_away.store(true, Ordering::Relaxed);
    cluster.apply_quietly("base", "group = web", "one").await;
    let epoch = cluster.store.policy_epoch().await.unwrap();
    // Shards without an agent to be told are done all the same: the replica is at work.
    eventually("the other shards are done", async || {
        let progress = cluster.store.shard_progress().await.unwrap();
        (progress.iter().filter(|(_, done)| *done == epoch).count() == 63).then_some(())
    })
    .await;
    // A repeat of its offer would come half a minute later.
    assert_eq!(cluster.row(uid(1)).await.unwrap().desired.config.offered_at, None);
    bus.is_away.store(false, Ordering::Relaxed);
    assert!(!gateway.offer_to(uid(1)).await.repeat);
}

pub async fn two_owners_of_every_shard_do_no_harm(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    cluster.apply_quietly("base", "group = web", "one").await;
    for node in ["a", "b"] {
        cluster.replica_on(Faulty::new(&cluster, Some(node)), node, quick()).await;
    }
    let mut gateway = cluster.gateway("g").await;
    for n in 0..50 {
        gateway.report(opening(uid(n), 10, 1, &full("web"))).await;
    }
    for n in 0..50 {
        // Each replica answers.
        let first = opening(uid(n), 10, 1, &full("web"));
        let verdict = gateway.verdict_on(&first).await;
        let other = gateway.verdict_on(&first).await;
        assert_eq!((verdict.report_number, other.report_number), (1, 1));
        assert_eq!(verdict.desired_generation(), other.desired_generation(), "one decision, made once");
        gateway.tell(report(uid(n), 10, 2, &status(RemoteConfigStatuses::Applied, &verdict.config_hash()))).await;
    }
    for n in 0..50 {
        let row = cluster.row_when(uid(n), |row| row.presence.report_number == 2).await;
        assert_eq!(offer::convergence(&row, PolicyKind::Config), Convergence::Converged);
    }
}

pub async fn another_replica_takes_over_from_one_that_was_killed(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let one = cluster.replica("one", quick()).await;
    let other = cluster.replica("other", quick()).await;
    let mut gateway = cluster.gateway("g").await;
    one.task.abort();
    for n in 0..64 {
        // As a gateway does: again and again until it is taken.
        assert_eq!(gateway.insist(opening(uid(n), 10, 1, &full("web"))).await.report_number, 1);
    }
    other.stop().await;
}

pub async fn agents_that_report_while_policies_change_end_with_the_newest(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let (_one, _other) = (cluster.replica("one", quick()).await, cluster.replica("other", quick()).await);
    cluster.apply("base", "group = web", "0").await;
    let mut gateway = cluster.gateway("g").await;
    for n in 0..200 {
        gateway.report(opening(uid(n), 10, 1, &full(if n % 2 == 0 { "web" } else { "db" }))).await;
        if n % 20 == 0 {
            cluster.apply("base", "group = web", &format!("{n}")).await;
        }
        if n % 7 == 0 {
            // It changes sides meanwhile.
            gateway.report(report(uid(n), 10, 2, &full("web"))).await;
        }
    }
    cluster.settle("base", "group = web", "newest").await;
    // A reference: one that arrives when all is done.
    let newest = gateway.tell(opening(uid(1_000), 10, 1, &full("web"))).await.config_hash();
    for n in 0..200 {
        let is_web = n % 2 == 0 || n % 7 == 0;
        let expected = is_web.then_some(&newest[..]);
        let is_right =
            |row: &muster::model::AgentRecord| row.desired.config.hash.as_ref().map(|h| &h.0[..]) == expected;
        cluster.row_when(uid(n), is_right).await;
    }
}

pub async fn a_dead_gateways_agents_are_marked_and_come_back_elsewhere(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let (mut one, mut other) = (cluster.gateway("one").await, cluster.gateway("other").await);
    one.tell(opening(uid(1), 10, 1, &full("web"))).await;
    other.tell(opening(uid(2), 10, 1, &full("web"))).await;
    one.die().await;
    cluster.row_when(uid(1), |row| !row.presence.connected).await;
    assert!(cluster.row(uid(2)).await.unwrap().presence.connected);
    // Nobody is left to be probed; what the dead gateway had not said is missing, so all is asked for.
    let verdict = other.tell(opening(uid(1), 20, 9, &AgentToServer::default())).await;
    assert!(verdict.report_full_state);
    assert_eq!(cluster.row(uid(1)).await.unwrap().presence.gateway, "other");
}

pub async fn a_restart_asks_nobody_for_anything(backend: Backend) {
    let cluster = Cluster::empty(backend).await;
    let replica = cluster.replica("one", quick()).await;
    cluster.settle("base", "group = web", "one").await;
    let mut gateway = cluster.gateway("g").await;
    let hash = gateway.tell(opening(uid(1), 10, 1, &full("web"))).await.config_hash();
    gateway.tell(report(uid(1), 10, 2, &status(RemoteConfigStatuses::Applied, &hash))).await;
    replica.stop().await;
    let _replica = cluster.replica("two", quick()).await;
    let verdict = gateway.tell(report(uid(1), 10, 3, &AgentToServer::default())).await;
    assert_eq!((verdict.report_number, verdict.report_full_state), (3, false));
    assert!(verdict.config_hash().is_empty());
    // That a replica has settings of its own is all that gateways hear of it.
    let rest = gateway.rest();
    assert!(rest.iter().all(|heard| matches!(heard, Heard::Tokens(_))), "{rest:?}");
}
