//! A rollout as people see it in a terminal: a bar for each step, how fast it goes, and what is wrong.

use super::rollout::{Counts, Estimate, Failure, Rollout, Stopped};
use crate::{
    cli::text::{Line, Style},
    model::rollout::Step,
};

/// Of a bar.
const WIDEST: usize = 50;
const NARROWEST: usize = 8;
/// Beside a bar: the step's number, what it adds, and how far it is.
const BESIDE: usize = 2 + 3 + 1 + LABEL + 2 + 2 + FIGURES;
const LABEL: usize = 12;
const FIGURES: usize = 18;

/// How far a step is.
enum Part<'a> {
    Done,
    /// The agents of it and of those before it.
    Now(&'a Counts),
    /// Agents that it will reach, if that can be said.
    ToCome(Option<u64>),
}

impl Rollout {
    /// For a terminal of this width. `age_seconds`: how long ago its agents were counted.
    pub fn picture(&self, width: usize, age_seconds: u64) -> Vec<Line> {
        let mut lines = vec![self.headline()];
        for (index, step) in self.plan.steps.iter().enumerate() {
            lines.push(self.step_line(index as u32 + 1, step, width));
        }
        let Counts {
            matching,
            in_cohort,
            disconnected,
            offered,
            applied,
            healthy,
            failed,
            not_capable,
            pending,
            overridden,
            ..
        } = &self.counts;
        let bad = if *failed > 0 { Style::Bad } else { Style::Plain };
        lines.push(
            Line::new(&format!("  {in_cohort} of {matching} agents: "))
                .and(Style::Good, &format!("{healthy} healthy"))
                .and(Style::Plain, ", ")
                .and(bad, &format!("{failed} failed"))
                .and(Style::Plain, &format!(", {pending} pending ({offered} offered, {applied} applied)")),
        );
        if disconnected + not_capable > 0 {
            lines.push(Line::new(&format!("  not waited for: {disconnected} disconnected, {not_capable} not capable")));
        }
        if *overridden > 0 {
            lines.push(Line::new(&format!("  take no part: {overridden} with an override")));
        }
        lines.extend(self.progress(age_seconds).map(|text| Line::new(&format!("  {text}"))));
        if !self.reason.is_empty() {
            lines.push(Line::new("  ").and(Style::Bold, &self.reason));
        }
        if let Some(Stopped { counts, errors }) = &self.stopped {
            let Counts { in_cohort, healthy, failed, .. } = counts;
            lines
                .push(Line::new(&format!("  before it went back: {failed} failed, {healthy} healthy, of {in_cohort}")));
            lines.extend(failures(errors));
            if !self.errors.is_empty() {
                lines.push(Line::new("  on the way back:"));
            }
        }
        lines.extend(failures(&self.errors));
        lines
    }

    fn headline(&self) -> Line {
        let Self { policy, revision, stable_revision, state, step, steps, state_age, .. } = self;
        let style = match *state {
            "SUCCEEDED" => Style::Good,
            "ROLLING_BACK" | "ROLLED_BACK" | "ABORTED" => Style::Bad,
            "PAUSED" | "AWAITING_APPROVAL" => Style::Waiting,
            _ => Style::Bold,
        };
        let change = match self.state {
            "SUCCEEDED" => format!("revision {revision}"),
            _ => format!("revision {stable_revision} -> {revision}"),
        };
        let line = Line::new(&format!("policy/{policy}  {change}  ")).and(style, state);
        line.and(Style::Plain, &format!(" for {state_age}, step {step} of {steps}"))
    }

    fn part(&self, number: u32, step: &str) -> Part<'_> {
        match number.cmp(&self.step) {
            std::cmp::Ordering::Less => Part::Done,
            std::cmp::Ordering::Equal => Part::Now(&self.counts),
            std::cmp::Ordering::Greater => {
                Part::ToCome(step.parse().ok().and_then(|step: Step| step.target(self.counts.reachable)))
            }
        }
    }

    fn step_line(&self, number: u32, step: &str, width: usize) -> Line {
        let label: String = step.chars().take(LABEL).collect();
        let part = self.part(number, step);
        let figures = match &part {
            Part::Done => "done".to_owned(),
            Part::Now(counts) if matches!(self.state, "ROLLING_BACK" | "ROLLED_BACK") => {
                format!("{} of {} back", counts.healthy, eligible(counts))
            }
            Part::Now(counts) => format!("{} of {}", counts.healthy, eligible(counts)),
            Part::ToCome(Some(agents)) => format!("{agents} agents"),
            Part::ToCome(None) => String::new(),
        };
        let line = Line::new(&format!("  {number:>2}  {label:<LABEL$} "));
        let line = match width.checked_sub(BESIDE).filter(|room| *room >= NARROWEST) {
            None => line,
            Some(room) => bar(line, &part, room.min(WIDEST)),
        };
        line.and(Style::Plain, &format!(" {figures}"))
    }

    /// The pace and the estimate, as far as there is anything to say.
    fn progress(&self, age_seconds: u64) -> impl Iterator<Item = String> {
        let pace = self
            .pace
            .as_ref()
            .map(|pace| format!("pace: {} healthy/s, {} offered/s", pace.healthy_per_second, pace.offered_per_second));
        let left = |seconds: u64| short_time(seconds.saturating_sub(age_seconds));
        let Estimate { step_seconds, seconds, unknown } = &self.estimate;
        let is_last = self.step == self.steps;
        let mut parts = Vec::new();
        parts.extend(step_seconds.filter(|_| !is_last).map(|step| format!("step done in about {}", left(step))));
        parts.extend(seconds.map(|all| format!("all done in about {}", left(all))));
        if parts.is_empty() || seconds.is_none() {
            parts.extend((!unknown.is_empty()).then(|| format!("time left not known: {unknown}")));
        }
        let estimate = (!parts.is_empty()).then(|| parts.join(", "));
        pace.into_iter().chain(estimate)
    }
}

fn eligible(counts: &Counts) -> u64 {
    counts.pending + counts.healthy + counts.failed
}

/// `#` healthy, `x` failed, `.` pending: also without colours they are told apart.
fn bar(line: Line, part: &Part<'_>, width: usize) -> Line {
    let (healthy, failed, pending) = match part {
        Part::Done => (width, 0, 0),
        Part::ToCome(_) => (0, 0, 0),
        Part::Now(counts) => {
            let all = eligible(counts).max(1);
            let cells = |agents: u64| (u128::from(agents) * width as u128 / u128::from(all)) as usize;
            // A few that failed are not overlooked.
            let failed = cells(counts.failed).max(usize::from(counts.failed > 0));
            let healthy = cells(counts.healthy).min(width - failed);
            let pending = if counts.pending > 0 { width - failed - healthy } else { 0 };
            (healthy, failed, pending)
        }
    };
    line.and(Style::Plain, "[")
        .and(Style::Good, &"#".repeat(healthy))
        .and(Style::Bad, &"x".repeat(failed))
        .and(Style::Waiting, &".".repeat(pending))
        .and(Style::Plain, &" ".repeat(width - healthy - failed - pending))
        .and(Style::Plain, "]")
}

/// Such as `1h 5m`, in two units at most.
fn short_time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..172_800 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

fn failures(failures: &[Failure]) -> impl Iterator<Item = Line> {
    failures.iter().map(|Failure { message, agents, examples }| {
        let such_as = examples.first().map(|uid| format!("  (such as {uid})")).unwrap_or_default();
        let words = if message.is_empty() { "(failed without a word)" } else { message };
        Line::new("  ").and(Style::Bad, &format!("{agents} x {words}")).and(Style::Dim, &such_as)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::admin::{self, RolloutState};

    fn rollout() -> admin::Rollout {
        admin::Rollout {
            policy: "base".into(),
            revision: 2,
            stable_revision: 1,
            state: RolloutState::Progressing.into(),
            step: 2,
            steps: 4,
            counts: Some(admin::RolloutCounts {
                matching: 2_010,
                in_cohort: 510,
                disconnected: 10,
                offered: 350,
                applied: 300,
                healthy: 240,
                failed: 3,
                pending: 257,
                reachable: 2_000,
                ..Default::default()
            }),
            errors: vec![admin::RolloutError {
                message: "bind: address\u{1b}[2J in use".into(),
                agents: 3,
                example_instance_uids: vec!["0192".into()],
            }],
            plan: Some(admin::RolloutPlan {
                steps: ["5%", "500", "ring in (a)", "100%"].map(str::to_owned).into(),
                ..Default::default()
            }),
            pace: Some(admin::RolloutPace { healthy_per_second: 12.345, offered_per_second: 20.0 }),
            estimate: Some(admin::RolloutEstimate {
                step_seconds: Some(75),
                seconds: Some(3_675),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn text(rollout: admin::Rollout, width: usize) -> String {
        let lines = Rollout::from(rollout).picture(width, 5);
        lines.iter().map(|line| line.fitted(width, false).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn a_rollout_is_drawn_with_what_there_is_to_know() {
        assert_eq!(
            text(rollout(), 76),
            "policy/base  revision 1 -> 2  PROGRESSING for -, step 2 of 4\n\
             \x20  1  5%           [####################################] done\n\
             \x20  2  500          [#################x..................] 240 of 500\n\
             \x20  3  ring in (a)  [                                    ]\n\
             \x20  4  100%         [                                    ] 2000 agents\n\
             \x20 510 of 2010 agents: 240 healthy, 3 failed, 257 pending (350 offered, 300 ~\n\
             \x20 not waited for: 10 disconnected, 0 not capable\n\
             \x20 pace: 12.35 healthy/s, 20 offered/s\n\
             \x20 step done in about 1m 10s, all done in about 1h 1m\n\
             \x20 3 x bind: address\u{fffd}[2J in use  (such as 0192)\n"
        );
    }

    #[test]
    fn however_narrow_every_line_fits() {
        for width in 0..200 {
            let mut rollout = rollout();
            rollout.reason = "x".repeat(300);
            for line in text(rollout, width).lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut waiting = rollout();
        waiting.state = RolloutState::AwaitingApproval.into();
        (waiting.pace, waiting.errors) = (None, Vec::new());
        waiting.estimate =
            Some(admin::RolloutEstimate { unknown: "it waits for approval".into(), ..Default::default() });
        let shown = text(waiting, 100);
        assert!(shown.ends_with("  time left not known: it waits for approval\n"), "{shown}");
        assert!(!shown.contains("pace"));
        assert_eq!([59, 60, 7_384, 180_000].map(short_time), ["59s", "1m 0s", "2h 3m", "2d 2h"]);
    }
}
