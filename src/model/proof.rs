//! Whether an agent has proved what it was offered: it runs it, and is not unhealthy.
//!
//! Until it does, it is remembered since when it is to, over all its connections: one that is started again and again because of
//! what it was offered is to be told from one that was away.

use super::{
    AgentRecord, UnixMs,
    offer::{Convergence, convergence},
    policy::PolicyKind,
};

/// An agent that has connected anew so often without a proof is not just one whose connection broke.
pub const MANY_RETURNS: u16 = 3;

/// What an agent has still to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unproven {
    /// When it was first offered it, or first said that it is unhealthy with it.
    pub since: UnixMs,
    /// How often it has connected anew since.
    pub returns: u16,
}

impl Unproven {
    /// Whether it keeps coming back without a proof.
    pub fn is_returning(&self) -> bool {
        self.returns >= MANY_RETURNS
    }
}

/// Takes note of what an agent's record has come to.
pub fn follow(agent: &mut AgentRecord, kind: PolicyKind, is_new_connection: bool, now: UnixMs) {
    let state = convergence(agent, kind);
    let is_unwell = state == Convergence::Converged && agent.observed.healthy == Some(false);
    let desired = agent.desired.of_mut(kind);
    let is_open = match state {
        Convergence::Behind | Convergence::Applying => true,
        Convergence::Converged => is_unwell,
        _ => false,
    };
    if !is_open {
        desired.unproven = None;
    } else if let Some(unproven) = &mut desired.unproven {
        unproven.returns = unproven.returns.saturating_add(is_new_connection.into());
    } else if is_unwell || state == Convergence::Applying || desired.offered_at.is_some() {
        desired.unproven = Some(Unproven { since: now, returns: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ContentHash, InstanceUid, agent::OfferStatus, offer::offer_if_due},
        proto::opamp::AgentCapabilities,
    };

    const HASH: ContentHash = ContentHash([2; 32]);
    const KIND: PolicyKind = PolicyKind::Config;

    fn agent() -> AgentRecord {
        let mut agent = AgentRecord::new(InstanceUid::from_slice(&[1; 16]).unwrap(), 0);
        agent.observed.capabilities =
            AgentCapabilities::AcceptsRemoteConfig as u64 | AgentCapabilities::ReportsRemoteConfig as u64;
        agent.presence.connected = true;
        agent.desired.config.hash = Some(HASH);
        agent
    }

    fn offer(agent: &mut AgentRecord, is_new_connection: bool, now: UnixMs) {
        if is_new_connection {
            agent.desired.reset_offers();
        }
        offer_if_due(agent, KIND, now);
        follow(agent, KIND, is_new_connection, now);
    }

    #[test]
    fn what_was_first_offered_when_outlives_connections() {
        let mut agent = agent();
        follow(&mut agent, KIND, true, 5);
        assert_eq!(agent.desired.config.unproven, None, "it has not been offered it");
        for returns in 0..5 {
            offer(&mut agent, true, 10 + UnixMs::from(returns));
            assert_eq!(agent.desired.config.unproven, Some(Unproven { since: 10, returns }));
        }
        offer(&mut agent, false, 99_999);
        assert_eq!(agent.desired.config.unproven.map(|unproven| unproven.returns), Some(4), "a repeat is no return");
        agent.desired.config.set(Some(ContentHash([3; 32])), 100_000);
        assert_eq!(agent.desired.config.unproven, None);
    }

    #[test]
    fn an_agent_that_is_well_has_proved_it() {
        let mut agent = agent();
        offer(&mut agent, true, 10);
        agent.observed.config.hash = HASH.to_bytes();
        agent.observed.config.status = OfferStatus::Applied;
        agent.observed.healthy = Some(false);
        follow(&mut agent, KIND, true, 20);
        assert_eq!(agent.desired.config.unproven, Some(Unproven { since: 10, returns: 1 }));
        agent.observed.healthy = None;
        follow(&mut agent, KIND, true, 30);
        assert_eq!(agent.desired.config.unproven, None);
        agent.observed.healthy = Some(false);
        follow(&mut agent, KIND, true, 40);
        assert_eq!(agent.desired.config.unproven, Some(Unproven { since: 40, returns: 0 }), "it fell ill");
        agent.desired.config.quarantined = Some(HASH);
        follow(&mut agent, KIND, true, 50);
        assert_eq!(agent.desired.config.unproven, None, "it is known to have failed");
    }
}
