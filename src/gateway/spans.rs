//! Spans of what the gateway does for agents.
//!
//! A report's span goes from the message that begins it to the verdict that it is stored. It is part of the pending report, so
//! that there is one at most for each that is recorded and waits, and none for an agent that is idle.

use super::{Shared, agents::Entry, exchange::Origin};
use crate::{
    model::{ContentHash, InstanceUid, command::CommandId},
    proto::bus::{CommandGroup, OfferGroup, Verdict},
    trace::{self, Kind, Parent, Span},
};

/// A message of the agent became part of its pending report.
pub fn reported(entry: &mut Entry, uid: InstanceUid, origin: Origin<'_>) {
    let Some(pending) = entry.rare.as_mut().and_then(|rare| rare.pending.as_mut()) else { return };
    if pending.span.is_recorded() {
        return;
    }
    pending.span = trace::report("agent report")
        .with("muster.agent.uid", || uid.to_string())
        .with("muster.report.is_opening", || pending.opening.is_some())
        .with("network.protocol.name", || match origin {
            Origin::WebSocket(_) => "websocket",
            Origin::Http(_) => "http",
        });
}

/// Taking a verdict on a report that is traced.
pub fn verdict(uid: InstanceUid, verdict: &Verdict) -> Span {
    trace::follow(Parent::from_slice(&verdict.trace), "take verdict", Kind::Consumer)
        .with("muster.agent.uid", || uid.to_string())
        .with("muster.verdict.acknowledges", || verdict.report_number as i64)
        .with("muster.verdict.asks_full_state", || verdict.report_full_state)
        .with("muster.verdict.offers", || verdict.offers.len() as i64)
}

/// What becomes of the offers of a verdict: to be made before they are sent, and told of after.
pub struct Offering {
    span: Span,
    before: [u32; 3],
}

impl Offering {
    pub fn new(entry: &Entry, verdict: &Verdict) -> Option<Self> {
        let offer = verdict.offers.first()?;
        let span = trace::child("send offer", Kind::Producer)
            .with("muster.offer.kind", || offer.kind().as_str_name())
            .with("muster.offer.hash", || hex::encode(&offer.hash))
            .with("muster.offer.generation", || offer.generation as i64);
        span.is_recorded().then_some(Self { span, before: entry.offered })
    }

    pub fn done(self, shared: &Shared, entry: &Entry) {
        let lacks_body = || {
            let mut offers = entry.rare.iter().flat_map(|rare| &rare.offers);
            offers.any(|offer| !shared.bodies.has(&offer.hash))
        };
        self.span.set("muster.offer.outcome", || match () {
            () if entry.offered != self.before => "sent",
            () if lacks_body() => "waits for its body",
            () if entry.rare.as_ref().is_some_and(|rare| !rare.offers.is_empty()) => "waits for the agent",
            () => "left to its poll, or dropped",
        });
    }
}

/// Sending one offer to many agents.
pub fn offers(group: &OfferGroup) -> Span {
    trace::child("send offers", Kind::Producer)
        .with("muster.offer.kind", || group.kind().as_str_name())
        .with("muster.offer.hash", || hex::encode(&group.hash))
        .with("muster.offer.agents", || group.generations.len() as i64)
}

/// Sending one command to its agents here.
pub fn command(id: CommandId, group: &CommandGroup) -> Span {
    trace::follow(Parent::from_slice(&group.trace), "send command", Kind::Producer)
        .with("muster.command.id", || id.to_string())
        .with("muster.command.agents", || group.connection_generations.len() as i64)
}

/// Sending a body that came to those who wait for it.
pub fn body(parent: Option<Parent>, hash: &ContentHash, agents: usize) -> Span {
    trace::follow(parent, "send offers that waited for their body", Kind::Producer)
        .with("muster.offer.hash", || hash.to_string())
        .with("muster.offer.agents", || agents as i64)
}
