//! Sweeps: what a lost message left undone is found and done.
//!
//! The frequent one repeats offers that were not answered. The slow one computes every agent's desired state again, a
//! slice of the shards at a time, and closes whatever race is left; a shard that comes from another replica has its turn at
//! once.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    census::{Census, Censuses},
    fanout::Stopped,
    metrics,
    reconcile::pages,
    shared::{Outage, Owned, Shared, isolated},
    waiting::Waiting,
};
use crate::{model::uid::Shard, store::AgentFilter};

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("sweeping");
    let (interval, full_interval) = (shared.config.sweep_interval, shared.config.full_sweep_interval);
    let slices = u32::try_from(full_interval.as_millis() / interval.as_millis().max(1)).unwrap_or(u32::MAX).max(1);
    let (mut known, mut censuses) = (BTreeSet::new(), Censuses::default());
    let mut next = Instant::now() + interval;
    for tick in (0..u32::MAX).cycle() {
        if stop.run_until_cancelled(sleep_until(next)).await.is_none() {
            return;
        }
        next = Instant::now() + interval;
        let owned = shared.owned();
        let in_turn = |shard: &&Shard| u32::from(**shard) % slices == tick % slices || !known.contains(*shard);
        let full: BTreeSet<Shard> = owned.iter().filter(in_turn).copied().collect();
        let swept = stop.run_until_cancelled(Box::pin(sweep(&shared, &owned, &full, &mut censuses, next)));
        if let Some(Some(result)) = isolated("sweeping", swept).await
            && outage.note(result).is_some()
        {
            known = (*owned).clone();
        }
    }
}

/// Shards of `full` are swept whole, the other `owned` ones for offers without an answer. Then offers that have to wait for
/// their pace are made, until the next sweep, which finds those that are left.
async fn sweep(
    shared: &Shared,
    owned: &Owned,
    full: &BTreeSet<Shard>,
    censuses: &mut Censuses,
    next: Instant,
) -> Result<(), Stopped> {
    let Some(snapshot) = shared.policies.loaded() else {
        return Ok(());
    };
    let (started, mut behind) = (Instant::now(), 0);
    let mut waiting = Waiting::default();
    for &shard in &**owned {
        let everything = AgentFilter { shard: Some(shard), ..AgentFilter::default() };
        let filter = match full.contains(&shard) {
            true => everything,
            false => AgentFilter { connected: Some(true), only_behind: true, ..everything },
        };
        let mut census = Census::default();
        let is_complete = match pages(shared, &snapshot, filter, "sweep", &mut waiting, &mut census).await {
            // Reconciliation has just been woken to do the same and more.
            Err(Stopped::NewerPolicies) => return Ok(()),
            result => result?,
        };
        behind += census.behind;
        if is_complete && full.contains(&shard) {
            censuses.take(shard, census);
        }
    }
    censuses.tell(owned);
    ::metrics::histogram!(metrics::SWEEP_SECONDS).record(started.elapsed().as_secs_f64());
    ::metrics::gauge!(metrics::AGENTS_BEHIND).set(behind as f64);
    match Box::pin(waiting.release(shared, &snapshot, "sweep", sleep_until(next))).await {
        Ok(_) | Err(Stopped::NewerPolicies) => Ok(()),
        Err(stopped) => Err(stopped),
    }
}
