//! The bus between Muster's nodes: publish/subscribe that delivers at most once, and a list of who lives.
//!
//! Two implementations pass one contract suite: Redis pub/sub, and in process for `standalone`.
//!
//! Architecture invariants: Redis is known here only. Nothing here is the only copy of anything: whoever publishes
//! repeats until acknowledged, or re-derives by a sweep.

mod hub;
pub mod in_process;
mod inbox;
pub mod metrics;
pub mod redis;
pub mod rendezvous;
mod topic;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

pub use inbox::Limits;
pub use topic::Topic;

/// A shared bus.
pub type SharedBus = Arc<dyn Bus>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus is away; it is being reconnected in the background, and the same call may succeed later.
    #[error("the bus is not reachable: {0}")]
    Unreachable(String),
    /// A setting that cannot work, such as a malformed URL.
    #[error("bus settings: {0}")]
    Settings(String),
}

/// A kind of node that announces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Gateway,
    ConfigService,
}

#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Delivers `payload` to whoever subscribes to `topic` now, at most once. Messages of one publisher on one topic
    /// arrive in order. Fails fast while the bus is away, and never queues.
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<(), Error>;

    /// A subscription to no topic yet. It outlives outages: topics are subscribed again by themselves.
    fn subscribe(&self) -> Box<dyn Subscription>;

    /// Makes `node` a live member of `role` until `ttl` from now. To be called about every third of `ttl`.
    async fn announce(&self, role: Role, node: &str, ttl: Duration) -> Result<(), Error>;

    /// Ends a membership at once.
    async fn withdraw(&self, role: Role, node: &str) -> Result<(), Error>;

    /// Ids of the live members, sorted.
    async fn members(&self, role: Role) -> Result<Vec<String>, Error>;

    /// Whether the last that was heard of the bus was good.
    fn is_reachable(&self) -> bool;
}

#[async_trait]
pub trait Subscription: Send {
    /// Replaces the set of topics. Returns once the bus has taken it, or at once while the bus is away (it is then
    /// taken on reconnection).
    async fn set_topics(&mut self, topics: Vec<Topic>);

    /// The next event. Cancel safe. Never ends.
    async fn next(&mut self) -> Event;
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Message {
        topic: Topic,
        payload: Bytes,
    },
    /// Messages may have been missed: the bus was away, or this subscriber was too slow. Sent once after each such
    /// interval, when the subscription works again.
    Gap,
}
