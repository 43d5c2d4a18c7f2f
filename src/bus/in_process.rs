//! The bus of `standalone`: one process, no network, always there.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Bus, Error, Event, Role, Subscription, Topic,
    hub::{Attachment, Hub},
    inbox::Limits,
    metrics,
};

pub struct InProcess {
    hub: Arc<Hub>,
    /// When each membership ends.
    members: Mutex<HashMap<(Role, String), Instant>>,
}

impl InProcess {
    pub fn new() -> Arc<Self> {
        Self::with_limits(Limits::default())
    }

    pub fn with_limits(limits: Limits) -> Arc<Self> {
        Arc::new(Self { hub: Hub::new(limits), members: Mutex::default() })
    }
}

#[async_trait]
impl Bus for InProcess {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<(), Error> {
        let deliver = async {
            self.hub.deliver(topic, &payload);
            Ok(())
        };
        metrics::publishing("in_process", topic, payload.len(), deliver).await
    }

    fn subscribe(&self) -> Box<dyn Subscription> {
        Box::new(Local(self.hub.attach()))
    }

    async fn announce(&self, role: Role, node: &str, ttl: Duration) -> Result<(), Error> {
        self.members.lock().insert((role, node.to_owned()), Instant::now() + ttl);
        Ok(())
    }

    async fn withdraw(&self, role: Role, node: &str) -> Result<(), Error> {
        self.members.lock().remove(&(role, node.to_owned()));
        Ok(())
    }

    async fn members(&self, role: Role) -> Result<Vec<String>, Error> {
        let mut members = self.members.lock();
        let now = Instant::now();
        members.retain(|_, ends| *ends > now);
        let mut nodes: Vec<_> = members.keys().filter(|(of, _)| *of == role).map(|(_, node)| node.clone()).collect();
        nodes.sort();
        Ok(nodes)
    }

    fn is_reachable(&self) -> bool {
        true
    }
}

struct Local(Attachment);

#[async_trait]
impl Subscription for Local {
    async fn set_topics(&mut self, topics: Vec<Topic>) {
        self.0.set_topics(topics);
    }

    async fn next(&mut self) -> Event {
        self.0.next().await
    }
}
