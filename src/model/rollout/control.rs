//! What operators do with a rollout.

use super::{Rollout, Seen, State, advance::begin};
use crate::model::UnixMs;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Nothing further happens by itself; agents keep what they have.
    Pause,
    /// Goes on in the step where it was paused; failures up to now no longer count.
    Resume,
    /// Passes over what the present step waits for.
    Promote,
    /// Passes over all further steps: everybody gets it.
    PromoteFully,
    /// Ends it; everybody has the stable revision again.
    Abort,
    /// As abort, and is looked after until all are back.
    RollBack,
}

impl Control {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::PromoteFully => "promote fully",
            Self::Abort => "abort",
            Self::RollBack => "roll back",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The rollout after what an operator wants of it. `seen` serves to begin a step, and need not be new.
pub fn control(rollout: &Rollout, control: Control, seen: &Seen, actor: &str, now: UnixMs) -> Result<Rollout, Refused> {
    use State::{Aborted, AwaitingApproval, Baking, Paused, Pending, Progressing, RollingBack, Succeeded};
    let refused =
        |why: &str| Err(Refused(format!("the rollout of {} is {}: {why}", rollout.policy, rollout.state.name())));
    if rollout.state.is_ended() {
        return refused("it has ended");
    }
    let mut next = rollout.clone();
    next.version += 1;
    let by = format!("by {actor}");
    let is_last = rollout.step as usize >= rollout.plan.steps.len();
    match (control, rollout.state) {
        (Control::Pause, Pending | Progressing | Baking | AwaitingApproval) if !rollout.at_once => {
            next.enter(Paused, format!("paused {by}"), now);
        }
        (Control::Pause, _) if rollout.at_once => {
            return refused("it goes to all at once, and there is nothing to stop");
        }
        (Control::Pause, _) => return refused("there is nothing to pause"),
        (Control::Resume, Paused) => {
            next.forgiven = rollout.counts.failed;
            let state = if rollout.step == 0 { Pending } else { Progressing };
            next.enter(state, "", now);
        }
        (Control::Resume, _) => return refused("it is not paused"),
        (Control::Abort | Control::RollBack, _) if rollout.at_once => {
            return refused("all agents have its revision already; apply another, or undo");
        }
        (Control::Abort, _) => next.enter(Aborted, format!("aborted {by}"), now),
        (Control::RollBack, RollingBack) => return refused("it rolls back already"),
        (Control::RollBack, _) => next.enter(RollingBack, format!("rolled back {by}"), now),
        (_, RollingBack) => return refused("it rolls back"),
        (Control::PromoteFully, _) if !is_last => {
            next.step = next.plan.steps.len() as u32;
            next.threshold = u64::MAX;
            next.step_since = now;
            next.forgiven = rollout.counts.failed;
            next.enter(Progressing, format!("promoted {by}"), now);
        }
        (Control::Promote, _) if !is_last => {
            next.forgiven = rollout.counts.failed;
            // An operator's word goes above the windows.
            begin(&mut next, rollout.step, seen, now);
            next.reason = match &*next.reason {
                "" => format!("promoted {by}"),
                reason => format!("{reason}; promoted {by}"),
            };
        }
        (Control::Promote | Control::PromoteFully, _) => next.enter(Succeeded, format!("promoted {by}"), now),
    }
    Ok(next)
}
