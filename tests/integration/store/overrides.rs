//! The contract: overrides, and what the policies are because of them.

use muster::{
    model::{
        AgentRecord, Attributes, InstanceUid,
        desired::{Part, PolicySet},
        overrides::{MAX_OVERRIDES, Override},
        rollout::{Candidates, Control, Plan, Seen, control},
    },
    store::{ApplyPolicy, Error, MAX_BATCH, NewOverride, NewOverrides, OverrideFilter, SharedStore},
};

use super::{NOW, actor, agent, apply, stored, uid};

fn new(policy: &str, agents: &[(InstanceUid, u64)]) -> NewOverrides {
    let one = |(uid, revision): &(InstanceUid, u64)| NewOverride { uid: *uid, placement: *uid, revision: *revision };
    NewOverrides {
        policy: policy.into(),
        agents: agents.iter().map(one).collect(),
        is_hold: false,
        message: "why".into(),
        expires_at: None,
        epoch: None,
        validate_only: false,
    }
}

async fn set(store: &SharedStore, new: &NewOverrides) -> Option<u64> {
    store.set_overrides(new, &actor()).await.unwrap()
}

async fn all(store: &SharedStore) -> Vec<(String, InstanceUid, u64)> {
    let overrides = store.list_overrides(OverrideFilter::default(), None, 100).await.unwrap();
    overrides.into_iter().map(|one| (one.policy, one.uid, one.revision)).collect()
}

async fn applied(store: &SharedStore, apply: ApplyPolicy) {
    store.apply_policy(apply, &actor()).await.unwrap();
}

/// For every agent.
fn everybodys(name: &str, text: &str) -> ApplyPolicy {
    let mut apply = apply(name, text);
    apply.content.selector = "".parse().unwrap();
    apply
}

fn revision(set: &PolicySet, agent: u128) -> u64 {
    set.revision_of("p", &AgentRecord::new(uid(agent), 0), &Attributes::default())
}

pub async fn overrides_are_made_together_and_once(store: &SharedStore) {
    for text in ["one", "two"] {
        applied(store, everybodys("p", text)).await;
        applied(store, everybodys("q", text)).await;
    }
    stored(&**store, (1..=5).map(agent).collect()).await;
    let epoch = store.policy_epoch().await.unwrap();
    assert_eq!(set(store, &new("p", &[(uid(1), 1), (uid(2), 1), (uid(3), 0)])).await, Some(3));
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);
    let audit = store.list_audit(None, 1).await.unwrap().remove(0);
    assert_eq!((audit.action.as_str(), audit.target.as_str()), ("override.set", "p"));
    assert_eq!(audit.detail["revisions"], serde_json::json!({ "0": 1, "1": 2 }));

    let policies = store.policy_set().await.unwrap();
    assert_eq!([1, 2, 3, 4].map(|agent| revision(&policies, agent)), [1, 1, 0, 2]);
    let parts: Vec<_> =
        policies.policies().iter().map(|one| (one.name.as_str(), one.revision.number, one.part)).collect();
    assert!(parts.contains(&("p", 1, Part::Overridden)) && parts.len() == 3, "{parts:?}");

    // Once more is no change; the others are.
    assert_eq!(set(store, &new("p", &[(uid(1), 1)])).await, Some(0));
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);
    let held = NewOverrides { is_hold: true, ..new("p", &[(uid(1), 1), (uid(4), 2)]) };
    let only_said = NewOverrides { validate_only: true, ..held.clone() };
    assert_eq!((set(store, &only_said).await, all(store).await.len()), (Some(2), 3));
    assert_eq!(set(store, &held).await, Some(2));
    set(store, &new("q", &[(uid(1), 2)])).await;
    let of_agent = OverrideFilter { uid: Some(uid(1)), policy: None };
    let first = store.list_overrides(of_agent, None, 9).await.unwrap();
    let expected = Override {
        policy: "p".into(),
        uid: uid(1),
        revision: 1,
        is_hold: true,
        message: "why".into(),
        author: "ada".into(),
        created_at: NOW,
        expires_at: None,
    };
    assert_eq!((first.len(), &first[0]), (2, &expected));
    // Pages follow each other over policies.
    let page = store.list_overrides(OverrideFilter::default(), Some(("p", uid(3))), 2).await.unwrap();
    let page: Vec<_> = page.iter().map(|one| (one.policy.as_str(), one.uid)).collect();
    assert_eq!(page, [("p", uid(4)), ("q", uid(1))]);
    let of_policy = OverrideFilter { policy: Some("q"), uid: None };
    assert_eq!(store.list_overrides(of_policy, None, 9).await.unwrap().len(), 1);

    let epoch = store.policy_epoch().await.unwrap();
    let clear = async |agents: &[InstanceUid]| store.clear_overrides("p", agents, &actor()).await.unwrap();
    assert_eq!(clear(&[uid(1), uid(2), uid(5)]).await, 2);
    assert_eq!(clear(&[uid(1), uid(2)]).await, 0);
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);
    assert_eq!(all(store).await, [("p".into(), uid(3), 0), ("p".into(), uid(4), 2), ("q".into(), uid(1), 2)]);
    assert_eq!(revision(&store.policy_set().await.unwrap(), 1), 2);
}

pub async fn overrides_that_cannot_be_are_refused(store: &SharedStore) {
    applied(store, everybodys("p", "one")).await;
    stored(&**store, vec![agent(1)]).await;
    let epoch = store.policy_epoch().await.unwrap();
    for (wrong, expected) in [
        (new("q", &[(uid(1), 1)]), "policy"),
        (new("p", &[(uid(1), 2)]), "revision"),
        (new("p", &[(uid(1), 1), (uid(2), 1)]), "agent"),
    ] {
        let error = store.set_overrides(&wrong, &actor()).await.unwrap_err();
        assert!(matches!(&error, Error::NotFound { kind, .. } if *kind == expected), "{error}");
    }
    assert!(matches!(
        store.clear_overrides("q", &[uid(1)], &actor()).await,
        Err(Error::NotFound { kind: "policy", .. })
    ));
    // Found out by policies that are others now.
    let late = NewOverrides { epoch: Some(epoch - 1), ..new("p", &[(uid(1), 1)]) };
    assert_eq!(set(store, &late).await, None);
    assert_eq!((all(store).await.len(), store.policy_epoch().await.unwrap()), (0, epoch));
    assert_eq!(set(store, &NewOverrides { epoch: Some(epoch), ..late }).await, Some(1));
}

pub async fn there_are_only_so_many_overrides(store: &SharedStore) {
    applied(store, everybodys("p", "one")).await;
    let agents: Vec<_> = (1..=MAX_OVERRIDES as u128 + 1).map(agent).collect();
    for batch in agents.chunks(MAX_BATCH) {
        stored(&**store, batch.to_vec()).await;
    }
    let pins: Vec<_> = agents.iter().map(|agent| (agent.uid, 1)).collect();
    let error = store.set_overrides(&new("p", &pins), &actor()).await.unwrap_err();
    assert_eq!(error.to_string(), "there can be 10000 overrides, and this would make 10001");
    assert_eq!(set(store, &new("p", &pins[1..])).await, Some(MAX_OVERRIDES as u64));
    assert!(store.set_overrides(&new("p", &pins[..1]), &actor()).await.is_err());
    // Replacing needs no room.
    assert_eq!(set(store, &new("p", &[(pins[1].0, 0)])).await, Some(1));
    let uids: Vec<_> = pins.iter().map(|(uid, _)| *uid).collect();
    assert_eq!(store.clear_overrides("p", &uids, &actor()).await.unwrap(), MAX_OVERRIDES as u64);
}

pub async fn overrides_go_with_their_policy_and_their_agent(store: &SharedStore) {
    for name in ["p", "q"] {
        applied(store, everybodys(name, "one")).await;
    }
    stored(&**store, (1..=3).map(agent).collect()).await;
    set(store, &new("p", &[(uid(1), 1), (uid(2), 1)])).await;
    set(store, &new("q", &[(uid(1), 1)])).await;
    store.delete_policy("q", None, &actor()).await.unwrap();
    assert_eq!(all(store).await, [("p".into(), uid(1), 1), ("p".into(), uid(2), 1)]);
    let epoch = store.policy_epoch().await.unwrap();
    store.forget_agent(uid(2), None, &actor()).await.unwrap();
    assert_eq!(all(store).await, [("p".into(), uid(1), 1)]);
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1, "whoever decides has to know");
    store.forget_agent(uid(3), None, &actor()).await.unwrap();
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1, "it had none");
    // Made anew, a policy has none.
    store.delete_policy("p", None, &actor()).await.unwrap();
    applied(store, everybodys("p", "one")).await;
    assert_eq!(all(store).await, []);
}

pub async fn overrides_stand_while_a_rollout_goes_on(store: &SharedStore) {
    applied(store, everybodys("p", "one")).await;
    stored(&**store, (1..=40).map(agent).collect()).await;
    set(store, &new("p", &[(uid(1), 1)])).await;
    let mut second = everybodys("p", "two");
    second.content.plan =
        Some(Plan { steps: ["50%", "100%"].map(|step| step.parse().unwrap()).into(), ..Plan::default() });
    applied(store, second).await;
    set(store, &new("p", &[(uid(2), 2)])).await;
    let rollout = store.get_rollout("p").await.unwrap();
    let attributes = Attributes::default();
    let mut candidates = Candidates::new(&rollout, rollout.step, NOW);
    (1..=40).for_each(|n| candidates.add(&AgentRecord::new(uid(n), 0), &attributes));
    let seen = Seen { candidates: Some(candidates), ..Seen::default() };
    let first = control(&rollout, Control::Promote, &seen, "ada", NOW).unwrap();
    assert!(store.write_rollout(&first, None, &actor()).await.unwrap());
    let policies = store.policy_set().await.unwrap();
    for n in 1..=40 {
        let inside = first.cohort().contains(&AgentRecord::new(uid(n), 0), &attributes);
        let expected = match n {
            1 => 1,
            2 => 2,
            _ => 1 + u64::from(inside),
        };
        assert_eq!(revision(&policies, n), expected, "{n}");
    }
    let back = control(&first, Control::Abort, &seen, "ada", NOW).unwrap();
    assert!(store.write_rollout(&back, None, &actor()).await.unwrap());
    let policies = store.policy_set().await.unwrap();
    assert_eq!([1, 2, 3].map(|agent| revision(&policies, agent)), [1, 2, 1]);
    assert_eq!(policies.override_of(uid(2), "p"), Some(2));
}

pub async fn overrides_expire(store: &SharedStore) {
    applied(store, everybodys("p", "one")).await;
    stored(&**store, vec![agent(1), agent(2)]).await;
    set(store, &NewOverrides { expires_at: Some(NOW + 10), ..new("p", &[(uid(1), 1)]) }).await;
    set(store, &new("p", &[(uid(2), 1)])).await;
    let epoch = store.policy_epoch().await.unwrap();
    assert_eq!(store.expire_overrides(NOW + 9).await.unwrap(), 0);
    assert_eq!(store.policy_epoch().await.unwrap(), epoch);
    assert_eq!(store.expire_overrides(NOW + 10).await.unwrap(), 1);
    assert_eq!(store.policy_epoch().await.unwrap(), epoch + 1);
    assert_eq!(all(store).await, [("p".into(), uid(2), 1)]);
    let audit = store.list_audit(None, 1).await.unwrap().remove(0);
    assert_eq!((audit.action.as_str(), audit.actor.as_str()), ("override.expire", "system"));
}
