//! The in-process bus with faults.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use muster::bus::{Bus, Error, Event, Role, Subscription, Topic, in_process::InProcess};
use tokio::sync::broadcast;

pub struct TestBus {
    inner: Arc<InProcess>,
    gaps: broadcast::Sender<()>,
    is_stuck: AtomicBool,
}

impl TestBus {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { inner: InProcess::new(), gaps: broadcast::channel(8).0, is_stuck: AtomicBool::new(false) })
    }

    /// Tells all subscribers that they missed something.
    pub fn lose_messages(&self) {
        self.gaps.send(()).expect("somebody subscribes");
    }

    /// From now on nobody gets to know the members.
    pub fn get_stuck(&self) {
        self.is_stuck.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Bus for TestBus {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<(), Error> {
        self.inner.publish(topic, payload).await
    }

    fn subscribe(&self) -> Box<dyn Subscription> {
        Box::new(WithGaps { inner: self.inner.subscribe(), gaps: self.gaps.subscribe() })
    }

    async fn announce(&self, role: Role, node: &str, ttl: Duration) -> Result<(), Error> {
        self.inner.announce(role, node, ttl).await
    }

    async fn withdraw(&self, role: Role, node: &str) -> Result<(), Error> {
        self.inner.withdraw(role, node).await
    }

    async fn members(&self, role: Role) -> Result<Vec<String>, Error> {
        if self.is_stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.inner.members(role).await
    }

    fn is_reachable(&self) -> bool {
        true
    }
}

struct WithGaps {
    inner: Box<dyn Subscription>,
    gaps: broadcast::Receiver<()>,
}

#[async_trait]
impl Subscription for WithGaps {
    async fn set_topics(&mut self, topics: Vec<Topic>) {
        self.inner.set_topics(topics).await;
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            event = self.inner.next() => event,
            Ok(()) = self.gaps.recv() => Event::Gap,
        }
    }
}
