//! Two gateways, two config service replicas, Postgres, Redis.

use std::{collections::BTreeMap, time::Instant};

use crate::support::{agent::Fleet, cluster::Cluster};

const AGENTS: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_applied_through_either_replica_reaches_every_agent_once() {
    let cluster = Cluster::start(2, 2).await;
    let fleet = Fleet::start(AGENTS, "web", cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    for (service, text) in ["one", "two"].into_iter().enumerate() {
        let applied = Instant::now();
        cluster.ctl(service).apply("base", "service.name = web", "a.yaml", text).await;
        fleet.all_run("a.yaml", text).await;
        println!("{AGENTS} agents run {text:?} {:?} after `musterctl apply` was started", applied.elapsed());
    }

    let agents = cluster.ctl(1).settled_agents(AGENTS).await;
    let mut by_gateway = BTreeMap::<String, usize>::new();
    for agent in &agents {
        *by_gateway.entry(agent["gateway"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(by_gateway.into_values().collect::<Vec<_>>(), [AGENTS / 2, AGENTS / 2]);
    assert_eq!(fleet.count(|seen| seen.full_state_asks), 0, "each reported in full by itself");
    assert_eq!(fleet.count(|seen| seen.disconnects), 0);
    for agent in fleet.agents() {
        assert_eq!(agent.seen.offers.len(), 2, "each configuration was offered once: {agent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_lose_their_connections_are_not_asked_for_their_state_elsewhere() {
    let cluster = Cluster::start(2, 2).await;
    let fleet = Fleet::start(AGENTS / 5, "web", cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    cluster.ctl(0).apply("base", "service.name = web", "a.yaml", "one").await;
    fleet.all_run("a.yaml", "one").await;
    cluster.ctl(0).settled_agents(fleet.len()).await;
    for round in 2..=3 {
        fleet.drop_connections();
        fleet.all("agents are back", |agent| agent.seen.is_connected && agent.seen.connects == round).await;
    }
    cluster.ctl(1).apply("base", "service.name = web", "a.yaml", "two").await;
    fleet.all_run("a.yaml", "two").await;
    cluster.ctl(1).settled_agents(fleet.len()).await;
    assert_eq!(fleet.count(|seen| seen.needless_asks), 0);
    assert_eq!(fleet.count(|seen| seen.new_uids), 0, "a reconnect is no duplicate");
}
