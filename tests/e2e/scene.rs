//! Two gateways, two config service replicas, Postgres, Redis and a fleet, in which everything has settled.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::{agent::Fleet, cluster::Cluster, eventually};

pub const AGENTS: usize = 1_000;

pub struct Scene {
    pub cluster: Cluster,
    pub fleet: Fleet,
    /// How many rounds of statuses were reported.
    round: usize,
}

impl Scene {
    /// Everything runs, every agent has its first configuration.
    pub async fn set() -> Self {
        Self::set_with(AGENTS).await
    }

    pub async fn set_with(agents: usize) -> Self {
        Self::of(Cluster::start(2, 2).await, agents).await
    }

    /// As [`Self::set`], with agents that send heartbeats only when told.
    pub async fn set_quiet() -> Self {
        let cluster = Cluster::start(2, 2).await;
        let fleet = Fleet::start_quiet(AGENTS, "web", cluster.opamp(), cluster.agent_token());
        Self::with_fleet(cluster, fleet).await
    }

    pub async fn of(cluster: Cluster, agents: usize) -> Self {
        let fleet = Fleet::start(agents, "web", cluster.opamp(), cluster.agent_token());
        Self::with_fleet(cluster, fleet).await
    }

    pub async fn with_fleet(cluster: Cluster, fleet: Fleet) -> Self {
        fleet.all_connected().await;
        let scene = Self { cluster, fleet, round: 0 };
        scene.apply(0, "before").await;
        scene.everything_arrives(0, "before").await;
        scene
    }

    /// SIGKILL. Returns how many agents were connected to it.
    pub fn kill_gateway(&mut self, index: usize) -> usize {
        let address = self.cluster.gateways[index].opamp();
        let agents = self.fleet.agents();
        self.cluster.gateways[index].kill();
        self.fleet.gateway_dies(address);
        agents.iter().filter(|agent| agent.gateway() == Some(address)).count()
    }

    pub async fn apply(&self, service: usize, text: &str) {
        self.cluster.ctl(service).apply("base", "service.name = web", "a.yaml", text).await;
    }

    /// Statuses from a tenth of the agents after another, for about this long.
    pub async fn traffic(&mut self, length: Duration) {
        const PAUSE: Duration = Duration::from_millis(250);
        for _ in 0..(length.as_millis() / PAUSE.as_millis()).max(1) {
            self.round += 1;
            self.fleet.report_health(&format!("round {}", self.round), self.round % 10, 10);
            sleep(PAUSE).await;
        }
    }

    /// Every agent runs `text`, and the store says so, and has every agent's last status.
    pub async fn everything_arrives(&self, service: usize, text: &str) {
        self.fleet.all_connected().await;
        self.fleet.all_run("a.yaml", text).await;
        self.cluster.ctl(service).agents_say(&self.fleet).await;
        self.cluster.ctl(service).settled_agents(self.fleet.len()).await;
    }

    pub fn nobody_noticed(&self) {
        assert_eq!(self.fleet.count(|seen| seen.disconnects), 0, "nobody was disconnected");
        self.nobody_was_asked_without_need();
    }

    pub fn nobody_was_asked_without_need(&self) {
        assert_eq!(self.fleet.count(|seen| seen.needless_asks), 0);
        assert_eq!(self.fleet.count(|seen| seen.new_uids), 0);
    }

    /// Waits until all are at the gateway that was started under this name, to which it adds a part of its own.
    pub async fn all_are_at(&self, gateway: &str) {
        let is_there = |agent: &serde_json::Value| {
            agent["gateway"]
                .as_str()
                .is_some_and(|name| name.strip_prefix(gateway).is_some_and(|rest| rest.starts_with('-')))
        };
        self.cluster.ctl(0).all_agents(self.fleet.len(), "at the other gateway", is_there).await;
    }

    /// Applies a change if that can be done now.
    pub async fn try_apply(&self, service: usize, text: &str) -> bool {
        self.cluster.ctl(service).try_apply("base", "service.name = web", "a.yaml", text).await.succeeded
    }

    /// A replica may still find its connections to Postgres broken: then it says so, and the operator tries again.
    pub async fn apply_when_possible(&self, text: &str) {
        let ctl = self.cluster.ctl(0);
        eventually("a change is taken", async || {
            let outcome = ctl.try_apply("base", "service.name = web", "a.yaml", text).await;
            outcome.succeeded.then_some(())
        })
        .await;
    }
}
