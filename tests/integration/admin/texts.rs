//! U+0000, which no text of Postgres can hold.

use muster::proto::admin::{
    CreateTokenRequest, DeletePolicyRequest, GetFleetSummaryRequest, GetPolicyRequest, ListAgentsRequest,
    ListRevisionsRequest, PolicyFile, RevokeTokenRequest, SetLabelsRequest, TokenKind,
};
use tonic::{Code, Status};

use super::world::{World, agent, policy, uid, violated};

fn refused<T: std::fmt::Debug>(result: Result<T, Status>, field: &str) {
    let status = result.expect_err(field);
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
    assert_eq!(violated(&status), [field.to_owned()].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_request_may_contain_it() {
    let world = World::start().await;
    world.put(&[agent(1, &[])]).await;
    let instance_uid = uid(1).to_string();
    let labels = |set: &[(&str, &str)], remove: &[&str]| {
        let set = set.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let remove = remove.iter().map(|key| (*key).into()).collect();
        world.request(SetLabelsRequest { instance_uid: instance_uid.clone(), set, remove, etag: None })
    };
    refused(world.agents().set_labels(labels(&[("a\0", "x")], &[])).await, "set[\"a\\0\"]");
    refused(world.agents().set_labels(labels(&[("a", "x\0")], &[])).await, "set[\"a\"]");
    refused(world.agents().set_labels(labels(&[], &["a\0"])).await, "remove");
    let selector = "a = \"\0\"".to_owned();
    let list = ListAgentsRequest { selector: selector.clone(), ..Default::default() };
    refused(world.agents().list_agents(world.request(list)).await, "selector");

    let apply = async |request| world.policies().apply_policy(world.request(request)).await;
    refused(apply(policy("a\0", "", "x")).await, "name");
    refused(apply(policy("a", &selector, "x")).await, "selector");
    refused(
        apply(muster::proto::admin::ApplyPolicyRequest { message: "\0".into(), ..policy("a", "", "x") }).await,
        "message",
    );
    let with_file = |file| muster::proto::admin::ApplyPolicyRequest { files: vec![file], ..policy("a", "", "x") };
    let file = |name: &str| PolicyFile { name: name.into(), body: vec![0].into(), ..Default::default() };
    refused(apply(with_file(file("a\0"))).await, "files[\"a\\0\"].name");
    refused(apply(with_file(PolicyFile { content_type: "\0".into(), ..file("a") })).await, "files[\"a\"].content_type");
    refused(apply(with_file(PolicyFile { role: "\0".into(), ..file("a") })).await, "files[\"a\"].role");
    apply(with_file(file("a"))).await.expect("a body may have any bytes");

    let name = || "a\0".to_owned();
    let get = GetPolicyRequest { name: name(), include_bodies: false, revision: 0 };
    refused(world.policies().get_policy(world.request(get)).await, "name");
    let history = ListRevisionsRequest { name: name(), ..Default::default() };
    refused(world.policies().list_revisions(world.request(history)).await, "name");
    let delete = DeletePolicyRequest { name: name(), etag: None };
    refused(world.policies().delete_policy(world.request(delete)).await, "name");
    let create = CreateTokenRequest { kind: TokenKind::Agent.into(), name: name(), expires_in: None };
    refused(world.tokens().create_token(world.request(create)).await, "name");
    refused(world.tokens().revoke_token(world.request(RevokeTokenRequest { token: name() })).await, "token");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_say_it() {
    let world = World::start().await;
    world.put(&[agent(1, &[("service.name", "a\0b"), ("x", "\0")])]).await;
    let list = ListAgentsRequest { selector: "x".into(), ..Default::default() };
    let agents = world.agents().list_agents(world.request(list)).await.expect("a list").into_inner().agents;
    assert_eq!(agents.len(), 1);
    world.fleet().get_fleet_summary(world.request(GetFleetSummaryRequest {})).await.expect("a summary");
}
