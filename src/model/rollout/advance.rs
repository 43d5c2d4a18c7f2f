//! The state machine of a rollout: what becomes of it by itself.

use super::{ALL, Candidates, Counts, OnFailure, Rollout, Seen, State, Step};
use crate::model::UnixMs;

/// Stragglers that hold no step once its agents have had their time: one in so many.
const ONE_STRAGGLER_IN: u64 = 100;

/// The rollout after what was seen of the fleet; `None` if it stays as it is. A state that ended stays so.
pub fn advance(rollout: &Rollout, seen: &Seen, now: UnixMs) -> Option<Rollout> {
    let mut next = rollout.clone();
    let counts = &seen.counts;
    match rollout.state {
        State::Pending => step_if_possible(&mut next, rollout.step, seen, now),
        State::Progressing | State::Baking | State::AwaitingApproval if has_failed(rollout, counts) => {
            fail(&mut next, counts, now);
        }
        State::Progressing if is_settled(rollout, counts, now) => match rollout.plan.bake_seconds {
            0 => pass(&mut next, seen, now),
            _ => next.enter(State::Baking, "", now),
        },
        // One that fell ill meanwhile is waited for like one that never was well.
        State::Baking if elapsed(rollout.since, now) >= rollout.plan.bake_ms() && is_settled(rollout, counts, now) => {
            pass(&mut next, seen, now);
        }
        State::Progressing | State::Baking if rollout.is_hollow(counts) => {
            step_if_possible(&mut next, rollout.step - 1, seen, now);
        }
        State::Progressing | State::Baking => say_who_is_missing(&mut next, counts),
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
        State::AwaitingApproval | State::Paused => {}
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
    if proves_nothing(rollout, counts) {
        return false;
    }
    if counts.pending == 0 {
        return true;
    }
    let eligible = counts.eligible();
    // An operator may have resumed it since.
    let begun = if rollout.state == State::Progressing { rollout.since } else { rollout.step_since };
    elapsed(begun, now) > rollout.plan.agent_deadline_ms()
        && counts.healthy > 0
        && counts.pending <= eligible / ONE_STRAGGLER_IN
}

/// Whether nobody who is connected is in the step, although there are agents that could be. That is so after an outage, too.
fn proves_nothing(rollout: &Rollout, counts: &Counts) -> bool {
    counts.eligible() == 0 && counts.capable > 0 && !rollout.at_once
}

/// Has the reason say why the step is not passed, while there is nobody to prove it.
fn say_who_is_missing(next: &mut Rollout, counts: &Counts) {
    let nobody = format!("step {} waits: none of its agents is connected", next.step);
    if proves_nothing(next, counts) {
        next.reason = nobody;
    } else if next.reason == nobody {
        next.reason.clear();
    }
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
        step_if_possible(next, next.step, seen, now);
    }
}

fn succeed(next: &mut Rollout, counts: &Counts, now: UnixMs) {
    let mut reason = String::new();
    if counts.failed > 0 {
        reason = format!("{} agents failed", counts.failed);
    }
    next.enter(State::Succeeded, reason, now);
}

/// Begins the step after so many others, unless it has to wait for its hours, or for somebody to prove it.
fn step_if_possible(next: &mut Rollout, after: u32, seen: &Seen, now: UnixMs) {
    if !next.plan.is_open(now) {
        next.reason = "the next step waits for one of the windows".to_owned();
        return;
    }
    let is_anybody_there = match &seen.candidates {
        Some(candidates) => candidates.is_empty() || candidates.are_connected(),
        None => seen.counts.capable == 0 || seen.counts.reachable > 0,
    };
    // Whom a step lets in beside those that it says is only known once somebody is there.
    let is_part = matches!(next.plan.steps.get(after as usize), Some(Step::Percent(..ALL) | Step::Count(_)));
    if is_part && !is_anybody_there {
        next.reason = format!("step {} waits: no agent that matches is connected", after + 1);
        return;
    }
    begin(next, after, seen, now);
}

/// Begins the step after so many others.
pub(super) fn begin(next: &mut Rollout, after: u32, seen: &Seen, now: UnixMs) {
    let Some(step) = next.plan.steps.get(after as usize) else { return };
    let nobody;
    let candidates = match &seen.candidates {
        Some(candidates) if candidates.after() == after => candidates,
        // What it takes for this step is looked at next time.
        Some(_) => return,
        None => {
            nobody = Candidates::new(next, after, now);
            &nobody
        }
    };
    let reach = candidates.reach(step);
    next.threshold = reach.threshold;
    next.besides.retain(|position| *position >= reach.threshold);
    next.besides.extend(reach.beside);
    let is_ring_empty = candidates.is_ring_empty() && !candidates.is_empty();
    let nobody_of_ring = format!("no agent is in the ring of step {}, {step}", after + 1);
    next.step = after + 1;
    next.step_since = candidates.since();
    match is_ring_empty {
        true => next.enter(State::AwaitingApproval, nobody_of_ring, now),
        false => next.enter(State::Progressing, "", now),
    }
}
