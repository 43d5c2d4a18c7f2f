//! The bus over Redis (5 or newer): pub/sub for messages, a sorted set per role for who lives.
//!
//! Two links, each kept by a task of its own that reconnects for ever: one for commands ([`commands`]), one for all
//! of this process's subscriptions ([`listener`]). Nothing is stored in Redis but the members; a Redis that comes back
//! empty is as good as the old one.

mod backoff;
mod client;
mod commands;
mod listener;
mod members;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::watch, task::JoinSet};

use self::{commands::Commands, listener::Link};
use super::{
    Bus, Error, Event, Role, Subscription, Topic,
    hub::{Attachment, Hub},
    inbox::Limits,
    metrics,
};

/// The first part of all names of keys and channels unless set otherwise: several deployments may share one Redis.
pub const DEFAULT_PREFIX: &str = "muster";

/// How long a connection attempt, and any answer, may take. A link that takes longer counts as broken.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a link that is up is asked whether it still is: together with the time-out above, a half-open link is
/// noticed within four seconds.
const PING_INTERVAL: Duration = Duration::from_secs(2);

pub struct Redis {
    prefix: Arc<str>,
    commands: Arc<Commands>,
    hub: Arc<Hub>,
    link: watch::Receiver<Link>,
    /// The two links' tasks; they end with the last user of this bus.
    tasks: Arc<JoinSet<()>>,
}

impl Redis {
    /// A bus over the Redis at `url` (`redis://[user:password@]host[:port]`, or `rediss://` for TLS). Returns at once and
    /// connects in the background, whether Redis is there or not. `prefix` and a colon are put in front of all
    /// names of keys and channels.
    ///
    /// To be called within a Tokio runtime. Fails only on a URL that cannot work.
    pub fn connect(url: &str, prefix: &str) -> Result<Arc<Self>, Error> {
        Self::connect_with_authorities(url, None, prefix)
    }

    /// As [`Self::connect`], believing the certificates of `authorities` (PEM), in place of the machine's.
    pub fn connect_with_authorities(url: &str, authorities: Option<&[u8]>, prefix: &str) -> Result<Arc<Self>, Error> {
        Ok(Self::start(client::client(url, authorities)?, prefix, Limits::default()))
    }

    /// As [`Self::connect`], with other bounds for what a subscriber may leave unread.
    pub fn connect_with_limits(url: &str, prefix: &str, limits: Limits) -> Result<Arc<Self>, Error> {
        Ok(Self::start(client::client(url, None)?, prefix, limits))
    }

    fn start(client: ::redis::Client, prefix: &str, limits: Limits) -> Arc<Self> {
        let prefix: Arc<str> = prefix.into();
        let commands = Arc::new(Commands::default());
        let hub = Hub::new(limits);
        let (link_sender, link) = watch::channel(Link::Down);
        let mut tasks = JoinSet::new();
        tasks.spawn(commands::keep(client.clone(), commands.clone()));
        tasks.spawn(listener::keep(client, prefix.clone(), hub.clone(), link_sender));
        Arc::new(Self { prefix, commands, hub, link, tasks: Arc::new(tasks) })
    }
}

#[async_trait]
impl Bus for Redis {
    async fn publish(&self, topic: &Topic, payload: Bytes) -> Result<(), Error> {
        let mut command = ::redis::cmd("PUBLISH");
        command.arg(channel(&self.prefix, topic)).arg(&payload[..]);
        metrics::publishing("redis", topic, payload.len(), self.commands.run(&command)).await
    }

    fn subscribe(&self) -> Box<dyn Subscription> {
        Box::new(Remote { attachment: self.hub.attach(), link: self.link.clone(), _tasks: self.tasks.clone() })
    }

    async fn announce(&self, role: Role, node: &str, ttl: Duration) -> Result<(), Error> {
        metrics::observed("announce", self.commands.run(&members::announce(&self.prefix, role, node, ttl))).await
    }

    async fn withdraw(&self, role: Role, node: &str) -> Result<(), Error> {
        metrics::observed("withdraw", self.commands.run(&members::withdraw(&self.prefix, role, node))).await
    }

    async fn members(&self, role: Role) -> Result<Vec<String>, Error> {
        let list = members::list(&self.prefix, role);
        let mut nodes: Vec<String> = metrics::observed("members", self.commands.run(&list)).await?;
        nodes.sort();
        Ok(nodes)
    }

    fn is_reachable(&self) -> bool {
        self.commands.is_up() && *self.link.borrow() != Link::Down
    }
}

struct Remote {
    attachment: Attachment,
    link: watch::Receiver<Link>,
    _tasks: Arc<JoinSet<()>>,
}

#[async_trait]
impl Subscription for Remote {
    async fn set_topics(&mut self, topics: Vec<Topic>) {
        let version = self.attachment.set_topics(topics);
        // An error means that the listener has ended, as it does when the runtime shuts down.
        let _ = self.link.wait_for(|link| link.has_taken(version)).await;
    }

    async fn next(&mut self) -> Event {
        self.attachment.next().await
    }
}

fn channel(prefix: &str, topic: &Topic) -> String {
    format!("{prefix}:{topic}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unusable_url_is_refused_without_quoting_it() {
        let bad =
            ["", "nonsense", "http://secret@host", "redis://:secret@host:notaport", "rediss://:secret@host/#insecure"];
        for url in bad {
            let Err(Error::Settings(text)) = Redis::connect(url, DEFAULT_PREFIX) else { panic!("{url:?} was taken") };
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[tokio::test]
    async fn authorities_that_could_not_be_of_use_are_refused() {
        let cases = [
            ("redis://host", "", "has to begin with rediss://"),
            ("rediss://host", "", "no certificate"),
            ("rediss://host", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "invalid"),
        ];
        for (url, authorities, reason) in cases {
            let result = Redis::connect_with_authorities(url, Some(authorities.as_bytes()), DEFAULT_PREFIX);
            let Err(Error::Settings(text)) = result else { panic!("{url} with {authorities:?} was taken") };
            assert!(text.contains(reason), "{text}");
        }
    }

    #[tokio::test]
    async fn calls_fail_at_once_while_redis_has_never_been_there() {
        // Port 1 is nobody's.
        let bus = Redis::connect("redis://127.0.0.1:1", DEFAULT_PREFIX).unwrap();
        assert!(matches!(bus.publish(&Topic::ConfigService, Bytes::new()).await, Err(Error::Unreachable(_))));
        assert!(matches!(bus.members(Role::Gateway).await, Err(Error::Unreachable(_))));
        bus.subscribe().set_topics(vec![Topic::ConfigService]).await;
        assert!(!bus.is_reachable());
    }
}
