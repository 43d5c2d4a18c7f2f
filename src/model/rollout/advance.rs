//! The state machine of a rollout: what becomes of it by itself.

use super::{ALL, Counts, OnFailure, Rollout, Seen, State, cohort};
use crate::model::UnixMs;

/// Stragglers that hold no step once its agents have had their time: one in so many.
const ONE_STRAGGLER_IN: u64 = 100;

/// The rollout after what was seen of the fleet; `None` if it stays as it is. A state that ended stays so.
pub fn advance(rollout: &Rollout, seen: &Seen, now: UnixMs) -> Option<Rollout> {
    let mut next = rollout.clone();
    let counts = &seen.counts;
    match rollout.state {
        State::Pending => next_step(&mut next, seen, now),
        State::Progressing | State::Baking | State::AwaitingApproval if has_failed(rollout, counts) => {
            fail(&mut next, counts, now);
        }
        State::Progressing if is_settled(rollout, counts, now) => match rollout.plan.bake_seconds {
            0 => pass(&mut next, seen, now),
            _ => next.enter(State::Baking, "", now),
        },
        State::Baking if elapsed(rollout.since, now) >= rollout.plan.bake_ms() => {
            // One that fell ill meanwhile is waited for like one that never was well.
            if is_settled(rollout, counts, now) {
                pass(&mut next, seen, now);
            }
        }
        State::RollingBack => {
            // Each that is connected is waited for: until it may have the way back, and from then on until its deadline.
            if counts.pending == 0 || rollout.stable == 0 {
                let mut reason = rollout.reason.clone();
                let missing = counts.pending + counts.failed;
                if missing > 0 {
                    reason = format!("{reason}; {missing} agents are not back on revision {} yet", rollout.stable);
                }
                next.enter(State::RolledBack, reason, now);
            }
        }
        State::Progressing | State::Baking | State::AwaitingApproval | State::Paused => {}
        State::Succeeded | State::RolledBack | State::Aborted => {}
    }
    let is_change = next != *rollout;
    next.version += 1;
    is_change.then_some(next)
}

/// A clock that was set back makes waits longer, and nothing else.
fn elapsed(since: UnixMs, now: UnixMs) -> i64 {
    now.saturating_sub(since).max(0)
}

/// Failures that count.
fn failures(rollout: &Rollout, counts: &Counts) -> u64 {
    counts.failed.saturating_sub(rollout.forgiven)
}

fn has_failed(rollout: &Rollout, counts: &Counts) -> bool {
    let failed = failures(rollout, counts);
    let decided = failed + counts.healthy;
    let sample = u64::from(rollout.plan.min_sample).min(counts.eligible().saturating_sub(rollout.forgiven)).max(1);
    failed > 0 && decided >= sample && is_over_budget(rollout, failed, decided)
}

fn is_over_budget(rollout: &Rollout, failed: u64, of: u64) -> bool {
    u128::from(failed) * u128::from(ALL) > u128::from(of) * u128::from(rollout.plan.max_failures)
}

/// Whether enough agents of the step are well. Each is waited for, until it is well or failed. Once the step has lasted as long as
/// an agent may take, few that came late hold it no longer.
fn is_settled(rollout: &Rollout, counts: &Counts, now: UnixMs) -> bool {
    if counts.eligible() == 0 && counts.disconnected > 0 && !rollout.at_once {
        // With the whole step away, as after an outage, nothing is proved.
        return false;
    }
    if counts.pending == 0 {
        return true;
    }
    let eligible = counts.eligible();
    elapsed(rollout.step_since, now) > rollout.plan.agent_deadline_ms()
        && counts.healthy > 0
        && counts.pending <= eligible / ONE_STRAGGLER_IN
}

fn fail(next: &mut Rollout, counts: &Counts, now: UnixMs) {
    let failed = failures(next, counts);
    let mut reason = format!("step {}: {failed} of {} agents failed", next.step, failed + counts.healthy);
    let most_frequent = counts.errors.iter().max_by_key(|(_, agents)| **agents);
    if let Some((error, agents)) = most_frequent.filter(|(error, _)| !error.is_empty()) {
        reason = format!("{reason}; {agents} of them say: {error}");
    }
    match next.plan.on_failure {
        OnFailure::Pause => next.enter(State::Paused, reason, now),
        OnFailure::Rollback => next.enter(State::RollingBack, reason, now),
    }
}

/// The step is done.
fn pass(next: &mut Rollout, seen: &Seen, now: UnixMs) {
    if next.step as usize >= next.plan.steps.len() {
        succeed(next, &seen.counts, now);
    } else if next.plan.approval {
        next.enter(State::AwaitingApproval, format!("step {} is done", next.step), now);
    } else {
        next_step(next, seen, now);
    }
}

fn succeed(next: &mut Rollout, counts: &Counts, now: UnixMs) {
    let mut reason = String::new();
    if counts.failed > 0 {
        reason = format!("{} agents failed", counts.failed);
    }
    next.enter(State::Succeeded, reason, now);
}

/// Begins the next step, unless it has to wait for its hours.
pub(super) fn next_step(next: &mut Rollout, seen: &Seen, now: UnixMs) {
    if !next.plan.is_open(now) {
        next.reason = "the next step waits for one of the windows".to_owned();
        return;
    }
    let Some(step) = next.plan.steps.get(next.step as usize) else { return };
    next.threshold = cohort::threshold(step, next.threshold, &mut seen.positions.clone());
    next.step += 1;
    next.step_since = now;
    next.enter(State::Progressing, "", now);
}
