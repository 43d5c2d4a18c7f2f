//! Clients that people get from package registries, against `muster standalone`: each connects, is seen, gets a
//! configuration that `musterctl apply` made, shows as APPLIED, and comes back when the server does.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    client::{Client, Kind},
    ctl::Ctl,
    eventually,
    standalone::Standalone,
};

const FILE: &str = "collector.yaml";

/// What a client can do beyond the least.
#[derive(Clone, Copy)]
struct Traits {
    transport: &'static str,
    reports_effective_config: bool,
    reports_health: bool,
    /// Says when it stops.
    says_goodbye: bool,
}

#[tokio::test]
async fn go_over_websocket() {
    let traits = Traits { transport: "ws", reports_effective_config: true, reports_health: true, says_goodbye: true };
    is_configured(Kind::Go, traits).await;
}

#[tokio::test]
async fn go_over_http() {
    let traits =
        Traits { transport: "http", reports_effective_config: true, reports_health: true, says_goodbye: false };
    is_configured(Kind::Go, traits).await;
}

#[tokio::test]
async fn python_over_http() {
    let traits =
        Traits { transport: "http", reports_effective_config: true, reports_health: false, says_goodbye: true };
    is_configured(Kind::Python, traits).await;
}

#[tokio::test]
async fn node_over_http() {
    let traits =
        Traits { transport: "http", reports_effective_config: false, reports_health: false, says_goodbye: false };
    is_configured(Kind::Node, traits).await;
}

#[tokio::test]
async fn java_over_websocket() {
    let traits = Traits { transport: "ws", reports_effective_config: true, reports_health: false, says_goodbye: true };
    is_configured(Kind::Java, traits).await;
}

#[tokio::test]
async fn java_over_http() {
    let traits =
        Traits { transport: "http", reports_effective_config: true, reports_health: false, says_goodbye: false };
    is_configured(Kind::Java, traits).await;
}

#[tokio::test]
async fn a_client_with_a_wrong_token_is_refused() {
    let server = Standalone::start().await;
    let url = format!("ws://{}/v1/opamp", server.node.opamp());
    let Some(mut client) = Client::start(Kind::Go, &url, "muster_agent_wrong", "intruder") else { return };
    client.event("error", |error| error["message"] == "websocket: bad handshake").await;
    assert!(server.ctl().agents().await.is_empty());
}

#[tokio::test]
async fn go_over_websocket_comes_back() {
    comes_back(Kind::Go, "ws").await;
}

#[tokio::test]
async fn go_over_http_comes_back() {
    comes_back(Kind::Go, "http").await;
}

#[tokio::test]
async fn java_over_websocket_comes_back() {
    comes_back(Kind::Java, "ws").await;
}

#[tokio::test]
async fn java_over_http_comes_back() {
    comes_back(Kind::Java, "http").await;
}

#[tokio::test]
async fn python_comes_back() {
    comes_back(Kind::Python, "http").await;
}

#[tokio::test]
async fn node_comes_back() {
    comes_back(Kind::Node, "http").await;
}

#[tokio::test]
async fn go_rolls_back_by_itself_over_websocket() {
    rolls_back("ws").await;
}

#[tokio::test]
async fn go_rolls_back_by_itself_over_http() {
    rolls_back("http").await;
}

/// FAILED, and then APPLIED of what it had before: an agent that says so lacks what it should have, and is not offered it again.
async fn rolls_back(transport: &str) {
    let server = Standalone::start().await;
    let (ctl, url) = (server.ctl(), format!("{transport}://{}/v1/opamp", server.node.opamp()));
    let Some(mut client) = Client::start(Kind::Go, &url, &server.agent_token(), "checkout") else { return };
    let uid = client.uid().await;
    ctl.apply("base", "service.name = checkout", FILE, "receivers: {}\n").await;
    let good = client.event("config", |_| true).await;
    has_settled(&ctl, &uid, "APPLIED", &good).await;

    ctl.apply("base", "service.name = checkout", FILE, "rollback: yes\n").await;
    let bad = client.event("config", |config| config["files"][FILE] == "rollback: yes\n").await;
    client.event("status", |status| status["status"] == "FAILED").await;
    let is_back = |agent: &Value| {
        agent["convergence"] == "QUARANTINED"
            && agent["config_status"] == "APPLIED"
            && agent["reported_config_hash"] == good["hash"]
    };
    let agent = ctl.agent_is(&uid, "it runs what it ran before", is_back).await;
    assert_eq!(agent["desired_config_hash"], bad["hash"]);
    // Whatever else it says is no reason to offer it again.
    let messages = async || server.messages_received().await;
    let so_far = eventually("messages are counted", &messages).await;
    eventually("it goes on talking", async || (messages().await? >= so_far + 5.0).then_some(())).await;
    assert!(is_back(&ctl.agent(&uid).await.unwrap()));

    // The operator goes back too: that is what it runs.
    ctl.apply("base", "service.name = checkout", FILE, "receivers: {}\n").await;
    ctl.agent_is(&uid, "all is well", |agent| agent["convergence"] == "CONVERGED").await;
    ctl.apply("base", "service.name = checkout", FILE, "receivers: {otlp: {}}\n").await;
    let next = client.event("config", |config| config["files"][FILE] == "receivers: {otlp: {}}\n").await;
    has_settled(&ctl, &uid, "APPLIED", &next).await;
    let offers: Vec<Value> = client.all("config").into_iter().map(|config| config["hash"].clone()).collect();
    assert_eq!(offers, [&good, &bad, &next].map(|config| config["hash"].clone()), "each was offered once");
    client.stop().await;
}

#[tokio::test]
async fn go_agents_of_one_build_are_asked_once_what_it_is() {
    let server = Standalone::start().await;
    let (url, token, ctl) = (format!("ws://{}/v1/opamp", server.node.opamp()), server.agent_token(), server.ctl());
    let mut clients = Vec::new();
    for service in ["checkout", "cart", "search"] {
        let Some(client) = Client::start(Kind::Go, &url, &token, service) else { return };
        clients.push(client);
    }
    for client in &mut clients {
        let components = ctl.components(&client.uid().await).await;
        let version = &components["receivers"]["components"]["otlp"]["metadata"]["version"];
        assert_eq!(version, "1.0", "{components}");
    }
    assert_eq!(server.node.metric("muster_config_component_asks_total").await, Some(1.0));
}

/// A machine was copied with all that is on it.
#[tokio::test]
async fn two_go_agents_with_one_uid_become_two() {
    let server = Standalone::start().await;
    let (url, token, ctl) = (format!("ws://{}/v1/opamp", server.node.opamp()), server.agent_token(), server.ctl());
    let Some(mut first) = Client::start(Kind::Go, &url, &token, "checkout") else { return };
    let uid = first.uid().await;
    ctl.agent_is(&uid, "the first is seen", |agent| is(agent, "connected", true)).await;
    let Some(mut second) = Client::start_with(Kind::Go, &url, &token, "checkout", &["--uid", &uid]) else { return };
    let other = second.event("identity", |_| true).await["instance_uid"].as_str().unwrap().to_owned();
    assert_ne!(other, uid);

    // The client says no more than its new uid in the messages that follow, and is asked for the rest.
    ctl.agent_is(&other, "the second is seen", |agent| agent["attributes"]["service.name"] == "checkout").await;
    ctl.apply("base", "service.name = checkout", FILE, "for both\n").await;
    for (client, uid) in [(&mut first, &uid), (&mut second, &other)] {
        let config = client.event("config", |_| true).await;
        has_settled(&ctl, uid, "APPLIED", &config).await;
    }
    assert_eq!(ctl.agents().await.len(), 2);
    assert_eq!((first.all("identity").len(), second.all("identity").len()), (0, 1), "one of them was renamed, once");
    // It keeps its name.
    second.stop().await;
    ctl.agent_is(&other, "the second has left", |agent| is(agent, "connected", false)).await;
    ctl.agent_is(&uid, "the first is still there", |agent| is(agent, "connected", true)).await;
}

/// What a client does that is given another uid than it came with.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Another,
    None,
}

#[tokio::test]
async fn node_takes_another_uid() {
    is_given_another_uid(Kind::Node, "http", Takes::Another).await;
}

#[tokio::test]
async fn java_takes_another_uid_over_websocket() {
    is_given_another_uid(Kind::Java, "ws", Takes::Another).await;
}

#[tokio::test]
async fn java_takes_another_uid_over_http() {
    is_given_another_uid(Kind::Java, "http", Takes::Another).await;
}

#[tokio::test]
async fn python_ignores_another_uid_and_is_served_all_the_same() {
    is_given_another_uid(Kind::Python, "http", Takes::None).await;
}

/// A client that comes with the uid of a living agent becomes an agent of its own.
async fn is_given_another_uid(kind: Kind, transport: &str, takes: Takes) {
    let mut server = Standalone::start().await;
    let (token, ctl) = (server.agent_token(), server.ctl());
    let url = |transport: &str| format!("{transport}://{}/v1/opamp", server.node.opamp());
    let Some(mut first) = Client::start(Kind::Go, &url("ws"), &token, "first") else { return };
    let uid = first.uid().await;
    ctl.agent_is(&uid, "the first is seen", |agent| is(agent, "connected", true)).await;
    let Some(mut second) = Client::start_with(kind, &url(transport), &token, "second", &["--uid", &uid]) else {
        return;
    };
    let other = eventually("the second is seen as another agent", async || {
        let agents = ctl.agents().await;
        agents.into_iter().find(|agent| agent["instance_uid"] != uid && agent["connected"] == true)
    })
    .await;
    let other = other["instance_uid"].as_str().unwrap().to_owned();
    ctl.agent_is(&other, "it has told everything", |agent| agent["attributes"]["service.name"] == "second").await;
    for text in ["one\n", "two\n"] {
        ctl.apply("base", "service.name = second", FILE, text).await;
        let config = second.event("config", |config| config["files"][FILE] == text).await;
        has_settled(&ctl, &other, "APPLIED", &config).await;
        if text == "one\n" && takes == Takes::Another {
            // It comes back under the uid that it was given: the server that is started anew has never told it.
            server.node.terminate();
            server.node.ended().await;
            server.node.start().await;
            server.node.ready().await;
            let limit = Duration::from_secs(120);
            ctl.agent_is_within(limit, &other, "the second is back", |agent| is(agent, "connected", true)).await;
        }
    }
    assert_eq!(ctl.agents().await.len(), 2, "neither is seen as a third");
    assert_eq!(first.all("identity"), [] as [Value; 0], "the first has kept its uid");
    assert_eq!(second.all("config").len(), 2, "{:?}", second.events());
    if kind == Kind::Node {
        assert_eq!(second.event("identity", |_| true).await["instance_uid"], other);
    }
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn go_takes_its_state_along_to_another_uid_over_websocket() {
    takes_its_state_along("ws").await;
}

#[tokio::test]
async fn go_takes_its_state_along_to_another_uid_over_http() {
    takes_its_state_along("http").await;
}

/// The client asks for another uid, uses it from its next message on, and says nothing again.
async fn takes_its_state_along(transport: &str) {
    let mut server = Standalone::start().await;
    let (ctl, url) = (server.ctl(), format!("{transport}://{}/v1/opamp", server.node.opamp()));
    let Some(mut client) = Client::start(Kind::Go, &url, &server.agent_token(), "checkout") else { return };
    let mut uid = client.uid().await;
    ctl.agent_is(&uid, "the agent is seen", |agent| is(agent, "connected", true)).await;
    ctl.run(&["label", "agent", &uid, "env=prod"]).await;
    ctl.apply("base", "env = prod", FILE, "one\n").await;
    let one = client.event("config", |_| true).await;
    has_settled(&ctl, &uid, "APPLIED", &one).await;
    for count in 1..=3 {
        client.order(&json!({"do": "uid"}));
        let taken = async || client.all("identity").get(count - 1).cloned();
        let before = uid;
        uid = eventually("it has another uid", taken).await["instance_uid"].as_str().unwrap().to_owned();
        let agent = has_settled(&ctl, &uid, "APPLIED", &one).await;
        assert_eq!((&agent["labels"]["env"], &agent["attributes"]["client"]), (&json!("prod"), &json!("go")));
        assert_eq!(ctl.agents().await.len(), 1, "{before} is no agent any more");
        if count == 2 {
            server.node.terminate();
            server.node.ended().await;
            server.node.start().await;
            server.node.ready().await;
            let limit = Duration::from_secs(120);
            ctl.agent_is_within(limit, &uid, "the agent is back", |agent| is(agent, "connected", true)).await;
        }
    }
    ctl.apply("base", "env = prod", FILE, "two\n").await;
    let two = client.event("config", |config| config["files"][FILE] == "two\n").await;
    has_settled(&ctl, &uid, "APPLIED", &two).await;
    assert_eq!(client.all("config").len(), 2, "each was offered once: {:?}", client.events());
    assert_eq!(server.node.metric("muster_config_full_state_requests_total").await.unwrap_or(0.0), 0.0);
    client.stop().await;
    ctl.agent_is_within(Duration::from_secs(120), &uid, "it is seen to be gone", |agent| {
        transport == "http" || is(agent, "connected", false)
    })
    .await;
}

/// The server ends in order and is started again: the client goes on where it was.
async fn comes_back(kind: Kind, transport: &str) {
    let mut server = Standalone::start().await;
    let ctl = server.ctl();
    let url = format!("{transport}://{}/v1/opamp", server.node.opamp());
    let Some(mut client) = Client::start(kind, &url, &server.agent_token(), "checkout") else { return };
    let uid = client.uid().await;
    ctl.apply("base", "service.name = checkout", FILE, "before\n").await;
    let before = client.event("config", |_| true).await;
    has_settled(&ctl, &uid, "APPLIED", &before).await;

    server.node.terminate();
    server.node.ended().await;
    server.node.start().await;
    server.node.ready().await;
    // Each attempt that found nobody doubles the time to the next; on a slow machine the server is away for several.
    let limit = Duration::from_secs(300);
    ctl.agent_is_within(limit, &uid, "the client is back", |agent| is(agent, "connected", true)).await;
    ctl.apply("base", "service.name = checkout", FILE, "after\n").await;
    let after = client.event("config", |config| config["files"][FILE] == "after\n").await;
    has_settled(&ctl, &uid, "APPLIED", &after).await;
    assert_eq!(client.all("config").len(), 2, "each was offered once");
    client.stop().await;
}

async fn is_configured(kind: Kind, traits: Traits) {
    let server = Standalone::start().await;
    let ctl = server.ctl();
    let url = format!("{}://{}/v1/opamp", traits.transport, server.node.opamp());
    let Some(mut client) = Client::start(kind, &url, &server.agent_token(), "checkout") else { return };
    let uid = client.uid().await;
    client.event("connected", |_| true).await;

    let agent = ctl.agent_is(&uid, "the agent is seen", |agent| is(agent, "connected", true)).await;
    assert_eq!(agent["attributes"]["service.name"], "checkout");
    assert_eq!(agent["attributes"]["os.type"], "linux");
    let transport = agent["transport"].as_str().unwrap().to_lowercase();
    assert!(transport.starts_with(if traits.transport == "ws" { "websocket" } else { "http" }), "{transport}");
    if traits.reports_health {
        ctl.agent_is(&uid, "health is seen", |agent| is(agent, "healthy", true)).await;
    }

    ctl.apply("base", "service.name = checkout", FILE, "receivers: {}\n").await;
    let config = client.event("config", |_| true).await;
    assert_eq!(config["files"][FILE], "receivers: {}\n");
    has_settled(&ctl, &uid, "APPLIED", &config).await;
    if traits.reports_effective_config {
        let shown = ["agent", "config", &uid, "--effective"];
        eventually("the effective config is shown", async || ctl.run(&shown).await.contains("receivers").then_some(()))
            .await;
    }

    // Refused by the agent: shown with its reason, and not offered again.
    ctl.apply("base", "service.name = checkout", FILE, "fail: yes\n").await;
    let bad = client.event("config", |config| config["files"][FILE] == "fail: yes\n").await;
    let agent = has_settled(&ctl, &uid, "FAILED", &bad).await;
    assert_eq!(agent["config_error"], "the config says so");

    ctl.apply("base", "service.name = checkout", FILE, "receivers: {otlp: {}}\n").await;
    let good = client.event("config", |config| config["files"][FILE] == "receivers: {otlp: {}}\n").await;
    has_settled(&ctl, &uid, "APPLIED", &good).await;
    let offers: Vec<Value> = client.all("config").into_iter().map(|config| config["hash"].clone()).collect();
    assert_eq!(offers, [&config, &bad, &good].map(|config| config["hash"].clone()), "each was offered once");

    client.stop().await;
    if traits.says_goodbye {
        ctl.agent_is(&uid, "the agent has left", |agent| is(agent, "connected", false)).await;
    }
}

/// Waits until the server knows what became of a configuration.
async fn has_settled(ctl: &Ctl, uid: &str, status: &str, config: &Value) -> Value {
    let agent = ctl
        .agent_is(uid, &format!("the configuration is {status}"), |agent| {
            agent["config_status"] == status && agent["reported_config_hash"] == config["hash"]
        })
        .await;
    assert_eq!(agent["desired_config_hash"], config["hash"]);
    agent
}

fn is(agent: &Value, field: &str, value: bool) -> bool {
    agent[field] == value
}
