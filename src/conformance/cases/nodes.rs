//! Two nodes of one deployment: whichever an agent comes to, it is known.

use super::identity::asks_later;
use crate::conformance::{
    agent::{APPLIED, Agent, FAILED, remote_config_status},
    case::{Step, Verdict, cases, ensure},
    context::{Context, no_error, offer_of},
    reply::{RemoteConfig, Reply},
    websocket::Socket,
};

cases! {
    "NODE-01" Field WebSocket "Restoring WebSocket Connection" "an agent that left one node comes to the other with a delta"
        knows_agents_of_the_other;
    "NODE-02" Field WebSocket "Restoring WebSocket Connection" "an agent whose connection to one node broke does, too"
        knows_agents_whose_connection_broke;
    "NODE-03" Must WebSocket "Agent Status Compression" "what was missed between two nodes is asked for" asks_after_gap;
    "NODE-04" Must WebSocket "ServerToAgent.capabilities" "each node's first reply has the same capabilities"
        declares_the_same;
    "NODE-05" Field Http "Plain HTTP Transport" "polls may go to either node in turn" takes_polls_in_turn;
    "NODE-06" Should WebSocket "Duplicate instance_uid Detection" "of two live agents with one uid on two nodes one gets a new uid"
        rekeys_one;
    "NODE-07" Field WebSocket "Restoring WebSocket Connection" "past a half-open socket on one node an agent keeps its uid on the other"
        takes_over;
    "NODE-08" Must WebSocket "WebSocket Message Exchange" "a change is pushed to the agents of both nodes" pushes_on_both;
    "NODE-09" Field WebSocket "AgentRemoteConfig Message" "both nodes offer one content under one hash" hashes_agree;
    "NODE-10" Must WebSocket "RemoteConfigStatus.last_remote_config_hash" "what was applied at one node is not offered at the other"
        offers_nothing_known;
    "NODE-11" Field WebSocket "RemoteConfigStatus.status" "what FAILED at one node is not offered at the other"
        leaves_failures;
    "NODE-12" Field WebSocket "RemoteConfigStatus.status" "an offer that was lost with one node's connection is made by the other"
        offers_again;
    "NODE-13" Field WebSocket "ServerToAgent.agent_identification" "a uid that one node gave is known to the other"
        knows_given_uids;
}

async fn online_at_second(cx: &Context, agent: &mut Agent) -> Step<(Socket, Reply)> {
    let mut socket = cx.connect_to(cx.second()?).await?;
    let reply = socket.say(&agent.full()).await?;
    no_error(&reply)?;
    Ok((socket, reply))
}

/// The agent comes to the second node with nothing but a heartbeat.
async fn moves(cx: &Context, agent: &mut Agent) -> Step<(Socket, Vec<Reply>)> {
    let mut socket = cx.connect_to(cx.second()?).await?;
    let mut replies = vec![socket.say(&agent.heartbeat()).await?];
    for _ in 0..3 {
        replies.push(socket.say(&agent.heartbeat()).await?);
    }
    replies.extend(socket.during(cx.quiet).await?);
    for reply in &replies {
        no_error(reply)?;
    }
    Ok((socket, replies))
}

fn is_known(replies: &[Reply]) -> Verdict {
    ensure!(!replies.iter().any(Reply::asks_full_state), "the other node asks for its full state");
    ensure!(replies.iter().all(|reply| reply.new_uid.is_none()), "the other node gives it a new uid");
    Ok(())
}

async fn knows_agents_of_the_other(cx: &Context) -> Verdict {
    cx.second()?;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    no_error(&socket.say(&agent.heartbeat()).await?)?;
    no_error(&socket.say(&agent.goodbye()).await?)?;
    drop(socket);
    is_known(&moves(cx, &mut agent).await?.1)
}

async fn knows_agents_whose_connection_broke(cx: &Context) -> Verdict {
    cx.second()?;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    no_error(&socket.say(&agent.heartbeat()).await?)?;
    drop(socket);
    is_known(&moves(cx, &mut agent).await?.1)
}

async fn asks_after_gap(cx: &Context) -> Verdict {
    cx.second()?;
    let mut agent = cx.agent();
    let (socket, _) = cx.online(&mut agent).await?;
    drop(socket);
    agent.next += 7;
    let (_, replies) = moves(cx, &mut agent).await?;
    ensure!(replies.iter().any(Reply::asks_full_state), "no reply has ReportFullState");
    Ok(())
}

async fn declares_the_same(cx: &Context) -> Verdict {
    cx.second()?;
    let (_, first) = cx.online(&mut cx.agent()).await?;
    let (_, second) = online_at_second(cx, &mut cx.agent()).await?;
    let (first, second) = (first.capabilities, second.capabilities);
    ensure!(first == second && first != 0, "one says {first:#x}, the other {second:#x}");
    Ok(())
}

async fn takes_polls_in_turn(cx: &Context) -> Verdict {
    let (mut first, mut second) = (cx.http().await?, cx.http_to(cx.second()?).await?);
    let mut agent = cx.agent();
    no_error(&first.say(&agent.full()).await?)?;
    for number in 0..4 {
        // Far sooner than any agent polls, but not before the nodes have told each other.
        tokio::time::sleep(cx.quiet).await;
        let http = if number % 2 == 0 { &mut second } else { &mut first };
        let reply = http.say(&agent.heartbeat()).await?;
        no_error(&reply)?;
        ensure!(reply.new_uid.is_none(), "poll {number} is answered with a new uid");
        ensure!(!reply.asks_full_state(), "poll {number} is answered with ReportFullState");
    }
    Ok(())
}

async fn rekeys_one(cx: &Context) -> Verdict {
    let target = cx.second()?;
    let mut agent = cx.agent();
    let (mut first, _) = cx.online(&mut agent).await?;
    let mut twin = Agent { next: 50, ..agent.clone() };
    let mut second = cx.connect_to(target).await?;
    second.send(&twin.full()).await?;
    let mut replies = Vec::new();
    for _ in 0..25 {
        let (a, b) = tokio::join!(first.during(cx.quiet / 5), second.during(cx.quiet / 5));
        replies.extend(a?);
        replies.extend(b?);
        first.send(&agent.heartbeat()).await?;
    }
    let given: Vec<_> = replies.iter().filter_map(|reply| reply.new_uid.as_deref()).collect();
    given.iter().filter_map(|uid| (*uid).try_into().ok()).for_each(|uid| cx.remember(uid));
    ensure!(given.len() == 1, "{} new uids are given", given.len());
    Ok(())
}

async fn takes_over(cx: &Context) -> Verdict {
    cx.second()?;
    let mut agent = cx.agent();
    // Nobody reads from it any more: no ping is answered.
    let (_half_open, _) = cx.online(&mut agent).await?;
    let (mut socket, mut replies) = moves(cx, &mut agent).await?;
    replies.extend(socket.during(cx.watch).await?);
    no_error(&socket.say(&agent.heartbeat()).await?)?;
    ensure!(replies.iter().all(|reply| reply.new_uid.is_none()), "the other node gives it a new uid");
    Ok(())
}

/// The offer that comes with this reply, or soon after.
async fn offered(socket: &mut Socket, first: Reply) -> Step<RemoteConfig> {
    if first.remote_config.is_some() {
        return offer_of(&first);
    }
    offer_of(&socket.until("an offer", |reply| reply.remote_config.is_some()).await?)
}

async fn pushes_on_both(cx: &Context) -> Verdict {
    cx.second()?;
    cx.admin()?;
    let (mut one, mut other) = (cx.config_agent(), cx.config_agent());
    let (mut first, _) = cx.online(&mut one).await?;
    let (mut second, _) = online_at_second(cx, &mut other).await?;
    for agent in [&one, &other] {
        cx.seen_as(&agent.uid, "it is connected", |state| state.is_connected).await?;
    }
    cx.offer("a", "a: 1").await?;
    first.until("an offer at the first node", |reply| reply.remote_config.is_some()).await?;
    second.until("an offer at the second node", |reply| reply.remote_config.is_some()).await.map(|_| ())
}

/// An agent at the first node that was offered the policy of its case, and answered with this status.
async fn answered(cx: &Context, status: u64, name: &'static str) -> Step<(Agent, RemoteConfig)> {
    cx.second()?;
    cx.offer("a", "a: 1").await?;
    let mut agent = cx.config_agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    let offer = offered(&mut socket, first).await?;
    no_error(&socket.say(&agent.config_status(&offer.hash, status)).await?)?;
    cx.seen_as(&agent.uid, name, |state| state.config_status == name).await?;
    Ok((agent, offer))
}

async fn hashes_agree(cx: &Context) -> Verdict {
    let (_, first) = answered(cx, APPLIED, "APPLIED").await?;
    let (mut socket, reply) = online_at_second(cx, &mut cx.config_agent()).await?;
    let second = offered(&mut socket, reply).await?;
    ensure!(first.hash == second.hash, "{} and {}", hex::encode(first.hash), hex::encode(second.hash));
    Ok(())
}

async fn offers_nothing_known(cx: &Context) -> Verdict {
    let (mut agent, offer) = answered(cx, APPLIED, "APPLIED").await?;
    let (mut socket, replies) = moves(cx, &mut agent).await?;
    ensure!(replies.iter().all(|reply| reply.remote_config.is_none()), "it is offered to an agent that says little");
    let full = agent.full().message(7, &remote_config_status(&offer.hash, APPLIED, ""));
    let mut replies = vec![socket.say(&full).await?];
    replies.extend(socket.during(cx.quiet).await?);
    ensure!(replies.iter().all(|reply| reply.remote_config.is_none()), "it is offered to an agent that says it has it");
    Ok(())
}

async fn leaves_failures(cx: &Context) -> Verdict {
    let (mut agent, _) = answered(cx, FAILED, "FAILED").await?;
    let (_, replies) = moves(cx, &mut agent).await?;
    ensure!(replies.iter().all(|reply| reply.remote_config.is_none()), "what FAILED is offered by the other node");
    Ok(())
}

async fn offers_again(cx: &Context) -> Verdict {
    let target = cx.second()?;
    cx.offer("a", "a: 1").await?;
    let mut agent = cx.config_agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    let lost = offered(&mut socket, first).await?;
    drop(socket);
    let mut socket = cx.connect_to(target).await?;
    let reply = socket.say(&agent.heartbeat()).await?;
    let again = offered(&mut socket, reply).await?;
    ensure!(again.hash == lost.hash, "another offer: {}", hex::encode(again.hash));
    Ok(())
}

async fn knows_given_uids(cx: &Context) -> Verdict {
    cx.second()?;
    let (socket, mut agent, uid) = asks_later(cx).await?;
    drop(socket);
    agent.uid = uid;
    is_known(&moves(cx, &mut agent).await?.1)
}
