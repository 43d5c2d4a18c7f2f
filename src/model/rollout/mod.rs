//! Rollouts: how the change from a policy's stable revision to its newest goes out, step by step.
//!
//! A rollout's [`Cohort`] says which agents get the new revision; everybody else has the stable one. [`advance()`] makes the
//! next state of a rollout from what was [`Seen`] of the fleet, and nothing else does but an operator ([`control()`]).

mod advance;
mod agent;
mod cohort;
mod control;
mod errors;
mod pace;
mod plan;
#[cfg(test)]
mod simulation;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use advance::advance;
pub use agent::{Standing, overdue_at, reached, standing, waiting};
pub use cohort::{Candidates, Cohort};
pub use control::{Control, Refused, control};
pub use errors::{Errors, MostFrequent};
pub use pace::{Estimate, Pace, Trail};
pub use plan::{ALL, BasisPoints, MAX_SECONDS, OnFailure, Plan, Step, Window, parse_percent, percent};

use super::{UnixMs, policy::PolicyKind};

#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    pub id: Uuid,
    pub policy: String,
    pub kind: PolicyKind,
    /// The one that goes out.
    pub revision: u64,
    /// What agents outside the cohort have; 0 if the policy has no other revision to give.
    pub stable: u64,
    pub plan: Plan,
    /// The plan is only that all get it at once: the revision is the stable one from the start.
    pub at_once: bool,
    pub state: State,
    /// From 1; 0 before the first began.
    pub step: u32,
    /// Of the agents' positions, those below it are in; see [`Cohort`].
    pub threshold: u64,
    /// Positions of further agents that are in, each because it was connected when a step began and nobody below the threshold was.
    pub besides: Vec<u64>,
    /// When the step began. Agents that were first seen later are not in, unless all are.
    pub step_since: UnixMs,
    /// When the state was entered.
    pub since: UnixMs,
    /// Failures that an operator has seen and went on with.
    pub forgiven: u64,
    /// Why it is in its state, for people.
    pub reason: String,
    pub author: String,
    pub created_at: UnixMs,
    pub ended_at: Option<UnixMs>,
    /// Grows with every change of state.
    pub version: i64,
    /// As last seen by whoever drives it.
    pub counts: Counts,
    pub seen_at: Option<UnixMs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    Pending,
    Progressing,
    Baking,
    AwaitingApproval,
    Paused,
    Succeeded,
    RollingBack,
    RolledBack,
    Aborted,
}

impl State {
    pub const EVERY: [Self; 9] = [
        Self::Pending,
        Self::Progressing,
        Self::Baking,
        Self::AwaitingApproval,
        Self::Paused,
        Self::Succeeded,
        Self::RollingBack,
        Self::RolledBack,
        Self::Aborted,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Progressing => "PROGRESSING",
            Self::Baking => "BAKING",
            Self::AwaitingApproval => "AWAITING_APPROVAL",
            Self::Paused => "PAUSED",
            Self::Succeeded => "SUCCEEDED",
            Self::RollingBack => "ROLLING_BACK",
            Self::RolledBack => "ROLLED_BACK",
            Self::Aborted => "ABORTED",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|state| state.name() == name)
    }

    pub fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::RolledBack | Self::Aborted)
    }

    /// Whether the cohort has the new revision.
    pub fn is_in_force(self) -> bool {
        matches!(self, Self::Progressing | Self::Baking | Self::AwaitingApproval | Self::Paused)
    }
}

/// What was seen of the agents of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Agents that either revision selects.
    pub matching: u64,
    /// Of those, the ones with an override, which take no part in it.
    pub overridden: u64,
    /// Of those, the ones that are to have the new revision (when rolling back: that had it).
    pub in_cohort: u64,
    /// Of those in the cohort; the same with all that follow.
    pub disconnected: u64,
    pub not_capable: u64,
    /// Connected and not there yet, whether or not they were offered it.
    pub pending: u64,
    /// Were offered what they should have, whatever became of it.
    pub offered: u64,
    /// Run what they should have.
    pub applied: u64,
    /// Run it and are not unhealthy.
    pub healthy: u64,
    pub failed: u64,
    /// The most frequent words of those that failed, alike but for numbers and the like.
    pub errors: BTreeMap<String, u64>,
    /// Some of the agents that say each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub examples: BTreeMap<String, Vec<String>>,
    /// Of those matching, the ones that are connected and accept this kind of offer, in the cohort or not.
    pub reachable: u64,
    /// As they were when it began to roll back; what is counted from then on is the way back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Box<Counts>>,
    /// Of those matching, the ones that take part and accept this kind of offer, connected or not, in the cohort or not.
    pub capable: u64,
    /// How the counts came to be what they are.
    #[serde(skip_serializing_if = "Trail::is_empty")]
    pub trail: Trail,
}

impl Counts {
    /// Agents that take part in the judgement.
    pub fn eligible(&self) -> u64 {
        self.pending + self.healthy + self.failed
    }
}

/// The fleet, as whoever drives a rollout saw it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub counts: Counts,
    /// Whom the next step may reach, if all agents have just been read.
    pub candidates: Option<Candidates>,
}

impl Rollout {
    /// One that has not begun, or that has if it goes to everybody `at_once`.
    pub fn new(id: Uuid, policy: &str, kind: PolicyKind, revisions: (u64, u64), plan: Option<&Plan>) -> Self {
        let (stable, revision) = revisions;
        let at_once = plan.is_none();
        Self {
            id,
            policy: policy.to_owned(),
            kind,
            revision,
            stable,
            plan: plan.cloned().unwrap_or_else(Plan::at_once),
            at_once,
            state: if at_once { State::Progressing } else { State::Pending },
            step: u32::from(at_once),
            threshold: if at_once { u64::MAX } else { 0 },
            besides: Vec::new(),
            step_since: 0,
            since: 0,
            forgiven: 0,
            reason: String::new(),
            author: String::new(),
            created_at: 0,
            ended_at: None,
            version: 1,
            counts: Counts::default(),
            seen_at: None,
        }
    }

    pub fn made_by(self, author: &str, now: UnixMs) -> Self {
        Self { author: author.to_owned(), created_at: now, since: now, step_since: now, ..self }
    }

    /// Those who have had the new revision, whether they still do or not.
    pub fn cohort(&self) -> Cohort {
        Cohort::new(self)
    }

    /// Whether agents in the cohort have another revision than the stable one.
    pub fn divides(&self) -> bool {
        !self.at_once && self.state.is_in_force()
    }

    /// Whether its step lets in nobody, although there are agents that could take the change: there were none when it began.
    fn is_hollow(&self, counts: &Counts) -> bool {
        let is_begun = matches!(self.state, State::Progressing | State::Baking) && !self.at_once;
        is_begun && self.step > 0 && counts.capable > 0 && counts.in_cohort == counts.not_capable
    }

    /// How many steps there are before the one that begins next. One that lets in nobody begins anew.
    pub fn steps_before_next(&self) -> u32 {
        self.step - u32::from(self.is_hollow(&self.counts))
    }

    fn enter(&mut self, state: State, reason: impl Into<String>, now: UnixMs) {
        if state == State::RollingBack {
            let stopped = Counts { stopped: None, trail: Trail::default(), ..self.counts.clone() };
            self.counts.stopped = Some(Box::new(stopped));
        }
        self.state = state;
        self.reason = reason.into();
        self.since = now;
        self.ended_at = state.is_ended().then_some(now);
    }
}
