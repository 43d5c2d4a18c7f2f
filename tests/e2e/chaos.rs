//! Faults at random, one upon the other, during traffic. At the end everything is right.
//!
//! `MUSTER_TEST_CHAOS_SECONDS` makes it longer, `MUSTER_TEST_CHAOS_SEED` makes one run's choices again.

use std::{
    env,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    scene::Scene,
    support::{
        agent::{
            Agent,
            fleet::{Fleet, Transport},
        },
        cluster::Cluster,
        postgres::Stop,
    },
};

const AGENTS: usize = 400;
const POLLING_AGENTS: usize = 40;
const DEFAULT_SECONDS: u64 = 30;
/// The same choices in every run, so that a change is not refused for what it did not do. Others are tried by hand.
const DEFAULT_SEED: u64 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    ServiceKilled(usize),
    AllServicesKilled,
    GatewayKilled(usize),
    GatewayDrained(usize),
    RedisKilled,
    RedisFrozen,
    PostgresStopped,
    PostgresCrashed,
    ConnectionsDropped,
    ConnectionsHalfOpen,
}

const FAULTS: &[Fault] = &[
    Fault::ServiceKilled(0),
    Fault::ServiceKilled(1),
    Fault::AllServicesKilled,
    Fault::GatewayKilled(0),
    Fault::GatewayKilled(1),
    Fault::GatewayDrained(0),
    Fault::GatewayDrained(1),
    Fault::RedisKilled,
    Fault::RedisFrozen,
    Fault::PostgresStopped,
    Fault::PostgresCrashed,
    Fault::ConnectionsDropped,
    Fault::ConnectionsHalfOpen,
];

#[tokio::test(flavor = "multi_thread")]
async fn after_any_faults_everything_is_right() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("MUSTER_TEST_CHAOS_SEED").unwrap_or(DEFAULT_SEED);
    let length = Duration::from_secs(number("MUSTER_TEST_CHAOS_SECONDS").unwrap_or(DEFAULT_SECONDS));
    println!("MUSTER_TEST_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut scene = Scene::of(Cluster::start(2, 2).await, AGENTS).await;
    let polling = (AGENTS..AGENTS + POLLING_AGENTS).map(|index| Agent::new(index, "polling")).collect();
    let (gateways, token) = (scene.cluster.opamp(), scene.cluster.agent_token().to_owned());
    let polling = Fleet::of(polling, Transport::Http, Duration::from_secs(2), gateways, &token);
    polling.all_connected().await;

    let started = Instant::now();
    let mut round = 0;
    while started.elapsed() < length {
        round += 1;
        let count = if random.random_bool(0.3) { 2 } else { 1 };
        let faults: Vec<Fault> = FAULTS.sample(&mut random, count).copied().collect();
        println!("{:?}: {faults:?}", started.elapsed());
        for fault in &faults {
            begin(&mut scene, &polling, *fault, faults.len() > 1);
        }
        scene.try_apply(round % 2, &format!("round {round}")).await;
        polling.report_health(&format!("round {round}"), round % 2, 2);
        scene.traffic(Duration::from_millis(random.random_range(500..4_000))).await;
        for fault in &faults {
            end(&mut scene, *fault).await;
        }
        println!("asked without need so far: {}", scene.fleet.count(|seen| seen.needless_asks));
        // Sometimes it can settle before the next, sometimes it cannot.
        scene.traffic(Duration::from_millis(random.random_range(0..6_000))).await;
    }

    scene.apply_when_possible("at last").await;
    scene.fleet.all_connected().await;
    scene.fleet.all_run("a.yaml", "at last").await;
    let ctl = scene.cluster.ctl(1);
    ctl.agents_say(&scene.fleet).await;
    ctl.agents_say(&polling).await;
    ctl.settled_among(&scene.fleet).await;
    scene.cluster.nothing_is_pending().await;
    for fleet in [&scene.fleet, &polling] {
        assert_eq!(fleet.count(|seen| seen.new_uids), 0, "nobody has a double");
    }
    assert_eq!(scene.fleet.count(|seen| seen.needless_asks), 0, "needless requests for full state");
    // Known: a gateway asks an agent whose polls went elsewhere in between while no config service could tell it so.
    println!("polling agents asked without need: {}", polling.count(|seen| seen.needless_asks));
    assert_eq!(ctl.agents().await.len(), AGENTS + POLLING_AGENTS);
}

fn begin(scene: &mut Scene, polling: &Fleet, fault: Fault, is_one_of_several: bool) {
    let cluster = &mut scene.cluster;
    // A gateway that goes while it cannot hand over takes along what it alone knew, of agents that have left it too.
    if is_one_of_several || matches!(fault, Fault::GatewayKilled(_)) {
        polling.may_have_lost();
        scene.fleet.may_have_lost();
    }
    match fault {
        Fault::ServiceKilled(index) => cluster.services[index].kill(),
        Fault::AllServicesKilled => cluster.services.iter_mut().for_each(|service| service.kill()),
        Fault::GatewayKilled(index) => cluster.gateways[index].kill(),
        Fault::GatewayDrained(index) if cluster.gateways[index].is_running() => cluster.gateways[index].terminate(),
        Fault::GatewayDrained(_) => {}
        Fault::RedisKilled => cluster.redis.kill(),
        Fault::RedisFrozen => cluster.redis.freeze(),
        Fault::PostgresStopped => cluster.stop_postgres(Stop::Fast),
        Fault::PostgresCrashed => cluster.stop_postgres(Stop::Immediate),
        Fault::ConnectionsDropped => scene.fleet.drop_connections(),
        Fault::ConnectionsHalfOpen => scene.fleet.leave_connections_half_open(),
    }
}

async fn end(scene: &mut Scene, fault: Fault) {
    let cluster = &mut scene.cluster;
    match fault {
        Fault::ServiceKilled(index) => revive(&mut cluster.services[index]).await,
        Fault::AllServicesKilled => {
            for service in &mut cluster.services {
                revive(service).await;
            }
        }
        Fault::GatewayKilled(index) => revive(&mut cluster.gateways[index]).await,
        Fault::GatewayDrained(index) => {
            if cluster.gateways[index].is_running() {
                cluster.gateways[index].ended().await;
            }
            revive(&mut cluster.gateways[index]).await;
        }
        Fault::RedisKilled => cluster.redis.restart().await,
        Fault::RedisFrozen => cluster.redis.thaw(),
        Fault::PostgresStopped | Fault::PostgresCrashed => cluster.start_postgres(),
        Fault::ConnectionsDropped | Fault::ConnectionsHalfOpen => {}
    }
}

/// Starts a node if it does not run.
async fn revive(node: &mut crate::support::node::Node) {
    if !node.is_running() {
        node.start().await;
    }
}
