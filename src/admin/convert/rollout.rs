//! Rollouts.

use super::timestamp;
use crate::{
    model::rollout::{Counts, Estimate, OnFailure, Pace, Plan, Rollout, State, percent},
    proto::admin::{self, RolloutState, rollout_plan},
};

pub fn rollout(rollout: Rollout) -> admin::Rollout {
    let (pace, estimate) = (rollout.pace().map(pace), estimate(&rollout.estimate()));
    let is_stable = rollout.at_once || rollout.state == State::Succeeded;
    admin::Rollout {
        id: rollout.id.to_string(),
        revision: rollout.revision,
        stable_revision: if is_stable { rollout.revision } else { rollout.stable },
        state: state(rollout.state).into(),
        step: rollout.step,
        steps: rollout.plan.steps.len() as u32,
        reason: rollout.reason,
        errors: errors(&rollout.counts),
        stopped: rollout
            .counts
            .stopped
            .as_deref()
            .map(|stopped| admin::RolloutStopped { counts: Some(counts(stopped)), errors: errors(stopped) }),
        pace,
        estimate: Some(estimate),
        counts: Some(counts(&rollout.counts)),
        plan: Some(plan(&rollout.plan)),
        at_once: rollout.at_once,
        author: rollout.author,
        create_time: Some(timestamp(rollout.created_at)),
        state_time: Some(timestamp(rollout.since)),
        step_time: (rollout.step > 0).then(|| timestamp(rollout.step_since)),
        end_time: rollout.ended_at.map(timestamp),
        counts_time: rollout.seen_at.map(timestamp),
        version: rollout.version,
        policy: rollout.policy,
    }
}

/// The most frequent first.
fn errors(counts: &Counts) -> Vec<admin::RolloutError> {
    let mut errors: Vec<_> = counts.errors.iter().collect();
    errors.sort_by_key(|(message, agents)| (std::cmp::Reverse(**agents), (*message).clone()));
    let error = |(message, agents): (&String, &u64)| admin::RolloutError {
        message: message.clone(),
        agents: *agents,
        example_instance_uids: counts.examples.get(message).cloned().unwrap_or_default(),
    };
    errors.into_iter().map(error).collect()
}

fn counts(counts: &Counts) -> admin::RolloutCounts {
    admin::RolloutCounts {
        matching: counts.matching,
        in_cohort: counts.in_cohort,
        disconnected: counts.disconnected,
        offered: counts.offered,
        applied: counts.applied,
        healthy: counts.healthy,
        failed: counts.failed,
        not_capable: counts.not_capable,
        pending: counts.pending,
        overridden: counts.overridden,
        reachable: counts.reachable,
    }
}

fn pace(pace: Pace) -> admin::RolloutPace {
    admin::RolloutPace { healthy_per_second: pace.healthy, offered_per_second: pace.offered }
}

fn estimate(estimate: &Estimate) -> admin::RolloutEstimate {
    let seconds = |ms: i64| u64::try_from(ms).unwrap_or(0).div_ceil(1_000);
    admin::RolloutEstimate {
        step_seconds: estimate.step_ms.map(seconds),
        seconds: estimate.rollout_ms.map(seconds),
        unknown: estimate.unknown.unwrap_or_default().to_owned(),
    }
}

pub fn plan(plan: &Plan) -> admin::RolloutPlan {
    admin::RolloutPlan {
        steps: plan.steps.iter().map(ToString::to_string).collect(),
        bake_seconds: plan.bake_seconds,
        agent_deadline_seconds: plan.agent_deadline_seconds,
        max_failures: percent(plan.max_failures),
        min_sample: plan.min_sample,
        on_failure: match plan.on_failure {
            OnFailure::Pause => rollout_plan::OnFailure::Pause,
            OnFailure::Rollback => rollout_plan::OnFailure::Rollback,
        }
        .into(),
        approval: plan.approval,
        windows: plan.windows.iter().map(ToString::to_string).collect(),
        effective_config: plan.effective_config,
    }
}

fn state(state: State) -> RolloutState {
    match state {
        State::Pending => RolloutState::Pending,
        State::Progressing => RolloutState::Progressing,
        State::Baking => RolloutState::Baking,
        State::AwaitingApproval => RolloutState::AwaitingApproval,
        State::Paused => RolloutState::Paused,
        State::Succeeded => RolloutState::Succeeded,
        State::RollingBack => RolloutState::RollingBack,
        State::RolledBack => RolloutState::RolledBack,
        State::Aborted => RolloutState::Aborted,
    }
}
