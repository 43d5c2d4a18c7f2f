//! Under which uid an agent is known: the one it says, or another that it was given.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Shared, agents::Echo, exchange::Origin};
use crate::{model::InstanceUid, protocol::Incoming};

/// HTTP agents that were given a new uid and have not been seen to use it; beyond this the oldest is forgotten.
const MAX_HTTP_ALIASES: usize = 4_096;
/// An HTTP agent that speaks under its old uid after this long is asked afresh.
const HTTP_ALIAS_LIFETIME: Duration = Duration::from_secs(900);

/// New uids given over HTTP, by the old one. (Over WebSocket the connection knows them.)
#[derive(Debug, Default)]
pub struct HttpAliases(Mutex<HashMap<InstanceUid, HttpAlias>>);

#[derive(Clone, Copy, Debug)]
struct HttpAlias {
    uid: InstanceUid,
    since: Instant,
    /// The agent has not been told yet.
    is_news: bool,
}

impl HttpAliases {
    pub fn insert(&self, old: InstanceUid, uid: InstanceUid, is_news: bool) {
        let mut aliases = self.0.lock();
        aliases.retain(|_, alias| alias.since.elapsed() < HTTP_ALIAS_LIFETIME);
        if aliases.len() >= MAX_HTTP_ALIASES
            && let Some(oldest) = aliases.iter().min_by_key(|(_, alias)| alias.since).map(|(old, _)| *old)
        {
            aliases.remove(&oldest);
        }
        aliases.insert(old, HttpAlias { uid, since: Instant::now(), is_news });
    }

    fn get(&self, old: &InstanceUid) -> Option<HttpAlias> {
        let mut aliases = self.0.lock();
        let alias = aliases.get_mut(old).filter(|alias| alias.since.elapsed() < HTTP_ALIAS_LIFETIME)?;
        let found = *alias;
        alias.is_news = false;
        Some(found)
    }
}

/// A uid as the specification wants it for agents.
pub fn new_uid() -> InstanceUid {
    InstanceUid::from_uuid(uuid::Uuid::now_v7())
}

/// Under which uid the sender of a message is known, and to whom the reply goes. An error is a text for the agent.
pub fn identify(shared: &Shared, origin: Origin<'_>, incoming: &Incoming) -> Result<(InstanceUid, Echo), String> {
    let said = incoming.uid;
    let asks = incoming.requests_instance_uid();
    let alias = match origin {
        Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.alias(&said)).map(|uid| (uid, asks)),
        Origin::Http if asks => None,
        Origin::Http => shared.http_aliases.get(&said).map(|alias| (alias.uid, alias.is_news)),
    };
    if let Some((uid, is_news)) = alias {
        return Ok((uid, Echo { uid: said, new_uid: is_news.then_some(uid) }));
    }
    if !asks {
        return Ok((said, Echo { uid: said, new_uid: None }));
    }
    let uid = new_uid();
    let is_allowed = match origin {
        Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.add_alias(said, uid)),
        Origin::Http => shared.minting.try_take(),
    };
    if !is_allowed {
        return Err("too many requests for an instance_uid".to_owned());
    }
    Ok((uid, Echo { uid: said, new_uid: Some(uid) }))
}
