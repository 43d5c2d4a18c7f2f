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

/// The extension only reports: it takes no configuration, and is offered none.
async fn is_seen(transport: &str, more: &str) {
    let server = Standalone::start().await;
    let ctl = server.ctl();
    let uid = "0191f3c8-5b1a-7cc1-a2b3-c4d5e6f70809";
    let config = format!(
        "extensions:\n  opamp:\n    instance_uid: {uid}\n    server:\n      {transport}:\n        endpoint: \
         {transport}://{}/v1/opamp\n        headers: {{Authorization: \"Bearer {}\"}}\n        tls: {{insecure: \
         true}}\n        {more}\n    agent_description: {{non_identifying_attributes: {{team: interop}}}}\n\
         receivers: {{nop: {{}}}}\nexporters: {{nop: {{}}}}\nservice:\n  extensions: [opamp]\n  pipelines: {{traces: \
         {{receivers: [nop], exporters: [nop]}}}}\n  telemetry: {{metrics: {{level: none}}}}\n",
        server.node.opamp(),
        server.agent_token()
    );
    let Some(mut collector) = Collector::start(&config) else { return };

    let agent = ctl.agent_is(uid, "the collector is healthy", |agent| agent["healthy"] == true).await;
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
