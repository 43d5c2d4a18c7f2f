//! What the policies make of an agent that has not said anything.

use super::{Meaning, generations, note_reached, recompute};
use crate::{
    config_service::policies::{Pace, Snapshot},
    model::{
        AgentRecord, UnixMs,
        effective::{self, Effective},
        offer,
        policy::PolicyKind,
        proof,
    },
};

/// A record that is to be written.
#[derive(Debug)]
pub struct Change {
    pub record: AgentRecord,
    pub meaning: Meaning,
    /// To be made once the record is written.
    pub offers: Vec<Offer>,
    pub pace: Option<Pace>,
    /// An operator can see a difference.
    pub is_visible: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub kind: PolicyKind,
    /// The desired state is not new, and to be sent even if the gateway has sent it before.
    pub repeat: bool,
}

/// Brings the desired state up to date and offers it if due. `None` if nothing changes, and what the agent runs has been compared;
/// also of a record that was decided by newer policies: it is left to those who know them.
pub fn reconcile(mut record: AgentRecord, policies: &Snapshot, now: UnixMs) -> Option<Change> {
    if record.desired.epoch > policies.epoch() {
        return None;
    }
    let before = generations(&record);
    let unrendered = record.desired.unrendered.clone();
    let (meaning, pace) = recompute(&mut record, policies, now).unwrap_or_default();
    let mut is_visible = record.desired.unrendered != unrendered;
    let mut offers = Vec::new();
    for (kind, generation) in PolicyKind::ALL.into_iter().zip(before) {
        let is_new = record.desired.of(kind).generation != generation;
        is_visible |= is_new;
        let repeat = !is_new && offer::may_be_sent_again(&record, kind);
        if offer::offer_if_due(&mut record, kind, now) {
            proof::follow(&mut record, kind, false, now);
            offers.push(Offer { kind, repeat });
        }
    }
    let offered: Vec<PolicyKind> = offers.iter().map(|offer| offer.kind).collect();
    note_reached(&mut record, policies, meaning.rollouts.as_ref(), &offered, before);
    let to_compare = record.desired.effective == Effective::Unknown && effective::pair(&record).is_some();
    (is_visible || !offers.is_empty() || to_compare).then_some(Change { record, meaning, offers, pace, is_visible })
}
