//! The OpenTelemetry Collector's Supervisor with a real collector: what it is offered is what the collector runs.

use serde_json::Value;

use crate::support::{
    client::{Client, Kind},
    collector::{Collector, Options, Port, Supervisor},
    ctl::Ctl,
    eventually,
    sink::Sink,
    standalone::Standalone,
};

const SELECTOR: &str = "service.name = shop";
const FILE: &str = "collector.yaml";
/// No collector has such a receiver.
const BAD: &str = "receivers: {unheard-of: {}}\nservice: {pipelines: {traces: {receivers: [unheard-of]}}}\n";

struct Scene {
    server: Standalone,
    ctl: Ctl,
    supervisor: Supervisor,
    uid: String,
}

impl Scene {
    /// A supervisor that the server knows, with a collector that has nothing to do.
    async fn set(options: Options) -> Option<Self> {
        let server = Standalone::start().await;
        let url = format!("ws://{}/v1/opamp", server.node.opamp());
        let supervisor = Supervisor::start(&url, &server.agent_token(), "shop", options)?;
        let ctl = server.ctl();
        let healthy = eventually("a healthy collector is seen", async || {
            let agents = ctl.agents().await;
            agents.into_iter().find(|agent| agent["connected"] == true && agent["healthy"] == true)
        });
        let uid = healthy.await["instance_uid"].as_str().unwrap().to_owned();
        Some(Self { server, ctl, supervisor, uid })
    }

    /// As [`Self::set`], with one that has been told to send a heartbeat every second: what would happen at its next message
    /// happens soon. It has connected anew for that, and one offer was sent.
    async fn set_lively(options: Options) -> Option<Self> {
        let scene = Self::set(options).await?;
        scene.connects_by("ws").await;
        scene.messages_later(1).await;
        Some(scene)
    }

    /// Has it connect by this transport, and send a heartbeat every second.
    async fn connects_by(&self, transport: &str) {
        let before = self.supervisor.connections();
        let manifest = format!(
            "kind: ConnectionSettings\nname: connection\nselector: {SELECTOR}\nopamp:\n  endpoint: \
             {transport}://{}/v1/opamp\n  heartbeat_interval: 1s\n  headers: {{Authorization: Bearer {}}}\n",
            self.server.node.opamp(),
            self.server.agent_token()
        );
        self.ctl.apply_written(&manifest).await;
        let connects = async || (self.supervisor.connections() > before).then_some(());
        eventually("it connects anew", connects).await;
    }

    /// Changes what the agent should run. Gives the hash of it.
    async fn apply(&self, body: &str) -> String {
        let before = self.ctl.agent(&self.uid).await.unwrap()["desired_config_hash"].clone();
        self.ctl.apply("base", SELECTOR, FILE, body).await;
        let agent = self
            .ctl
            .agent_is(&self.uid, "another configuration is due", |agent| agent["desired_config_hash"] != before)
            .await;
        agent["desired_config_hash"].as_str().unwrap().to_owned()
    }

    /// Waits until what should run is what the agent last reported, with this status.
    async fn has_settled(&self, status: &str) -> Value {
        self.ctl
            .agent_is(&self.uid, &format!("the configuration is {status}"), |agent| {
                agent["config_status"] == status && agent["reported_config_hash"] == agent["desired_config_hash"]
            })
            .await
    }

    /// Applies a configuration that the collector can run, and waits until it does.
    async fn runs(&self, port: Port) -> String {
        let hash = self.apply(&port.config()).await;
        self.has_settled("APPLIED").await;
        assert!(port.answers().await, "the collector runs what it was given");
        hash
    }

    /// Waits until the server has read and answered so many more messages of agents.
    async fn messages_later(&self, count: u32) {
        let messages = async || self.server.messages_received().await;
        let before = eventually("messages are counted", &messages).await;
        eventually("the agent goes on talking", async || {
            (messages().await? >= before + f64::from(count)).then_some(())
        })
        .await;
    }

    async fn offers_sent(&self) -> f64 {
        self.server.node.metric("muster_gateway_offers_sent_total").await.unwrap()
    }
}

#[tokio::test]
async fn a_bad_configuration_is_not_offered_again_and_the_next_one_is_run() {
    let Some(scene) = Scene::set_lively(Options::default()).await else { return };
    let (first, second) = (Port::free(), Port::free());
    let good = scene.runs(first).await;
    let effective = scene.ctl.run(&["agent", "config", &scene.uid, "--effective"]).await;
    assert!(effective.contains("health_check") && effective.contains("opamp"), "all that it runs: {effective}");

    // The collector ends as soon as it has read it, is started again every five seconds, and each time its end is
    // reported: a server that offers whatever is not applied would do so now.
    let bad = scene.apply(BAD).await;
    let agent = scene.has_settled("FAILED").await;
    assert!(agent["config_error"].as_str().unwrap().contains("exit code 1"), "{agent}");
    scene.messages_later(4).await;
    assert_eq!(scene.supervisor.offers(), [&*good, &*bad]);
    let agent = scene.has_settled("FAILED").await;
    assert_eq!((&agent["healthy"], first.answers().await), (&Value::Bool(false), false));

    let better = scene.runs(second).await;
    let is_what_was_offered = |agent: &Value| agent["effective_config"] == "MATCHES" && agent["status"] == "HEALTHY";
    scene.ctl.agent_is(&scene.uid, "it runs what it was offered, and says so", is_what_was_offered).await;
    scene.ctl.agent_is(&scene.uid, "the collector is well again", |agent| agent["healthy"] == true).await;
    // Back to what the first revision said. It has the same hash, and was applied once: still it has to be offered.
    assert_eq!(scene.runs(first).await, good);
    assert!(!second.answers().await, "one collector runs");
    scene.messages_later(2).await;
    assert_eq!(scene.supervisor.offers(), [&*good, &*bad, &*better, &*good]);
    assert_eq!(scene.offers_sent().await, 1.0 + 4.0, "nothing was sent that it did not take");
}

#[tokio::test]
async fn a_configuration_that_fails_its_check_leaves_the_former_one_running() {
    let Some(scene) = Scene::set_lively(Options { validate_config: true, ..Options::default() }).await else { return };
    let (first, second) = (Port::free(), Port::free());
    let good = scene.runs(first).await;
    let starts = scene.supervisor.collector_starts();

    let bad = scene.apply(BAD).await;
    let agent = scene.has_settled("FAILED").await;
    assert!(agent["config_error"].as_str().unwrap().contains("validation failed"), "{agent}");
    scene.messages_later(2).await;
    assert!(first.answers().await, "the collector runs on");
    assert_eq!(scene.supervisor.collector_starts(), starts);
    assert_eq!(scene.supervisor.offers(), [&*good, &*bad]);

    let better = scene.runs(second).await;
    assert_eq!(scene.supervisor.offers(), [&*good, &*bad, &*better]);
    assert_eq!((scene.supervisor.connections(), scene.offers_sent().await), (2, 1.0 + 3.0));
}

#[tokio::test]
async fn a_restart_of_either_side_changes_nothing() {
    let Some(mut scene) = Scene::set(Options::default()).await else { return };
    let port = Port::free();
    let good = scene.runs(port).await;

    scene.supervisor.stop().await;
    assert!(!port.answers().await);
    scene.ctl.agent_is(&scene.uid, "the supervisor has left", |agent| agent["connected"] == false).await;
    scene.supervisor.start_again();
    let is_back = |agent: &Value| agent["connected"] == true && agent["healthy"] == true;
    scene.ctl.agent_is(&scene.uid, "the supervisor is back", is_back).await;
    assert!(port.answers().await, "it runs what it has stored");
    assert_eq!(scene.offers_sent().await, 1.0);

    scene.server.node.terminate();
    scene.server.node.ended().await;
    scene.server.node.start().await;
    scene.server.node.ready().await;
    scene.ctl.agent_is(&scene.uid, "the supervisor has found the server again", is_back).await;
    assert!(port.answers().await);
    assert_eq!(scene.has_settled("APPLIED").await["desired_config_hash"], good);
    assert_eq!((scene.supervisor.offers(), scene.offers_sent().await), (vec![good], 0.0));
}

#[tokio::test]
async fn a_restart_command_restarts_the_collector_once() {
    let Some(scene) = Scene::set_lively(Options::default()).await else { return };
    let port = Port::free();
    let good = scene.runs(port).await;
    let components = scene.ctl.components(&scene.uid).await;
    assert!(
        components["extensions"]["components"]["opamp"].is_object(),
        "what its collector is built from: {components}"
    );

    let starts = scene.supervisor.collector_starts();
    let command = scene.ctl.json(&["restart", &scene.uid]).await;
    assert_eq!(command["sent"], 1, "{command}");
    let started = async || (scene.supervisor.collector_starts() > starts && port.answers().await).then_some(());
    eventually("the collector runs again", started).await;
    scene.messages_later(3).await;
    assert_eq!(scene.supervisor.collector_starts(), starts + 1);
    assert_eq!(scene.supervisor.offers(), [good], "what it runs is no news");
    scene.ctl.agent_is(&scene.uid, "it is well", |agent| agent["healthy"] == true).await;
}

/// The Supervisor forgets the hash of what it was offered, and starts to count anew with each client that it makes.
#[tokio::test]
async fn it_moves_once_to_where_it_is_sent_and_beats_as_it_is_told() {
    let Some(scene) = Scene::set(Options { validate_config: true, ..Options::default() }).await else { return };
    let before = scene.ctl.agent(&scene.uid).await.unwrap();
    assert_eq!(before["transport"], "WEBSOCKET");
    scene.connects_by("http").await;
    scene.ctl.agent_is(&scene.uid, "it polls", |agent| agent["transport"] == "HTTP").await;
    // Far more than it says within the half minute of its usual heartbeat.
    scene.messages_later(10).await;
    assert_eq!(scene.supervisor.connections(), 2, "it connects anew once");

    let (first, second) = (Port::free(), Port::free());
    let good = scene.runs(first).await;
    let bad = scene.apply(BAD).await;
    scene.has_settled("FAILED").await;
    scene.messages_later(3).await;
    assert!(first.answers().await, "the collector runs on");
    let better = scene.runs(second).await;
    assert_eq!(scene.supervisor.offers(), [good, bad, better]);
    assert_eq!((scene.supervisor.connections(), scene.offers_sent().await), (2, 4.0));
}

#[tokio::test]
async fn the_collector_sends_its_own_telemetry_where_it_is_told() {
    let Some(scene) = Scene::set_lively(Options::default()).await else { return };
    let (port, logs) = (Port::free(), Sink::start().await);
    let metrics = Collector::start(&port.otlp_sink()).expect("the Supervisor is there too");
    eventually("the sink listens", async || port.listens().await.then_some(())).await;
    let addresses = [port.to_string(), logs.address.to_string()];
    scene
        .ctl
        .apply_written(&format!(
            "kind: ConnectionSettings\nname: telemetry\nselector: {SELECTOR}\n\
             own_metrics: {{endpoint: \"http://{}/v1/metrics\"}}\n\
             own_logs: {{endpoint: \"http://{}/v1/logs\", headers: {{X-Scope: interop}}}}\n",
            addresses[0], addresses[1]
        ))
        .await;
    let arrives = async || logs.has("/v1/logs", "x-scope: interop").then_some(());
    eventually("logs arrive", arrives).await;
    let shown = async || scene.ctl.run(&["agent", "config", &scene.uid, "--effective"]).await;
    let is_shown = async || {
        let config = shown().await;
        addresses.iter().all(|address| config.contains(address)).then_some(())
    };
    eventually("both places are in the effective configuration", is_shown).await;
    // A collector sends its metrics once a minute, and when it ends.
    scene.ctl.json(&["restart", &scene.uid]).await;
    let arrives = async || {
        let output = metrics.output();
        (output.contains("otelcol_process_uptime") && output.contains(&scene.uid)).then_some(())
    };
    eventually("metrics of this very collector arrive", arrives).await;
    scene.messages_later(3).await;
    assert_eq!(scene.offers_sent().await, 2.0, "offered once");

    scene.ctl.run(&["delete", "policy", "telemetry"]).await;
    let is_gone = async || {
        let config = shown().await;
        (!addresses.iter().any(|address| config.contains(address))).then_some(())
    };
    eventually("it is withdrawn", is_gone).await;
    scene.ctl.agent_is(&scene.uid, "the collector is well", |agent| agent["healthy"] == true).await;
    scene.messages_later(3).await;
    assert_eq!(scene.offers_sent().await, 3.0, "offered, and withdrawn");
}

/// A machine was copied, with what the Supervisor on it had stored.
#[tokio::test]
async fn a_supervisor_whose_uid_is_taken_gets_another_and_keeps_it() {
    let server = Standalone::start().await;
    let (url, token, ctl) = (format!("ws://{}/v1/opamp", server.node.opamp()), server.agent_token(), server.ctl());
    let Some(mut original) = Client::start(Kind::Go, &url, &token, "original") else { return };
    let uid = original.uid().await;
    ctl.agent_is(&uid, "the original is seen", |agent| agent["connected"] == true).await;
    let options = Options { uid: Some(uid.parse().unwrap()), ..Options::default() };
    let Some(mut supervisor) = Supervisor::start(&url, &token, "shop", options) else { return };
    let other = eventually("the copy is seen as another agent", async || {
        let agents = ctl.agents().await;
        agents.into_iter().find(|agent| agent["instance_uid"] != uid && agent["healthy"] == true)
    })
    .await;
    let other = other["instance_uid"].as_str().unwrap().to_owned();
    // The same after it was started again: it has stored it.
    supervisor.stop().await;
    ctl.agent_is(&other, "the copy has left", |agent| agent["connected"] == false).await;
    supervisor.start_again();
    ctl.agent_is(&other, "the copy is back", |agent| agent["connected"] == true && agent["healthy"] == true).await;
    ctl.apply("base", SELECTOR, FILE, &Port::free().config()).await;
    ctl.agent_is(&other, "it is configured", |agent| agent["config_status"] == "APPLIED").await;
    assert_eq!(ctl.agents().await.len(), 2);
    assert_eq!(original.all("identity"), [] as [Value; 0], "the original has kept its own");
    supervisor.stop().await;
    original.stop().await;
}
