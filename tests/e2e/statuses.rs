//! What operators see of agents and of rollouts is true, and goes on being shown.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    PATIENCE,
    agent::{Agent, Fleet, fleet::Transport},
    ctl::{Ctl, Follower},
    eventually_within,
    standalone::Standalone,
};

fn manifest(text: &str, rollout: &str) -> String {
    format!("kind: Config\nname: base\nselector: service.name = web\nfiles:\n  a.yaml: {{body: '{text}'}}\n{rollout}\n")
}

async fn state(ctl: &Ctl, state: &str) -> Value {
    eventually_within(PATIENCE, state, async || {
        let rollout = ctl.json(&["rollout", "status", "base"]).await;
        (rollout["state"] == state).then_some(rollout)
    })
    .await
}

fn uids(agents: &Value) -> Vec<&str> {
    agents.as_array().unwrap().iter().map(|agent| agent["instance_uid"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_asks_what_agents_run_believes_them() {
    const AGENTS: usize = 10;
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let agent = |index| match index {
        0 => Agent::new(index, "web").running("exporters: {local: }"),
        1 => Agent::new(index, "web").refusing("no-such-thing"),
        _ => Agent::new(index, "web"),
    };
    let agents: Vec<Agent> = (0..AGENTS).map(agent).collect();
    let (stubborn, refusing) = (agents[0].uid.to_string(), agents[1].uid.to_string());
    let gateways = vec![standalone.node.opamp()];
    let heartbeat = Duration::from_secs(5);
    let fleet = Fleet::of(agents, Transport::WebSocket, heartbeat, gateways, &standalone.agent_token());
    fleet.all_connected().await;

    // Without being asked for, it makes no difference.
    ctl.apply_written(&manifest("receivers: {otlp: }", "")).await;
    let first = state(&ctl, "SUCCEEDED").await;
    assert_eq!(first["counts"]["healthy"], AGENTS, "{first}");
    let shown = ctl.agent_is(&stubborn, "it says what it runs", |agent| agent["effective_config"] == "DIFFERS").await;
    assert_eq!((&shown["status"], &shown["offers"]["Config"]["state"]), (&json!("HEALTHY"), &json!("HEALTHY")));
    ctl.agent_is(&refusing, "it runs it", |agent| agent["effective_config"] == "MATCHES").await;

    let asked =
        "rollout: {steps: [100%], agent_deadline: 2s, effective_config: true, on_failure: pause, min_sample: 1}";
    ctl.apply_written(&manifest("receivers: {jaeger: }", asked)).await;
    let paused = state(&ctl, "PAUSED").await;
    assert_eq!(
        (&paused["counts"]["failed"], &paused["counts"]["healthy"]),
        (&json!(1), &json!(AGENTS - 1)),
        "{paused}"
    );
    let error = &paused["errors"][0];
    assert_eq!(error["message"], "applied it, but what it says that it runs is something else");
    assert_eq!(error["examples"], json!([stubborn]));
    assert_eq!(paused["plan"]["effective_config"], true);
    let text = ctl.run(&["rollout", "status", "base"]).await;
    assert!(text.contains("PAUSED") && text.contains(&format!("(such as {stubborn})")), "{text}");

    // Found by their status, and counted.
    ctl.apply_written(&manifest("no-such-thing: ", "")).await;
    ctl.agent_is(&refusing, "it has refused it", |agent| agent["status"] == "FAILED").await;
    let shown = ctl.agent(&refusing).await.unwrap();
    assert_eq!(shown["offers"]["Config"]["error"], "it does not parse");
    state(&ctl, "SUCCEEDED").await;
    let failed = ctl.json(&["get", "agents", "--status", "failed,drifted"]).await;
    assert_eq!(uids(&failed), [refusing.as_str()]);
    let healthy = ctl.json(&["get", "agents", "--status", "healthy"]).await;
    assert_eq!(uids(&healthy).len(), AGENTS - 1);
    let counted = ctl.json(&["fleet"]).await;
    assert_eq!(counted["statuses"], json!({ "Config": { "FAILED": 1, "HEALTHY": AGENTS - 1 } }));
    let described = ctl.run(&["describe", "agent", &refusing]).await;
    assert!(described.contains("FAILED") && described.contains("it does not parse"), "{described}");
    let refused = ctl.try_run(&["get", "agents", "--status", "lost"]).await;
    assert!(refused.stderr.contains("\"lost\" is no status: it is one of nothing_desired"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_goes_on_over_a_restart_of_the_server() {
    let mut standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let fleet = Fleet::start(4, "web", vec![standalone.node.opamp()], &standalone.agent_token());
    fleet.all_connected().await;
    ctl.apply_written(&manifest("one", "")).await;
    fleet.all_run("a.yaml", "one").await;
    state(&ctl, "SUCCEEDED").await;

    ctl.apply_written(&manifest("two", "rollout: {steps: [50%, 100%], approval: true}")).await;
    let mut watch = ctl.follow(&["rollout", "status", "base", "--watch", "-o", "json"]);
    let waiting = told(&mut watch, "AWAITING_APPROVAL").await;
    assert_eq!((&waiting["counts"]["healthy"], &waiting["counts"]["reachable"]), (&json!(2), &json!(4)), "{waiting}");
    assert_eq!(waiting["estimate"]["unknown"], "it waits for approval");
    standalone.node.kill();
    standalone.node.start().await;
    standalone.node.ready().await;
    ctl.run(&["rollout", "promote", "base"]).await;
    let ended = told(&mut watch, "SUCCEEDED").await;
    assert_eq!(ended["step"], 2, "{ended}");
    assert!(watch.ends_within(PATIENCE).await, "it has ended, and so does whoever watches it");
    fleet.all_run("a.yaml", "two").await;
}

/// What is told of a rollout once it is in this state.
async fn told(watch: &mut Follower, state: &str) -> Value {
    loop {
        let told = watch.next_within(PATIENCE).await.unwrap_or_else(|| panic!("nothing is told of {state}"));
        if told["state"] == state {
            return told;
        }
    }
}
