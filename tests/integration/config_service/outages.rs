//! Servers that go away and come back.

use std::time::Duration;

use muster::{
    config_service::Config,
    model::{
        offer::{self, Convergence},
        policy::PolicyKind,
    },
    proto::opamp::RemoteConfigStatuses,
};

use super::{
    cluster::{Cluster, quick},
    gateway::{Heard, full, opening, report, status, uid},
};
use crate::support::{eventually, postgres, redis};

#[tokio::test(flavor = "multi_thread")]
async fn reports_during_an_outage_of_the_store_are_taken_after_it() {
    let server = postgres::Server::start();
    let redis = redis::Server::shared().await;
    let cluster = Cluster::on(&server.new_database().await, &redis.url(), "store-outage").await;
    let _replica = cluster.replica("replica", quick()).await;
    let mut gateway = cluster.gateway("g").await;
    for n in 0..20 {
        gateway.tell(opening(uid(n), 10, 1, &full("web"))).await;
    }
    cluster.settle("base", "group = web", "one").await;
    let offered = gateway.offer_to(uid(0)).await.config_hash;
    for how in [postgres::Stop::Fast, postgres::Stop::Immediate] {
        server.stop(how);
        for n in 0..20 {
            gateway.report(report(uid(n), 10, 2, &status(RemoteConfigStatuses::Applied, &offered))).await;
        }
        server.start_again();
    }
    for n in 0..20 {
        let verdict = gateway.insist(report(uid(n), 10, 2, &status(RemoteConfigStatuses::Applied, &offered))).await;
        assert_eq!((verdict.report_number, verdict.report_full_state), (2, false));
        let row = cluster.row(uid(n)).await.unwrap();
        assert_eq!(offer::convergence(&row, PolicyKind::Config), Convergence::Converged);
    }
    // And what operators do goes on.
    cluster.apply("base", "group = web", "two").await;
    let is_new = |heard: &Heard| matches!(heard, Heard::Offer(offer) if offer.config_hash != offered).then_some(());
    gateway.hear(is_new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_redis_delays_and_loses_nothing() {
    let mut redis = redis::Server::start().await;
    let url = postgres::Server::shared().new_database().await;
    let cluster = Cluster::on(&url, &redis.url(), "redis-outage").await;
    let patient = Config { gateway_grace: Duration::from_secs(60), ..quick() };
    let _replicas = (cluster.replica("one", patient.clone()).await, cluster.replica("other", patient).await);
    let mut gateway = cluster.gateway("g").await;
    for n in 0..20 {
        gateway.insist(opening(uid(n), 10, 1, &full("web"))).await;
    }
    redis.kill();
    eventually("the outage is noticed", async || (!cluster.bus.is_reachable()).then_some(())).await;
    cluster.apply_quietly("base", "group = web", "one").await;
    redis.restart().await;
    eventually("Redis is reached", async || cluster.bus.is_reachable().then_some(())).await;
    gateway.announce().await;
    for n in 0..20 {
        // Either repeated in a verdict or offered once the policies were brought to the shards.
        let verdict = gateway.insist(opening(uid(n), 10, 1, &full("web"))).await;
        assert_eq!((verdict.report_number, verdict.report_full_state), (1, false));
        let row = cluster.row_when(uid(n), |row| row.desired.config.hash.is_some()).await;
        assert!(row.presence.connected);
    }
    let offered = cluster.row(uid(0)).await.unwrap().desired.config.hash.unwrap();
    for n in 0..20 {
        let accepted = status(RemoteConfigStatuses::Applied, &offered.0);
        assert_eq!(gateway.insist(report(uid(n), 10, 2, &accepted)).await.report_number, 2);
    }
    assert!(!gateway.rest().iter().any(|heard| matches!(heard, Heard::Probe(_))));
}
