//! The contract: package files.

use muster::{
    model::ContentHash,
    store::{Actor, Error, NewPackageFile, SharedStore},
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
