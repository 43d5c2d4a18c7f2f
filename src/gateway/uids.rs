//! The agents of one connection.

use std::collections::HashSet;

use crate::model::InstanceUid;

/// The agents of one connection: one as a rule, many behind a forwarding gateway. With the uids that agents of this
/// connection were given in place of the ones they came with.
#[derive(Debug)]
pub struct Uids {
    /// [`InstanceUid::PLACEHOLDER`] if there is none: an option of it would take eight bytes more.
    first: InstanceUid,
    more: Option<Box<More>>,
}

impl Default for Uids {
    fn default() -> Self {
        Self { first: InstanceUid::PLACEHOLDER, more: None }
    }
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
    /// When it was told that, having asked; by the gateway's clock, and 0 if it was not yet.
    pub told_s: u32,
}

impl Alias {
    /// Given to an agent whose own uid is another's.
    pub fn of_duplicate(old: InstanceUid, new: InstanceUid) -> Self {
        Self { old, new, request: 0, told_s: 0 }
    }

    /// Whether the agent asked for the uid, has heard of it for so long, and still speaks under its own.
    pub fn is_ignored(&self, now_s: u32, patience_s: u32) -> bool {
        self.request != 0 && self.told_s != 0 && now_s.saturating_sub(self.told_s) >= patience_s
    }
}

/// A connection's agents are given new uids this often at most; a client that always asks for one would have no end.
const MAX_ALIASES: usize = 64;

impl Uids {
    pub fn insert(&mut self, uid: InstanceUid) {
        if self.first().is_none() {
            self.first = uid;
        } else if self.first != uid {
            self.more.get_or_insert_default().uids.insert(uid);
        }
    }

    pub fn remove(&mut self, uid: &InstanceUid) {
        if let Some(more) = &mut self.more {
            more.uids.remove(uid);
        }
        if self.first == *uid {
            self.first = InstanceUid::PLACEHOLDER;
        }
    }

    fn first(&self) -> Option<&InstanceUid> {
        Some(&self.first).filter(|first| **first != InstanceUid::PLACEHOLDER)
    }

    fn all(&self) -> impl Iterator<Item = &InstanceUid> {
        self.first().into_iter().chain(self.more.iter().flat_map(|more| &more.uids))
    }

    pub fn to_vec(&self) -> Vec<InstanceUid> {
        self.all().copied().collect()
    }

    pub fn len(&self) -> usize {
        usize::from(self.first().is_some()) + self.more.as_ref().map_or(0, |more| more.uids.len())
    }

    /// The only agent here.
    pub fn only(&self) -> Option<InstanceUid> {
        let mut uids = self.all();
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

    /// Changes what is known of `alias`.
    pub fn change(&mut self, alias: Alias, change: impl FnOnce(&mut Alias)) {
        let aliases = self.more.iter_mut().flat_map(|more| more.aliases.iter_mut().rev());
        if let Some(known) = { aliases }.find(|known| (known.old, known.new) == (alias.old, alias.new)) {
            change(known);
        }
    }

    /// Notes that the agent that came with `old` has been told the uid that it asked for.
    pub fn told(&mut self, old: &InstanceUid, now_s: u32) {
        let found = self.more.as_mut().and_then(|more| more.aliases.iter_mut().rev().find(|known| known.old == *old));
        if let Some(known) = found {
            known.told_s = now_s;
        }
    }

    /// What was given as `new` is `instead` now.
    pub fn replace_alias(&mut self, new: &InstanceUid, instead: InstanceUid) {
        let aliases = self.more.iter_mut().flat_map(|more| &mut more.aliases);
        aliases.filter(|known| known.new == *new).for_each(|known| known.new = instead);
    }

    pub fn remove_alias(&mut self, alias: &Alias) {
        if let Some(more) = &mut self.more {
            more.aliases.retain(|known| (known.old, known.new) != (alias.old, alias.new));
        }
    }

    /// The uids that the agent which is known by `uid` has had here.
    pub fn former(&self, uid: &InstanceUid) -> Vec<InstanceUid> {
        let aliases = self.more.iter().flat_map(|more| &more.aliases);
        aliases.filter(|known| known.new == *uid).map(|known| known.old).collect()
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
