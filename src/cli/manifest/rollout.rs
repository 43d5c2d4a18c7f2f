//! How a change is to go out.

use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::proto::admin::{RolloutPlan, rollout_plan};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollout {
    #[serde(default)]
    max_per_second: Option<Spanned<u32>>,
    #[serde(default)]
    steps: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    bake: Option<Spanned<String>>,
    #[serde(default)]
    agent_deadline: Option<Spanned<String>>,
    #[serde(default)]
    max_failures: Option<Spanned<String>>,
    #[serde(default)]
    min_sample: Option<Spanned<u32>>,
    #[serde(default)]
    on_failure: Option<Spanned<String>>,
    #[serde(default)]
    approval: Option<Spanned<bool>>,
    #[serde(default)]
    windows: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    effective_config: Option<Spanned<bool>>,
}

impl Rollout {
    /// 0 for the deployment's own.
    pub fn max_per_second(&self, note: &mut dyn FnMut(String, u64)) -> u32 {
        let Some(given) = &self.max_per_second else { return 0 };
        note("max_per_second".to_owned(), given.referenced.line());
        given.value
    }

    /// `None` if it says nothing but the rate.
    pub fn into_plan(
        self,
        refuse: &mut dyn FnMut(u64, String),
        note: &mut dyn FnMut(String, u64),
    ) -> Option<RolloutPlan> {
        let mut plan = RolloutPlan::default();
        let mut is_plan = false;
        let mut at = |field: &str, line: u64| {
            is_plan = true;
            note(format!("rollout.{field}"), line);
        };
        if let Some(steps) = self.steps {
            at("steps", steps.referenced.line());
            for (index, step) in steps.value.into_iter().enumerate() {
                at(&format!("steps[{index}]"), step.referenced.line());
                plan.steps.push(step.value);
            }
        }
        for (field, given, into) in [
            ("bake", self.bake, &mut plan.bake_seconds),
            ("agent_deadline", self.agent_deadline, &mut plan.agent_deadline_seconds),
        ] {
            let Some(given) = given else { continue };
            at(field, given.referenced.line());
            match seconds(&given.value) {
                Ok(0) if field == "agent_deadline" => {
                    let problem = "rollout: agent_deadline: must be longer than nothing".to_owned();
                    refuse(given.referenced.line(), problem);
                }
                Ok(seconds) => *into = seconds,
                Err(problem) => refuse(given.referenced.line(), format!("rollout: {field}: {problem}")),
            }
        }
        if let Some(given) = self.max_failures {
            at("max_failures", given.referenced.line());
            plan.max_failures = given.value;
        }
        if let Some(given) = self.min_sample {
            at("min_sample", given.referenced.line());
            plan.min_sample = given.value;
            if given.value == 0 {
                refuse(given.referenced.line(), "rollout: min_sample: must be at least 1".to_owned());
            }
        }
        if let Some(given) = self.on_failure {
            at("on_failure", given.referenced.line());
            plan.on_failure = match given.value.as_str() {
                "pause" => rollout_plan::OnFailure::Pause.into(),
                "rollback" => rollout_plan::OnFailure::Rollback.into(),
                other => {
                    let problem = format!("rollout: on_failure: {other:?} is neither pause nor rollback");
                    refuse(given.referenced.line(), problem);
                    0
                }
            };
        }
        if let Some(given) = self.approval {
            at("approval", given.referenced.line());
            plan.approval = given.value;
        }
        if let Some(given) = self.effective_config {
            at("effective_config", given.referenced.line());
            plan.effective_config = given.value;
        }
        if let Some(windows) = self.windows {
            at("windows", windows.referenced.line());
            for (index, window) in windows.value.into_iter().enumerate() {
                at(&format!("windows[{index}]"), window.referenced.line());
                plan.windows.push(window.value);
            }
        }
        is_plan.then_some(plan)
    }
}

fn seconds(text: &str) -> Result<u32, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{text:?} is no time such as 10m: {error}"))?;
    if duration.subsec_nanos() != 0 {
        return Err(format!("{text:?} is not in whole seconds"));
    }
    if duration.is_zero() {
        return Ok(0);
    }
    u32::try_from(duration.as_secs()).map_err(|_| format!("{text:?} is too long"))
}

/// As in a manifest.
pub fn duration(seconds: u32) -> String {
    humantime::format_duration(Duration::from_secs(seconds.into())).to_string()
}
