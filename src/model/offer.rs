//! Whether an agent is to be offered what it should have of one kind, and when again.

use super::{
    AgentRecord, UnixMs,
    agent::{Forgotten, Lost, OfferStatus, Wanted},
    effective,
    policy::PolicyKind,
};
use crate::proto::opamp::AgentCapabilities;

/// The first repeat of an unanswered offer comes after this long, each later one after twice the time.
pub const FIRST_REPEAT_MS: i64 = 30_000;
/// Repeats are never further apart than this.
pub const LONGEST_REPEAT_MS: i64 = 3_600_000;
/// Far longer than clients take to connect with new settings, or to come back if that fails.
const TAKEN_UP_WITHIN_MS: i64 = 600_000;

/// What stands between an agent and what it should have of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convergence {
    /// No policy matches.
    NothingDesired,
    /// What the agent should have cannot be written from its policies' templates: it keeps what it has.
    Unrenderable,
    /// The agent does not accept offers of this kind.
    NotCapable,
    /// The agent has the desired hash (APPLIED, or it does not report a status beyond the hash).
    Converged,
    /// The agent has the desired hash and works on it.
    Applying,
    /// The agent refused the desired hash; it is not offered again.
    Quarantined,
    /// The agent is to be offered what it should have.
    Behind,
}

/// The capabilities of which an agent needs one to be offered anything of this kind.
pub fn capabilities_that_accept(kind: PolicyKind) -> u64 {
    use AgentCapabilities as Capability;
    let any: &[Capability] = match kind {
        PolicyKind::Config => &[Capability::AcceptsRemoteConfig],
        PolicyKind::Packages => &[Capability::AcceptsPackages],
        PolicyKind::ConnectionSettings => &[
            Capability::AcceptsOpAmpConnectionSettings,
            Capability::ReportsOwnMetrics,
            Capability::ReportsOwnTraces,
            Capability::ReportsOwnLogs,
            Capability::AcceptsOtherConnectionSettings,
        ],
    };
    any.iter().fold(0, |bits, capability| bits | *capability as u64)
}

pub fn convergence(agent: &AgentRecord, kind: PolicyKind) -> Convergence {
    let (observed, desired) = (&agent.observed, agent.desired.of(kind));
    let is_unrenderable = kind == PolicyKind::Config && !agent.desired.unrendered.is_empty();
    if desired.hash.is_none() && !is_unrenderable {
        return Convergence::NothingDesired;
    }
    if !observed.accepts(kind) {
        return Convergence::NotCapable;
    }
    let Some(hash) = desired.hash.filter(|_| !is_unrenderable) else {
        return Convergence::Unrenderable;
    };
    if desired.quarantined == Some(hash) {
        return Convergence::Quarantined;
    }
    let reported = observed.reported(kind);
    if reported.hash[..] == hash.0 {
        return match reported.status {
            // A client that was restarted while it installed does not go on by itself; being asked again is no trouble to
            // one that is at it.
            OfferStatus::Applying if kind == PolicyKind::Packages && desired.offered_at.is_none() => {
                Convergence::Behind
            }
            OfferStatus::Applying => Convergence::Applying,
            // It refused this hash, but has not been quarantined, or no longer is: it is to try again.
            OfferStatus::Failed => Convergence::Behind,
            OfferStatus::Applied | OfferStatus::Unset if kind == PolicyKind::Config && effective::is_retried(agent) => {
                Convergence::Behind
            }
            OfferStatus::Applied | OfferStatus::Unset => Convergence::Converged,
        };
    }
    // A client that connects anew with the settings that it was offered has forgotten their hash.
    if kind == PolicyKind::ConnectionSettings && observed.sent_connection_settings == Some(hash) {
        return Convergence::Converged;
    }
    Convergence::Behind
}

/// Whether to offer now. An offer that was not answered is repeated with growing pauses, as it may have been lost on its way
/// to the gateway. That is so too for an agent that reports no remote config status, see [`may_be_sent_again`].
pub fn is_due(agent: &AgentRecord, kind: PolicyKind, now: UnixMs) -> bool {
    if convergence(agent, kind) != Convergence::Behind || !agent.presence.connected {
        return false;
    }
    let desired = agent.desired.of(kind);
    match desired.offered_at {
        None => {
            let lost = if kind == PolicyKind::Packages { agent.desired.lost_packages } else { Lost::default() };
            let again = not_before(desired.forgotten.times, desired.forgotten.offered_at);
            now >= again.max(not_before(lost.connections, lost.offered_at))
        }
        Some(offered_at) => now >= offered_at.saturating_add(repeat_after_ms(desired.offer_attempts)),
    }
}

/// Whether a gateway is to send an offer that is repeated even if it has sent it on this connection. An agent that reports no
/// status cannot answer, so that silence says nothing: it gets a configuration once a connection. Of connection settings the
/// gateway says by itself that they were sent; they are sent again when an operator has lifted their quarantine.
pub fn may_be_sent_again(agent: &AgentRecord, kind: PolicyKind) -> bool {
    match kind {
        PolicyKind::Config => agent.observed.has(AgentCapabilities::ReportsRemoteConfig),
        PolicyKind::Packages => agent.observed.has(AgentCapabilities::ReportsPackageStatuses),
        PolicyKind::ConnectionSettings => {
            let reported = &agent.observed.connection_settings;
            let hash = agent.desired.connection_settings.hash;
            reported.status == OfferStatus::Failed && hash.is_some_and(|hash| reported.hash[..] == hash.0)
        }
    }
}

/// Whether what is to be offered takes the place of something else that the agent has, as far as is known.
pub fn replaces_something(agent: &AgentRecord, kind: PolicyKind) -> bool {
    let (observed, hash) = (&agent.observed, agent.desired.of(kind).hash);
    let is_other = |has: &[u8]| !has.is_empty() && hash.is_none_or(|hash| hash.0[..] != *has);
    let sent = observed.sent_connection_settings.filter(|_| kind == PolicyKind::ConnectionSettings);
    is_other(&observed.reported(kind).hash) || sent.is_some_and(|sent| is_other(&sent.0))
}

/// Whether an agent whose client is new, and names no connection settings, has none but those of its own configuration: its
/// program was started again. Soon after it was sent some, it is the client that was made for them, which clients do that
/// then do not know their hash; to offer them again would have it made anew for ever.
pub fn is_forgotten(sent_at: UnixMs, now: UnixMs) -> bool {
    now >= sent_at.saturating_add(TAKEN_UP_WITHIN_MS)
}

fn repeat_after_ms(attempts: u16) -> i64 {
    let doublings = u32::from(attempts.saturating_sub(1)).min(16);
    (FIRST_REPEAT_MS << doublings).min(LONGEST_REPEAT_MS)
}

/// When the same may be offered anew. At once, if one connection was lost, or the agent has forgotten it once. But if it is offered
/// again and again, and each time that happens, it may be what is offered that ends the agent, or the agent may forget it each time:
/// then not before a pause, which grows with each.
fn not_before(times: u16, offered_at: UnixMs) -> UnixMs {
    match times {
        0 | 1 => UnixMs::MIN,
        more => offered_at.saturating_add(repeat_after_ms(more - 1)),
    }
}

/// Takes note that the agent had what it should have, and now says that it has not: it is offered that again, at once, but with
/// growing pauses if it comes to that again and again. `before` is what it was to have then.
pub fn forget(before: &Wanted, desired: &mut Wanted, now: UnixMs) {
    if before.hash != desired.hash {
        return;
    }
    let Forgotten { times, offered_at } = before.forgotten;
    let offered_at = before.offered_at.unwrap_or(offered_at);
    let is_long_ago = now >= offered_at.saturating_add(LONGEST_REPEAT_MS);
    let times = if is_long_ago { 1 } else { times.saturating_add(1) };
    desired.forgotten = Forgotten { times, offered_at };
    desired.reset_offers();
}

/// Takes note that the agent has another connection than the one of `agent`, as it was.
pub fn lost_packages(agent: &AgentRecord) -> Lost {
    let (lost, packages) = (agent.desired.lost_packages, &agent.desired.packages);
    let is_open = matches!(convergence(agent, PolicyKind::Packages), Convergence::Behind | Convergence::Applying);
    match packages.offered_at.filter(|_| is_open) {
        Some(offered_at) => Lost { connections: lost.connections.saturating_add(1), offered_at },
        None => lost,
    }
}

/// When what is desired was first offered on the present connection without being answered, as far as the last offer and
/// their number tell.
pub fn offered_since(desired: &Wanted) -> Option<UnixMs> {
    let before_last = (1..desired.offer_attempts).map(repeat_after_ms).fold(0, i64::saturating_add);
    desired.offered_at.map(|offered_at| offered_at.saturating_sub(before_last))
}

/// Notes that what is desired of this kind is offered now, if it is due; returns whether it is.
pub fn offer_if_due(agent: &mut AgentRecord, kind: PolicyKind, now: UnixMs) -> bool {
    let due = is_due(agent, kind, now);
    if due {
        let desired = agent.desired.of_mut(kind);
        desired.offered_at = Some(now);
        desired.offer_attempts = desired.offer_attempts.saturating_add(1);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContentHash, InstanceUid, agent::Reported};

    const DESIRED: ContentHash = ContentHash([2; 32]);

    fn agent() -> AgentRecord {
        let mut agent = AgentRecord::new(InstanceUid::from_slice(&[1; 16]).unwrap(), 0);
        agent.observed.capabilities =
            AgentCapabilities::AcceptsRemoteConfig as u64 | AgentCapabilities::ReportsRemoteConfig as u64;
        agent.presence.connected = true;
        agent.desired.config.hash = Some(DESIRED);
        agent
    }

    #[test]
    fn repeats_come_after_growing_pauses() {
        let mut agent = agent();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert!(offer_if_due(&mut agent, PolicyKind::Config, now));
            let offered = now;
            while !is_due(&agent, PolicyKind::Config, now) {
                now += 1_000;
            }
            pauses.push((now - offered) / 1_000);
        }
        assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
    }

    #[test]
    fn an_agent_that_cannot_answer_is_offered_again_but_not_to_be_sent_twice() {
        let mut agent = agent();
        assert!(may_be_sent_again(&agent, PolicyKind::Config));
        agent.observed.capabilities = AgentCapabilities::AcceptsRemoteConfig as u64;
        assert!(offer_if_due(&mut agent, PolicyKind::Config, 0));
        assert!(!is_due(&agent, PolicyKind::Config, FIRST_REPEAT_MS - 1));
        assert!(is_due(&agent, PolicyKind::Config, FIRST_REPEAT_MS));
        assert!(!may_be_sent_again(&agent, PolicyKind::Config));
    }

    #[test]
    fn nothing_is_offered_where_it_must_not_be() {
        let changes: [fn(&mut AgentRecord); 6] = [
            |agent| agent.observed.capabilities = AgentCapabilities::ReportsRemoteConfig as u64,
            |agent| agent.presence.connected = false,
            |agent| agent.desired.config.hash = None,
            |agent| agent.desired.config.quarantined = Some(DESIRED),
            |agent| agent.observed.config.hash = DESIRED.to_bytes(),
            |agent| {
                agent.observed.config.hash = DESIRED.to_bytes();
                agent.observed.config.status = OfferStatus::Applying;
            },
        ];
        assert!(is_due(&agent(), PolicyKind::Config, 0));
        for change in changes {
            let mut agent = agent();
            change(&mut agent);
            assert!(!is_due(&agent, PolicyKind::Config, 0), "{agent:?}");
        }
    }

    #[test]
    fn a_failed_hash_is_tried_again_once_its_quarantine_is_lifted() {
        let mut agent = agent();
        agent.observed.config.hash = DESIRED.to_bytes();
        agent.observed.config.status = OfferStatus::Failed;
        agent.desired.config.quarantined = Some(DESIRED);
        assert_eq!(convergence(&agent, PolicyKind::Config), Convergence::Quarantined);
        agent.desired.config.quarantined = None;
        assert_eq!(convergence(&agent, PolicyKind::Config), Convergence::Behind);
    }

    #[test]
    fn packages_whose_installation_was_cut_off_are_offered_once_more() {
        let mut agent = agent();
        agent.observed.capabilities =
            AgentCapabilities::AcceptsPackages as u64 | AgentCapabilities::ReportsPackageStatuses as u64;
        agent.desired.packages.hash = Some(DESIRED);
        agent.observed.packages.hash = DESIRED.to_bytes();
        agent.observed.packages.status = OfferStatus::Applying;
        assert!(offer_if_due(&mut agent, PolicyKind::Packages, 0), "on a new connection");
        assert_eq!(convergence(&agent, PolicyKind::Packages), Convergence::Applying);
        assert!(!is_due(&agent, PolicyKind::Packages, i64::MAX), "then it has all the time that it needs");
        agent.observed.packages.status = OfferStatus::Applied;
        agent.desired.packages.reset_offers();
        assert!(!is_due(&agent, PolicyKind::Packages, 0));
    }

    #[test]
    fn packages_come_again_at_once_and_then_with_growing_pauses() {
        let mut agent = agent();
        agent.observed.capabilities = AgentCapabilities::AcceptsPackages as u64;
        agent.desired.packages.hash = Some(DESIRED);
        let (mut now, mut pauses) = (1_000, Vec::new());
        for _ in 0..10 {
            let mut pause = 0;
            while !offer_if_due(&mut agent, PolicyKind::Packages, now + pause) {
                pause += 1_000;
            }
            now += pause;
            pauses.push(pause / 1_000);
            agent.desired.lost_packages = lost_packages(&agent);
            agent.desired.reset_offers();
        }
        assert_eq!(pauses, [0, 0, 30, 60, 120, 240, 480, 960, 1_920, 3_600]);
        // On a connection on which nothing was offered, nothing is lost; nor once it is said to be installed.
        assert_eq!(lost_packages(&agent), agent.desired.lost_packages);
        assert!(offer_if_due(&mut agent, PolicyKind::Packages, now + LONGEST_REPEAT_MS));
        agent.observed.packages =
            Reported { status: OfferStatus::Applied, hash: DESIRED.to_bytes(), ..Default::default() };
        assert_eq!(lost_packages(&agent), agent.desired.lost_packages);
    }
}
