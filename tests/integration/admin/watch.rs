//! Watches.

use muster::{
    bus::Topic,
    proto::{
        admin::{SetLabelsRequest, WatchAgentsRequest, WatchAgentsResponse, watch_agents_response::Event as Change},
        bus::AgentsChanged,
    },
    store::TokenKind,
};
use prost::Message;
use tonic::{Code, Streaming};

use super::{
    test_bus::TestBus,
    world::{World, actor, add_token, agent, reason, uid, with_token},
};
use crate::support::PATIENCE;

async fn watch(world: &World, selector: &str) -> Streaming<WatchAgentsResponse> {
    let request = world.request(WatchAgentsRequest { selector: selector.into(), ..Default::default() });
    world.agents().watch_agents(request).await.unwrap().into_inner()
}

/// `+n` for an agent told of, `-n` for one gone, `=` for synced.
async fn next(changes: &mut Streaming<WatchAgentsResponse>) -> String {
    let change = tokio::time::timeout(PATIENCE, changes.message()).await.expect("a change in time");
    let number =
        |text: &str| (0..1000).find(|n| uid(*n).to_string() == text).map_or_else(|| text.to_owned(), |n| n.to_string());
    match change.unwrap().expect("a change").event.expect("an event") {
        Change::Agent(agent) => format!("+{}", number(&agent.instance_uid)),
        Change::Gone(uid) => format!("-{}", number(&uid)),
        Change::Synced(_) => "=".to_owned(),
    }
}

async fn tell(world: &World, numbers: &[u128]) {
    let instance_uids: Vec<u8> = numbers.iter().flat_map(|n| *uid(*n).as_bytes()).collect();
    let message = AgentsChanged { instance_uids: instance_uids.into() };
    world.bus.publish(&Topic::AgentsChanged, message.encode_to_vec().into()).await.unwrap();
}

async fn label(world: &World, n: u128, key: &str, value: Option<&str>) {
    let request = SetLabelsRequest {
        instance_uid: uid(n).to_string(),
        set: value.map(|value| (key.to_owned(), value.to_owned())).into_iter().collect(),
        remove: if value.is_none() { vec![key.to_owned()] } else { Vec::new() },
        etag: None,
    };
    world.agents().set_labels(world.request(request)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_then_synced_then_changes() {
    let world = World::start().await;
    world.put(&[agent(1, &[("os", "linux")]), agent(2, &[("os", "windows")]), agent(3, &[("os", "linux")])]).await;
    let mut changes = watch(&world, "os = linux, !hidden").await;
    for expected in ["+1", "+3", "="] {
        assert_eq!(next(&mut changes).await, expected);
    }
    // A change, an agent that stops matching and comes back, a new one, one that is forgotten.
    label(&world, 1, "env", Some("prod")).await;
    assert_eq!(next(&mut changes).await, "+1");
    label(&world, 1, "hidden", Some("")).await;
    assert_eq!(next(&mut changes).await, "-1");
    label(&world, 1, "hidden", None).await;
    assert_eq!(next(&mut changes).await, "+1");
    world.put(&[agent(4, &[("os", "linux")]), agent(5, &[("os", "windows")])]).await;
    // A hint of what has not changed, or does not match, tells nothing.
    tell(&world, &[1, 3, 4, 5]).await;
    assert_eq!(next(&mut changes).await, "+4");
    world.store.forget_agent(uid(3), None, &actor()).await.unwrap();
    tell(&world, &[3]).await;
    assert_eq!(next(&mut changes).await, "-3");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hints_missed_is_found_after_a_gap() {
    let bus = TestBus::new();
    let world = World::with(muster::admin::Config::default(), bus.clone()).await;
    world.put(&[agent(1, &[]), agent(2, &[])]).await;
    let mut changes = watch(&world, "").await;
    for expected in ["+1", "+2", "="] {
        assert_eq!(next(&mut changes).await, expected);
    }
    world.store.forget_agent(uid(1), None, &actor()).await.unwrap();
    world.put(&[agent(2, &[("os", "linux")]), agent(3, &[])]).await;
    bus.lose_messages();
    for expected in ["+2", "+3", "-1"] {
        assert_eq!(next(&mut changes).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_gets_the_newest_in_the_end() {
    let world = World::start().await;
    world.put(&(0..500).map(|n| agent(n, &[])).collect::<Vec<_>>()).await;
    let mut changes = watch(&world, "").await;
    // Nobody reads while far more changes than are buffered happen.
    for round in 0..20 {
        let value = round.to_string();
        world
            .put(&(0..500).map(|n| agent(n, &[("round", &value), ("filler", &"x".repeat(500))])).collect::<Vec<_>>())
            .await;
        tell(&world, &(0..500).collect::<Vec<_>>()).await;
    }
    let mut newest = std::collections::BTreeSet::new();
    while newest.len() < 500 {
        let change = tokio::time::timeout(PATIENCE, changes.message()).await.expect("a change in time").unwrap();
        if let Some(Change::Agent(agent)) = change.unwrap().event
            && format!("{:?}", agent.attributes).contains("\"19\"")
        {
            newest.insert(agent.instance_uid);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_the_token_ends_the_watch() {
    let world = World::start().await;
    let token = add_token(&*world.store, TokenKind::Operator, "leaver").await;
    let request = with_token(WatchAgentsRequest::default(), &token);
    let mut changes = world.agents().watch_agents(request).await.unwrap().into_inner();
    assert_eq!(next(&mut changes).await, "=");
    world.store.revoke_token("leaver", actor().now, &actor()).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, changes.message()).await.expect("an end in time").unwrap_err();
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Unauthenticated, "TOKEN_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_room_for_so_many_watches_and_it_is_given_back() {
    let world = World::start().await;
    let mut open = Vec::new();
    // More calls than one connection takes at a time.
    let another = tonic::transport::Channel::from_shared(format!("http://{}", world.address)).unwrap();
    let mut agents = muster::proto::admin::agents_client::AgentsClient::new(another.connect().await.unwrap());
    let status = loop {
        match agents.watch_agents(world.request(WatchAgentsRequest::default())).await {
            Ok(changes) => open.push(changes.into_inner()),
            Err(status) => break status,
        }
        if open.len() == 32 {
            agents = world.agents();
        }
    };
    assert_eq!(
        (open.len(), status.code(), reason(&status).as_str()),
        (64, Code::ResourceExhausted, "TOO_MANY_WATCHES")
    );
    open.clear();
    crate::support::eventually("a watch to be given back", async || {
        let request = world.request(WatchAgentsRequest::default());
        world.agents().watch_agents(request).await.ok().map(drop)
    })
    .await;
}
