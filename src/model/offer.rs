//! Whether an agent is to be offered its desired configuration, and when again.

use super::{AgentRecord, UnixMs, agent::ConfigStatus};
use crate::proto::opamp::AgentCapabilities;

/// The first repeat of an unanswered offer comes after this long, each later one after twice the time.
pub const FIRST_REPEAT_MS: i64 = 30_000;
/// Repeats are never further apart than this.
pub const LONGEST_REPEAT_MS: i64 = 3_600_000;

/// What stands between an agent and its desired configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convergence {
    /// No policy matches.
    NothingDesired,
    /// The agent does not accept remote configuration.
    NotCapable,
    /// The agent has the desired hash (APPLIED, or it does not report a status beyond the hash).
    Converged,
    /// The agent has the desired hash and works on it.
    Applying,
    /// The agent refused the desired hash; it is not offered again.
    Quarantined,
    /// The agent is to be offered its desired configuration.
    Behind,
}

pub fn convergence(agent: &AgentRecord) -> Convergence {
    let (observed, desired) = (&agent.observed, &agent.desired);
    let Some(config) = desired.config else {
        return Convergence::NothingDesired;
    };
    if !observed.has(AgentCapabilities::AcceptsRemoteConfig) {
        return Convergence::NotCapable;
    }
    if desired.quarantined == Some(config) {
        return Convergence::Quarantined;
    }
    if observed.reported_config_hash[..] == config.0 {
        return match observed.config_status {
            ConfigStatus::Applying => Convergence::Applying,
            ConfigStatus::Failed => Convergence::Quarantined,
            ConfigStatus::Applied | ConfigStatus::Unset => Convergence::Converged,
        };
    }
    Convergence::Behind
}

/// Whether to offer now. An offer that was not answered is repeated with growing pauses; an agent that reports no
/// remote config status cannot answer, so it is offered a configuration once a connection.
pub fn is_due(agent: &AgentRecord, now: UnixMs) -> bool {
    if convergence(agent) != Convergence::Behind || !agent.presence.connected {
        return false;
    }
    match agent.desired.offered_at {
        None => true,
        Some(_) if !agent.observed.has(AgentCapabilities::ReportsRemoteConfig) => false,
        Some(offered_at) => now >= offered_at.saturating_add(repeat_after_ms(agent.desired.offer_attempts)),
    }
}

fn repeat_after_ms(attempts: u16) -> i64 {
    let doublings = u32::from(attempts.saturating_sub(1)).min(16);
    (FIRST_REPEAT_MS << doublings).min(LONGEST_REPEAT_MS)
}
