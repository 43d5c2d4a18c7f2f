//! The command line against a running admin API, as a process.

use std::{fs, path::Path, process::Stdio};

use muster::{
    model::{Labels, health::Transition},
    proto::opamp,
    store::{News, TokenKind},
};
use prost::Message;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use super::world::{World, agent, hash, uid};

pub struct Output {
    pub ok: bool,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub async fn run_with(world: &World, arguments: &[&str], stdin: &str) -> Output {
    let mut child = command(world, arguments).stdin(Stdio::piped()).spawn().expect("musterctl starts");
    child.stdin.take().expect("a pipe").write_all(stdin.as_bytes()).await.expect("stdin is read");
    output(child.wait_with_output().await.expect("musterctl ends"))
}

fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_musterctl"));
    command.args(arguments).current_dir(world.folder.path()).env_clear();
    command.env("MUSTER_SERVER", world.address.to_string()).env("MUSTER_TOKEN", &world.token);
    command.env("MUSTER_CONFIG", world.folder.path().join("config.yaml"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn output(output: std::process::Output) -> Output {
    Output {
        ok: output.status.success(),
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// What a command that succeeds prints.
pub async fn run(world: &World, arguments: &[&str]) -> String {
    let output = run_with(world, arguments, "").await;
    assert!(output.ok, "{arguments:?}: {}", output.stderr);
    output.stdout
}

pub async fn json(world: &World, arguments: &[&str]) -> Value {
    let text = run(world, &[arguments, &["-o", "json"]].concat()).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

/// What a command that fails says; it prints nothing.
pub async fn fails(world: &World, arguments: &[&str]) -> String {
    let output = run_with(world, arguments, "").await;
    assert!(!output.ok && output.stdout.is_empty(), "{arguments:?}: {}", output.stdout);
    output.stderr
}

pub fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, text).expect("a file");
    path.to_str().expect("a path").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_shown_in_every_format() {
    let world = World::start().await;
    let mut one = agent(1, &[("service.name", "collector"), ("os.type", "linux")]);
    one.observed.config.hash = hash(0xab).to_bytes();
    world.put(&[one, agent(2, &[("os.type", "windows")])]).await;
    let id = uid(1).to_string();
    let agents = json(&world, &["get", "agents", "-l", "os.type = linux"]).await;
    let found = &agents.as_array().expect("an array")[0];
    assert_eq!(agents.as_array().map(Vec::len), Some(1));
    assert_eq!(found["instance_uid"], id);
    assert_eq!(found["attributes"]["service.name"], "collector");
    assert_eq!((&found["connected"], &found["healthy"]), (&Value::Bool(true), &Value::Null));
    assert_eq!((&found["gateway"], &found["config_status"]), (&"gw-1".into(), &"UNSET".into()));
    assert_eq!((&found["desired_config_hash"], &found["reported_config_hash"]), (&"".into(), &"ab".repeat(32).into()));
    assert_eq!(found["last_seen"], "2023-11-14T22:13:20.500Z");
    for key in ["transport", "labels", "config_error"] {
        assert!(found.get(key).is_some(), "{key}");
    }
    assert_eq!(json(&world, &["get", "agent", &id]).await["instance_uid"], id);
    let table = run(&world, &["get", "agents"]).await;
    assert!(table.starts_with("INSTANCE UID") && table.lines().count() == 3, "{table}");
    assert!(run(&world, &["get", "agents", "-o", "wide"]).await.contains("GATEWAY"));
    assert_eq!(
        run(&world, &["get", "agents", "-o", "name"]).await.lines().next(),
        Some(format!("agent/{id}").as_str())
    );
    assert!(run(&world, &["get", "agent", &id, "-o", "yaml"]).await.contains("service.name: collector"));
    assert!(run(&world, &["describe", "agent", &id]).await.contains("Last seen:"));
    let error = fails(&world, &["get", "agents", "-l", "a in"]).await;
    assert_eq!(error, "error: selector: position 5: expected \"(\", found the end (INVALID_FIELD)\n");
    assert!(fails(&world, &["get", "agent", &uid(7).to_string()]).await.contains("does not exist (AGENT_NOT_FOUND)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_follow_all_pages() {
    let world = World::start().await;
    world.put(&(0..2300).map(|n| agent(n, &[])).collect::<Vec<_>>()).await;
    assert_eq!(run(&world, &["get", "agents", "-o", "name"]).await.lines().count(), 2300);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_set_and_removed() {
    let world = World::start().await;
    world.put(&[agent(1, &[])]).await;
    let id = uid(1).to_string();
    run(&world, &["label", "agent", &id, "env=prod", "tier=a=b"]).await;
    assert_eq!(run(&world, &["label", "agent", &id, "env-"]).await, format!("agent/{id} labeled\n"));
    let labels = world.store.read_agents(&[uid(1)]).await.unwrap().remove(0).labels;
    assert_eq!(labels, Labels::from([("tier".into(), "a=b".into())]));
    assert!(fails(&world, &["label", "agent", &id, "env"]).await.contains("neither KEY=VALUE nor KEY-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_agent_is_forgotten_by_force_only() {
    let world = World::start().await;
    world.put(&[agent(1, &[])]).await;
    let id = uid(1).to_string();
    assert!(fails(&world, &["forget", "agent", &id]).await.contains("AGENT_CONNECTED"));
    assert_eq!(run(&world, &["forget", "agent", &id, "--force"]).await, format!("agent/{id} forgotten\n"));
    assert!(fails(&world, &["forget", "agent", &id]).await.contains("AGENT_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_applied_as_a_whole() {
    let world = World::start().await;
    world.put(&[agent(1, &[("os.type", "linux")])]).await;
    let folder = world.folder.path();
    write(folder, "manifests/collector.yaml", "receivers: {}\n");
    let head = "kind: Config\nname: base\nselector: os.type = linux\n";
    let two = format!(
        "{head}files:\n  collector.yaml: {{content_type: text/yaml, path: ./collector.yaml}}\n---\nkind: Config\nname: more\nselector: \"\"\npriority: 3\nfiles: {{extra: {{body: hello}}}}\n"
    );
    let path = write(folder, "manifests/all.yaml", &two);
    let dry = run(&world, &["apply", "-f", &path, "--dry-run"]).await;
    let lines = |part: &str| dry.lines().filter(|line| line.contains(part)).count();
    assert!(dry.starts_with("policy/base created (dry run): 1 agents match, 1 of them connected\n"), "{dry}");
    assert_eq!(lines("policy/more created (dry run): 1 agents match, 1 of them connected"), 1, "{dry}");
    assert_eq!(lines("Config: 0 agents change, 1 gain, 0 lose; 0 stay as they are"), 1, "{dry}");
    assert!(dry.contains("--- /dev/null\n+++ then/collector.yaml\n@@ -0,0 +1 @@\n+receivers: {}\n"), "{dry}");
    assert_eq!(json(&world, &["get", "policies"]).await, Value::Array(Vec::new()));
    assert_eq!(run(&world, &["apply", "-f", &path]).await, "policy/base created\npolicy/more created\n");
    write(folder, "manifests/collector.yaml", "receivers: {otlp: {}}\n");
    assert_eq!(run(&world, &["apply", "-f", &path]).await, "policy/base configured\npolicy/more unchanged\n");
    let stdin =
        run_with(&world, &["apply", "-f", "-"], "kind: Config\nname: in\nselector: a\nfiles: {x: {body: y}}\n").await;
    assert_eq!((stdin.ok, stdin.stdout.as_str()), (true, "policy/in created\n"));

    let policy = json(&world, &["get", "policy", "base"]).await;
    assert_eq!(
        (&policy["revision"], &policy["files"]["collector.yaml"]["body"]),
        (&2.into(), &"receivers: {otlp: {}}\n".into())
    );
    let history = json(&world, &["history", "policy", "base"]).await;
    let numbers: Vec<_> = history.as_array().unwrap().iter().map(|revision| revision["revision"].as_u64()).collect();
    assert_eq!(numbers, [Some(2), Some(1)]);
    let config = json(&world, &["agent", "config", &uid(1).to_string()]).await;
    assert_eq!(
        (&config["files"]["extra"]["policy"], &config["files"]["collector.yaml"]["revision"]),
        (&"more".into(), &2.into())
    );
    let text = run(&world, &["agent", "config", &uid(1).to_string()]).await;
    assert!(text.contains("--- extra ---\nhello\n"), "{text}");
    assert!(run(&world, &["agent", "config", &uid(1).to_string(), "--diff"]).await.contains("+receivers: {otlp: {}}"));
    assert_eq!(run(&world, &["delete", "policy", "base"]).await, "policy/base deleted\n");
    assert!(fails(&world, &["get", "policy", "base"]).await.contains("POLICY_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_applied_when_anything_is_wrong() {
    let world = World::start().await;
    let folder = world.folder.path();
    let good = "kind: Config\nname: good\nselector: a\nfiles: {x: {body: y}}\n";
    let path = write(
        folder,
        "m.yaml",
        &format!("{good}---\nkind: Config\nname: bad\nselector: a in\nfiles: {{x: {{body: y}}}}\n"),
    );
    let error = fails(&world, &["apply", "-f", &path]).await;
    assert_eq!(
        error,
        format!(
            "error: nothing was applied: {path}: document 2, line 8: selector: position 5: expected \"(\", found the end\n"
        )
    );
    let twice = write(folder, "n.yaml", &format!("{good}---\n{good}"));
    let error = fails(&world, &["apply", "-f", &twice]).await;
    assert!(error.contains("document 2, line 7: name: policy \"good\" is there already"), "{error}");
    assert_eq!(json(&world, &["get", "policies"]).await, Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_token_is_alone_on_stdout() {
    let world = World::start().await;
    let text = run(&world, &["token", "create", "operator", "--name", "ann", "--expires", "30d"]).await;
    assert!(text.starts_with("muster_operator_") && text.lines().count() == 1, "{text}");
    let digest = muster::auth::token::digest(text.trim());
    assert!(world.store.find_token(TokenKind::Operator, &digest, 0).await.unwrap().is_some());
    let tokens = json(&world, &["token", "list"]).await;
    assert_eq!((&tokens[1]["name"], &tokens[1]["kind"]), (&"ann".into(), &"operator".into()));
    assert!(tokens[1]["expires_at"].is_string());
    let table = run(&world, &["token", "list"]).await;
    assert!(table.contains(tokens[1]["id"].as_str().expect("an id")), "what `token revoke` takes: {table}");
    assert_eq!(run(&world, &["token", "revoke", "ann"]).await, "token/ann revoked\n");
    let flags = ["get", "agents", "--token", text.trim()];
    assert!(fails(&world, &flags).await.contains("expired or revoked (TOKEN_INVALID)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_and_the_standalone_token_are_found() {
    let world = World::start().await;
    let address = world.address.to_string();
    let plain = |arguments: &[&str]| {
        let mut command = command(&world, arguments);
        command.env_remove("MUSTER_SERVER").env_remove("MUSTER_TOKEN");
        async move { output(command.output().await.expect("musterctl runs")) }
    };
    let refused = plain(&["fleet", "--server", &address]).await;
    assert!(!refused.ok && refused.stderr.contains("muster-data/operator.token"), "{}", refused.stderr);
    write(world.folder.path(), "muster-data/operator.token", &world.token);
    assert!(plain(&["fleet", "--server", &address]).await.ok);
    let set = plain(&["config", "set-context", "here", "--server", &address, "--token", &world.token]).await;
    assert_eq!((set.stdout.as_str(), set.stderr.as_str()), ("context/here created\n", ""));
    assert!(plain(&["config", "use-context", "here"]).await.ok);
    fs::remove_dir_all(world.folder.path().join("muster-data")).unwrap();
    let fleet = plain(&["fleet", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&fleet.stdout).unwrap()["agents"], 0, "{}", fleet.stderr);
    let contexts = plain(&["config", "get-contexts", "-o", "json"]).await;
    assert!(
        contexts.stdout.contains("\"current\": true") && !contexts.stdout.contains(&world.token),
        "{}",
        contexts.stdout
    );
    assert!(!plain(&["config", "use-context", "nowhere"]).await.ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_named() {
    let world = World::start().await;
    let error = fails(&world, &["fleet", "--server", "127.0.0.1:1"]).await;
    assert_eq!(error, "error: no connection to http://127.0.0.1:1/: Connection refused (os error 111)\n");
    assert!(run(&world, &["completion", "bash"]).await.contains("musterctl"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_for_one_agent_fails_if_it_cannot_get_it() {
    let world = World::start().await;
    world.put(&[agent(1, &[])]).await;
    let (one, two) = (uid(1).to_string(), uid(2).to_string());
    let output = run_with(&world, &["restart", &one], "").await;
    assert!(!output.ok && output.stdout.starts_with("restart ") && output.stdout.contains(": 0 sent, 1 not capable\n"));
    assert!(output.stderr.contains(&format!("agent {one} did not get it: not capable")), "{}", output.stderr);
    assert!(fails(&world, &["restart", &two]).await.contains("AGENT_NOT_FOUND"));
    assert!(fails(&world, &["restart", "-l", "os = beos"]).await.contains("NO_AGENT_MATCHES"));
    assert!(fails(&world, &["restart"]).await.contains("required"));
    assert!(fails(&world, &["restart", &one, "-l", ""]).await.contains("cannot be used with"));
    // Of those that a selector matches, some as a rule cannot.
    let arguments = ["send", "-l", "", "--capability", "c", "--type", "t", "--data-file", "-"];
    let output = run_with(&world, &[&arguments[..], &["-o", "json"]].concat(), "from stdin").await;
    assert!(output.ok, "{}", output.stderr);
    let command: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&command["not_capable"], &command["action"]), (&1.into(), &"message".into()));
    assert_eq!(command["not_sent"][0]["outcome"], "not_capable");
    let audit = world.store.list_audit(None, 1).await.unwrap();
    assert_eq!(audit[0].detail["bytes"], "from stdin".len());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_shown_as_a_tree_and_as_its_history() {
    let world = World::start().await;
    let mut record = agent(1, &[]);
    let part = opamp::ComponentHealth { last_error: "refused".into(), ..Default::default() };
    let health = opamp::ComponentHealth {
        healthy: true,
        status: "running".into(),
        component_health_map: [("otlp".to_owned(), part)].into(),
        ..Default::default()
    };
    (record.observed.health, record.observed.healthy) = (health.encode_to_vec().into(), Some(true));
    let transition = Transition {
        at: 1_700_000_000_000,
        component: vec!["otlp".into()],
        healthy: Some(false),
        status: String::new(),
        last_error: "refused".into(),
    };
    let news = News { uid: uid(1), custom_capabilities: None, components_hash: None, transitions: vec![transition] };
    assert_eq!(world.store.write_reports(&[record], &[], &[news]).await.unwrap(), []);
    let one = uid(1).to_string();
    let text = run(&world, &["agent", "health", &one]).await;
    let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["COMPONENT HEALTHY STATUS SINCE ERROR", "(agent) yes running - -", "otlp no - - refused"]);
    let history = run(&world, &["agent", "health", &one, "--history"]).await;
    assert!(history.lines().nth(1).unwrap().starts_with("2023-11-14T22:13:20.000Z   otlp"), "{history}");
    let value = json(&world, &["agent", "health", &one, "--history"]).await;
    assert_eq!(value["health"]["components"]["otlp"]["last_error"], "refused");
    assert_eq!(value["history"][0]["component"][0], "otlp");
    assert_eq!(json(&world, &["agent", "health", &one]).await.get("history"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn components_are_shown_once_they_are_known() {
    let world = World::start().await;
    let news = News {
        uid: uid(1),
        custom_capabilities: None,
        components_hash: Some(vec![1, 0xab].into()),
        transitions: Vec::new(),
    };
    assert_eq!(world.store.write_reports(&[agent(1, &[]), agent(2, &[])], &[], &[news]).await.unwrap(), []);
    let (one, two) = (uid(1).to_string(), uid(2).to_string());
    let output = run_with(&world, &["agent", "components", &two], "").await;
    assert!(output.ok && output.stderr.contains("does not say"), "{}", output.stderr);
    let value = json(&world, &["agent", "components", &one]).await;
    assert_eq!((&value["hash"], &value["components"]), (&"01ab".into(), &Value::Null));
    let value = Some(opamp::AnyValue { value: Some(opamp::any_value::Value::StringValue("v1".into())) });
    let part = opamp::ComponentDetails {
        metadata: vec![opamp::KeyValue { key: "code.namespace".into(), value }],
        ..Default::default()
    };
    let receivers =
        opamp::ComponentDetails { sub_component_map: [("otlp".to_owned(), part)].into(), ..Default::default() };
    let components = opamp::AvailableComponents {
        components: [("receivers".to_owned(), receivers)].into(),
        hash: vec![1, 0xab].into(),
    };
    world.store.put_components(&[(components.hash.clone(), components.encode_to_vec().into())], 1).await.unwrap();
    let text = run(&world, &["agent", "components", &one]).await;
    let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["COMPONENT METADATA", "receivers", "otlp code.namespace=v1"]);
    let value = json(&world, &["agent", "components", &one]).await;
    assert_eq!(value["components"]["receivers"]["components"]["otlp"]["metadata"]["code.namespace"], "v1");
}
