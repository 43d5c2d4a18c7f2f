//! Agents that are given another uid because they ask for one: what is known of them goes along, whatever node they speak to next,
//! and whichever uid they use.

use std::collections::BTreeMap;

use muster::model::{AgentRecord, InstanceUid};

use crate::{
    config_service::cluster::{Backend, actor},
    loops::client::{Client, GROUP, Manner, World},
    support::eventually,
};

/// Two gateways, and an agent at the first of them that is known well: it has a label, and runs a configuration.
async fn known(backend: Backend, manner: Manner) -> (World, Client) {
    let world = World::on(backend, 2).await;
    world.cluster.settle("base", &format!("{GROUP} = looping"), "one").await;
    let mut client = Client::start(1, manner, &world.gateways[0]).await;
    let labels = BTreeMap::from([("env".to_owned(), Some("prod".to_owned()))]);
    world.cluster.store.set_labels(client.uid, &labels, None, &actor()).await.unwrap();
    client.report(&world, "before").await;
    assert_eq!(client.seen.offers.len(), 1);
    (world, client)
}

/// Speaks until it has another uid.
async fn takes_another(client: &mut Client) -> InstanceUid {
    let before = client.uid;
    let request = client.uid_request();
    client.say(request).await;
    eventually("it has another uid", async || {
        let heartbeat = client.heartbeat();
        client.say(heartbeat).await;
        (client.uid != before).then_some(client.uid)
    })
    .await
}

/// It is one agent, whose record is under the uid that it uses; and it was asked for nothing, and offered nothing again.
async fn is_what_it_was(world: &World, client: &mut Client, before: &AgentRecord) {
    let after = client.report(world, &format!("as {}", client.uid)).await;
    assert_eq!(after.labels, before.labels);
    assert_eq!(after.first_seen, before.first_seen);
    assert_eq!(after.desired.config.generation, before.desired.config.generation);
    assert_eq!(after.observed.config, before.observed.config);
    assert!(after.observed.complete && after.presence.connected);
    assert_eq!(world.cluster.agents().await, 1);
    assert_eq!((client.seen.asks, client.seen.offers.len(), client.seen.errors), (0, 1, 0), "{:?}", client.seen);
}

async fn row(world: &World, client: &Client) -> AgentRecord {
    world.cluster.row(client.uid).await.expect("it is stored")
}

mod cases {
    use super::*;

    /// As opamp-go, which uses the uid from its next message on and says nothing again.
    pub async fn an_agent_takes_everything_along(backend: Backend) {
        let (world, mut client) = known(backend, Manner::default()).await;
        let before = row(&world, &client).await;
        for _ in 0..3 {
            takes_another(&mut client).await;
            is_what_it_was(&world, &mut client, &before).await;
        }
        assert_eq!(client.seen.uids.len(), 3);
        world.cluster.settle("base", &format!("{GROUP} = looping"), "two").await;
        eventually("the next configuration comes", async || {
            let heartbeat = client.heartbeat();
            client.say(heartbeat).await;
            (client.seen.offers.len() == 2).then_some(())
        })
        .await;
    }

    pub async fn the_next_message_goes_to_another_gateway(backend: Backend) {
        let (mut world, mut client) = known(backend, Manner::default()).await;
        let before = row(&world, &client).await;
        for number in [1, 0, 1] {
            takes_another(&mut client).await;
            client.reconnect(&world.gateways[number]).await;
            is_what_it_was(&world, &mut client, &before).await;
            world.restart_service().await;
        }
    }

    pub async fn an_agent_that_never_heard_of_its_uid_keeps_its_own(backend: Backend) {
        let (world, mut client) = known(backend, Manner::default()).await;
        let (own, before) = (client.uid, row(&world, &client).await);
        for number in [1, 0, 1] {
            let request = client.uid_request();
            client.send_and_lose(request).await;
            client.reconnect(&world.gateways[number]).await;
            // What it said last may have been lost as well, so that it is asked for everything.
            eventually("all is known", async || {
                let heartbeat = client.heartbeat();
                client.say(heartbeat).await;
                let row = world.cluster.row(own).await?;
                (row.observed.complete && row.presence.connected && row.labels == before.labels).then_some(())
            })
            .await;
        }
        assert_eq!((client.uid, world.cluster.agents().await, client.seen.offers.len()), (own, 1, 1));
    }

    pub async fn an_agent_that_ignores_its_uid_keeps_its_own(backend: Backend) {
        let (world, mut client) = known(backend, Manner { takes_new_uids: false, ..Manner::default() }).await;
        let (own, before) = (client.uid, row(&world, &client).await);
        let request = client.uid_request();
        client.say(request).await;
        eventually("it is told", async || {
            let heartbeat = client.heartbeat();
            client.say(heartbeat).await;
            (!client.seen.uids.is_empty()).then_some(())
        })
        .await;
        client.reconnect(&world.gateways[1]).await;
        is_what_it_was(&world, &mut client, &before).await;
        assert_eq!((client.uid, client.seen.uids.len()), (own, 1));
    }

    pub async fn polls_go_to_another_gateway_each_time(backend: Backend) {
        let world = World::on(backend, 2).await;
        let mut client = Client::new(1, Manner::default());
        let full = client.full();
        client.poll(&world.gateways[0], full, 1).await;
        let labels = BTreeMap::from([("env".to_owned(), Some("prod".to_owned()))]);
        world.cluster.store.set_labels(client.uid, &labels, None, &actor()).await.unwrap();
        for _ in 0..4 {
            let before = client.uid;
            let request = client.uid_request();
            client.poll(&world.gateways[1], request, 1).await;
            assert_ne!(client.uid, before);
            let heartbeat = client.heartbeat();
            client.poll(&world.gateways[0], heartbeat, 1).await;
            let row = row(&world, &client).await;
            assert!(row.labels.contains_key("env") && row.observed.complete);
            assert_eq!((world.cluster.agents().await, client.seen.asks), (1, 0));
        }
    }

    /// The reply to a poll is lost, and the client tries again, by way of a load balancer.
    pub async fn a_request_that_is_repeated_elsewhere_makes_no_second_agent(backend: Backend) {
        let world = World::on(backend, 2).await;
        let mut client = Client::new(1, Manner { takes_new_uids: false, ..Manner::default() });
        let mut request = client.full();
        request.flags = client.uid_request().flags;
        for number in [0, 1, 0] {
            client.poll(&world.gateways[number], request.clone(), 1).await;
        }
        assert_eq!(client.seen.uids.len(), 3);
        assert!(client.seen.uids.iter().all(|uid| *uid == client.seen.uids[0]), "{:?}", client.seen.uids);
        assert_eq!(world.cluster.agents().await, 1);
    }

    /// A second agent, as of a copied disk, asks for a uid of its own while the first lives.
    pub async fn who_asks_beside_a_living_agent_takes_nothing_of_it(backend: Backend) {
        let (world, mut client) = known(backend, Manner::default()).await;
        let mut copy = Client::new(1, Manner::default());
        copy.connect(&world.gateways[1]).await;
        let (own, request) = (client.uid, copy.uid_request());
        let asking = async {
            copy.say(request).await;
            eventually("it has another uid", async || {
                let heartbeat = copy.heartbeat();
                copy.say(heartbeat).await;
                (copy.uid != own).then_some(())
            })
            .await;
            copy
        };
        let mut copy = Box::pin(client.alive_while(asking)).await;
        // Nothing is known of it, and it may not know that.
        eventually("it is asked for everything", async || {
            let heartbeat = copy.heartbeat();
            copy.say(heartbeat).await;
            (copy.seen.asks == 1).then_some(())
        })
        .await;
        assert!(world.cluster.row_when(copy.uid, |row| row.observed.complete).await.labels.is_empty());
        let before = row(&world, &client).await;
        assert_eq!((client.uid, before.labels.len(), world.cluster.agents().await), (own, 1, 2));
        client.report(&world, "goes on").await;
    }
}

macro_rules! on_both {
    ($($test:ident)*) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::cases::$test(super::Backend::InProcess).await;
            })*
        }
        mod servers {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::cases::$test(super::Backend::Servers).await;
            })*
        }
    };
}

on_both! {
    an_agent_takes_everything_along
    the_next_message_goes_to_another_gateway
    an_agent_that_never_heard_of_its_uid_keeps_its_own
    an_agent_that_ignores_its_uid_keeps_its_own
    polls_go_to_another_gateway_each_time
    a_request_that_is_repeated_elsewhere_makes_no_second_agent
    who_asks_beside_a_living_agent_takes_nothing_of_it
}
