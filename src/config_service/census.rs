//! How many agents have which status: counted by sweeps as they pass by, so that it costs no reading of its own.

use std::collections::BTreeMap;

use super::{metrics, shared::Owned};
use crate::model::{
    AgentRecord,
    offer::{self, Convergence},
    policy::PolicyKind,
    status::{Status, status},
    uid::Shard,
};

/// What was seen of a shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    /// Connected agents that do not have what they should, of some kind.
    pub behind: usize,
    statuses: BTreeMap<(PolicyKind, Status), u64>,
}

impl Census {
    pub fn count(&mut self, agent: &AgentRecord) {
        let lacks = |kind| offer::convergence(agent, kind) == Convergence::Behind;
        self.behind += usize::from(agent.presence.connected && PolicyKind::ALL.into_iter().any(lacks));
        for kind in PolicyKind::ALL {
            *self.statuses.entry((kind, status(agent, kind))).or_default() += 1;
        }
    }
}

/// The newest census of each shard of this replica.
#[derive(Default)]
pub struct Censuses {
    shards: BTreeMap<Shard, Census>,
    /// Including those that no agent has any more.
    told: BTreeMap<(PolicyKind, Status), u64>,
}

impl Censuses {
    pub fn take(&mut self, shard: Shard, census: Census) {
        self.shards.insert(shard, census);
    }

    /// Makes the metrics those of the shards that are `owned`.
    pub fn tell(&mut self, owned: &Owned) {
        self.shards.retain(|shard, _| owned.contains(shard));
        self.told.values_mut().for_each(|agents| *agents = 0);
        for (key, agents) in self.shards.values().flat_map(|census| &census.statuses) {
            // What no policy says anything of is no news.
            if key.1 != Status::NothingDesired {
                *self.told.entry(*key).or_default() += agents;
            }
        }
        for ((kind, status), agents) in &self.told {
            let labels = [("kind", kind.name()), ("status", status.name())];
            ::metrics::gauge!(metrics::AGENTS, &labels).set(*agents as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{ContentHash, InstanceUid};

    #[test]
    fn shards_that_went_to_others_are_not_counted() {
        let mut agent = AgentRecord::new(InstanceUid::from_slice(&[1; 16]).unwrap(), 0);
        agent.desired.config.hash = Some(ContentHash([1; 32]));
        agent.observed.capabilities = offer::capabilities_that_accept(PolicyKind::Config);
        let mut census = Census::default();
        census.count(&agent);
        assert_eq!(census.behind, 0, "it is disconnected");
        agent.presence.connected = true;
        census.count(&agent);
        assert_eq!(census.behind, 1);
        let mut censuses = Censuses::default();
        censuses.take(3, census.clone());
        censuses.take(4, census);
        censuses.tell(&Arc::new([3, 4].into()));
        assert_eq!(censuses.told[&(PolicyKind::Config, Status::Pending)], 2);
        assert_eq!(censuses.told[&(PolicyKind::Config, Status::Unreachable)], 2);
        assert_eq!(censuses.told.len(), 2);
        censuses.tell(&Arc::new([4].into()));
        assert_eq!(censuses.told[&(PolicyKind::Config, Status::Pending)], 1);
        censuses.tell(&Arc::default());
        assert_eq!(censuses.told.values().sum::<u64>(), 0);
    }
}
