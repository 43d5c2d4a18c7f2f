//! Changes that go out step by step: a bad one stops and goes back by itself, and a good one arrives, whoever dies on the way.

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    agent::{Agent, Fleet, fleet::Transport},
    cluster::Cluster,
    ctl::Ctl,
    eventually_within,
    postgres::Stop,
    standalone::Standalone,
};

pub const PATIENCE: Duration = Duration::from_secs(120);
const STEPS: &str = "rollout: {steps: [5%, 25%, 100%], bake: 1s, agent_deadline: 60s, max_failures: 2%, min_sample: 5}";

pub fn manifest(text: &str, rollout: &str) -> String {
    format!(
        "kind: Config\nname: base\nselector: service.name = web\nfiles:\n  a.yaml: {{body: \"{text}\"}}\n{rollout}\n"
    )
}

pub async fn rollout(ctl: &Ctl) -> Value {
    ctl.json(&["rollout", "status", "base"]).await
}

pub async fn reaches(ctl: &Ctl, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually_within(PATIENCE, what, async || {
        let outcome = ctl.try_run(&["rollout", "status", "base", "-o", "json"]).await;
        let rollout: Value = serde_json::from_str(&outcome.stdout).ok()?;
        holds(&rollout).then_some(rollout)
    })
    .await
}

pub async fn state(ctl: &Ctl, state: &str) -> Value {
    reaches(ctl, state, |rollout| rollout["state"] == state).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_revision_stops_in_its_first_step_and_goes_back() {
    const AGENTS: usize = 2_000;
    let cluster = Cluster::start(2, 2).await;
    let agent = |index| {
        let agent = Agent::new(index, "web");
        if index % 5 == 0 { agent.refusing("poison") } else { agent }
    };
    let heartbeat = Duration::from_secs(5);
    let agents = (0..AGENTS).map(agent).collect();
    let fleet = Fleet::of(agents, Transport::WebSocket, heartbeat, cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    let ctl = cluster.ctl(0);
    ctl.apply_written(&manifest("good", "")).await;
    fleet.all_run("a.yaml", "good").await;
    let first = state(&ctl, "SUCCEEDED").await;
    assert_eq!((&first["at_once"], &first["counts"]["healthy"]), (&json!(true), &json!(AGENTS)));
    let good = fleet.agents()[0].applied().cloned().unwrap();

    ctl.apply_written(&manifest("poison", STEPS)).await;
    let outcome = ctl.try_run(&["rollout", "status", "base", "--wait", "--timeout", "2m"]).await;
    assert_eq!(outcome.code, Some(3), "{}{}", outcome.stdout, outcome.stderr);
    let ended = rollout(&ctl).await;
    assert_eq!((&ended["state"], &ended["step"]), (&json!("ROLLED_BACK"), &json!(1)), "{ended}");
    assert_eq!((&ended["revision"], &ended["stable_revision"]), (&json!(2), &json!(1)));
    assert!(ended["reason"].as_str().unwrap().contains("it does not parse"), "{ended}");
    fleet.all("agents run the stable revision", |agent| agent.applied() == Some(&good)).await;
    fleet.all("agents have answered", Agent::is_answered).await;

    // Nobody outside the first step was offered it, nor is anybody again, not even when all come back.
    let bad = |agents: &[Agent]| {
        let offers = agents.iter().map(|agent| agent.seen.offers.iter().filter(|hash| **hash != good).count());
        offers.collect::<Vec<_>>()
    };
    let offered = bad(&fleet.agents());
    let reached = offered.iter().filter(|offers| **offers > 0).count();
    assert!((5..=AGENTS / 20).contains(&reached), "{reached} agents were offered it");
    fleet.drop_connections();
    fleet.all("agents are back", |agent| agent.seen.connects >= 2 && agent.is_answered()).await;
    let unchanged = ctl.apply_written(&manifest("poison", STEPS)).await;
    assert_eq!(unchanged, "policy/base unchanged (the stable revision is 1; see rollout status base)\n");
    fleet.heartbeat();
    fleet.all("agents have answered", Agent::is_answered).await;
    assert_eq!(bad(&fleet.agents()), offered);
    assert_eq!(rollout(&ctl).await["state"], "ROLLED_BACK");
}

/// Agents that crash never say that they failed, and are never on one connection for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_makes_agents_crash_goes_back() {
    const AGENTS: usize = 20;
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let agents = (0..AGENTS).map(|index| Agent::new(index, "web").crashing("poison")).collect();
    let gateways = vec![standalone.node.opamp()];
    let fleet = Fleet::of(agents, Transport::WebSocket, Duration::from_secs(2), gateways, &standalone.agent_token());
    fleet.all_connected().await;
    ctl.apply_written(&manifest("good", "")).await;
    fleet.all_run("a.yaml", "good").await;
    state(&ctl, "SUCCEEDED").await;
    ctl.apply_written(&manifest("poison", "rollout: {steps: [3, 100%], agent_deadline: 3s}")).await;
    let ended = state(&ctl, "ROLLED_BACK").await;
    let reason = ended["reason"].as_str().unwrap();
    assert!(reason.starts_with("step 1: "), "{reason}");
    assert!(reason.ends_with("of them say: connects again and again, and does not run it in good health"), "{reason}");
    fleet.all("agents have answered", Agent::is_answered).await;
    let crashed = fleet.agents().iter().filter(|agent| agent.seen.connects > 1).count();
    assert_eq!(crashed, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_may_die_and_databases_go_away() {
    const AGENTS: usize = 200;
    let mut cluster = Cluster::start(2, 2).await;
    let fleet = Fleet::start(AGENTS, "web", cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    cluster.ctl(0).apply_written(&manifest("old", "")).await;
    fleet.all_run("a.yaml", "old").await;
    let old = fleet.agents()[0].applied().cloned().unwrap();
    let first = cluster.ctl(0);
    state(&first, "SUCCEEDED").await;
    first.apply_written(&manifest("new", STEPS)).await;
    // Whichever of the two drives: each is killed once in each step.
    for step in 1..=3 {
        for service in 0..2 {
            let ctl = cluster.ctl(1 - service);
            reaches(&ctl, "a step", |rollout| rollout["step"].as_u64() >= Some(step)).await;
            cluster.services[service].kill();
            cluster.services[service].start().await;
            cluster.services[service].ready().await;
        }
        // Each database is away in one of the steps.
        match step {
            1 => {
                cluster.stop_postgres(Stop::Immediate);
                cluster.start_postgres();
            }
            2 => {
                cluster.redis.kill();
                fleet.heartbeat();
                cluster.redis.restart().await;
            }
            _ => {}
        }
    }
    let ctl = cluster.ctl(0);
    let ended = state(&ctl, "SUCCEEDED").await;
    assert_eq!((&ended["step"], &ended["stable_revision"]), (&json!(3), &json!(2)));
    fleet.all_run("a.yaml", "new").await;
    for agent in fleet.agents() {
        // Never back to the old one.
        let since_new: Vec<_> = agent.seen.offers.iter().skip_while(|hash| **hash == old).collect();
        assert!(!since_new.is_empty() && since_new.iter().all(|hash| **hash != old));
    }
    let audit = ctl.json(&["rollout", "history", "base"]).await;
    let states: Vec<_> = audit.as_array().unwrap().iter().map(|rollout| rollout["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["SUCCEEDED", "SUCCEEDED"]);
}

/// What is done for a rollout follows what happens, not the size of the fleet.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_waits_looks_at_no_agents() {
    const AGENTS: usize = 20;
    const READ: &str = "muster_config_rollout_agents_read_total{cause=\"changed\"}";
    const LOOKS: &str = "muster_store_operation_duration_seconds_count{operation=\"take_lease\"}";
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let fleet = Fleet::start_quiet(AGENTS, "web", vec![standalone.node.opamp()], &standalone.agent_token());
    fleet.all_connected().await;
    ctl.apply_written(&manifest("one", "rollout: {steps: [100%], bake: 1h}")).await;
    fleet.all_run("a.yaml", "one").await;
    reaches(&ctl, "it bakes", |it| it["state"] == "BAKING" && it["counts"]["healthy"] == AGENTS).await;

    let metric = async |name: &str| standalone.node.metric(name).await.unwrap_or(0.0);
    let read = async || metric(READ).await + metric(&READ.replace("changed", "whole")).await;
    let looks = async |count: f64| {
        let until = metric(LOOKS).await + count;
        eventually_within(PATIENCE, "it is looked at", async || (metric(LOOKS).await >= until).then_some(())).await;
    };
    // What was said last has been taken in.
    looks(2.0).await;
    let before = read().await;
    looks(5.0).await;
    assert_eq!(read().await, before);
    // One that changes is looked at, and no other.
    fleet.report_health("worse", 0, AGENTS);
    eventually_within(PATIENCE, "it is seen", async || (read().await > before).then_some(())).await;
    looks(2.0).await;
    assert_eq!(read().await, before + 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_steer_a_rollout() {
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let fleet = Fleet::start(20, "web", vec![standalone.node.opamp()], &standalone.agent_token());
    fleet.all_connected().await;
    ctl.apply_written(&manifest("one", "")).await;
    fleet.all_run("a.yaml", "one").await;
    state(&ctl, "SUCCEEDED").await;
    let running =
        |text: &str| fleet.agents().iter().filter(|agent| agent.file("a.yaml").as_deref() == Some(text)).count();

    let approved = "rollout: {steps: [2, 50%, 100%], approval: true}";
    ctl.apply_written(&manifest("two", approved)).await;
    let waiting = state(&ctl, "AWAITING_APPROVAL").await;
    assert_eq!((&waiting["step"], &waiting["counts"]["in_cohort"]), (&json!(1), &json!(2)), "{waiting}");
    assert_eq!((running("two"), running("one")), (2, 18));
    ctl.run(&["rollout", "promote", "base"]).await;
    reaches(&ctl, "the second step is done", |it| it["step"] == 2 && it["state"] == "AWAITING_APPROVAL").await;
    assert_eq!((running("two"), running("one")), (10, 10));
    let early: HashSet<_> =
        fleet.agents().iter().filter(|a| a.file("a.yaml").as_deref() == Some("two")).map(|a| a.uid).collect();
    assert_eq!(early.len(), 10);

    ctl.run(&["rollout", "pause", "base"]).await;
    let outcome = ctl.try_run(&["rollout", "status", "base", "--wait"]).await;
    assert_eq!(outcome.code, Some(4), "{}", outcome.stderr);
    assert!(!ctl.try_run(&["rollout", "pause", "base"]).await.succeeded);
    ctl.run(&["rollout", "abort", "base"]).await;
    fleet.all_run("a.yaml", "one").await;
    assert_eq!(rollout(&ctl).await["state"], "ABORTED");
    let refused = ctl.try_run(&["rollout", "resume", "base"]).await;
    assert!(refused.stderr.contains("is ABORTED: it has ended"), "{}", refused.stderr);

    // What was stable stays so for newcomers too, and a revision after it begins from there.
    assert_eq!(ctl.json(&["get", "policy", "base"]).await["stable_revision"], 1);
    ctl.apply_written(&manifest("three", "rollout: {steps: [10%, 100%], bake: 10m}")).await;
    reaches(&ctl, "it bakes", |it| it["state"] == "BAKING").await;
    let outcome = ctl.try_run(&["rollout", "status", "base", "--wait", "--timeout", "1s"]).await;
    assert_eq!(outcome.code, Some(5), "{}", outcome.stderr);
    ctl.run(&["rollout", "promote", "base", "--full"]).await;
    fleet.all_run("a.yaml", "three").await;
    state(&ctl, "BAKING").await;
    ctl.run(&["rollout", "promote", "base"]).await;
    assert_eq!(rollout(&ctl).await["state"], "SUCCEEDED");

    ctl.run(&["rollout", "undo", "base", "--to-revision", "1", "-m", "three was slow"]).await;
    fleet.all_run("a.yaml", "one").await;
    let history = ctl.json(&["history", "policy", "base"]).await;
    assert_eq!((&history[0]["revision"], &history[0]["message"]), (&json!(4), &json!("three was slow")));

    // What is wrong is named with its place.
    ctl.write("bad.yaml", &manifest("four", "rollout:\n  steps: [10%, 5%, 100%]\n  max_failures: 2"));
    let refused = ctl.try_run(&["apply", "-f", "bad.yaml"]).await;
    assert!(refused.stderr.contains("line 8: rollout.max_failures: \"2\" is not a percentage"), "{}", refused.stderr);
    ctl.write("bad.yaml", &manifest("four", "rollout:\n  steps: [10%, 5%, 100%]"));
    let refused = ctl.try_run(&["apply", "-f", "bad.yaml"]).await;
    assert!(refused.stderr.contains("line 7: rollout.steps[1]: 5% is not more than"), "{}", refused.stderr);
    ctl.write("bad.yaml", &manifest("four", "rollout:\n  steps:\n  - 1%\n  - 0.5\n  - 100%"));
    let refused = ctl.try_run(&["apply", "-f", "bad.yaml"]).await;
    assert!(refused.stderr.contains("line 9: rollout.steps[1]: \"0.5\" is neither"), "{}", refused.stderr);
}
