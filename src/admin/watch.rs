//! Watches: the agents that match as they are, and then as they change.
//!
//! A watch knows of each matching agent the version that it sent last. Hints of the bus say whom to read again; a lost hint
//! costs latency only, for the whole list is read again after every gap and every half minute.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{
    context::Context,
    convert,
    errors::{self, from_store},
    metrics,
    scan::{self, Query},
};
use crate::{
    auth::{Operator, operators::Refusal},
    bus::{Event, Topic},
    model::{AgentRecord, InstanceUid},
    proto::{
        admin::{Synced, WatchAgentsResponse, watch_agents_response::Event as Change},
        bus::AgentsChanged,
    },
    store,
};

/// Open watches at a time; each costs a list of the fleet every [`RELIST`].
pub const MAX_WATCHES: usize = 64;
/// Agents of one watch: 64 bytes each.
const MAX_WATCHED: usize = 200_000;
/// Changes that wait for a slow client. Beyond them the watch stops reading hints, and lists again when it goes on.
const CHANGES_BUFFERED: usize = 64;
/// Hints are gathered for this long, so that an agent that changes often is read once.
const GATHER: Duration = Duration::from_millis(100);
/// Hinted agents that are gathered; with more, the whole list is read.
const MAX_HINTED: usize = store::MAX_BATCH;
/// The whole list is read again after this long,
const RELIST: Duration = Duration::from_secs(30);
/// and no sooner than this after it was read last.
const RELIST_PAUSE: Duration = Duration::from_secs(1);
/// How often the operator's token is looked at again: a revoked one ends the watch.
pub const CONFIRM: Duration = Duration::from_secs(5);
/// Agents read at once.
const PAGE: usize = 1000;

type Changes = ReceiverStream<Result<WatchAgentsResponse, Status>>;

/// Why a watch ends.
enum End {
    /// The client has gone.
    Left,
    With(Status),
}

/// Starts a watch in a task of its own.
pub fn start(context: Arc<Context>, query: Query, operator: Operator) -> Result<Changes, Status> {
    let permit = context.watches.clone().try_acquire_owned().map_err(|_| {
        let problem = format!("{MAX_WATCHES} watches are open, which is as many as this server takes");
        errors::status(Code::ResourceExhausted, "TOO_MANY_WATCHES", problem, &[])
    })?;
    let (changes, receiver) = mpsc::channel(CHANGES_BUFFERED);
    let watch = Watch { context, query, operator, changes, known: HashMap::new(), round: 0 };
    tokio::spawn(watch.run(permit));
    Ok(ReceiverStream::new(receiver))
}

struct Watch {
    context: Arc<Context>,
    query: Query,
    operator: Operator,
    changes: mpsc::Sender<Result<WatchAgentsResponse, Status>>,
    /// Agents that the client has been told of.
    known: HashMap<InstanceUid, Sent>,
    /// Counts the readings of the whole list.
    round: u32,
}

#[derive(Clone, Copy)]
struct Sent {
    version: i64,
    /// The last reading in which the agent matched.
    round: u32,
}

impl Watch {
    async fn run(mut self, _permit: OwnedSemaphorePermit) {
        let _guard = metrics::watch_opened();
        if let Err(End::With(status)) = self.follow().await {
            let shutdown = self.context.shutdown.clone();
            // At a shutdown whoever reads is told, and who does not is not waited for.
            tokio::select! {
                biased;
                _ = self.changes.send(Err(status)) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    async fn follow(&mut self) -> Result<(), End> {
        let mut hints = self.context.bus.subscribe();
        // Before the first reading, so that no change falls between them.
        hints.set_topics(vec![Topic::AgentsChanged]).await;
        self.relist().await?;
        self.send(Change::Synced(Synced {})).await?;

        let shutdown = self.context.shutdown.clone();
        let mut hinted = HashSet::new();
        let mut relisted = Instant::now();
        let mut relist_at = relisted + RELIST;
        let mut flush_at = None;
        let mut confirm_at = relisted + CONFIRM;
        loop {
            let next = flush_at.unwrap_or(relist_at).min(relist_at).min(confirm_at);
            tokio::select! {
                () = self.changes.closed() => return Err(End::Left),
                () = shutdown.cancelled() => return Err(shutting_down()),
                event = hints.next() => {
                    if take_hint(event, &mut hinted) {
                        flush_at.get_or_insert_with(|| Instant::now() + GATHER);
                    } else {
                        relist_at = relist_at.min(relisted + RELIST_PAUSE);
                    }
                    continue;
                }
                () = sleep_until(next) => {}
            }
            let now = Instant::now();
            if now >= confirm_at {
                self.confirm().await?;
                confirm_at = now + CONFIRM;
            }
            let is_relist = now >= relist_at;
            if is_relist || flush_at.is_some_and(|at| now >= at) {
                let uids: Vec<_> = hinted.drain().collect();
                flush_at = None;
                let result = if is_relist { self.relist().await } else { self.read_again(&uids).await };
                let failed = self.endure(result)?;
                if is_relist {
                    relisted = Instant::now();
                    relist_at = relisted + RELIST;
                }
                if failed {
                    relist_at = Instant::now() + RELIST_PAUSE;
                }
            }
        }
    }

    /// The store's being away for a while does not end a watch. Returns whether it was.
    fn endure(&self, result: Result<(), End>) -> Result<bool, End> {
        match result {
            Ok(()) => Ok(false),
            Err(End::With(status)) if status.code() == Code::Unavailable && !self.context.shutdown.is_cancelled() => {
                Ok(true)
            }
            Err(end) => Err(end),
        }
    }

    async fn confirm(&self) -> Result<(), End> {
        match self.context.operators.confirm(&self.operator).await {
            Ok(()) | Err(Refusal::Unavailable(_)) => Ok(()),
            Err(refusal @ Refusal::Invalid) => {
                Err(End::With(errors::status(Code::Unauthenticated, "TOKEN_INVALID", refusal.to_string(), &[])))
            }
        }
    }

    /// Reads every matching agent, and says what differs from what the client knows.
    async fn relist(&mut self) -> Result<(), End> {
        self.round = self.round.wrapping_add(1);
        let mut after = None;
        loop {
            let page = scan::page(&*self.context.store, &self.query, after, PAGE).await;
            let page = page.map_err(|error| End::With(from_store(error)))?;
            for agent in &page.agents {
                self.tell(agent).await?;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let round = self.round;
        let gone: Vec<_> = self.known.iter().filter(|(_, sent)| sent.round != round).map(|(uid, _)| *uid).collect();
        for uid in gone {
            self.tell_gone(uid).await?;
        }
        Ok(())
    }

    async fn read_again(&mut self, uids: &[InstanceUid]) -> Result<(), End> {
        let mut missing: HashSet<_> = uids.iter().copied().collect();
        let agents = self.context.store.read_agents(uids).await.map_err(|error| End::With(from_store(error)))?;
        for agent in agents {
            if self.query.matches(&agent) {
                missing.remove(&agent.uid);
                self.tell(&agent).await?;
            }
        }
        for uid in missing {
            self.tell_gone(uid).await?;
        }
        Ok(())
    }

    /// Sends an agent unless the client has this version of it.
    async fn tell(&mut self, agent: &AgentRecord) -> Result<(), End> {
        let now = Sent { version: agent.version, round: self.round };
        let before = self.known.insert(agent.uid, now);
        if before.is_some_and(|sent| sent.version == now.version) {
            return Ok(());
        }
        if self.known.len() > MAX_WATCHED {
            let problem = format!("more than {MAX_WATCHED} agents match: watch fewer with a narrower selector");
            return Err(End::With(errors::status(Code::ResourceExhausted, "WATCH_TOO_WIDE", problem, &[])));
        }
        let live = self.context.gateways.live().await;
        self.send(Change::Agent(convert::agent::summary(agent, &live))).await
    }

    async fn tell_gone(&mut self, uid: InstanceUid) -> Result<(), End> {
        match self.known.remove(&uid) {
            Some(_) => self.send(Change::Gone(uid.to_string())).await,
            None => Ok(()),
        }
    }

    async fn send(&self, change: Change) -> Result<(), End> {
        let message = WatchAgentsResponse { event: Some(change) };
        tokio::select! {
            sent = self.changes.send(Ok(message)) => sent.map_err(|_| End::Left),
            () = self.context.shutdown.cancelled() => Err(shutting_down()),
        }
    }
}

/// Adds the agents that an event names. False if the whole list is to be read instead.
fn take_hint(event: Event, hinted: &mut HashSet<InstanceUid>) -> bool {
    let Event::Message { payload, .. } = event else { return false };
    let Ok(AgentsChanged { instance_uids }) = AgentsChanged::decode(payload) else { return false };
    if instance_uids.is_empty() {
        return false;
    }
    hinted.extend(instance_uids.chunks_exact(16).filter_map(|uid| InstanceUid::from_slice(uid).ok()));
    if hinted.len() > MAX_HINTED {
        hinted.clear();
        return false;
    }
    true
}

fn shutting_down() -> End {
    End::With(errors::unavailable("SHUTTING_DOWN", "the server is shutting down"))
}
