//! Under which uid an agent is known: the one it says, or another that it was given.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Shared, agents::Echo, exchange::Origin, uids::Alias};
use crate::{model::InstanceUid, protocol::Incoming};

/// HTTP agents that were given a new uid and have not been seen to use it; beyond this the oldest is forgotten.
const MAX_HTTP_ALIASES: usize = 4_096;
/// An HTTP agent that speaks under its old uid after this long is asked afresh.
const HTTP_ALIAS_LIFETIME: Duration = Duration::from_secs(900);

/// How often an agent that goes on with the certificate of its first uid may have been given a new one.
const MAX_RENAMES: usize = 64;

/// New uids given over HTTP, by the old one. (Over WebSocket the connection knows them.)
#[derive(Debug, Default)]
pub struct HttpAliases(Mutex<HashMap<InstanceUid, HttpAlias>>);

#[derive(Clone, Copy, Debug)]
struct HttpAlias {
    alias: Alias,
    since: Instant,
    /// The agent has not been told yet.
    is_news: bool,
}

impl HttpAliases {
    pub fn insert(&self, alias: Alias, is_news: bool) {
        let mut aliases = self.0.lock();
        aliases.retain(|_, known| known.since.elapsed() < HTTP_ALIAS_LIFETIME);
        if aliases.len() >= MAX_HTTP_ALIASES
            && let Some(oldest) = aliases.iter().min_by_key(|(_, known)| known.since).map(|(old, _)| *old)
        {
            aliases.remove(&oldest);
        }
        aliases.insert(alias.old, HttpAlias { alias, since: Instant::now(), is_news });
    }

    fn get(&self, old: &InstanceUid) -> Option<(Alias, bool)> {
        let mut aliases = self.0.lock();
        let known = aliases.get_mut(old).filter(|known| known.since.elapsed() < HTTP_ALIAS_LIFETIME)?;
        Some((known.alias, std::mem::take(&mut known.is_news)))
    }

    fn has_become(&self, old: InstanceUid, new: InstanceUid) -> bool {
        let aliases = self.0.lock();
        let mut now = old;
        for _ in 0..MAX_RENAMES {
            match aliases.get(&now) {
                Some(known) if known.alias.new == new => return true,
                Some(known) => now = known.alias.new,
                None => return false,
            }
        }
        false
    }

    fn asked_again(&self, alias: Alias, request: u64) {
        if let Some(known) = self.0.lock().get_mut(&alias.old).filter(|known| known.alias == alias) {
            known.alias.request = request;
        }
    }
}

/// A uid as the specification wants it for agents.
pub fn new_uid() -> InstanceUid {
    InstanceUid::from_uuid(uuid::Uuid::now_v7())
}

/// The agent that alone may speak by the certificate of `origin`, if that is another than the one that speaks, `said`: it, or
/// one that it has become because it was given a new uid.
pub fn spoken_for(shared: &Shared, origin: Origin<'_>, said: InstanceUid) -> Option<InstanceUid> {
    let credential = origin.credential()?;
    let own = credential.uid().filter(|own| *own != said)?;
    let has_become = match origin {
        Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.has_become(own, said)),
        Origin::Http(_) => shared.http_aliases.has_become(own, said),
    };
    (!has_become).then_some(own)
}

/// Under which uid the sender of a message is known, and to whom the reply goes. An error is a text for the agent.
pub fn identify(
    shared: &Shared,
    origin: Origin<'_>,
    incoming: &Incoming,
    payload: &[u8],
) -> Result<(InstanceUid, Echo), String> {
    let said = incoming.uid;
    let request = incoming.requests_instance_uid().then(|| digest(payload));
    let known = match origin {
        Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.alias(&said)).map(|it| (it, false)),
        Origin::Http(_) => shared.http_aliases.get(&said),
    };
    if let Some((alias, is_news)) = known
        && request.is_none_or(|request| !is_another_agent(shared, alias, incoming, request))
    {
        if let Some(request) = request {
            match origin {
                Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.asked_again(alias, request)),
                Origin::Http(_) => shared.http_aliases.asked_again(alias, request),
            }
        }
        let is_told = is_news || request.is_some();
        return Ok((alias.new, Echo { uid: said, new_uid: is_told.then_some(alias.new) }));
    }
    let Some(request) = request else { return Ok((said, Echo { uid: said, new_uid: None })) };
    let alias = Alias { old: said, new: new_uid(), request };
    let is_allowed = match origin {
        Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.add_alias(alias)),
        Origin::Http(_) => shared.minting.try_take(),
    };
    if !is_allowed {
        return Err("too many requests for an instance_uid".to_owned());
    }
    if matches!(origin, Origin::Http(_)) {
        shared.http_aliases.insert(alias, false);
    }
    Ok((alias.new, Echo { uid: said, new_uid: Some(alias.new) }))
}

/// Whether a request for a uid comes from another agent than the one that was given `alias`, though with the same temporary
/// uid: it does not go on where that one was, and does not repeat its request either.
fn is_another_agent(shared: &Shared, alias: Alias, incoming: &Incoming, request: u64) -> bool {
    let agents = shared.registry.lock(&alias.new);
    let known = agents.entries.get(&alias.new);
    request != alias.request && known.is_some_and(|entry| incoming.sequence_num <= entry.sequence_num)
}

fn digest(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    hasher.finish()
}
