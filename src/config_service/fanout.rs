//! Bringing records up to date with the policies, and offering what is due: the common part of reconciliation, sweeps and
//! requests about single agents.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::{
    decide::{Change, reconcile},
    metrics,
    outbox::{Letters, concatenated},
    pace::Pacer,
    policies::{Pace, Snapshot},
    shared::{Shared, isolated_agent, unix_ms},
};
use crate::{
    model::{AgentRecord, ContentHash, InstanceUid},
    proto::bus,
    store,
};

/// How often records that others wrote first are read and decided again.
const MAX_ROUNDS: usize = 5;
/// Remembered pairs of gateway and config; beyond, bodies may be sent again.
const MAX_SENT_BODIES: usize = 10_000;
/// Offers that have no limit of their own.
const DEFAULT_PACE: &str = "";

/// Why a fan-out ended before its end. It begins again.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the bus is away, so offers would be lost")]
    BusAway,
    #[error("there are newer policies")]
    NewerPolicies,
    #[error("other replicas keep writing the same agents")]
    Conflicts,
}

#[derive(Default)]
pub struct Fanout {
    pacer: Pacer,
    /// Which gateways were sent which bodies on the way of an offer. One that lost its body asks for it.
    sent_bodies: Mutex<HashSet<(String, ContentHash)>>,
}

/// Brings `records` to the policies of `snapshot`, and offers what is due. `cause` is for the metrics.
pub async fn settle(
    shared: &Shared,
    snapshot: &Snapshot,
    mut records: Vec<AgentRecord>,
    cause: &'static str,
) -> Result<(), Stopped> {
    ::metrics::counter!(metrics::RECONCILED, "cause" => cause).increment(records.len() as u64);
    for _ in 0..MAX_ROUNDS {
        let now = unix_ms();
        let (mut offered, mut quiet) = (HashMap::<Option<Pace>, Vec<Change>>::new(), Vec::new());
        for record in records {
            let uid = record.uid;
            let Some(change) = isolated_agent("agent", uid, || reconcile(record, snapshot, now)).flatten() else {
                continue;
            };
            match change.offer.as_ref().map(|offer| offer.pace.clone()) {
                Some(pace) => offered.entry(pace).or_default().push(change),
                None => quiet.push(change),
            }
        }
        let mut conflicts = write(shared, quiet, cause).await?;
        for (pace, changes) in offered {
            conflicts.extend(offer(shared, snapshot, pace, changes, cause).await?);
        }
        if conflicts.is_empty() {
            return Ok(());
        }
        ::metrics::counter!(metrics::CONFLICTS).increment(conflicts.len() as u64);
        records = shared.store.read_agents(&conflicts).await?;
    }
    Err(Stopped::Conflicts)
}

/// Writes and offers, no faster than `pace` or else the setting allows. Returns the agents that others wrote first.
async fn offer(
    shared: &Shared,
    snapshot: &Snapshot,
    pace: Option<Pace>,
    mut changes: Vec<Change>,
    cause: &'static str,
) -> Result<Vec<InstanceUid>, Stopped> {
    let per_second = pace.as_ref().map_or(shared.config.offers_per_second, |pace| pace.per_second);
    let revised_at = pace.as_ref().map(|pace| pace.revised_at).or_else(|| snapshot.revised_at());
    let mut conflicts = Vec::new();
    while !changes.is_empty() {
        let mut size = changes.len();
        if per_second > 0 {
            // All replicas together keep the rate, each by its share of the shards.
            let rate = f64::from(per_second) * shared.share().max(f64::MIN_POSITIVE);
            size = size.min(Pacer::chunk(rate));
            let name = pace.as_ref().map_or(DEFAULT_PACE, |pace| &pace.policy);
            sleep_until(shared.fanout.pacer.reserve(name, rate, size, Instant::now())).await;
        }
        if shared.policies.loaded().is_some_and(|newest| newest.epoch() > snapshot.epoch()) {
            return Err(Stopped::NewerPolicies);
        }
        if !shared.bus.is_reachable() {
            return Err(Stopped::BusAway);
        }
        let rest = changes.split_off(size);
        if let Some(revised_at) = revised_at.filter(|_| cause == "policies") {
            let lag = (unix_ms() - revised_at).max(0) as f64 / 1_000.0;
            ::metrics::histogram!(metrics::OFFER_LAG_SECONDS).record(lag);
        }
        conflicts.extend(write(shared, changes, cause).await?);
        changes = rest;
    }
    Ok(conflicts)
}

/// Writes, and then offers what is to be offered. Returns the agents that others wrote first.
async fn write(shared: &Shared, changes: Vec<Change>, cause: &'static str) -> store::Result<Vec<InstanceUid>> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    shared.bodies.store(&shared.store, changes.iter().filter_map(|change| change.config.as_ref())).await?;
    let records: Vec<AgentRecord> = changes.iter().map(|change| change.record.clone()).collect();
    let conflicts = shared.store.write_agents(&records, &[]).await?;
    let lost: HashSet<InstanceUid> = conflicts.iter().copied().collect();
    let written = changes.iter().filter(|change| !lost.contains(&change.record.uid));
    send_offers(shared, written.clone(), cause).await;
    let visible: Vec<InstanceUid> =
        written.filter(|change| change.is_visible).map(|change| change.record.uid).collect();
    shared.outbox.agents_changed(&visible).await;
    Ok(conflicts)
}

async fn send_offers<'a>(shared: &Shared, changes: impl Iterator<Item = &'a Change>, cause: &'static str) {
    let mut groups = HashMap::<(&str, ContentHash, bool), (Vec<InstanceUid>, Vec<u64>)>::new();
    for change in changes {
        let record = &change.record;
        let Some((offer, config)) = change.offer.as_ref().zip(record.desired.config) else {
            continue;
        };
        let group = groups.entry((&record.presence.gateway, config, offer.repeat)).or_default();
        group.0.push(record.uid);
        group.1.push(record.desired.generation);
        ::metrics::counter!(metrics::OFFERS, "cause" => cause).increment(1);
    }
    let mut letters = Letters::default();
    for ((gateway, config, repeat), (uids, desired_generations)) in groups {
        let batch = letters.to(gateway);
        batch.bodies.extend(first_body(shared, gateway, config).await);
        batch.offers.push(bus::OfferGroup {
            config_hash: config.to_bytes(),
            instance_uids: concatenated(&uids),
            desired_generations,
            repeat,
        });
    }
    letters.send(&shared.outbox).await;
}

/// The body that goes ahead of the first offer of `config` to `gateway`.
async fn first_body(shared: &Shared, gateway: &str, config: ContentHash) -> Option<bus::OfferBody> {
    {
        let mut sent = shared.fanout.sent_bodies.lock();
        if sent.len() >= MAX_SENT_BODIES {
            sent.clear();
        }
        if !sent.insert((gateway.to_owned(), config)) {
            return None;
        }
    }
    // If it cannot be read now, the gateway asks for it.
    let remote_config = shared.bodies.get(&shared.store, config).await.ok().flatten()?;
    ::metrics::counter!(metrics::BODIES).increment(1);
    Some(bus::OfferBody { config_hash: config.to_bytes(), remote_config })
}
