//! Drives rollouts: sees what became of each step, and takes the next. One replica at a time does, by a lease.
//!
//! What is seen is read anew each time, and a next state is only written on top of the one that it was decided from. So a driver
//! that dies, or two that both believe to be the one, neither skip a step nor take it twice.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    decide, metrics,
    policies::Snapshot,
    shared::{Outage, Shared, isolated, unix_ms},
    spans::{self, Causes},
};
use crate::{
    model::{
        AgentRecord, Attributes, Selector,
        rollout::{Cohort, Counts, Rollout, Seen, Standing, State, advance, standing},
    },
    store::{self, Actor, AgentFilter, Lease, ROLLOUT_LEASE},
    trace::{self, Span},
};

/// While there are rollouts, they are looked at this often, and less often where that takes long.
const TICK: Duration = Duration::from_secs(1);
/// Of the time, at most one part in so many is spent on looking.
const SHARE: u32 = 5;
/// A driver that says nothing for so long is replaced.
const LEASE_MS: i64 = 10_000;
/// What was seen is stored when it differs, and else this often.
const NOTE_MS: i64 = 10_000;
/// Different words of agents that are kept, and how long they may be.
const MAX_ERRORS: usize = 10;
const MAX_ERROR_CHARS: usize = 300;

/// Wakes the task that drives rollouts.
#[derive(Default)]
pub struct Wake {
    notify: Notify,
    /// The last calls about policies, by their names.
    pub causes: Causes<String>,
}

impl Wake {
    pub fn wake(&self) {
        self.notify.notify_one();
    }
}

#[derive(Default)]
struct Driver {
    /// Of revisions, which never change.
    selectors: HashMap<(String, u64), Selector>,
}

/// A rollout that is looked at.
struct Watched {
    rollout: Rollout,
    cohort: Cohort,
    /// Of the new revision, and of the stable one if there is one.
    selectors: Vec<Selector>,
    seen: Seen,
}

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("driving rollouts");
    let mut driver = Driver::default();
    while !stop.is_cancelled() {
        let started = Instant::now();
        let look = stop.run_until_cancelled(driver.look(&shared));
        let looked = isolated("driving rollouts", Box::pin(look)).await.flatten();
        let is_busy = looked.and_then(|result| outage.note(result)).unwrap_or(false);
        let pause = match is_busy {
            true => TICK.max(started.elapsed() * SHARE),
            false => shared.config.policy_poll_interval,
        };
        tokio::select! {
            () = stop.cancelled() => {}
            // Not at once: offers of a change that has just been applied go out first.
            () = async {
                shared.rollouts.notify.notified().await;
                tokio::time::sleep(TICK).await;
            }, if !is_busy => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Driver {
    /// Returns whether there is something to see to, here.
    async fn look(&mut self, shared: &Shared) -> store::Result<bool> {
        let open = shared.store.open_rollouts().await?;
        ::metrics::gauge!(metrics::ROLLOUTS).set(open.len() as f64);
        if open.is_empty() {
            self.selectors.clear();
            return Ok(false);
        }
        let Some(lease) = shared.store.take_lease(ROLLOUT_LEASE, &shared.node, unix_ms(), LEASE_MS).await? else {
            return Ok(false);
        };
        // Not older than the rollouts.
        let snapshot = shared.policies.refresh().await?;
        let mut watched = Vec::with_capacity(open.len());
        for rollout in open {
            let selectors = self.selectors(shared, &rollout).await?;
            watched.push(Watched { cohort: rollout.cohort(), selectors, seen: Seen::default(), rollout });
        }
        survey(shared, &snapshot, &mut watched).await?;
        let mut steps = Vec::new();
        for Watched { rollout, seen, .. } in watched {
            steps.extend(act(shared, rollout, seen, lease).await?);
        }
        if let Some(first) = steps.first() {
            let tell = async {
                let epoch = shared.store.policy_epoch().await?;
                shared.reconcile.policies_changed.hinted(epoch, trace::current());
                shared.reconcile.check_policies();
                shared.outbox.policies_changed(epoch).await;
                store::Result::Ok(())
            };
            first.run(tell).await?;
        }
        Ok(true)
    }

    async fn selectors(&mut self, shared: &Shared, rollout: &Rollout) -> store::Result<Vec<Selector>> {
        let mut selectors = Vec::new();
        for number in [rollout.revision, rollout.stable].into_iter().filter(|number| *number > 0) {
            let key = (rollout.policy.clone(), number);
            if !self.selectors.contains_key(&key) {
                let found = shared.store.list_revisions(&rollout.policy, Some(number + 1), 1).await;
                let Some(revision) = found_or_gone(found)?.pop() else { continue };
                self.selectors.insert(key.clone(), revision.content.selector);
            }
            selectors.extend(self.selectors.get(&key).cloned());
        }
        Ok(selectors)
    }
}

/// A policy may have been deleted a moment ago, and its rollouts with it.
fn found_or_gone<T>(result: store::Result<Vec<T>>) -> store::Result<Vec<T>> {
    match result {
        Err(store::Error::NotFound { .. }) => Ok(Vec::new()),
        other => other,
    }
}

/// Looks at every agent once.
async fn survey(shared: &Shared, snapshot: &Snapshot, watched: &mut [Watched]) -> store::Result<()> {
    let mut after = None;
    loop {
        let page = shared.store.page_agents(AgentFilter::default(), after, shared.config.page_size).await?;
        let now = unix_ms();
        for agent in &page {
            let attributes = Attributes::decode(&agent.observed.description);
            for watched in watched.iter_mut() {
                watched.see(agent, &attributes, snapshot, now);
            }
        }
        after = page.last().map(|agent| agent.uid);
        if page.len() < shared.config.page_size as usize {
            return Ok(());
        }
    }
}

impl Watched {
    fn see(&mut self, agent: &AgentRecord, attributes: &Attributes, snapshot: &Snapshot, now: i64) {
        if !self.selectors.iter().any(|selector| selector.matches(attributes, &agent.labels)) {
            return;
        }
        let Self { rollout, cohort, seen: Seen { counts, positions }, .. } = self;
        counts.matching += 1;
        if agent.presence.connected && agent.observed.accepts(rollout.kind) {
            positions.push(cohort.position(agent.uid));
        }
        if rollout.step == 0 || !cohort.contains(agent.uid, attributes, &agent.labels) {
            return;
        }
        counts.in_cohort += 1;
        let wanted = decide::wanted(agent, attributes, snapshot, rollout.kind);
        let standing = standing(agent, rollout.kind, wanted, rollout.plan.agent_deadline_ms(), now);
        count(counts, standing);
    }
}

fn count(counts: &mut Counts, standing: Standing) {
    match standing {
        Standing::NotCapable => counts.not_capable += 1,
        Standing::Disconnected => counts.disconnected += 1,
        Standing::Waiting => counts.pending += 1,
        Standing::Offered | Standing::Applying => {
            counts.offered += 1;
            counts.pending += 1;
        }
        Standing::Unhealthy => {
            counts.offered += 1;
            counts.applied += 1;
            counts.pending += 1;
        }
        Standing::Healthy => {
            counts.offered += 1;
            counts.applied += 1;
            counts.healthy += 1;
        }
        Standing::Failed(error) => {
            counts.offered += 1;
            counts.failed += 1;
            let text: String = error.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect();
            if counts.errors.len() < MAX_ERRORS || counts.errors.contains_key(&text) {
                *counts.errors.entry(text).or_default() += 1;
            }
        }
    }
}

/// Writes what follows from what was seen; returns the span of it if the rollout's state is another.
async fn act(shared: &Shared, mut rollout: Rollout, seen: Seen, lease: Lease) -> store::Result<Option<Span>> {
    let now = unix_ms();
    let is_old = rollout.seen_at.is_none_or(|seen_at| now.saturating_sub(seen_at) > NOTE_MS);
    if is_old || rollout.counts != seen.counts {
        shared.store.note_rollout(rollout.id, rollout.version, &seen.counts, now).await?;
    }
    rollout.counts = seen.counts.clone();
    let Some(next) = advance(&rollout, &seen, now) else { return Ok(None) };
    let actor = Actor { name: "system".to_owned(), token_id: String::new(), now };
    let span = spans::rollout_step(&next, &shared.rollouts.causes);
    if !span.run(shared.store.write_rollout(&next, Some(lease), &actor)).await? {
        span.failed(|| "it was changed meanwhile".to_owned());
        return Ok(None);
    }
    let (policy, state, step) = (&next.policy, next.state.name(), next.step);
    tracing::info!(%policy, revision = next.revision, state, step, reason = %next.reason, "rollout");
    if matches!(next.state, State::RollingBack | State::Paused) {
        ::metrics::counter!(metrics::ROLLOUTS_STOPPED, "state" => state).increment(1);
    }
    Ok(Some(span))
}
