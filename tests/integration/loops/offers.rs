//! L3 and L10: configurations that are offered again and again.

use super::client::{Applies, Client, GROUP, Manner, World};

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_not_offered_again() {
    let mut world = World::start(2).await;
    world.cluster.settle("bad", GROUP, "bad").await;
    let manner = Manner { applies: Applies::Badly, ..Manner::default() };
    let mut client = Client::start(1, manner, &world.gateways[0]).await;
    world.go_on(&mut client).await;
    assert_eq!(client.seen.offers.len(), 1, "{:?}", client.seen);

    // Another one is offered, and it goes on as before.
    world.cluster.settle("bad", GROUP, "just as bad").await;
    world.go_on(&mut client).await;
    assert_eq!(client.seen.offers.len(), 2, "{:?}", client.seen);
}

/// The Supervisor's last word is APPLIED of what it had before, which is not what it should have.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_is_not_offered_again() {
    let mut world = World::start(2).await;
    world.cluster.settle("base", GROUP, "good").await;
    let mut client = Client::start(1, Manner::default(), &world.gateways[0]).await;
    client.report(&world, "it has a configuration").await;
    assert_eq!(client.seen.offers.len(), 1);
    client.set_applies(Applies::RollsBack);
    world.cluster.settle("base", GROUP, "bad").await;
    world.go_on(&mut client).await;
    assert_eq!(client.seen.offers.len(), 2, "{:?}", client.seen);
    let row = client.report(&world, "at the end").await;
    assert_eq!(row.observed.config.hash, client.seen.offers[0], "it runs what it had before");
}

/// As .NET does: a heartbeat's capabilities of 0 mean that nothing has changed.
#[tokio::test(flavor = "multi_thread")]
async fn capabilities_of_zero_take_nothing_back() {
    let mut world = World::start(2).await;
    world.cluster.settle("base", GROUP, "one").await;
    let manner = Manner { capabilities_once: true, ..Manner::default() };
    let mut client = Client::start(1, manner, &world.gateways[0]).await;
    world.go_on(&mut client).await;
    assert_eq!(client.seen.offers.len(), 1, "{:?}", client.seen);
    world.cluster.settle("base", GROUP, "two").await;
    client.report(&world, "later").await;
    client.report(&world, "and later").await;
    assert_eq!(client.seen.offers.len(), 2, "it still accepts configurations: {:?}", client.seen);
}
