//! All agents of this gateway, by uid.
//!
//! Lock order: one shard of agents, then a connection's outbox or the body cache. Never two shards.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};

use super::{agents::Entry, connection::Connection, pace, polls::Polls};
use crate::model::{
    InstanceUid,
    uid::{SHARD_COUNT, Shard},
};

#[derive(Debug, Default)]
pub struct Agents {
    /// In boxes of their own: on average a third of a hash table is empty, and that is to be cheap.
    pub entries: HashMap<InstanceUid, Box<Entry>>,
    /// Those with [`Entry::rare`]: what the sweeper looks at.
    pub active: HashSet<InstanceUid>,
    pub polls: Polls,
}

#[derive(Debug)]
pub struct Registry {
    /// By the shards of the uid space, which are also the bus's.
    shards: Box<[Mutex<Agents>]>,
    count: AtomicUsize,
    last_generation: AtomicU64,
}

impl Registry {
    pub fn new() -> Self {
        let shards = (0..SHARD_COUNT).map(|_| Mutex::default()).collect();
        Self { shards, count: AtomicUsize::new(0), last_generation: AtomicU64::new(0) }
    }

    pub fn lock(&self, uid: &InstanceUid) -> MutexGuard<'_, Agents> {
        self.lock_shard(uid.shard())
    }

    pub fn lock_shard(&self, shard: Shard) -> MutexGuard<'_, Agents> {
        self.shards[usize::from(shard)].lock()
    }

    /// How many agents are known.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Adds an agent. Returns the entry that was there under its uid, if one was.
    pub fn insert(&self, agents: &mut Agents, uid: InstanceUid, entry: Box<Entry>) -> Option<Box<Entry>> {
        let replaced = agents.entries.insert(uid, entry);
        if replaced.is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        replaced
    }

    pub fn remove(&self, agents: &mut Agents, uid: &InstanceUid) -> Option<Box<Entry>> {
        agents.active.remove(uid);
        let entry = agents.entries.remove(uid)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        if agents.entries.len() < agents.entries.capacity() / 4 {
            agents.entries.shrink_to_fit();
        }
        Some(entry)
    }

    /// Keeps [`Agents::active`] true after a change of the agent's entry.
    pub fn set_active(&self, agents: &mut Agents, uid: &InstanceUid) {
        if agents.entries.get(uid).is_some_and(|entry| entry.rare.is_some()) {
            agents.active.insert(*uid);
        } else {
            agents.active.remove(uid);
        }
    }

    /// A number for a new connection of an agent: larger than any that this gateway gave before and than `known`, and
    /// in the order of time among gateways.
    pub fn mint_generation(&self, known: u64) -> u64 {
        let now = pace::unix_us().max(known.saturating_add(1));
        let last = self
            .last_generation
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last.saturating_add(1))));
        let last = last.unwrap_or_else(|unchanged| unchanged);
        now.max(last.saturating_add(1))
    }
}

impl Agents {
    /// Keeps of those with something unfinished the ones that `still` have it, and gives back the memory of a burst.
    pub fn retain_active(&mut self, mut still: impl FnMut(&InstanceUid, &mut Entry) -> bool) {
        let Self { entries, active, .. } = self;
        active.retain(|uid| entries.get_mut(uid).is_some_and(|entry| still(uid, entry)));
        if active.len() < active.capacity() / 4 {
            active.shrink_to_fit();
        }
    }
}

/// All WebSockets, for the sweeper to walk.
#[derive(Debug, Default)]
pub struct Connections {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Option<Arc<Connection>>>,
    free: Vec<u32>,
}

impl Connections {
    pub fn insert(&self, connection: Arc<Connection>) {
        let mut slots = self.slots.lock();
        let slot = match slots.free.pop() {
            Some(slot) => slot,
            None => {
                slots.slots.push(None);
                slots.slots.len() as u32 - 1
            }
        };
        connection.slot.store(slot, Ordering::Relaxed);
        slots.slots[slot as usize] = Some(connection);
    }

    pub fn remove(&self, connection: &Arc<Connection>) {
        let slot = connection.slot.load(Ordering::Relaxed);
        let mut slots = self.slots.lock();
        if let Some(found) = slots
            .slots
            .get_mut(slot as usize)
            .filter(|found| found.as_ref().is_some_and(|found| Arc::ptr_eq(found, connection)))
        {
            *found = None;
            slots.free.push(slot);
        }
    }

    /// Those in `count` slots from `start`, and where to go on; 0 at the end.
    pub fn slice(&self, start: usize, count: usize) -> (Vec<Arc<Connection>>, usize) {
        let slots = self.slots.lock();
        let end = (start + count).min(slots.slots.len());
        let found = slots.slots.get(start..end).unwrap_or_default().iter().flatten().cloned().collect();
        (found, if end >= slots.slots.len() { 0 } else { end })
    }

    pub fn len(&self) -> usize {
        let slots = self.slots.lock();
        slots.slots.len() - slots.free.len()
    }

    pub fn slots(&self) -> usize {
        self.slots.lock().slots.len()
    }
}

/// Counts open TCP connections, each for as long as its ticket lives.
#[derive(Debug, Default, Clone)]
pub struct Open(Arc<AtomicU32>);

#[derive(Debug)]
pub struct Ticket(Arc<AtomicU32>);

impl Open {
    pub fn enter(&self) -> Ticket {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ticket(self.0.clone())
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed) as usize
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
