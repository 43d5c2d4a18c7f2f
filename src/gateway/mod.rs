//! The gateway: ends OpAMP connections, answers heartbeats from memory, and carries reports and offers between agents
//! and the config service.
//!
//! | module | what it owns |
//! |---|---|
//! | `listener`, `tls`, `http`, `watched`, `body`, `upgrade` | from an accepted socket to a message or a WebSocket |
//! | `packages`, `downloads` | package files over HTTP |
//! | `auth`, `certificates` | by what an agent may speak, and for whom |
//! | `websocket`, `connection`, `outbox` | one WebSocket: frames, its reading task, its sending half |
//! | `exchange`, `reply` | what a message does; what is sent back |
//! | `agents`, `memory`, `full_state`, `uids`, `registry` | what is known of each agent, in memory |
//! | `reports`, `verdicts`, `offers`, `commands` | the conversation with the config service |
//! | `messages` | custom messages of agents, on their way to whoever watches |
//! | `spans` | what of all this is traced |
//! | `identity`, `vouching`, `duplicates`, `contender` | who an agent is, when that is not plain |
//! | `timers`, `sweeper`, `seldom`, `drain` | what time brings about |
//!
//! Architecture invariants: the gateway never reaches the store. A heartbeat touches memory alone. An idle agent costs its
//! [`agents::Entry`], its [`connection::Reader`] and its [`connection::Connection`], whose sizes a test holds.

mod agents;
mod auth;
mod body;
mod certificates;
mod commands;
mod config;
mod connection;
mod contender;
mod downloads;
mod drain;
mod duplicates;
mod exchange;
mod full_state;
mod http;
mod identity;
mod listener;
mod memory;
mod messages;
pub mod metrics;
mod offers;
mod outbox;
mod pace;
mod packages;
mod polls;
mod registry;
mod reply;
mod reports;
mod seldom;
mod spans;
mod sweeper;
mod timers;
mod tls;
mod uids;
mod upgrade;
mod verdicts;
mod vouching;
mod watched;
pub mod websocket;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{net::TcpListener, sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use config::{AgentAuth, ClientCertificates, Config};
pub use tls::{Config as TlsConfig, Error as TlsError, Tls};

use crate::{
    bus::{Role, SharedBus},
    proto::bus::ending::Reason,
};

/// New uids that agents may ask for over HTTP, where no connection limits them.
const HTTP_UIDS_PER_SECOND: u32 = 100;
const HTTP_UIDS_BURST: u32 = 1_000;
/// Messages of an agent in a second while there is hardly memory for what agents say: a heartbeat now and then.
const SCARCE_PER_SECOND: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the gateway's task {0} ended unexpectedly")]
    Task(&'static str),
}

/// One gateway node, before it runs.
pub struct Gateway {
    shared: Arc<Shared>,
}

/// Looks into a running gateway.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// What all of a gateway's tasks share.
struct Shared {
    config: Config,
    node: String,
    bus: SharedBus,
    clock: pace::Clock,
    registry: registry::Registry,
    connections: registry::Connections,
    open: registry::Open,
    tokens: auth::Tokens,
    /// `None` for plain text.
    tls: Option<Arc<tls::Tls>>,
    certificates: certificates::Certificates,
    bodies: offers::Bodies,
    outgoing: reports::Outgoing,
    commands: commands::Commands,
    messages: messages::Messages,
    memory: memory::Memory,
    timers: timers::Timers,
    http_aliases: identity::HttpAliases,
    vouching: vouching::Vouching,
    held: vouching::Held,
    seldom: seldom::Seldom,
    /// New WebSockets.
    admission: pace::Bucket,
    /// Requests for full state.
    full_state: pace::Bucket,
    repeats: pace::Bucket,
    /// New uids over HTTP.
    minting: pace::Bucket,
    paused: pace::Paused,
    /// A turn for each package file on its way out.
    downloads: Arc<downloads::Downloads>,
    reopening: Notify,
    /// Newcomers are still taken, but should not be sent here.
    is_leaving: AtomicBool,
    is_draining: AtomicBool,
    is_subscribed: AtomicBool,
    metrics: metrics::Metrics,
}

impl Gateway {
    /// `node` is this gateway's id among all, and names its topic on the bus. It speaks plain text.
    pub fn new(config: Config, node: String, bus: SharedBus) -> Self {
        Self::with_tls(config, None, node, bus)
    }

    /// As [`Self::new`], over TLS if that is given.
    pub fn with_tls(config: Config, tls: Option<Tls>, node: String, bus: SharedBus) -> Self {
        let shared = Shared {
            node,
            bus,
            clock: pace::Clock::new(),
            registry: registry::Registry::new(),
            connections: registry::Connections::default(),
            open: registry::Open::default(),
            tokens: auth::Tokens::default(),
            tls: tls.map(Arc::new),
            certificates: certificates::Certificates::default(),
            bodies: offers::Bodies::new(config.body_cache_bytes, config.max_sent_bytes),
            outgoing: reports::Outgoing::default(),
            commands: commands::Commands::default(),
            messages: messages::Messages::default(),
            memory: memory::Memory::new(config.max_received_bytes, config.max_pending_bytes),
            timers: timers::Timers::default(),
            http_aliases: identity::HttpAliases::default(),
            vouching: vouching::Vouching::default(),
            held: vouching::Held::default(),
            seldom: seldom::Seldom::default(),
            admission: pace::Bucket::new(config.admission_per_second, config.admission_burst),
            full_state: pace::Bucket::new(config.full_state_per_second, config.full_state_per_second),
            repeats: pace::Bucket::new(config.repeats_per_second, config.repeats_per_second),
            minting: pace::Bucket::new(HTTP_UIDS_PER_SECOND, HTTP_UIDS_BURST),
            paused: pace::Paused::default(),
            downloads: Arc::new(downloads::Downloads::new(
                config.max_downloads,
                config.download_bytes_per_second,
                config.download_window,
            )),
            reopening: Notify::new(),
            is_leaving: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            is_subscribed: AtomicBool::new(false),
            metrics: metrics::Metrics::new(),
            config,
        };
        Self { shared: Arc::new(shared) }
    }

    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone() }
    }

    /// Serves until `shutdown`, then drains and returns.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), Error> {
        let shared = self.shared;
        let mut tasks = JoinSet::new();
        let subscription = shared.bus.subscribe();
        tasks.spawn(named("bus", verdicts::run(shared.clone(), subscription)));
        tasks.spawn(named("reports", reports::run(shared.clone())));
        tasks.spawn(named("messages", messages::run(shared.clone())));
        tasks.spawn(named("timers", timers::run(shared.clone())));
        tasks.spawn(named("sweeper", sweeper::run(shared.clone())));
        tasks.spawn(named("announce", sweeper::announce(shared.clone())));
        tasks.spawn(named("reopen", sweeper::reopen(shared.clone())));
        if let Some(tls) = shared.tls.clone() {
            tasks.spawn(named("TLS files", async move { tls.watch().await }));
        }
        tasks.spawn(named("listener", listener::run(shared.clone(), listener)));
        let leave = async {
            shutdown.cancelled().await;
            if !shared.config.drain_delay.is_zero() {
                shared.is_leaving.store(true, Ordering::Relaxed);
                tokio::time::sleep(shared.config.drain_delay).await;
            }
        };
        tokio::select! {
            () = leave => {}
            ended = tasks.join_next() => {
                let name = ended.and_then(Result::ok).unwrap_or("unknown (it panicked)");
                return Err(Error::Task(name));
            }
        }
        shared.is_draining.store(true, Ordering::Relaxed);
        drain::run(&shared).await;
        tasks.shutdown().await;
        if let Err(error) = shared.bus.withdraw(Role::Gateway, &shared.node).await {
            tracing::warn!(%error, "still on the list of live gateways until that expires");
        }
        Ok(())
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

impl Handle {
    /// Whether newcomers should come here. For `drain_delay` they are still taken when they should not.
    pub fn is_ready(&self) -> bool {
        self.obstacle().is_none()
    }

    /// Why newcomers should not come here; empty if they should.
    pub fn reason(&self) -> String {
        self.obstacle().unwrap_or_default().to_owned()
    }

    fn obstacle(&self) -> Option<&'static str> {
        let shared = &self.shared;
        if shared.is_draining.load(Ordering::Relaxed) {
            return Some("draining");
        }
        if shared.is_leaving.load(Ordering::Relaxed) {
            return Some("about to drain");
        }
        if !shared.is_subscribed.load(Ordering::Relaxed) {
            return Some("not subscribed to the bus yet");
        }
        if shared.config.awaits_tokens() && !shared.tokens.are_known() {
            return Some("agent tokens have not come from the config service yet");
        }
        None
    }

    /// Open TCP connections.
    pub fn connections(&self) -> usize {
        self.shared.open.count()
    }

    /// Agents known, connected or being handed over.
    pub fn agents(&self) -> usize {
        self.shared.registry.len()
    }
}

impl Shared {
    fn now(&self) -> agents::Now {
        agents::Now { ms: self.clock.now_ms(), unix_ms: pace::unix_ms() }
    }

    /// What one agent may send in a second.
    fn messages_per_second(&self) -> u32 {
        match self.config.messages_per_second {
            0 => u32::MAX,
            // There is hardly any memory for what they say.
            _ if self.memory.is_scarce() => SCARCE_PER_SECOND,
            per_second => per_second,
        }
    }

    /// Has all connections announced again to the config service.
    fn reopen_all(&self) {
        self.reopening.notify_one();
    }

    /// A WebSocket is over: its agents are let go of, and what they said last is handed over.
    fn connection_ended(&self, connection: &Arc<connection::Connection>) {
        self.connections.remove(connection);
        for uid in connection.outbox.with_uids(|uids| uids.to_vec()) {
            let agents = &mut *self.registry.lock(&uid);
            let Some(entry) = agents.entries.get_mut(&uid) else { continue };
            if !entry.link.is(connection) {
                if let Some(rare) = &mut entry.rare {
                    rare.contender.take_if(|contender| contender.link.is(connection));
                }
                continue;
            }
            let is_draining = self.is_draining.load(Ordering::Relaxed);
            let reason = if is_draining { Reason::Drain } else { Reason::ConnectionClosed };
            entry.end(reason, self.now());
            if let Some(contender) = entry.rare.as_mut().and_then(|rare| rare.contender.take()) {
                duplicates::take_over(self, entry, uid, *contender);
            }
            agents.active.insert(uid);
            self.outgoing.report(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The product's headline figure is made of these. Whoever makes one of them larger multiplies that by every agent
    /// of every fleet; so it has to be done here, on purpose.
    #[test]
    fn an_idle_agent_stays_small() {
        let sizes = [
            ("the task's future", size_of::<connection::Reader>(), 40),
            // With the two counts of its `Arc`: an allocation of 128 bytes.
            ("the connection", size_of::<connection::Connection>(), 112),
            ("the agent's entry", size_of::<agents::Entry>(), 80),
            ("its place in the table", size_of::<(crate::model::InstanceUid, Box<agents::Entry>)>(), 24),
        ];
        for (what, bytes, limit) in sizes {
            println!("{what}: {bytes} bytes");
            assert!(bytes <= limit, "{what} has grown to {bytes} bytes, over {limit}");
        }
    }
}
