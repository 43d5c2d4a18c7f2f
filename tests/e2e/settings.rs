//! Connection settings with real clients, which build a connection from an offer alone.

use serde_json::{Value, json};

use crate::support::{
    client::{Client, Kind},
    eventually,
    standalone::Standalone,
    tls::Ca,
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

/// From a token to a client certificate, which is all that it shows then.
#[tokio::test]
async fn go_takes_a_client_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let [servers, clients] = ["servers", "clients"].map(|name| {
        let ca = Ca::new(name);
        let path = folder.path().join(format!("{name}.ca"));
        std::fs::write(&path, &ca.pem).unwrap();
        (ca, path.to_string_lossy().into_owned())
    });
    let (certificate, key) = servers.0.server().write(folder.path(), "server");
    let server = Standalone::start_with(&[
        "--tls-certificate-file",
        &certificate.to_string_lossy(),
        "--tls-key-file",
        &key.to_string_lossy(),
        "--client-certificates",
        "optional",
        "--client-ca-file",
        &clients.1,
    ])
    .await;
    let (ctl, url) = (server.ctl(), format!("wss://{}/v1/opamp", server.node.opamp()));
    let more = ["--ca", &servers.1];
    let Some(mut client) = Client::start_with(Kind::Go, &url, &server.agent_token(), "checkout", &more) else { return };
    let uid = client.uid().await;
    ctl.agent_is(&uid, "the agent is seen", |agent| agent["healthy"] == true).await;

    let own = clients.0.client("checkout", Some(&format!("urn:muster:agent:{uid}")));
    let (certificate, key) = own.write(folder.path(), "own");
    ctl.apply_written(&format!(
        "kind: ConnectionSettings\nname: own\nselector: service.name = checkout\nopamp:\n  endpoint: {url}\n  \
         heartbeat_interval: 1s\n  certificate: {{cert_file: {}, key_file: {}}}\n",
        certificate.display(),
        key.display()
    ))
    .await;
    let settings = client.event("settings", |_| true).await;
    assert_eq!((&settings["certificate"], &settings["headers"]), (&json!(own.certificate), &json!({})));
    let stands =
        |agent: &Value| agent["connected"] == true && agent["offers"]["ConnectionSettings"]["status"] == "APPLIED";
    ctl.agent_is(&uid, "the agent has connected with it", stands).await;
    // The token is good for nothing any more, and nobody needs it.
    ctl.run(&["token", "revoke", "standalone-agent"]).await;
    ctl.json(&["restart", &uid]).await;
    client.event("command", |_| true).await;
    ctl.apply("base", "service.name = checkout", "a.yaml", "afterwards\n").await;
    let config = client.event("config", |_| true).await;
    let runs = |agent: &Value| agent["config_status"] == "APPLIED" && agent["reported_config_hash"] == config["hash"];
    ctl.agent_is(&uid, "the configuration is APPLIED", runs).await;
    assert_eq!(client.all("settings").len(), 1, "{:?}", client.events());
    client.stop().await;
}
