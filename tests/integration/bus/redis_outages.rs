//! Redis going away and coming back, under the bus.

use std::{sync::Arc, time::Duration};

use muster::bus::{Bus, Error, Role, Topic, redis::Redis};

use super::{read, subscribed, text};
use crate::support::{eventually, redis::Server};

fn connect(server: &Server) -> Arc<Redis> {
    Redis::connect(&server.url(), "test").unwrap()
}

async fn reachable(bus: &Arc<Redis>) {
    eventually("the bus is reachable", async || bus.is_reachable().then_some(())).await;
}

async fn unreachable(bus: &Arc<Redis>) {
    eventually("the outage is noticed", async || (!bus.is_reachable()).then_some(())).await;
}

#[tokio::test]
async fn a_killed_server_is_an_error_while_away_and_a_gap_afterwards() {
    let mut server = Server::start().await;
    let bus = connect(&server);
    reachable(&bus).await;
    let mut subscription = subscribed(&bus, &[Topic::Shard(1)]).await;
    bus.announce(Role::Gateway, "gw", Duration::from_secs(600)).await.unwrap();
    bus.publish(&Topic::Shard(1), text("before")).await.unwrap();
    assert_eq!(read(&mut subscription).await, "before");

    server.kill();
    unreachable(&bus).await;
    eventually("publishing fails", async || bus.publish(&Topic::Shard(1), text("lost")).await.err()).await;
    assert!(matches!(bus.members(Role::Gateway).await, Err(Error::Unreachable(_))));
    // Taken when Redis is back.
    subscription.set_topics(vec![Topic::Shard(1), Topic::Shard(2)]).await;

    server.restart().await;
    reachable(&bus).await;
    assert_eq!(read(&mut subscription).await, "GAP");
    bus.publish(&Topic::Shard(2), text("after")).await.unwrap();
    assert_eq!(read(&mut subscription).await, "after");
    assert!(bus.members(Role::Gateway).await.unwrap().is_empty(), "the new Redis is empty");
    bus.announce(Role::Gateway, "gw", Duration::from_secs(600)).await.unwrap();
    assert_eq!(bus.members(Role::Gateway).await.unwrap(), ["gw"]);
}

#[tokio::test]
async fn a_server_that_starts_later_is_found() {
    let mut server = Server::stopped();
    let bus = connect(&server);
    let mut subscription = subscribed(&bus, &[Topic::ConfigService]).await;
    assert!(bus.publish(&Topic::ConfigService, text("lost")).await.is_err());
    server.restart().await;
    reachable(&bus).await;
    assert_eq!(read(&mut subscription).await, "GAP");
    bus.publish(&Topic::ConfigService, text("heard")).await.unwrap();
    assert_eq!(read(&mut subscription).await, "heard");
}

#[tokio::test]
async fn a_server_that_stops_answering_is_noticed_on_both_links() {
    let mut server = Server::start().await;
    let bus = connect(&server);
    reachable(&bus).await;
    let mut subscription = subscribed(&bus, &[Topic::Shard(1)]).await;
    server.freeze();
    // The publisher that meets it waits for the time-out, and nobody after it.
    assert!(bus.publish(&Topic::Shard(1), text("lost")).await.is_err());
    assert!(!bus.is_reachable());
    // Waits for Redis to take it, until that link is given up as well.
    subscription.set_topics(vec![Topic::Shard(1), Topic::Shard(2)]).await;
    // It answers again, as if the network had healed: the subscriber is to learn that it may have missed something.
    server.thaw();
    assert_eq!(read_until_gap(&mut subscription).await, "GAP");
    reachable(&bus).await;
    bus.publish(&Topic::Shard(1), text("after")).await.unwrap();
    assert_eq!(read(&mut subscription).await, "after");
}

/// Well above the four seconds in which a link that does not answer is given up.
const FREEZE: Duration = Duration::from_secs(12);

#[tokio::test]
async fn a_subscriber_that_only_listens_learns_of_a_server_that_stops_answering() {
    let mut server = Server::start().await;
    let bus = connect(&server);
    reachable(&bus).await;
    let mut subscription = subscribed(&bus, &[Topic::Shard(1)]).await;
    server.freeze();
    // The length of the outage: nothing that could be waited for happens in it.
    tokio::time::sleep(FREEZE).await;
    server.thaw();
    assert_eq!(read(&mut subscription).await, "GAP");
}

/// What was published before the gap may still arrive.
async fn read_until_gap(subscription: &mut Box<dyn muster::bus::Subscription>) -> String {
    loop {
        let event = read(subscription).await;
        if event != "lost" {
            return event;
        }
    }
}

#[tokio::test]
async fn deployments_with_different_prefixes_share_a_server() {
    let server = Server::start().await;
    let one = Redis::connect(&server.url(), "one").unwrap();
    let two = Redis::connect(&server.url(), "two").unwrap();
    reachable(&one).await;
    reachable(&two).await;
    let mut subscription = subscribed(&one, &[Topic::ConfigService]).await;
    two.publish(&Topic::ConfigService, text("two's")).await.unwrap();
    one.publish(&Topic::ConfigService, text("one's")).await.unwrap();
    assert_eq!(read(&mut subscription).await, "one's");
    two.announce(Role::ConfigService, "node", Duration::from_secs(600)).await.unwrap();
    assert!(one.members(Role::ConfigService).await.unwrap().is_empty());
}
