//! Packages from a manifest to a real client's syncer, which downloads them from the gateway and installs them.

use serde_json::{Value, json};

use crate::support::{
    client::{Client, Kind},
    cluster::Cluster,
    ctl::Ctl,
    s3,
    standalone::Standalone,
};

const FILE: &str = "otelcol.tar.gz";

#[tokio::test]
async fn go_over_websocket_installs_what_it_should() {
    installs_what_it_should("ws").await;
}

#[tokio::test]
async fn go_over_http_installs_what_it_should() {
    installs_what_it_should("http").await;
}

async fn installs_what_it_should(transport: &str) {
    let server = Standalone::start().await;
    let ctl = server.ctl();
    let url = format!("{transport}://{}/v1/opamp", server.node.opamp());
    let Some(mut client) = Client::start(Kind::Go, &url, &server.agent_token(), "checkout") else { return };
    let uid = client.uid().await;

    let first = offer(&ctl, "0.1.0", "a collector").await;
    let package = client.event("package", |package| package["version"] == "0.1.0").await;
    assert_eq!((&package["name"], &package["content"]), (&json!("otelcol"), &json!("a collector")));
    stands(&ctl, &uid, "CONVERGED", "INSTALLED", "0.1.0").await;
    let refused = ctl.try_run(&["delete", "package-file", &first]).await;
    assert!(!refused.succeeded && refused.stderr.contains("PACKAGE_FILE_IN_USE"), "{}", refused.stderr);

    // One that cannot be installed: the agent keeps what it has, and is not offered the same again.
    offer(&ctl, "0.2.0", "fail: yes").await;
    let shown = stands(&ctl, &uid, "QUARANTINED", "INSTALL_FAILED", "0.1.0").await;
    let error = shown["packages"][0]["reported"]["error"].as_str().unwrap();
    assert!(error.contains("the package says so"), "{error}");
    // An operator has it try again.
    let offers = async |client: &mut Client, count: usize| {
        client.event("packages", |_| true).await;
        crate::support::eventually("the offers are seen", async || {
            (client.all("packages").len() >= count).then_some(())
        })
        .await;
        assert_eq!(client.all("packages").len(), count, "{:?}", client.events());
    };
    offers(&mut client, 2).await;
    ctl.run(&["agent", "retry", &uid]).await;
    offers(&mut client, 3).await;
    stands(&ctl, &uid, "QUARANTINED", "INSTALL_FAILED", "0.1.0").await;

    // The next good one is installed, and the files of the others may go.
    offer(&ctl, "0.3.0", "a better collector").await;
    client.event("package", |package| package["version"] == "0.3.0").await;
    stands(&ctl, &uid, "CONVERGED", "INSTALLED", "0.3.0").await;
    ctl.run(&["delete", "package-file", &first]).await;

    // The same file under another version: it need not be downloaded again.
    let downloads = async || server.node.metric("muster_gateway_package_downloads_total").await;
    let before = downloads().await;
    offer(&ctl, "0.3.1", "a better collector").await;
    stands(&ctl, &uid, "CONVERGED", "INSTALLED", "0.3.1").await;
    assert_eq!(downloads().await, before);

    // Back from one that failed to what it had all the time: it does not say so by itself.
    offer(&ctl, "0.4.0", "fail: again").await;
    stands(&ctl, &uid, "QUARANTINED", "INSTALL_FAILED", "0.3.1").await;
    offer(&ctl, "0.3.1", "a better collector").await;
    let offered = |agent: &Value| agent["offers"]["Packages"].clone();
    let settled = |agent: &Value| {
        let offered = offered(agent);
        offered["convergence"] == "CONVERGED" && offered["status"] == "APPLIED"
    };
    let agent = ctl.agent_is(&uid, "the agent is known to have it", settled).await;
    assert_eq!(offered(&agent)["reported_hash"], offered(&agent)["desired_hash"]);

    ctl.apply_written("kind: Packages\nname: collector\nselector: service.name = checkout\nallow_empty: true\n").await;
    client.event("package", |package| package["deleted"] == true).await;
    ctl.agent_is(&uid, "nothing is left", |agent| {
        agent["offers"]["Packages"]["convergence"] == "CONVERGED"
            && agent["offers"]["Packages"]["reported_hash"] == agent["offers"]["Packages"]["desired_hash"]
    })
    .await;
    offers(&mut client, 9).await;
    client.stop().await;
}

/// Two gateways and two config services, with one bucket for all.
#[tokio::test(flavor = "multi_thread")]
async fn every_node_offers_and_serves_the_same() {
    let bucket = s3::Server::start().await;
    let mut environment = bucket.variables();
    environment.push(("MUSTER_PACKAGE_STORAGE".into(), format!("s3://{}/of this test", s3::BUCKET)));
    let environment: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut cluster = Cluster::start_with(2, 2, &environment).await;
    let refused = cluster.ctl(0);
    refused.write("a", "a");
    let manifest = "kind: Packages\nname: a\nselector: a\npackages: {a: {type: addon, version: '1', path: a}}\n";
    refused.write("a.yaml", manifest);
    let refused = refused.try_run(&["apply", "-f", "a.yaml"]).await;
    assert!(
        !refused.succeeded && refused.stderr.contains("opamp-url"),
        "where agents are is not known: {}",
        refused.stderr
    );

    // Agents fetch at the second gateway, wherever they are connected.
    let [first, second] = cluster.opamp()[..] else { panic!("two gateways") };
    for service in &mut cluster.services {
        service.set_env("MUSTER_OPAMP_URL", &format!("ws://{second}/v1/opamp"));
        service.terminate();
        service.ended().await;
        service.start().await;
        service.ready().await;
    }
    let token = cluster.agent_token();
    let Some(mut one) = Client::start(Kind::Go, &format!("ws://{first}/v1/opamp"), token, "checkout") else { return };
    let Some(mut two) = Client::start(Kind::Go, &format!("http://{second}/v1/opamp"), token, "checkout") else {
        return;
    };
    offer(&cluster.ctl(0), "1.0.0", "a collector").await;
    let mut hashes = Vec::new();
    for client in [&mut one, &mut two] {
        let uid = client.uid().await;
        let package = client.event("package", |_| true).await;
        assert_eq!(package["content"], "a collector");
        hashes.push(client.event("synced", |_| true).await["hash"].clone());
        stands(&cluster.ctl(1), &uid, "CONVERGED", "INSTALLED", "1.0.0").await;
    }
    assert_eq!(hashes[0], hashes[1], "the same for all, whoever decides");
    let downloads =
        async |gateway: usize| cluster.gateways[gateway].metric("muster_gateway_package_downloads_total").await;
    assert_eq!((downloads(0).await.unwrap_or(0.0), downloads(1).await), (0.0, Some(2.0)));
    for client in [&one, &two] {
        assert_eq!(client.all("packages").len(), 1, "{:?}", client.events());
    }
}

/// Makes this the agent's package; returns the hash of the file.
async fn offer(ctl: &Ctl, version: &str, body: &str) -> String {
    ctl.write(FILE, body);
    let applied = ctl
        .apply_written(&format!(
            "kind: Packages\nname: collector\nselector: service.name = checkout\npackages:\n  \
             otelcol: {{type: top_level, version: {version}, path: ./{FILE}}}\n"
        ))
        .await;
    let hash = applied.strip_prefix("package-file/").and_then(|rest| rest.split_once(' '));
    hash.expect("the file is uploaded first").0.to_owned()
}

/// Waits until the agent is seen to stand like this to its packages.
async fn stands(ctl: &Ctl, uid: &str, convergence: &str, status: &str, installed: &str) -> Value {
    let mut last = Value::Null;
    crate::support::eventually(&format!("the package is {status}"), async || {
        let shown = ctl.json(&["agent", "packages", uid]).await;
        if shown != last {
            println!("{shown}");
            last = shown.clone();
        }
        let reported = &shown["packages"][0]["reported"];
        let is = shown["offer"]["convergence"] == convergence
            && reported["status"] == status
            && reported["installed_version"] == installed;
        is.then_some(shown)
    })
    .await
}
