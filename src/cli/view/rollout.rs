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
    state_age: String,
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
}

#[derive(Serialize)]
pub struct Failure {
    pub message: String,
    pub agents: u64,
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
        }
    }
}

pub fn state_name(state: RolloutState) -> &'static str {
    state.as_str_name().trim_start_matches("ROLLOUT_STATE_")
}

impl From<admin::Rollout> for Rollout {
    fn from(rollout: admin::Rollout) -> Self {
        let counts = rollout.counts.unwrap_or_default();
        let failure = |error: admin::RolloutError| Failure { message: error.message, agents: error.agents };
        Self {
            state: state_name(rollout.state()),
            policy: rollout.policy,
            revision: rollout.revision,
            stable_revision: rollout.stable_revision,
            step: rollout.step,
            steps: rollout.steps,
            reason: rollout.reason,
            counts: Counts {
                matching: counts.matching,
                in_cohort: counts.in_cohort,
                disconnected: counts.disconnected,
                offered: counts.offered,
                applied: counts.applied,
                healthy: counts.healthy,
                failed: counts.failed,
                not_capable: counts.not_capable,
                pending: counts.pending,
            },
            errors: rollout.errors.into_iter().map(failure).collect(),
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

const BAR_WIDTH: usize = 40;

impl Rollout {
    /// For a terminal: what it is, a bar for each step, and why.
    pub fn picture(&self) -> String {
        let Self { policy, revision, stable_revision, state, counts, .. } = self;
        let mut text =
            format!("policy/{policy}: revision {stable_revision} -> {revision}   {state} for {}\n", self.state_age);
        for (index, step) in self.plan.steps.iter().enumerate() {
            let number = index as u32 + 1;
            let part = match number.cmp(&self.step) {
                std::cmp::Ordering::Less => 1.0,
                std::cmp::Ordering::Greater => 0.0,
                std::cmp::Ordering::Equal if self.state == "SUCCEEDED" => 1.0,
                std::cmp::Ordering::Equal => {
                    let all = counts.pending + counts.healthy + counts.failed;
                    if all == 0 { 0.0 } else { counts.healthy as f64 / all as f64 }
                }
            };
            let full = (part * BAR_WIDTH as f64) as usize;
            text += &format!("  step {number} {step:>12} [{:<BAR_WIDTH$}] {:3.0} %\n", "#".repeat(full), part * 100.0);
        }
        let Counts { matching, in_cohort, disconnected, offered, applied, healthy, failed, not_capable, pending } =
            counts;
        text += &format!(
            "  {in_cohort} of {matching} agents: {offered} offered, {applied} applied, {healthy} healthy, {pending} pending, \
             {failed} failed, {disconnected} disconnected, {not_capable} not capable\n"
        );
        if !self.reason.is_empty() {
            text += &format!("  {}\n", self.reason);
        }
        for Failure { message, agents } in &self.errors {
            text += &format!("  {agents} x {message}\n");
        }
        text
    }

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
