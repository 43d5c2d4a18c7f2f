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
use crate::proto::opamp::{DownloadableFile, PackageAvailable, PackageStatusEnum, PackageStatuses, PackagesAvailable};

/// Whether a policy's file is one that was uploaded, and is known by its hash alone.
pub fn is_hosted(file: &DownloadableFile) -> bool {
    file.download_url.is_empty()
}

/// The hashes of the uploaded files of a policy's packages.
pub fn hosted(packages: &BTreeMap<String, PackageAvailable>) -> impl Iterator<Item = ContentHash> {
    let files = packages.values().filter_map(|package| package.file.as_ref());
    files.filter(|file| is_hosted(file)).filter_map(|file| ContentHash::from_slice(&file.content_hash))
}

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

/// What the statuses say of the offer that they are about: APPLYING while a package is being downloaded or installed; else
/// FAILED if the agent gives an error or one package failed; APPLIED once all are installed.
pub fn reported(statuses: &PackageStatuses) -> Reported {
    reported_of(statuses, &PackagesAvailable::default())
}

/// As [`reported`], of statuses that are about this offer. The Go client keeps what it said of a package, also that it failed,
/// until it comes to it again, which it does not where it has that package; so the hashes go before what is said.
pub fn reported_of(statuses: &PackageStatuses, offer: &PackagesAvailable) -> Reported {
    let (mut pending, mut under_way, mut failed) = (false, false, None);
    for (name, status) in &statuses.packages {
        let offered = offer.packages.get(name).map(|package| &package.hash);
        if offered.is_some_and(|offered| *offered == status.agent_has_hash) {
            continue;
        }
        let is_of_another = offered
            .is_some_and(|offered| !status.server_offered_hash.is_empty() && *offered != status.server_offered_hash);
        match PackageStatusEnum::try_from(status.status) {
            _ if is_of_another => pending = true,
            Ok(PackageStatusEnum::Installed) => {}
            Ok(PackageStatusEnum::InstallFailed) => {
                failed.get_or_insert_with(|| match status.error_message.as_str() {
                    "" => format!("{name}: the package was not installed"),
                    error => format!("{name}: {error}"),
                });
            }
            Ok(PackageStatusEnum::Downloading | PackageStatusEnum::Installing) => under_way = true,
            Ok(PackageStatusEnum::InstallPending) | Err(_) => pending = true,
        }
    }
    let (status, error) = match (&statuses.error_message, failed) {
        (error, _) if !error.is_empty() => (OfferStatus::Failed, error.clone()),
        _ if under_way => (OfferStatus::Applying, String::new()),
        (_, Some(error)) => (OfferStatus::Failed, error),
        _ if pending => (OfferStatus::Applying, String::new()),
        _ => (OfferStatus::Applied, String::new()),
    };
    Reported { status, hash: statuses.server_provided_all_packages_hash.clone(), error }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::proto::opamp::{Header, Headers, PackageStatus, PackageType};

    fn package() -> PackageAvailable {
        let headers = Headers { headers: vec![Header { key: "a".into(), value: "b".into() }] };
        let file = DownloadableFile {
            download_url: "https://x/1".into(),
            content_hash: vec![1; 32].into(),
            signature: vec![2].into(),
            headers: Some(headers),
        };
        PackageAvailable { version: "1".into(), file: Some(file), ..Default::default() }
    }

    /// The hash of the one package, and that of all.
    fn hashes(name: &str, package: PackageAvailable) -> (Vec<u8>, Vec<u8>) {
        let offer = offer(BTreeMap::from([(name.to_owned(), package)]));
        let available = PackagesAvailable::decode(offer.body).unwrap_or_default();
        assert_eq!(available.all_packages_hash[..], offer.hash.0);
        let of_package = available.packages.values().map(|package| package.hash.to_vec()).collect::<Vec<_>>().concat();
        (of_package, available.all_packages_hash.to_vec())
    }

    #[test]
    fn the_hashes_cover_the_name_and_every_field() {
        type Change = fn(&mut PackageAvailable, &mut DownloadableFile);
        let changes: [Change; 9] = [
            |_, _| {},
            |package, _| package.r#type = PackageType::Addon as i32,
            |package, _| package.version.push('0'),
            |_, file| file.download_url.push('0'),
            |_, file| file.content_hash = vec![3; 32].into(),
            |_, file| file.signature = Default::default(),
            |_, file| file.headers = None,
            |_, file| file.headers.get_or_insert_default().headers[0].key.push('0'),
            |_, file| file.headers.get_or_insert_default().headers[0].value.push('0'),
        ];
        let mut seen = BTreeSet::from([hashes("eman", package())]);
        for change in changes {
            let (mut changed, mut file) = (package(), package().file.unwrap_or_default());
            change(&mut changed, &mut file);
            changed.file = Some(file);
            assert!(seen.insert(hashes("name", changed.clone())), "{changed:?} has the hashes of another");
        }
        let of_package: BTreeSet<_> = seen.iter().map(|(of_package, _)| of_package).collect();
        let of_all: BTreeSet<_> = seen.iter().map(|(_, of_all)| of_all).collect();
        assert_eq!((of_package.len(), of_all.len()), (10, 10));
        let with_hash = PackageAvailable { hash: vec![9].into(), ..package() };
        assert_eq!(hashes("name", with_hash), hashes("name", package()), "but not the hash itself");
    }

    /// Agents remember hashes: another one after an update of the server would have all of them install anew.
    #[test]
    fn hashes_stay_what_they_are() {
        let (of_package, of_all) = hashes("otelcol", package());
        let hashes = [of_package, of_all, offer(BTreeMap::new()).hash.0.to_vec()].map(hex::encode);
        let expected = [
            "0924fab91471a045ca188bbc916a3a7021da0c7e5b6c7f74f71796f3169a13ce",
            "aa231205e84732d7d5725839d1c482f2fb24dda318542feb252a5991a30904b4",
            "001e7058a74592603f4c625edbea7db2413d21432d3e0de936a71df68668f2bb",
        ];
        assert_eq!(hashes, expected);
    }

    #[test]
    fn statuses_come_to_one() {
        use PackageStatusEnum::{Downloading, InstallFailed, InstallPending, Installed, Installing};
        let reported_of = |error: &str, states: &[(PackageStatusEnum, &str)]| {
            let packages = states.iter().enumerate().map(|(n, (state, error))| {
                let status = *state as i32;
                (n.to_string(), PackageStatus { status, error_message: (*error).into(), ..Default::default() })
            });
            let statuses = PackageStatuses {
                packages: packages.collect(),
                server_provided_all_packages_hash: vec![1].into(),
                error_message: error.into(),
            };
            let Reported { status, hash, error } = reported(&statuses);
            assert_eq!(hash[..], [1]);
            (status, error)
        };
        for (error, states, status, shown) in [
            ("", &[][..], OfferStatus::Applied, ""),
            ("", &[(Installed, ""), (Installed, "")], OfferStatus::Applied, ""),
            ("", &[(Installed, ""), (InstallPending, "")], OfferStatus::Applying, ""),
            ("", &[(Installing, ""), (Installed, "")], OfferStatus::Applying, ""),
            ("", &[(Downloading, "")], OfferStatus::Applying, ""),
            ("", &[(InstallFailed, "no space"), (Downloading, "")], OfferStatus::Applying, ""),
            ("", &[(InstallPending, ""), (InstallFailed, "no space")], OfferStatus::Failed, "1: no space"),
            ("", &[(InstallFailed, "")], OfferStatus::Failed, "0: the package was not installed"),
            ("no network", &[(Installed, "")], OfferStatus::Failed, "no network"),
        ] {
            assert_eq!(reported_of(error, states), (status, shown.to_owned()), "{error:?} {states:?}");
        }
    }

    /// As the Go client leaves them.
    #[test]
    fn what_was_said_of_another_offer_does_not_count() {
        use PackageStatusEnum::{InstallFailed, Installed};
        let offered =
            |name: &str, hash: u8| (name.to_owned(), PackageAvailable { hash: vec![hash].into(), ..package() });
        let offer = PackagesAvailable { packages: [offered("a", 1), offered("b", 2)].into(), ..Default::default() };
        let status = |has: u8, offered: u8, state: PackageStatusEnum| PackageStatus {
            agent_has_hash: vec![has].into(),
            server_offered_hash: vec![offered].into(),
            status: state as i32,
            error_message: if state == InstallFailed { "no space".into() } else { String::new() },
            ..Default::default()
        };
        for (what, b, expected) in [
            (
                "the offer before failed, and this one was not tried yet",
                status(3, 3, InstallFailed),
                OfferStatus::Applying,
            ),
            ("it has the package before", status(3, 3, Installed), OfferStatus::Applying),
            ("this one failed", status(3, 2, InstallFailed), OfferStatus::Failed),
            ("another one failed, and it never lost this one", status(2, 3, InstallFailed), OfferStatus::Applied),
            ("so it did, and was offered this one again", status(2, 2, InstallFailed), OfferStatus::Applied),
            ("it has it", status(2, 2, Installed), OfferStatus::Applied),
            ("it says no more than that", PackageStatus::default(), OfferStatus::Applied),
        ] {
            let a = ("a".to_owned(), status(1, 1, Installed));
            let own = ("own".to_owned(), PackageStatus { agent_has_hash: vec![9].into(), ..Default::default() });
            let statuses = PackageStatuses { packages: [a, own, ("b".to_owned(), b)].into(), ..Default::default() };
            assert_eq!(reported_of(&statuses, &offer).status, expected, "{what}");
        }
    }
}
