//! Remote configuration: what an operator's policy makes the server offer, and what it must not.

use std::time::Duration;

use crate::{
    admin_client::File,
    conformance::{
        agent::{APPLIED, APPLYING, Agent, FAILED, can},
        case::{Step, Verdict, cases, ensure},
        context::{Context, file, no_error, offer_of},
        offers,
        protobuf::Message,
        reply::{RemoteConfig, Reply, capability},
        websocket::Socket,
    },
};

cases! {
    "CFG-01" Must WebSocket "AgentRemoteConfig Message" "an agent that accepts configurations is offered its own" offers;
    "CFG-02" Must WebSocket "AgentToServer.capabilities" "one that does not accept them is offered none"
        offers_only_to_the_capable;
    "CFG-03" Must WebSocket "AgentRemoteConfig Message" "an offer has a hash" offer_has_hash;
    "CFG-04" Field WebSocket "Configuration Files" "names, content types and roles arrive as they were given" keeps_names;
    "CFG-05" Field WebSocket "Configuration Files" "bodies arrive byte for byte" keeps_bodies;
    "CFG-06" Must WebSocket "RemoteConfigStatus.last_remote_config_hash" "an agent that reports the hash is not offered it"
        offers_nothing_known;
    "CFG-07" Must WebSocket "RemoteConfigStatus.last_remote_config_hash" "an agent that reports another hash is offered"
        offers_what_differs;
    "CFG-08" Field WebSocket "RemoteConfigStatus.status" "what FAILED is not offered again" leaves_failures;
    "CFG-09" Field WebSocket "RemoteConfigStatus.status" "what FAILED is not offered again on a new connection"
        leaves_failures_on_return;
    "CFG-10" Field WebSocket "RemoteConfigStatus.status" "after a rollback by the agent the failed one is not offered"
        leaves_rollbacks;
    "CFG-11" Must WebSocket "WebSocket Message Exchange" "a change is pushed to a silent agent" pushes;
    "CFG-12" Must Http "Plain HTTP Transport" "an offer comes with the answer to a poll" offers_by_poll;
    "CFG-13" Must Http "RemoteConfigStatus.last_remote_config_hash" "polls of an agent that has it are not offered it"
        offers_nothing_known_by_poll;
    "CFG-14" Field WebSocket "AgentRemoteConfig Message" "the hash of one content is the same for every agent"
        hashes_are_stable;
    "CFG-15" Must WebSocket "AgentRemoteConfig Message" "another content has another hash" hashes_differ;
    "CFG-16" Field WebSocket "AgentRemoteConfig Message" "a role alone makes another hash" hashes_cover_roles;
    "CFG-17" Field WebSocket "Configuration" "a deleted policy sends no empty configuration" sends_no_empty_map;
    "CFG-18" Field WebSocket "RemoteConfigStatus.status" "an offer that was lost with its connection is made again"
        offers_again;
    "CFG-19" Field WebSocket "RemoteConfigStatus.status" "an offer is not repeated while the agent applies it"
        waits_for_agents;
    "CFG-20" Field WebSocket "AgentToServer.capabilities" "capabilities of 0 in a heartbeat do not take any away"
        zero_is_unchanged;
    "CFG-21" Must WebSocket "AgentToServer.capabilities" "a capability that is withdrawn is obeyed at once" obeys_withdrawal;
    "CFG-22" Must WebSocket "AgentToServer.capabilities" "a capability that comes later is obeyed" obeys_addition;
    "CFG-23" Must WebSocket "ServerToAgent.instance_uid" "on a shared socket an offer has its agent's uid"
        addresses_offers;
    "CFG-24" Field WebSocket "WebSocket Transport" "offers and replies at the same time do not interleave"
        does_not_interleave;
    "CFG-25" Must WebSocket "ServerToAgent.capabilities" "who offers configurations says OffersRemoteConfig"
        declares_offers;
    "CFG-26" Field WebSocket "Configuration" "a configuration of 256 KiB arrives whole" offers_large_files;
    "CFG-27" Field WebSocket "AgentToServer.remote_config_status"
        "an agent that starts afresh, and says nothing of its configuration, is offered it" offers_afresh;
    "CFG-28" Must WebSocket "RemoteConfigStatus.last_remote_config_hash"
        "an agent that goes back to another hash is offered its own at once" offers_to_who_goes_back;
}

/// The first offer that comes: with the reply, or soon after.
async fn offered(socket: &mut Socket, first: Reply) -> Step<RemoteConfig> {
    if first.remote_config.is_some() {
        return offer_of(&first);
    }
    offer_of(&socket.until("an offer", |reply| reply.remote_config.is_some()).await?)
}

/// An agent that has been offered the policy of its case.
async fn with_offer(cx: &Context, body: &str) -> Step<(Socket, Agent, RemoteConfig)> {
    cx.offer("a", body).await?;
    let mut agent = cx.config_agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    let offer = offered(&mut socket, first).await?;
    Ok((socket, agent, offer))
}

/// Reports a status, and lets the server take it.
async fn report(socket: &mut Socket, agent: &mut Agent, hash: &[u8], status: u64) -> Verdict {
    no_error(&socket.say(&agent.config_status(hash, status)).await?)
}

/// One that has said APPLIED.
async fn with_applied(cx: &Context) -> Step<(Socket, Agent, RemoteConfig)> {
    let (mut socket, mut agent, offer) = with_offer(cx, "a: 1").await?;
    report(&mut socket, &mut agent, &offer.hash, APPLIED).await?;
    Ok((socket, agent, offer))
}

/// Speaks for a while, in which nothing may be offered.
async fn is_offered_nothing(cx: &Context, socket: &mut Socket, agent: &mut Agent, first: Option<Reply>) -> Verdict {
    for reply in offers::replies(cx, socket, agent, first).await? {
        if let Some(offer) = reply.remote_config {
            return Err(format!("offered {} with {} files", hex::encode(offer.hash), offer.files.len()).into());
        }
    }
    Ok(())
}

async fn offers(cx: &Context) -> Verdict {
    let (_, _, offer) = with_offer(cx, "a: 1").await?;
    let found = offer.files.iter().find(|file| file.name == "conformance.yaml");
    let found = found.ok_or_else(|| format!("the offer has {} files, and not this one", offer.files.len()))?;
    ensure!(found.body == b"a: 1", "the body is {:?}", String::from_utf8_lossy(&found.body));
    Ok(())
}

async fn offers_only_to_the_capable(cx: &Context) -> Verdict {
    cx.offer("a", "a: 1").await?;
    let mut agent = cx.agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    is_offered_nothing(cx, &mut socket, &mut agent, Some(first)).await
}

async fn offer_has_hash(cx: &Context) -> Verdict {
    let (_, _, offer) = with_offer(cx, "a: 1").await?;
    ensure!(!offer.hash.is_empty(), "config_hash is empty");
    Ok(())
}

async fn offered_files(cx: &Context, files: &[File]) -> Step<RemoteConfig> {
    cx.offer_files("a", files).await?;
    let mut agent = cx.config_agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    offered(&mut socket, first).await
}

async fn keeps_names(cx: &Context) -> Verdict {
    let files = [
        File { role: "supplementary".to_owned(), ..file("ns/Name with ümlaut", "a") },
        File { content_type: "application/json; x=1".to_owned(), ..file("conformance.json", "{}") },
    ];
    let offer = offered_files(cx, &files).await?;
    for given in &files {
        let found = offer.files.iter().find(|file| file.name == given.name);
        let found = found.ok_or_else(|| format!("there is no file {:?}", given.name))?;
        ensure!(found.content_type == given.content_type, "content type {:?}", found.content_type);
        ensure!(found.role == given.role, "role {:?} instead of {:?}", found.role, given.role);
    }
    Ok(())
}

async fn keeps_bodies(cx: &Context) -> Verdict {
    let body: Vec<u8> = (0..=255).chain([0, 0xff, 0xfe]).collect();
    let given = File { content_type: "application/octet-stream".to_owned(), ..file("conformance.bin", body.clone()) };
    let offer = offered_files(cx, &[given]).await?;
    let found = offer.files.iter().find(|file| file.name == "conformance.bin").ok_or("the file is missing")?;
    ensure!(found.body == body, "{} bytes arrive as {} others", body.len(), found.body.len());
    Ok(())
}

async fn offers_nothing_known(cx: &Context) -> Verdict {
    let (mut socket, mut agent, offer) = with_applied(cx).await?;
    is_offered_nothing(cx, &mut socket, &mut agent, None).await?;
    drop(socket);
    let mut socket = cx.connect().await?;
    let status = crate::conformance::agent::remote_config_status(&offer.hash, APPLIED, "");
    let first = socket.say(&agent.full().message(7, &status)).await?;
    is_offered_nothing(cx, &mut socket, &mut agent, Some(first)).await
}

async fn offers_what_differs(cx: &Context) -> Verdict {
    cx.offer("a", "a: 1").await?;
    let mut agent = cx.config_agent();
    let mut socket = cx.connect().await?;
    let status = crate::conformance::agent::remote_config_status(b"another", APPLIED, "");
    let first = socket.say(&agent.full().message(7, &status)).await?;
    offered(&mut socket, first).await.map(|_| ())
}

async fn leaves_failures(cx: &Context) -> Verdict {
    let (mut socket, mut agent, offer) = with_offer(cx, "a: 1").await?;
    report(&mut socket, &mut agent, &offer.hash, FAILED).await?;
    is_offered_nothing(cx, &mut socket, &mut agent, None).await
}

async fn leaves_failures_on_return(cx: &Context) -> Verdict {
    let (mut socket, mut agent, offer) = with_offer(cx, "a: 1").await?;
    report(&mut socket, &mut agent, &offer.hash, FAILED).await?;
    cx.seen_as(&agent.uid, "its configuration FAILED", |state| state.config_status == "FAILED").await?;
    drop(socket);
    let mut socket = cx.connect().await?;
    let first = socket.say(&agent.heartbeat()).await?;
    is_offered_nothing(cx, &mut socket, &mut agent, Some(first)).await
}

async fn leaves_rollbacks(cx: &Context) -> Verdict {
    let (mut socket, mut agent, good) = with_applied(cx).await?;
    cx.offer("a", "b: 2").await?;
    let bad = offer_of(&socket.until("the second offer", |reply| reply.remote_config.is_some()).await?)?;
    report(&mut socket, &mut agent, &bad.hash, APPLYING).await?;
    report(&mut socket, &mut agent, &bad.hash, FAILED).await?;
    report(&mut socket, &mut agent, &good.hash, APPLIED).await?;
    is_offered_nothing(cx, &mut socket, &mut agent, None).await
}

async fn pushes(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.config_agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    cx.seen_as(&agent.uid, "it is connected", |state| state.is_connected).await?;
    cx.offer("a", "a: 1").await?;
    socket.until("an offer to a silent agent", |reply| reply.remote_config.is_some()).await.map(|_| ())
}

async fn offers_by_poll(cx: &Context) -> Verdict {
    cx.offer("a", "a: 1").await?;
    let (mut http, mut agent) = (cx.http().await?, cx.config_agent());
    let mut reply = http.say(&agent.full()).await?;
    for _ in 0..10 {
        if reply.remote_config.is_some() {
            break;
        }
        tokio::time::sleep(cx.quiet / 5).await;
        reply = http.say(&agent.heartbeat()).await?;
    }
    offer_of(&reply).map(|_| ())
}

async fn offers_nothing_known_by_poll(cx: &Context) -> Verdict {
    let (_, mut agent, offer) = with_applied(cx).await?;
    agent = Agent { uid: cx.agent().uid, next: 0, ..agent };
    let mut http = cx.http().await?;
    let status = crate::conformance::agent::remote_config_status(&offer.hash, APPLIED, "");
    let mut replies = vec![http.say(&agent.full().message(7, &status)).await?];
    for _ in 0..5 {
        replies.push(http.say(&agent.heartbeat()).await?);
        tokio::time::sleep(cx.quiet / 5).await;
    }
    ensure!(replies.iter().all(|reply| reply.remote_config.is_none()), "an agent that has it is offered it");
    Ok(())
}

async fn hashes_are_stable(cx: &Context) -> Verdict {
    let (_, _, first) = with_offer(cx, "a: 1").await?;
    for _ in 0..3 {
        let mut agent = cx.config_agent();
        let (mut socket, reply) = cx.online(&mut agent).await?;
        let hash = offered(&mut socket, reply).await?.hash;
        ensure!(hash == first.hash, "{} and {}", hex::encode(hash), hex::encode(&first.hash));
    }
    Ok(())
}

/// The hashes of two offers, one after the other.
async fn hashes_differ_between(cx: &Context, first: &[File], second: &[File]) -> Verdict {
    cx.offer_files("a", first).await?;
    let mut agent = cx.config_agent();
    let (mut socket, reply) = cx.online(&mut agent).await?;
    let before = offered(&mut socket, reply).await?;
    cx.offer_files("a", second).await?;
    let is_second = |reply: &Reply| {
        reply.remote_config.as_ref().is_some_and(|offer| !offer.files.is_empty() && offer.files != before.files)
    };
    let after = offer_of(&socket.until("the second content", is_second).await?)?;
    ensure!(before.hash != after.hash, "both have the hash {}", hex::encode(before.hash));
    Ok(())
}

async fn hashes_differ(cx: &Context) -> Verdict {
    hashes_differ_between(cx, &[file("conformance.yaml", "a: 1")], &[file("conformance.yaml", "a: 2")]).await
}

async fn hashes_cover_roles(cx: &Context) -> Verdict {
    let plain = file("conformance.yaml", "a: 1");
    let other = File { role: "other".to_owned(), ..plain.clone() };
    hashes_differ_between(cx, &[plain], &[other]).await
}

async fn sends_no_empty_map(cx: &Context) -> Verdict {
    let (mut socket, mut agent, _) = with_applied(cx).await?;
    cx.withdraw("a").await?;
    let mut replies = socket.during(cx.quiet).await?;
    for _ in 0..3 {
        replies.push(socket.say(&agent.heartbeat()).await?);
    }
    for offer in replies.into_iter().filter_map(|reply| reply.remote_config) {
        ensure!(!offer.files.is_empty(), "an empty configuration is offered");
    }
    Ok(())
}

async fn offers_again(cx: &Context) -> Verdict {
    let (socket, mut agent, first) = with_offer(cx, "a: 1").await?;
    drop(socket);
    let mut socket = cx.connect().await?;
    let reply = socket.say(&agent.heartbeat()).await?;
    let again = offered(&mut socket, reply).await?;
    ensure!(again.hash == first.hash, "another offer: {}", hex::encode(again.hash));
    Ok(())
}

async fn waits_for_agents(cx: &Context) -> Verdict {
    let (mut socket, mut agent, offer) = with_offer(cx, "a: 1").await?;
    report(&mut socket, &mut agent, &offer.hash, APPLYING).await?;
    is_offered_nothing(cx, &mut socket, &mut agent, None).await
}

async fn zero_is_unchanged(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.config_agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    let message = Message::new().bytes(1, agent.uid).uint(2, agent.next).uint(4, 0);
    no_error(&socket.say(&message).await?)?;
    cx.offer("a", "a: 1").await?;
    socket.until("an offer after a heartbeat with capabilities 0", |it| it.remote_config.is_some()).await.map(|_| ())
}

async fn obeys_withdrawal(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.config_agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    agent.capabilities = can::REPORT;
    no_error(&socket.say(&agent.heartbeat()).await?)?;
    cx.seen_as(&agent.uid, "it accepts no configuration", |it| {
        !it.capabilities.iter().any(|it| it == "AcceptsRemoteConfig")
    })
    .await?;
    cx.offer("a", "a: 1").await?;
    is_offered_nothing(cx, &mut socket, &mut agent, None).await
}

async fn obeys_addition(cx: &Context) -> Verdict {
    cx.offer("a", "a: 1").await?;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    agent.capabilities = can::CONFIG;
    let first = socket.say(&agent.heartbeat()).await?;
    offered(&mut socket, first).await.map(|_| ())
}

async fn addresses_offers(cx: &Context) -> Verdict {
    cx.admin()?;
    let (mut socket, mut plain, mut agent) = (cx.connect().await?, cx.agent(), cx.config_agent());
    for agent in [&mut plain, &mut agent] {
        no_error(&socket.say(&agent.full()).await?)?;
    }
    cx.offer("a", "a: 1").await?;
    let offer = socket.until("an offer", |reply| reply.remote_config.is_some()).await?;
    ensure!(offer.uid == agent.uid, "the offer is for {}", hex::encode(offer.uid));
    Ok(())
}

async fn does_not_interleave(cx: &Context) -> Verdict {
    const CHANGES: usize = 5;
    cx.admin()?;
    let mut agent = cx.config_agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    let speak = async {
        // Every frame that is read is checked, and every message decoded.
        let mut last = None;
        while last.as_ref().is_none_or(|offer: &RemoteConfig| !offer.files.iter().any(|file| is_last(&file.body))) {
            socket.send(&agent.heartbeat()).await?;
            let reply = socket.reply().await?;
            ensure!(reply.uid == agent.uid, "a message is for {}", hex::encode(reply.uid));
            last = reply.remote_config.or(last);
        }
        Ok(())
    };
    let change = async {
        for number in 1..=CHANGES {
            let is_last = if number == CHANGES { "last" } else { "more" };
            cx.offer("a", &format!("{is_last} {number} {}", "x".repeat(20_000))).await?;
        }
        Ok(())
    };
    let both = async { tokio::try_join!(speak, change) };
    let limit: Duration = cx.patience * 2;
    Box::pin(tokio::time::timeout(limit, both))
        .await
        .map_err(|_| "the last change does not arrive".to_owned())?
        .map(|_| ())
}

fn is_last(body: &[u8]) -> bool {
    body.starts_with(b"last")
}

async fn declares_offers(cx: &Context) -> Verdict {
    cx.offer("a", "a: 1").await?;
    let mut agent = cx.config_agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    let bits = first.capabilities;
    offered(&mut socket, first).await?;
    ensure!(bits & capability::OFFERS_REMOTE_CONFIG != 0, "capabilities are {bits:#x}");
    Ok(())
}

async fn offers_large_files(cx: &Context) -> Verdict {
    let body = "0123456789abcdef".repeat(16 << 10);
    let offer = offered_files(cx, &[file("conformance.yaml", body.clone())]).await?;
    let arrived = offer.files.first().map_or(0, |file| file.body.len());
    ensure!(arrived == body.len(), "{arrived} of {} bytes arrive", body.len());
    Ok(())
}

async fn offers_afresh(cx: &Context) -> Verdict {
    let (mut socket, mut agent, first) = with_applied(cx).await?;
    cx.seen_as(&agent.uid, "its configuration is APPLIED", |state| state.config_status == "APPLIED").await?;
    no_error(&socket.say(&agent.goodbye()).await?)?;
    drop(socket);
    // On another disk: what it was sent is on the old one.
    agent.next = 0;
    let (mut socket, reply) = cx.online(&mut agent).await?;
    let again = offered(&mut socket, reply).await?;
    ensure!(again.hash == first.hash, "another offer: {}", hex::encode(again.hash));
    Ok(())
}

async fn offers_to_who_goes_back(cx: &Context) -> Verdict {
    let (mut socket, mut agent, first) = with_applied(cx).await?;
    cx.seen_as(&agent.uid, "its configuration is APPLIED", |state| state.config_status == "APPLIED").await?;
    let reply = socket.say(&agent.config_status(b"another", APPLIED)).await?;
    let again = offered(&mut socket, reply).await?;
    ensure!(again.hash == first.hash, "another offer: {}", hex::encode(again.hash));
    Ok(())
}
