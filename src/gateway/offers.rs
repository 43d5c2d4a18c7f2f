//! What agents are offered: bodies by hash, encoded once for everybody, and what is wanted of them.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::coop::consume_budget;

use super::{
    Shared,
    agents::{Entry, Offer},
    reply, spans,
};
use crate::{
    model::{ContentHash, InstanceUid, policy::PolicyKind},
    protocol::reply::{UID_FIELD_BYTES, offer_field},
    trace,
};

/// Different bodies asked for at one time: far more than there are in flight.
const MAX_WANTED: usize = 1_024;
/// A body that nobody sent for this long is not asked for any more; the config service offers it again.
const WANT_FOR_MS: u64 = 60_000;
/// Room for what stands beside the offer in a message.
pub const ENVELOPE_BYTES: usize = UID_FIELD_BYTES + 64;

#[derive(Debug)]
pub struct Bodies {
    max_cached_bytes: usize,
    max_body_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    cached: HashMap<ContentHash, Cached>,
    cached_bytes: usize,
    uses: u64,
    wanted: HashMap<ContentHash, Wanted>,
}

#[derive(Debug)]
struct Cached {
    /// Of a ServerToAgent, encoded.
    field: Bytes,
    last_use: u64,
}

#[derive(Debug)]
struct Wanted {
    since_ms: u64,
    uids: HashSet<InstanceUid>,
    /// What led to it, if that is traced.
    trace: Option<trace::Parent>,
}

/// What became of a body that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Inserted {
    /// These agents have been waiting for it.
    For(Vec<InstanceUid>),
    /// It cannot be sent; these agents have been waiting for it.
    TooBig(Vec<InstanceUid>),
}

impl Bodies {
    pub fn new(max_cached_bytes: usize, max_message_bytes: usize) -> Self {
        let max_body_bytes = max_message_bytes.saturating_sub(ENVELOPE_BYTES);
        Self { max_cached_bytes, max_body_bytes, state: Mutex::default() }
    }

    pub fn has(&self, hash: &ContentHash) -> bool {
        self.state.lock().cached.contains_key(hash)
    }

    /// The encoded field that offers it.
    pub fn get(&self, hash: &ContentHash) -> Option<Bytes> {
        let mut state = self.state.lock();
        state.uses += 1;
        let uses = state.uses;
        let cached = state.cached.get_mut(hash)?;
        cached.last_use = uses;
        Some(cached.field.clone())
    }

    /// Remembers that `uid` waits for this body. Returns whether it is to be asked for now.
    fn want(&self, hash: ContentHash, uid: InstanceUid, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        if state.wanted.len() >= MAX_WANTED && !state.wanted.contains_key(&hash) {
            return false;
        }
        let mut is_new = false;
        let wanted = state.wanted.entry(hash).or_insert_with(|| {
            is_new = true;
            Wanted { since_ms: now_ms, uids: HashSet::new(), trace: None }
        });
        wanted.uids.insert(uid);
        wanted.trace = wanted.trace.or_else(trace::current);
        is_new
    }

    /// What led to asking for it, if that is traced.
    fn trace(&self, hash: &ContentHash) -> Option<trace::Parent> {
        self.state.lock().wanted.get(hash)?.trace
    }

    /// What is still to be asked for.
    fn still_wanted(&self, now_ms: u64) -> Vec<ContentHash> {
        let mut state = self.state.lock();
        state.wanted.retain(|_, wanted| now_ms < wanted.since_ms + WANT_FOR_MS);
        state.wanted.keys().copied().collect()
    }

    /// Takes the encoded body of an offer.
    pub fn insert(&self, kind: PolicyKind, hash: ContentHash, body: &[u8]) -> Inserted {
        let mut state = self.state.lock();
        let waiting: Vec<_> =
            state.wanted.remove(&hash).map(|wanted| wanted.uids.into_iter().collect()).unwrap_or_default();
        if body.len() > self.max_body_bytes {
            return Inserted::TooBig(waiting);
        }
        state.uses += 1;
        let cached = Cached { field: offer_field(kind, body), last_use: state.uses };
        state.cached_bytes += cached.field.len();
        if let Some(replaced) = state.cached.insert(hash, cached) {
            state.cached_bytes -= replaced.field.len();
        }
        // The newest stays, however large it is.
        while state.cached_bytes > self.max_cached_bytes && state.cached.len() > 1 {
            let oldest = state.cached.iter().min_by_key(|(_, cached)| cached.last_use).map(|(hash, _)| *hash);
            let Some(removed) = oldest.and_then(|hash| state.cached.remove(&hash)) else { break };
            state.cached_bytes -= removed.field.len();
        }
        Inserted::For(waiting)
    }
}

impl Shared {
    /// If the agent is to be offered something whose body is not here, has that sent.
    pub fn want_body(&self, uid: InstanceUid, entry: &Entry) {
        for Offer { hash, .. } in entry.rare.iter().flat_map(|rare| &rare.offers) {
            if !self.bodies.has(hash) && self.bodies.want(*hash, uid, self.clock.now_ms()) {
                self.outgoing.want_body(*hash);
            }
        }
    }

    /// Asks again for the bodies that have not come.
    pub fn ask_for_bodies(&self, now_ms: u64) {
        for hash in self.bodies.still_wanted(now_ms) {
            self.outgoing.want_body(hash);
        }
    }
}

/// Notes what the agent is to be offered. Of a kind the offer with the largest generation wins; one that this connection has
/// been sent is dropped, unless it `repeat`s because nothing was heard of it.
pub fn note(shared: &Shared, entry: &mut Entry, offer: Offer, repeat: bool) {
    let Offer { kind, generation, .. } = offer;
    let noted = entry.rare.as_ref().and_then(|rare| rare.offers.iter().find(|noted| noted.kind == kind));
    let sent = entry.offered[kind as usize];
    let is_old = generation < sent.max(noted.map_or(0, |noted| noted.generation))
        || generation == sent && generation != 0 && !repeat;
    if is_old || !entry.is_live() || !entry.accepts(kind) {
        shared.metrics.offers_dropped.increment(1);
        return;
    }
    let offers = &mut entry.rare().offers;
    offers.retain(|noted| noted.kind != kind);
    offers.push(offer);
    if repeat && kind == PolicyKind::Packages {
        // The Go client says nothing when it is offered what it has, unless it is asked.
        entry.rare().full_state.wanted();
    }
}

/// Takes an offer, and sends it if its body is here. Returns whether it was sent.
pub fn offer(shared: &Shared, uid: InstanceUid, offer: Offer, repeat: bool) -> bool {
    let now_ms = shared.clock.now_ms();
    let agents = &mut *shared.registry.lock(&uid);
    let Some(entry) = agents.entries.get_mut(&uid) else { return false };
    note(shared, entry, offer, repeat);
    let is_noted = entry.rare.as_ref().is_some_and(|rare| !rare.offers.is_empty());
    reply::deliver(shared, uid, entry, false, now_ms);
    let is_left = entry.rare.as_ref().is_some_and(|rare| !rare.offers.is_empty());
    shared.want_body(uid, entry);
    entry.tidy(now_ms);
    shared.registry.set_active(agents, &uid);
    is_noted && !is_left
}

/// Takes a body and sends it to whoever waits for it.
pub async fn take_body(shared: &Shared, kind: PolicyKind, hash: ContentHash, body: &[u8]) {
    let trace = shared.bodies.trace(&hash);
    match shared.bodies.insert(kind, hash, body) {
        Inserted::TooBig(uids) => {
            shared.metrics.oversize.increment(1);
            let bytes = body.len();
            tracing::warn!(kind = kind.name(), %hash, bytes, "offer not sent: it is over the size limit");
            for uid in uids {
                consume_budget().await;
                let mut agents = shared.registry.lock(&uid);
                if let Some(rare) = agents.entries.get_mut(&uid).and_then(|entry| entry.rare.as_mut()) {
                    rare.offers.retain(|offer| offer.hash != hash);
                }
            }
        }
        Inserted::For(uids) => {
            let _span = spans::body(trace, &hash, uids.len());
            for uid in uids {
                consume_budget().await;
                let now_ms = shared.clock.now_ms();
                let agents = &mut *shared.registry.lock(&uid);
                if let Some(entry) = agents.entries.get_mut(&uid) {
                    reply::deliver(shared, uid, entry, true, now_ms);
                    entry.tidy(now_ms);
                }
                shared.registry.set_active(agents, &uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: PolicyKind = PolicyKind::Config;

    fn hash(n: u8) -> ContentHash {
        ContentHash([n; 32])
    }

    #[test]
    fn the_least_used_bodies_make_room() {
        let bodies = Bodies::new(2_500, 10_000);
        for n in 1..=2 {
            assert_eq!(bodies.insert(KIND, hash(n), &[n; 1_000]), Inserted::For(vec![]));
        }
        bodies.get(&hash(1)).expect("it was just put there");
        bodies.insert(KIND, hash(3), &[3; 1_000]);
        assert!(bodies.has(&hash(1)) && !bodies.has(&hash(2)) && bodies.has(&hash(3)));
        bodies.insert(KIND, hash(3), &[3; 1_000]);
        assert!(bodies.has(&hash(1)), "the same body again takes no room");
        assert_eq!(bodies.insert(KIND, hash(4), &[4; 10_000]), Inserted::TooBig(vec![]));
    }

    #[test]
    fn wanted_bodies_are_asked_for_until_they_come_or_for_long_enough() {
        let bodies = Bodies::new(10_000, 10_000);
        let (one, two) = (InstanceUid::from_slice(&[1; 16]).unwrap(), InstanceUid::from_slice(&[2; 16]).unwrap());
        assert!(bodies.want(hash(1), one, 5));
        assert!(!bodies.want(hash(1), two, 5), "asked for once");
        assert_eq!(bodies.still_wanted(6), [hash(1)]);
        let Inserted::For(mut uids) = bodies.insert(KIND, hash(1), b"body") else { panic!("it is small") };
        uids.sort();
        assert_eq!(uids, [one, two]);
        assert!(bodies.want(hash(2), one, 10));
        assert_eq!(bodies.still_wanted(10 + WANT_FOR_MS), []);
    }
}
