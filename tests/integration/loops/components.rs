//! L8: requests for available components.

use super::client::{Client, Components, Manner, World};
use crate::support::eventually;

/// Has clients that are built alike come and go, until one was asked, and goes on. Returns how often each was asked.
async fn asks(components: Components) -> Vec<usize> {
    let mut world = World::start(2).await;
    world.add_replica().await;
    let mut clients = Vec::new();
    for n in 1..=6 {
        let manner = Manner { components, ..Manner::USUAL };
        clients.push(Client::start(n, manner, &world.gateways[usize::from(n % 2)]).await);
    }
    eventually("one is asked", async || {
        for client in &mut clients {
            let heartbeat = client.heartbeat();
            client.say(heartbeat).await;
        }
        clients.iter().any(|client| client.seen.component_asks > 0).then_some(())
    })
    .await;
    for client in &mut clients {
        // Everything that it is, again and again, as after a restart.
        for _ in 0..10 {
            let full = client.full();
            client.say(full).await;
        }
    }
    world.go_on(&mut clients[0]).await;
    for client in &mut clients {
        client.report(&world, "at the end").await;
    }
    clients.iter().map(|client| client.seen.component_asks).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_all_that_are_built_alike_is_asked_once() {
    let asks = asks(Components::Tells).await;
    assert_eq!(asks.iter().sum::<usize>(), 1, "{asks:?}");
}

/// Others may be asked when it has had its time, but nobody twice.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_is_not_asked_again() {
    let asks = asks(Components::Withholds).await;
    assert!(asks.iter().all(|asks| *asks <= 1), "{asks:?}");
}
