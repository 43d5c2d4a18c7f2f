//! The fleet's summary.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use super::{or_dash, policy::kind_name, status};
use crate::{cli::output::Table, proto::admin};

#[derive(Serialize)]
pub struct Fleet {
    pub agents: u64,
    pub connected: u64,
    pub healthy: u64,
    pub unhealthy: u64,
    pub config_status: Statuses,
    pub desired: u64,
    pub converged: u64,
    /// All agents by kind of policy and status. Kinds of which no agent should have anything are left out.
    pub statuses: BTreeMap<&'static str, BTreeMap<String, u64>>,
    pub versions: Vec<Version>,
    pub gateways: Vec<Gateway>,
    pub config_services: Vec<String>,
    pub bus_reachable: bool,
}

/// All agents by config status.
#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct Statuses {
    pub unset: u64,
    pub applied: u64,
    pub applying: u64,
    pub failed: u64,
}

#[derive(Serialize)]
pub struct Version {
    pub service_name: String,
    pub service_version: String,
    pub agents: u64,
}

#[derive(Serialize)]
pub struct Gateway {
    pub id: String,
    pub agents: u64,
    pub live: bool,
}

impl From<admin::FleetSummary> for Fleet {
    fn from(summary: admin::FleetSummary) -> Self {
        let version = |version: admin::VersionCount| Version {
            service_name: version.service_name,
            service_version: version.service_version,
            agents: version.agents,
        };
        let gateway =
            |gateway: admin::GatewaySummary| Gateway { id: gateway.id, agents: gateway.agents, live: gateway.live };
        let mut statuses: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for count in &summary.statuses {
            statuses.entry(kind_name(count.kind())).or_default().insert(status::name(count.status()), count.agents);
        }
        Self {
            statuses,
            agents: summary.agents,
            connected: summary.connected,
            healthy: summary.healthy,
            unhealthy: summary.unhealthy,
            config_status: Statuses {
                unset: summary.config_unset,
                applied: summary.config_applied,
                applying: summary.config_applying,
                failed: summary.config_failed,
            },
            desired: summary.desired,
            converged: summary.converged,
            versions: summary.versions.into_iter().map(version).collect(),
            gateways: summary.gateways.into_iter().map(gateway).collect(),
            config_services: summary.config_services,
            bus_reachable: summary.bus_reachable,
        }
    }
}

impl Fleet {
    /// For people; `wide` adds versions beyond the first few.
    pub fn text(&self, wide: bool) -> String {
        const FIRST: usize = 10;
        let status = &self.config_status;
        let unreported = self.connected.saturating_sub(self.healthy + self.unhealthy);
        let line = |name: &str, text: String| vec![name.to_owned(), text];
        let mut lines = vec![
            line("Agents", format!("{} ({} connected)", self.agents, self.connected)),
            line("Healthy", format!("{} yes, {} no, {unreported} unknown", self.healthy, self.unhealthy)),
            line(
                "Config",
                format!(
                    "{} applied, {} applying, {} failed, {} unset",
                    status.applied, status.applying, status.failed, status.unset
                ),
            ),
            line("Converged", format!("{} of {} with a desired configuration", self.converged, self.desired)),
        ];
        for (kind, counts) in &self.statuses {
            let mut counts: Vec<_> = counts.iter().collect();
            counts.sort_by_key(|(status, agents)| (std::cmp::Reverse(**agents), (*status).clone()));
            let counts: Vec<_> = counts.into_iter().map(|(status, agents)| format!("{agents} {status}")).collect();
            lines.push(line(kind, counts.join(", ")));
        }
        lines.push(line("Config services", or_dash(&self.config_services.join(", "))));
        let mut text = Table::default().lines(lines);
        if !self.bus_reachable {
            text.push_str("The bus is away, so nobody can say which nodes are live.\n");
        }
        if !self.gateways.is_empty() {
            let mut rows = vec![vec!["GATEWAY".to_owned(), "CONNECTED".to_owned(), "LIVE".to_owned()]];
            let live = |gateway: &Gateway| if gateway.live { "yes" } else { "no" }.to_owned();
            rows.extend(self.gateways.iter().map(|g| vec![g.id.clone(), g.agents.to_string(), live(g)]));
            let _ = write!(text, "\n{}", Table::default().lines(rows));
        }
        if !self.versions.is_empty() {
            let shown = if wide { self.versions.len() } else { FIRST.min(self.versions.len()) };
            let mut rows = vec![vec!["SERVICE".to_owned(), "VERSION".to_owned(), "AGENTS".to_owned()]];
            let cells = |v: &Version| vec![or_dash(&v.service_name), or_dash(&v.service_version), v.agents.to_string()];
            rows.extend(self.versions[..shown].iter().map(cells));
            let _ = write!(text, "\n{}", Table::default().lines(rows));
            if shown < self.versions.len() {
                let _ = writeln!(text, "(and {} more: -o wide)", self.versions.len() - shown);
            }
        }
        text
    }
}
