//! Rollouts.

use serde::Serialize;

use super::{age, or_dash, rfc3339};
use crate::{
    cli::{manifest, output::View},
    proto::admin::{self, RolloutState, rollout_plan},
};

#[derive(Serialize)]
pub struct Rollout {
    pub policy: String,
    pub revision: u64,
    pub stable_revision: u64,
    pub state: &'static str,
    pub step: u32,
    pub steps: u32,
    pub reason: String,
    pub counts: Counts,
    pub errors: Vec<Failure>,
    /// Null unless it rolls back or has; `counts` and `errors` are of the way back then.
    pub stopped: Option<Stopped>,
    /// Null if nothing moves, or too little was seen.
    pub pace: Option<Pace>,
    pub estimate: Estimate,
    pub plan: Plan,
    pub at_once: bool,
    pub author: String,
    pub id: String,
    pub created_at: Option<String>,
    pub state_since: Option<String>,
    pub step_since: Option<String>,
    pub ended_at: Option<String>,
    pub counted_at: Option<String>,
    #[serde(skip)]
    created_age: String,
    #[serde(skip)]
    pub(super) state_age: String,
}

#[derive(Serialize)]
pub struct Counts {
    pub matching: u64,
    pub in_cohort: u64,
    pub disconnected: u64,
    pub offered: u64,
    pub applied: u64,
    pub healthy: u64,
    pub failed: u64,
    pub not_capable: u64,
    pub pending: u64,
    pub reachable: u64,
    /// Of those that match, the ones with an override.
    pub overridden: u64,
}

impl From<admin::RolloutCounts> for Counts {
    fn from(counts: admin::RolloutCounts) -> Self {
        Self {
            matching: counts.matching,
            in_cohort: counts.in_cohort,
            disconnected: counts.disconnected,
            offered: counts.offered,
            applied: counts.applied,
            healthy: counts.healthy,
            failed: counts.failed,
            not_capable: counts.not_capable,
            pending: counts.pending,
            reachable: counts.reachable,
            overridden: counts.overridden,
        }
    }
}

/// How it stood when it began to roll back.
#[derive(Serialize)]
pub struct Stopped {
    pub counts: Counts,
    pub errors: Vec<Failure>,
}

impl From<admin::RolloutStopped> for Stopped {
    fn from(stopped: admin::RolloutStopped) -> Self {
        Self {
            counts: stopped.counts.unwrap_or_default().into(),
            errors: stopped.errors.into_iter().map(Failure::from).collect(),
        }
    }
}

#[derive(Serialize)]
pub struct Failure {
    /// `#` is what differs between those who say it.
    pub message: String,
    pub agents: u64,
    /// Uids of some of them.
    pub examples: Vec<String>,
}

impl From<admin::RolloutError> for Failure {
    fn from(error: admin::RolloutError) -> Self {
        Self { message: error.message, agents: error.agents, examples: error.example_instance_uids }
    }
}

/// Agents a second, over the last minute.
#[derive(Serialize)]
pub struct Pace {
    pub healthy_per_second: f64,
    pub offered_per_second: f64,
}

/// What is left, from `counted_at` on; null is what is not known.
#[derive(Serialize)]
pub struct Estimate {
    pub step_seconds: Option<u64>,
    pub seconds: Option<u64>,
    /// Why one of them is not known.
    pub unknown: String,
}

/// As in a manifest.
#[derive(Serialize)]
pub struct Plan {
    pub steps: Vec<String>,
    pub bake: String,
    pub agent_deadline: String,
    pub max_failures: String,
    pub min_sample: u32,
    pub on_failure: &'static str,
    pub approval: bool,
    pub windows: Vec<String>,
    pub effective_config: bool,
}

impl From<admin::RolloutPlan> for Plan {
    fn from(plan: admin::RolloutPlan) -> Self {
        Self {
            bake: manifest::rollout::duration(plan.bake_seconds),
            agent_deadline: manifest::rollout::duration(plan.agent_deadline_seconds),
            on_failure: match plan.on_failure() {
                rollout_plan::OnFailure::Pause => "pause",
                _ => "rollback",
            },
            steps: plan.steps,
            max_failures: plan.max_failures,
            min_sample: plan.min_sample,
            approval: plan.approval,
            windows: plan.windows,
            effective_config: plan.effective_config,
        }
    }
}

pub fn state_name(state: RolloutState) -> &'static str {
    state.as_str_name().trim_start_matches("ROLLOUT_STATE_")
}

impl From<admin::Rollout> for Rollout {
    fn from(rollout: admin::Rollout) -> Self {
        let pace = |pace: admin::RolloutPace| Pace {
            healthy_per_second: rounded(pace.healthy_per_second),
            offered_per_second: rounded(pace.offered_per_second),
        };
        let state = state_name(rollout.state());
        let estimate = rollout.estimate.unwrap_or_default();
        Self {
            state,
            policy: rollout.policy,
            revision: rollout.revision,
            stable_revision: rollout.stable_revision,
            step: rollout.step,
            steps: rollout.steps,
            reason: rollout.reason,
            counts: rollout.counts.unwrap_or_default().into(),
            errors: rollout.errors.into_iter().map(Failure::from).collect(),
            stopped: rollout.stopped.map(Stopped::from),
            pace: rollout.pace.map(pace),
            estimate: Estimate {
                step_seconds: estimate.step_seconds,
                seconds: estimate.seconds,
                unknown: estimate.unknown,
            },
            plan: rollout.plan.unwrap_or_default().into(),
            at_once: rollout.at_once,
            author: rollout.author,
            id: rollout.id,
            created_at: rfc3339(rollout.create_time),
            state_since: rfc3339(rollout.state_time),
            step_since: rfc3339(rollout.step_time),
            ended_at: rfc3339(rollout.end_time),
            counted_at: rfc3339(rollout.counts_time),
            created_age: age(rollout.create_time),
            state_age: age(rollout.state_time),
        }
    }
}

/// To hundredths: more is not known.
fn rounded(per_second: f64) -> f64 {
    (per_second * 100.0).round() / 100.0
}

impl Rollout {
    /// In one line, for logs.
    pub fn line(&self) -> String {
        let Self { policy, revision, state, step, steps, counts, reason, .. } = self;
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let Counts { in_cohort, healthy, failed, pending, .. } = counts;
        format!(
            "policy/{policy} revision {revision} {state} step {step}/{steps}: {in_cohort} agents, {healthy} healthy, {pending} \
             pending, {failed} failed{why}\n"
        )
    }
}

impl View for Rollout {
    const COLUMNS: &'static [&'static str] =
        &["POLICY", "REVISION", "STATE", "STEP", "AGENTS", "HEALTHY", "FAILED", "AGE"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["STABLE", "PENDING", "DISCONNECTED", "NOT CAPABLE", "AUTHOR", "REASON"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.policy.clone(),
            self.revision.to_string(),
            self.state.to_owned(),
            format!("{}/{}", self.step, self.steps),
            self.counts.in_cohort.to_string(),
            self.counts.healthy.to_string(),
            self.counts.failed.to_string(),
            self.created_age.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![
            self.stable_revision.to_string(),
            self.counts.pending.to_string(),
            self.counts.disconnected.to_string(),
            self.counts.not_capable.to_string(),
            or_dash(&self.author),
            or_dash(&self.reason),
        ]
    }

    fn name(&self) -> String {
        format!("rollout/{}", self.policy)
    }
}
