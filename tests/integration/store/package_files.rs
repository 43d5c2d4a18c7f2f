//! The contract: package files.

use std::collections::BTreeMap;

use bytes::Bytes;
use muster::{
    model::{
        ContentHash,
        policy::{PolicyKind, PolicyOffer, RevisionContent},
        rollout::Plan,
    },
    proto::opamp::{DownloadableFile, PackageAvailable},
    store::{Actor, ApplyPolicy, Error, NewOverride, NewOverrides, NewPackageFile, SharedStore},
};

use super::{NOW, actor};

fn new(text: &str) -> NewPackageFile {
    NewPackageFile {
        sha256: ContentHash::of(text.as_bytes()),
        size: text.len() as u64 + (1 << 40),
        name: format!("{text} \"ü\".tgz"),
    }
}

fn later(ms: i64) -> Actor {
    Actor { name: "bob".into(), now: NOW + ms, ..actor() }
}

pub async fn package_files_are_known_until_they_are_deleted(store: &SharedStore) {
    let mut all: Vec<_> = ["one", "two", "three"].map(new).into();
    all.sort_by_key(|file| file.sha256);
    for file in &all {
        assert_eq!(store.get_package_file(file.sha256).await.unwrap(), None);
        let stored = store.put_package_file(file, &actor()).await.unwrap();
        assert_eq!((stored.sha256, stored.size, &stored.name), (file.sha256, file.size, &file.name));
        assert_eq!((stored.created_at, stored.author.as_str(), stored.deleting_since), (NOW, "ada", None));
        let again = NewPackageFile { name: "other".into(), ..file.clone() };
        assert_eq!(store.put_package_file(&again, &later(1)).await.unwrap(), stored, "it is there already");
        assert_eq!(store.get_package_file(file.sha256).await.unwrap(), Some(stored));
    }
    let listed = store.list_package_files(None, 2).await.unwrap();
    assert_eq!(listed.iter().map(|file| file.sha256).collect::<Vec<_>>(), [all[0].sha256, all[1].sha256]);
    let rest = store.list_package_files(Some(all[1].sha256), 2).await.unwrap();
    assert_eq!(rest.iter().map(|file| file.sha256).collect::<Vec<_>>(), [all[2].sha256]);

    let gone = all[0].sha256;
    store.begin_delete_package_file(gone, &later(1)).await.unwrap();
    assert_eq!(store.get_package_file(gone).await.unwrap(), None, "nobody may rely on it any more");
    for refused in
        [store.put_package_file(&all[0], &actor()).await, store.begin_delete_package_file(gone, &later(2)).await]
    {
        assert!(matches!(refused, Err(Error::BeingDeleted { kind: "package file", .. })), "{refused:?}");
    }
    assert_eq!(store.list_package_files(None, 9).await.unwrap()[0].deleting_since, Some(NOW + 1));
    let marked = store.begin_delete_package_file(gone, &later(601_002)).await.unwrap();
    assert_eq!(marked.sha256, gone, "whoever began it has given up");
    store.end_delete_package_file(gone).await.unwrap();
    let refused = store.begin_delete_package_file(gone, &later(1)).await;
    assert!(matches!(refused, Err(Error::NotFound { kind: "package file", .. })), "{refused:?}");
    store.end_delete_package_file(all[1].sha256).await.unwrap();
    assert!(store.get_package_file(all[1].sha256).await.unwrap().is_some(), "its deletion never began");
    store.put_package_file(&all[0], &actor()).await.unwrap();

    let audit = store.list_audit(None, 99).await.unwrap();
    let deleted = audit.iter().find(|entry| entry.action == "package-file.delete").unwrap();
    assert_eq!((deleted.target.as_str(), deleted.actor.as_str()), (gone.to_string().as_str(), "bob"));
    assert!(audit.iter().any(|entry| entry.action == "package-file.upload"));
}

pub async fn the_package_key_is_made_once(store: &SharedStore) {
    let keys = futures_util::future::try_join_all((0..8).map(|_| store.package_key())).await.unwrap();
    assert!(keys.iter().all(|key| *key == keys[0]), "all take the same");
    assert_ne!(keys[0], [0; 32]);
    assert_eq!(store.package_key().await.unwrap(), keys[0]);
}

/// A policy that offers these uploaded files, and one that is elsewhere.
fn offers(policy: &str, files: &[&NewPackageFile]) -> ApplyPolicy {
    let package = |download_url: &str, content_hash: Bytes| {
        let file = DownloadableFile { download_url: download_url.into(), content_hash, ..Default::default() };
        PackageAvailable { version: "1".into(), file: Some(file), ..Default::default() }
    };
    let mut packages: BTreeMap<_, _> =
        files.iter().map(|file| (file.name.clone(), package("", file.sha256.to_bytes()))).collect();
    packages.insert("elsewhere".into(), package("https://x/", new("elsewhere").sha256.to_bytes()));
    let content = RevisionContent { offer: PolicyOffer::Packages(packages), ..super::content(&[]) };
    ApplyPolicy { kind: PolicyKind::Packages, content, bodies: Vec::new(), ..super::apply(policy, "") }
}

pub async fn a_package_file_that_a_policy_offers_stays(store: &SharedStore) {
    let (one, two) = (new("one"), new("two"));
    let apply = async |policy: ApplyPolicy| store.apply_policy(policy, &actor()).await;
    let is_missing = |error: &Error, file: &NewPackageFile| match error {
        Error::NotFound { kind: "package file", name } => *name == file.sha256.to_string(),
        _ => false,
    };
    // One that was not uploaded cannot be offered; it is uploaded after all has been validated.
    store.put_package_file(&one, &actor()).await.unwrap();
    let error = apply(offers("p", &[&one, &two])).await.unwrap_err();
    assert!(is_missing(&error, &two), "{error}");
    assert!(store.get_policy("p").await.is_err(), "nothing was applied");
    apply(ApplyPolicy { validate_only: true, ..offers("p", &[&one, &two]) }).await.unwrap();
    store.put_package_file(&two, &actor()).await.unwrap();
    apply(offers("p", &[&one, &two])).await.unwrap();
    apply(offers("q", &[&two])).await.unwrap();

    let begin = async |file: &NewPackageFile| store.begin_delete_package_file(file.sha256, &actor()).await;
    match begin(&one).await {
        Err(Error::InUse { kind: "package file", name, policy }) => {
            assert_eq!((name, policy.as_str()), (one.sha256.to_string(), "p"));
        }
        other => panic!("{other:?}"),
    }
    assert!(store.get_package_file(one.sha256).await.unwrap().is_some(), "it is not marked");
    // What only former revisions offer may go.
    apply(offers("p", &[&two])).await.unwrap();
    begin(&one).await.unwrap();
    let error = apply(offers("p", &[&one])).await.unwrap_err();
    assert!(is_missing(&error, &one), "it is being deleted: {error}");
    store.delete_policy("p", None, &actor()).await.unwrap();
    assert!(matches!(begin(&two).await, Err(Error::InUse { policy, .. }) if policy == "q"));
    store.delete_policy("q", None, &actor()).await.unwrap();
    begin(&two).await.unwrap();
}

/// Not only the newest revision counts.
pub async fn a_package_file_that_agents_may_have_stays(store: &SharedStore) {
    let (one, two, three) = (new("one"), new("two"), new("three"));
    for file in [&one, &two, &three] {
        store.put_package_file(file, &actor()).await.unwrap();
    }
    let begin = async |file: &NewPackageFile| store.begin_delete_package_file(file.sha256, &actor()).await;
    let in_use = |result| matches!(result, Err(Error::InUse { policy, .. }) if policy == "p");
    super::stored(&**store, vec![super::agent(1)]).await;
    for file in [&one, &two] {
        store.apply_policy(offers("p", &[file]), &actor()).await.unwrap();
    }
    let mut third = offers("p", &[&three]);
    third.content.plan =
        Some(Plan { steps: ["1", "100%"].map(|step| step.parse().unwrap()).into(), ..Plan::default() });
    store.apply_policy(third, &actor()).await.unwrap();
    let uid = super::uid(1);
    let pin = |revision| NewOverrides {
        policy: "p".into(),
        agents: vec![NewOverride { uid, placement: uid, revision }],
        is_hold: false,
        message: String::new(),
        expires_at: None,
        epoch: None,
        validate_only: false,
    };
    store.set_overrides(&pin(1), &actor()).await.unwrap();
    for file in [&one, &two, &three] {
        assert!(in_use(begin(file).await), "{}", file.name);
    }
    store.clear_overrides("p", &[uid], &actor()).await.unwrap();
    begin(&one).await.unwrap();
    let error = store.set_overrides(&pin(1), &actor()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { kind: "package file", .. }), "{error}");
}

/// Whichever comes first wins, and no policy ever offers what is gone.
pub async fn offering_and_deleting_a_package_file_take_turns(store: &SharedStore) {
    for round in 0..8 {
        let file = new(&format!("file {round}"));
        let name = format!("p{round}");
        store.put_package_file(&file, &actor()).await.unwrap();
        let actor = actor();
        let (applied, deleted) = tokio::join!(
            store.apply_policy(offers(&name, &[&file]), &actor),
            store.begin_delete_package_file(file.sha256, &actor)
        );
        let policy = store.get_policy(&name).await.is_ok();
        let is_there = store.get_package_file(file.sha256).await.unwrap().is_some();
        assert_eq!((applied.is_ok(), deleted.is_ok()), (policy, !is_there));
        assert!(policy == is_there, "{applied:?} {deleted:?}");
    }
}
