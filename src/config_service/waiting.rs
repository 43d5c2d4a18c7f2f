//! Offers that wait for their pace. Whoever finds them due first does all that need not wait, and then lets these go, each
//! pace on its own, so that a slow one keeps nobody else from anything.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
};

use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    fanout::{Stopped, check, check_newest, decide, write},
    pace::Pacer,
    policies::{Pace, Snapshot},
    shared::Shared,
};
use crate::{
    model::{
        InstanceUid,
        uid::{SHARD_COUNT, Shard},
    },
    store::MAX_BATCH,
};

/// Agents that wait at a time, in one task: 16 MB. Beyond, they are left to be found again.
const MAX_WAITING: usize = 1_000_000;
/// A replica without a shard has agents to look at for a moment only; it goes at the pace of one with one.
const LEAST_SHARE: f64 = 1.0 / SHARD_COUNT as f64;

/// What limits an offer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The policy's; empty for offers that have no limit but the service's.
    name: String,
    /// Offers a second over all replicas, not 0.
    per_second: u32,
}

impl Lane {
    /// Of an offer with this pace; `None` if it need not wait.
    pub fn of(pace: Option<&Pace>, config: &Config) -> Option<Self> {
        match pace {
            Some(pace) => Some(Self { name: pace.policy.to_string(), per_second: pace.per_second }),
            None if config.offers_per_second > 0 => {
                Some(Self { name: String::new(), per_second: config.offers_per_second })
            }
            None => None,
        }
    }

    /// Takes the time of one offer, if that need not wait.
    pub fn may_go_now(&self, shared: &Shared) -> bool {
        shared.fanout.pacer.try_reserve(&self.name, self.rate(shared), 1, Instant::now()).is_ok()
    }

    /// All replicas together keep the rate, each by its share of the shards.
    fn rate(&self, shared: &Shared) -> f64 {
        f64::from(self.per_second) * shared.share().max(LEAST_SHARE)
    }
}

/// Agents that wait for an offer, by what limits it.
#[derive(Default)]
pub struct Waiting {
    lanes: HashMap<Lane, VecDeque<InstanceUid>>,
    count: usize,
    /// There was no room for some.
    is_incomplete: bool,
}

impl Waiting {
    pub fn add(&mut self, lane: Lane, uid: InstanceUid) {
        if self.count >= MAX_WAITING {
            self.is_incomplete = true;
            return;
        }
        self.count += 1;
        self.lanes.entry(lane).or_default().push_back(uid);
    }

    pub fn append(&mut self, other: Self) {
        self.is_incomplete |= other.is_incomplete;
        for (lane, uids) in other.lanes {
            uids.into_iter().for_each(|uid| self.add(lane.clone(), uid));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && !self.is_incomplete
    }

    pub fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Those that wait.
    pub fn uids(&self) -> impl Iterator<Item = InstanceUid> {
        self.lanes.values().flatten().copied()
    }

    /// Lets them go, at their paces, until there is something else to do; returns whether all are gone. What has been begun then is
    /// done to its end: offers that are noted as made are made.
    pub async fn release(
        &mut self,
        shared: &Shared,
        snapshot: &Snapshot,
        cause: &'static str,
        until: impl Future<Output = ()>,
    ) -> Result<bool, Stopped> {
        let enough = CancellationToken::new();
        let lanes =
            self.lanes.iter_mut().map(|(lane, uids)| Box::pin(release(shared, snapshot, lane, uids, cause, &enough)));
        let mut all = pin!(try_join_all(lanes));
        let mut until = pin!(until);
        let released = tokio::select! {
            released = &mut all => released?,
            () = &mut until => {
                enough.cancel();
                all.await?
            }
        };
        Ok(released.into_iter().all(|is_empty| is_empty))
    }
}

async fn release(
    shared: &Shared,
    snapshot: &Snapshot,
    lane: &Lane,
    uids: &mut VecDeque<InstanceUid>,
    cause: &'static str,
    enough: &CancellationToken,
) -> Result<bool, Stopped> {
    while !uids.is_empty() {
        let rate = lane.rate(shared);
        let size = uids.len().min(Pacer::chunk(rate)).min(MAX_BATCH);
        let owned = shared.owned();
        let is_ours = |uid: &InstanceUid| owned.contains::<Shard>(&uid.shard()) || cause == "agents";
        let chunk: Vec<InstanceUid> = uids.iter().take(size).filter(|uid| is_ours(uid)).copied().collect();
        // Another task may have offered to them meanwhile: what is no longer due takes no time.
        let changes = decide(shared.store.read_agents(&chunk).await?, snapshot);
        let due = changes.iter().filter(|change| !change.offers.is_empty()).count();
        while due > 0
            && let Err(free_at) = shared.fanout.pacer.try_reserve(&lane.name, rate, due, Instant::now())
        {
            if enough.run_until_cancelled(sleep_until(free_at)).await.is_none() {
                return Ok(false);
            }
        }
        match due {
            0 => check(shared, snapshot)?,
            _ => check_newest(shared, snapshot).await?,
        }
        let conflicts = write(shared, snapshot, changes, cause).await?;
        uids.drain(..size);
        uids.extend(conflicts);
        if enough.is_cancelled() {
            return Ok(uids.is_empty());
        }
    }
    Ok(true)
}
