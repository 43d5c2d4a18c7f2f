//! Drives rollouts: sees what became of each step, and takes the next. One replica at a time does, by a lease.
//!
//! A next state is only decided from what has just been read of all agents, and only written on top of the one that it was decided
//! from. So a driver that dies, or two that both believe to be the one, neither skip a step nor take it twice. What is remembered
//! of agents in between ([`survey`]) says when there is something to decide, and never what.

mod changed;
mod survey;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use changed::Changed;
use survey::{Survey, Watched};

use super::{
    metrics,
    policies::Snapshot,
    shared::{Outage, Shared, isolated, unix_ms},
    spans::{self, Causes},
};
use crate::{
    model::{
        Selector,
        rollout::{Rollout, Seen, State, advance},
    },
    store::{self, Actor, Lease, ROLLOUT_LEASE},
    trace::{self, Span},
};

/// While there are rollouts, they are looked at this often, and less often where that takes long.
const TICK: Duration = Duration::from_secs(1);
/// What goes to all at once is only watched, from so long after it began: its offers go out first.
const SETTLING_MS: i64 = 3_000;
/// Of the time, at most one part in so many is spent on looking.
const SHARE: u32 = 5;
/// A driver that says nothing for so long is replaced.
const LEASE_MS: i64 = 10_000;
/// What was seen is stored when it differs, and else this often.
const NOTE_MS: i64 = 10_000;

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
    /// Of the revisions of each open rollout, which never change. By its id: a policy may be deleted, and another made of
    /// its name, whose revisions are counted from 1 again.
    selectors: HashMap<(Uuid, u64), Selector>,
    /// While it drives.
    changed: Option<Changed>,
    survey: Option<Survey>,
}

pub async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut outage = Outage::new("driving rollouts");
    let mut driver = Driver::default();
    while !stop.is_cancelled() {
        let started = Instant::now();
        let look = stop.run_until_cancelled(driver.look(&shared));
        let looked = isolated("driving rollouts", Box::pin(look)).await.flatten();
        let is_busy = looked.and_then(|result| outage.note(result)).unwrap_or(false);
        let took = started.elapsed();
        let pause = match is_busy {
            true => TICK.max(took * SHARE),
            false => shared.config.policy_poll_interval,
        };
        tokio::select! {
            () = stop.cancelled() => {}
            // Not at once: offers of a change that has just been applied go out first, and half of the time is left to others.
            () = async {
                shared.rollouts.notify.notified().await;
                tokio::time::sleep(TICK.max(took)).await;
            } => {}
            () = tokio::time::sleep(pause) => {}
            () = driver.hear() => {}
        }
    }
}

impl Driver {
    /// Returns whether there is something to see to, here.
    async fn look(&mut self, shared: &Shared) -> store::Result<bool> {
        let open = shared.store.open_rollouts().await?;
        ::metrics::gauge!(metrics::ROLLOUTS).set(open.len() as f64);
        if open.is_empty() {
            *self = Self::default();
            return Ok(false);
        }
        let Some(lease) = shared.store.take_lease(ROLLOUT_LEASE, &shared.node, unix_ms(), LEASE_MS).await? else {
            (self.changed, self.survey) = (None, None);
            return Ok(false);
        };
        if open.iter().all(is_settling) {
            return Ok(true);
        }
        // Not older than the rollouts.
        let snapshot = shared.policies.refresh().await?;
        self.selectors.retain(|(id, _), _| open.iter().any(|rollout| rollout.id == *id));
        let mut watched = Vec::with_capacity(open.len());
        for rollout in open {
            let selectors = self.selectors(shared, &rollout).await?;
            watched.push(Watched { cohort: rollout.cohort(), selectors, rollout });
        }
        let (mut survey, is_whole) = Box::pin(self.see(shared, &snapshot, &watched)).await?;
        let mut steps = Vec::new();
        for Watched { rollout, .. } in watched {
            let mut seen = survey.seen(&rollout);
            seen.counts.stopped = rollout.counts.stopped.clone();
            seen.counts.trail = rollout.counts.trail.then(&rollout, &seen.counts, unix_ms());
            note(shared, &rollout, &seen).await?;
            if is_whole {
                steps.extend(act(shared, rollout, seen, lease).await?);
            }
        }
        self.survey = Some(survey);
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

    /// The fleet as it is now, and whether all of it has been read: that is so whenever there is something to decide.
    async fn see(
        &mut self,
        shared: &Shared,
        snapshot: &Snapshot,
        watched: &[Watched],
    ) -> store::Result<(Survey, bool)> {
        let changed = match &mut self.changed {
            Some(changed) => changed.take(),
            None => {
                self.changed = Some(Changed::listen(&*shared.bus).await);
                None
            }
        };
        // Taken out: what was half brought up to date is not used again.
        if let (Some(mut survey), Some(changed)) = (self.survey.take(), changed)
            && survey.update(shared, snapshot, watched, changed).await?
        {
            let now = unix_ms();
            let is_to_move =
                |watched: &Watched| advance(&watched.rollout, &survey.seen(&watched.rollout), now).is_some();
            if !watched.iter().any(is_to_move) {
                return Ok((survey, false));
            }
        }
        Ok((Survey::read(shared, snapshot, watched).await?, true))
    }

    /// Takes in what is said of agents. Never ends.
    async fn hear(&mut self) {
        match &mut self.changed {
            Some(changed) => changed.hear().await,
            None => std::future::pending().await,
        }
    }

    async fn selectors(&mut self, shared: &Shared, rollout: &Rollout) -> store::Result<Vec<Selector>> {
        let mut selectors = Vec::new();
        for number in [rollout.revision, rollout.stable].into_iter().filter(|number| *number > 0) {
            let key = (rollout.id, number);
            if let Some(selector) = self.selectors.get(&key) {
                selectors.push(selector.clone());
                continue;
            }
            let found = shared.store.list_revisions(&rollout.policy, Some(number + 1), 1).await;
            if let Some(revision) = found_or_gone(found)?.pop() {
                selectors.push(revision.content.selector.clone());
                self.selectors.insert(key, revision.content.selector);
            }
        }
        Ok(selectors)
    }
}

fn is_settling(rollout: &Rollout) -> bool {
    rollout.at_once && (0..SETTLING_MS).contains(&unix_ms().saturating_sub(rollout.created_at))
}

/// A policy may have been deleted a moment ago, and its rollouts with it.
fn found_or_gone<T>(result: store::Result<Vec<T>>) -> store::Result<Vec<T>> {
    match result {
        Err(store::Error::NotFound { .. }) => Ok(Vec::new()),
        other => other,
    }
}

/// Stores what was seen.
async fn note(shared: &Shared, rollout: &Rollout, seen: &Seen) -> store::Result<()> {
    let now = unix_ms();
    let is_old = rollout.seen_at.is_none_or(|seen_at| now.saturating_sub(seen_at) > NOTE_MS);
    if is_old || rollout.counts != seen.counts {
        shared.store.note_rollout(rollout.id, rollout.version, &seen.counts, now).await?;
    }
    Ok(())
}

/// Writes what follows from what was seen; returns the span of it if the rollout's state is another.
async fn act(shared: &Shared, mut rollout: Rollout, seen: Seen, lease: Lease) -> store::Result<Option<Span>> {
    let now = unix_ms();
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
