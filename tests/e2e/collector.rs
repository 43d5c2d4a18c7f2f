//! The OpenTelemetry Collector on its own, with the extension that speaks OpAMP.

use serde_json::{Value, json};

use crate::support::{collector::Collector, eventually, standalone::Standalone};

#[tokio::test]
async fn the_extension_over_websocket() {
    is_seen("ws", "").await;
}

#[tokio::test]
async fn the_extension_over_http() {
    is_seen("http", "polling_interval: 1s").await;
}

/// The uid that the extension is configured with.
const UID: &str = "0191f3c8-5b1a-7cc1-a2b3-c4d5e6f70809";

/// Starts a collector whose extension connects to this server.
fn start(server: &Standalone, transport: &str, more: &str) -> Option<Collector> {
    Collector::start(&format!(
        "extensions:\n  opamp:\n    instance_uid: {UID}\n    server:\n      {transport}:\n        endpoint: \
         {transport}://{}/v1/opamp\n        headers: {{Authorization: \"Bearer {}\"}}\n        tls: {{insecure: \
         true}}\n        {more}\n    capabilities: {{accepts_restart_command: true}}\n    agent_description: \
         {{non_identifying_attributes: {{team: interop}}}}\nreceivers: {{nop: {{}}}}\nexporters: {{nop: \
         {{}}}}\nservice:\n  extensions: [opamp]\n  pipelines: {{traces: {{receivers: [nop], exporters: \
         [nop]}}}}\n  telemetry: {{metrics: {{level: none}}}}\n",
        server.node.opamp(),
        server.agent_token()
    ))
}

fn is_well(agent: &Value) -> bool {
    agent["connected"] == true && agent["healthy"] == true
}

/// The extension only reports: it takes no configuration, and is offered none.
async fn is_seen(transport: &str, more: &str) {
    let server = Standalone::start().await;
    let (ctl, uid) = (server.ctl(), UID);
    let Some(mut collector) = start(&server, transport, more) else { return };

    let agent = ctl.agent_is(uid, "the collector is healthy", is_well).await;
    assert_eq!(agent["attributes"]["service.name"], "otelcol");
    assert_eq!(agent["attributes"]["service.version"], "0.149.0");
    assert_eq!(agent["attributes"]["team"], "interop");
    assert_eq!(agent["attributes"]["os.type"], "linux");
    // Health comes as a tree: of pipelines, and of the components in each.
    let tree = |agent: &Value| agent["components"]["pipeline:traces"]["healthy"] == true;
    let agent = ctl.agent_is(uid, "its pipeline is healthy", tree).await;
    assert_eq!(agent["components"]["pipeline:traces"]["components"]["receiver:nop"]["healthy"], true, "{agent}");
    let health = ctl.json(&["agent", "health", uid, "--history"]).await;
    assert_eq!(health["health"]["components"]["pipeline:traces"]["status"], "StatusOK", "{health}");
    let became_well = |transition: &Value| transition["component"] == json!([]) && transition["healthy"] == true;
    assert!(health["history"].as_array().unwrap().iter().any(became_well), "{health}");
    let components = ctl.components(uid).await;
    let namespace = &components["receivers"]["components"]["nop"]["metadata"]["code.namespace"];
    assert_eq!(namespace, "go.opentelemetry.io/collector/receiver/nopreceiver v0.149.0", "{components}");
    let shown = ["agent", "config", uid, "--effective"];
    eventually("what it runs is shown", async || ctl.run(&shown).await.contains("pipelines:").then_some(())).await;

    ctl.apply("base", "team = interop", "collector.yaml", "receivers: {}\n").await;
    collector.stop().await;
    // Over HTTP it is missed later, after as many silent polls as the server is set to wait for.
    if transport == "ws" {
        ctl.agent_is(uid, "the collector has left", |agent| agent["connected"] == false).await;
    }
    assert_eq!(server.node.metric("muster_gateway_offers_sent_total").await, Some(0.0));
}

/// It has the collector read its configuration again, and start anew with all that is in it, itself too.
#[tokio::test]
async fn the_extension_restarts_its_collector_and_comes_back() {
    let mut server = Standalone::start().await;
    let ctl = server.ctl();
    let Some(mut collector) = start(&server, "ws", "") else { return };
    ctl.agent_is(UID, "the collector is healthy", is_well).await;
    let starts = |collector: &Collector| collector.output().matches("Everything is ready").count();
    assert_eq!(starts(&collector), 1);
    let command = ctl.json(&["restart", UID]).await;
    assert_eq!(command["sent"], 1, "{command}");
    eventually("the collector starts again", async || (starts(&collector) > 1).then_some(())).await;
    ctl.agent_is(UID, "it is back", is_well).await;

    server.node.terminate();
    server.node.ended().await;
    server.node.start().await;
    server.node.ready().await;
    ctl.agent_is(UID, "it has found the server again", is_well).await;
    assert_eq!(starts(&collector), 2, "told once");
    collector.stop().await;
    ctl.agent_is(UID, "the collector has left", |agent| agent["connected"] == false).await;
}

/// A machine was copied with all that is on it.
#[tokio::test]
async fn two_collectors_with_one_uid_become_two() {
    let server = Standalone::start().await;
    let ctl = server.ctl();
    let Some(_first) = start(&server, "ws", "") else { return };
    ctl.agent_is(UID, "the first is healthy", is_well).await;
    let Some(mut second) = start(&server, "ws", "") else { return };
    let agents =
        ctl.all_agents(2, "well, and described", |agent| is_well(agent) && agent["attributes"]["team"] == "interop");
    let agents = agents.await;
    let other = agents.iter().find(|agent| agent["instance_uid"] != UID).unwrap();
    let other = other["instance_uid"].as_str().unwrap();
    second.stop().await;
    ctl.agent_is(other, "the second has left", |agent| agent["connected"] == false).await;
    ctl.agent_is(UID, "the first is still there", is_well).await;
}
