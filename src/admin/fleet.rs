//! The Fleet service.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use tonic::{Request, Response, Status};

use super::{authorized::Authorized, context::Context, convert, errors::from_store};
use crate::{
    bus::{self, Role},
    model::{self, policy::PolicyKind},
    proto::admin::{
        FleetSummary, GatewaySummary, GetFleetSummaryRequest, StatusCount, VersionCount, fleet_server::Fleet,
    },
    store,
};

pub struct Service(pub Arc<Context>);

#[tonic::async_trait]
impl Fleet for Service {
    async fn get_fleet_summary(
        &self,
        request: Request<GetFleetSummaryRequest>,
    ) -> Result<Response<FleetSummary>, Status> {
        self.summary(Authorized::of(request)?).await.map(Response::new)
    }
}

impl Service {
    async fn summary(&self, _request: Authorized<GetFleetSummaryRequest>) -> Result<FleetSummary, Status> {
        let counts = self.0.store.fleet_summary().await.map_err(from_store)?;
        let live = self.members(Role::Gateway).await.unwrap_or_default();
        let config_services = self.members(Role::ConfigService).await;
        let gateways = gateways(counts.gateways.clone(), live);
        Ok(FleetSummary {
            bus_reachable: config_services.is_ok(),
            config_services: config_services.unwrap_or_default(),
            gateways,
            ..summary(counts)
        })
    }

    async fn members(&self, role: Role) -> Result<Vec<String>, bus::Error> {
        self.0.bus.members(role).await
    }
}

fn gateways(in_use: Vec<(String, u64)>, live: Vec<String>) -> Vec<GatewaySummary> {
    let mut gateways: Vec<_> =
        in_use.into_iter().map(|(id, agents)| GatewaySummary { live: live.contains(&id), id, agents }).collect();
    for id in live {
        if gateways.iter().all(|gateway| gateway.id != id) {
            gateways.push(GatewaySummary { id, agents: 0, live: true });
        }
    }
    gateways.sort_by(|a, b| (Reverse(a.agents), &a.id).cmp(&(Reverse(b.agents), &b.id)));
    gateways
}

fn summary(counts: store::FleetSummary) -> FleetSummary {
    let version = |version: store::VersionCount| VersionCount {
        service_name: version.service_name,
        service_version: version.service_version,
        agents: version.agents,
    };
    FleetSummary {
        agents: counts.agents,
        connected: counts.connected,
        healthy: counts.healthy,
        unhealthy: counts.unhealthy,
        config_unset: counts.config_unset,
        config_applied: counts.config_applied,
        config_applying: counts.config_applying,
        config_failed: counts.config_failed,
        desired: counts.desired,
        converged: counts.converged,
        versions: counts.versions.into_iter().map(version).collect(),
        statuses: statuses(&counts.statuses),
        ..Default::default()
    }
}

fn statuses(counts: &BTreeMap<(PolicyKind, model::status::Status), u64>) -> Vec<StatusCount> {
    let is_used = |kind: PolicyKind| {
        counts.keys().any(|(of, status)| *of == kind && *status != model::status::Status::NothingDesired)
    };
    let count = |(&(kind, status), &agents): (&(PolicyKind, model::status::Status), &u64)| StatusCount {
        kind: convert::policy::kind(kind).into(),
        status: convert::status::word(status).into(),
        agents,
    };
    counts.iter().filter(|((kind, _), _)| is_used(*kind)).map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_dead_gateways_are_listed_too() {
        let gateways = gateways(vec![("dead".into(), 3), ("busy".into(), 7)], vec!["busy".into(), "idle".into()]);
        let seen: Vec<_> = gateways.iter().map(|g| (g.id.as_str(), g.agents, g.live)).collect();
        assert_eq!(seen, [("busy", 7, true), ("dead", 3, false), ("idle", 0, true)]);
    }
}
