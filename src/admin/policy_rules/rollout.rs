//! How a change is to go out.

use std::str::FromStr;

use crate::{
    admin::errors::Violations,
    model::{
        policy::PolicyKind,
        rollout::{OnFailure, Plan, parse_percent},
    },
    proto::admin::{RolloutPlan, rollout_plan},
};

const FIELD: &str = "rollout";

/// The plan, or what is wrong with it.
pub(super) fn check(given: RolloutPlan, kind: Option<PolicyKind>, violations: &mut Violations) -> Option<Plan> {
    if let Some(kind) = kind.filter(|kind| given.effective_config && *kind != PolicyKind::Config) {
        let problem =
            format!("agents say what they run of the kind {} only, not of {}", PolicyKind::Config.name(), kind.name());
        violations.add(format!("{FIELD}.effective_config"), problem);
    }
    let defaults = Plan::default();
    let steps = all("steps", &given.steps, violations);
    let windows = all("windows", &given.windows, violations);
    let max_failures = match given.max_failures.as_str() {
        "" => Some(defaults.max_failures),
        text => violations.take(&format!("{FIELD}.max_failures"), parse_percent(text)),
    };
    let on_failure = rollout_plan::OnFailure::try_from(given.on_failure);
    let on_failure = on_failure.map_err(|_| format!("{} is not known", given.on_failure));
    let on_failure = violations.take(&format!("{FIELD}.on_failure"), on_failure);
    let or_default = |number, default| if number == 0 { default } else { number };
    let plan = Plan {
        steps: steps.map(|steps| if steps.is_empty() { defaults.steps } else { steps })?,
        bake_seconds: given.bake_seconds,
        agent_deadline_seconds: or_default(given.agent_deadline_seconds, defaults.agent_deadline_seconds),
        max_failures: max_failures?,
        min_sample: or_default(given.min_sample, defaults.min_sample),
        on_failure: match on_failure? {
            rollout_plan::OnFailure::Pause => OnFailure::Pause,
            _ => OnFailure::Rollback,
        },
        approval: given.approval,
        windows: windows?,
        effective_config: given.effective_config,
    };
    match plan.check() {
        Ok(()) => Some(plan),
        Err((field, problem)) => {
            violations.add(format!("{FIELD}.{field}"), problem);
            None
        }
    }
}

/// All of them, if all are right.
fn all<T: FromStr<Err = String>>(field: &str, texts: &[String], violations: &mut Violations) -> Option<Vec<T>> {
    let read = |(index, text): (usize, &String)| violations.take(&format!("{FIELD}.{field}[{index}]"), text.parse());
    let read: Vec<Option<T>> = texts.iter().enumerate().map(read).collect();
    read.into_iter().collect()
}
