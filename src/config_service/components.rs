//! Components that agents are built from: told once for each hash, by one agent for all that share it.
//!
//! An agent says the hash alone. If nobody has told what it stands for, the agent becomes one of a few candidates, who are
//! asked one after the other until one answers; so an agent that never does holds up nobody for long. Any replica may ask:
//! who is first in the store does.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    decide::Decided,
    metrics,
    outbox::Letters,
    queue::Item,
    shared::{Outage, Shared, isolated, unix_ms},
};
use crate::{
    model::{AgentRecord, InstanceUid, UnixMs, agent::Transport},
    proto::{bus, opamp::AgentCapabilities},
    store::{self, SharedStore, UnknownComponents},
};

/// Hashes are chosen by agents; longer ones are not remembered.
pub const MAX_HASH_BYTES: usize = 64;
/// An agent that was asked has so long to answer before another one is.
const PATIENCE_MS: UnixMs = 10_000;
/// Over HTTP it has to poll first.
const HTTP_PATIENCE_MS: UnixMs = 60_000;
/// Hashes looked at in one go.
const MAX_LOOKED_AT: u32 = 100;
/// A hash that is known to be known is looked up again after this long, so that the store sees that it is in use.
const REMEMBER: Duration = Duration::from_secs(12 * 3_600);
const MAX_REMEMBERED: usize = 10_000;
/// If none of the candidates has answered, others may become that after so long.
const UNANSWERED_KEPT: Duration = Duration::from_secs(3_600);
/// Components that no agent has said the hash of for so long are forgotten. Agents say it whenever they report in full.
const UNUSED_KEPT: Duration = Duration::from_secs(180 * 86_400);

/// What this replica knows of it, and the wake of the task that asks.
#[derive(Default)]
pub struct Components {
    known: Mutex<HashMap<Bytes, Instant>>,
    wake: Notify,
}

/// Hashes, and agents that said them.
pub type Said = Vec<(Bytes, Vec<InstanceUid>)>;

impl Components {
    /// Stores what the reports of a batch tell. Gives who may be asked for what nobody may have told.
    pub async fn store(&self, store: &SharedStore, decided: &[(Item, Decided)]) -> store::Result<Said> {
        let mut told = BTreeMap::new();
        let mut said: BTreeMap<Bytes, Vec<InstanceUid>> = BTreeMap::new();
        for (_, outcome) in decided {
            let Some(components) = &outcome.news.components else { continue };
            // A slice of its whole batch, which need not be kept as long.
            let hash = Bytes::copy_from_slice(&components.hash);
            if hash.is_empty() || hash.len() > MAX_HASH_BYTES || self.is_known(&hash) {
                continue;
            }
            let tells = outcome.record.observed.has(AgentCapabilities::ReportsAvailableComponents);
            match &components.body {
                Some(body) => drop(told.insert(hash, body.clone())),
                None if tells && outcome.record.presence.connected => {
                    let uids = said.entry(hash).or_default();
                    if uids.len() < store::MAX_CANDIDATES {
                        uids.push(outcome.record.uid);
                    }
                }
                None => {}
            }
        }
        if !told.is_empty() {
            let told: Vec<_> = told.into_iter().collect();
            store.put_components(&told, unix_ms()).await?;
            ::metrics::counter!(metrics::COMPONENTS_TOLD).increment(told.len() as u64);
            told.into_iter().for_each(|(hash, _)| self.remember(hash));
        }
        said.retain(|hash, _| !self.is_known(hash));
        Ok(said.into_iter().collect())
    }

    /// Takes note of who may be asked. For agents whose rows are stored: others are passed over when it is their turn.
    pub async fn note(&self, store: &SharedStore, said: Said) -> store::Result<()> {
        if said.is_empty() {
            return Ok(());
        }
        let known = store.note_components(&said, unix_ms()).await?;
        if known.len() < said.len() {
            self.wake.notify_one();
        }
        known.into_iter().for_each(|hash| self.remember(hash));
        Ok(())
    }

    fn is_known(&self, hash: &Bytes) -> bool {
        self.known.lock().get(hash).is_some_and(|at| at.elapsed() < REMEMBER)
    }

    fn remember(&self, hash: Bytes) {
        let mut known = self.known.lock();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(hash, Instant::now());
    }
}

/// Asks agents, for ever.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("asking for components");
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.components.wake.notified() => {}
            () = sleep_until(next) => {}
        }
        if let Some(result) = isolated("asking for components", Box::pin(ask_all(&shared))).await {
            outage.note(result);
        }
        next = Instant::now() + shared.config.policy_poll_interval;
    }
}

async fn ask_all(shared: &Shared) -> store::Result<()> {
    let unknown = shared.store.unknown_components(MAX_LOOKED_AT).await?;
    if unknown.is_empty() {
        return Ok(());
    }
    let uids: Vec<InstanceUid> = unknown.iter().flat_map(|it| it.candidates.iter().copied()).collect();
    let rows: HashMap<InstanceUid, AgentRecord> =
        shared.store.read_agents(&uids).await?.into_iter().map(|row| (row.uid, row)).collect();
    let mut letters = Letters::default();
    for components in unknown {
        ask(shared, components, &rows, &mut letters).await?;
    }
    letters.send(&shared.outbox).await;
    Ok(())
}

/// Asks the next candidate that can answer, if the last one has had its time.
async fn ask(
    shared: &Shared,
    components: UnknownComponents,
    rows: &HashMap<InstanceUid, AgentRecord>,
    letters: &mut Letters,
) -> store::Result<()> {
    let UnknownComponents { hash, candidates, mut asked, asked_at } = components;
    let now = unix_ms();
    let is_waited_for = |last: &AgentRecord| {
        let is_http = last.presence.transport == Transport::Http;
        let patience = if is_http { HTTP_PATIENCE_MS } else { PATIENCE_MS };
        last.presence.connected && now < asked_at + patience
    };
    let last = usize::from(asked).checked_sub(1).and_then(|last| rows.get(candidates.get(last)?));
    if last.is_some_and(is_waited_for) {
        return Ok(());
    }
    while let Some(uid) = candidates.get(usize::from(asked)) {
        // Another replica may have been first.
        if !shared.store.ask_components(&hash, asked, now).await? {
            return Ok(());
        }
        asked += 1;
        let row = rows.get(uid).filter(|row| {
            let tells = row.observed.has(AgentCapabilities::ReportsAvailableComponents);
            tells && row.presence.connected && !shared.gateways.is_dead(&row.presence.gateway)
        });
        if let Some(row) = row {
            ::metrics::counter!(metrics::COMPONENT_ASKS).increment(1);
            let connection_generation = row.presence.connection_generation;
            let ask = bus::ComponentAsk { instance_uid: uid.to_bytes(), connection_generation };
            letters.to(&row.presence.gateway).component_asks.push(ask);
            return Ok(());
        }
    }
    Ok(())
}

/// Forgets what is not in use any more.
pub async fn forget(store: &SharedStore) -> store::Result<u64> {
    let before = |age: Duration| unix_ms().saturating_sub(UnixMs::try_from(age.as_millis()).unwrap_or(UnixMs::MAX));
    store.forget_components(before(UNUSED_KEPT), before(UNANSWERED_KEPT)).await
}
