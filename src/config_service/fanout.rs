//! Bringing records up to date with the policies, and offering what is due: the common part of reconciliation, sweeps and
//! requests about single agents.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::{
    bodies, comparisons,
    decide::{Change, Offer, reconcile},
    metrics,
    outbox::{Letters, concatenated},
    pace::Pacer,
    policies::Snapshot,
    shared::{Shared, isolated_agent, unix_ms},
    waiting::{Lane, Waiting},
};
use crate::{
    model::{AgentRecord, ContentHash, InstanceUid, effective::Effective, policy::PolicyKind},
    proto::bus,
    store::{self, DesiredWrite},
    trace::{self, Parent},
};

/// How often records that others wrote first are read and decided again.
const MAX_ROUNDS: usize = 5;
/// Remembered pairs of gateway and hash; beyond, bodies may be sent again.
const MAX_SENT_BODIES: usize = 10_000;

/// Of the bodies that go out together, but for the last: a bus cuts off who is slow to take large messages.
const MAX_LETTER_BYTES: usize = 2 << 20;

/// Why a fan-out ended before its end. It begins again.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the bus is away, so offers would be lost")]
    BusAway,
    #[error("there are newer policies")]
    NewerPolicies,
    #[error("there is more to do that need not wait")]
    Interrupted,
    #[error("other replicas keep writing the same agents")]
    Conflicts,
}

#[derive(Default)]
pub struct Fanout {
    pub(super) pacer: Pacer,
    /// Which gateways were sent which bodies on the way of an offer. One that lost its body asks for it.
    sent_bodies: Mutex<HashSet<(String, ContentHash)>>,
}

/// Brings `records` to the policies of `snapshot`, and offers what is due. Offers that are limited by a pace are left to
/// `waiting`, so that nothing here waits for them. `cause` is for the metrics.
pub async fn settle(
    shared: &Shared,
    snapshot: &Snapshot,
    mut records: Vec<AgentRecord>,
    cause: &'static str,
    waiting: &mut Waiting,
) -> Result<(), Stopped> {
    ::metrics::counter!(metrics::RECONCILED, "cause" => cause).increment(records.len() as u64);
    for _ in 0..MAX_ROUNDS {
        let mut changes = decide(records, snapshot);
        changes.retain(|change| {
            let lane = if change.offers.is_empty() { None } else { Lane::of(change.pace.as_ref(), &shared.config) };
            lane.is_none_or(|lane| {
                waiting.add(lane, change.record.uid);
                false
            })
        });
        let offers = changes.iter().any(|change| !change.offers.is_empty());
        let may_offer = if offers { check_newest(shared, snapshot).await } else { Ok(()) };
        if may_offer.is_err() {
            changes.retain(|change| change.offers.is_empty());
        }
        let conflicts = write(shared, snapshot, changes, cause).await?;
        may_offer?;
        if conflicts.is_empty() {
            return Ok(());
        }
        records = shared.store.read_agents(&conflicts).await?;
    }
    Err(Stopped::Conflicts)
}

/// Whether offers may be made now.
pub(super) fn check(shared: &Shared, snapshot: &Snapshot) -> Result<(), Stopped> {
    if shared.policies.loaded().is_some_and(|newest| newest.epoch() > snapshot.epoch()) {
        return Err(Stopped::NewerPolicies);
    }
    match shared.bus.is_reachable() {
        true => Ok(()),
        false => Err(Stopped::BusAway),
    }
}

/// As [`check`]. While rollouts go on the store is asked, and not only what is known here: one that is paused goes on from that
/// moment nowhere.
pub(super) async fn check_newest(shared: &Shared, snapshot: &Snapshot) -> Result<(), Stopped> {
    if snapshot.is_divided() {
        shared.policies.refresh().await?;
    }
    check(shared, snapshot)
}

/// What changes for `records`.
pub(super) fn decide(records: Vec<AgentRecord>, snapshot: &Snapshot) -> Vec<Change> {
    let now = unix_ms();
    let decide =
        |record: AgentRecord| isolated_agent("agent", record.uid, || reconcile(record, snapshot, now)).flatten();
    records.into_iter().filter_map(decide).collect()
}

/// Writes, and then offers what is to be offered. Returns the agents that others wrote first.
pub(super) async fn write(
    shared: &Shared,
    snapshot: &Snapshot,
    mut changes: Vec<Change>,
    cause: &'static str,
) -> store::Result<Vec<InstanceUid>> {
    shared.bodies.store(&shared.store, changes.iter().map(|change| &change.meaning)).await?;
    let is_unknown = |change: &&mut Change| change.record.desired.effective == Effective::Unknown;
    let mut unknown: Vec<&mut Change> = changes.iter_mut().filter(is_unknown).collect();
    comparisons::judge(shared, unknown.iter_mut().map(|change| &mut change.record), &HashMap::new()).await?;
    for change in unknown {
        change.is_visible |= change.record.desired.effective != Effective::Unknown;
    }
    changes.retain(|change| change.is_visible || !change.offers.is_empty());
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let desired: Vec<DesiredWrite> = changes.iter().map(|change| DesiredWrite::of(&change.record)).collect();
    let conflicts = shared.store.write_desired(&desired).await?;
    ::metrics::counter!(metrics::CONFLICTS).increment(conflicts.len() as u64);
    let lost: HashSet<InstanceUid> = conflicts.iter().copied().collect();
    let written = changes.iter().filter(|change| !lost.contains(&change.record.uid));
    if cause == "policies" {
        // Before they go out: answers may be here before this goes on.
        note_lag(shared, snapshot, written.clone());
    }
    send_offers(shared, written.clone(), cause).await;
    let visible: Vec<InstanceUid> =
        written.filter(|change| change.is_visible).map(|change| change.record.uid).collect();
    shared.outbox.agents_changed(&visible).await;
    Ok(conflicts)
}

/// Records how old the change is that the offers among `changes` bring.
fn note_lag<'a>(shared: &Shared, snapshot: &Snapshot, changes: impl Iterator<Item = &'a Change>) {
    let mut offered = changes.filter(|change| !change.offers.is_empty()).peekable();
    let revised_at = offered.peek().and_then(|change| match &change.pace {
        Some(pace) => Some(pace.revised_at),
        None => snapshot.revised_at(),
    });
    if let Some(revised_at) = revised_at {
        let lag = (unix_ms() - revised_at).max(0) as f64 / 1_000.0;
        ::metrics::histogram!(metrics::OFFER_LAG_SECONDS).record(lag);
        let offers = offered.map(|change| change.offers.len()).sum();
        shared.changes.offered(snapshot.epoch(), revised_at, offers);
    }
}

async fn send_offers<'a>(shared: &Shared, changes: impl Iterator<Item = &'a Change>, cause: &'static str) {
    let mut groups = HashMap::<(&str, PolicyKind, ContentHash, bool), (Vec<InstanceUid>, Vec<u64>)>::new();
    for change in changes {
        let record = &change.record;
        for Offer { kind, repeat } in &change.offers {
            let desired = record.desired.of(*kind);
            let Some(hash) = desired.hash else { continue };
            let group = groups.entry((&record.presence.gateway, *kind, hash, *repeat)).or_default();
            group.0.push(record.uid);
            group.1.push(desired.generation);
            ::metrics::counter!(metrics::OFFERS, "cause" => cause).increment(1);
        }
    }
    let groups: Vec<_> = groups.into_iter().collect();
    for groups in groups.chunks(bodies::MAX_READ_TOGETHER) {
        // Offers that go to one agent each bring as many bodies.
        let keys = groups.iter().map(|((gateway, _, hash, _), _)| (*gateway, *hash));
        let mut bodies = first_bodies(shared, keys).await;
        let (mut letters, mut bytes) = (Letters::default(), 0);
        for ((gateway, kind, hash, repeat), (uids, generations)) in groups {
            if bytes > MAX_LETTER_BYTES {
                std::mem::take(&mut letters).send(&shared.outbox).await;
                bytes = 0;
            }
            let batch = letters.to(gateway);
            if batch.trace.is_empty() {
                batch.trace = trace::current().map(Parent::to_bytes).unwrap_or_default();
            }
            let body = bodies.remove(&(*gateway, *hash));
            bytes += body.as_ref().map_or(0, |body| body.body.len());
            batch.bodies.extend(body);
            batch.offers.push(bus::OfferGroup {
                kind: bus::OfferKind::from(*kind) as i32,
                hash: hash.to_bytes(),
                instance_uids: concatenated(uids),
                generations: generations.clone(),
                repeat: *repeat,
            });
        }
        letters.send(&shared.outbox).await;
    }
}

/// The bodies that go ahead of the first offer of a hash to a gateway.
async fn first_bodies<'a>(
    shared: &Shared,
    offers: impl Iterator<Item = (&'a str, ContentHash)>,
) -> HashMap<(&'a str, ContentHash), bus::OfferBody> {
    let first: Vec<(&str, ContentHash)> = {
        let mut sent = shared.fanout.sent_bodies.lock();
        if sent.len() >= MAX_SENT_BODIES {
            sent.clear();
        }
        offers.filter(|(gateway, hash)| sent.insert(((*gateway).to_owned(), *hash))).collect()
    };
    let hashes: HashSet<ContentHash> = first.iter().map(|(_, hash)| *hash).collect();
    let hashes: Vec<ContentHash> = hashes.into_iter().collect();
    // If they cannot be read now, the gateways ask for them.
    let bodies = shared.bodies.get(&shared.store, &hashes).await.unwrap_or_default();
    let bodies: HashMap<&[u8], &bus::OfferBody> = bodies.iter().map(|body| (&body.hash[..], body)).collect();
    let of = |key: (&'a str, ContentHash)| Some((key, bus::OfferBody::clone(bodies.get(&key.1.0[..])?)));
    let found: HashMap<_, _> = first.into_iter().filter_map(of).collect();
    ::metrics::counter!(metrics::BODIES).increment(found.len() as u64);
    found
}
