//! Agents that are at two gateways, in turn or at once.

use std::{collections::HashSet, time::Duration};

use crate::{
    scene::Scene,
    support::{
        agent::{
            Agent,
            fleet::{Fleet, Transport},
        },
        cluster::Cluster,
    },
};

const AGENTS: usize = 200;

/// As behind a load balancer that knows nothing of sessions.
#[tokio::test(flavor = "multi_thread")]
async fn polls_that_go_to_another_gateway_each_time() {
    let cluster = Cluster::start(2, 2).await;
    let agents = (0..AGENTS).map(|index| Agent::new(index, "web")).collect();
    let every = Duration::from_secs(1);
    let fleet = Fleet::of(agents, Transport::Http, every, cluster.opamp(), cluster.agent_token());
    let mut scene = Scene::with_fleet(cluster, fleet).await;
    for (service, text) in ["one", "two", "three"].into_iter().enumerate() {
        scene.traffic(Duration::from_secs(2)).await;
        scene.apply(service % 2, text).await;
        scene.everything_arrives(0, text).await;
    }
    scene.nobody_was_asked_without_need();
    assert_eq!(scene.fleet.count(|seen| seen.full_state_asks), 0);
    for agent in scene.fleet.agents() {
        assert_eq!(agent.seen.offers.len(), 4, "each configuration was offered once: {agent:?}");
    }
    assert_eq!(scene.cluster.ctl(0).agents().await.len(), AGENTS, "nobody was taken for two");
}

/// Their old connections are open, but nobody reads them. Neither gateway can tell that by itself.
#[tokio::test(flavor = "multi_thread")]
async fn agents_that_left_their_connections_half_open() {
    let mut scene = Scene::of(Cluster::start(2, 2).await, AGENTS).await;
    for round in 2..=3 {
        scene.fleet.leave_connections_half_open();
        scene.fleet.all("agents are back", |agent| agent.seen.is_connected && agent.seen.connects == round).await;
        scene.traffic(Duration::from_secs(3)).await;
        let text = format!("round {round}");
        scene.apply(0, &text).await;
        scene.everything_arrives(0, &text).await;
    }
    scene.nobody_was_asked_without_need();
    assert_eq!(scene.cluster.ctl(0).agents().await.len(), AGENTS);
}

/// Pairs of agents with one uid, as of a copied disk image, each at another gateway; all come at once.
#[tokio::test(flavor = "multi_thread")]
async fn pairs_with_one_uid_on_two_gateways() {
    const PAIRS: usize = 50;
    let cluster = Cluster::start(2, 2).await;
    let agents = (0..PAIRS).flat_map(|pair| {
        let one = Agent::new(2 * pair, "web");
        let mut other = Agent::new(2 * pair + 1, "web");
        other.uid = one.uid;
        [one, other]
    });
    let heartbeat = Duration::from_secs(2);
    let fleet = Fleet::of(agents.collect(), Transport::WebSocket, heartbeat, cluster.opamp(), cluster.agent_token());
    fleet
        .all_pairs("one of each pair has another uid", |one, other| one.seen.new_uids + other.seen.new_uids == 1)
        .await;
    let mut scene = Scene::with_fleet(cluster, fleet).await;
    scene.traffic(Duration::from_secs(5)).await;
    scene.apply(1, "after").await;
    scene.everything_arrives(0, "after").await;

    let agents = scene.fleet.agents();
    assert_eq!(agents.iter().map(|agent| agent.uid).collect::<HashSet<_>>().len(), 2 * PAIRS);
    for pair in agents.chunks(2) {
        assert_eq!(pair[0].seen.new_uids + pair[1].seen.new_uids, 1, "{pair:?}");
    }
    for (index, agent) in agents.iter().enumerate() {
        let stored = scene.cluster.ctl(0).agent(&agent.uid.to_string()).await.unwrap();
        assert_eq!(stored["attributes"]["test.index"], index.to_string(), "each has its own description: {stored}");
    }
    assert_eq!(scene.fleet.count(|seen| seen.disconnects), 0);
}
