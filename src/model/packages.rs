//! Packages: hashes of what is offered, and what an agent's statuses come to.

use std::collections::BTreeMap;

use prost::Message;
use sha2::{Digest, Sha256};

use super::{
    ContentHash,
    agent::{OfferStatus, Reported},
    desired::DesiredOffer,
    policy::PolicyKind,
};
use crate::proto::opamp::{PackageAvailable, PackageStatus, PackageStatusEnum, PackageStatuses, PackagesAvailable};

/// The offer of these packages. The hash of each covers its name and every field; the hash of all covers those, and is the
/// same on every node and after every restart.
pub fn offer(mut packages: BTreeMap<String, PackageAvailable>) -> DesiredOffer {
    let mut all = Sha256::new();
    all.update(b"muster packages v1\0");
    for (name, package) in &mut packages {
        package.hash = package_hash(name, package).to_bytes();
        all.update(&package.hash);
    }
    let hash = ContentHash(all.finalize().into());
    let available = PackagesAvailable { packages, all_packages_hash: hash.to_bytes() };
    DesiredOffer { kind: PolicyKind::Packages, hash, body: available.encode_to_vec().into() }
}

/// An encoding is canonical: fields stand in the order of their numbers, and maps are sorted.
fn package_hash(name: &str, package: &PackageAvailable) -> ContentHash {
    let mut hasher = Sha256::new();
    hasher.update(b"muster package v1\0");
    hasher.update((name.len() as u64).to_be_bytes());
    hasher.update(name);
    hasher.update(PackageAvailable { hash: Default::default(), ..package.clone() }.encode_to_vec());
    ContentHash(hasher.finalize().into())
}

/// What the statuses say of the offer that they are about: FAILED if the agent gives an error or one package failed, APPLIED
/// once all are installed.
pub fn reported(statuses: &PackageStatuses) -> Reported {
    let is = |status: &PackageStatus, state: PackageStatusEnum| status.status == state as i32;
    let failed = statuses.packages.iter().find(|(_, status)| is(status, PackageStatusEnum::InstallFailed));
    let error = match failed {
        _ if !statuses.error_message.is_empty() => statuses.error_message.clone(),
        Some((name, PackageStatus { error_message, .. })) if !error_message.is_empty() => {
            format!("{name}: {error_message}")
        }
        Some((name, _)) => format!("{name}: the package was not installed"),
        None => String::new(),
    };
    let is_installed = |status: &PackageStatus| is(status, PackageStatusEnum::Installed);
    let status = if !error.is_empty() {
        OfferStatus::Failed
    } else if statuses.packages.values().all(is_installed) {
        OfferStatus::Applied
    } else {
        OfferStatus::Applying
    };
    Reported { status, hash: statuses.server_provided_all_packages_hash.clone(), error }
}
