//! Nodes that die during traffic. Whatever dies, every status and every offer still arrives, and no agent is asked
//! for full state without need.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::{agent::Fleet, cluster::Cluster, postgres::Stop};

const AGENTS: usize = 1_000;

/// Long enough for leases to run out and for every back-off to reach its cap.
const OUTAGE: Duration = Duration::from_secs(30);

struct Scene {
    cluster: Cluster,
    fleet: Fleet,
    /// How many rounds of statuses were reported.
    round: usize,
}

impl Scene {
    /// Everything runs, every agent has its first configuration.
    async fn set() -> Self {
        let cluster = Cluster::start(2, 2).await;
        let fleet = Fleet::start(AGENTS, "web", cluster.opamp(), cluster.agent_token());
        fleet.all_connected().await;
        let scene = Self { cluster, fleet, round: 0 };
        scene.apply(0, "before").await;
        scene.fleet.all_run("a.yaml", "before").await;
        scene.cluster.ctl(0).settled_agents(AGENTS).await;
        scene
    }

    async fn apply(&self, service: usize, text: &str) {
        self.cluster.ctl(service).apply("base", "service.name = web", "a.yaml", text).await;
    }

    /// Statuses from a tenth of the agents after another, for about this long.
    async fn traffic(&mut self, length: Duration) {
        const PAUSE: Duration = Duration::from_millis(250);
        for _ in 0..(length.as_millis() / PAUSE.as_millis()).max(1) {
            self.round += 1;
            self.fleet.report_health(&format!("round {}", self.round), self.round % 10, 10);
            sleep(PAUSE).await;
        }
    }

    /// Every agent runs `text`, and the store says so, and has every agent's last status.
    async fn everything_arrives(&self, service: usize, text: &str) {
        self.fleet.all_connected().await;
        self.fleet.all_run("a.yaml", text).await;
        self.cluster.ctl(service).agents_say(&self.fleet).await;
        self.cluster.ctl(service).settled_agents(AGENTS).await;
    }

    fn nobody_noticed(&self) {
        assert_eq!(self.fleet.count(|seen| seen.disconnects), 0, "nobody was disconnected");
        self.nobody_was_asked_without_need();
    }

    fn nobody_was_asked_without_need(&self) {
        assert_eq!(self.fleet.count(|seen| seen.needless_asks), 0);
        assert_eq!(self.fleet.count(|seen| seen.new_uids), 0);
    }
}

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

impl Scene {
    async fn all_are_at(&self, gateway: &str) {
        self.cluster.ctl(0).all_agents(AGENTS, "at the other gateway", |agent| agent["gateway"] == gateway).await;
    }

    /// A replica may still find its connections to Postgres broken: then it says so, and the operator tries again.
    async fn apply_when_possible(&self, text: &str) {
        let ctl = self.cluster.ctl(0);
        crate::support::eventually("a change is taken", async || {
            let outcome = ctl.try_apply("base", "service.name = web", "a.yaml", text).await;
            outcome.succeeded.then_some(())
        })
        .await;
    }
}
