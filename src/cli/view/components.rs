//! What an agent is built from.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::agent::{json, text};
use crate::proto::admin;

#[derive(Serialize)]
pub struct Components {
    pub instance_uid: String,
    /// Hex; empty when the agent says none.
    pub hash: String,
    /// Null while no agent has told what the hash stands for.
    pub components: Option<BTreeMap<String, Component>>,
}

#[derive(Serialize)]
pub struct Component {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, Component>,
}

impl From<admin::AgentComponents> for Components {
    fn from(components: admin::AgentComponents) -> Self {
        Self {
            instance_uid: components.instance_uid,
            hash: hex::encode(components.hash),
            components: components.is_known.then(|| parts(components.components)),
        }
    }
}

fn parts(map: BTreeMap<String, admin::AvailableComponent>) -> BTreeMap<String, Component> {
    let one = |component: admin::AvailableComponent| Component {
        metadata: component.metadata.into_iter().map(|(key, value)| (key, json(value))).collect(),
        components: parts(component.components),
    };
    map.into_iter().map(|(name, component)| (name, one(component))).collect()
}

/// Each component under the one that it is part of.
pub fn rows(components: &BTreeMap<String, Component>) -> Vec<Vec<String>> {
    let mut rows = vec![vec!["COMPONENT".to_owned(), "METADATA".to_owned()]];
    add_to(&mut rows, components, 0);
    rows
}

fn add_to(rows: &mut Vec<Vec<String>>, components: &BTreeMap<String, Component>, depth: usize) {
    for (name, component) in components {
        let metadata: Vec<_> = component.metadata.iter().map(|(key, value)| format!("{key}={}", text(value))).collect();
        rows.push(vec![format!("{}{name}", "  ".repeat(depth)), metadata.join(", ")]);
        add_to(rows, &component.components, depth + 1);
    }
}
