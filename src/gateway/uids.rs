//! The agents of one connection.

use std::collections::{HashMap, HashSet};

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
    /// By the uid that the agent came with. Of several who came with one, in the order in which they did.
    aliases: HashMap<InstanceUid, Vec<Alias>>,
    /// Each uid that was given, and the one in place of which.
    given: HashMap<InstanceUid, InstanceUid>,
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
    /// Since when the agent speaks by the new one alone; 0 if it does not.
    pub used_s: u32,
}

impl Alias {
    /// Given to an agent whose own uid is another's.
    pub fn of_duplicate(old: InstanceUid, new: InstanceUid) -> Self {
        Self { old, new, request: 0, told_s: 0, used_s: 0 }
    }

    /// Whether the agent asked for the uid, has heard of it for so long, and still speaks under its own.
    pub fn is_ignored(&self, now_s: u32, patience_s: u32) -> bool {
        self.request != 0 && self.told_s != 0 && now_s.saturating_sub(self.told_s) >= patience_s
    }

    /// Whether the agent has spoken by the new uid alone for long: it will not come back to its own.
    fn is_done(&self, now_s: u32) -> bool {
        self.used_s != 0 && now_s.saturating_sub(self.used_s) >= USED_FOR_S
    }
}

/// One agent is given so many uids on a connection, one after the other: a client that always asks for one would have no end.
pub const MAX_CHAIN: usize = 64;
/// A connection's agents together are given so many, and so many more for each of them.
const FEW_ALIASES: usize = 64;
const ALIASES_PER_AGENT: usize = 2;
/// An agent that has used its new uid for so long, and not the one before, needs no more that that is remembered.
const USED_FOR_S: u32 = 900;

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

    /// What the agent that speaks by `uid` was given last in place of that, taking note of when it spoke.
    pub fn alias(&mut self, uid: &InstanceUid, now_s: u32) -> Option<Alias> {
        let more = self.more.as_mut()?;
        if let Some(alias) = more.aliases.get_mut(uid).and_then(|aliases| aliases.last_mut()) {
            alias.used_s = 0;
            return Some(*alias);
        }
        let given = more.given.get(uid).and_then(|old| more.aliases.get_mut(old)?.iter_mut().find(|it| it.new == *uid));
        if let Some(alias) = given.filter(|alias| alias.used_s == 0) {
            alias.used_s = now_s;
        }
        None
    }

    fn aliases(&self) -> impl Iterator<Item = &Alias> {
        self.more.iter().flat_map(|more| more.aliases.values()).flatten()
    }

    /// Whether the agent that came with `old` was given `new`, at once or after others.
    pub fn has_become(&self, old: InstanceUid, new: InstanceUid) -> bool {
        let Some(more) = &self.more else { return false };
        let (mut reached, mut next) = (HashSet::from([old]), vec![old]);
        while let Some(uid) = next.pop() {
            let given = more.aliases.get(&uid).into_iter().flatten().map(|alias| alias.new);
            next.extend(given.filter(|given| reached.insert(*given)));
        }
        new != old && reached.contains(&new)
    }

    /// Changes what is known of `alias`.
    pub fn change(&mut self, alias: Alias, change: impl FnOnce(&mut Alias)) {
        let aliases = self.more.as_mut().and_then(|more| more.aliases.get_mut(&alias.old));
        if let Some(known) = aliases.and_then(|aliases| aliases.iter_mut().find(|known| known.new == alias.new)) {
            change(known);
        }
    }

    /// Notes that the agent that came with `old` has been told the uid that it asked for.
    pub fn told(&mut self, old: &InstanceUid, now_s: u32) {
        let aliases = self.more.as_mut().and_then(|more| more.aliases.get_mut(old));
        if let Some(known) = aliases.and_then(|aliases| aliases.last_mut()) {
            known.told_s = now_s;
        }
    }

    /// What was given as `new` is `instead` now.
    pub fn replace_alias(&mut self, new: &InstanceUid, instead: InstanceUid) {
        let Some(more) = &mut self.more else { return };
        let aliases = more.aliases.values_mut().flatten();
        for known in aliases.filter(|known| known.new == *new) {
            known.new = instead;
            more.given.remove(new);
            more.given.insert(instead, known.old);
        }
    }

    pub fn remove_alias(&mut self, alias: &Alias) {
        if let Some(more) = &mut self.more {
            more.retain(|known| (known.old, known.new) != (alias.old, alias.new));
        }
    }

    /// The uids that the agent which is known by `uid` has had here.
    pub fn former(&self, uid: &InstanceUid) -> Vec<InstanceUid> {
        self.aliases().filter(|known| known.new == *uid).map(|known| known.old).collect()
    }

    /// Remembers that; false if there are too many, of this agent or of the connection's agents together.
    pub fn add_alias(&mut self, alias: Alias, now_s: u32) -> bool {
        let most = FEW_ALIASES + ALIASES_PER_AGENT * self.len();
        let more = self.more.get_or_insert_default();
        let is_room = |more: &More| more.chain(&alias.old) < MAX_CHAIN && more.given.len() < most;
        if !is_room(more) {
            more.retain(|known| !known.is_done(now_s));
        }
        let is_room = is_room(more);
        if is_room {
            more.aliases.entry(alias.old).or_default().push(alias);
            more.given.insert(alias.new, alias.old);
        }
        is_room
    }
}

impl More {
    fn retain(&mut self, keep: impl Fn(&Alias) -> bool) {
        let given = &mut self.given;
        self.aliases.retain(|_, aliases| {
            aliases.retain(|alias| {
                let is_kept = keep(alias);
                if !is_kept {
                    given.remove(&alias.new);
                }
                is_kept
            });
            !aliases.is_empty()
        });
    }

    /// How many uids the agent that speaks by `uid` was given, one after the other.
    fn chain(&self, uid: &InstanceUid) -> usize {
        std::iter::successors(self.given.get(uid), |old| self.given.get(old)).take(MAX_CHAIN).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(n: u32) -> InstanceUid {
        InstanceUid::from_slice(&u128::from(n + 1).to_be_bytes()).unwrap()
    }

    fn alias(old: u32, new: u32) -> Alias {
        Alias { request: 1, ..Alias::of_duplicate(uid(old), uid(new)) }
    }

    #[test]
    fn every_agent_of_a_connection_can_be_given_a_uid() {
        let mut uids = Uids::default();
        for n in 0..1_000 {
            uids.insert(uid(n));
            assert!(uids.add_alias(alias(n, n + 10_000), 1), "{n}");
        }
        assert_eq!(uids.former(&uid(10_007)), [uid(7)]);
        assert_eq!(uids.alias(&uid(999), 1), Some(alias(999, 10_999)));
    }

    #[test]
    fn one_that_asks_again_and_again_is_given_so_many_and_no_more_until_it_has_used_them() {
        let mut uids = Uids::default();
        uids.insert(uid(0));
        let mut now_s = 1;
        for n in 0..MAX_CHAIN as u32 {
            assert!(uids.add_alias(alias(n, n + 1), now_s));
        }
        let last = MAX_CHAIN as u32;
        assert!(uids.has_become(uid(0), uid(last)) && !uids.has_become(uid(1), uid(0)));
        assert!(!uids.add_alias(alias(last, last + 1), now_s));
        // Another agent of the connection is not concerned.
        uids.insert(uid(5_000));
        assert!(uids.add_alias(alias(5_000, 5_001), now_s));
        // It has used one of them for long, and none from before.
        assert_eq!(uids.alias(&uid(1), now_s), Some(alias(1, 2)), "it goes on with a former one");
        assert_eq!(uids.alias(&uid(last), now_s), None);
        now_s += USED_FOR_S;
        assert!(uids.add_alias(alias(last, last + 1), now_s));
        assert!(!uids.has_become(uid(last - 1), uid(last)), "that is forgotten");
        assert!(uids.has_become(uid(0), uid(2)), "those are not");
    }

    #[test]
    fn a_connection_whose_agents_come_and_go_is_bounded() {
        let mut uids = Uids::default();
        let given = (0..1_000).filter(|n| uids.add_alias(alias(*n, n + 10_000), 1)).count();
        assert_eq!(given, FEW_ALIASES);
    }
}
