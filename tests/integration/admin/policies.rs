//! Policies: apply, history, delete.

use muster::{
    model::UnixMs,
    proto::admin::{
        ApplyPolicyRequest, ApplyPolicyResponse, DeletePolicyRequest, GetPolicyRequest, ListPoliciesRequest,
        ListRevisionsRequest, PolicyPreview, RolloutPlan, apply_policy_response::Outcome,
    },
};
use tonic::Code;

use super::world::{World, agent, policy, reason, uid, violated};

async fn apply(world: &World, request: ApplyPolicyRequest) -> Result<ApplyPolicyResponse, tonic::Status> {
    world.policies().apply_policy(world.request(request)).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_are_made_when_something_changed() {
    let world = World::start().await;
    let mut hints = world.hints().await;
    let created = apply(&world, policy("base", "a=b", "one")).await.unwrap();
    assert_eq!((created.outcome(), created.policy.clone().unwrap().revision.unwrap().number), (Outcome::Created, 1));
    let first_epoch = hints.next().await.policies_epoch;
    assert_eq!(first_epoch, world.store.policy_epoch().await.unwrap());
    // The same in other words.
    let same = apply(&world, policy("base", " a ==  b ", "one")).await.unwrap();
    assert_eq!((same.outcome(), same.policy.unwrap().revision.unwrap().number), (Outcome::Unchanged, 1));
    let changed = apply(&world, policy("base", "a=b", "two")).await.unwrap();
    let revision = changed.policy.unwrap().revision.unwrap();
    assert_eq!((revision.number, revision.selector.as_str(), revision.author.as_str()), (2, "a = b", "root"));
    assert!(hints.next().await.policies_epoch > first_epoch, "the change without effect was not hinted");

    let list = |page_size, page_token: String| {
        world.request(ListRevisionsRequest { name: "base".into(), page_size, page_token })
    };
    let first = world.policies().list_revisions(list(1, String::new())).await.unwrap().into_inner();
    let second = world.policies().list_revisions(list(1, first.next_page_token.clone())).await.unwrap().into_inner();
    assert_eq!((first.revisions[0].number, second.revisions[0].number), (2, 1));
    let elsewhere = ListRevisionsRequest { name: "other".into(), page_token: first.next_page_token, page_size: 1 };
    assert_eq!(
        world.policies().list_revisions(world.request(elsewhere)).await.unwrap_err().code(),
        Code::InvalidArgument
    );

    let get = GetPolicyRequest { name: "base".into(), include_bodies: true, revision: 0 };
    let got = world.policies().get_policy(world.request(get)).await.unwrap().into_inner().revision.unwrap();
    assert_eq!((&got.files[0].body[..], got.files[0].size), (&b"two"[..], 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_only_says_what_would_be_and_writes_nothing() {
    let world = World::start().await;
    let mut away = agent(3, &[("os", "linux")]);
    away.presence.connected = false;
    world.put(&[agent(1, &[("os", "linux")]), agent(2, &[("os", "windows")]), away]).await;
    let dry = ApplyPolicyRequest { validate_only: true, count_agents: true, ..policy("base", "os = linux", "x") };
    let answer = apply(&world, dry).await.unwrap();
    let count = answer.agents.unwrap();
    assert_eq!((answer.outcome(), count.matching, count.connected, count.incomplete), (Outcome::Created, 2, 1, false));
    let get = GetPolicyRequest { name: "base".into(), include_bodies: false, revision: 0 };
    let status = world.policies().get_policy(world.request(get)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "POLICY_NOT_FOUND"));
    assert_eq!(apply(&world, policy("base", "os = linux", "x")).await.unwrap().agents, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_says_whom_a_revision_touches_and_how() {
    let world = World::start().await;
    let mut deaf = agent(3, &[("os", "linux"), ("host", "c")]);
    deaf.observed.capabilities = 0;
    world.put(&[agent(1, &[("os", "linux")]), agent(2, &[("os", "windows")]), deaf]).await;
    apply(&world, policy("base", "os = linux", "one\n")).await.unwrap();
    apply(&world, ApplyPolicyRequest { priority: 9, ..policy("above", "host = c", "above\n") }).await.unwrap();
    let preview = async |selector: &str, body: &str| {
        let request = ApplyPolicyRequest { validate_only: true, preview: true, ..policy("base", selector, body) };
        apply(&world, request).await.unwrap().preview.unwrap()
    };

    let changed = preview("os = linux", "two\n").await;
    assert_eq!((changed.gaining, changed.losing, changed.changing, changed.unchanged), (0, 0, 1, 2));
    assert_eq!((changed.not_capable, changed.warnings.len()), (0, 0));
    let [change] = &changed.changes[..] else { panic!("{changed:?}") };
    assert_eq!((change.agents, change.example_instance_uid.as_str()), (1, uid(1).to_string().as_str()));
    let [item] = &change.items[..] else { panic!("{change:?}") };
    assert_eq!((item.before.as_deref(), item.after.as_deref()), (Some(&b"one\n"[..]), Some(&b"two\n"[..])));

    let moved = preview("os = windows", "one\n").await;
    assert_eq!((moved.gaining, moved.losing, moved.changing), (1, 1, 0));
    let kept = "1 agents keep what they have: nothing is left to offer, and the policy has no allow_empty";
    assert_eq!(moved.warnings, [kept]);
    let nobody = preview("os = plan9", "one\n").await.warnings;
    assert_eq!(nobody[0], "no agent matches the selector \"os = plan9\"");

    // Who applies may ask too; then it says what it has changed.
    let request = ApplyPolicyRequest { preview: true, ..policy("base", "", "two\n") };
    let applied = apply(&world, request).await.unwrap().preview.unwrap();
    assert_eq!((applied.gaining, applied.changing), (1, 1));
}

async fn preview(world: &World, request: ApplyPolicyRequest) -> PolicyPreview {
    let dry = ApplyPolicyRequest { validate_only: true, preview: true, ..request };
    apply(world, dry).await.unwrap().preview.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_warns_of_what_may_surprise() {
    let world = World::start().await;
    let mut deaf = agent(3, &[("os", "linux"), ("telemetry.sdk.language", "dotnet")]);
    deaf.observed.capabilities = 0;
    let dotnet = agent(2, &[("os", "linux"), ("telemetry.sdk.language", "dotnet")]);
    world.put(&[agent(1, &[("os", "linux")]), dotnet, deaf]).await;
    apply(&world, policy("other", "os = linux", "one\n")).await.unwrap();

    // The same file in two policies: the one that goes before is named, either way.
    let above = ApplyPolicyRequest { priority: 1, ..policy("base", "os = linux", "two\n") };
    let warnings = preview(&world, above.clone()).await.warnings;
    let expected = [
        "\"collector.yaml\" of 3 agents is in other too: this policy goes before",
        "1 of the agents do not accept offers of kind Config",
    ];
    assert_eq!(warnings, expected);
    let mut below = ApplyPolicyRequest { priority: -1, ..policy("base", "os = linux", "two\n") };
    below.files.push(muster::proto::admin::PolicyFile { name: "more".into(), ..below.files[0].clone() });
    let warnings = preview(&world, below).await.warnings;
    assert_eq!(warnings[0], "\"collector.yaml\" of 3 agents comes from policy \"other\", which goes before this one");

    // A step that nobody is in, of those that the policy matches.
    let steps = ["os = plan9", "os = windows, !x", "os = linux", "100%"].map(str::to_owned);
    let plan = RolloutPlan { steps: steps.into(), ..Default::default() };
    let ringed = ApplyPolicyRequest { rollout: Some(plan), ..policy("third", "os = linux", "x\n") };
    let warnings = preview(&world, ApplyPolicyRequest { priority: -1, ..ringed }).await.warnings;
    let expected = ["step 1 (os = plan9) selects no agent", "step 2 (os = windows, !x) selects no agent"];
    assert_eq!(warnings[..2], expected);

    // Nothing is left.
    let emptied = ApplyPolicyRequest { selector: "os = plan9".into(), ..policy("other", "", "one\n") };
    let warnings = preview(&world, emptied).await.warnings;
    assert!(warnings[1].starts_with("3 agents keep what they have: nothing is left to offer"), "{warnings:?}");
    let emptied = ApplyPolicyRequest { allow_empty: true, files: Vec::new(), ..policy("other", "", "") };
    assert_eq!(preview(&world, emptied).await.warnings[0], "3 agents are left with nothing of this kind");

    // More than clients take.
    let large = policy("base", "os = linux", &"- a: 1\n".repeat(30_000));
    let mut large = ApplyPolicyRequest { priority: 1, ..large };
    large.files[0].name = "large.yaml".into();
    let warnings = preview(&world, large).await.warnings;
    let too_large = warnings.iter().find(|warning| warning.contains(".NET")).unwrap();
    assert!(too_large.starts_with("2 agents are .NET's and would be sent up to 2100"), "{too_large}");
    assert!(too_large.ends_with("takes 131072"), "{too_large}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_writes_templates_for_each_agent() {
    let world = World::start().await;
    let hosts = ["a", "b", "b"].into_iter().enumerate();
    let agents = hosts.map(|(n, host)| agent(n as u128 + 1, &[("os", "linux"), ("host", host)]));
    world.put(&agents.chain([agent(4, &[("os", "linux")]), agent(5, &[("os", "linux")])]).collect::<Vec<_>>()).await;
    let template = |body: &str| {
        let mut request = policy("base", "os = linux", body);
        request.files[0].template = true;
        request
    };
    let preview_of = preview(&world, template("host: {{ attributes.host }}\n")).await;
    assert_eq!((preview_of.gaining, preview_of.unrenderable, preview_of.unchanged), (3, 2, 0));
    let [warning] = &preview_of.warnings[..] else { panic!("{preview_of:?}") };
    let expected = format!(
        "2 agents keep what they have, such as {}: template \"collector.yaml\" of policy base, revision 1: line 1, column 10: \
         undefined value: attributes.host",
        uid(4)
    );
    assert_eq!(*warning, expected);
    let shown: Vec<_> =
        preview_of.changes.iter().map(|change| (change.agents, change.items[0].after.clone())).collect();
    assert_eq!(shown, [(2, Some("host: b\n".into())), (1, Some("host: a\n".into()))]);

    apply(&world, template("host: {{ attributes.host }}\n")).await.unwrap();
    let changed = preview(&world, template("host: {{ attributes.host | default('a') }}\n")).await;
    assert_eq!((changed.gaining, changed.changing, changed.unchanged, changed.unrenderable), (2, 0, 3, 0));
    let plain = preview(&world, policy("base", "os = linux", "host: a\n")).await;
    assert_eq!((plain.gaining, plain.changing, plain.unchanged), (2, 2, 1), "what it comes to is compared");
    let before = plain.changes.iter().find_map(|change| change.items[0].before.clone());
    assert_eq!(before, Some("host: b\n".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn etags_guard_against_lost_updates() {
    let world = World::start().await;
    let only_new = ApplyPolicyRequest { etag: Some(String::new()), ..policy("base", "", "1") };
    let etag = apply(&world, only_new.clone()).await.unwrap().policy.unwrap().etag;
    let status =
        apply(&world, ApplyPolicyRequest { files: policy("base", "", "2").files, ..only_new }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "POLICY_ALREADY_EXISTS"));
    let second = ApplyPolicyRequest { etag: Some(etag.clone()), ..policy("base", "", "2") };
    apply(&world, second.clone()).await.unwrap();
    let status = apply(&world, second).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    let delete = |etag: Option<String>| world.request(DeletePolicyRequest { name: "base".into(), etag });
    assert_eq!(world.policies().delete_policy(delete(Some(etag))).await.unwrap_err().code(), Code::Aborted);
    let mut hints = world.hints().await;
    world.policies().delete_policy(delete(None)).await.unwrap();
    assert!(hints.next().await.policies_epoch > 0);
    let status = world.policies().delete_policy(delete(None)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "POLICY_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_field_by_field() {
    let world = World::start().await;
    let wrong = ApplyPolicyRequest { name: "No".into(), kind: 0, ..policy("", "a in", "x") };
    let status = apply(&world, wrong).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    assert_eq!(violated(&status), ["name", "kind", "selector"].map(String::from).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_by_name() {
    let world = World::start().await;
    for name in ["c", "a", "b"] {
        apply(&world, policy(name, "", name)).await.unwrap();
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = world.request(ListPoliciesRequest { page_size: 2, page_token });
        let page = world.policies().list_policies(request).await.unwrap().into_inner();
        names.extend(page.policies.into_iter().map(|policy| policy.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c"]);
    let audit = world.store.list_audit(None, 10).await.unwrap();
    assert!(audit.iter().any(|entry| entry.action == "policy.apply"
        && entry.actor == "root"
        && entry.at > 1_700_000_000_000 as UnixMs));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_beyond_the_limit_is_refused() {
    let config = muster::admin::Config { max_request_bytes: 1024, ..Default::default() };
    let world = World::with(config, muster::bus::in_process::InProcess::new()).await;
    let status = apply(&world, policy("base", "", &"x".repeat(2000))).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    apply(&world, policy("base", "", "x")).await.unwrap();
}
