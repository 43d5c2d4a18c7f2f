//! Instance uids: given on request, and where two agents have one.

use std::collections::BTreeSet;

use crate::conformance::{
    agent::{Agent, CASE_ATTRIBUTE, REQUEST_INSTANCE_UID},
    case::{Step, Verdict, cases, ensure, skip},
    context::{Context, no_error},
    protobuf::Message,
    reply::Reply,
    websocket::{Event, Frame, PONG, Socket},
};

cases! {
    "UID-01" Must WebSocket "AgentToServer.instance_uid" "RequestInstanceUid is answered with a uid of 16 bytes"
        gives_uid;
    "UID-02" Should WebSocket "ServerToAgent.agent_identification" "a uid that is given is a UUIDv7" gives_v7;
    "UID-03" Must Http "AgentToServer.instance_uid" "RequestInstanceUid is answered over plain HTTP" http_gives_uid;
    "UID-04" Must WebSocket "ServerToAgent.instance_uid" "the reply with a new uid is addressed to the old one"
        addresses_the_old_uid;
    "UID-05" Must WebSocket "AgentToServer.instance_uid" "two agents are given two uids" gives_different_uids;
    "UID-06" Field WebSocket "ServerToAgent.agent_identification" "under its new uid an agent need not repeat itself"
        moves_state;
    "UID-07" Field WebSocket "ServerToAgent.agent_identification" "an agent that ignores its new uid is not given more"
        does_not_insist;
    "UID-08" Field WebSocket "AgentToServer.instance_uid" "one agent that asks again and again is not given many uids"
        gives_few_uids;
    "UID-09" Should WebSocket "Duplicate instance_uid Detection" "of two live sockets with one uid one gets a new uid"
        rekeys_one;
    "UID-10" Field WebSocket "Duplicate instance_uid Detection" "after that neither is given another" rekeys_once;
    "UID-11" Field WebSocket "Duplicate instance_uid Detection" "both go on to be answered" serves_both;
    "UID-12" Field WebSocket "Restoring WebSocket Connection" "past a half-open socket an agent keeps its uid"
        takes_over;
    "UID-13" Field WebSocket "ServerToAgent.agent_identification" "an agent that did not ask is not given a uid"
        gives_none_unasked;
    "UID-14" Field Http "Duplicate instance_uid Detection" "a poll while the agent's WebSocket lives does not re-key the socket"
        does_not_rekey_the_socket;
    "UID-15" Field WebSocket "ServerToAgent.agent_identification" "what is known of an agent goes along to the uid that it asks for"
        takes_state_along;
    "UID-16" Field WebSocket "ServerToAgent.agent_identification" "an agent that comes back with the uid it had is known by that"
        keeps_state;
}

fn request(agent: &mut Agent) -> Message {
    agent.full().uint(10, REQUEST_INSTANCE_UID)
}

/// The uid that a reply gives.
fn given(reply: &Reply) -> Step<[u8; 16]> {
    no_error(reply)?;
    let uid = reply.new_uid.as_deref().ok_or("no agent_identification")?;
    Ok(uid.try_into().map_err(|_| format!("new_instance_uid has {} bytes", uid.len()))?)
}

async fn asked(cx: &Context) -> Step<(Socket, Agent, Reply)> {
    let (mut socket, mut agent) = (cx.connect().await?, cx.agent());
    let reply = socket.say(&request(&mut agent)).await?;
    if let Ok(uid) = given(&reply) {
        cx.remember(uid);
    }
    Ok((socket, agent, reply))
}

/// As [`asked`], for cases about how a uid is given.
async fn given_one(cx: &Context) -> Step<(Socket, Agent, Reply)> {
    let found = asked(cx).await?;
    if found.2.new_uid.is_none() {
        skip!("the server gives no uid (UID-01)");
    }
    Ok(found)
}

async fn gives_uid(cx: &Context) -> Verdict {
    let (_, agent, reply) = asked(cx).await?;
    let uid = given(&reply)?;
    ensure!(uid != agent.uid, "the new uid is the old one");
    ensure!(uid != [0; 16], "the new uid is zeros");
    Ok(())
}

async fn gives_v7(cx: &Context) -> Verdict {
    let (_, _, reply) = given_one(cx).await?;
    let uid = given(&reply)?;
    ensure!(uid[6] >> 4 == 7, "the version is {}", uid[6] >> 4);
    ensure!(uid[8] >> 6 == 0b10, "the variant is {:#b}", uid[8] >> 6);
    Ok(())
}

async fn http_gives_uid(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    let uid = given(&http.say(&request(&mut agent)).await?)?;
    cx.remember(uid);
    ensure!(uid != agent.uid, "the new uid is the old one");
    Ok(())
}

async fn addresses_the_old_uid(cx: &Context) -> Verdict {
    let (_, agent, reply) = given_one(cx).await?;
    given(&reply)?;
    ensure!(reply.uid == agent.uid, "instance_uid is {}", hex::encode(reply.uid));
    Ok(())
}

async fn gives_different_uids(cx: &Context) -> Verdict {
    let (first, second) = (given(&given_one(cx).await?.2)?, given(&given_one(cx).await?.2)?);
    ensure!(first != second, "both are given {}", hex::encode(first));
    Ok(())
}

async fn moves_state(cx: &Context) -> Verdict {
    let (mut socket, mut agent, reply) = given_one(cx).await?;
    agent.uid = given(&reply)?;
    for _ in 0..3 {
        let reply = socket.say(&agent.heartbeat()).await?;
        no_error(&reply)?;
        ensure!(reply.uid == agent.uid, "instance_uid is {}", hex::encode(reply.uid));
        ensure!(!reply.asks_full_state(), "the new uid is asked for its full state");
        ensure!(reply.new_uid.is_none(), "the new uid is given another");
    }
    Ok(())
}

async fn does_not_insist(cx: &Context) -> Verdict {
    let (mut socket, mut agent, reply) = given_one(cx).await?;
    given(&reply)?;
    for _ in 0..5 {
        let reply = socket.say(&agent.heartbeat()).await?;
        no_error(&reply)?;
        ensure!(reply.new_uid.is_none(), "a message that asks for nothing is answered with another uid");
    }
    Ok(())
}

async fn gives_few_uids(cx: &Context) -> Verdict {
    const REQUESTS: usize = 30;
    const ENOUGH: usize = 5;
    let (mut socket, mut agent, _) = given_one(cx).await?;
    let mut uids = BTreeSet::new();
    for _ in 0..REQUESTS {
        let reply = socket.say(&request(&mut agent)).await?;
        uids.extend(reply.new_uid.as_deref().and_then(|uid| <[u8; 16]>::try_from(uid).ok()));
    }
    uids.iter().for_each(|uid| cx.remember(*uid));
    ensure!(uids.len() <= ENOUGH, "{} uids for {REQUESTS} requests of one agent", uids.len());
    Ok(())
}

/// An agent that has a connection, and then asks for another uid; with the one that it is given.
pub(super) async fn asks_later(cx: &Context) -> Step<(Socket, Agent, [u8; 16])> {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    let request = agent.heartbeat().uint(10, REQUEST_INSTANCE_UID);
    socket.send(&request).await?;
    // It may be told once that is stored.
    let Ok(reply) = socket.until("a new uid", |reply| reply.new_uid.is_some()).await else {
        skip!("the server gives no uid (UID-01)");
    };
    let uid = given(&reply)?;
    cx.remember(uid);
    Ok((socket, agent, uid))
}

async fn takes_state_along(cx: &Context) -> Verdict {
    cx.admin()?;
    let (mut socket, mut agent, uid) = asks_later(cx).await?;
    let former = std::mem::replace(&mut agent.uid, uid);
    let reply = socket.say(&agent.heartbeat()).await?;
    no_error(&reply)?;
    ensure!(!reply.asks_full_state(), "the new uid is asked for its full state");
    cx.seen_as(&uid, "it is connected and has its attributes", |state| {
        state.is_connected && state.attributes.contains_key(CASE_ATTRIBUTE)
    })
    .await?;
    ensure!(cx.seen(&former).await?.is_none(), "there is an agent with the former uid");
    Ok(())
}

async fn keeps_state(cx: &Context) -> Verdict {
    let (socket, mut agent, _) = asks_later(cx).await?;
    drop(socket);
    let mut socket = cx.connect().await?;
    let mut replies = vec![socket.say(&agent.heartbeat()).await?];
    replies.extend(socket.during(cx.quiet).await?);
    for reply in &replies {
        no_error(reply)?;
        ensure!(!reply.asks_full_state(), "it is asked for its full state");
    }
    ensure!(rekeyed(&replies) == 0, "it is given another uid unasked");
    Ok(())
}

/// Two agents with one uid, each on a socket that lives. Returns what each was told.
async fn duplicates(cx: &Context) -> Step<[(Socket, Agent, Vec<Reply>); 2]> {
    let mut agent = cx.agent();
    let (mut first, reply) = cx.online(&mut agent).await?;
    let mut twin = Agent { next: 50, ..agent.clone() };
    let mut second = cx.connect().await?;
    second.send(&twin.full()).await?;
    let (mut to_first, mut to_second) = (vec![reply], Vec::new());
    // Both answer pings, and the first goes on with its heartbeats.
    for round in 0..50 {
        let (a, b) = tokio::join!(first.during(cx.quiet / 5), second.during(cx.quiet / 5));
        to_first.extend(a?);
        to_second.extend(b?);
        if rekeyed(&to_first) + rekeyed(&to_second) > 0 && round > 2 {
            break;
        }
        if round % 5 == 0 {
            first.send(&agent.heartbeat()).await?;
        }
        if round >= 25 {
            break;
        }
    }
    if let Some(uid) = to_second.iter().find_map(|reply| reply.new_uid.as_deref()?.try_into().ok()) {
        cx.remember(uid);
        twin.uid = uid;
    }
    if let Some(uid) = to_first.iter().find_map(|reply| reply.new_uid.as_deref()?.try_into().ok()) {
        cx.remember(uid);
        agent.uid = uid;
    }
    Ok([(first, agent, to_first), (second, twin, to_second)])
}

fn rekeyed(replies: &[Reply]) -> usize {
    replies.iter().filter(|reply| reply.new_uid.is_some()).count()
}

async fn rekeys_one(cx: &Context) -> Verdict {
    let [(_, _, to_first), (_, _, to_second)] = duplicates(cx).await?;
    let (first, second) = (rekeyed(&to_first), rekeyed(&to_second));
    ensure!(first + second == 1, "the first is given {first} new uids, the second {second}");
    Ok(())
}

async fn rekeys_once(cx: &Context) -> Verdict {
    for (mut socket, mut agent, _) in duplicates(cx).await? {
        let mut replies = Vec::new();
        for _ in 0..5 {
            replies.push(socket.say(&agent.heartbeat()).await?);
        }
        replies.extend(socket.during(cx.quiet).await?);
        ensure!(rekeyed(&replies) == 0, "one is given {} more uids", rekeyed(&replies));
    }
    Ok(())
}

async fn serves_both(cx: &Context) -> Verdict {
    for (mut socket, mut agent, _) in duplicates(cx).await? {
        let reply = socket.say(&agent.heartbeat()).await?;
        no_error(&reply)?;
        ensure!(reply.uid == agent.uid, "a reply is for {}", hex::encode(reply.uid));
    }
    Ok(())
}

async fn takes_over(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    // Nobody reads from it any more: no ping is answered.
    let (_half_open, _) = cx.online(&mut agent).await?;
    let mut socket = cx.connect().await?;
    let mut replies = vec![socket.say(&agent.heartbeat()).await?];
    replies.extend(socket.during(cx.watch).await?);
    replies.push(socket.say(&agent.heartbeat()).await?);
    for reply in &replies {
        no_error(reply)?;
    }
    ensure!(rekeyed(&replies) == 0, "the agent is given a new uid");
    Ok(())
}

async fn gives_none_unasked(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    for reply in [first, socket.say(&agent.heartbeat()).await?] {
        ensure!(reply.new_uid.is_none(), "an agent that did not ask is given a uid");
    }
    Ok(())
}

async fn does_not_rekey_the_socket(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    let mut http = cx.http().await?;
    let poll = agent.numbered(90);
    let (polled, events) = tokio::join!(http.say(&poll), alive(cx, &mut socket));
    if let Some(uid) = polled?.new_uid.and_then(|uid| uid.try_into().ok()) {
        cx.remember(uid);
    }
    let mut replies = events?;
    replies.push(socket.say(&agent.heartbeat()).await?);
    ensure!(rekeyed(&replies) == 0, "the agent with the socket is given a new uid");
    Ok(())
}

/// What comes while the socket answers pings.
async fn alive(cx: &Context, socket: &mut Socket) -> Step<Vec<Reply>> {
    let mut replies = Vec::new();
    while let Some(event) = socket.event_within(cx.quiet).await? {
        match event {
            Event::Ping(payload) => socket.send_frame(&Frame::new(PONG, payload)).await?,
            Event::Binary(message) => replies.push(Reply::read_framed(&message)?),
            _ => {}
        }
    }
    Ok(replies)
}
