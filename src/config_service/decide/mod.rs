//! The decisions of the config service: what a report, or a change of policies, makes of an agent's record.
//!
//! Architecture invariant: no I/O, no clock, and nothing but the record, the policies and the time decides, so that
//! any replica comes to the same result, and twice does no harm.

mod reconcile;
mod report;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub use reconcile::{Change, Offer, reconcile};
pub use report::{Connection, Context, Decided, Found, Outcome, Resolution, decide};

use super::policies::{Snapshot, Target};
use crate::model::{AgentRecord, Attributes, UnixMs};

/// Computes what the agent should have. `None`, and nothing changes, while the agent's attributes are not known (it would get
/// the wrong configuration first), or if the record was decided by newer policies than these.
fn recompute(record: &mut AgentRecord, policies: &Snapshot, now: UnixMs) -> Option<Target> {
    let observed = &record.observed;
    let attributes_are_known = observed.complete || !observed.description.is_empty();
    if !attributes_are_known || record.desired.epoch > policies.epoch() {
        return None;
    }
    let target = policies.target(&Attributes::decode(&observed.description), &record.labels);
    record.desired.set(target.config.as_ref().map(|config| config.hash), policies.epoch(), now);
    Some(target)
}
