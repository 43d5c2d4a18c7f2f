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
            // It refused this hash, but has not been quarantined, or no longer is: it is to try again.
            ConfigStatus::Failed => Convergence::Behind,
            ConfigStatus::Applied | ConfigStatus::Unset => Convergence::Converged,
        };
    }
    Convergence::Behind
}

/// Whether to offer now. An offer that was not answered is repeated with growing pauses, as it may have been lost on its way
/// to the gateway. That is so too for an agent that reports no remote config status, see [`may_be_sent_again`].
pub fn is_due(agent: &AgentRecord, now: UnixMs) -> bool {
    if convergence(agent) != Convergence::Behind || !agent.presence.connected {
        return false;
    }
    match agent.desired.offered_at {
        None => true,
        Some(offered_at) => now >= offered_at.saturating_add(repeat_after_ms(agent.desired.offer_attempts)),
    }
}

/// Whether a gateway is to send an offer that is repeated even if it has sent it on this connection. An agent that reports no
/// remote config status cannot answer, so that silence says nothing: it gets a configuration once a connection.
pub fn may_be_sent_again(agent: &AgentRecord) -> bool {
    agent.observed.has(AgentCapabilities::ReportsRemoteConfig)
}

fn repeat_after_ms(attempts: u16) -> i64 {
    let doublings = u32::from(attempts.saturating_sub(1)).min(16);
    (FIRST_REPEAT_MS << doublings).min(LONGEST_REPEAT_MS)
}

/// Notes that the desired configuration is offered now, if it is due; returns whether it is.
pub fn offer_if_due(agent: &mut AgentRecord, now: UnixMs) -> bool {
    let due = is_due(agent, now);
    if due {
        agent.desired.offered_at = Some(now);
        agent.desired.offer_attempts = agent.desired.offer_attempts.saturating_add(1);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContentHash, InstanceUid};

    const DESIRED: ContentHash = ContentHash([2; 32]);

    fn agent() -> AgentRecord {
        let mut agent = AgentRecord::new(InstanceUid::from_slice(&[1; 16]).unwrap(), 0);
        agent.observed.capabilities =
            AgentCapabilities::AcceptsRemoteConfig as u64 | AgentCapabilities::ReportsRemoteConfig as u64;
        agent.presence.connected = true;
        agent.desired.config = Some(DESIRED);
        agent
    }

    #[test]
    fn repeats_come_after_growing_pauses() {
        let mut agent = agent();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert!(offer_if_due(&mut agent, now));
            let offered = now;
            while !is_due(&agent, now) {
                now += 1_000;
            }
            pauses.push((now - offered) / 1_000);
        }
        assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
    }

    #[test]
    fn an_agent_that_cannot_answer_is_offered_again_but_not_to_be_sent_twice() {
        let mut agent = agent();
        assert!(may_be_sent_again(&agent));
        agent.observed.capabilities = AgentCapabilities::AcceptsRemoteConfig as u64;
        assert!(offer_if_due(&mut agent, 0));
        assert!(!is_due(&agent, FIRST_REPEAT_MS - 1));
        assert!(is_due(&agent, FIRST_REPEAT_MS));
        assert!(!may_be_sent_again(&agent));
    }

    #[test]
    fn nothing_is_offered_where_it_must_not_be() {
        let changes: [fn(&mut AgentRecord); 6] = [
            |agent| agent.observed.capabilities = AgentCapabilities::ReportsRemoteConfig as u64,
            |agent| agent.presence.connected = false,
            |agent| agent.desired.config = None,
            |agent| agent.desired.quarantined = Some(DESIRED),
            |agent| agent.observed.reported_config_hash = DESIRED.to_bytes(),
            |agent| {
                agent.observed.reported_config_hash = DESIRED.to_bytes();
                agent.observed.config_status = ConfigStatus::Applying;
            },
        ];
        assert!(is_due(&agent(), 0));
        for change in changes {
            let mut agent = agent();
            change(&mut agent);
            assert!(!is_due(&agent, 0), "{agent:?}");
        }
    }

    #[test]
    fn a_failed_hash_is_tried_again_once_its_quarantine_is_lifted() {
        let mut agent = agent();
        agent.observed.reported_config_hash = DESIRED.to_bytes();
        agent.observed.config_status = ConfigStatus::Failed;
        agent.desired.quarantined = Some(DESIRED);
        assert_eq!(convergence(&agent), Convergence::Quarantined);
        agent.desired.quarantined = None;
        assert_eq!(convergence(&agent), Convergence::Behind);
    }
}
