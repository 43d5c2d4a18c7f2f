//! The kinds of offer that only some scripted agents take: packages, and connection settings, with which such an agent connects
//! anew as the OpenTelemetry Collector's Supervisor does. It then has forgotten their hash, and counts from 0.

use std::net::SocketAddr;

use bytes::Bytes;
use muster::proto::opamp::{
    AgentCapabilities, AgentToServer, ConnectionSettingsOffers, ConnectionSettingsStatus, ConnectionSettingsStatuses,
    PackageAvailable, PackageStatus, PackageStatusEnum, PackageStatuses, PackagesAvailable,
};

#[derive(Clone, Debug, Default)]
pub struct Others {
    capabilities: u64,
    statuses: Option<PackageStatuses>,
    /// Refused.
    settings: Option<ConnectionSettingsStatus>,
    endpoint: Option<SocketAddr>,
    /// It is about to connect there.
    is_leaving: bool,
    /// Hashes in the order of the offers.
    pub package_offers: Vec<Bytes>,
    pub settings_offers: Vec<Bytes>,
}

impl Others {
    pub fn packages() -> Self {
        let capabilities = AgentCapabilities::AcceptsPackages as u64 | AgentCapabilities::ReportsPackageStatuses as u64;
        Self { capabilities, ..Self::default() }
    }

    pub fn settings() -> Self {
        let capabilities = AgentCapabilities::AcceptsOpAmpConnectionSettings as u64
            | AgentCapabilities::ReportsConnectionSettingsStatus as u64;
        Self { capabilities, ..Self::default() }
    }

    pub fn capabilities(&self) -> u64 {
        self.capabilities
    }

    /// The version of the package that is installed.
    pub fn version(&self) -> Option<&str> {
        let status = self.statuses.as_ref()?.packages.values().next()?;
        Some(&status.agent_has_version)
    }

    /// Where its settings have it connect.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// Whether its next connection is one with other settings.
    pub(super) fn begins_anew(&mut self) -> bool {
        std::mem::take(&mut self.is_leaving)
    }

    /// It fails at a package of a version in which the text `refuses` is.
    pub(super) fn take_packages(&mut self, offer: PackagesAvailable, refuses: Option<&str>) {
        self.package_offers.push(offer.all_packages_hash.clone());
        let before = self.statuses.take().unwrap_or_default();
        let status = |(name, package): (String, PackageAvailable)| {
            let had = before.packages.get(&name).cloned().unwrap_or_default();
            let offered = PackageStatus {
                name: name.clone(),
                server_offered_version: package.version.clone(),
                server_offered_hash: package.hash.clone(),
                ..had
            };
            let status = match refuses.is_some_and(|text| package.version.contains(text)) {
                true => PackageStatus {
                    status: PackageStatusEnum::InstallFailed as i32,
                    error_message: "it does not start".to_owned(),
                    ..offered
                },
                false => PackageStatus {
                    status: PackageStatusEnum::Installed as i32,
                    agent_has_version: package.version,
                    agent_has_hash: package.hash,
                    error_message: String::new(),
                    ..offered
                },
            };
            (name, status)
        };
        self.statuses = Some(PackageStatuses {
            packages: offer.packages.into_iter().map(status).collect(),
            server_provided_all_packages_hash: offer.all_packages_hash,
            ..Default::default()
        });
    }

    /// It fails to connect to an endpoint in which the text `refuses` is. Returns whether it has something to say.
    pub(super) fn take_settings(&mut self, offer: ConnectionSettingsOffers, refuses: Option<&str>) -> bool {
        self.settings_offers.push(offer.hash.clone());
        let endpoint = offer.opamp.map(|opamp| opamp.destination_endpoint).unwrap_or_default();
        if refuses.is_some_and(|text| endpoint.contains(text)) {
            self.settings = Some(ConnectionSettingsStatus {
                last_connection_settings_hash: offer.hash,
                status: ConnectionSettingsStatuses::Failed as i32,
                error_message: "nobody answers there".to_owned(),
            });
            return true;
        }
        self.settings = None;
        self.endpoint = endpoint.split('/').nth(2).and_then(|authority| authority.parse().ok());
        self.is_leaving = true;
        false
    }

    /// Says all that there is to say.
    pub(super) fn fill(&self, message: &mut AgentToServer) {
        message.package_statuses.clone_from(&self.statuses);
        message.connection_settings_status.clone_from(&self.settings);
    }
}
