//! The agents of one connection.

use std::collections::HashSet;

use crate::model::InstanceUid;

/// The agents of one connection: one as a rule, many behind a forwarding gateway. With the uids that agents of this
/// connection were given in place of the ones they came with.
#[derive(Debug, Default)]
pub struct Uids {
    first: Option<InstanceUid>,
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    uids: HashSet<InstanceUid>,
    aliases: Vec<Alias>,
}

/// A uid that an agent came with, and the one that it was given instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    pub old: InstanceUid,
    pub new: InstanceUid,
    /// A digest of the message with which it last asked for one; 0 if it did not ask.
    pub request: u64,
}

/// A connection's agents are given new uids this often at most; a client that always asks for one would have no end.
const MAX_ALIASES: usize = 64;

impl Uids {
    pub fn insert(&mut self, uid: InstanceUid) {
        match self.first {
            None => self.first = Some(uid),
            Some(first) if first == uid => {}
            Some(_) => {
                self.more.get_or_insert_default().uids.insert(uid);
            }
        }
    }

    pub fn remove(&mut self, uid: &InstanceUid) {
        if let Some(more) = &mut self.more {
            more.uids.remove(uid);
        }
        if self.first.as_ref() == Some(uid) {
            self.first = None;
        }
    }

    pub fn to_vec(&self) -> Vec<InstanceUid> {
        self.first.iter().chain(self.more.iter().flat_map(|more| &more.uids)).copied().collect()
    }

    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.as_ref().map_or(0, |more| more.uids.len())
    }

    /// The only agent here.
    pub fn only(&self) -> Option<InstanceUid> {
        let mut uids = self.first.iter().chain(self.more.iter().flat_map(|more| &more.uids));
        uids.next().filter(|_| uids.next().is_none()).copied()
    }

    /// What the agent that came with `uid` was given last.
    pub fn alias(&self, uid: &InstanceUid) -> Option<Alias> {
        self.more.as_ref()?.aliases.iter().rev().find(|alias| alias.old == *uid).copied()
    }

    /// Whether the agent that came with `old` was given `new`, at once or after others.
    pub fn has_become(&self, old: InstanceUid, new: InstanceUid) -> bool {
        let mut reached = HashSet::from([old]);
        // In the order in which they were given.
        for alias in self.more.iter().flat_map(|more| &more.aliases) {
            if reached.contains(&alias.old) {
                reached.insert(alias.new);
            }
        }
        new != old && reached.contains(&new)
    }

    /// Notes that the agent of `alias` has asked again.
    pub fn asked_again(&mut self, alias: Alias, request: u64) {
        let found = self.more.as_mut().and_then(|more| more.aliases.iter_mut().rev().find(|known| **known == alias));
        if let Some(known) = found {
            known.request = request;
        }
    }

    /// Remembers that; false if there are too many.
    pub fn add_alias(&mut self, alias: Alias) -> bool {
        let aliases = &mut self.more.get_or_insert_default().aliases;
        if aliases.len() >= MAX_ALIASES {
            return false;
        }
        aliases.push(alias);
        true
    }
}
