//! How fast a rollout goes, and how long it may still take.

use serde::{Deserialize, Serialize};

use super::{Counts, Rollout, State, Step};
use crate::model::UnixMs;

/// The pace is that of so long.
const LATELY_MS: i64 = 60_000;
/// Samples are about so far apart, but for the newest.
const SPACING_MS: i64 = 5_000;
/// A pace of a shorter time says nothing.
const SHORTEST_MS: i64 = 1_000;
const NO_PACE: &str = "no agent has become healthy lately";

/// How the counts of a step came to be what they are: the first that was seen of it, and the last minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Trail(Vec<Sample>);

/// Time, and agents that were healthy and were offered the revision then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(UnixMs, u64, u64)", into = "(UnixMs, u64, u64)")]
struct Sample {
    at: UnixMs,
    healthy: u64,
    offered: u64,
}

impl From<(UnixMs, u64, u64)> for Sample {
    fn from((at, healthy, offered): (UnixMs, u64, u64)) -> Self {
        Self { at, healthy, offered }
    }
}

impl From<Sample> for (UnixMs, u64, u64) {
    fn from(sample: Sample) -> Self {
        (sample.at, sample.healthy, sample.offered)
    }
}

/// Agents a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Became healthy.
    pub healthy: f64,
    /// Were offered what they should have.
    pub offered: f64,
}

/// What is left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Of the present step, until the next may begin.
    pub step_ms: Option<i64>,
    /// Of all.
    pub rollout_ms: Option<i64>,
    /// Why one of them is not known.
    pub unknown: Option<&'static str>,
}

impl Trail {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With what is seen now, which is noted if it is something else than before.
    #[must_use]
    pub fn then(&self, rollout: &Rollout, counts: &Counts, now: UnixMs) -> Self {
        let begun = begun(rollout);
        let mut samples: Vec<Sample> = self.0.iter().filter(|sample| sample.at >= begun).copied().collect();
        if samples.is_empty()
            && let Some(before) = self.0.last().filter(|_| rollout.state != State::RollingBack)
        {
            // As it was when the step began.
            samples.push(Sample { at: begun, ..*before });
        }
        let seen = Sample { at: now, healthy: counts.healthy, offered: counts.offered };
        let is_news = samples.last().is_none_or(|last| (last.healthy, last.offered) != (seen.healthy, seen.offered));
        if is_news {
            // One between two that are close says little.
            if let [.., before, _] = samples[..]
                && now.saturating_sub(before.at) < SPACING_MS
            {
                samples.pop();
            }
            samples.push(seen);
        }
        // Of what is older than a minute the newest is kept, beside the first.
        while samples.len() > 2 && now.saturating_sub(samples[2].at) > LATELY_MS {
            samples.remove(1);
        }
        Self(samples)
    }

    /// Lately, as of `at`. `None` if too little was seen.
    fn lately(&self, at: UnixMs) -> Option<Pace> {
        let last = self.0.last()?;
        let horizon = at.saturating_sub(LATELY_MS);
        let from = self.0.iter().rfind(|sample| sample.at <= horizon).or(self.0.first())?;
        // After a longer time than between samples, nothing had changed until the horizon.
        let since = if from.at < horizon.saturating_sub(SPACING_MS) { horizon } else { from.at };
        pace(from, last, at.saturating_sub(since))
    }

    /// From the step's beginning until nothing changed any more.
    fn working(&self) -> Option<Pace> {
        let (first, last) = (self.0.first()?, self.0.last()?);
        pace(first, last, last.at.saturating_sub(first.at))
    }
}

fn pace(from: &Sample, to: &Sample, ms: i64) -> Option<Pace> {
    let per_second = |from: u64, to: u64| to.saturating_sub(from) as f64 * 1_000.0 / ms as f64;
    (ms >= SHORTEST_MS)
        .then(|| Pace { healthy: per_second(from.healthy, to.healthy), offered: per_second(from.offered, to.offered) })
}

fn begun(rollout: &Rollout) -> UnixMs {
    match rollout.state {
        // Since it was resumed, if it was.
        State::RollingBack | State::Progressing => rollout.since,
        _ => rollout.step_since,
    }
}

impl Rollout {
    /// When its agents were seen last; `None` if none is moving.
    pub fn pace(&self) -> Option<Pace> {
        let is_moving = matches!(self.state, State::Progressing | State::Baking | State::RollingBack);
        self.seen_at.filter(|_| is_moving).and_then(|at| self.counts.trail.lately(at))
    }

    /// As of when its agents were seen last.
    pub fn estimate(&self) -> Estimate {
        let unknown = |why| Estimate { unknown: Some(why), ..Estimate::default() };
        let Some(at) = self.seen_at.filter(|at| *at >= begun(self)) else {
            return if self.state.is_ended() {
                Estimate::default()
            } else {
                unknown("its agents have not been looked at yet")
            };
        };
        match self.state {
            State::Succeeded | State::RolledBack | State::Aborted => Estimate::default(),
            State::Pending if !self.plan.is_open(at) => unknown("it waits for one of its windows"),
            State::Pending => unknown("it has not begun"),
            State::Paused => unknown("it is paused"),
            State::AwaitingApproval => unknown("it waits for approval"),
            State::RollingBack => match self.to_come(self.counts.pending) {
                None => unknown(NO_PACE),
                some => Estimate { rollout_ms: some, ..Estimate::default() },
            },
            State::Progressing | State::Baking => self.estimate_steps(at),
        }
    }

    fn estimate_steps(&self, at: UnixMs) -> Estimate {
        let unknown = |step_ms, why| Estimate { step_ms, rollout_ms: None, unknown: Some(why) };
        let Some(agents_ms) = self.to_come(self.counts.pending) else {
            return unknown(None, NO_PACE);
        };
        let bake_ms = match self.state {
            State::Baking => self.since.saturating_add(self.plan.bake_ms()).saturating_sub(at).max(0),
            _ => self.plan.bake_ms(),
        };
        let step_ms = match self.state {
            State::Baking => agents_ms.max(bake_ms),
            _ => agents_ms.saturating_add(bake_ms),
        };
        let (mut ms, mut inside) = (step_ms, self.counts.eligible());
        for step in self.plan.steps.iter().skip(self.step as usize) {
            if self.plan.approval {
                return unknown(Some(step_ms), "further steps wait for approval");
            }
            if !self.plan.is_open(at.saturating_add(ms)) {
                return unknown(Some(step_ms), "a further step waits for one of the windows");
            }
            let Some(target) = step.target(self.counts.reachable) else {
                return unknown(Some(step_ms), "how many agents a further step selects is not known");
            };
            let Some(agents_ms) = self.to_come(target.saturating_sub(inside)) else {
                return unknown(Some(step_ms), "the pace is not known yet");
            };
            ms = ms.saturating_add(agents_ms).saturating_add(self.plan.bake_ms());
            inside = inside.max(target);
        }
        Estimate { step_ms: Some(step_ms), rollout_ms: Some(ms), unknown: None }
    }

    /// How long so many agents take. At the pace of the last minute, or if the step's agents are all there, at that of the step.
    fn to_come(&self, agents: u64) -> Option<i64> {
        if agents == 0 {
            return Some(0);
        }
        let lately = if self.counts.pending > 0 { self.pace() } else { self.counts.trail.working() };
        let per_second = lately?.healthy;
        (per_second > 0.0).then(|| (agents as f64 * 1_000.0 / per_second).ceil() as i64)
    }
}

impl Step {
    /// How many of the agents that can be reached are in after it; `None` if its selector says.
    pub fn target(&self, reachable: u64) -> Option<u64> {
        match self {
            Self::Percent(points) => {
                let exact = u128::from(*points) * u128::from(reachable);
                u64::try_from(exact.div_ceil(u128::from(super::ALL))).ok()
            }
            Self::Count(count) => Some(reachable.min(*count)),
            Self::Ring(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::model::{policy::PolicyKind, rollout::Plan};

    const START: UnixMs = 1_000_000;

    fn rollout(steps: &[&str], bake_seconds: u32) -> Rollout {
        let steps = steps.iter().map(|step| step.parse().unwrap()).collect();
        let plan = Plan { steps, bake_seconds, ..Plan::default() };
        let rollout = Rollout::new(Uuid::from_u128(1), "p", PolicyKind::Config, (1, 2), Some(&plan));
        Rollout { state: State::Progressing, step: 1, step_since: START, since: START, ..rollout }
    }

    /// Sees so many healthy of so many, so many milliseconds after the start.
    fn see(rollout: &mut Rollout, after_ms: i64, healthy: u64, of: u64) {
        let counts = Counts {
            in_cohort: of,
            healthy,
            pending: of - healthy,
            offered: of,
            reachable: 1_000,
            ..Counts::default()
        };
        let trail = rollout.counts.trail.then(rollout, &counts, START + after_ms);
        rollout.counts = Counts { trail, ..counts };
        rollout.seen_at = Some(START + after_ms);
    }

    #[test]
    fn the_pace_is_that_of_the_last_minute() {
        let mut rollout = rollout(&["100%"], 0);
        assert_eq!((rollout.pace(), rollout.estimate().step_ms), (None, None));
        see(&mut rollout, 0, 0, 1_000);
        assert_eq!(rollout.pace(), None);
        for second in 1..=100 {
            see(&mut rollout, second * 1_000, second as u64 * 2, 1_000);
        }
        assert_eq!(rollout.pace().map(|pace| pace.healthy), Some(2.0));
        assert_eq!(rollout.estimate(), Estimate { step_ms: Some(400_000), rollout_ms: Some(400_000), unknown: None });
        // Ten times as fast for half a minute.
        for second in 101..=130 {
            see(&mut rollout, second * 1_000, 200 + (second as u64 - 100) * 20, 1_000);
        }
        assert!((rollout.pace().unwrap().healthy - 11.0).abs() < 1.0, "{:?}", rollout.pace());
        assert!(rollout.counts.trail.0.len() <= 20, "{:?}", rollout.counts.trail);
        // Nothing more for a minute: nobody knows.
        see(&mut rollout, 200_000, 800, 1_000);
        assert_eq!(rollout.pace().map(|pace| pace.healthy), Some(0.0));
        assert_eq!(rollout.estimate().unknown, Some("no agent has become healthy lately"));
    }

    #[test]
    fn further_steps_and_their_bakes_are_in_the_estimate() {
        let mut rollout = rollout(&["10%", "50%", "100%"], 60);
        see(&mut rollout, 0, 0, 100);
        see(&mut rollout, 5_000, 50, 100);
        // 5 s for the rest of the step; 40 s and 50 s for the others, and each bakes.
        let expected = Estimate { step_ms: Some(65_000), rollout_ms: Some(65_000 + 100_000 + 110_000), unknown: None };
        assert_eq!(rollout.estimate(), expected);
        see(&mut rollout, 10_000, 100, 100);
        (rollout.state, rollout.since) = (State::Baking, START + 10_000);
        see(&mut rollout, 50_000, 100, 100);
        // However long it bakes, the pace of its agents is known.
        let expected = Estimate { step_ms: Some(20_000), rollout_ms: Some(20_000 + 100_000 + 110_000), unknown: None };
        assert_eq!(rollout.estimate(), expected);
        rollout.plan.approval = true;
        assert_eq!(rollout.estimate().unknown, Some("further steps wait for approval"));
        assert_eq!(rollout.estimate().step_ms, Some(20_000));
        rollout.state = State::AwaitingApproval;
        assert_eq!((rollout.pace(), rollout.estimate().step_ms), (None, None));
    }

    #[test]
    fn a_step_is_measured_from_its_beginning() {
        let mut rollout = rollout(&["10%", "100%"], 0);
        see(&mut rollout, 0, 0, 100);
        see(&mut rollout, 2_000, 100, 100);
        (rollout.step, rollout.step_since, rollout.since) = (2, START + 100_000, START + 100_000);
        see(&mut rollout, 101_000, 150, 1_000);
        assert_eq!(rollout.pace().map(|pace| pace.healthy), Some(50.0));
        (rollout.state, rollout.since) = (State::RollingBack, START + 200_000);
        assert_eq!(rollout.estimate().unknown, Some("its agents have not been looked at yet"));
        see(&mut rollout, 200_000, 0, 1_000);
        see(&mut rollout, 210_000, 500, 1_000);
        assert_eq!(rollout.estimate().rollout_ms, Some(10_000));
        see(&mut rollout, 220_000, 501, 1_000);
        assert_eq!(rollout.estimate().rollout_ms, Some(19_921));
        see(&mut rollout, 310_000, 501, 1_000);
        assert_eq!((rollout.estimate().rollout_ms, rollout.estimate().unknown), (None, Some(NO_PACE)));
    }

    proptest! {
        #[test]
        fn estimates_are_never_negative_and_trails_stay_short(
            looks in prop::collection::vec((-2_000_i64..20_000, 0_u64..1_000, 0_u64..3), 0..200),
            bake in 0_u32..100,
        ) {
            let mut rollout = rollout(&["10%", "100%"], bake);
            let mut at = 0;
            for (after, healthy, state) in looks {
                at += after;
                see(&mut rollout, at, healthy, 1_000);
                rollout.state = [State::Progressing, State::Baking, State::RollingBack][state as usize];
                let Estimate { step_ms, rollout_ms, unknown } = rollout.estimate();
                prop_assert!(step_ms.is_none_or(|ms| ms >= 0) && rollout_ms.is_none_or(|ms| ms >= 0));
                prop_assert!(step_ms.is_none_or(|step| rollout_ms.is_none_or(|all| all >= step)));
                prop_assert_eq!(unknown.is_none(), rollout_ms.is_some());
                prop_assert!(rollout.pace().is_none_or(|pace| pace.healthy >= 0.0 && pace.healthy.is_finite()));
                prop_assert!(rollout.counts.trail.0.len() <= 40, "{:?}", rollout.counts.trail);
            }
            let text = serde_json::to_string(&rollout.counts).unwrap();
            prop_assert_eq!(serde_json::from_str::<Counts>(&text).unwrap(), rollout.counts);
        }
    }
}
