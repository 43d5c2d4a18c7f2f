//! Overrides: agents that have a revision of a policy whatever rollouts do.

use std::{collections::HashMap, sync::Arc};

use super::{InstanceUid, UnixMs};

/// Overrides of a whole deployment: they are in the memory of whoever decides.
pub const MAX_OVERRIDES: usize = 10_000;

/// One agent's revision of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub policy: String,
    pub uid: InstanceUid,
    /// 0: nothing of the policy. Else its selector still decides whether it matches.
    pub revision: u64,
    /// Whether the agent is held on what it had, rather than pinned.
    pub is_hold: bool,
    /// Why, in the author's words.
    pub message: String,
    /// Who made it: the operator token's name.
    pub author: String,
    pub created_at: UnixMs,
    pub expires_at: Option<UnixMs>,
}

/// All overrides at one epoch, as far as they decide anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides(HashMap<InstanceUid, Own>);

/// The overrides of one agent: policies and revisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Own(Vec<(Arc<str>, u64)>);

impl Overrides {
    /// Agents, policies and revisions. Names of policies are best shared.
    pub fn new(all: impl IntoIterator<Item = (InstanceUid, Arc<str>, u64)>) -> Self {
        let mut of_agents = HashMap::<InstanceUid, Own>::new();
        for (agent, policy, revision) in all {
            of_agents.entry(agent).or_default().0.push((policy, revision));
        }
        Self(of_agents)
    }

    pub fn of(&self, agent: InstanceUid) -> Option<&Own> {
        // Most deployments have none: nothing is hashed for nothing.
        if self.0.is_empty() { None } else { self.0.get(&agent) }
    }

    /// Whether an agent has this revision of a policy by an override.
    pub fn name(&self, policy: &str, revision: u64) -> bool {
        self.0.values().any(|own| own.of(policy) == Some(revision))
    }
}

impl Own {
    /// The revision of a policy that the agent has; 0: nothing of it. `None`: there is no override.
    pub fn of(&self, policy: &str) -> Option<u64> {
        self.0.iter().find(|(name, _)| &**name == policy).map(|(_, revision)| *revision)
    }
}
