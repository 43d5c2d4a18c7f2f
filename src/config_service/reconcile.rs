//! Bringing changes to the agents that they concern: of policies to whole shards, and of labels to single agents.
//!
//! Woken by hints and by timers; what is to be done is read from the store each time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    census::Census,
    fanout::{self, Stopped},
    metrics,
    policies::Snapshot,
    shared::{Outage, Shared, isolated},
    spans::Change,
    waiting::Waiting,
};
use crate::{
    model::{InstanceUid, uid::Shard},
    store::{AgentFilter, MAX_BATCH},
    trace,
};

/// Agents that wait to be looked at again; more are left to the full sweep.
const MAX_WAITING_AGENTS: usize = 100_000;
/// After a failure, the next attempt waits so long.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Longest that single agents wait for the pace of others' offers.
const SINGLE_AGENTS_LIMIT: Duration = Duration::from_secs(1);

/// What is waiting for the tasks of this module.
#[derive(Default)]
pub struct Requests {
    /// The store may have newer policies.
    check_policies: Notify,
    /// Newer policies have been read, or shards taken over.
    shards: Notify,
    agents: Mutex<HashSet<InstanceUid>>,
    agents_waiting: Notify,
    /// Why there is something to do, for those who read traces.
    pub policies_changed: Change,
    pub agents_changed: Change,
}

impl Requests {
    pub fn check_policies(&self) {
        self.check_policies.notify_one();
    }

    pub fn look_at_shards(&self) {
        self.shards.notify_one();
    }

    pub fn look_at(&self, uid: InstanceUid) {
        let mut agents = self.agents.lock();
        if agents.len() < MAX_WAITING_AGENTS {
            agents.insert(uid);
        }
        self.agents_waiting.notify_one();
    }

    fn take_agents(&self) -> Vec<InstanceUid> {
        let mut agents = self.agents.lock();
        let taken: Vec<InstanceUid> = agents.iter().take(MAX_BATCH).copied().collect();
        for uid in &taken {
            agents.remove(uid);
        }
        taken
    }
}

/// Keeps the policies in memory as new as the store's.
pub async fn watch_policies(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("reading policies");
    let mut epoch = None;
    while !stop.is_cancelled() {
        let span = shared.reconcile.policies_changed.span("read policies", u64::MAX);
        let read = isolated("reading policies", span.run(shared.policies.refresh())).await;
        drop(span);
        if let Some(snapshot) = read.and_then(|result| outage.note(result)) {
            shared.note_readiness();
            if epoch.replace(snapshot.epoch()) != Some(snapshot.epoch()) {
                ::metrics::gauge!(metrics::POLICY_EPOCH).set(snapshot.epoch() as f64);
                shared.reconcile.look_at_shards();
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = shared.reconcile.check_policies.notified() => {}
            () = tokio::time::sleep(shared.config.policy_poll_interval) => {}
        }
    }
}

/// Brings each owned shard that lags behind the policies up to them.
pub async fn follow_policies(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("bringing policies to agents");
    while !stop.is_cancelled() {
        let epoch = shared.policies.loaded().map_or(0, |snapshot| snapshot.epoch());
        let span = shared.reconcile.policies_changed.span("bring policies to agents", epoch);
        span.set("muster.policies.epoch", || epoch as i64);
        let work = stop.run_until_cancelled(Box::pin(span.run(lagging_shards(&shared))));
        let pass = isolated("bringing policies to agents", work).await;
        match &pass {
            Some(Some(Ok(()))) => shared.reconcile.policies_changed.done(epoch),
            Some(Some(Err(stopped))) => span.failed(|| stopped.to_string()),
            _ => {}
        }
        drop(span);
        let wait = match pass.flatten() {
            Some(Err(Stopped::NewerPolicies | Stopped::Interrupted)) => Duration::ZERO,
            Some(result) => outage.note(result).map_or(FAILURE_PAUSE, |()| shared.config.policy_poll_interval),
            None => FAILURE_PAUSE,
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = shared.reconcile.shards.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn lagging_shards(shared: &Shared) -> Result<(), Stopped> {
    let Some(snapshot) = shared.policies.loaded() else {
        return Ok(());
    };
    let progress = shared.store.shard_progress().await?;
    let is_done = |shard: &Shard| progress.iter().any(|(done, epoch)| done == shard && *epoch >= snapshot.epoch());
    let lagging: Vec<Shard> = shared.owned().iter().filter(|shard| !is_done(shard)).copied().collect();
    let mut shards = stream::iter(lagging)
        .map(|shard| Box::pin(lagging_shard(shared, &snapshot, shard)))
        .buffer_unordered(shared.config.reconcile_shards);
    let (mut outcome, mut slow, mut waiting) = (Ok(()), Vec::new(), Waiting::default());
    while let Some(result) = shards.next().await {
        match result {
            Err(Stopped::NewerPolicies) => return Err(Stopped::NewerPolicies),
            Ok(None) => {}
            Ok(Some((shard, offers))) => {
                slow.push(shard);
                waiting.append(offers);
            }
            // The other shards may fare better.
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    drop(shards);
    outcome?;
    // Until there is more to be done, which need not wait.
    let until = shared.reconcile.shards.notified();
    let are_released = Box::pin(waiting.release(shared, &snapshot, "policies", until)).await?;
    if !are_released || waiting.is_incomplete() {
        return Err(Stopped::Interrupted);
    }
    let owned = shared.owned();
    for shard in slow.into_iter().filter(|shard| owned.contains(shard)) {
        shared.store.set_shard_progress(shard, snapshot.epoch()).await?;
    }
    Ok(())
}

/// Does what can be done at once; returns the offers that have to wait, if there are any.
async fn lagging_shard(
    shared: &Shared,
    snapshot: &Snapshot,
    shard: Shard,
) -> Result<Option<(Shard, Waiting)>, Stopped> {
    let started = Instant::now();
    let filter = AgentFilter { shard: Some(shard), ..AgentFilter::default() };
    let mut waiting = Waiting::default();
    let span = trace::child("bring policies to shard", trace::Kind::Internal).with("muster.shard", || i64::from(shard));
    let mut census = Census::default();
    let pages = pages(shared, snapshot, filter, "policies", &mut waiting, &mut census);
    let is_complete = span.run(pages).await?;
    ::metrics::histogram!(metrics::RECONCILE_SECONDS).record(started.elapsed().as_secs_f64());
    if !is_complete {
        return Ok(None);
    }
    if !waiting.is_empty() {
        return Ok(Some((shard, waiting)));
    }
    shared.store.set_shard_progress(shard, snapshot.epoch()).await?;
    tracing::debug!(shard, epoch = snapshot.epoch(), "shard is up to date");
    Ok(None)
}

/// Settles all agents of `filter`'s shard, page by page, but for the offers that are left to `waiting`; `census` is of them as they
/// were before. Returns whether all were seen: the shard may go to another replica.
pub async fn pages(
    shared: &Shared,
    snapshot: &Snapshot,
    filter: AgentFilter,
    cause: &'static str,
    waiting: &mut Waiting,
    census: &mut Census,
) -> Result<bool, Stopped> {
    let mut after = None;
    while filter.shard.is_none_or(|shard| shared.owned().contains(&shard)) {
        let page = shared.store.page_agents(filter, after, shared.config.page_size).await?;
        let is_last = page.len() < shared.config.page_size as usize;
        let last = page.last().map(|record| record.uid);
        page.iter().for_each(|record| census.count(record));
        fanout::settle(shared, snapshot, page, cause, waiting).await?;
        if is_last {
            return Ok(true);
        }
        after = last;
    }
    Ok(false)
}

/// Looks again at single agents: those whose labels changed, or that were decided by policies that are no longer the
/// newest.
pub async fn look_again(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("looking at agents again");
    while !stop.is_cancelled() {
        let uids = shared.reconcile.take_agents();
        if uids.is_empty() {
            stop.run_until_cancelled(shared.reconcile.agents_waiting.notified()).await;
            continue;
        }
        let span = shared.reconcile.agents_changed.span("look at agents again", 0);
        span.set("muster.agents", || uids.len() as i64);
        let looked = isolated("looking at agents again", span.run(look(&shared, &uids))).await;
        shared.reconcile.agents_changed.done(0);
        drop(span);
        if looked.is_some_and(|result| outage.note(result).is_none()) {
            uids.into_iter().for_each(|uid| shared.reconcile.look_at(uid));
            stop.run_until_cancelled(tokio::time::sleep(FAILURE_PAUSE)).await;
        }
    }
}

async fn look(shared: &Shared, uids: &[InstanceUid]) -> Result<(), Stopped> {
    let records = shared.store.read_agents(uids).await?;
    let epoch = records.iter().map(|record| record.desired.epoch).max().unwrap_or(0);
    let snapshot = shared.policies.get(epoch).await?;
    let mut waiting = Waiting::default();
    let settled = async {
        fanout::settle(shared, &snapshot, records, "agents", &mut waiting).await?;
        // What then waits still goes back to the others, that they have their turn too.
        let limit = tokio::time::sleep(SINGLE_AGENTS_LIMIT);
        waiting.release(shared, &snapshot, "agents", limit).await.map(drop)
    };
    match Box::pin(settled).await {
        // The newest are in memory, and are taken at once.
        Err(Stopped::NewerPolicies) => uids.iter().for_each(|uid| shared.reconcile.look_at(*uid)),
        result => result?,
    }
    waiting.uids().for_each(|uid| shared.reconcile.look_at(uid));
    Ok(())
}
