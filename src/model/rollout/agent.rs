//! What one agent's record says of the change that a rollout brings it.

use crate::model::{
    AgentRecord, ContentHash, UnixMs,
    agent::OfferStatus,
    offer::{self, Convergence},
    policy::PolicyKind,
};

/// Where an agent stands with what it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    NotCapable,
    /// Is not waited for: it gets what is right when it comes back.
    Disconnected,
    /// Has not been offered it.
    Waiting,
    /// Has been offered it, and has not answered.
    Offered,
    Applying,
    /// Runs it, but says that it is not healthy.
    Unhealthy,
    Healthy,
    /// With its own words, where it has any.
    Failed(String),
}

/// `wanted`: what it should have, by the policies; its record may not be as far.
pub fn standing(
    agent: &AgentRecord,
    kind: PolicyKind,
    wanted: Option<ContentHash>,
    deadline_ms: i64,
    now: UnixMs,
) -> Standing {
    if !agent.observed.accepts(kind) {
        return Standing::NotCapable;
    }
    if !agent.presence.connected {
        return Standing::Disconnected;
    }
    let (desired, reported) = (agent.desired.of(kind), agent.observed.reported(kind));
    if desired.hash != wanted {
        return Standing::Waiting;
    }
    let Some(hash) = wanted else { return Standing::Healthy };
    let is_overdue = || {
        let since = offer::offered_since(desired).or(connected_since(agent));
        since.is_some_and(|since| now.saturating_sub(since) > deadline_ms)
    };
    match offer::convergence(agent, kind) {
        Convergence::NothingDesired => Standing::Healthy,
        Convergence::NotCapable => Standing::NotCapable,
        Convergence::Quarantined if reported.hash[..] == hash.0 && reported.status == OfferStatus::Failed => {
            Standing::Failed(reported.error.clone())
        }
        Convergence::Quarantined => Standing::Failed("the agent went back to what it had before".to_owned()),
        Convergence::Converged if agent.observed.healthy != Some(false) => Standing::Healthy,
        Convergence::Converged if is_overdue() => Standing::Failed("runs it, but is not healthy".to_owned()),
        Convergence::Converged => Standing::Unhealthy,
        Convergence::Applying if is_overdue() => Standing::Failed("still applying it at its deadline".to_owned()),
        Convergence::Applying => Standing::Applying,
        Convergence::Behind if desired.offered_at.is_none() => Standing::Waiting,
        Convergence::Behind if is_overdue() => Standing::Failed("no answer within its deadline".to_owned()),
        Convergence::Behind => Standing::Offered,
    }
}

/// Connections are numbered by the time of their beginning, in microseconds.
fn connected_since(agent: &AgentRecord) -> Option<UnixMs> {
    UnixMs::try_from(agent.presence.connection_generation / 1_000).ok()
}
