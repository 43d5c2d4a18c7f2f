//! The conformance runner: Muster passes its cases, and each case is able to fail.

mod broken;
mod faults;
mod matrix;
mod proxy;

use std::time::Duration;

use muster::conformance::{self, Plan, Report, Trust};
use serde_json::Value;

use crate::support::{cluster::Cluster, node::clean, standalone::Standalone};

/// Far longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// What other work is about to bring.
const NOT_YET: &[&str] = &["EXT-05"];

fn plan(url: &str, token: &str, admin: (String, String)) -> Plan {
    Plan {
        url: url.parse().unwrap(),
        second_url: None,
        token: Some(token.to_owned()),
        admin: Some(admin),
        only: Vec::new(),
        patience: PATIENCE,
        parallel: 16,
        trust: Trust::default(),
    }
}

/// Every case passes but for those that are skipped for a reason that begins so.
fn all_pass(report: &Report, may_skip: &[&str]) {
    let wrong: Vec<String> = report
        .cases
        .iter()
        .filter(|case| !NOT_YET.contains(&case.id))
        .filter(|case| match case.result {
            conformance::Result::Pass => false,
            conformance::Result::Skip => !may_skip.iter().any(|reason| case.detail.starts_with(reason)),
            conformance::Result::Fail => true,
        })
        .map(|case| format!("{} {} {}: {}", case.id, case.title, case.result.name(), case.detail))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What a server does not say it can do.
const CAPABILITIES: &str = "the server ";

#[tokio::test]
async fn a_standalone_node_passes() {
    let standalone = Standalone::start().await;
    let admin = (format!("http://{}", standalone.node.admin()), standalone.operator_token());
    let plan = plan(&format!("ws://{}", standalone.node.opamp()), &standalone.agent_token(), admin);
    let report = conformance::run(&plan).await.unwrap();
    all_pass(&report, &["needs --second-url", CAPABILITIES]);

    // It has left nothing behind.
    let ctl = standalone.ctl();
    assert_eq!(ctl.json(&["get", "policies"]).await, Value::Array(Vec::new()));
    let agents = ctl.agents().await;
    let left: Vec<_> = agents.iter().filter(|agent| agent["connected"] == true).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_pass() {
    let cluster = Cluster::start(2, 2).await;
    let opamp = cluster.opamp();
    let admin = (format!("http://{}", cluster.services[0].admin()), cluster.operator_token().to_owned());
    let mut plan = plan(&format!("http://{}/v1/opamp", opamp[0]), cluster.agent_token(), admin);
    plan.second_url = Some(format!("http://{}/v1/opamp", opamp[1]).parse().unwrap());
    let report = conformance::run(&plan).await.unwrap();
    all_pass(&report, &[CAPABILITIES]);
    matrix::has_results(&report);
}

/// `muster conformance` with these arguments: its exit code, what it wrote, and its complaints.
async fn cli(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::from(clean(env!("CARGO_BIN_EXE_muster")));
    let output = command.arg("conformance").args(arguments).kill_on_drop(true).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_command_says_what_came_out_and_exits_accordingly() {
    let standalone = Standalone::start().await;
    let (url, token) = (format!("ws://{}/v1/opamp", standalone.node.opamp()), standalone.agent_token());
    let with =
        |only: &'static str, token: &str| ["--url", &url, "--only", only, "--token", token].map(str::to_owned).to_vec();
    let run = async |mut arguments: Vec<String>, more: &[&str]| {
        arguments.extend(more.iter().map(|it| it.to_string()));
        cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };

    let (code, json, _) = run(with("WS-01", &token), &["-o", "json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    let expected = serde_json::json!({
        "id": "WS-01", "level": "MUST", "transport": "websocket", "section": "WebSocket Transport", "result": "pass",
        "detail": "", "title": "the upgrade is answered with 101 and the right Sec-WebSocket-Accept",
    });
    let mut case = json["cases"][0].clone();
    case.as_object_mut().unwrap().remove("duration_ms");
    assert_eq!((code, case, json["cases"].as_array().unwrap().len()), (Some(0), expected, 1));

    // A MUST fails, then a SHOULD, which matters only if one is strict; then field practice, which never does.
    let (code, junit, _) = run(with("WS-01", "wrong"), &["-o", "junit"]).await;
    assert!(code == Some(1) && junit.contains("failures=\"1\"") && junit.contains("status 401"), "{junit}");
    assert_eq!(run(with("WS-07", "wrong"), &[]).await.0, Some(0));
    assert_eq!(run(with("WS-07", "wrong"), &["--strict"]).await.0, Some(1));
    let (code, table, _) = run(with("WS-09", "wrong"), &["--strict"]).await;
    assert!(code == Some(0) && table.contains("0 passed, 1 failed, 0 skipped"), "{table}");

    // What cannot be run says so.
    for (arguments, error) in [
        (&["--url", "ws://127.0.0.1:1/", "--timeout", "2s"][..], "no connection to 127.0.0.1:1"),
        (&["--url", &url, "--only", "NOTHING-*"], "no case matches nothing-*"),
        (&["--url", "gopher://x"], "must start with http://"),
        (&["--url", &url, "--admin", "http://127.0.0.1:1", "--admin-token", "x"], "the admin API: no connection to"),
        (&["--url", &url, "--admin", "http://127.0.0.1:1"], "--admin-token"),
        (&["--url", "wss://127.0.0.1:1", "--ca-file", "/no/such/file"], "/no/such/file"),
    ] {
        let (code, _, complaint) = cli(arguments).await;
        assert!(code == Some(2) && complaint.contains(error), "{arguments:?}: {code:?} {complaint}");
    }
}

/// A server that has nothing there: cases fail, none hangs, and those that need an operator are skipped.
#[tokio::test]
async fn a_wrong_path_fails_in_time() {
    let standalone = Standalone::start().await;
    let url = format!("http://{}/wrong", standalone.node.opamp());
    let plan = Plan {
        patience: Duration::from_secs(1),
        admin: None,
        parallel: 64,
        ..plan(&url, &standalone.agent_token(), (String::new(), String::new()))
    };
    let report = conformance::run(&plan).await.unwrap();
    assert!(!report.is_good(false) && report.failed > 100 && report.skipped > 30, "{}", report.table());
    let skipped = report.cases.iter().find(|case| case.id == "CFG-01").unwrap();
    assert_eq!((skipped.result, skipped.detail.as_str()), (conformance::Result::Skip, "needs --admin"));
}
