//! Rollouts of packages and of connection settings: a good one goes out in steps, a bad one stops in its first and goes back by
//! itself.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{
    agent::{Agent, Fleet, Others, fleet::Transport},
    cluster::Cluster,
    ctl::Ctl,
    eventually_within,
};

const AGENTS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(120);
/// The first four agents, of which every other refuses what is bad.
const STEPS: &str = "rollout: {steps: ['test.index in (0, 1, 2, 3)', 100%], bake: 1s, agent_deadline: 60s}";
const FIRST: usize = 4;

async fn fleet(cluster: &Cluster, others: Others) -> Fleet {
    let agent = |index: usize| {
        let agent = Agent::new(index, "web").taking(others.clone());
        if index.is_multiple_of(2) { agent.refusing("poison") } else { agent }
    };
    let agents = (0..AGENTS).map(agent).collect();
    let heartbeat = Duration::from_secs(2);
    let fleet = Fleet::of(agents, Transport::WebSocket, heartbeat, cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    fleet
}

async fn ends(ctl: &Ctl, revision: u64, state: &str) -> Value {
    eventually_within(PATIENCE, &format!("revision {revision} is {state}"), async || {
        let rollout = ctl.json(&["rollout", "status", "base"]).await;
        println!("{rollout}");
        (rollout["revision"] == revision && rollout["state"] == state).then_some(rollout)
    })
    .await
}

/// The rollout that went back, of which every other agent of the first step said `error`.
fn assert_stopped_in_the_first_step(rollout: &Value, error: &str) {
    let of = |name: &str| rollout[name].clone();
    assert_eq!((of("step"), of("revision"), of("stable_revision")), (json!(1), json!(3), json!(2)), "{rollout}");
    let reason = rollout["reason"].as_str().unwrap();
    assert!(reason.starts_with("step 1: 2 of 4 agents failed; 2 of them say: ") && reason.contains(error), "{reason}");
}

/// Each agent was offered the revisions in their order: the bad third one only in the first step, and there once to those that
/// refused it.
fn assert_offered_in_order(fleet: &Fleet, offers: impl Fn(&Agent) -> &Vec<Bytes>) {
    for (index, agent) in fleet.agents().iter().enumerate() {
        let mut hashes = offers(agent).clone();
        hashes.dedup();
        let expected = if index < FIRST { 4 } else { 2 };
        assert_eq!(hashes.len(), expected, "agent {index}: {hashes:?}");
        if index < FIRST {
            assert_eq!(hashes[1], hashes[3], "agent {index} has the second again");
            let bad = offers(agent).iter().filter(|hash| **hash == hashes[2]).count();
            assert!(bad == 1 || !index.is_multiple_of(2), "agent {index} refused it, and was offered it {bad} times");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_go_out_in_steps_and_back() {
    let cluster = Cluster::start(2, 2).await;
    let fleet = fleet(&cluster, Others::packages()).await;
    let ctl = cluster.ctl(0);
    let apply = async |version: &str, rollout: &str| {
        let sha256 = "ab".repeat(32);
        ctl.apply_written(&format!(
            "kind: Packages\nname: base\nselector: service.name = web\npackages:\n  otelcol: {{type: top_level, \
             version: {version}, url: 'https://packages.example/{version}', sha256: {sha256}}}\n{rollout}\n"
        ))
        .await;
    };
    let all_have = async |version: &str| {
        let has = |agent: &Agent| agent.others.version() == Some(version);
        fleet.all(&format!("agents have version {version}"), has).await;
    };
    apply("1.0", "").await;
    all_have("1.0").await;
    ends(&ctl, 1, "SUCCEEDED").await;
    apply("2.0", STEPS).await;
    all_have("2.0").await;
    let good = ends(&ctl, 2, "SUCCEEDED").await;
    assert_eq!((&good["step"], &good["counts"]["healthy"]), (&json!(2), &json!(AGENTS)), "{good}");

    apply("3.0-poison", STEPS).await;
    let bad = ends(&ctl, 3, "ROLLED_BACK").await;
    assert_stopped_in_the_first_step(&bad, "otelcol: it does not start");
    all_have("2.0").await;
    fleet.drop_connections();
    fleet.all("agents are back", |agent| agent.seen.connects >= 2 && agent.is_answered()).await;
    assert_offered_in_order(&fleet, |agent| &agent.others.package_offers);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_settings_go_out_in_steps_and_back() {
    let cluster = Cluster::start(2, 2).await;
    let fleet = fleet(&cluster, Others::settings()).await;
    let ctl = cluster.ctl(0);
    let [one, two] = cluster.opamp()[..] else { panic!("two gateways") };
    let apply = async |endpoint: String, rollout: &str| {
        ctl.apply_written(&format!(
            "kind: ConnectionSettings\nname: base\nselector: service.name = web\nopamp:\n  endpoint: \
             {endpoint}\n  headers: {{Authorization: Bearer {}}}\n{rollout}\n",
            cluster.agent_token()
        ))
        .await;
    };
    let all_are_at = async |gateway| {
        let is_there = |agent: &Agent| agent.gateway() == Some(gateway) && agent.is_answered();
        fleet.all(&format!("agents are connected to {gateway}"), is_there).await;
    };
    apply(format!("ws://{one}/v1/opamp"), "").await;
    all_are_at(one).await;
    ends(&ctl, 1, "SUCCEEDED").await;
    apply(format!("ws://{two}/v1/opamp"), STEPS).await;
    all_are_at(two).await;
    let good = ends(&ctl, 2, "SUCCEEDED").await;
    assert_eq!((&good["step"], &good["counts"]["healthy"]), (&json!(2), &json!(AGENTS)), "{good}");

    // Those that can connect there do, and have to come back.
    apply(format!("ws://{one}/v1/opamp?poison"), STEPS).await;
    let bad = ends(&ctl, 3, "ROLLED_BACK").await;
    assert_stopped_in_the_first_step(&bad, "nobody answers there");
    all_are_at(two).await;
    assert_offered_in_order(&fleet, |agent| &agent.others.settings_offers);
    let moved = fleet.agents().iter().filter(|agent| agent.others.settings_offers.len() > 2).count();
    assert_eq!(moved, FIRST, "nobody else was offered it");
}
