//! The two buses.

mod contract;
mod redis_outages;
mod redis_tls;

use std::sync::Arc;

use bytes::Bytes;
use muster::bus::{Bus, Event, Subscription, Topic};

use crate::support::PATIENCE;

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The next event: a message as its text, or `GAP`.
async fn read(subscription: &mut Box<dyn Subscription>) -> String {
    match next(subscription).await {
        Event::Gap => "GAP".to_owned(),
        Event::Message { payload, .. } => String::from_utf8(payload.to_vec()).unwrap(),
    }
}

async fn next(subscription: &mut Box<dyn Subscription>) -> Event {
    tokio::time::timeout(PATIENCE, subscription.next()).await.expect("an event")
}

/// The next `count` events.
async fn read_many(subscription: &mut Box<dyn Subscription>, count: usize) -> Vec<String> {
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(read(subscription).await);
    }
    events
}

async fn subscribed<B: Bus + ?Sized>(bus: &Arc<B>, topics: &[Topic]) -> Box<dyn Subscription> {
    let mut subscription = bus.subscribe();
    subscription.set_topics(topics.to_vec()).await;
    subscription
}
