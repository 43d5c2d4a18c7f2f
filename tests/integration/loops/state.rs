//! L2: requests for full state.

use super::client::{Client, Manner, World};

/// Heartbeats after which a naive server would have asked as often.
const ROUNDS: usize = 60;
/// A few asks follow each other at once, further ones with pauses of half a minute and more.
const MOST_ASKS: usize = 6;

async fn asks_after(manner: Manner) -> usize {
    let world = World::start(1).await;
    let mut client = Client::start(1, manner, &world.gateways[0]).await;
    for round in 0..ROUNDS {
        let heartbeat = client.heartbeat();
        client.say(heartbeat).await;
        if round % 20 == 19 {
            client.report(&world, &format!("round {round}")).await;
        }
    }
    assert_eq!(client.seen.errors, 0);
    client.seen.asks
}

/// As with the Python client, whose numbers skip: there is a gap before each message, the answers to asks too.
#[tokio::test]
async fn numbers_that_skip_each_time_are_asked_about_a_few_times() {
    let asks = asks_after(Manner { step: 3, ..Manner::default() }).await;
    assert!((1..=MOST_ASKS).contains(&asks), "{asks} asks in {ROUNDS} rounds");
}

/// As with a client that numbers nothing.
#[tokio::test]
async fn numbers_that_never_move_are_not_asked_about() {
    assert_eq!(asks_after(Manner { step: 0, ..Manner::default() }).await, 0);
}

/// As the Java client does over WebSocket: it keeps the flag, and sends nothing.
#[tokio::test]
async fn who_does_not_answer_is_not_asked_each_time() {
    let asks = asks_after(Manner { step: 3, answers_asks: false, ..Manner::default() }).await;
    assert!((1..=2).contains(&asks), "{asks} asks in {ROUNDS} rounds");
}

#[tokio::test]
async fn who_says_everything_each_time_is_not_asked() {
    let world = World::start(1).await;
    let mut client = Client::start(1, Manner { step: 7, ..Manner::default() }, &world.gateways[0]).await;
    for _ in 0..ROUNDS {
        let full = client.full();
        client.say(full).await;
    }
    assert_eq!(client.seen.asks, 0);
    client.report(&world, "not everything").await;
    assert!(client.seen.asks > 0, "two messages were not full");
}

/// Polls that go to another gateway each time, with numbers that skip: one ask each, and the answer ends it.
#[tokio::test]
async fn polls_do_not_end_in_asks_either() {
    let world = World::start(2).await;
    let mut client = Client::new(1, Manner { step: 3, ..Manner::default() });
    let full = client.full();
    client.poll(&world.gateways[0], full, 1).await;
    for round in 0..ROUNDS {
        let heartbeat = client.heartbeat();
        client.poll(&world.gateways[round % 2], heartbeat, 2).await;
    }
    assert!(client.seen.asks > 0, "no gap was seen: this shows nothing");
    // At one gateway alone there are hardly any.
    let before = client.seen.asks;
    for _ in 0..ROUNDS {
        let heartbeat = client.heartbeat();
        client.poll(&world.gateways[0], heartbeat, 2).await;
    }
    let asks = client.seen.asks - before;
    assert!(asks <= MOST_ASKS, "{asks} asks in {ROUNDS} polls");
}
