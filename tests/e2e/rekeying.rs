//! Agents that ask for another uid while nodes die: each goes on as one agent, with all that was known of it.

use std::{collections::HashSet, time::Duration};

use crate::{
    scene::Scene,
    support::{eventually, postgres::Stop},
};

const AGENTS: usize = 400;
/// So many have a label that says which they are.
const LABELLED: usize = 20;

#[derive(Clone, Copy, Debug)]
enum Killed {
    ConfigService,
    Gateway,
    Postgres,
    Redis,
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_ask_for_another_uid_while_nodes_die() {
    let mut scene = Scene::set_with(AGENTS).await;
    let first = uids(&scene);
    for (number, uid) in first.iter().take(LABELLED).enumerate() {
        scene.cluster.ctl(0).run(&["label", "agent", uid, &format!("number={number}")]).await;
    }
    for killed in [Killed::ConfigService, Killed::Gateway, Killed::Postgres, Killed::Redis] {
        let (before, given) = (uids(&scene), scene.fleet.count(|seen| seen.new_uids));
        scene.fleet.ask_for_uids();
        // Some have been told, of others it is stored only, and some have not been heard.
        eventually("some have another uid", async || {
            (scene.fleet.count(|seen| seen.new_uids) >= given + AGENTS as u32 / 10).then_some(())
        })
        .await;
        let told = scene.fleet.agents().iter().filter(|agent| !agent.asks_for_uid()).count();
        println!("{killed:?}: {told} of {AGENTS} have been told");
        kill(&mut scene, killed).await;
        scene.fleet.all("agents have another uid", |agent| !agent.asks_for_uid()).await;
        scene.traffic(Duration::from_secs(3)).await;
        scene.apply_when_possible(&format!("after {killed:?}")).await;
        scene.everything_arrives(0, &format!("after {killed:?}")).await;

        let after = uids(&scene);
        assert!(before.iter().zip(&after).all(|(before, after)| before != after));
        assert_eq!(after.iter().collect::<HashSet<_>>().len(), AGENTS, "no two have one uid");
        for (number, uid) in after.iter().take(LABELLED).enumerate() {
            let agent = scene.cluster.ctl(0).agent(uid).await.expect("it is known by the uid that it uses");
            assert_eq!(agent["labels"]["number"], number.to_string(), "{killed:?}: {agent}");
            assert_eq!(agent["attributes"]["test.index"], number.to_string(), "{killed:?}: {agent}");
        }
    }
}

async fn kill(scene: &mut Scene, killed: Killed) {
    match killed {
        Killed::ConfigService => {
            scene.cluster.services[0].kill();
            scene.cluster.services[0].start().await;
            scene.cluster.services[0].ready().await;
        }
        Killed::Gateway => {
            scene.kill_gateway(0);
            scene.cluster.gateways[0].start().await;
            scene.fleet.set_gateways(scene.cluster.opamp());
        }
        Killed::Postgres => {
            scene.cluster.stop_postgres(Stop::Immediate);
            scene.cluster.start_postgres();
        }
        Killed::Redis => {
            scene.cluster.redis.kill();
            scene.cluster.redis.restart().await;
        }
    }
}

fn uids(scene: &Scene) -> Vec<String> {
    scene.fleet.agents().iter().map(|agent| agent.uid.to_string()).collect()
}
