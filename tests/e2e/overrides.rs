//! Agents that keep their revision of a policy whatever rollouts do, and whoever dies meanwhile.

use serde_json::json;

use crate::{
    rollouts::{manifest, reaches},
    support::{
        agent::{Agent, Fleet},
        cluster::Cluster,
    },
};

const AGENTS: usize = 40;

fn running<'a>(agents: &'a [Agent], text: &str) -> Vec<&'a Agent> {
    agents.iter().filter(|agent| agent.file("a.yaml").as_deref() == Some(text)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn overridden_agents_keep_theirs_whatever_rollouts_do() {
    let mut cluster = Cluster::start(2, 2).await;
    let fleet = Fleet::start(AGENTS, "web", cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    let ctl = cluster.ctl(0);
    ctl.apply_written(&manifest("one", "")).await;
    fleet.all_run("a.yaml", "one").await;
    reaches(&ctl, "the first revision is everywhere", |it| it["state"] == "SUCCEEDED").await;

    // One is pinned before a rollout; of those that it divides, one of each part is held.
    let pinned = fleet.agents()[0].uid;
    ctl.run(&["override", "base", &pinned.to_string(), "--revision", "1", "-m", "a slow disk"]).await;
    ctl.apply_written(&manifest("two", "rollout: {steps: [50%, 100%], approval: true}")).await;
    let waiting = reaches(&ctl, "half of them", |it| it["state"] == "AWAITING_APPROVAL").await;
    let counts = &waiting["counts"];
    let expected = (&json!(AGENTS), &json!(1), &json!(20));
    assert_eq!((&counts["matching"], &counts["overridden"], &counts["in_cohort"]), expected, "{waiting}");
    let agents = fleet.agents();
    let inside = running(&agents, "two")[0].uid;
    let outside = running(&agents, "one").into_iter().find(|agent| agent.uid != pinned).unwrap().uid;
    for uid in [inside, outside] {
        let said = ctl.run(&["override", "base", &uid.to_string(), "--hold"]).await;
        assert_eq!(said, "policy/base: 1 agents held on what they have\n");
    }

    // Whichever of the two replicas drives: each is killed once.
    for service in 0..2 {
        cluster.services[service].kill();
        cluster.services[service].start().await;
        cluster.services[service].ready().await;
    }
    let ctl = cluster.ctl(1);
    ctl.run(&["rollout", "promote", "base"]).await;
    let ended = reaches(&ctl, "the second revision is everywhere", |it| it["state"] == "SUCCEEDED").await;
    assert_eq!((&ended["counts"]["overridden"], &ended["counts"]["healthy"]), (&json!(3), &json!(AGENTS - 3)));
    let has = |agent: &Agent, text: &str| agent.file("a.yaml").as_deref() == Some(text);
    let others = |agent: &Agent| ![pinned, inside, outside].contains(&agent.uid);
    fleet.all("others run the second", |agent| !others(agent) || has(agent, "two")).await;
    ctl.apply_written(&manifest("three", "")).await;
    fleet.all("others run the third", |agent| !others(agent) || has(agent, "three")).await;
    fleet.drop_connections();
    fleet.all("agents are back", |agent| agent.seen.connects >= 2 && agent.is_answered()).await;
    for agent in fleet.agents().iter().filter(|agent| !others(agent)) {
        let (text, offers) = if agent.uid == inside { ("two", 2) } else { ("one", 1) };
        assert!(has(agent, text), "{}", agent.uid);
        let mut different = agent.seen.offers.clone();
        different.dedup();
        assert_eq!(different.len(), offers, "{} was offered something else meanwhile", agent.uid);
    }
    let shown = ctl.json(&["agent", "config", &inside.to_string()]).await;
    let file = &shown["files"]["a.yaml"];
    assert_eq!((&file["revision"], &file["overridden"]), (&json!(2), &json!(true)), "{shown}");

    // From then on they have what is right for them, also where an override goes by itself.
    let cleared = ctl.run(&["override", "base", "-l", "", "--clear"]).await;
    assert_eq!(cleared, "policy/base: 3 overrides cleared\n");
    fleet.all_run("a.yaml", "three").await;
    ctl.run(&["override", "base", &pinned.to_string(), "--hold", "--for", "2s"]).await;
    ctl.apply_written(&manifest("four", "")).await;
    fleet.all_run("a.yaml", "four").await;
    assert_eq!(ctl.json(&["get", "overrides"]).await, json!([]));
}
