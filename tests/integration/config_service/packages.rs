//! Packages: offered until they are installed, and not again when that failed.

use std::collections::BTreeMap;

use muster::{
    config_service::Config,
    model::{
        ContentHash, Selector,
        offer::{self, Convergence},
        policy::{PolicyKind, PolicyOffer, RevisionContent},
    },
    packages::access::Key,
    proto::{
        bus,
        opamp::{
            AgentCapabilities, AgentToServer, DownloadableFile, Header, Headers, PackageAvailable,
            PackageDownloadDetails, PackageStatus, PackageStatusEnum, PackageStatuses, PackagesAvailable,
        },
    },
    store::{ApplyPolicy, NewPackageFile},
};
use prost::{Message, bytes::Bytes};

use super::{
    cluster::{Backend, Cluster, Replica, actor, quick},
    gateway::{self, Gateway, ending, full, opening, report, uid},
};

const URL: &str = "https://muster.example/v1/packages/";
const FILE: ContentHash = ContentHash([7; 32]);

/// An agent that takes packages, and says what becomes of them.
fn agent() -> AgentToServer {
    let capabilities = AgentCapabilities::ReportsStatus as u64
        | AgentCapabilities::AcceptsPackages as u64
        | AgentCapabilities::ReportsPackageStatuses as u64;
    AgentToServer { capabilities, ..full("web") }
}

async fn start(backend: Backend) -> (Cluster, Replica) {
    let cluster = Cluster::empty(backend).await;
    let replica = cluster.replica("replica", knowing_where()).await;
    (cluster, replica)
}

fn knowing_where() -> Config {
    Config { package_url: URL.into(), ..quick() }
}

/// A package that is elsewhere, of this version.
fn elsewhere(version: &str) -> PackageAvailable {
    let file = DownloadableFile {
        download_url: format!("https://packages.example/{version}"),
        content_hash: vec![1; 32].into(),
        ..Default::default()
    };
    PackageAvailable { version: version.into(), file: Some(file), ..Default::default() }
}

/// One that was uploaded.
fn hosted(version: &str) -> PackageAvailable {
    let file = DownloadableFile { content_hash: FILE.to_bytes(), ..Default::default() };
    PackageAvailable { version: version.into(), file: Some(file), ..Default::default() }
}

async fn apply(cluster: &Cluster, selector: &str, packages: &[(&str, PackageAvailable)], allow_empty: bool) {
    let selector: Selector = selector.parse().unwrap();
    let packages: BTreeMap<_, _> =
        packages.iter().map(|(name, package)| ((*name).to_owned(), package.clone())).collect();
    let apply = ApplyPolicy {
        name: "collector".into(),
        kind: PolicyKind::Packages,
        content: RevisionContent {
            selector,
            priority: 0,
            offer: PolicyOffer::Packages(packages),
            allow_empty,
            max_per_second: 0,
            plan: None,
        },
        message: String::new(),
        bodies: Vec::new(),
        etag: None,
        validate_only: false,
    };
    cluster.store.apply_policy(apply, &actor()).await.unwrap();
    known(cluster).await;
}

/// Waits until all is known everywhere.
async fn known(cluster: &Cluster) {
    let epoch = cluster.store.policy_epoch().await.unwrap();
    cluster.settle("other", "group = none", &epoch.to_string()).await;
}

/// What a verdict offers, which is packages or nothing.
fn offered(verdict: &bus::Verdict) -> Option<Bytes> {
    gateway::offered(bus::OfferKind::Packages, verdict)
}

async fn body(gateway: &mut Gateway, hash: &Bytes) -> PackagesAvailable {
    let body = gateway.body(bus::OfferKind::Packages, hash).await;
    let packages = PackagesAvailable::decode(body).unwrap();
    assert_eq!(packages.all_packages_hash, *hash);
    packages
}

/// What an agent says of the package `otelcol` of the offer with this hash.
fn says(state: PackageStatusEnum, hash: &Bytes) -> AgentToServer {
    let is = |other: PackageStatusEnum| state == other;
    let status = PackageStatus {
        name: "otelcol".into(),
        server_offered_version: "1".into(),
        status: state as i32,
        error_message: if is(PackageStatusEnum::InstallFailed) { "no space".into() } else { String::new() },
        download_details: is(PackageStatusEnum::Downloading)
            .then_some(PackageDownloadDetails { download_percent: 12.5, download_bytes_per_second: 1e6 }),
        ..Default::default()
    };
    let statuses = PackageStatuses {
        packages: [("otelcol".to_owned(), status)].into(),
        server_provided_all_packages_hash: hash.clone(),
        ..Default::default()
    };
    AgentToServer { package_statuses: Some(statuses), ..Default::default() }
}

async fn convergence(cluster: &Cluster) -> Convergence {
    offer::convergence(&cluster.row(uid(1)).await.unwrap(), PolicyKind::Packages)
}

pub async fn packages_are_offered_until_they_are_installed(backend: Backend) {
    let (cluster, _replica) = start(backend).await;
    apply(&cluster, "group = web", &[("otelcol", elsewhere("1"))], false).await;
    let mut gateway = cluster.gateway("g").await;
    let hash = offered(&gateway.tell(opening(uid(1), 10, 1, &agent())).await).expect("an offer");
    let packages = body(&mut gateway, &hash).await.packages;
    let package = &packages["otelcol"];
    assert_eq!((package.version.as_str(), package.hash.len(), package.file.clone()), ("1", 32, elsewhere("1").file));

    gateway.tell(report(uid(1), 10, 2, &says(PackageStatusEnum::Downloading, &hash))).await;
    assert_eq!(convergence(&cluster).await, Convergence::Applying);
    let statuses = cluster.row(uid(1)).await.unwrap().observed.package_statuses;
    let details = PackageStatuses::decode(statuses).unwrap().packages["otelcol"].download_details.unwrap();
    assert_eq!((details.download_percent, details.download_bytes_per_second), (12.5, 1e6));
    // Cut off, it is to go on.
    let cut_off = opening(uid(1), 20, 2, &says(PackageStatusEnum::Downloading, &hash));
    assert_eq!(offered(&gateway.tell(cut_off).await), Some(hash.clone()));
    assert_eq!(offered(&gateway.tell(report(uid(1), 20, 2, &says(PackageStatusEnum::Installing, &hash))).await), None);
    gateway.tell(report(uid(1), 20, 3, &says(PackageStatusEnum::Installed, &hash))).await;
    assert_eq!(convergence(&cluster).await, Convergence::Converged);
    assert_eq!(offered(&gateway.tell(opening(uid(1), 30, 3, &Default::default())).await), None);

    // An agent that has something else than it was thought to have.
    let other = Bytes::from_static(b"of another server");
    let verdict = gateway.tell(opening(uid(1), 40, 3, &says(PackageStatusEnum::Installed, &other))).await;
    assert_eq!(offered(&verdict), Some(hash.clone()));
    // One that takes none gets none.
    let incapable = AgentToServer { capabilities: AgentCapabilities::ReportsStatus as u64, ..full("web") };
    assert_eq!(offered(&gateway.tell(opening(uid(2), 10, 1, &incapable)).await), None);
}

pub async fn a_failed_installation_is_not_offered_again_unchanged(backend: Backend) {
    let (cluster, _replica) = start(backend).await;
    apply(&cluster, "group = web", &[("otelcol", elsewhere("1"))], false).await;
    let mut gateway = cluster.gateway("g").await;
    let first = offered(&gateway.tell(opening(uid(1), 10, 1, &agent())).await).expect("an offer");
    gateway.tell(report(uid(1), 10, 2, &says(PackageStatusEnum::InstallFailed, &first))).await;
    let row = cluster.row(uid(1)).await.unwrap();
    assert_eq!(offer::convergence(&row, PolicyKind::Packages), Convergence::Quarantined);
    assert_eq!(row.observed.packages.error, "otelcol: no space");
    // Neither on a new connection, nor when it goes back to what it had.
    let back = says(PackageStatusEnum::Installed, &Bytes::from_static(b"before"));
    assert_eq!(offered(&gateway.tell(opening(uid(1), 20, 2, &back)).await), None);
    assert_eq!(convergence(&cluster).await, Convergence::Quarantined);

    // A change ends that; the way back to what failed does not bring it back to one that says that it failed.
    apply(&cluster, "group = web", &[("otelcol", elsewhere("2"))], false).await;
    let second = Bytes::from(gateway.offer_to(uid(1)).await.config_hash);
    assert_ne!(second, first);
    gateway.tell(report(uid(1), 20, 2, &says(PackageStatusEnum::InstallFailed, &second))).await;
    assert_eq!(convergence(&cluster).await, Convergence::Quarantined);
    // An operator says so.
    cluster.store.lift_quarantine(uid(1), &actor()).await.unwrap();
    cluster.hint(bus::Hint { agents_to_reconcile: uid(1).to_bytes(), ..Default::default() }).await;
    assert_eq!(gateway.offer_to(uid(1)).await.config_hash[..], second[..]);
}

/// Agents remove what is not offered any more: only where a policy says so in so many words.
pub async fn packages_are_withdrawn_only_where_a_policy_says_so(backend: Backend) {
    let (cluster, _replica) = start(backend).await;
    let two = [("otelcol", elsewhere("1")), ("rules", elsewhere("7"))];
    apply(&cluster, "group = web", &two, false).await;
    let mut gateway = cluster.gateway("g").await;
    let both = offered(&gateway.tell(opening(uid(1), 10, 1, &agent())).await).expect("an offer");
    assert_eq!(body(&mut gateway, &both).await.packages.len(), 2);
    gateway.tell(report(uid(1), 10, 2, &says(PackageStatusEnum::Installed, &both))).await;
    apply(&cluster, "group = web", &two[..1], false).await;
    let one = Bytes::from(gateway.offer_to(uid(1)).await.config_hash);
    assert_eq!(body(&mut gateway, &one).await.packages.into_keys().collect::<Vec<_>>(), ["otelcol"]);
    gateway.tell(report(uid(1), 10, 3, &says(PackageStatusEnum::Installed, &one))).await;

    // The policy goes to others: this agent keeps what it has.
    apply(&cluster, "group = none", &two[..1], false).await;
    cluster.row_when(uid(1), |row| row.desired.packages.hash.is_none()).await;
    assert_eq!(convergence(&cluster).await, Convergence::NothingDesired);
    assert_eq!(offered(&gateway.tell(opening(uid(1), 20, 3, &Default::default())).await), None);
    // Nor does a list without packages do anything by itself.
    apply(&cluster, "group = web", &[], false).await;
    assert_eq!(convergence(&cluster).await, Convergence::NothingDesired);

    apply(&cluster, "group = web", &[], true).await;
    let none = Bytes::from(gateway.offer_to(uid(1)).await.config_hash);
    let empty = body(&mut gateway, &none).await;
    assert_eq!((empty.packages.len(), empty.all_packages_hash.len()), (0, 32));
    let statuses = PackageStatuses { server_provided_all_packages_hash: none.clone(), ..Default::default() };
    let emptied = AgentToServer { package_statuses: Some(statuses), ..Default::default() };
    gateway.tell(report(uid(1), 20, 2, &emptied)).await;
    assert_eq!(convergence(&cluster).await, Convergence::Converged);
}

pub async fn uploaded_packages_come_with_where_they_are(backend: Backend) {
    let (cluster, replica) = start(backend).await;
    let file = NewPackageFile { sha256: FILE, size: 1, name: "otelcol.tar.gz".into() };
    cluster.store.put_package_file(&file, &actor()).await.unwrap();
    apply(&cluster, "group = web", &[("otelcol", hosted("1")), ("rules", elsewhere("7"))], false).await;
    let mut gateway = cluster.gateway("g").await;
    let hash = offered(&gateway.tell(opening(uid(1), 10, 1, &agent())).await).expect("an offer");
    let packages = body(&mut gateway, &hash).await.packages;
    let file = packages["otelcol"].file.clone().unwrap();
    assert_eq!(file.download_url, format!("{URL}{FILE}"));
    let token = Key::new(cluster.store.package_key().await.unwrap()).token(&FILE);
    let header = Header { key: "Authorization".into(), value: format!("Bearer {token}") };
    assert_eq!(file.headers, Some(Headers { headers: vec![header] }));
    assert_eq!(packages["rules"].file, elsewhere("7").file, "others do not get to see our token");

    // Another replica makes the same of it.
    replica.stop().await;
    let another = cluster.replica("another", knowing_where()).await;
    assert_eq!(offered(&gateway.tell(opening(uid(2), 10, 1, &agent())).await), Some(hash));
    another.stop().await;
    // One that was not told where agents reach the deployment has nothing to offer.
    let _lost = cluster.replica("lost", quick()).await;
    assert_eq!(offered(&gateway.tell(opening(uid(3), 10, 1, &agent())).await), None);
}

/// An agent that installs them, ends, and comes back, as one does that its host starts again.
pub async fn packages_that_end_their_agent_are_not_offered_for_ever(backend: Backend) {
    let (cluster, _replica) = start(backend).await;
    apply(&cluster, "group = web", &[("otelcol", elsewhere("1"))], false).await;
    let mut gateway = cluster.gateway("g").await;
    let mut generation = 0;
    let mut connects = async |gateway: &mut Gateway| {
        generation += 10;
        let offer = offered(&gateway.tell(opening(uid(1), generation, generation, &agent())).await);
        if let Some(hash) = &offer {
            gateway.tell(report(uid(1), generation, 2, &says(PackageStatusEnum::Installing, hash))).await;
        }
        gateway.tell(ending(uid(1), generation, 3, generation)).await;
        offer.is_some()
    };
    // A connection may be lost.
    assert!(connects(&mut gateway).await && connects(&mut gateway).await);
    for _ in 0..5 {
        assert!(!connects(&mut gateway).await, "there is a pause");
    }
    cluster.store.lift_quarantine(uid(1), &actor()).await.unwrap();
    assert!(connects(&mut gateway).await && connects(&mut gateway).await, "an operator wants another try");
    assert!(!connects(&mut gateway).await);
    apply(&cluster, "group = web", &[("otelcol", elsewhere("2"))], false).await;
    assert!(connects(&mut gateway).await, "another package is another matter");
}
