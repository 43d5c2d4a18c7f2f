//! What every bus does. Each test runs over each bus.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use muster::bus::{Event, Limits, Role, SharedBus, Topic, in_process::InProcess, redis::Redis};
use tokio::sync::OnceCell;

use super::{next, read, read_many, subscribed, text};
use crate::support::{eventually, redis::Server};

macro_rules! contract {
    ($($test:ident)*) => {
        mod in_process {
            $(#[tokio::test] async fn $test() { super::$test(super::in_process).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $test() { super::$test(super::redis).await; })*
        }
    };
}

contract! {
    a_message_reaches_every_subscriber_of_its_topic_and_nobody_else
    messages_of_one_publisher_arrive_in_order
    setting_topics_replaces_them
    a_cancelled_read_loses_nothing
    a_slow_subscriber_gets_a_gap_and_holds_nobody_up
    publishing_to_nobody_is_fine
    payloads_are_kept_byte_for_byte
    members_are_listed_by_role_and_sorted
    a_membership_ends_when_withdrawn
    a_membership_ends_by_itself_unless_renewed
}

async fn in_process(limits: Limits) -> SharedBus {
    InProcess::with_limits(limits)
}

/// All tests share a server; each has its own prefix. The server ends with the test process.
async fn redis(limits: Limits) -> SharedBus {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    static PREFIXES: AtomicU32 = AtomicU32::new(0);
    let server = SERVER.get_or_init(Server::start).await;
    let prefix = format!("test-{}", PREFIXES.fetch_add(1, Ordering::Relaxed));
    let bus: SharedBus = Redis::connect_with_limits(&server.url(), &prefix, limits).unwrap();
    eventually("the bus is reachable", async || bus.is_reachable().then_some(())).await;
    bus
}

async fn a_message_reaches_every_subscriber_of_its_topic_and_nobody_else(make: impl AsyncFn(Limits) -> SharedBus) {
    let bus = make(Limits::default()).await;
    let mut one = subscribed(&bus, &[Topic::Shard(1), Topic::ConfigService]).await;
    let mut two = subscribed(&bus, &[Topic::Shard(2), Topic::ConfigService]).await;
    let mut gateway = subscribed(&bus, &[Topic::Gateway("gw/1".to_owned())]).await;
    bus.publish(&Topic::Shard(1), text("first shard")).await.unwrap();
    bus.publish(&Topic::Shard(2), text("second shard")).await.unwrap();
    bus.publish(&Topic::Gateway("gw".to_owned()), text("another gateway")).await.unwrap();
    bus.publish(&Topic::Gateway("gw/1".to_owned()), text("gateway")).await.unwrap();
    bus.publish(&Topic::ConfigService, text("all")).await.unwrap();
    assert_eq!(read_many(&mut one, 2).await, ["first shard", "all"]);
    assert_eq!(read_many(&mut two, 2).await, ["second shard", "all"]);
    assert_eq!(read(&mut gateway).await, "gateway");
}

async fn messages_of_one_publisher_arrive_in_order(make: impl AsyncFn(Limits) -> SharedBus) {
    let bus = make(Limits::default()).await;
    let mut subscription = subscribed(&bus, &[Topic::AgentsChanged]).await;
    let expected: Vec<_> = (0..500).map(|n| n.to_string()).collect();
    for message in &expected {
        bus.publish(&Topic::AgentsChanged, text(message)).await.unwrap();
    }
    assert_eq!(read_many(&mut subscription, expected.len()).await, expected);
}

async fn setting_topics_replaces_them(make: impl AsyncFn(Limits) -> SharedBus) {
    let bus = make(Limits::default()).await;
    let mut subscription = subscribed(&bus, &[Topic::Shard(1), Topic::Shard(2)]).await;
    subscription.set_topics(vec![Topic::Shard(2), Topic::Shard(3)]).await;
    for shard in 1..=3 {
        bus.publish(&Topic::Shard(shard), text(&shard.to_string())).await.unwrap();
    }
    assert_eq!(read_many(&mut subscription, 2).await, ["2", "3"]);
    subscription.set_topics(vec![]).await;
    bus.publish(&Topic::Shard(2), text("missed")).await.unwrap();
    subscription.set_topics(vec![Topic::Shard(2)]).await;
    bus.publish(&Topic::Shard(2), text("again")).await.unwrap();
    assert_eq!(read(&mut subscription).await, "again");
}

async fn a_cancelled_read_loses_nothing(make: impl AsyncFn(Limits) -> SharedBus) {
    let bus = make(Limits::default()).await;
    let mut subscription = subscribed(&bus, &[Topic::Shard(0)]).await;
    let mut heard = Vec::new();
    for n in 0..100 {
        bus.publish(&Topic::Shard(0), text(&n.to_string())).await.unwrap();
        // Polled once, then dropped, whether it was about to have a message or not.
        heard.extend(read(&mut subscription).now_or_never());
        tokio::task::yield_now().await;
    }
    while heard.len() < 100 {
        heard.push(read(&mut subscription).await);
    }
    assert_eq!(heard, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn a_slow_subscriber_gets_a_gap_and_holds_nobody_up(make: impl AsyncFn(Limits) -> SharedBus) {
    let bus = make(Limits { messages: 3, bytes: 1 << 20 }).await;
    let mut slow = subscribed(&bus, &[Topic::Shard(0)]).await;
    let mut other = subscribed(&bus, &[Topic::Shard(1)]).await;
    for n in 0..10 {
        bus.publish(&Topic::Shard(0), text(&n.to_string())).await.unwrap();
    }
    bus.publish(&Topic::Shard(1), text("after all of them")).await.unwrap();
    assert_eq!(read(&mut other).await, "after all of them");
    assert_eq!(read_many(&mut slow, 4).await, ["0", "1", "2", "GAP"]);
    bus.publish(&Topic::Shard(0), text("works again")).await.unwrap();
    assert_eq!(read(&mut slow).await, "works again");
}

async fn publishing_to_nobody_is_fine(make: impl AsyncFn(Limits) -> SharedBus) {
    let bus = make(Limits::default()).await;
    bus.publish(&Topic::Shard(9), text("unheard")).await.unwrap();
    let mut late = subscribed(&bus, &[Topic::Shard(9)]).await;
    bus.publish(&Topic::Shard(9), text("heard")).await.unwrap();
    assert_eq!(read(&mut late).await, "heard");
}

async fn payloads_are_kept_byte_for_byte(make: impl AsyncFn(Limits) -> SharedBus) {
    let bus = make(Limits::default()).await;
    let mut subscription = subscribed(&bus, &[Topic::Shard(0)]).await;
    let binary: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    for payload in [Vec::new(), binary, b"\r\n$5\r\n".to_vec()] {
        bus.publish(&Topic::Shard(0), payload.clone().into()).await.unwrap();
        let event = next(&mut subscription).await;
        // Not assert_eq!, which would print it.
        assert!(event == Event::Message { topic: Topic::Shard(0), payload: payload.into() });
    }
}

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(20);

async fn members_are_listed_by_role_and_sorted(make: impl AsyncFn(Limits) -> SharedBus) {
    let bus = make(Limits::default()).await;
    assert!(bus.members(Role::Gateway).await.unwrap().is_empty());
    for node in ["zeta", "alpha", "mid"] {
        bus.announce(Role::Gateway, node, LONG).await.unwrap();
    }
    bus.announce(Role::ConfigService, "other", LONG).await.unwrap();
    assert_eq!(bus.members(Role::Gateway).await.unwrap(), ["alpha", "mid", "zeta"]);
    assert_eq!(bus.members(Role::ConfigService).await.unwrap(), ["other"]);
}

async fn a_membership_ends_when_withdrawn(make: impl AsyncFn(Limits) -> SharedBus) {
    let bus = make(Limits::default()).await;
    for (role, node) in [(Role::Gateway, "a"), (Role::Gateway, "b"), (Role::ConfigService, "a")] {
        bus.announce(role, node, LONG).await.unwrap();
    }
    bus.withdraw(Role::Gateway, "a").await.unwrap();
    bus.withdraw(Role::Gateway, "never there").await.unwrap();
    assert_eq!(bus.members(Role::Gateway).await.unwrap(), ["b"]);
    assert_eq!(bus.members(Role::ConfigService).await.unwrap(), ["a"]);
}

async fn a_membership_ends_by_itself_unless_renewed(make: impl AsyncFn(Limits) -> SharedBus) {
    let bus = make(Limits::default()).await;
    bus.announce(Role::Gateway, "renewed", SHORT).await.unwrap();
    bus.announce(Role::Gateway, "renewed", LONG).await.unwrap();
    bus.announce(Role::Gateway, "silent", SHORT).await.unwrap();
    // When the later of the two short ones has ended, the earlier one has as well.
    eventually("the silent one is gone", async || {
        let members = bus.members(Role::Gateway).await.unwrap();
        assert!(members.contains(&"renewed".to_owned()), "{members:?}");
        (members == ["renewed"]).then_some(())
    })
    .await;
}
