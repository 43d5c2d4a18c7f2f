//! Short deadlines that few agents have at a time: held-back replies and probes. One task serves them all.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Shared, commands, duplicates, reply};
use crate::model::InstanceUid;

/// What is to be looked at when its time has come; mostly it has been settled by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A reply has been held back long enough.
    Reply { uid: InstanceUid, generation: u64 },
    /// A connection was asked whether it lives, because another one claims its uid; the generation is the contender's.
    Contender { uid: InstanceUid, generation: u64 },
    /// Likewise, for the config service.
    Probe { uid: InstanceUid, generation: u64 },
}

#[derive(Debug, Default)]
pub struct Timers {
    queue: Mutex<BinaryHeap<Reverse<(Instant, Timer)>>>,
    earlier: Notify,
}

impl Timers {
    pub fn add(&self, after: Duration, timer: Timer) {
        let at = Instant::now() + after;
        let mut queue = self.queue.lock();
        let is_first = queue.peek().is_none_or(|Reverse((first, _))| at < *first);
        queue.push(Reverse((at, timer)));
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// The next one whose time has come.
    async fn next(&self) -> Timer {
        loop {
            let first = {
                let mut queue = self.queue.lock();
                match queue.peek() {
                    Some(Reverse((at, timer))) if *at <= Instant::now() => {
                        let timer = *timer;
                        queue.pop();
                        if queue.len() < queue.capacity() / 4 {
                            queue.shrink_to_fit();
                        }
                        return timer;
                    }
                    Some(Reverse((at, _))) => Some(*at),
                    None => None,
                }
            };
            match first {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    () = self.earlier.notified() => {}
                },
                None => self.earlier.notified().await,
            }
        }
    }
}

/// Serves the timers, for ever.
pub async fn run(shared: Arc<Shared>) {
    loop {
        match shared.timers.next().await {
            Timer::Reply { uid, generation } => {
                let now_ms = shared.clock.now_ms();
                let mut agents = shared.registry.lock(&uid);
                if let Some(entry) = agents.entries.get_mut(&uid) {
                    if entry.generation == generation {
                        reply::answer_waiting(&shared, uid, entry, now_ms);
                        commands::deliver(&shared, entry, now_ms);
                    } else {
                        duplicates::answer_contender(&shared, entry, generation);
                    }
                }
            }
            Timer::Contender { uid, generation } => duplicates::contender_time_is_over(&shared, uid, generation),
            Timer::Probe { uid, generation } => duplicates::probe_time_is_over(&shared, uid, generation),
        }
    }
}
