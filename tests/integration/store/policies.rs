//! The contract: policies and what is measured by their epoch.

use muster::{
    model::{
        AgentRecord,
        policy::{Policy, PolicyOffer, RevisionContent},
    },
    store::{Applied, ApplyOutcome, ApplyPolicy, Error, SharedStore},
};

use super::{NOW, actor, apply, body, content};

async fn applied(store: &SharedStore, apply: ApplyPolicy) -> Applied {
    store.apply_policy(apply, &actor()).await.unwrap()
}

pub async fn revisions_follow_each_other(store: &SharedStore) {
    let epoch = store.policy_epoch().await.unwrap();
    assert!(epoch > AgentRecord::new(super::uid(1), NOW).desired.epoch, "nothing was ever decided for a new agent");
    let first = applied(store, apply("p", "one")).await;
    assert_eq!(first.outcome, ApplyOutcome::Created);
    let Policy { name, revision, created_at, .. } = &first.policy;
    assert_eq!((name.as_str(), revision.number, *created_at), ("p", 1, NOW));
    assert_eq!((revision.author.as_str(), revision.created_at), ("ada", NOW));
    assert_eq!(revision.content, content(&[("a.yaml", "one")]));
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);
    assert_eq!(store.get_contents(&[body("one").0]).await.unwrap(), [body("one")]);

    let same = applied(store, ApplyPolicy { bodies: vec![], ..apply("p", "one") }).await;
    assert_eq!(same, Applied { outcome: ApplyOutcome::Unchanged, ..first.clone() });
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);

    // Any part of the content makes a revision.
    let changes: [fn(&mut RevisionContent); 4] = [
        |content| content.selector = "".parse().unwrap(),
        |content| content.priority = i32::MAX,
        |content| content.allow_empty = true,
        |content| content.offer = PolicyOffer::Config(Default::default()),
    ];
    let mut newest = first.policy.clone();
    for (change, number) in changes.iter().zip(2..) {
        let mut next = apply("p", "one");
        next.content = newest.revision.content.clone();
        change(&mut next.content);
        let second = applied(store, next).await;
        assert_eq!((second.outcome, second.policy.revision.number), (ApplyOutcome::Configured, number));
        assert_ne!(second.policy.etag, newest.etag);
        newest = second.policy;
    }
    assert_eq!(store.get_policy("p").await.unwrap(), newest);
    assert_eq!(store.list_policies(None, 10).await.unwrap(), [newest.clone()]);
    let set = store.policy_set().await.unwrap();
    let in_force: Vec<_> = set.policies().iter().map(|policy| &policy.revision).collect();
    assert_eq!((set.epoch, in_force), (epoch + 5, vec![&newest.revision]));

    let history = store.list_revisions("p", None, 3).await.unwrap();
    assert_eq!(history.iter().map(|revision| revision.number).collect::<Vec<_>>(), [5, 4, 3]);
    assert_eq!(history[0], newest.revision);
    let history = store.list_revisions("p", Some(3), 3).await.unwrap();
    assert_eq!(history.iter().map(|revision| revision.number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(history[1], first.policy.revision);
    assert_eq!(store.list_revisions("p", Some(1), 3).await.unwrap(), []);
    assert!(matches!(store.list_revisions("q", None, 3).await, Err(Error::NotFound { kind: "policy", .. })));
    assert!(matches!(store.get_policy("q").await, Err(Error::NotFound { kind: "policy", .. })));

    let audit = store.list_audit(None, 100).await.unwrap();
    assert_eq!(audit.len(), 5, "one for each revision");
    assert!(audit.iter().all(|entry| entry.action == "policy.apply" && entry.target == "p"));
    assert_eq!((&audit[4].detail["revision"], &audit[0].detail["revision"]), (&1.into(), &5.into()));
}

pub async fn nothing_is_written_when_only_validating(store: &SharedStore) {
    let epoch = store.policy_epoch().await.unwrap();
    let validate = |text| ApplyPolicy { validate_only: true, ..apply("p", text) };
    assert_eq!(applied(store, validate("one")).await.outcome, ApplyOutcome::Created);
    assert!(matches!(store.get_policy("p").await, Err(Error::NotFound { .. })));
    assert_eq!(store.get_contents(&[body("one").0]).await.unwrap(), []);

    let first = applied(store, apply("p", "one")).await.policy;
    assert_eq!(applied(store, validate("one")).await.outcome, ApplyOutcome::Unchanged);
    let second = applied(store, validate("two")).await;
    assert_eq!((second.outcome, second.policy.revision.number), (ApplyOutcome::Configured, 2));
    // Everything is checked.
    let wrong_etag = ApplyPolicy { etag: Some("x".into()), ..validate("two") };
    assert!(matches!(store.apply_policy(wrong_etag, &actor()).await, Err(Error::EtagMismatch { .. })));
    let no_body = ApplyPolicy { bodies: vec![], ..validate("three") };
    assert!(matches!(store.apply_policy(no_body, &actor()).await, Err(Error::NotFound { kind: "content", .. })));
    assert_eq!(store.get_policy("p").await.unwrap(), first);
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);
    assert_eq!(store.list_audit(None, 10).await.unwrap().len(), 1);
}

pub async fn etags_guard(store: &SharedStore) {
    let with = |text, etag: &str| ApplyPolicy { etag: Some(etag.into()), ..apply("p", text) };
    assert!(matches!(store.apply_policy(with("one", "x"), &actor()).await, Err(Error::NotFound { .. })));
    let first = applied(store, with("one", "")).await.policy;
    assert!(matches!(store.apply_policy(with("two", ""), &actor()).await, Err(Error::AlreadyExists { .. })));
    // Also where the content is the same.
    assert!(matches!(store.apply_policy(with("one", ""), &actor()).await, Err(Error::AlreadyExists { .. })));
    let second = applied(store, with("two", &first.etag)).await.policy;
    match store.apply_policy(with("three", &first.etag), &actor()).await {
        Err(Error::EtagMismatch { kind: "policy", name, given, current }) => {
            assert_eq!((name.as_str(), given, current), ("p", first.etag.clone(), second.etag.clone()));
        }
        other => panic!("{other:?}"),
    }
    let error = store.delete_policy("p", Some(&first.etag), &actor()).await.unwrap_err();
    assert!(matches!(error, Error::EtagMismatch { .. }), "{error}");
    store.delete_policy("p", Some(&second.etag), &actor()).await.unwrap();
}

pub async fn a_deleted_policy_starts_again(store: &SharedStore) {
    let first = applied(store, apply("p", "one")).await.policy;
    applied(store, apply("p", "two")).await;
    let epoch = store.policy_epoch().await.unwrap();
    store.delete_policy("p", None, &actor()).await.unwrap();
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);
    assert_eq!(store.policy_set().await.unwrap().policies(), []);
    assert!(matches!(store.list_revisions("p", None, 9).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.delete_policy("p", None, &actor()).await, Err(Error::NotFound { .. })));
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);
    let audit = store.list_audit(None, 1).await.unwrap().remove(0);
    assert_eq!((audit.action.as_str(), &audit.detail["revision"]), ("policy.delete", &2.into()));

    let again = applied(store, apply("p", "one")).await;
    assert_eq!((again.outcome, again.policy.revision.number), (ApplyOutcome::Created, 1));
    assert_eq!(again.policy.revision.content, first.revision.content);
    assert_ne!(again.policy.etag, first.etag, "an etag of the old policy is no etag of the new one");
    assert_eq!(store.list_revisions("p", None, 9).await.unwrap().len(), 1);
}

pub async fn bodies_must_be_known(store: &SharedStore) {
    let without = |text| ApplyPolicy { bodies: vec![], ..apply("p", text) };
    let error = store.apply_policy(without("one"), &actor()).await.unwrap_err();
    assert!(
        matches!(&error, Error::NotFound { kind: "content", name } if *name == body("one").0.to_string()),
        "{error}"
    );
    assert!(matches!(store.get_policy("p").await, Err(Error::NotFound { .. })));
    store.put_contents(&[body("one")]).await.unwrap();
    assert_eq!(applied(store, without("one")).await.outcome, ApplyOutcome::Created);
}

pub async fn policies_are_listed_in_the_order_of_bytes(store: &SharedStore) {
    // In the order of a language "a" comes before "B".
    for name in ["b", "B", "a", "é", "_", "a-b", "ab"] {
        applied(store, apply(name, "one")).await;
    }
    let names = |policies: Vec<Policy>| policies.into_iter().map(|policy| policy.name).collect::<Vec<_>>();
    assert_eq!(names(store.list_policies(None, 4).await.unwrap()), ["B", "_", "a", "a-b"]);
    assert_eq!(names(store.list_policies(Some("a-b"), 4).await.unwrap()), ["ab", "b", "é"]);
    assert_eq!(names(store.list_policies(Some("é"), 4).await.unwrap()), [""; 0]);
}

pub async fn progress_never_goes_back(store: &SharedStore) {
    assert_eq!(store.shard_progress().await.unwrap(), []);
    for (shard, epoch) in [(3, 5), (0, 7), (3, 6), (3, 4), (0, 7)] {
        store.set_shard_progress(shard, epoch).await.unwrap();
    }
    let mut progress = store.shard_progress().await.unwrap();
    progress.sort();
    assert_eq!(progress, [(0, 7), (3, 6)]);
}
