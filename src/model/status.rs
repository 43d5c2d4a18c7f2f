//! One word for how an agent stands to what it should have of one kind: what operators see, filter and count by.
//!
//! A word says more than [`Convergence`], and never anything else; what rollouts make of an agent follows from it. The table of
//! them is in docs/agents.md.

use std::{fmt, str::FromStr};

use super::{
    AgentRecord,
    agent::OfferStatus,
    effective::Effective,
    offer::{Convergence, convergence},
    policy::PolicyKind,
};

/// In the order of concern: what most needs to be looked at comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// No policy matches.
    NothingDesired,
    /// The agent does not accept offers of this kind.
    NotCapable,
    /// Connection settings that were put on the agent's connection, and of which it says nothing. As clients that connect anew
    /// with what they were offered forget it, no more may ever be heard.
    Delivered,
    /// Has it, is connected, and does not say that it is unhealthy.
    Healthy,
    /// Has it, and is disconnected: how it is now is not known.
    Applied,
    /// Works on it.
    Applying,
    /// Was handed to the agent's gateway on this connection, and is not answered.
    Offered,
    /// Is to be offered: its turn, or its pace, has not come.
    Pending,
    /// Disconnected, and does not have it.
    Unreachable,
    /// Has it, and says that it is unhealthy.
    Unhealthy,
    /// Has it, and what it says that it runs was that, and is that no longer.
    Drifted,
    /// A template of what it should have cannot be filled in for it: it keeps what it has.
    Unrenderable,
    /// Refused it by going back to what it had before; not offered again.
    RolledBack,
    /// Refused it, and does not say so any more; not offered again.
    Quarantined,
    /// Says that it failed; not offered again.
    Failed,
}

impl Status {
    pub const EVERY: [Self; 15] = [
        Self::NothingDesired,
        Self::NotCapable,
        Self::Delivered,
        Self::Healthy,
        Self::Applied,
        Self::Applying,
        Self::Offered,
        Self::Pending,
        Self::Unreachable,
        Self::Unhealthy,
        Self::Drifted,
        Self::Unrenderable,
        Self::RolledBack,
        Self::Quarantined,
        Self::Failed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::NothingDesired => "NOTHING_DESIRED",
            Self::NotCapable => "NOT_CAPABLE",
            Self::Healthy => "HEALTHY",
            Self::Applied => "APPLIED",
            Self::Delivered => "DELIVERED",
            Self::Applying => "APPLYING",
            Self::Offered => "OFFERED",
            Self::Pending => "PENDING",
            Self::Unreachable => "UNREACHABLE",
            Self::Unhealthy => "UNHEALTHY",
            Self::Drifted => "DRIFTED",
            Self::Unrenderable => "UNRENDERABLE",
            Self::RolledBack => "ROLLED_BACK",
            Self::Quarantined => "QUARANTINED",
            Self::Failed => "FAILED",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// As operators write it: in any case, with `-` or `_`.
impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim().to_ascii_uppercase().replace('-', "_");
        Self::EVERY.into_iter().find(|status| status.name() == name).ok_or_else(|| {
            let names = Self::EVERY.map(|status| status.name().to_ascii_lowercase());
            format!("{text:?} is no status: it is one of {}", names.join(", "))
        })
    }
}

/// The status of one kind.
pub fn status(agent: &AgentRecord, kind: PolicyKind) -> Status {
    let is_connected = agent.presence.connected;
    match convergence(agent, kind) {
        Convergence::NothingDesired => Status::NothingDesired,
        Convergence::NotCapable => Status::NotCapable,
        Convergence::Unrenderable => Status::Unrenderable,
        Convergence::Quarantined => refused(agent, kind),
        Convergence::Converged => having(agent, kind),
        Convergence::Applying | Convergence::Behind if !is_connected => Status::Unreachable,
        Convergence::Applying => Status::Applying,
        Convergence::Behind if agent.desired.of(kind).offered_at.is_some() => Status::Offered,
        Convergence::Behind => Status::Pending,
    }
}

/// The status of an agent as a whole: of all kinds the one of most concern.
pub fn overall(agent: &AgentRecord) -> Status {
    PolicyKind::ALL.into_iter().map(|kind| status(agent, kind)).max().unwrap_or(Status::NothingDesired)
}

/// Whether it is the agent's status as a whole, or of one kind of which it should have something.
pub fn is_any(agent: &AgentRecord, wanted: &[Status]) -> bool {
    let of_kinds = PolicyKind::ALL.into_iter().map(|kind| status(agent, kind));
    of_kinds.filter(|status| *status != Status::NothingDesired).chain([overall(agent)]).any(|it| wanted.contains(&it))
}

fn refused(agent: &AgentRecord, kind: PolicyKind) -> Status {
    let (desired, reported) = (agent.desired.of(kind), agent.observed.reported(kind));
    let is_about_it = desired.hash.is_some_and(|hash| reported.hash[..] == hash.0);
    match reported.status {
        OfferStatus::Failed if is_about_it => Status::Failed,
        OfferStatus::Applied if !is_about_it && !reported.hash.is_empty() => Status::RolledBack,
        _ => Status::Quarantined,
    }
}

fn having(agent: &AgentRecord, kind: PolicyKind) -> Status {
    let desired = agent.desired.of(kind);
    if desired.hash.is_none_or(|hash| agent.observed.reported(kind).hash[..] != hash.0) {
        return Status::Delivered;
    }
    if kind == PolicyKind::Config && agent.desired.effective == Effective::Drifted {
        return Status::Drifted;
    }
    match (agent.presence.connected, agent.observed.healthy) {
        (false, _) => Status::Applied,
        (true, Some(false)) => Status::Unhealthy,
        (true, _) => Status::Healthy,
    }
}

#[cfg(test)]
pub mod testing {
    //! Agents in every situation that statuses tell apart.

    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        ContentHash, InstanceUid,
        agent::{Reported, Wanted},
        offer::capabilities_that_accept,
    };
    use crate::proto::opamp::AgentCapabilities;

    fn hashes() -> impl Strategy<Value = Option<ContentHash>> {
        prop_oneof![1 => Just(None), 4 => (1_u8..3).prop_map(|n| Some(ContentHash([n; 32])))]
    }

    fn reported() -> impl Strategy<Value = Reported> {
        (0..4, hashes(), any::<bool>()).prop_map(|(status, hash, has_words)| Reported {
            status: OfferStatus::from_number(status),
            hash: hash.map(ContentHash::to_bytes).unwrap_or_default(),
            error: if has_words { "no such receiver".to_owned() } else { String::new() },
        })
    }

    fn wanted() -> impl Strategy<Value = Wanted> {
        (hashes(), hashes(), prop::option::of(0_i64..1_000), 0_u16..3).prop_map(
            |(hash, quarantined, offered_at, offer_attempts)| Wanted {
                hash,
                generation: 1,
                quarantined,
                offered_at,
                offer_attempts,
                ..Wanted::default()
            },
        )
    }

    prop_compose! {
        pub fn agents()(
            accepts in any::<[bool; 3]>(),
            reports_effective in any::<bool>(),
            connected in any::<bool>(),
            healthy in any::<Option<bool>>(),
            sent in hashes(),
            effective in 0_i32..5,
            (config, packages, settings) in (wanted(), wanted(), wanted()),
            (said_config, said_packages, said_settings) in (reported(), reported(), reported()),
        ) -> AgentRecord {
            let mut agent = AgentRecord::new(InstanceUid::from_slice(&[1; 16]).unwrap(), 0);
            for (kind, accepts) in PolicyKind::ALL.into_iter().zip(accepts) {
                agent.observed.capabilities |= if accepts { capabilities_that_accept(kind) } else { 0 };
            }
            if reports_effective {
                agent.observed.capabilities |= AgentCapabilities::ReportsEffectiveConfig as u64;
            }
            agent.observed.healthy = healthy;
            agent.observed.sent_connection_settings = sent;
            (agent.observed.config, agent.observed.packages, agent.observed.connection_settings) =
                (said_config, said_packages, said_settings);
            agent.presence.connected = connected;
            (agent.desired.config, agent.desired.packages, agent.desired.connection_settings) =
                (config, packages, settings);
            agent.desired.effective = Effective::from_number(effective);
            agent
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{testing::agents, *};
    use crate::model::offer::is_due;

    proptest! {
        /// Each word refines one convergence, so that whatever goes by either agrees.
        #[test]
        fn words_say_more_than_convergence_and_nothing_else(agent in agents()) {
            for kind in PolicyKind::ALL {
                let (word, stands) = (status(&agent, kind), convergence(&agent, kind));
                let expected: &[Convergence] = match word {
                    Status::NothingDesired => &[Convergence::NothingDesired],
                    Status::NotCapable => &[Convergence::NotCapable],
                    Status::Healthy | Status::Applied | Status::Delivered | Status::Unhealthy | Status::Drifted => {
                        &[Convergence::Converged]
                    }
                    Status::Applying => &[Convergence::Applying],
                    Status::Offered | Status::Pending => &[Convergence::Behind],
                    Status::Unrenderable => &[Convergence::Unrenderable],
                    Status::Unreachable => &[Convergence::Applying, Convergence::Behind],
                    Status::RolledBack | Status::Quarantined | Status::Failed => &[Convergence::Quarantined],
                };
                prop_assert!(expected.contains(&stands), "{word} but {stands:?}");
                prop_assert!(!is_due(&agent, kind, i64::MAX) || matches!(word, Status::Offered | Status::Pending));
                let needs_connection = [Status::Healthy, Status::Unhealthy, Status::Offered, Status::Pending, Status::Applying];
                prop_assert!(agent.presence.connected || !needs_connection.contains(&word));
                prop_assert!(kind == PolicyKind::ConnectionSettings || word != Status::Delivered);
                prop_assert!(kind == PolicyKind::Config || word != Status::Drifted);
                prop_assert!(overall(&agent) >= word);
                prop_assert!(word == Status::NothingDesired || is_any(&agent, &[word]));
            }
            prop_assert!(is_any(&agent, &[overall(&agent)]));
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for status in Status::EVERY {
            assert_eq!(status.name().parse(), Ok(status));
            assert_eq!(status.name().to_lowercase().replace('_', "-").parse(), Ok(status));
        }
        assert!("lost".parse::<Status>().unwrap_err().contains("\"lost\" is no status: it is one of nothing_desired,"));
        assert!(Status::EVERY.is_sorted());
    }
}
