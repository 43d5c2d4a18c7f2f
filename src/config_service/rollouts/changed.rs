//! Which agents are said to have changed since they were last looked at.
//!
//! Hints only: what they say is read in the store, and everything is read now and then without any.

use std::collections::HashSet;

use futures_util::FutureExt;
use prost::Message;

use crate::{
    bus::{Bus, Event, Subscription, Topic},
    config_service::outbox::separated,
    model::InstanceUid,
    proto::bus::AgentsChanged,
};

/// Agents that are remembered, 16 MB of them at most; beyond, everything is looked at.
const MAX_CHANGED: usize = 500_000;

/// Listens to what is said of agents.
pub struct Changed {
    subscription: Box<dyn Subscription>,
    uids: HashSet<InstanceUid>,
    /// It is not known which have changed.
    is_everything: bool,
}

impl Changed {
    /// Whatever is read after this is not older than what is heard.
    pub async fn listen(bus: &dyn Bus) -> Self {
        let mut subscription = bus.subscribe();
        subscription.set_topics(vec![Topic::AgentsChanged]).await;
        Self { subscription, uids: HashSet::new(), is_everything: true }
    }

    /// Takes in what is said. Never ends; cancel safe.
    pub async fn hear(&mut self) {
        loop {
            let event = self.subscription.next().await;
            self.note(event);
        }
    }

    /// Those that have changed since this was last called; `None` if any may have.
    pub fn take(&mut self) -> Option<HashSet<InstanceUid>> {
        while let Some(event) = self.subscription.next().now_or_never() {
            self.note(event);
        }
        let uids = std::mem::take(&mut self.uids);
        (!std::mem::take(&mut self.is_everything)).then_some(uids)
    }

    fn note(&mut self, event: Event) {
        let message = match event {
            Event::Message { payload, .. } => AgentsChanged::decode(payload).ok(),
            Event::Gap => None,
        };
        // A message without any says that it is not known which.
        let uids = message.map(|message| separated(&message.instance_uids)).unwrap_or_default();
        self.is_everything |= uids.is_empty() || self.uids.len() > MAX_CHANGED;
        match self.is_everything {
            true => self.uids.clear(),
            false => self.uids.extend(uids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::in_process::InProcess;

    async fn say(bus: &InProcess, uids: &[InstanceUid]) {
        let message = AgentsChanged { instance_uids: crate::config_service::outbox::concatenated(uids) };
        bus.publish(&Topic::AgentsChanged, message.encode_to_vec().into()).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_said_is_told_once_and_at_first_nothing_is_known() {
        let bus = InProcess::new();
        let [one, two] = [1, 2].map(|byte| InstanceUid::from_slice(&[byte; 16]).unwrap());
        let mut changed = Changed::listen(&*bus).await;
        assert_eq!(changed.take(), None);
        say(&bus, &[one]).await;
        say(&bus, &[two, one]).await;
        assert_eq!(changed.take(), Some(HashSet::from([one, two])));
        assert_eq!(changed.take(), Some(HashSet::new()));
        say(&bus, &[two]).await;
        say(&bus, &[]).await;
        say(&bus, &[one]).await;
        assert_eq!(changed.take(), None, "it was not said which");
        assert_eq!(changed.take(), Some(HashSet::new()));
    }
}
