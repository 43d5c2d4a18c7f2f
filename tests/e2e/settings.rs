//! Connection settings with real clients, which build a connection from an offer alone.

use serde_json::{Value, json};

use crate::support::{
    client::{Client, Kind},
    eventually,
    standalone::Standalone,
};

/// To another address, by another transport, with another token.
#[tokio::test]
async fn go_moves_to_where_it_is_sent() {
    let server = Standalone::start().await;
    let (from, to) =
        (format!("ws://{}/v1/opamp", server.node.opamp()), format!("http://{}/v1/opamp", server.node.opamp()));
    let ctl = server.ctl();
    let Some(mut client) = Client::start(Kind::Go, &from, &server.agent_token(), "checkout") else { return };
    let uid = client.uid().await;
    let before = ctl.agent_is(&uid, "the agent is seen", |agent| agent["healthy"] == true).await;
    assert_eq!(before["transport"], "WEBSOCKET");

    let token = ctl.run(&["token", "create", "agent", "--name", "next"]).await.trim().to_owned();
    ctl.apply_written(&format!(
        "kind: ConnectionSettings\nname: move\nselector: service.name = checkout\nopamp:\n  endpoint: {to}\n  \
         heartbeat_interval: 1s\n  headers: {{Authorization: Bearer {token}}}\n"
    ))
    .await;
    let settings = client.event("settings", |_| true).await;
    assert_eq!((&settings["endpoint"], &settings["heartbeat"]), (&json!(to), &json!(1)));
    let stands = |agent: &Value| agent["offers"]["ConnectionSettings"].clone();
    let moved = |agent: &Value| agent["transport"] == "HTTP" && stands(agent)["status"] == "APPLIED";
    let agent = ctl.agent_is(&uid, "the agent has moved", moved).await;
    assert_eq!(stands(&agent)["reported_hash"], stands(&agent)["desired_hash"]);

    // The old token is good for nothing any more, and nobody needs it.
    ctl.run(&["token", "revoke", "standalone-agent"]).await;
    ctl.json(&["restart", &uid]).await;
    client.event("command", |_| true).await;
    ctl.apply("base", "service.name = checkout", "a.yaml", "afterwards\n").await;
    let config = client.event("config", |_| true).await;
    let runs = |agent: &Value| agent["config_status"] == "APPLIED" && agent["reported_config_hash"] == config["hash"];
    ctl.agent_is(&uid, "the configuration is APPLIED", runs).await;
    let polls = async || server.node.metric("muster_gateway_http_messages_total").await;
    let so_far = eventually("polls are counted", polls).await;
    eventually("it polls on", async || (polls().await? >= so_far + 3.0).then_some(())).await;
    assert_eq!(client.all("settings").len(), 1, "though it connected anew: {:?}", client.events());
    assert_eq!(server.node.metric("muster_gateway_offers_sent_total").await, Some(2.0));
    client.stop().await;
}
