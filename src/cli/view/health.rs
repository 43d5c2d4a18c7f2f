//! An agent's health, and its history.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{or_dash, rfc3339};
use crate::proto::admin;

#[derive(Serialize)]
pub struct Health {
    pub instance_uid: String,
    /// Null when the agent reports no health.
    pub health: Option<Tree>,
    /// Newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<Transition>>,
}

#[derive(Serialize)]
pub struct Tree {
    pub healthy: bool,
    pub status: String,
    pub last_error: String,
    pub started_at: Option<String>,
    /// Since when the status is what it is, as the agent says.
    pub status_at: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, Tree>,
}

#[derive(Serialize)]
pub struct Transition {
    pub at: Option<String>,
    /// Names from the outermost on; empty for the agent itself.
    pub component: Vec<String>,
    /// Null: the component is there no more.
    pub healthy: Option<bool>,
    pub status: String,
    pub last_error: String,
}

impl From<admin::ComponentHealth> for Tree {
    fn from(health: admin::ComponentHealth) -> Self {
        Self {
            healthy: health.healthy,
            status: health.status,
            last_error: health.last_error,
            started_at: rfc3339(health.start_time),
            status_at: rfc3339(health.status_time),
            components: health.components.into_iter().map(|(name, it)| (name, it.into())).collect(),
        }
    }
}

impl From<admin::HealthTransition> for Transition {
    fn from(transition: admin::HealthTransition) -> Self {
        Self {
            at: rfc3339(transition.time),
            component: transition.component,
            healthy: transition.healthy,
            status: transition.status,
            last_error: transition.last_error,
        }
    }
}

impl Tree {
    /// The tree's rows, each component under the one that it is part of.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let header = ["COMPONENT", "HEALTHY", "STATUS", "SINCE", "ERROR"].map(str::to_owned).to_vec();
        let mut rows = vec![header];
        self.add_to(&mut rows, "(agent)", 0);
        rows
    }

    fn add_to(&self, rows: &mut Vec<Vec<String>>, name: &str, depth: usize) {
        rows.push(vec![
            format!("{}{name}", "  ".repeat(depth)),
            yes(self.healthy),
            or_dash(&self.status),
            or_dash(self.status_at.as_deref().unwrap_or_default()),
            or_dash(&self.last_error),
        ]);
        for (name, component) in &self.components {
            component.add_to(rows, name, depth + 1);
        }
    }
}

impl Transition {
    pub fn rows(history: &[Self]) -> Vec<Vec<String>> {
        let header = ["TIME", "COMPONENT", "HEALTHY", "STATUS", "ERROR"].map(str::to_owned).to_vec();
        let row = |it: &Self| {
            vec![
                it.at.clone().unwrap_or_default(),
                if it.component.is_empty() { "(agent)".to_owned() } else { it.component.join(" > ") },
                it.healthy.map_or_else(|| "gone".to_owned(), yes),
                or_dash(&it.status),
                or_dash(&it.last_error),
            ]
        };
        std::iter::once(header).chain(history.iter().map(row)).collect()
    }
}

fn yes(healthy: bool) -> String {
    if healthy { "yes" } else { "no" }.to_owned()
}
