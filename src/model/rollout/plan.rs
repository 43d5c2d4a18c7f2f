//! How a change is to go out, as an operator states it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::model::{Selector, UnixMs};

/// Longest time that a plan may wait for anything.
pub const MAX_SECONDS: u32 = 30 * 24 * 3600;
pub const MAX_STEPS: usize = 32;
pub const MAX_WINDOWS: usize = 32;
const DEFAULT_DEADLINE_SECONDS: u32 = 300;
const DEFAULT_MIN_SAMPLE: u32 = 20;

/// Hundredths of a percent.
pub type BasisPoints = u32;
pub const ALL: BasisPoints = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// At least one; the last is everybody.
    pub steps: Vec<Step>,
    /// How long a step's agents have to stay well before the next.
    pub bake_seconds: u32,
    /// How long an agent may take from being offered the change to running it in good health.
    pub agent_deadline_seconds: u32,
    /// Of the agents of a step, how many may fail.
    pub max_failures: BasisPoints,
    /// Agents that must have succeeded or failed before their failures count; fewer if the step has fewer.
    pub min_sample: u32,
    pub on_failure: OnFailure,
    /// Each further step waits for an operator.
    pub approval: bool,
    /// Steps begin in one of these, if there are any.
    pub windows: Vec<Window>,
    /// An agent is only healthy while its effective configuration contains what it was offered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub effective_config: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    Pause,
    Rollback,
}

/// Whom a step adds to those before it: `10%` or `500` of the agents that match, or a selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Step {
    Percent(BasisPoints),
    Count(u64),
    Ring(Selector),
}

/// Hours of some days of the week, UTC: `mon-fri 22:00-04:00`, `sat,sun 00:00-24:00`, `* 09:00-17:00`. One that ends before it
/// begins goes on into the next day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// From Monday.
    days: [bool; 7],
    /// Minutes of the day.
    from: u32,
    to: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            steps: vec![Step::Percent(ALL)],
            bake_seconds: 0,
            agent_deadline_seconds: DEFAULT_DEADLINE_SECONDS,
            max_failures: 0,
            min_sample: DEFAULT_MIN_SAMPLE,
            on_failure: OnFailure::Rollback,
            approval: false,
            windows: Vec::new(),
            effective_config: false,
        }
    }
}

impl Plan {
    /// That of a policy which says nothing of it: to all at once, whatever becomes of it.
    pub fn at_once() -> Self {
        Self { max_failures: ALL, ..Self::default() }
    }

    /// What is wrong with it, by field.
    pub fn check(&self) -> Result<(), (String, String)> {
        let wrong = |field: &str, problem: String| Err((field.to_owned(), problem));
        if self.steps.is_empty() || self.steps.len() > MAX_STEPS {
            return wrong("steps", format!("must be 1 to {MAX_STEPS}"));
        }
        let mut before: Option<&Step> = None;
        for (index, step) in self.steps.iter().enumerate() {
            let field = format!("steps[{index}]");
            match step {
                Step::Percent(0) | Step::Count(0) => return wrong(&field, format!("{step} is nobody")),
                Step::Percent(percent) if *percent > ALL => return wrong(&field, format!("{step} is more than all")),
                _ => {}
            }
            let is_smaller = match (before, step) {
                (Some(Step::Percent(before)), Step::Percent(percent)) => *percent <= *before,
                (Some(Step::Count(before)), Step::Count(count)) => *count <= *before,
                _ => false,
            };
            if is_smaller {
                return wrong(&field, format!("{step} is not more than the step of its kind before it"));
            }
            if !matches!(step, Step::Ring(_)) {
                before = Some(step);
            }
        }
        if self.steps.last() != Some(&Step::Percent(ALL)) {
            return wrong("steps", "must end with 100%".to_owned());
        }
        let times = [("bake", self.bake_seconds), ("agent_deadline", self.agent_deadline_seconds)];
        for (field, seconds) in times {
            if seconds > MAX_SECONDS {
                return wrong(field, format!("must be at most {} days", MAX_SECONDS / 86_400));
            }
        }
        if self.agent_deadline_seconds == 0 {
            return wrong("agent_deadline", "must be longer than nothing".to_owned());
        }
        if self.max_failures > ALL {
            return wrong("max_failures", "must be at most 100%".to_owned());
        }
        if self.min_sample == 0 {
            return wrong("min_sample", "must be at least 1".to_owned());
        }
        if self.windows.len() > MAX_WINDOWS {
            return wrong("windows", format!("at most {MAX_WINDOWS} are possible"));
        }
        Ok(())
    }

    pub fn bake_ms(&self) -> i64 {
        i64::from(self.bake_seconds) * 1_000
    }

    pub fn agent_deadline_ms(&self) -> i64 {
        i64::from(self.agent_deadline_seconds) * 1_000
    }

    /// Whether a step may begin now.
    pub fn is_open(&self, now: UnixMs) -> bool {
        self.windows.is_empty() || self.windows.iter().any(|window| window.contains(now))
    }
}

/// Reads `2%` or `0.5%`.
pub fn parse_percent(text: &str) -> Result<BasisPoints, String> {
    let problem = || format!("{text:?} is not a percentage such as 2% or 0.5%, with two decimal places at most");
    let number = text.trim().strip_suffix('%').ok_or_else(problem)?.trim();
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(decimals) || decimals.len() > 2 || number.ends_with('.') {
        return Err(problem());
    }
    let whole: u32 = whole.parse().map_err(|_| problem())?;
    let decimals: u32 = format!("{decimals:0<2}").parse().map_err(|_| problem())?;
    whole.checked_mul(100).and_then(|whole| whole.checked_add(decimals)).ok_or_else(problem)
}

pub fn percent(points: BasisPoints) -> String {
    let (whole, decimals) = (points / 100, points % 100);
    let text = if decimals == 0 { whole.to_string() } else { format!("{whole}.{decimals:02}") };
    format!("{}%", if decimals == 0 { &text } else { text.trim_end_matches('0') })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(points) => f.write_str(&percent(*points)),
            Self::Count(count) => write!(f, "{count}"),
            Self::Ring(selector) => {
                let text = selector.to_string();
                if !looks_like_a_number(&text) {
                    return f.write_str(&text);
                }
                // A key that is to be told from a number.
                let end = text.find([' ', ',']).unwrap_or(text.len());
                let (key, rest) = text.split_at(end);
                write!(f, "\"{key}\"{rest}")
            }
        }
    }
}

/// Whether a step with this text is meant as a percentage or a number of agents. A key of a selector that begins so is quoted.
fn looks_like_a_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.ends_with('%') {
            return parse_percent(text).map(Self::Percent);
        }
        if text.is_empty() {
            return Err("must be a percentage, a number of agents, or a selector".to_owned());
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::Count).map_err(|_| format!("{text} agents are too many"));
        }
        if looks_like_a_number(text) {
            return Err(format!("{text:?} is neither a number of agents nor a percentage such as 2% or 0.5%"));
        }
        text.parse().map(Self::Ring).map_err(|error: crate::model::selector::InvalidSelector| error.to_string())
    }
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MINUTES_PER_DAY: u32 = 24 * 60;

impl Window {
    fn contains(&self, now: UnixMs) -> bool {
        let minutes = now.div_euclid(60_000);
        let minute = minutes.rem_euclid(i64::from(MINUTES_PER_DAY)) as u32;
        // 1970-01-01 was a Thursday.
        let day = (minutes.div_euclid(i64::from(MINUTES_PER_DAY)) + 3).rem_euclid(7) as usize;
        if self.from < self.to {
            return self.days[day] && (self.from..self.to).contains(&minute);
        }
        let day_before = (day + 6) % 7;
        self.days[day] && minute >= self.from || self.days[day_before] && minute < self.to
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = |what: &str| format!("{text:?}: {what}; a window is written like mon-fri 22:00-04:00, in UTC");
        let mut words = text.split_whitespace();
        let (Some(on), Some(hours), None) = (words.next(), words.next(), words.next()) else {
            return Err(problem("days and hours are needed"));
        };
        let day = |name: &str| {
            let at = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
            at.ok_or_else(|| problem(&format!("{name:?} is not a day of the week")))
        };
        let mut days = [on == "*"; 7];
        for part in on.split(',').filter(|_| on != "*") {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (day(first)?, day(last)?);
            for offset in 0..=(last + 7 - first) % 7 {
                days[(first + offset) % 7] = true;
            }
        }
        let minute = |time: &str| {
            let (hour, minute) = time.split_once(':')?;
            let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
            (minute < 60 && hour * 60 + minute <= MINUTES_PER_DAY && hour <= 24).then(|| hour * 60 + minute)
        };
        let times = hours.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
        let (from, to) = times.ok_or_else(|| problem(&format!("{hours:?} are not hours of a day")))?;
        if from == to || from == MINUTES_PER_DAY {
            return Err(problem(&format!("{hours:?} is no time at all")));
        }
        Ok(Self { days, from, to })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.days {
            days if days == [true; 7] => f.write_str("*")?,
            days => {
                let named: Vec<_> = DAYS.iter().zip(days).filter(|(_, on)| *on).map(|(name, _)| *name).collect();
                f.write_str(&named.join(","))?;
            }
        }
        let time = |minutes: u32| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        write!(f, " {}-{}", time(self.from), time(self.to))
    }
}

/// As it is stored. Earlier versions took for a selector what looks like a number.
impl TryFrom<String> for Step {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().or_else(|problem| text.parse().map(Self::Ring).map_err(|_| problem))
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Step> for String {
    fn from(step: Step) -> Self {
        step.to_string()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact_to_two_places() {
        for (text, points) in [("1%", 100), ("0.5%", 50), ("33.33%", 3_333), ("100%", ALL), ("0%", 0)] {
            assert_eq!(parse_percent(text), Ok(points));
            assert_eq!(percent(points), text);
        }
        for text in ["1", "%", "-1%", "1.234%", "1.%", ".5%", "x%", "99999999999%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn steps_are_percentages_counts_or_selectors() {
        for text in ["1%", "500", "ring = canary"] {
            let step: Step = text.parse().unwrap();
            assert_eq!(step.to_string().parse(), Ok(step));
        }
        assert!(matches!("ring=canary".parse(), Ok(Step::Ring(_))));
        assert!("ring in (".parse::<Step>().unwrap_err().contains("position"));
        assert!("".parse::<Step>().is_err());
    }

    #[test]
    fn a_step_that_looks_like_a_number_is_no_selector() {
        for text in ["0.5", "10x", "-5", "+5", ".5", "1 0", "5 = x", "1e3"] {
            let problem = text.parse::<Step>().unwrap_err();
            assert!(problem.contains("is neither a number of agents nor a percentage"), "{text}: {problem}");
        }
        assert!(matches!(Step::try_from("0.5".to_owned()), Ok(Step::Ring(_))), "as it may be stored");
        for text in ["\"5g\" = yes", "\"5g\"", "\"5g\", zone = a", "!5g"] {
            let step: Step = text.parse().unwrap();
            assert!(matches!(step, Step::Ring(_)));
            assert_eq!(step.to_string(), text);
            assert_eq!(step.to_string().parse(), Ok(step));
        }
    }

    #[test]
    fn plans_are_checked_with_the_field() {
        let plan = |steps: &[&str]| Plan {
            steps: steps.iter().map(|step| step.parse().unwrap()).collect(),
            ..Plan::default()
        };
        assert_eq!(plan(&["ring = canary", "5", "10%", "100%"]).check(), Ok(()));
        let field = |plan: Plan| plan.check().unwrap_err().0;
        assert_eq!(field(plan(&[])), "steps");
        assert_eq!(field(plan(&["10%"])), "steps");
        assert_eq!(field(plan(&["10%", "5%", "100%"])), "steps[1]");
        assert_eq!(field(plan(&["0%", "100%"])), "steps[0]");
        assert_eq!(field(plan(&["100%", "101%"])), "steps[1]");
        assert_eq!(field(Plan { max_failures: ALL + 1, ..Plan::default() }), "max_failures");
        assert_eq!(field(Plan { agent_deadline_seconds: 0, ..Plan::default() }), "agent_deadline");
        assert_eq!(field(Plan { bake_seconds: MAX_SECONDS + 1, ..Plan::default() }), "bake");
    }

    #[test]
    fn windows_open_by_day_and_hour() {
        // 2026-11-25, a Wednesday, 00:00 UTC.
        const WEDNESDAY: UnixMs = 1_795_564_800_000;
        const HOUR: UnixMs = 3_600_000;
        let is_open = |text: &str, hours: i64| text.parse::<Window>().unwrap().contains(WEDNESDAY + hours * HOUR);
        assert!(is_open("wed 09:00-17:00", 9) && !is_open("wed 09:00-17:00", 17) && !is_open("wed 09:00-17:00", 33));
        assert!(is_open("wed 22:00-04:00", 23) && is_open("wed 22:00-04:00", 27) && !is_open("wed 22:00-04:00", 3));
        assert!(is_open("sat-wed 00:00-24:00", 5) && !is_open("sat-tue 00:00-24:00", 5));
        assert!(is_open("* 05:00-06:00", 5));
        for text in ["wed", "wed 9-17", "day 09:00-10:00", "wed 09:00-09:00", "wed 25:00-26:00", "wed 24:00-01:00"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
        let window: Window = "fri-mon 22:00-04:00".parse().unwrap();
        assert_eq!(window.to_string(), "mon,fri,sat,sun 22:00-04:00");
        assert_eq!(window.to_string().parse(), Ok(window));
    }
}
