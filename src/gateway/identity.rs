//! Under which uid an agent is known: the one it says, or another that it was given.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    Shared,
    agents::{Echo, Entry, Link},
    duplicates,
    exchange::Origin,
    uids::{Alias, MAX_CHAIN},
};
use crate::{
    model::{InstanceUid, uid::stable_hash},
    protocol::Incoming,
};

/// HTTP agents that were given a new uid and have not been seen to use it; beyond this the oldest is forgotten.
const MAX_HTTP_ALIASES: usize = 4_096;
/// An HTTP agent that speaks under its old uid after this long is asked afresh.
const HTTP_ALIAS_LIFETIME: Duration = Duration::from_secs(900);

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
        for _ in 0..MAX_CHAIN {
            match aliases.get(&now) {
                Some(known) if known.alias.new == new => return true,
                Some(known) => now = known.alias.new,
                None => return false,
            }
        }
        false
    }

    /// Whether the agent that speaks by `uid` was given as many, one after the other, as it may be.
    fn is_at_limit(&self, uid: InstanceUid) -> bool {
        let aliases = self.0.lock();
        let is_live = |known: &&HttpAlias| known.since.elapsed() < HTTP_ALIAS_LIFETIME;
        // Few have had any before; of those that ask again and again, each former one is looked for.
        let before = |uid: &InstanceUid| {
            aliases.values().find(|known| known.alias.new == *uid).filter(is_live).map(|known| known.alias.old)
        };
        std::iter::successors(before(&uid), before).take(MAX_CHAIN).count() == MAX_CHAIN
    }

    /// What was given as `new` is `instead` now.
    pub fn replace(&self, new: &InstanceUid, instead: InstanceUid) {
        let mut aliases = self.0.lock();
        aliases.values_mut().filter(|known| known.alias.new == *new).for_each(|known| known.alias.new = instead);
    }

    /// The uids that the agent which is known by `uid` has had.
    fn former(&self, uid: &InstanceUid) -> Vec<InstanceUid> {
        let aliases = self.0.lock();
        aliases.values().filter(|known| known.alias.new == *uid).map(|known| known.alias.old).collect()
    }

    fn remove(&self, old: &InstanceUid) {
        self.0.lock().remove(old);
    }

    fn change(&self, alias: Alias, change: impl FnOnce(&mut Alias)) {
        if let Some(known) = self.0.lock().get_mut(&alias.old).filter(|known| known.alias.new == alias.new) {
            change(&mut known.alias);
        }
    }

    fn told(&self, old: &InstanceUid, now_s: u32) {
        if let Some(known) = self.0.lock().get_mut(old) {
            known.alias.told_s = now_s;
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

/// Who sent a message.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Under which uid the agent is known.
    pub uid: InstanceUid,
    /// To whom the reply goes.
    pub echo: Echo,
    /// It asks for a uid: `uid` is that, and it is told so once the store knows it by that.
    pub request: Option<Request>,
}

#[derive(Clone, Copy, Debug)]
pub struct Request {
    digest: u64,
    state: RequestState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    /// Answered before.
    Known,
    /// What is known here of the agent has been taken along.
    Renamed,
    /// There was nothing to take along.
    New,
}

impl Identity {
    fn plain(uid: InstanceUid) -> Self {
        Self { uid, echo: Echo { uid, new_uid: None }, request: None }
    }

    /// Notes what `entry`, the agent's, has to do because of its request. Returns whether there is something to report.
    pub fn note(&self, entry: &mut Entry) -> bool {
        let Some(request) = self.request else {
            // Who speaks by its new uid knows it.
            if let Some(rare) = &mut entry.rare
                && self.echo.uid == self.uid
            {
                rare.tells_uid_to = None;
            }
            return false;
        };
        entry.rare().tells_uid_to = Some(self.echo.uid);
        if request.state == RequestState::New {
            entry.renamed(self.echo.uid, self.uid, request.digest);
        }
        request.state != RequestState::Known
    }
}

/// Finds out who sent a message; `None` if it asks for a uid, and cannot be given one now.
pub fn identify(shared: &Shared, origin: Origin<'_>, incoming: &Incoming, payload: &[u8]) -> Option<Identity> {
    let said = incoming.uid;
    let digest = incoming.requests_instance_uid().then(|| stable_hash(payload).max(1));
    let known = match origin {
        Origin::WebSocket(connection) => {
            connection.outbox.with_uids(|uids| uids.alias(&said, shared.clock.now_s())).map(|it| (it, false))
        }
        Origin::Http(_) => shared.http_aliases.get(&said),
    };
    if let Some((alias, is_news)) = known
        && digest.is_none_or(|digest| !is_another_agent(shared, alias, incoming, digest))
    {
        return Some(known_by_alias(shared, origin, alias, digest, is_news));
    }
    let Some(digest) = digest else { return Some(Identity::plain(said)) };
    let alias = Alias { request: digest, ..Alias::of_duplicate(said, new_uid()) };
    let is_allowed = match origin {
        Origin::WebSocket(connection) => {
            connection.outbox.with_uids(|uids| uids.add_alias(alias, shared.clock.now_s()))
        }
        Origin::Http(_) => !shared.http_aliases.is_at_limit(said) && shared.minting.try_take(),
    };
    if !is_allowed {
        return None;
    }
    if matches!(origin, Origin::Http(_)) {
        shared.http_aliases.insert(alias, false);
    }
    let state = match rename(shared, origin, said, alias.new, digest) {
        true => RequestState::Renamed,
        false => RequestState::New,
    };
    let request = Some(Request { digest, state });
    Some(Identity { uid: alias.new, echo: Echo { uid: said, new_uid: None }, request })
}

/// An agent that speaks by a uid in place of which it was given another.
fn known_by_alias(shared: &Shared, origin: Origin<'_>, alias: Alias, digest: Option<u64>, is_news: bool) -> Identity {
    let patience_s = u32::try_from(shared.config.uid_patience.as_secs()).unwrap_or(u32::MAX);
    if digest.is_none() && alias.is_ignored(shared.clock.now_s(), patience_s) && give_back(shared, origin, alias) {
        return Identity::plain(alias.old);
    }
    if let Some(digest) = digest {
        let asked_again = |alias: &mut Alias| alias.request = digest;
        match origin {
            Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.change(alias, asked_again)),
            Origin::Http(_) => shared.http_aliases.change(alias, asked_again),
        }
    }
    let echo = Echo { uid: alias.old, new_uid: is_news.then_some(alias.new) };
    let request = digest.map(|digest| Request { digest, state: RequestState::Known });
    Identity { uid: alias.new, echo, request }
}

/// The agent that came with `old` has been told its new uid.
pub fn told(shared: &Shared, link: &Link, old: &InstanceUid) {
    let now_s = shared.clock.now_s();
    match link {
        Link::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.told(old, now_s)),
        Link::Http => shared.http_aliases.told(old, now_s),
        Link::Gone { .. } => {}
    }
}

/// The uids that an agent has had on its connection.
pub fn former_uids(shared: &Shared, link: &Link, uid: &InstanceUid) -> Vec<InstanceUid> {
    match link {
        Link::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.former(uid)),
        Link::Http => shared.http_aliases.former(uid),
        Link::Gone { .. } => Vec::new(),
    }
}

/// Has an agent that ignores its new uid go on under the one that it has. Returns false if another has that by now.
fn give_back(shared: &Shared, origin: Origin<'_>, alias: Alias) -> bool {
    if shared.registry.lock(&alias.old).entries.contains_key(&alias.old) {
        return false;
    }
    tracing::debug!(agent = %alias.old, uid = %alias.new, "an agent ignores the uid that it asked for");
    match origin {
        Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.remove_alias(&alias)),
        Origin::Http(_) => shared.http_aliases.remove(&alias.old),
    }
    rename(shared, origin, alias.new, alias.old, 0);
    true
}

/// Has the agent go on under another uid, with all that is known of it here, if it is one of this connection.
fn rename(shared: &Shared, origin: Origin<'_>, from: InstanceUid, to: InstanceUid, digest: u64) -> bool {
    let mut agents = shared.registry.lock(&from);
    if agents.entries.get(&from).is_none_or(|entry| !origin.is(&entry.link)) {
        return false;
    }
    let Some(mut entry) = shared.registry.remove(&mut agents, &from) else { return false };
    drop(agents);
    if let Some(rare) = &mut entry.rare {
        rare.tells_uid_to = None;
        duplicates::probes_answered(shared, rare);
        // It may have the uid that is left, once it comes again.
        if let Some(contender) = rare.contender.take()
            && let Link::WebSocket(connection) = &contender.link
        {
            connection.abandon("uid_contended");
        }
    }
    entry.renamed(from, to, digest);
    match origin {
        Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| {
            uids.remove(&from);
            uids.insert(to);
        }),
        Origin::Http(_) => shared.certificates.rename(&from, to),
    }
    duplicates::put(shared, to, entry);
    true
}

/// Whether a request for a uid comes from another agent than the one that was given `alias`, though with the same temporary
/// uid: it does not go on where that one was, and does not repeat its request either.
fn is_another_agent(shared: &Shared, alias: Alias, incoming: &Incoming, request: u64) -> bool {
    let agents = shared.registry.lock(&alias.new);
    let known = agents.entries.get(&alias.new);
    request != alias.request && known.is_some_and(|entry| incoming.sequence_num <= entry.sequence_num)
}
