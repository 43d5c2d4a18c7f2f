//! Which subscriber of this process wants which topic, and the delivery to them. Both buses end in it.
//!
//! Architecture invariant: knows nothing of how messages reach this process.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Event, Topic,
    inbox::{Inbox, Limits},
};

pub(super) struct Hub {
    limits: Limits,
    state: Mutex<State>,
    /// Grows whenever the set of wanted topics may have changed.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    subscribers: HashMap<u64, Subscriber>,
    wanted: HashMap<Topic, Vec<u64>>,
}

struct Subscriber {
    inbox: Arc<Inbox>,
    topics: HashSet<Topic>,
}

/// One subscriber's place in the hub, until it is dropped.
pub(super) struct Attachment {
    hub: Arc<Hub>,
    id: u64,
    inbox: Arc<Inbox>,
}

impl Hub {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default(), version: watch::Sender::new(0) })
    }

    pub(super) fn attach(self: &Arc<Self>) -> Attachment {
        let inbox = Arc::new(Inbox::new(self.limits));
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.subscribers.insert(id, Subscriber { inbox: inbox.clone(), topics: HashSet::new() });
        Attachment { hub: self.clone(), id, inbox }
    }

    pub(super) fn deliver(&self, topic: &Topic, payload: &Bytes) {
        let state = self.state.lock();
        for id in state.wanted.get(topic).into_iter().flatten() {
            if let Some(subscriber) = state.subscribers.get(id) {
                subscriber.inbox.push(topic, payload);
            }
        }
    }

    /// Tells every subscriber that has topics of an interval in which messages may have been missed.
    pub(super) fn deliver_gap(&self) {
        for subscriber in self.state.lock().subscribers.values().filter(|subscriber| !subscriber.topics.is_empty()) {
            subscriber.inbox.push_gap();
        }
    }

    /// All topics that somebody wants, and the version that this is.
    pub(super) fn wanted(&self) -> (u64, HashSet<Topic>) {
        let state = self.state.lock();
        (*self.version.borrow(), state.wanted.keys().cloned().collect())
    }

    /// Sees each change of [`Self::wanted`]'s version.
    pub(super) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn replace(&self, id: u64, topics: HashSet<Topic>) -> u64 {
        let mut state = self.state.lock();
        let Some(subscriber) = state.subscribers.get_mut(&id) else { return *self.version.borrow() };
        let before = std::mem::replace(&mut subscriber.topics, topics.clone());
        for gone in before.difference(&topics) {
            state.remove_wanted(gone, id);
        }
        for new in topics.difference(&before) {
            state.wanted.entry(new.clone()).or_default().push(id);
        }
        self.grow_version()
    }

    fn detach(&self, id: u64) {
        let mut state = self.state.lock();
        if let Some(subscriber) = state.subscribers.remove(&id) {
            for topic in &subscriber.topics {
                state.remove_wanted(topic, id);
            }
        }
        self.grow_version();
    }

    /// To be called with the state locked, so that a version names one set of topics.
    fn grow_version(&self) -> u64 {
        self.version.send_modify(|version| *version += 1);
        *self.version.borrow()
    }
}

impl State {
    fn remove_wanted(&mut self, topic: &Topic, id: u64) {
        if let Some(ids) = self.wanted.get_mut(topic) {
            ids.retain(|wanted_by| *wanted_by != id);
            if ids.is_empty() {
                self.wanted.remove(topic);
            }
        }
    }
}

impl Attachment {
    /// Replaces the subscriber's topics. The version from which [`Hub::wanted`] has them.
    pub(super) fn set_topics(&self, topics: Vec<Topic>) -> u64 {
        self.hub.replace(self.id, topics.into_iter().collect())
    }

    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        self.inbox.next().await
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.hub.detach(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_wanted_until_its_last_subscriber_goes() {
        let hub = Hub::new(Limits::default());
        let (one, two) = (hub.attach(), hub.attach());
        one.set_topics(vec![Topic::Shard(1), Topic::Shard(2), Topic::Shard(2)]);
        let version = two.set_topics(vec![Topic::Shard(2)]);
        assert_eq!(hub.wanted(), (version, HashSet::from([Topic::Shard(1), Topic::Shard(2)])));
        drop(one);
        assert_eq!(hub.wanted().1, HashSet::from([Topic::Shard(2)]));
        assert!(two.set_topics(vec![]) > version);
        assert!(hub.wanted().1.is_empty());
    }
}
