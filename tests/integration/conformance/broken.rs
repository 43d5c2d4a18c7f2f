//! Each case fails against a server that is broken so that it must.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use futures_util::{StreamExt, stream};
use muster::conformance::{self, Pattern, Plan, Result};

use super::{
    PATIENCE, all_pass,
    faults::{self, Broken},
    plan,
    proxy::{Fault, Proxy, World},
};
use crate::support::{cluster::Cluster, standalone::Standalone, tls};

const PARALLEL: usize = 24;

/// The cases that take more than a standalone node: two nodes, or certificates, which one in plain text does not issue.
fn is_for_cluster(case: &str) -> bool {
    case.starts_with("NODE-") || case.starts_with("CERT-")
}

#[test]
fn each_case_has_its_fault() {
    let faults: Vec<&str> = faults::all().iter().map(|broken| broken.case).collect();
    let cases: Vec<&str> = conformance::all().iter().map(|case| case.id).collect();
    let missing: Vec<_> = cases.iter().filter(|case| !faults.contains(case)).collect();
    let surplus: Vec<_> = faults.iter().filter(|case| !cases.contains(case)).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "without a fault: {missing:?}; without a case: {surplus:?}");
    assert_eq!(faults.len(), cases.len(), "a case has two");
}

/// Runs one case against the servers, spoilt.
async fn outcome(plan: &Plan, servers: &[SocketAddr], broken: Broken) -> Option<String> {
    let (fault, world) = (Arc::new(broken.fault), Arc::new(World::default()));
    let mut proxies = Vec::new();
    for (node, server) in servers.iter().enumerate() {
        proxies.push(Proxy::start(*server, fault.clone(), world.clone(), node).await);
    }
    let plan = through(plan, &proxies, vec![broken.case.parse().unwrap()]);
    let report = conformance::run(&plan).await.unwrap();
    let case = &report.cases[0];
    let is_seen = broken.complaint.split('|').any(|complaint| case.detail.contains(complaint));
    (case.result != Result::Fail || !is_seen).then(|| {
        format!("{}: {} {:?}, not a failure with {:?}", case.id, case.result.name(), case.detail, broken.complaint)
    })
}

fn through(plan: &Plan, proxies: &[Proxy], only: Vec<Pattern>) -> Plan {
    let url = |proxy: &Proxy| format!("http://{}/v1/opamp", proxy.address).parse().unwrap();
    Plan { url: url(&proxies[0]), second_url: proxies.get(1).map(url), only, ..plan.clone() }
}

async fn each_fails(plan: &Plan, servers: &[SocketAddr], faults: impl Iterator<Item = Broken>) {
    let outcomes = stream::iter(faults).map(|broken| outcome(plan, servers, broken));
    let wrong: Vec<String> = outcomes.buffer_unordered(PARALLEL).filter_map(async |it| it).collect().await;
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_fails_against_a_broken_server() {
    let standalone = Standalone::start().await;
    let admin = (format!("http://{}", standalone.node.admin()), standalone.operator_token());
    let plan = Plan {
        patience: PATIENCE / 2,
        slack: 1,
        ..plan(&format!("ws://{}", standalone.node.opamp()), &standalone.agent_token(), admin)
    };
    let faults = faults::all().into_iter().filter(|broken| !is_for_cluster(broken.case));
    each_fails(&plan, &[standalone.node.opamp()], faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_for_a_cluster_fails_against_a_broken_one() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = tls::authority(folder.path());
    let environment = [
        ("MUSTER_AGENT_CA_FILE", &*certificate),
        ("MUSTER_AGENT_CA_KEY_FILE", &key),
        ("MUSTER_OPAMP_URL", "wss://muster.test/v1/opamp"),
    ];
    let cluster = Cluster::start_with(2, 1, &environment).await;
    let admin = (format!("http://{}", cluster.services[0].admin()), cluster.operator_token().to_owned());
    let opamp = cluster.opamp();
    let plan = Plan {
        patience: PATIENCE / 2,
        slack: 1,
        ..plan(&format!("http://{}", opamp[0]), cluster.agent_token(), admin)
    };
    let faults = faults::all().into_iter().filter(|broken| is_for_cluster(broken.case));
    each_fails(&plan, &opamp, faults).await;
}

/// Otherwise it would be the proxy that is seen to be broken, and not the fault.
#[tokio::test(flavor = "multi_thread")]
async fn all_pass_through_a_proxy_without_a_fault() {
    let standalone = Standalone::start().await;
    let admin = (format!("http://{}", standalone.node.admin()), standalone.operator_token());
    let plan = plan(&format!("ws://{}", standalone.node.opamp()), &standalone.agent_token(), admin);
    let proxy = Proxy::start(standalone.node.opamp(), Arc::new(Fault::default()), Arc::default(), 0).await;
    let report = conformance::run(&through(&plan, &[proxy], Vec::new())).await.unwrap();
    all_pass(&report, &["needs --second-url", super::CAPABILITIES]);
    let by_result = report.cases.iter().fold(BTreeMap::<_, usize>::new(), |mut counts, case| {
        *counts.entry(case.result.name()).or_default() += 1;
        counts
    });
    assert!(by_result["pass"] > 200, "{by_result:?}");
}
