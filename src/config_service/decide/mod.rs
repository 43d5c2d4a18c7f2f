//! The decisions of the config service: what a report, or a change of policies, makes of an agent's record.
//!
//! Architecture invariant: no I/O, no clock, and nothing but the record, the policies and the time decides, so that
//! any replica comes to the same result, and twice does no harm.

#[cfg(test)]
mod afresh;
#[cfg(test)]
mod paced;
#[cfg(test)]
mod reached;
mod reconcile;
mod report;
#[cfg(test)]
mod simulation;
mod succession;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub use reconcile::{Change, Offer, reconcile};
pub use report::{Connection, Context, Decided, Found, Outcome, Resolution, decide};
pub use succession::{Succession, succession};

use std::sync::Arc;

use super::policies::{Pace, Rollouts, Snapshot};
use crate::model::{
    AgentRecord, Attributes, ContentHash, UnixMs,
    agent::Lost,
    desired::{DesiredConfig, DesiredOffer},
    effective::Effective,
    offer::{Convergence, convergence},
    policy::PolicyKind,
    settings,
};

/// What the hashes that an agent should have stand for, as far as they were computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meaning {
    pub config: Option<Arc<DesiredConfig>>,
    pub packages: Option<Arc<DesiredOffer>>,
    pub connection_settings: Option<Arc<DesiredOffer>>,
    /// Whose new revisions it comes of.
    pub rollouts: Option<Rollouts>,
}

/// What the agent should have of one kind, by these policies; its record may not be as far. Why not, if that cannot
/// be made.
pub fn wanted(
    record: &AgentRecord,
    attributes: &Attributes,
    policies: &Snapshot,
    kind: PolicyKind,
) -> Result<Option<ContentHash>, String> {
    if kind == PolicyKind::Config {
        return policies.wanted_config(record, attributes);
    }
    let target = policies.merged(record, attributes);
    Ok(match kind {
        PolicyKind::Config => None,
        PolicyKind::Packages => target.packages.map(|offer| offer.hash),
        PolicyKind::ConnectionSettings => {
            let mut desired = record.desired.clone();
            let (offered, observed) = (&target.connection_settings, &record.observed);
            settings::offer(offered, observed, &mut desired, policies.opamp_url()).map(|offer| offer.hash)
        }
    })
}

/// Notes which rollouts have reached the agent, if it was decided by these policies: it is offered what they bring, or has that
/// already. `rollouts`: what [`recompute`] found, if it did. `before`: the generations of what it should have.
fn note_reached(
    record: &mut AgentRecord,
    policies: &Snapshot,
    rollouts: Option<&Rollouts>,
    offered: &[PolicyKind],
    before: [u64; 3],
) {
    let may_concern = policies.is_divided() || !record.desired.reached.is_empty();
    if record.desired.epoch != policies.epoch() || !may_concern {
        return;
    }
    let mut kinds = offered.to_vec();
    for (kind, generation) in PolicyKind::ALL.into_iter().zip(before) {
        let is_new = record.desired.of(kind).generation != generation;
        let has_it = || {
            matches!(
                convergence(record, kind),
                Convergence::Converged | Convergence::Applying | Convergence::Quarantined
            )
        };
        if is_new && has_it() {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() {
        return;
    }
    let rollouts = match rollouts {
        Some(rollouts) => rollouts.clone(),
        None => policies.merged(record, &Attributes::decode(&record.observed.description)).rollouts,
    };
    let reached = &mut record.desired.reached;
    reached.retain(|id| policies.is_dividing(*id));
    reached.extend(rollouts.iter().filter(|(kind, _)| kinds.contains(kind)).map(|(_, id)| *id));
}

fn generations(record: &AgentRecord) -> [u64; 3] {
    PolicyKind::ALL.map(|kind| record.desired.of(kind).generation)
}

/// Computes what the agent should have, and how fast that may go out. `None`, and nothing changes, while the agent's attributes are not known (it would get
/// the wrong configuration first), or if the record was decided by newer policies than these.
fn recompute(record: &mut AgentRecord, policies: &Snapshot, now: UnixMs) -> Option<(Meaning, Option<Pace>)> {
    let observed = &record.observed;
    if !observed.has_attributes() || record.desired.epoch > policies.epoch() {
        return None;
    }
    // One that is of no use any more is not offered.
    record.desired.certificate.take_if(|certificate| certificate.not_after <= now);
    let attributes = Attributes::decode(&observed.description);
    let target = policies.target(record, &attributes);
    let (observed, desired) = (&record.observed, &mut record.desired);
    let connection_settings =
        settings::offer(&target.connection_settings, observed, desired, policies.opamp_url()).map(Arc::new);
    // Of a configuration that cannot be made, nothing is offered, and the agent keeps what it has.
    desired.unrendered = target.config.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let config = target.config.ok().flatten();
    let before = desired.config.hash;
    if desired.config.set(config.as_ref().map(|config| config.hash), now) {
        desired.effective = Effective::Unknown;
    }
    // One that was written for the agent, and that its record names already, need not be stored again.
    let config = config.filter(|config| config.rendered.is_empty() || before != Some(config.hash));
    if desired.packages.set(target.packages.as_ref().map(|offer| offer.hash), now) {
        desired.lost_packages = Lost::default();
    }
    desired.connection_settings.set(connection_settings.as_ref().map(|offer| offer.hash), now);
    desired.epoch = policies.epoch();
    let (packages, rollouts) = (target.packages, Some(target.rollouts));
    Some((Meaning { config, packages, connection_settings, rollouts }, target.pace))
}
