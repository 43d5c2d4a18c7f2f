//! L6 and L7: new uids.

use std::collections::BTreeSet;

use tokio::time::timeout;

use super::client::{Client, Manner, World};
use crate::support::PATIENCE;

const ROUNDS: usize = 30;

/// As the Python client, which ignores the answer.
#[tokio::test]
async fn who_ignores_the_uid_that_it_asked_for_gets_one_all_the_same() {
    let world = World::start(1).await;
    let manner = Manner { takes_new_uids: false, requests_uid: true, ..Manner::default() };
    let mut client = Client::start(1, manner, &world.gateways[0]).await;
    for _ in 0..ROUNDS {
        let full = client.full();
        client.say(full).await;
    }
    let given: BTreeSet<_> = client.seen.uids.iter().collect();
    assert_eq!(given.len(), 1, "{given:?}");
    let mut polling = Client::new(2, manner);
    for _ in 0..ROUNDS {
        let full = polling.full();
        polling.poll(&world.gateways[0], full, 2).await;
    }
    let given: BTreeSet<_> = polling.seen.uids.iter().collect();
    assert_eq!(given.len(), 1, "{given:?}");
    assert_eq!(world.gateways[0].handle.agents(), 2);
    assert_eq!(world.agents().await, 2);
}

/// Of two agents with one uid the second is given another, and ignores it.
#[tokio::test]
async fn a_duplicate_that_ignores_its_new_uid_is_told_once() {
    let world = World::start(1).await;
    let mut original = Client::start(1, Manner::default(), &world.gateways[0]).await;
    let mut duplicate = Client::new(1, Manner { takes_new_uids: false, ..Manner::default() });
    duplicate.connect(&world.gateways[0]).await;
    for _ in 0..ROUNDS {
        let (first, second) = (original.full(), duplicate.full());
        tokio::join!(original.say(first), duplicate.say(second));
    }
    assert_eq!((original.seen.uids.len(), duplicate.seen.uids.len()), (0, 1));
    assert_eq!(world.gateways[0].handle.agents(), 2);
}

/// Both would take whatever they are given, as opamp-go does.
async fn one_of_two_is_given_another_uid(gateways: usize) {
    let world = World::start(gateways).await;
    let mut clients = [Client::new(1, Manner::default()), Client::new(1, Manner::default())];
    for (number, client) in clients.iter_mut().enumerate() {
        client.connect(&world.gateways[number % gateways]).await;
    }
    // Which of them lives is found out meanwhile, so how many rounds that takes nobody can say; then it is over.
    let mut rounds_left = ROUNDS;
    while rounds_left > 0 {
        // They speak at the same time: each answers what the other's message made the server ask.
        let [one, two] = &mut clients;
        let (first, second) = (one.full(), two.full());
        tokio::join!(one.say(first), two.say(second));
        rounds_left -= usize::from(!one.seen.uids.is_empty() || !two.seen.uids.is_empty());
        if rounds_left == ROUNDS / 2 {
            for client in &mut clients {
                client.report(&world, &format!("{} at half-time", client.uid)).await;
            }
        }
    }
    let given: Vec<_> = clients.iter().map(|client| client.seen.uids.len()).collect();
    assert_eq!(given.iter().sum::<usize>(), 1, "{given:?}");
    assert_ne!(clients[0].uid, clients[1].uid);
    assert_eq!(world.agents().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_agents_with_one_uid_one_is_given_another_once() {
    timeout(PATIENCE, one_of_two_is_given_another_uid(1)).await.expect("it is found out which of them lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_agents_with_one_uid_on_two_gateways_one_is_given_another_once() {
    timeout(PATIENCE, one_of_two_is_given_another_uid(2)).await.expect("it is found out which of them lives");
}
