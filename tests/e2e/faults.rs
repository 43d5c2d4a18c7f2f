//! Nodes that die during traffic. Whatever dies, every status and every offer still arrives, and no agent is asked
//! for full state without need.

use std::time::{Duration, Instant};

use crate::{
    scene::{AGENTS, Scene},
    support::{cluster::Cluster, eventually, postgres::Stop},
};

/// Long enough for leases to run out and for every back-off to reach its cap.
const OUTAGE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn redis_stopped_for_half_a_minute() {
    let mut scene = Scene::set().await;
    scene.cluster.redis.kill();
    scene.traffic(OUTAGE / 2).await;
    // The store takes it; nobody can be told of it yet.
    scene.apply(0, "during").await;
    scene.traffic(OUTAGE / 2).await;
    scene.cluster.redis.restart().await;
    scene.everything_arrives(1, "during").await;
    scene.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_service_replica_killed() {
    let mut scene = Scene::set().await;
    scene.cluster.services[0].kill();
    scene.traffic(Duration::from_secs(1)).await;
    scene.apply(1, "during").await;
    scene.traffic(Duration::from_secs(5)).await;
    scene.everything_arrives(1, "during").await;

    scene.cluster.services[0].start().await;
    scene.cluster.services[0].ready().await;
    scene.apply(0, "after").await;
    scene.traffic(Duration::from_secs(1)).await;
    scene.everything_arrives(0, "after").await;
    scene.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_drained() {
    let mut scene = Scene::set().await;
    scene.cluster.gateways[0].terminate();
    scene.traffic(Duration::from_secs(1)).await;
    scene.apply(0, "during").await;
    scene.traffic(Duration::from_secs(2)).await;
    scene.cluster.gateways[0].ended().await;
    scene.everything_arrives(0, "during").await;
    scene.all_are_at("gateway-1").await;
    scene.nobody_was_asked_without_need();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed() {
    let mut scene = Scene::set().await;
    scene.cluster.gateways[0].kill();
    scene.traffic(Duration::from_secs(1)).await;
    scene.apply(0, "during").await;
    scene.traffic(Duration::from_secs(2)).await;
    scene.everything_arrives(0, "during").await;
    scene.all_are_at("gateway-1").await;
    assert_eq!(scene.fleet.count(|seen| seen.new_uids), 0, "a reconnect is no duplicate");
}

/// The store knows all that these agents ever said.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_whose_agents_had_said_nothing_since_their_last_status() {
    let mut scene = Scene::set_quiet().await;
    scene.fleet.report_health("stored", 0, 1);
    scene.fleet.all("statuses are said", |agent| agent.health_status() == "stored" && agent.is_answered()).await;
    scene.everything_arrives(0, "before").await;
    scene.cluster.gateways[0].kill();
    scene.everything_arrives(0, "before").await;
    scene.all_are_at("gateway-1").await;
    scene.apply(0, "after").await;
    scene.everything_arrives(0, "after").await;
    assert_eq!(scene.fleet.count(|seen| seen.full_state_asks), 0);
    assert_eq!(scene.fleet.count(|seen| seen.new_uids), 0);
}

/// Nobody but the dead gateway knew the numbers of their heartbeats, so there may be more that it alone knew.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_whose_agents_had_sent_heartbeats() {
    let mut scene = Scene::set_quiet().await;
    for _ in 0..2 {
        scene.fleet.heartbeat();
    }
    scene.fleet.all("heartbeats are sent", |agent| agent.has_just_sent_heartbeat()).await;
    scene.fleet.all("heartbeats are answered", |agent| agent.is_answered()).await;
    let killed = scene.kill_gateway(0);
    scene.everything_arrives(0, "before").await;
    scene.fleet.all("agents are asked", |agent| agent.seen.connects == 1 || agent.seen.full_state_asks >= 1).await;
    scene.apply(0, "after").await;
    scene.everything_arrives(0, "after").await;
    assert_eq!(killed, AGENTS / 2);
    assert_eq!(scene.fleet.count(|seen| seen.new_uids), 0);
    let asks = scene.fleet.count(|seen| seen.full_state_asks) as usize;
    println!("{asks} asks of {killed} agents");
    // On a busy machine a verdict on an earlier report can overtake, and a few agents are asked once more.
    assert!((killed..killed + killed / 10).contains(&asks), "{asks} asks of {killed} agents");
}

/// All of them come at once to the other gateway, which takes no more in a second than it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_whose_agents_are_admitted_at_a_rate() {
    const AGENTS: usize = 300;
    const PER_SECOND: f64 = 30.0;
    let environment = [
        ("MUSTER_ADMISSION_PER_SECOND", "30"),
        ("MUSTER_ADMISSION_BURST", "30"),
        ("MUSTER_RETRY_AFTER_MIN", "1s"),
        ("MUSTER_RETRY_AFTER_MAX", "3s"),
    ];
    let cluster = Cluster::start_with(2, 2, &environment).await;
    let mut scene = Scene::of(cluster, AGENTS).await;
    let refusals = scene.fleet.count(|seen| seen.refusals);
    let opened = async |scene: &Scene| {
        let metric = scene.cluster.gateways[1].metric("muster_gateway_websockets_opened_total").await;
        metric.expect("it counts them") as usize
    };
    let (before, started) = (opened(&scene).await, Instant::now());
    let killed = scene.kill_gateway(0);
    assert!(killed > 2 * PER_SECOND as usize, "{killed} agents are too few for this to show anything");
    let come = eventually("all have come", async || {
        let come = opened(&scene).await - before;
        // The burst, and what has been gained since.
        let most = PER_SECOND * (1.0 + started.elapsed().as_secs_f64());
        assert!(come as f64 <= most, "{come} have come in {:?}", started.elapsed());
        (come >= killed).then_some(())
    });
    come.await;
    assert!(scene.fleet.count(|seen| seen.refusals) > refusals);
    scene.all_are_at("gateway-1").await;
    scene.apply(0, "after").await;
    scene.everything_arrives(0, "after").await;
    assert_eq!(scene.fleet.count(|seen| seen.new_uids), 0, "a reconnect is no duplicate");
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_restarted_one_after_the_other() {
    let mut scene = Scene::set_with(2 * AGENTS).await;
    for gateway in 0..2 {
        scene.cluster.gateways[gateway].terminate();
        scene.traffic(Duration::from_secs(2)).await;
        scene.cluster.gateways[gateway].ended().await;
        scene.cluster.gateways[gateway].start().await;
        scene.cluster.gateways[gateway].ready().await;
        scene.fleet.all_connected().await;
    }
    scene.apply(0, "after").await;
    scene.everything_arrives(0, "after").await;
    // What was on its way while its connection was closed is lost, and then the agent is rightly asked.
    scene.nobody_was_asked_without_need();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_service_replica_killed_in_the_middle_of_a_change() {
    // So slow that the middle can be met.
    let cluster = Cluster::start_with(2, 2, &[("MUSTER_OFFERS_PER_SECOND", "250")]).await;
    let mut scene = Scene::of(cluster, AGENTS).await;
    scene.apply(0, "during").await;
    eventually("some agents run it", async || {
        let some =
            scene.fleet.agents().iter().filter(|agent| agent.file("a.yaml").as_deref() == Some("during")).count();
        (some > AGENTS / 10).then_some(())
    })
    .await;
    scene.cluster.services[0].kill();
    let others = scene.fleet.agents().iter().filter(|agent| agent.file("a.yaml").as_deref() == Some("before")).count();
    assert!(others > 0, "the change was over too soon to be disturbed");
    scene.everything_arrives(1, "during").await;
    scene.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_config_service_for_a_while() {
    let mut scene = Scene::set().await;
    for service in &mut scene.cluster.services {
        service.kill();
    }
    scene.traffic(Duration::from_secs(10)).await;
    for service in &mut scene.cluster.services {
        service.start().await;
    }
    for service in &mut scene.cluster.services {
        service.ready().await;
    }
    scene.apply(1, "after").await;
    scene.everything_arrives(0, "after").await;
    scene.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_restarted() {
    let mut scene = Scene::set().await;
    for (how, text) in [(Stop::Fast, "after an orderly stop"), (Stop::Immediate, "after a crash")] {
        scene.cluster.stop_postgres(how);
        scene.traffic(Duration::from_secs(5)).await;
        scene.cluster.start_postgres();
        scene.traffic(Duration::from_secs(1)).await;
        scene.apply_when_possible(text).await;
        scene.everything_arrives(0, text).await;
    }
    scene.nobody_noticed();
}
