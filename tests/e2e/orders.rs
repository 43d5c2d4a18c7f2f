//! Commands and custom messages with real clients: opamp-go, and the Supervisor with its collector.

use serde_json::{Value, json};

use crate::support::{
    client::{Client, Kind},
    ctl::Ctl,
    standalone::Standalone,
};

/// What the Go client announces.
const CAPABILITY: &str = "com.example.interop";

struct Scene {
    _server: Standalone,
    ctl: Ctl,
    client: Client,
    uid: String,
}

impl Scene {
    async fn set(transport: &str) -> Option<Self> {
        let server = Standalone::start().await;
        let url = format!("{transport}://{}/v1/opamp", server.node.opamp());
        let mut client = Client::start(Kind::Go, &url, &server.agent_token(), "checkout")?;
        let (ctl, uid) = (server.ctl(), client.uid().await);
        ctl.agent_is(&uid, "the agent is seen", |agent| agent["healthy"] == true).await;
        Some(Self { _server: server, ctl, client, uid })
    }

    /// Every message that the client has been sent, with data as text.
    fn messages(&self) -> Vec<Value> {
        self.client.all("message").into_iter().map(|message| json!([message["type"], message["data"]])).collect()
    }
}

#[tokio::test]
async fn go_restarts_once_over_websocket() {
    restarts_once("ws").await;
}

#[tokio::test]
async fn go_restarts_once_over_http() {
    restarts_once("http").await;
}

/// The client is another one after the restart, which starts to count at zero: as after any restart of an agent.
async fn restarts_once(transport: &str) {
    let Some(mut scene) = Scene::set(transport).await else { return };
    scene.client.event("connected", |_| true).await;
    let before = scene.client.all("connected").len();
    let command = scene.ctl.json(&["restart", &scene.uid]).await;
    assert_eq!((&command["action"], &command["sent"]), (&json!("restart"), &json!(1)), "{command}");
    let told = scene.client.event("command", |_| true).await;
    assert_eq!(told["type"], "Restart");

    // The agent that came back works as before.
    scene.ctl.apply("base", "service.name = checkout", "a.yaml", "afterwards\n").await;
    let config = scene.client.event("config", |_| true).await;
    scene
        .ctl
        .agent_is(&scene.uid, "the configuration is APPLIED", |agent| {
            agent["config_status"] == "APPLIED" && agent["reported_config_hash"] == config["hash"]
        })
        .await;
    assert!(scene.client.all("connected").len() > before);
    assert_eq!(scene.client.all("command").len(), 1, "told once");
    assert_eq!(scene.ctl.agents().await.len(), 1);
}

#[tokio::test]
async fn go_is_sent_messages_over_websocket() {
    exchanges_messages("ws").await;
}

#[tokio::test]
async fn go_is_sent_messages_over_http() {
    exchanges_messages("http").await;
}

async fn exchanges_messages(transport: &str) {
    let Some(mut scene) = Scene::set(transport).await else { return };
    let send = ["send", &scene.uid, "--capability", CAPABILITY, "--type", "greeting"];
    for text in ["one", "two"] {
        let command = scene.ctl.json(&[&send[..], &["--data", text]].concat()).await;
        assert_eq!(command["sent"], 1, "{command}");
    }
    scene.client.event("message", |message| message["data"] == "dHdv").await;
    assert_eq!(scene.messages(), [json!(["greeting", "b25l"]), json!(["greeting", "dHdv"])]);
    let other = ["send", "-l", "", "--capability", "com.example.other", "--type", "x", "--data", "y"];
    assert_eq!(scene.ctl.json(&other).await["not_capable"], 1, "it has not announced that");

    // A watch tells nothing of what was before it; that it is there is seen by its first message.
    let mut watch = scene.ctl.follow(&["messages", "--capability", CAPABILITY, "-o", "json"]);
    let seen = loop {
        scene.client.order(&json!({"do": "send", "capability": CAPABILITY, "type": "pulse", "data": "beat"}));
        if let Some(line) = watch.next_within(std::time::Duration::from_secs(1)).await {
            break line;
        }
    };
    let expected = json!({"instance_uid": scene.uid, "capability": CAPABILITY, "type": "pulse", "data": "YmVhdA=="});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&seen[name], value, "{seen}");
    }
    assert_eq!(scene.messages().len(), 2, "nothing comes back");
}
