//! Packages of one agent.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{agent::Offer, or_dash, policy::Package};
use crate::{
    cli::output::View,
    proto::{
        admin,
        opamp::{self, PackageStatusEnum},
    },
};

#[derive(Serialize)]
pub struct AgentPackages {
    pub instance_uid: String,
    /// Null while neither a policy nor the agent has said anything of packages.
    pub offer: Option<Offer>,
    pub packages: Vec<AgentPackage>,
}

/// What should be, and what is.
#[derive(Serialize)]
pub struct AgentPackage {
    pub name: String,
    /// Null if no policy has it.
    pub desired: Option<Desired>,
    /// Null if the agent says nothing of it.
    pub reported: Option<Reported>,
}

#[derive(Serialize)]
pub struct Desired {
    #[serde(flatten)]
    pub package: Package,
    pub policy: String,
    pub revision: u64,
    /// The agent has this revision whatever rollouts do.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub overridden: bool,
}

#[derive(Serialize)]
pub struct Reported {
    pub status: &'static str,
    /// Empty if it is not installed.
    pub installed_version: String,
    pub installed_hash: String,
    pub offered_version: String,
    pub offered_hash: String,
    pub error: String,
    /// While it is being downloaded, if the agent says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_bytes_per_second: Option<f64>,
}

impl From<admin::AgentPackages> for AgentPackages {
    fn from(answer: admin::AgentPackages) -> Self {
        let (mut desired, mut origins, mut statuses) = (answer.desired, answer.origins, answer.statuses);
        let names: BTreeSet<String> = desired.keys().chain(statuses.keys()).cloned().collect();
        let package = |name: String| AgentPackage {
            desired: desired.remove(&name).map(|package| {
                let admin::PackageOrigin { policy, revision, overridden } = origins.remove(&name).unwrap_or_default();
                Desired { package: package.into(), policy, revision, overridden }
            }),
            reported: statuses.remove(&name).map(Reported::from),
            name,
        };
        Self {
            instance_uid: answer.instance_uid,
            offer: answer.offer.map(Offer::from),
            packages: names.into_iter().map(package).collect(),
        }
    }
}

impl From<opamp::PackageStatus> for Reported {
    fn from(status: opamp::PackageStatus) -> Self {
        Self {
            status: match PackageStatusEnum::try_from(status.status) {
                Ok(PackageStatusEnum::Installed) => "INSTALLED",
                Ok(PackageStatusEnum::InstallPending) => "INSTALL_PENDING",
                Ok(PackageStatusEnum::Installing) => "INSTALLING",
                Ok(PackageStatusEnum::InstallFailed) => "INSTALL_FAILED",
                Ok(PackageStatusEnum::Downloading) => "DOWNLOADING",
                Err(_) => "UNKNOWN",
            },
            installed_version: status.agent_has_version,
            installed_hash: hex::encode(status.agent_has_hash),
            offered_version: status.server_offered_version,
            offered_hash: hex::encode(status.server_offered_hash),
            error: status.error_message,
            download_percent: status.download_details.map(|details| details.download_percent),
            download_bytes_per_second: status.download_details.map(|details| details.download_bytes_per_second),
        }
    }
}

impl Desired {
    fn origin(&self) -> String {
        format!("{}/{}{}", self.policy, self.revision, if self.overridden { " (override)" } else { "" })
    }
}

impl View for AgentPackage {
    const COLUMNS: &'static [&'static str] = &["NAME", "DESIRED", "POLICY", "INSTALLED", "STATUS", "ERROR"];
    const WIDE_COLUMNS: &'static [&'static str] = &["TYPE", "SHA256", "URL"];

    fn cells(&self) -> Vec<String> {
        let desired = self.desired.as_ref();
        let reported = self.reported.as_ref();
        let status = reported.map(|reported| match reported.download_percent {
            // Some clients keep what they said of the download when it has ended.
            Some(percent) if reported.status == "DOWNLOADING" => format!("{} {percent:.0}%", reported.status),
            _ => reported.status.to_owned(),
        });
        vec![
            if self.name.is_empty() { "\"\"".to_owned() } else { self.name.clone() },
            or_dash(desired.map_or("", |desired| &desired.package.version)),
            or_dash(&desired.map(Desired::origin).unwrap_or_default()),
            or_dash(reported.map_or("", |reported| &reported.installed_version)),
            or_dash(&status.unwrap_or_default()),
            or_dash(reported.map_or("", |reported| &reported.error)),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let of =
            |part: fn(&Package) -> &str| or_dash(self.desired.as_ref().map_or("", |desired| part(&desired.package)));
        vec![of(|package| package.r#type), of(|package| &package.sha256), of(|package| &package.url)]
    }

    fn name(&self) -> String {
        format!("package/{}", self.name)
    }
}
