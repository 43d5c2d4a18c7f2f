//! The conformance runner: Muster passes its cases, and each case is able to fail.

mod broken;
mod clients;
mod command;
mod faults;
mod matrix;
mod proxy;

use std::{sync::Arc, time::Duration};

use muster::conformance::{self, Plan, Report, Trust};
use serde_json::Value;

use self::{faults::mute, proxy::Proxy};
use crate::support::{cluster::Cluster, standalone::Standalone, tls};

/// What the server is watched by, and a machine that does nothing else answers within.
const PATIENCE: Duration = Duration::from_secs(10);
/// A good answer is waited for this many times as long, on a machine that does other things.
const SLACK: u32 = 12;

fn plan(url: &str, token: &str, admin: (String, String)) -> Plan {
    Plan {
        url: url.parse().unwrap(),
        second_url: None,
        token: Some(token.to_owned()),
        admin: Some(admin),
        only: Vec::new(),
        patience: PATIENCE,
        slack: SLACK,
        parallel: 16,
        trust: Trust::default(),
    }
}

/// Every case passes but for those that are skipped for a reason that begins so.
fn all_pass(report: &Report, may_skip: &[&str]) {
    let wrong: Vec<String> = report
        .cases
        .iter()
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

#[tokio::test(flavor = "multi_thread")]
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
    let Value::Array(certificates) = ctl.json(&["get", "certificates"]).await else { panic!("a list is an array") };
    let is_over = |state: &Value| state == "denied" || state == "revoked";
    assert!(certificates.iter().all(|it| is_over(&it["state"])), "{certificates:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_pass() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("packages").to_string_lossy().into_owned();
    let (certificate, key) = tls::authority(folder.path());
    // Gateways know from their first list on that there is an authority.
    let environment = [
        ("MUSTER_PACKAGE_STORAGE", &*storage),
        ("MUSTER_AGENT_CA_FILE", &certificate),
        ("MUSTER_AGENT_CA_KEY_FILE", &key),
        ("MUSTER_OPAMP_URL", "ws://muster.test/v1/opamp"),
    ];
    let mut cluster = Cluster::start_with(2, 2, &environment).await;
    let opamp = cluster.opamp();
    // Where agents fetch packages, and connect with certificates, is known once the gateways listen.
    for service in &mut cluster.services {
        service.set_env("MUSTER_OPAMP_URL", &format!("ws://{}/v1/opamp", opamp[1]));
        service.terminate();
        service.ended().await;
        service.start().await;
        service.ready().await;
    }
    let admin = (format!("http://{}", cluster.services[0].admin()), cluster.operator_token().to_owned());
    let mut plan = plan(&format!("http://{}/v1/opamp", opamp[0]), cluster.agent_token(), admin);
    plan.second_url = Some(format!("http://{}/v1/opamp", opamp[1]).parse().unwrap());
    let report = conformance::run(&plan).await.unwrap();
    all_pass(&report, &[CAPABILITIES]);
    matrix::has_results(&report);
}

/// A server that takes connections and says nothing on them: no case waits for ever.
#[tokio::test(flavor = "multi_thread")]
async fn against_a_mute_server_all_cases_end() {
    let standalone = Standalone::start().await;
    let proxy = Proxy::start(standalone.node.opamp(), Arc::new(mute()), Arc::default(), 0).await;
    let plan = Plan {
        patience: Duration::from_secs(1),
        slack: 1,
        admin: None,
        parallel: 64,
        ..plan(&format!("http://{}", proxy.address), &standalone.agent_token(), (String::new(), String::new()))
    };
    let report = conformance::run(&plan).await.unwrap();
    assert!(!report.is_good(false) && report.failed > 100 && report.skipped > 30, "{}", report.table());
    let skipped = report.cases.iter().find(|case| case.id == "CFG-01").unwrap();
    assert_eq!((skipped.result, skipped.detail.as_str()), (conformance::Result::Skip, "needs --admin"));
}
