//! Settings and the life of a process, on the program itself.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Output};

use serde_json::Value;

use crate::support::{
    eventually,
    node::{Node, clean, http_get},
    standalone::Standalone,
};

fn muster(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    clean(env!("CARGO_BIN_EXE_muster")).args(arguments).envs(environment.iter().copied()).output().unwrap()
}

/// What a command that cannot start says; its exit status must be `status`.
fn refusal(status: i32, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = muster(arguments, environment);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    text
}

#[test]
fn settings_that_cannot_work_stop_the_program_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("muster.toml");
    fs::write(&file, "ping_aftr = '1s'").unwrap();
    let path = file.to_str().unwrap();
    let unknown = refusal(2, &["gateway", "--config", path, "--redis-url", "redis://h"], &[]);
    assert!(unknown.contains("ping_aftr") && unknown.contains(path), "{unknown}");

    let value = refusal(2, &["gateway"], &[("MUSTER_PING_AFTER", "soon")]);
    assert!(value.contains("MUSTER_PING_AFTER") && value.contains("soon"), "{value}");

    let together = refusal(2, &["standalone", "--ping-after", "5m", "--idle-timeout", "1m"], &[]);
    assert!(together.contains("ping-after") && together.contains("idle-timeout"), "{together}");

    let scheme = refusal(2, &["migrate", "--database-url", "mysql://h/muster"], &[]);
    assert!(scheme.contains("database-url must start with postgres://"), "{scheme}");

    let urls = [("MUSTER_DATABASE_URL", "postgres://127.0.0.1:1/m"), ("MUSTER_REDIS_URL", "redis://127.0.0.1:1")];
    let token = [&urls[..], &[("MUSTER_OPERATOR_TOKEN", "two words")]].concat();
    let token = refusal(2, &["config-service"], &token);
    assert!(token.contains("operator-token must have visible ASCII") && !token.contains("two words"), "{token}");

    let missing = refusal(2, &["gateway", "--opamp-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"], &[]);
    assert!(missing.contains("MUSTER_REDIS_URL"), "{missing}");
    assert!(!Path::new("muster-data").exists(), "a refused start leaves nothing behind");
}

#[test]
fn secrets_are_not_printed() {
    let url = "postgres://muster:hunter2@127.0.0.1:1/muster?sslmode=wrong";
    let both = [("MUSTER_DATABASE_URL", url), ("MUSTER_DATABASE_URL_FILE", "/nonexistent")];
    let both = refusal(2, &["migrate"], &both);
    assert!(both.contains("--database-url") && both.contains("--database-url-file"), "{both}");
    let malformed = refusal(1, &["migrate", "--database-url", url], &[]);
    let help = muster(&["migrate", "--help"], &[("MUSTER_DATABASE_URL", url)]);
    for text in [both, malformed, String::from_utf8(help.stdout).unwrap()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn reference_is_printed() {
    let page = String::from_utf8(muster(&["settings-reference"], &[]).stdout).unwrap();
    assert_eq!(page, fs::read_to_string("docs/settings.md").unwrap());
    for name in ["--redis-url", "MUSTER_OPERATOR_TOKEN_FILE", "--drain-window"] {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}

#[tokio::test]
async fn a_data_folder_has_one_user_and_survives_a_restart() {
    let mut standalone = Standalone::start().await;
    let folder = standalone.data_dir();
    let tokens = || ["agent.token", "operator.token"].map(|name| fs::read_to_string(folder.join(name)).unwrap());
    let first = tokens();
    // It is printed once everything runs, a moment after the listeners are there.
    eventually("new tokens are shown", async || {
        let output = standalone.node.output();
        first.iter().all(|token| output.contains(token.trim())).then_some(())
    })
    .await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("operator.token"))), (0o700, 0o600));
    for name in ["muster.db", "muster.db-wal"] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}: configurations hold secrets");
    }
    let in_use = refusal(1, &["standalone", "--data-dir", folder.to_str().unwrap()], &[]);
    assert!(in_use.contains("in use"), "{in_use}");

    standalone.node.terminate();
    standalone.node.ended().await;
    assert!(!folder.join("listen.json").exists(), "nothing listens any more");
    standalone.node.start().await;
    standalone.node.ready().await;
    assert_eq!(tokens(), first);
}

#[tokio::test]
async fn health_and_metrics_are_served() {
    let standalone = Standalone::start().await;
    let address = standalone.node.metrics();
    let get = async |path: &str| http_get(address, path).await.unwrap();
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics").await;
    for name in ["muster_build_info{", "muster_gateway_agents ", "muster_config_owned_shards ", "process_open_fds "] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "no {name} in {metrics}");
    }
    let url = |path: &str| format!("http://{address}{path}");
    assert!(muster(&["healthcheck", &url("/readyz")], &[]).status.success());
    let status = refusal(1, &["healthcheck", &url("/nothing")], &[]);
    assert!(status.contains("404"), "{status}");
    let refused = refusal(1, &["healthcheck", "http://127.0.0.1:1/readyz"], &[]);
    assert!(refused.contains("127.0.0.1:1"), "{refused}");
}

#[tokio::test]
async fn a_node_without_its_bus_lives_and_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let listen_file = folder.path().join("listen.json");
    let path = listen_file.to_str().unwrap();
    let arguments = ["gateway", "--redis-url", "redis://127.0.0.1:1", "--listen-file", path];
    let mut node =
        Node::new("gateway", folder.path().to_owned(), listen_file.clone(), &["opamp", "metrics"], &arguments);
    node.start().await;
    assert!(http_get(node.metrics(), "/healthz").await.unwrap().starts_with("HTTP/1.1 200"));
    let ready = http_get(node.metrics(), "/readyz").await.unwrap();
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    let reasons: Vec<Value> =
        ready.split_once("\r\n\r\n").unwrap().1.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(reasons.iter().any(|reason| reason["component"] == "gateway" && reason["reason"].is_string()), "{ready}");
    node.terminate();
    node.ended().await;
    assert!(!listen_file.exists());
}
