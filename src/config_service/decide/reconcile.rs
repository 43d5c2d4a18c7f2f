//! What the policies make of an agent that has not said anything.

use std::sync::Arc;

use super::recompute;
use crate::{
    config_service::policies::{Pace, Snapshot},
    model::{AgentRecord, UnixMs, desired::DesiredConfig, offer},
};

/// A record that is to be written.
#[derive(Debug)]
pub struct Change {
    pub record: AgentRecord,
    /// What the record's desired hash stands for, if it was computed.
    pub config: Option<Arc<DesiredConfig>>,
    /// To be made once the record is written.
    pub offer: Option<Offer>,
    /// An operator can see a difference.
    pub is_visible: bool,
}

#[derive(Clone, Debug)]
pub struct Offer {
    /// The desired state is not new, and to be sent even if the gateway has sent it before.
    pub repeat: bool,
    pub pace: Option<Pace>,
}

/// Brings the desired state up to date and offers it if due. `None` if nothing changes.
pub fn reconcile(mut record: AgentRecord, policies: &Snapshot, now: UnixMs) -> Option<Change> {
    let generation = record.desired.generation;
    let target = recompute(&mut record, policies, now).unwrap_or_default();
    let is_visible = record.desired.generation != generation;
    let repeat = !is_visible && offer::may_be_sent_again(&record);
    let offer = offer::offer_if_due(&mut record, now).then_some(Offer { repeat, pace: target.pace });
    (is_visible || offer.is_some()).then_some(Change { record, config: target.config, offer, is_visible })
}
