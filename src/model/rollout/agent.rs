//! What one agent's record says of the change that a rollout brings it.

use super::Plan;
use crate::{
    model::{
        AgentRecord, ContentHash, UnixMs,
        effective::Effective,
        offer::{self, Convergence},
        policy::PolicyKind,
        status::{Status, status},
    },
    proto::opamp::AgentCapabilities,
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
    /// Has it, but says that it is not healthy, or that it runs something else.
    Unhealthy,
    Healthy,
    /// With its own words, where it has any.
    Failed(String),
}

/// `wanted`: what it should have, by the policies; its record may not be as far. Why not, if that cannot be made. All else follows
/// from its [`Status`].
pub fn standing(
    agent: &AgentRecord,
    kind: PolicyKind,
    wanted: Result<Option<ContentHash>, String>,
    plan: &Plan,
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
    let desired = agent.desired.of(kind);
    let is_overdue = overdue_at(agent, kind, plan.agent_deadline_ms()).is_some_and(|at| now >= at);
    if desired.unproven.is_some_and(|unproven| unproven.is_returning()) && desired.hash == wanted && is_overdue {
        return Standing::Failed("connects again and again, and does not run it in good health".to_owned());
    }
    if !agent.presence.connected {
        return Standing::Disconnected;
    }
    if desired.hash != wanted {
        return Standing::Waiting;
    }
    let unless_overdue = |standing, words: &str| match is_overdue {
        true => Standing::Failed(words.to_owned()),
        false => standing,
    };
    match status(agent, kind) {
        Status::NothingDesired => Standing::Healthy,
        Status::Unrenderable => Standing::Failed(agent.desired.unrendered.clone()),
        Status::NotCapable => Standing::NotCapable,
        Status::Unreachable => Standing::Disconnected,
        Status::Failed => Standing::Failed(agent.observed.reported(kind).error.clone()),
        Status::RolledBack if desired.refusal.is_empty() => {
            Standing::Failed("the agent went back to what it had before".to_owned())
        }
        Status::Quarantined if desired.refusal.is_empty() => Standing::Failed("the agent refused it before".to_owned()),
        Status::RolledBack | Status::Quarantined => Standing::Failed(desired.refusal.clone()),
        // Whether it has drifted or not, and what else there is to say of it.
        Status::Applied | Status::Delivered | Status::Healthy | Status::Unhealthy | Status::Drifted => {
            match what_is_wrong(agent, kind, plan) {
                None => Standing::Healthy,
                Some(words) => unless_overdue(Standing::Unhealthy, words),
            }
        }
        Status::Applying => unless_overdue(Standing::Applying, "still applying it at its deadline"),
        Status::Pending => Standing::Waiting,
        Status::Offered => unless_overdue(Standing::Offered, "no answer within its deadline"),
    }
}

/// How far what an agent should have has come, whatever became of it then: whether it was offered, and whether it is applied.
pub fn reached(agent: &AgentRecord, kind: PolicyKind, wanted: Option<ContentHash>) -> (bool, bool) {
    let desired = agent.desired.of(kind);
    let Some(hash) = wanted.filter(|_| desired.hash == wanted) else { return (false, false) };
    // It speaks of it, also after it has connected anew.
    let has_answered = agent.observed.reported(kind).hash[..] == hash.0;
    let is_applied = offer::convergence(agent, kind) == Convergence::Converged;
    (is_applied || has_answered || desired.offered_at.is_some(), is_applied)
}

/// Where an agent stands with what it is not to have yet, because the rollout is paused.
pub fn waiting(agent: &AgentRecord, kind: PolicyKind) -> Standing {
    if !agent.observed.accepts(kind) {
        Standing::NotCapable
    } else if !agent.presence.connected {
        Standing::Disconnected
    } else {
        Standing::Waiting
    }
}

/// With an agent that has what it should.
fn what_is_wrong(agent: &AgentRecord, kind: PolicyKind, plan: &Plan) -> Option<&'static str> {
    if agent.observed.healthy == Some(false) {
        return Some("runs it, but is not healthy");
    }
    let is_judged = plan.effective_config
        && kind == PolicyKind::Config
        && agent.observed.has(AgentCapabilities::ReportsEffectiveConfig);
    match agent.desired.effective {
        Effective::Matches => None,
        _ if !is_judged => None,
        Effective::Unknown => Some("applied it, but has not said what it runs"),
        Effective::Differs => Some("applied it, but what it says that it runs is something else"),
        Effective::Drifted | Effective::Retried => Some("applied it, but what it says that it runs is no longer that"),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{offer::convergence, status::testing::agents};

    const LONG_AFTER: UnixMs = 1_000_000_000;

    fn plan(effective_config: bool) -> Plan {
        Plan { effective_config, ..Plan::default() }
    }

    proptest! {
        /// Rollouts and operators see the same of an agent.
        #[test]
        fn what_a_rollout_makes_of_an_agent_agrees_with_its_status(
            agent in agents(),
            effective_config in any::<bool>(),
            now in prop_oneof![Just(0), Just(LONG_AFTER)],
        ) {
            for kind in PolicyKind::ALL {
                let wanted = agent.desired.of(kind).hash;
                let (stands, word) = (standing(&agent, kind, Ok(wanted), &plan(effective_config), now), status(&agent, kind));
                let converged = convergence(&agent, kind) == Convergence::Converged;
                match &stands {
                    Standing::NotCapable => prop_assert!(!agent.observed.accepts(kind)),
                    Standing::Disconnected => prop_assert!(!agent.presence.connected),
                    Standing::Waiting => prop_assert_eq!(word, Status::Pending),
                    Standing::Offered => prop_assert_eq!(word, Status::Offered),
                    Standing::Applying => prop_assert_eq!(word, Status::Applying),
                    Standing::Unhealthy => prop_assert!(converged && word != Status::Applied),
                    Standing::Healthy => prop_assert!(converged || wanted.is_none()),
                    Standing::Failed(_) => {
                        let is_refused = matches!(word, Status::Failed | Status::RolledBack | Status::Quarantined);
                        prop_assert!(is_refused || now == LONG_AFTER, "{}", word);
                    }
                }
                if word == Status::Healthy && !effective_config {
                    prop_assert_eq!(stands, Standing::Healthy);
                } else if word == Status::Unhealthy {
                    prop_assert_ne!(stands, Standing::Healthy);
                }
                let is_behind = standing(&agent, kind, Ok(Some(ContentHash([7; 32]))), &plan(effective_config), now);
                prop_assert_ne!(is_behind, Standing::Healthy);
            }
        }

        #[test]
        fn what_it_runs_is_only_asked_of_those_who_say_it(agent in agents(), now in any::<i32>()) {
            let wanted = agent.desired.config.hash;
            let stands = |plan: &Plan| standing(&agent, PolicyKind::Config, Ok(wanted), plan, now.into());
            let (with, without) = (stands(&plan(true)), stands(&plan(false)));
            let says = agent.observed.has(AgentCapabilities::ReportsEffectiveConfig);
            match (&without, agent.desired.effective) {
                (Standing::Healthy, Effective::Unknown | Effective::Differs | Effective::Drifted) if says && wanted.is_some() => {
                    prop_assert!(matches!(with, Standing::Unhealthy | Standing::Failed(_)));
                }
                _ => prop_assert_eq!(with, without),
            }
        }
    }
}
