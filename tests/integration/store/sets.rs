//! The contract: policies that are applied together.

use muster::store::{AppliedSet, ApplyOutcome, ApplyPolicy, ApplySet, Error, Refusals, Result, SharedStore};

use super::{actor, apply, body};

async fn applied(store: &SharedStore, policies: Vec<ApplyPolicy>, prune: bool) -> Result<AppliedSet> {
    store.apply_policies(ApplySet { policies, prune, validate_only: false }, &actor()).await
}

fn outcomes(set: &AppliedSet) -> Vec<(&str, ApplyOutcome)> {
    set.applied.iter().map(|one| (one.policy.name.as_str(), one.outcome)).collect()
}

/// Names and newest revisions.
async fn policies(store: &SharedStore) -> Vec<(String, u64)> {
    let policies = store.list_policies(None, 100).await.unwrap();
    policies.into_iter().map(|policy| (policy.name, policy.revision.number)).collect()
}

fn named(names: &[(&str, u64)]) -> Vec<(String, u64)> {
    names.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
}

pub async fn a_set_is_applied_with_one_epoch(store: &SharedStore) {
    let first = applied(store, vec![apply("b", "one"), apply("a", "one"), apply("old", "x")], false).await.unwrap();
    let created = ApplyOutcome::Created;
    assert_eq!(outcomes(&first), [("b", created), ("a", created), ("old", created)]);
    let epoch = store.policy_epoch().await.unwrap();
    let set = || vec![apply("a", "two"), apply("b", "one"), apply("c", "one")];
    let second = applied(store, set(), true).await.unwrap();
    assert_eq!(
        outcomes(&second),
        [("a", ApplyOutcome::Configured), ("b", ApplyOutcome::Unchanged), ("c", ApplyOutcome::Created)]
    );
    assert_eq!(second.pruned.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>(), ["old"]);
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);
    assert_eq!(policies(store).await, named(&[("a", 2), ("b", 1), ("c", 1)]));
    let audit = store.list_audit(None, 3).await.unwrap();
    let told: Vec<_> = audit.iter().map(|entry| (entry.action.as_str(), entry.target.as_str())).collect();
    assert_eq!(told, [("policy.delete", "old"), ("policy.apply", "c"), ("policy.apply", "a")]);
    assert_eq!(store.open_rollouts().await.unwrap().len(), 3, "one of each policy");

    // The same once more changes nothing at all.
    let again = applied(store, set(), true).await.unwrap();
    assert!(again.applied.iter().all(|one| one.outcome == ApplyOutcome::Unchanged) && again.pruned.is_empty());
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);
    assert_eq!(store.list_audit(None, 1).await.unwrap()[0].id, audit[0].id);
    // That there is one less is a change by itself.
    applied(store, set()[1..].to_vec(), true).await.unwrap();
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 2);
    assert_eq!(policies(store).await, named(&[("b", 1), ("c", 1)]));
}

pub async fn a_set_is_refused_as_a_whole(store: &SharedStore) {
    let stored = applied(store, vec![apply("a", "one"), apply("old", "x")], false).await.unwrap();
    let epoch = store.policy_epoch().await.unwrap();
    let set = vec![
        apply("new", "new"),
        ApplyPolicy { etag: Some("stale".into()), ..apply("a", "two") },
        ApplyPolicy { bodies: Vec::new(), ..apply("b", "nobody knows") },
    ];
    match applied(store, set, true).await {
        Err(Error::Refused(Refusals(refusals))) => {
            let [etag, content] = &refusals[..] else { panic!("{refusals:?}") };
            assert_eq!((etag.index, etag.policy.as_str()), (1, "a"));
            assert!(matches!(etag.error, Error::EtagMismatch { .. }));
            assert_eq!((content.index, content.policy.as_str()), (2, "b"));
            assert!(matches!(content.error, Error::NotFound { kind: "content", .. }));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(store.policy_epoch().await.unwrap(), epoch);
    assert_eq!(policies(store).await, named(&[("a", 1), ("old", 1)]));
    assert_eq!(store.get_contents(&[body("new").0]).await.unwrap(), []);
    let etag = stored.applied[0].policy.etag.clone();
    let good = vec![ApplyPolicy { etag: Some(etag), ..apply("a", "two") }];
    applied(store, good, false).await.unwrap();
    assert_eq!(policies(store).await, named(&[("a", 2), ("old", 1)]));
}

pub async fn validating_a_set_writes_nothing(store: &SharedStore) {
    applied(store, vec![apply("a", "one"), apply("old", "x")], false).await.unwrap();
    let epoch = store.policy_epoch().await.unwrap();
    let set = ApplySet { policies: vec![apply("a", "two"), apply("b", "one")], prune: true, validate_only: true };
    let would = store.apply_policies(set, &actor()).await.unwrap();
    assert_eq!(outcomes(&would), [("a", ApplyOutcome::Configured), ("b", ApplyOutcome::Created)]);
    assert_eq!((would.applied[0].policy.revision.number, would.pruned.len()), (2, 1));
    assert_eq!(store.policy_epoch().await.unwrap(), epoch);
    assert_eq!(policies(store).await, named(&[("a", 1), ("old", 1)]));
}

pub async fn revisions_are_read_one_by_one(store: &SharedStore) {
    for text in ["one", "two", "three"] {
        applied(store, vec![apply("a", text)], false).await.unwrap();
    }
    let second = store.get_revision("a", 2).await.unwrap();
    assert_eq!((second.number, &second.content), (2, &apply("a", "two").content));
    for number in [0, 4, u64::MAX] {
        let missing = store.get_revision("a", number).await;
        assert!(matches!(missing, Err(Error::NotFound { kind: "revision", .. })), "{missing:?}");
    }
    assert!(matches!(store.get_revision("b", 1).await, Err(Error::NotFound { kind: "policy", .. })));
}
