//! Policies that are applied together, and what differs between revisions.

use muster::proto::{
    admin::{
        ApplyPoliciesRequest, ApplyPoliciesResponse, ApplyPolicyRequest, DiffRevisionsRequest, GetPolicyRequest,
        PolicyDiff, PolicyKind, apply_policy_response::Outcome,
    },
    opamp::{ConnectionSettingsOffers, Header, Headers, OpAmpConnectionSettings},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::world::{World, agent, policy, reason, violated};

async fn apply(world: &World, request: ApplyPoliciesRequest) -> Result<ApplyPoliciesResponse, Status> {
    world.policies().apply_policies(world.request(request)).await.map(tonic::Response::into_inner)
}

fn set(policies: Vec<ApplyPolicyRequest>) -> ApplyPoliciesRequest {
    ApplyPoliciesRequest { policies, ..Default::default() }
}

async fn diff(world: &World, policy: &str, from_revision: u64, to_revision: u64) -> Result<PolicyDiff, Status> {
    let request = DiffRevisionsRequest { policy: policy.into(), from_revision, to_revision };
    world.policies().diff_revisions(world.request(request)).await.map(tonic::Response::into_inner)
}

/// What differs: name, before and after.
fn items(diff: &PolicyDiff) -> Vec<(&str, Option<&str>, Option<&str>)> {
    fn text(body: &Option<bytes::Bytes>) -> Option<&str> {
        body.as_deref().map(|body| std::str::from_utf8(body).unwrap())
    }
    diff.items.iter().map(|item| (item.name.as_str(), text(&item.before), text(&item.after))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_synced_with_one_change() {
    let world = World::start().await;
    world.put(&[agent(1, &[("os", "linux")]), agent(2, &[("os", "windows")])]).await;
    apply(&world, set(vec![policy("base", "os = linux", "one\n"), policy("old", "", "old\n")])).await.unwrap();
    let epoch = world.store.policy_epoch().await.unwrap();
    let wanted = || {
        let named = |request: ApplyPolicyRequest, file: &str| {
            let mut request = request;
            request.files[0].name = file.into();
            request
        };
        vec![policy("base", "os = linux", "two\n"), named(policy("new", "os = linux", "new\n"), "new.yaml")]
    };
    let dry = ApplyPoliciesRequest { prune: true, validate_only: true, preview: true, diff: true, ..set(wanted()) };
    let would = apply(&world, dry).await.unwrap();
    let outcomes: Vec<_> = would.policies.iter().map(|one| one.outcome()).collect();
    assert_eq!(outcomes, [Outcome::Configured, Outcome::Created]);
    assert_eq!(would.policies[0].agents.map(|count| (count.matching, count.connected)), Some((1, 1)));
    assert_eq!(would.pruned.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>(), ["old"]);
    // Together: the agent that loses `old` gets two other files, and the other one is left alone with nothing.
    let [preview] = &would.previews[..] else { panic!("{would:?}") };
    assert_eq!(preview.kind(), PolicyKind::Config);
    let preview = preview.preview.as_ref().unwrap();
    assert_eq!((preview.changing, preview.losing, preview.gaining, preview.unchanged), (1, 1, 0, 0));
    let diffs: Vec<_> =
        would.diffs.iter().map(|diff| (diff.policy.as_str(), diff.from_revision, diff.to_revision)).collect();
    assert_eq!(diffs, [("base", 1, 2), ("new", 0, 1), ("old", 1, 0)]);
    assert_eq!(items(&would.diffs[0]), [("files/collector.yaml", Some("one\n"), Some("two\n"))]);
    assert_eq!(items(&would.diffs[2])[1], ("files/collector.yaml", Some("old\n"), None));
    assert_eq!(world.store.policy_epoch().await.unwrap(), epoch);

    let mut hints = world.hints().await;
    let sync = ApplyPoliciesRequest { prune: true, ..set(wanted()) };
    apply(&world, sync.clone()).await.unwrap();
    assert_eq!(world.store.policy_epoch().await.unwrap(), epoch + 1);
    assert_eq!(hints.next().await.policies_epoch, epoch + 1);
    let again = apply(&world, ApplyPoliciesRequest { diff: true, ..sync }).await.unwrap();
    assert!(again.policies.iter().all(|one| one.outcome() == Outcome::Unchanged), "{again:?}");
    assert_eq!((again.pruned.len(), again.diffs.len()), (0, 0));
    assert_eq!(world.store.policy_epoch().await.unwrap(), epoch + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_with_a_set_is_said_at_once() {
    let world = World::start().await;
    let wrong = vec![
        policy("good", "", "x"),
        ApplyPolicyRequest { preview: true, ..policy("bad", "a in", "x") },
        ApplyPolicyRequest { kind: 0, ..policy("good", "", "y") },
    ];
    let status = apply(&world, set(wrong)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    let fields = ["policies[1].selector", "policies[1].preview", "policies[2].name", "policies[2].kind"];
    assert_eq!(violated(&status), fields.map(String::from).into());
    let none = ApplyPoliciesRequest { prune: true, ..set(Vec::new()) };
    let status = apply(&world, none).await.unwrap_err();
    assert!(status.message().contains("prune would delete every policy"), "{status:?}");
    assert!(apply(&world, set(Vec::new())).await.is_err());
    let many = set((0..1_001).map(|n| policy(&format!("p{n}"), "", "x")).collect());
    assert_eq!(violated(&apply(&world, many).await.unwrap_err()), ["policies".to_owned()].into());

    // What the store refuses names its policy too, and its message each.
    apply(&world, set(vec![policy("base", "", "x"), policy("more", "", "x")])).await.unwrap();
    let stale = |name| ApplyPolicyRequest { etag: Some("stale".into()), ..policy(name, "", "y") };
    let status = apply(&world, set(vec![policy("new", "", "x"), stale("base"), stale("more")])).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(violated(&status), ["policies[1].etag", "policies[2].etag"].map(String::from).into());
    let described = status.get_details_bad_request().unwrap().field_violations;
    assert!(described[1].description.contains("policy \"more\" has changed"), "{described:?}");
    assert_eq!(world.store.list_policies(None, 9).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_differ_in_what_they_say() {
    let world = World::start().await;
    apply(&world, set(vec![policy("base", "os = linux", "one\n")])).await.unwrap();
    apply(&world, set(vec![ApplyPolicyRequest { priority: 7, ..policy("base", "os = linux", "two\n") }]))
        .await
        .unwrap();
    let mut third = policy("base", "os = linux", "two\n");
    third.files[0].content_type = "text/x-yaml".into();
    apply(&world, set(vec![third])).await.unwrap();
    let one = diff(&world, "base", 1, 2).await.unwrap();
    assert_eq!((one.from_revision, one.to_revision, one.kind()), (1, 2, PolicyKind::Config));
    let [(head, before, after), body] = items(&one)[..] else { panic!("{one:?}") };
    assert_eq!((head, body), ("policy", ("files/collector.yaml", Some("one\n"), Some("two\n"))));
    let line = |text: Option<&str>| text.unwrap().lines().find(|line| line.starts_with("priority")).unwrap().to_owned();
    assert_eq!((line(before), line(after)), ("priority: 0".to_owned(), "priority: 7".to_owned()));
    // Backwards, and over one; a body that came back is no difference.
    assert_eq!(items(&diff(&world, "base", 2, 1).await.unwrap())[1].1, Some("two\n"));
    let one = diff(&world, "base", 2, 3).await.unwrap();
    let [(head, _, after)] = items(&one)[..] else { panic!("{one:?}") };
    assert!(head == "policy" && after.unwrap().contains("content_type: \"text/x-yaml\""));
    // By default from the stable one, which is the newest here.
    let same = diff(&world, "base", 0, 0).await.unwrap();
    assert_eq!((same.from_revision, same.to_revision, same.items.len()), (3, 3, 0));
    for (from, to) in [(9, 1), (1, 9)] {
        let status = diff(&world, "base", from, to).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "REVISION_NOT_FOUND"));
    }
    assert_eq!(reason(&diff(&world, "other", 0, 0).await.unwrap_err()), "POLICY_NOT_FOUND");
    let get = GetPolicyRequest { name: "base".into(), include_bodies: true, revision: 1 };
    let got = world.policies().get_policy(world.request(get)).await.unwrap().into_inner();
    let revision = got.revision.unwrap();
    assert_eq!((revision.number, &revision.files[0].body[..], got.stable_revision), (1, &b"one\n"[..], 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_seen_to_differ_and_not_shown() {
    let world = World::start().await;
    let settings = |token: &str| {
        let header = Header { key: "Authorization".into(), value: token.into() };
        let opamp = OpAmpConnectionSettings {
            destination_endpoint: "wss://example.org/v1/opamp".into(),
            headers: Some(Headers { headers: vec![header] }),
            ..Default::default()
        };
        ApplyPolicyRequest {
            name: "settings".into(),
            kind: PolicyKind::ConnectionSettings.into(),
            connection_settings: Some(ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() }),
            ..Default::default()
        }
    };
    for token in ["Bearer first-secret", "Bearer second-secret"] {
        apply(&world, set(vec![settings(token)])).await.unwrap();
    }
    let diff = diff(&world, "settings", 1, 2).await.unwrap();
    let [(name, before, after)] = items(&diff)[..] else { panic!("{diff:?}") };
    assert_eq!(name, "connections/opamp");
    for text in [before.unwrap(), after.unwrap()] {
        assert!(text.contains("headers: Authorization\n") && !text.contains("secret"), "{text}");
    }
}
