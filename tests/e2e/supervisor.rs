//! The OpenTelemetry Collector's Supervisor with a real collector: what it is offered is what the collector runs.

use serde_json::Value;

use crate::support::{
    collector::{Options, Port, Supervisor},
    ctl::Ctl,
    eventually,
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
    async fn set(transport: &str, options: Options) -> Option<Self> {
        let server = Standalone::start().await;
        let url = format!("{transport}://{}/v1/opamp", server.node.opamp());
        let supervisor = Supervisor::start(&url, &server.agent_token(), "shop", options)?;
        let ctl = server.ctl();
        let healthy = eventually("a healthy collector is seen", async || {
            let agents = ctl.agents().await;
            agents.into_iter().find(|agent| agent["connected"] == true && agent["healthy"] == true)
        });
        let uid = healthy.await["instance_uid"].as_str().unwrap().to_owned();
        Some(Self { server, ctl, supervisor, uid })
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
        let messages = async || {
            let websocket = self.server.node.metric("muster_gateway_websocket_messages_total").await?;
            Some(websocket + self.server.node.metric("muster_gateway_http_messages_total").await?)
        };
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
    let Some(scene) = Scene::set("ws", Options::default()).await else { return };
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
    scene.ctl.agent_is(&scene.uid, "the collector is well again", |agent| agent["healthy"] == true).await;
    // Back to what the first revision said. It has the same hash, and was applied once: still it has to be offered.
    assert_eq!(scene.runs(first).await, good);
    assert!(!second.answers().await, "one collector runs");
    scene.messages_later(2).await;
    assert_eq!(scene.supervisor.offers(), [&*good, &*bad, &*better, &*good]);
    assert_eq!(scene.offers_sent().await, 4.0, "nothing was sent that it did not take");
}

#[tokio::test]
async fn a_configuration_that_fails_its_check_leaves_the_former_one_running() {
    let Some(scene) = Scene::set("ws", Options { validate_config: true }).await else { return };
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
    assert_eq!(scene.offers_sent().await, 3.0);
}

#[tokio::test]
async fn a_restart_of_either_side_changes_nothing() {
    let Some(mut scene) = Scene::set("ws", Options::default()).await else { return };
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
