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

/// `wanted`: what it should have, by the policies; its record may not be as far. Why not, if that cannot be made.
pub fn standing(
    agent: &AgentRecord,
    kind: PolicyKind,
    wanted: Result<Option<ContentHash>, String>,
    deadline_ms: i64,
    now: UnixMs,
) -> Standing {
    if !agent.observed.accepts(kind) {
        return Standing::NotCapable;
    }
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(unrendered) if agent.presence.connected => return Standing::Failed(unrendered),
        Err(_) => return Standing::Disconnected,
    };
    let (desired, reported) = (agent.desired.of(kind), agent.observed.reported(kind));
    let is_overdue = || overdue_at(agent, kind, deadline_ms).is_some_and(|at| now >= at);
    if desired.unproven.is_some_and(|unproven| unproven.is_returning()) && desired.hash == wanted && is_overdue() {
        return Standing::Failed("connects again and again, and does not run it in good health".to_owned());
    }
    if !agent.presence.connected {
        return Standing::Disconnected;
    }
    if desired.hash != wanted {
        return Standing::Waiting;
    }
    let Some(hash) = wanted else { return Standing::Healthy };
    match offer::convergence(agent, kind) {
        Convergence::NothingDesired => Standing::Healthy,
        Convergence::Unrenderable => Standing::Failed(agent.desired.unrendered.clone()),
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

/// When an agent that is not well with what it should have by then has failed: that long after it was offered it on its present
/// connection, or, of one that connects again and again, on any.
pub fn overdue_at(agent: &AgentRecord, kind: PolicyKind, deadline_ms: i64) -> Option<UnixMs> {
    let desired = agent.desired.of(kind);
    let here = offer::offered_since(desired).or(connected_since(agent)).filter(|_| agent.presence.connected);
    let returning = desired.unproven.filter(|unproven| unproven.is_returning()).map(|unproven| unproven.since);
    let since = [here, returning].into_iter().flatten().min();
    since.map(|since| since.saturating_add(deadline_ms).saturating_add(1))
}

/// Connections are numbered by the time of their beginning, in microseconds.
fn connected_since(agent: &AgentRecord) -> Option<UnixMs> {
    UnixMs::try_from(agent.presence.connection_generation / 1_000).ok()
}
