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
    aliases: Vec<(InstanceUid, InstanceUid)>,
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

    /// The uid that an agent was given instead of `uid`.
    pub fn alias(&self, uid: &InstanceUid) -> Option<InstanceUid> {
        let more = self.more.as_ref()?;
        more.aliases.iter().find(|(old, _)| old == uid).map(|(_, new)| *new)
    }

    /// Remembers that; false if there are too many.
    pub fn add_alias(&mut self, old: InstanceUid, new: InstanceUid) -> bool {
        let aliases = &mut self.more.get_or_insert_default().aliases;
        if aliases.len() >= MAX_ALIASES {
            return false;
        }
        aliases.push((old, new));
        true
    }
}
