//! Rollouts.

use super::timestamp;
use crate::{
    model::rollout::{Counts, OnFailure, Plan, Rollout, State, percent},
    proto::admin::{self, RolloutState, rollout_plan},
};

pub fn rollout(rollout: Rollout) -> admin::Rollout {
    let mut errors: Vec<_> = rollout.counts.errors.iter().collect();
    errors.sort_by_key(|(message, agents)| (std::cmp::Reverse(**agents), (*message).clone()));
    let error = |(message, agents): (&String, &u64)| admin::RolloutError { message: message.clone(), agents: *agents };
    let is_stable = rollout.at_once || rollout.state == State::Succeeded;
    admin::Rollout {
        id: rollout.id.to_string(),
        revision: rollout.revision,
        stable_revision: if is_stable { rollout.revision } else { rollout.stable },
        state: state(rollout.state).into(),
        step: rollout.step,
        steps: rollout.plan.steps.len() as u32,
        reason: rollout.reason,
        errors: errors.into_iter().map(error).collect(),
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
