//! What packages one agent should have, and what it says that it has.

use prost::Message;

use super::convert;
use crate::{
    model::{AgentRecord, Attributes, desired::DesiredPackage, policy::PolicyKind},
    proto::{
        admin::{AgentPackages, PackageOrigin},
        opamp::PackageStatuses,
    },
    store::{Result, Store},
};

/// Computes anew what is desired, as for configurations: while a change is on its way, the offer is still about what was
/// desired before.
pub async fn get(store: &dyn Store, agent: &AgentRecord) -> Result<AgentPackages> {
    let policies = store.policy_set().await?;
    let matching = policies.matching(agent, &Attributes::decode(&agent.observed.description));
    let mut packages = AgentPackages {
        instance_uid: agent.uid.to_string(),
        offer: convert::agent::offered(agent, PolicyKind::Packages),
        ..Default::default()
    };
    for (name, DesiredPackage { package, policy, revision }) in policies.packages(&matching) {
        packages.desired.insert(name.clone(), convert::policy::without_secrets(package));
        let overridden = policies.override_of(agent.placement(), &policy).is_some();
        packages.origins.insert(name, PackageOrigin { policy, revision, overridden });
    }
    // It was read when it was stored.
    let statuses = PackageStatuses::decode(agent.observed.package_statuses.clone()).unwrap_or_default();
    packages.statuses = statuses.packages;
    Ok(packages)
}
