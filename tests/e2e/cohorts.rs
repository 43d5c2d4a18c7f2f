//! Whom the steps of a rollout reach: as many as they say, of all agents that are known, and nobody while it is paused.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    rollouts::{PATIENCE, reaches, state},
    support::{
        agent::{Agent, Fleet, fleet::Transport},
        ctl::Ctl,
        eventually_within,
        standalone::Standalone,
    },
};

const HEARTBEAT: Duration = Duration::from_secs(5);

fn manifest(text: &str, rollout: &str) -> String {
    crate::rollouts::manifest(text, &format!("rollout: {rollout}"))
}

fn of(standalone: &Standalone, agents: Vec<Agent>) -> Fleet {
    let gateways = vec![standalone.node.opamp()];
    Fleet::of(agents, Transport::WebSocket, HEARTBEAT, gateways, &standalone.agent_token())
}

fn running(fleets: &[&Fleet], text: &str) -> usize {
    let agents = fleets.iter().flat_map(|fleet| fleet.agents());
    agents.filter(|agent| agent.file("a.yaml").as_deref() == Some(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_as_large_as_it_says_however_many_come_later() {
    const KNOWN: usize = 20;
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let fleet = Fleet::start(KNOWN, "web", vec![standalone.node.opamp()], &standalone.agent_token());
    fleet.all_connected().await;
    ctl.apply_written(&manifest("one", "{steps: [100%]}")).await;
    fleet.all_run("a.yaml", "one").await;
    state(&ctl, "SUCCEEDED").await;
    let mut agents = fleet.agents();
    drop(fleet);
    ctl.all_agents(KNOWN, "all are away", |agent| agent["connected"] == false).await;

    // Nobody is there to prove a step: none begins.
    ctl.apply_written(&manifest("two", "{steps: [2, 100%], bake: 1h}")).await;
    let waiting = reaches(&ctl, "it says why it waits", |rollout| rollout["reason"] != "").await;
    assert_eq!((&waiting["state"], &waiting["step"]), (&json!("PENDING"), &json!(0)), "{waiting}");
    assert_eq!(waiting["reason"], "step 1 waits: no agent that matches is connected");

    let others = agents.split_off(2);
    let first = of(&standalone, agents);
    let baking = state(&ctl, "BAKING").await;
    assert_eq!(baking["step"], 1);
    let held = baking["counts"]["in_cohort"].as_u64().unwrap();
    assert!((2..=3).contains(&held), "of two connected agents one is in, beside the first two of all: {baking}");

    // The others come back, and new ones come: of those, nobody is in.
    let others = of(&standalone, others);
    others.all("agents are back", |agent| agent.seen.connects >= 2 && agent.is_answered()).await;
    let new = Fleet::start(20, "web", vec![standalone.node.opamp()], &standalone.agent_token());
    new.all_run("a.yaml", "one").await;
    let all = reaches(&ctl, "all are counted, and those in it are well", |rollout| {
        rollout["counts"]["matching"] == KNOWN + 20 && rollout["counts"]["healthy"] == held
    })
    .await;
    assert_eq!((&all["state"], &all["step"], &all["counts"]["in_cohort"]), (&json!("BAKING"), &json!(1), &json!(held)));
    assert_eq!(running(&[&first, &others], "two") as u64, held);

    ctl.run(&["rollout", "promote", "base"]).await;
    for fleet in [&first, &others, &new] {
        fleet.all_run("a.yaml", "two").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_that_nobody_is_in_is_not_taken_for_proved() {
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let fleet = Fleet::start(5, "web", vec![standalone.node.opamp()], &standalone.agent_token());
    fleet.all_connected().await;
    ctl.apply_written(&manifest("one", "{steps: [100%]}")).await;
    fleet.all_run("a.yaml", "one").await;
    let rings = manifest("two", "{steps: [ring = canry, 100%]}");
    ctl.write("ring.yaml", &rings);
    let dry = ctl.run(&["apply", "-f", "ring.yaml", "--dry-run"]).await;
    assert!(dry.contains("step 1 (ring = canry) selects no agent"), "{dry}");
    ctl.apply_written(&rings).await;
    let held = state(&ctl, "AWAITING_APPROVAL").await;
    assert_eq!(held["reason"], "no agent is in the ring of step 1, ring = canry");
    assert_eq!((&held["step"], &held["counts"]["in_cohort"]), (&json!(1), &json!(0)), "{held}");
    assert_eq!(running(&[&fleet], "two"), 0);
    ctl.run(&["rollout", "promote", "base"]).await;
    fleet.all_run("a.yaml", "two").await;
    state(&ctl, "SUCCEEDED").await;
}

/// Waits until rollouts have been looked at so many times more.
async fn looks(standalone: &Standalone, count: f64) {
    const LOOKS: &str = "muster_store_operation_duration_seconds_count{operation=\"take_lease\"}";
    let until = standalone.node.metric(LOOKS).await.unwrap_or(0.0) + count;
    eventually_within(PATIENCE, "it is looked at", async || {
        (standalone.node.metric(LOOKS).await? >= until).then_some(())
    })
    .await;
}

/// Agents that were offered something else than this.
fn offered_another(fleet: &Fleet, than: &[u8]) -> usize {
    fleet.agents().iter().filter(|agent| agent.seen.offers.iter().any(|hash| hash[..] != *than)).count()
}

/// While a rollout is paused, nobody is offered anything who was not before, whatever agents do.
async fn nobody_is_offered_more(standalone: &Standalone, ctl: &Ctl, fleet: &Fleet, old: &[u8]) -> Value {
    // What was on its way has arrived, and is counted.
    looks(standalone, 2.0).await;
    let paused = state(ctl, "PAUSED").await;
    let offered = paused["counts"]["offered"].as_u64().unwrap();
    assert!((1..60).contains(&offered), "{paused}");
    assert_eq!(offered_another(fleet, old) as u64, offered, "{paused}");
    fleet.drop_connections();
    fleet.all("agents are back", |agent| agent.seen.connects >= 2 && agent.is_answered()).await;
    let new = Fleet::start(5, "web", vec![standalone.node.opamp()], &standalone.agent_token());
    new.all_run("a.yaml", "old").await;
    looks(standalone, 6.0).await;
    let after = reaches(ctl, "new agents are counted", |rollout| rollout["counts"]["matching"] == 65).await;
    assert_eq!((&after["state"], after["counts"]["offered"].as_u64()), (&json!("PAUSED"), Some(offered)), "{after}");
    assert_eq!(offered_another(fleet, old) as u64, offered, "{after}");
    after
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_offered_what_an_operator_has_paused() {
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let fleet = Fleet::start(60, "web", vec![standalone.node.opamp()], &standalone.agent_token());
    fleet.all_connected().await;
    ctl.apply_written(&manifest("old", "{steps: [100%]}")).await;
    fleet.all_run("a.yaml", "old").await;
    state(&ctl, "SUCCEEDED").await;
    let old = fleet.agents()[0].applied().cloned().unwrap();
    ctl.apply_written(&manifest("new", "{steps: [100%], max_per_second: 2, bake: 10m}")).await;
    reaches(&ctl, "some have it", |rollout| rollout["counts"]["healthy"].as_u64() >= Some(3)).await;
    ctl.run(&["rollout", "pause", "base"]).await;
    nobody_is_offered_more(&standalone, &ctl, &fleet, &old).await;
    let reached = running(&[&fleet], "new");

    // A change of another policy brings nobody from one revision to the other.
    let other = "kind: Config\nname: other\nselector: service.name = web\nfiles:\n  b.yaml: {body: b}\n";
    ctl.write("other.yaml", other);
    ctl.run(&["apply", "-f", "other.yaml"]).await;
    fleet.all_run("b.yaml", "b").await;
    assert_eq!((running(&[&fleet], "new"), running(&[&fleet], "old")), (reached, 60 - reached));

    ctl.run(&["rollout", "resume", "base"]).await;
    fleet.all_run("a.yaml", "new").await;
    state(&ctl, "BAKING").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_offered_what_has_paused_by_failures() {
    let standalone = Standalone::start().await;
    let ctl = standalone.ctl();
    let agents = (0..60).map(|index| Agent::new(index, "web").refusing("poison")).collect();
    let fleet = of(&standalone, agents);
    fleet.all_connected().await;
    ctl.apply_written(&manifest("old", "{steps: [100%]}")).await;
    fleet.all_run("a.yaml", "old").await;
    state(&ctl, "SUCCEEDED").await;
    let old = fleet.agents()[0].applied().cloned().unwrap();
    let plan = "{steps: [100%], max_per_second: 2, min_sample: 2, on_failure: pause}";
    ctl.apply_written(&manifest("poison", plan)).await;
    state(&ctl, "PAUSED").await;
    let after = nobody_is_offered_more(&standalone, &ctl, &fleet, &old).await;
    assert!(after["reason"].as_str().unwrap().contains("agents failed"), "{after}");
}
