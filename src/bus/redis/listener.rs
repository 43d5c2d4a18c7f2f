//! The link for subscriptions: one connection, subscribed to whatever anybody in this process wants.
//!
//! Architecture invariant: never waits for a subscriber. Redis cuts off a listener that does not read
//! (`client-output-buffer-limit pubsub`); that, too, ends as a `Gap`.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use redis::{Client, Msg, RedisError, aio::PubSubSink};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};

use super::{
    PING_INTERVAL, REPLY_TIMEOUT,
    backoff::Backoff,
    channel,
    client::{Failed, Outage},
};
use crate::bus::{Topic, hub::Hub, metrics};

const LINK: &str = "subscriptions";

/// Whether the link is up, and which topics it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Down,
    /// Subscribed to what was wanted at this version of the hub.
    Up {
        version: u64,
    },
}

impl Link {
    /// There is nothing to wait for: the topics of `version` are subscribed, or will be on reconnection.
    pub(super) fn has_taken(&self, version: u64) -> bool {
        match self {
            Self::Down => true,
            Self::Up { version: taken } => *taken >= version,
        }
    }
}

/// Keeps the link. Never ends.
pub(super) async fn keep(client: Client, prefix: Arc<str>, hub: Arc<Hub>, link: watch::Sender<Link>) {
    let mut backoff = Backoff::default();
    let mut outage = Outage::default();
    loop {
        let started = Instant::now();
        let end = match timeout(REPLY_TIMEOUT, client.get_async_pubsub()).await {
            Ok(Ok(connection)) => {
                let (sink, messages) = connection.split();
                let mut listener =
                    Listener { sink, subscribed: HashSet::new(), prefix: &prefix, hub: &hub, link: &link };
                listener.run(messages).await
            }
            Ok(Err(error)) => End::Refused(error.into()),
            Err(_) => End::Refused("no answer in time".to_owned().into()),
        };
        match end {
            End::Lost(error) => {
                link.send_replace(Link::Down);
                metrics::link_down(LINK);
                outage.lost(LINK, &error);
            }
            End::Refused(attempt) => outage.goes_on(LINK, &attempt),
        }
        // A link that held for a while is not one more failure in a row.
        if started.elapsed() > STABLE_AFTER {
            backoff.reset();
        }
        sleep(backoff.next_pause()).await;
    }
}

/// Longer than a failed attempt can take.
const STABLE_AFTER: Duration = Duration::from_secs(5);

enum End {
    /// Never was up.
    Refused(Failed),
    /// Was up.
    Lost(String),
}

struct Listener<'a> {
    sink: PubSubSink,
    subscribed: HashSet<Topic>,
    prefix: &'a str,
    hub: &'a Hub,
    link: &'a watch::Sender<Link>,
}

impl Listener<'_> {
    async fn run(&mut self, messages: impl Stream<Item = Msg>) -> End {
        let mut versions = self.hub.versions();
        versions.mark_unchanged();
        // Messages that come before the `Gap` below wait in the stream.
        if let Err(error) = self.take_wanted().await {
            return End::Refused(error.into());
        }
        metrics::link_up(LINK);
        metrics::gap("reconnected");
        tracing::info!(link = LINK, topics = self.subscribed.len(), "connected to Redis");
        self.hub.deliver_gap();

        // Subscribing and pinging run beside the reading, which must never pause.
        let (prefix, hub) = (self.prefix, self.hub);
        let reading = async {
            let mut messages = std::pin::pin!(messages);
            while let Some(message) = messages.next().await {
                deliver(hub, prefix, &message);
            }
            "the connection was closed".to_owned()
        };
        tokio::select! {
            error = reading => End::Lost(error),
            error = self.follow(versions) => End::Lost(error),
        }
    }

    /// Subscribes to what is wanted as that changes, and pings. Returns why it cannot go on.
    async fn follow(&mut self, mut versions: watch::Receiver<u64>) -> String {
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                changed = versions.changed() => match changed {
                    Ok(()) => self.take_wanted().await,
                    Err(_) => Err("the bus was dropped".to_owned()),
                },
                _ = pings.tick() => in_time(self.sink.ping::<redis::Value>()).await.map(drop),
            };
            if let Err(error) = result {
                return error;
            }
        }
    }

    /// Makes the connection's subscriptions those that the hub wants now.
    async fn take_wanted(&mut self) -> Result<(), String> {
        let (version, wanted) = self.hub.wanted();
        let channels = |topics: Vec<&Topic>| -> Vec<String> {
            topics.into_iter().map(|topic| channel(self.prefix, topic)).collect()
        };
        let new = channels(wanted.difference(&self.subscribed).collect());
        let gone = channels(self.subscribed.difference(&wanted).collect());
        if !new.is_empty() {
            in_time(self.sink.subscribe(new)).await?;
        }
        if !gone.is_empty() {
            in_time(self.sink.unsubscribe(gone)).await?;
        }
        self.subscribed = wanted;
        self.link.send_replace(Link::Up { version });
        Ok(())
    }
}

fn deliver(hub: &Hub, prefix: &str, message: &Msg) {
    let name = message.get_channel_name().strip_prefix(prefix).and_then(|rest| rest.strip_prefix(':'));
    let topic = name.and_then(Topic::parse);
    let Some(topic) = topic else {
        tracing::warn!(channel = message.get_channel_name(), "a message on a channel that is not a topic");
        return;
    };
    metrics::received(&topic);
    hub.deliver(&topic, &Bytes::copy_from_slice(message.get_payload_bytes()));
}

async fn in_time<T>(answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, String> {
    match timeout(REPLY_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
