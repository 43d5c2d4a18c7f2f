//! Certificates that a real client asks for, with opamp-go: it makes the key, and connects by what it was given alone.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    client::{Client, Kind},
    ctl::Ctl,
    eventually,
    standalone::Standalone,
    tls::Ca,
};

struct Scene {
    _folder: TempDir,
    server: Standalone,
    ctl: Ctl,
    client: Client,
    uid: String,
}

impl Scene {
    /// A server over TLS and an agent that has connected with a token.
    async fn set(scheme: &str, agent_certificates: &str) -> Option<Self> {
        Self::set_with(scheme, agent_certificates, &[]).await
    }

    /// As [`Self::set`], with further arguments for the server.
    async fn set_with(scheme: &str, agent_certificates: &str, more: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new("servers");
        let authority = folder.path().join("servers.ca");
        std::fs::write(&authority, &ca.pem).unwrap();
        let (certificate, key) = ca.server().write(folder.path(), "server");
        let (certificate, key) = (certificate.to_string_lossy(), key.to_string_lossy());
        let mut arguments = vec!["--tls-certificate-file", &*certificate, "--tls-key-file", &*key];
        arguments.extend(["--client-certificates", "optional", "--agent-certificates", agent_certificates]);
        arguments.extend(more);
        let server = Standalone::start_with(&arguments).await;
        let (ctl, url) = (server.ctl(), format!("{scheme}://{}/v1/opamp", server.node.opamp()));
        let more = ["--ca", &*authority.to_string_lossy()];
        let mut client = Client::start_with(Kind::Go, &url, &server.agent_token(), "checkout", &more)?;
        let uid = client.uid().await;
        ctl.agent_is(&uid, "the agent is seen", |agent| agent["healthy"] == true).await;
        Some(Self { _folder: folder, server, ctl, client, uid })
    }

    /// The client makes a key, and asks for a certificate for it.
    fn ask(&mut self) {
        self.client.order(&json!({"do": "certificate"}));
    }

    /// What was asked for, oldest first.
    async fn certificates(&self) -> Vec<Value> {
        let Value::Array(certificates) = self.ctl.json(&["get", "certificates"]).await else {
            panic!("a list is a JSON array")
        };
        certificates
    }

    /// The one request that waits for an operator.
    async fn pending(&self) -> String {
        eventually("the operator sees the request", async || {
            let list = self.ctl.json(&["get", "certificates", "--state", "pending"]).await;
            let [request] = list.as_array()?.as_slice() else { return None };
            assert_eq!(request["instance_uid"], self.uid);
            Some(request["id"].as_str()?.to_owned())
        })
        .await
    }

    /// Waits until the agent has connected with the latest of `count` certificates, each of which took the place of the one
    /// before. Gives the offer that it came with.
    async fn has_connected(&mut self, count: usize) -> Value {
        let issued = eventually("the agent has connected with its certificate", async || {
            let mut issued = self.certificates().await;
            issued.retain(|it| it["state"] != "denied");
            let is_used = issued.last()?["state"] == "issued" && !issued.last()?["used_at"].is_null();
            (is_used && issued.len() == count).then_some(issued)
        })
        .await;
        let states: Vec<&Value> = issued.iter().map(|it| &it["state"]).collect();
        let mut expected = vec![json!("superseded"); count - 1];
        expected.push(json!("issued"));
        assert_eq!(states, expected.iter().collect::<Vec<_>>(), "{issued:?}");
        let certificate = &issued[count - 1]["certificate"];
        let settings = self.client.event("settings", |settings| settings["certificate"] == *certificate).await;
        let stands = |agent: &Value| agent["offers"]["ConnectionSettings"].clone();
        let runs = |agent: &Value| {
            agent["connected"] == true
                && stands(agent)["status"] == "APPLIED"
                && stands(agent)["reported_hash"] == stands(agent)["desired_hash"]
        };
        self.ctl.agent_is(&self.uid, "the settings are APPLIED", runs).await;
        settings
    }

    /// The agent runs what is applied now, though there is no token that it could show.
    async fn needs_no_token(&mut self) {
        self.ctl.run(&["token", "revoke", "standalone-agent"]).await;
        self.ctl.json(&["restart", &self.uid]).await;
        self.client.event("command", |_| true).await;
        self.ctl.apply("base", "service.name = checkout", "a.yaml", "afterwards\n").await;
        let config = self.client.event("config", |_| true).await;
        let runs =
            |agent: &Value| agent["config_status"] == "APPLIED" && agent["reported_config_hash"] == config["hash"];
        self.ctl.agent_is(&self.uid, "the configuration is APPLIED", runs).await;
    }
}

#[tokio::test]
async fn go_gets_a_certificate_that_it_asks_for() {
    let Some(mut scene) = Scene::set("wss", "automatic").await else { return };
    scene.ask();
    let settings = scene.has_connected(1).await;
    assert_eq!(settings["endpoint"], format!("wss://{}/v1/opamp", scene.server.node.opamp()));
    assert_eq!(settings["headers"], json!({}));
    scene.needs_no_token().await;

    // Another key, by the certificate of the first.
    scene.ask();
    scene.has_connected(2).await;
    assert_eq!(scene.client.all("settings").len(), 2, "each was offered once: {:?}", scene.client.events());
    assert_eq!(scene.client.all("error"), [] as [Value; 0]);
    scene.client.stop().await;
}

/// By polls, with what a policy says of the connection beside the certificate.
#[tokio::test]
async fn go_gets_a_certificate_over_http() {
    let Some(mut scene) = Scene::set("https", "automatic").await else { return };
    let url = format!("https://{}/v1/opamp", scene.server.node.opamp());
    let token = scene.server.agent_token();
    scene
        .ctl
        .apply_written(&format!(
            "kind: ConnectionSettings\nname: here\nselector: service.name = checkout\nopamp:\n  endpoint: {url}\n  \
             heartbeat_interval: 1s\n  headers: {{Authorization: Bearer {token}}}\n"
        ))
        .await;
    scene.client.event("settings", |settings| settings["heartbeat"] == 1).await;
    let applied = |agent: &Value| agent["offers"]["ConnectionSettings"]["status"] == "APPLIED";
    scene.ctl.agent_is(&scene.uid, "the settings of the policy are APPLIED", applied).await;

    scene.ask();
    let settings = scene.has_connected(1).await;
    assert_eq!((&settings["endpoint"], &settings["heartbeat"]), (&json!(url), &json!(1)));
    assert_eq!(settings["headers"], json!({"Authorization": [format!("Bearer {token}")]}));
    scene.needs_no_token().await;
    scene.ask();
    scene.has_connected(2).await;
    assert_eq!(scene.client.all("settings").len(), 3, "each was offered once: {:?}", scene.client.events());
    assert_eq!(scene.client.all("error"), [] as [Value; 0]);
    scene.client.stop().await;
}

#[tokio::test]
async fn go_gets_the_certificate_that_an_operator_approves() {
    let Some(mut scene) = Scene::set("wss", "manual").await else { return };
    scene.ask();
    let id = scene.pending().await;
    scene.ctl.run(&["deny", "certificate", &id]).await;
    let error = scene.client.event("error", |_| true).await;
    assert!(error["message"].as_str().unwrap().contains("denied"), "{error}");

    // The agent goes on with its token, and with another key it may ask again.
    scene.ask();
    let id = scene.pending().await;
    let said = scene.ctl.run(&["approve", "certificate", &id]).await;
    assert!(said.contains(&scene.uid), "{said}");
    scene.has_connected(1).await;
    scene.needs_no_token().await;

    // By its certificate it gets the next one at once.
    scene.ask();
    scene.has_connected(2).await;
    let decided: Vec<Value> = scene.certificates().await.into_iter().map(|it| it["decided_by"].clone()).collect();
    assert_eq!(decided, ["standalone-operator", "standalone-operator", "system"]);

    // Revoked, it is let in by nothing.
    let last = scene.certificates().await[2]["id"].as_str().unwrap().to_owned();
    scene.ctl.run(&["deny", "certificate", &last]).await;
    scene.ctl.agent_is(&scene.uid, "the agent is gone", |agent| agent["connected"] == false).await;
    scene.client.event("error", |error| error["message"] == "websocket: bad handshake").await;
    scene.client.stop().await;
}

/// A certificate is renewed for the same key when a third of its time is left, and the one before is good until then. Certificates
/// begin five minutes before they are issued, so that of these ten seconds are the first two thirds.
#[tokio::test]
async fn go_renews_a_certificate_that_comes_near_its_end() {
    let more = ["--agent-certificate-validity", "165s"];
    let Some(mut scene) = Scene::set_with("wss", "automatic", &more).await else { return };
    scene.ask();
    scene.has_connected(1).await;
    let asked = async || {
        scene.client.order(&json!({"do": "certificate", "same": true}));
        (scene.certificates().await.len() == 2).then_some(())
    };
    eventually("there is another certificate", asked).await;
    scene.has_connected(2).await;
    assert_eq!(scene.client.all("settings").len(), 2, "each was offered once: {:?}", scene.client.events());
    assert_eq!(scene.client.all("error"), [] as [Value; 0]);
    scene.needs_no_token().await;
    scene.client.stop().await;
}

/// What let the agent in under the uid that it had goes on to do so, here and after it has connected anew, until it has another.
#[tokio::test]
async fn go_goes_on_with_its_certificate_under_another_uid() {
    let Some(mut scene) = Scene::set("wss", "automatic").await else { return };
    scene.ask();
    scene.has_connected(1).await;
    scene.client.order(&json!({"do": "uid"}));
    let other = scene.client.event("identity", |_| true).await["instance_uid"].as_str().unwrap().to_owned();
    let former = std::mem::replace(&mut scene.uid, other);
    scene.needs_no_token().await;
    // The gateway that gave the uid knows it; one that was started since has to ask.
    scene.server.node.terminate();
    scene.server.node.ended().await;
    scene.server.node.start().await;
    scene.server.node.ready().await;
    scene.ctl.agent_is(&scene.uid, "the agent is back", |agent| agent["connected"] == true).await;
    let certificates = scene.certificates().await;
    assert_eq!((certificates.len(), &certificates[0]["instance_uid"]), (1, &json!(scene.uid)));
    scene.ask();
    scene.has_connected(2).await;
    let agents = scene.ctl.agents().await;
    assert!(agents.iter().all(|agent| agent["instance_uid"] != former) && agents.len() == 1, "{agents:?}");
    scene.client.stop().await;
}
