//! Tokens and the fleet's summary.

use std::time::Duration;

use muster::{
    bus::Role,
    proto::admin::{CreateTokenRequest, GetFleetSummaryRequest, ListTokensRequest, RevokeTokenRequest, TokenKind},
    store,
};
use tonic::Code;

use super::world::{World, agent, reason, violated, with_token};

fn create(kind: TokenKind, name: &str, seconds: Option<i64>) -> CreateTokenRequest {
    let expires_in = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
    CreateTokenRequest { kind: kind.into(), name: name.into(), expires_in }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_token_works_until_it_is_revoked() {
    let world = World::start().await;
    let mut tokens = world.tokens();
    let created = tokens.create_token(world.request(create(TokenKind::Operator, "ann", Some(3600)))).await.unwrap();
    let created = created.into_inner();
    let token = created.token.unwrap();
    assert!(created.text.starts_with("muster_operator_"));
    assert_eq!((token.name.as_str(), token.created_by.as_str()), ("ann", "root"));
    assert_eq!(token.expire_time.unwrap().seconds - token.create_time.unwrap().seconds, 3600);
    let list = || with_token(ListTokensRequest::default(), &created.text);
    let listed = tokens.list_tokens(list()).await.unwrap().into_inner().tokens;
    assert_eq!(listed.iter().map(|token| token.name.as_str()).collect::<Vec<_>>(), ["root", "ann"]);
    let revoked = tokens.revoke_token(world.request(RevokeTokenRequest { token: "ann".into() })).await.unwrap();
    assert!(revoked.into_inner().revoke_time.is_some());
    // At once on the node that revoked it.
    assert_eq!(tokens.list_tokens(list()).await.unwrap_err().code(), Code::Unauthenticated);
    let status = tokens.revoke_token(world.request(RevokeTokenRequest { token: "nobody".into() })).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "TOKEN_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_are_told_of_agent_tokens() {
    let world = World::start().await;
    let mut hints = world.hints().await;
    let created = world.tokens().create_token(world.request(create(TokenKind::Agent, "", None))).await.unwrap();
    let created = created.into_inner();
    assert!(hints.next().await.agent_tokens_changed);
    let digest = muster::auth::token::digest(&created.text);
    assert!(world.store.find_token(store::TokenKind::Agent, &digest, i64::MAX).await.unwrap().is_some());
    let id = created.token.unwrap().id;
    world.tokens().revoke_token(world.request(RevokeTokenRequest { token: id })).await.unwrap();
    assert!(hints.next().await.agent_tokens_changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_token_can_be_is_refused() {
    let world = World::start().await;
    for (request, field) in [
        (create(TokenKind::Unspecified, "a", None), "kind"),
        (create(TokenKind::Agent, "no good", None), "name"),
        (create(TokenKind::Agent, "a", Some(0)), "expires_in"),
        (create(TokenKind::Agent, "a", Some(i64::MAX)), "expires_in"),
    ] {
        let status = world.tokens().create_token(world.request(request)).await.unwrap_err();
        assert_eq!((status.code(), violated(&status)), (Code::InvalidArgument, [field.to_owned()].into()));
    }
    world.tokens().create_token(world.request(create(TokenKind::Agent, "twice", None))).await.unwrap();
    let status = world.tokens().create_token(world.request(create(TokenKind::Agent, "twice", None))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "TOKEN_ALREADY_EXISTS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged() {
    let world = World::start().await;
    for name in ["a", "b", "c"] {
        world.tokens().create_token(world.request(create(TokenKind::Agent, name, None))).await.unwrap();
    }
    let list = |page_token: String| world.request(ListTokensRequest { page_size: 3, page_token });
    let first = world.tokens().list_tokens(list(String::new())).await.unwrap().into_inner();
    let second = world.tokens().list_tokens(list(first.next_page_token)).await.unwrap().into_inner();
    let names = |tokens: Vec<muster::proto::admin::Token>| tokens.into_iter().map(|t| t.name).collect::<Vec<_>>();
    assert_eq!(
        (names(first.tokens), names(second.tokens)),
        (vec!["root".into(), "a".into(), "b".into()], vec!["c".into()])
    );
    assert_eq!(second.next_page_token, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_counts_agents_and_nodes() {
    let world = World::start().await;
    world.put(&[agent(1, &[("service.name", "c"), ("service.version", "1")]), agent(2, &[])]).await;
    world.bus.announce(Role::Gateway, "gw-2", Duration::from_secs(600)).await.unwrap();
    world.bus.announce(Role::ConfigService, "cs-1", Duration::from_secs(600)).await.unwrap();
    let summary = world.fleet().get_fleet_summary(world.request(GetFleetSummaryRequest {})).await.unwrap().into_inner();
    assert_eq!((summary.agents, summary.connected, summary.config_unset), (2, 2, 2));
    let gateways: Vec<_> = summary.gateways.iter().map(|g| (g.id.as_str(), g.agents, g.live)).collect();
    assert_eq!(gateways, [("gw-1", 2, false), ("gw-2", 0, true)]);
    assert_eq!((summary.config_services, summary.bus_reachable), (vec!["cs-1".to_owned()], true));
    assert!(summary.versions.iter().any(|v| v.service_name == "c" && v.service_version == "1" && v.agents == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_two_tokens_needs_the_id() {
    let world = World::start().await;
    let mut ids = Vec::new();
    for kind in [TokenKind::Agent, TokenKind::Operator] {
        let made = world.tokens().create_token(world.request(create(kind, "same", None))).await.unwrap().into_inner();
        ids.push(made.token.unwrap().id);
    }
    let revoke = |token: &str| world.request(RevokeTokenRequest { token: token.into() });
    let status = world.tokens().revoke_token(revoke("same")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "TOKEN_AMBIGUOUS"));
    assert_eq!(world.tokens().revoke_token(revoke(&ids[0])).await.unwrap().into_inner().id, ids[0]);
    assert_eq!(world.tokens().revoke_token(revoke("same")).await.unwrap().into_inner().id, ids[1]);
}
