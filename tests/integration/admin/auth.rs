//! Who may call.

use muster::{
    auth::Operators,
    proto::admin::{GetFleetSummaryRequest, ListAgentsRequest},
    store::{NewToken, TokenKind},
};
use tonic::{Code, Request};

use super::world::{World, actor, add_token, reason, with_token};

#[tokio::test(flavor = "multi_thread")]
async fn every_service_needs_an_operator_token() {
    let world = World::start().await;
    let agent_token = add_token(&*world.store, TokenKind::Agent, "an-agent").await;
    let status = world.agents().list_agents(ListAgentsRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "TOKEN_MISSING"));
    let status = world.fleet().get_fleet_summary(GetFleetSummaryRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(
        world.tokens().list_tokens(muster::proto::admin::ListTokensRequest::default()).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(
        world.policies().list_policies(muster::proto::admin::ListPoliciesRequest::default()).await.unwrap_err().code(),
        Code::Unauthenticated
    );

    for token in [agent_token.as_str(), "muster_operator_guess", "x"] {
        let status = world.agents().list_agents(with_token(ListAgentsRequest::default(), token)).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "TOKEN_INVALID"), "{token}");
    }
    let mut basic = Request::new(ListAgentsRequest::default());
    basic.metadata_mut().insert("authorization", "Basic abc".parse().unwrap());
    assert_eq!(reason(&world.agents().list_agents(basic).await.unwrap_err()), "TOKEN_MALFORMED");
    world.agents().list_agents(world.request(ListAgentsRequest::default())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_revoked_elsewhere_is_refused_within_seconds() {
    let world = World::start().await;
    let token = add_token(&*world.store, TokenKind::Operator, "leaver").await;
    let answer = async || {
        let answer = world.agents().list_agents(with_token(ListAgentsRequest::default(), &token)).await;
        answer.map(drop).map_err(|status| status.code())
    };
    assert_eq!(answer().await, Ok(()));
    world.store.revoke_token("leaver", actor().now, &actor()).await.unwrap();
    crate::support::eventually("the token to be refused", async || {
        (answer().await == Err(Code::Unauthenticated)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused() {
    let world = World::start().await;
    let text = "muster_operator_expired";
    let new = NewToken {
        id: "id".into(),
        kind: TokenKind::Operator,
        name: "expired".into(),
        sha256: muster::auth::token::digest(text),
        expires_at: Some(actor().now + 1),
    };
    world.store.create_token(&new, &actor()).await.unwrap();
    let operators = Operators::new(world.store.clone());
    assert!(operators.authenticate(text).await.is_err());
    assert!(operators.authenticate(&world.token).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_nobody_is_called_unauthenticated() {
    let world = World::start().await;
    world.agents().list_agents(world.request(ListAgentsRequest::default())).await.unwrap();
    world.close_store().await;
    // A token that was good a moment ago still is; the store is asked for the rest.
    let status = world.agents().list_agents(world.request(ListAgentsRequest::default())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    let status = world.agents().list_agents(with_token(ListAgentsRequest::default(), "another")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_watches_and_then_the_server() {
    let world = World::start().await;
    let watch = world.request(muster::proto::admin::WatchAgentsRequest::default());
    let mut changes = world.agents().watch_agents(watch).await.unwrap().into_inner();
    changes.message().await.unwrap().expect("the first event");
    world.shutdown.cancel();
    let status = changes.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    tokio::time::timeout(crate::support::PATIENCE, world.server).await.expect("an end").unwrap().unwrap();
}
