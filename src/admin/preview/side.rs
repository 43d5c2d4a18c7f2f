//! What policies give agents, before the change or after it.

use std::{collections::HashMap, sync::Arc};

use super::{items::Items, warnings::own_names};
use crate::model::{
    AgentRecord, Attributes, ContentHash,
    desired::{DesiredConfig, PolicySet},
    policy::{Policy, PolicyKind},
    rendering::Unrendered,
    template::Subject,
};

pub struct Side<'a> {
    set: &'a PolicySet,
    kind: PolicyKind,
    /// Those of this kind that change.
    changed: &'a [&'a Policy],
    /// By the indices of the matching policies.
    merged: HashMap<Vec<u32>, Merged>,
    /// Agents for whom files were written.
    pub written: usize,
}

#[derive(Clone)]
struct Merged {
    items: Arc<Items>,
    /// With templates, which are filled in for each agent.
    config: Option<Arc<DesiredConfig>>,
    conflicts: Arc<Vec<Conflict>>,
}

/// Something of a policy's that others have, too: the first of them is what agents get.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conflict {
    /// The policy.
    pub of: String,
    pub name: String,
    pub policies: Vec<String>,
}

/// What an agent is given.
pub struct Given {
    pub items: Result<Arc<Items>, Unrendered>,
    pub conflicts: Arc<Vec<Conflict>>,
}

impl<'a> Side<'a> {
    pub fn new(set: &'a PolicySet, kind: PolicyKind, changed: &'a [&'a Policy]) -> Self {
        Self { set, kind, changed, merged: HashMap::new(), written: 0 }
    }

    pub fn of(&mut self, agent: &AgentRecord, attributes: &Attributes) -> Given {
        let matching = self.set.matching(agent, attributes);
        let (set, kind, changed) = (self.set, self.kind, self.changed);
        let merged = self.merged.entry(matching).or_insert_with_key(|matching| merge(set, kind, changed, matching));
        let conflicts = merged.conflicts.clone();
        let items = match &merged.config {
            None => Ok(merged.items.clone()),
            Some(config) => {
                self.written += 1;
                let subject = Subject::new(agent.uid, attributes, &agent.labels);
                set.render(config, &subject, None).map(|config| Arc::new(Items::files(&config)))
            }
        };
        Given { items, conflicts }
    }

    /// The bodies that were written for an agent.
    pub fn bodies(&self, agent: &AgentRecord) -> Vec<(ContentHash, bytes::Bytes)> {
        let attributes = Attributes::decode(&agent.observed.description);
        let matching = self.set.matching(agent, &attributes);
        let Some(config) = self.merged.get(&matching).and_then(|merged| merged.config.as_ref()) else {
            return Vec::new();
        };
        let subject = Subject::new(agent.uid, &attributes, &agent.labels);
        self.set.render(config, &subject, None).map(|config| config.rendered).unwrap_or_default()
    }
}

fn merge(set: &PolicySet, kind: PolicyKind, changed: &[&Policy], matching: &[u32]) -> Merged {
    let conflicts = changed.iter().flat_map(|policy| conflicts(set, policy, matching));
    let conflicts = Arc::new(conflicts.collect::<Vec<_>>());
    if kind != PolicyKind::Config {
        return Merged { items: Arc::new(Items::others(set, matching, kind)), config: None, conflicts };
    }
    let config = set.merge(matching);
    let items = Arc::new(config.as_ref().map(Items::files).unwrap_or_default());
    Merged { items, config: config.filter(|config| config.has_templates).map(Arc::new), conflicts }
}

/// Of those at `matching`, which are in the order in which they go before each other.
fn conflicts(set: &PolicySet, policy: &Policy, matching: &[u32]) -> Vec<Conflict> {
    let policies: Vec<_> = matching.iter().map(|index| &set.policies()[*index as usize]).collect();
    if !policies.iter().any(|other| other.name == policy.name) {
        return Vec::new();
    }
    let of = |name: String| {
        let having = policies.iter().filter(|other| other.kind == policy.kind);
        let having = having.filter(|other| own_names(&other.revision.content.offer).contains(&name));
        Conflict { of: policy.name.clone(), policies: having.map(|other| other.name.clone()).collect(), name }
    };
    let all = own_names(&policy.revision.content.offer).into_iter().map(of);
    all.filter(|conflict| conflict.policies.len() > 1).collect()
}
