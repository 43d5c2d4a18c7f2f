//! Agents' state: what the server has to ask for, and what it must not.

use crate::conformance::{
    agent::Agent,
    case::{Step, Verdict, cases, ensure},
    context::{Context, no_error},
    protobuf::Message,
    reply::Reply,
    websocket::Socket,
};

cases! {
    "STATE-01" Must WebSocket "Agent Status Compression" "a gap in the sequence is answered with ReportFullState"
        asks_after_gap;
    "STATE-02" Must WebSocket "Agent Status Compression" "an unknown agent that says little is asked for its full state"
        asks_strangers;
    "STATE-03" Field WebSocket "Agent Status Compression" "an agent that said everything is not asked" asks_nothing_known;
    "STATE-04" Field WebSocket "AgentToServer.sequence_num" "a full report may begin with any sequence number"
        takes_any_start;
    "STATE-05" Field WebSocket "Agent Status Compression" "a full report past a gap is not answered with an ask"
        full_fills_gaps;
    "STATE-06" Field WebSocket "Agent Status Compression" "one ask at a time: it is not repeated with every reply"
        asks_once;
    "STATE-07" Field WebSocket "Agent Status Compression" "an agent whose numbers always skip is not asked for ever"
        asks_with_pauses;
    "STATE-08" Field WebSocket "Agent Status Compression" "an ask that was answered is not repeated" is_satisfied;
    "STATE-09" Field WebSocket "Restoring WebSocket Connection" "an agent that comes back with a delta is not asked"
        remembers_over_reconnects;
    "STATE-10" Field WebSocket "Restoring WebSocket Connection" "an agent that said goodbye may come back with a delta"
        remembers_over_goodbyes;
    "STATE-11" Must WebSocket "Agent Status Compression" "what was missed between two connections is asked for"
        asks_after_lost_messages;
    "STATE-12" Field WebSocket "AgentToServer.sequence_num" "numbers near the largest are taken" takes_large_numbers;
    "STATE-13" Must Http "Agent Status Compression" "a gap is answered with ReportFullState over plain HTTP"
        http_asks_after_gap;
    "STATE-14" Must Http "Agent Status Compression" "an unknown agent is asked for its full state over plain HTTP"
        http_asks_strangers;
    "STATE-15" Field Http "Agent Status Compression" "polls in sequence are never answered with an ask" http_asks_nothing;
    "STATE-16" Field Http "Agent Status Compression" "a gap is asked about once over plain HTTP" http_asks_once;
    "STATE-17" Field WebSocket "AgentToServer.sequence_num" "a restarted agent with a full report is not asked"
        takes_restarts;
    "STATE-18" Field Both "Agent Status Compression" "an agent may go on over the other transport" follows_transports;
    "STATE-19" Field WebSocket "AgentToServer.capabilities" "a heartbeat without capabilities is no news"
        takes_missing_capabilities;
}

/// Speaks until an ask for the full state comes: a server may well be a few messages late.
async fn is_asked(cx: &Context, socket: &mut Socket, agent: &mut Agent) -> Verdict {
    for _ in 0..5 {
        for reply in socket.during(cx.quiet / 2).await? {
            no_error(&reply)?;
            if reply.asks_full_state() {
                return Ok(());
            }
        }
        socket.send(&agent.heartbeat()).await?;
    }
    Err("no reply has ReportFullState".into())
}

/// Speaks for a while, in which nothing may be asked.
async fn is_not_asked(cx: &Context, socket: &mut Socket, agent: &mut Agent, first: Reply) -> Verdict {
    let asks = count_asks(cx, socket, agent, first, 5).await?;
    ensure!(asks == 0, "ReportFullState is set in {asks} replies");
    Ok(())
}

async fn count_asks(
    cx: &Context,
    socket: &mut Socket,
    agent: &mut Agent,
    first: Reply,
    heartbeats: usize,
) -> Step<usize> {
    let mut replies = vec![first];
    for _ in 0..heartbeats {
        replies.push(socket.say(&agent.heartbeat()).await?);
    }
    replies.extend(socket.during(cx.quiet).await?);
    for reply in &replies {
        no_error(reply)?;
    }
    Ok(replies.iter().filter(|reply| reply.asks_full_state()).count())
}

async fn asks_after_gap(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    agent.next += 5;
    socket.send(&agent.heartbeat()).await?;
    is_asked(cx, &mut socket, &mut agent).await
}

async fn asks_strangers(cx: &Context) -> Verdict {
    let (mut socket, mut agent) = (cx.connect().await?, cx.agent());
    agent.next = 17;
    socket.send(&agent.heartbeat()).await?;
    is_asked(cx, &mut socket, &mut agent).await
}

async fn asks_nothing_known(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    is_not_asked(cx, &mut socket, &mut agent, first).await
}

async fn takes_any_start(cx: &Context) -> Verdict {
    for start in [1, 1_000_000] {
        let mut agent = cx.agent();
        agent.next = start;
        let (mut socket, first) = cx.online(&mut agent).await?;
        is_not_asked(cx, &mut socket, &mut agent, first).await?;
    }
    Ok(())
}

async fn full_fills_gaps(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    agent.next += 5;
    let first = socket.say(&agent.full()).await?;
    is_not_asked(cx, &mut socket, &mut agent, first).await
}

async fn asks_once(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    agent.next += 5;
    let first = socket.say(&agent.heartbeat()).await?;
    let asks = count_asks(cx, &mut socket, &mut agent, first, 20).await?;
    ensure!(asks == 1, "asked {asks} times within one second of one gap");
    Ok(())
}

async fn asks_with_pauses(cx: &Context) -> Verdict {
    const REPORTS: usize = 40;
    // A loop is an answer to each; a server that is careful stops far earlier.
    const ENOUGH: usize = 10;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    let mut asks = 0;
    for _ in 0..REPORTS {
        agent.next += 5;
        // Answers each ask at once, as clients do, and skips again.
        if socket.say(&agent.heartbeat()).await?.asks_full_state() {
            asks += 1;
            agent.next += 5;
            socket.say(&agent.full()).await?;
        }
    }
    ensure!(asks <= ENOUGH, "asked {asks} times for {REPORTS} gaps");
    Ok(())
}

async fn is_satisfied(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    agent.next += 5;
    socket.send(&agent.heartbeat()).await?;
    is_asked(cx, &mut socket, &mut agent).await?;
    socket.during(cx.quiet / 2).await?;
    let first = socket.say(&agent.full()).await?;
    is_not_asked(cx, &mut socket, &mut agent, first).await
}

async fn comes_back(cx: &Context, agent: &mut Agent) -> Verdict {
    let mut socket = cx.connect().await?;
    let first = socket.say(&agent.heartbeat()).await?;
    is_not_asked(cx, &mut socket, agent, first).await
}

async fn remembers_over_reconnects(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    socket.say(&agent.heartbeat()).await?;
    drop(socket);
    comes_back(cx, &mut agent).await
}

async fn remembers_over_goodbyes(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    socket.say(&agent.goodbye()).await?;
    drop(socket);
    comes_back(cx, &mut agent).await
}

async fn asks_after_lost_messages(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (socket, _) = cx.online(&mut agent).await?;
    drop(socket);
    agent.next += 3;
    let mut socket = cx.connect().await?;
    socket.send(&agent.heartbeat()).await?;
    is_asked(cx, &mut socket, &mut agent).await
}

async fn takes_large_numbers(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    agent.next = u64::MAX - 1;
    let (mut socket, _) = cx.online(&mut agent).await?;
    for _ in 0..3 {
        no_error(&socket.say(&agent.heartbeat()).await?)?;
    }
    Ok(())
}

async fn http_asks_after_gap(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    no_error(&http.say(&agent.full()).await?)?;
    agent.next += 5;
    http_is_asked(cx, &mut http, &mut agent).await
}

async fn http_asks_strangers(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    agent.next = 17;
    http_is_asked(cx, &mut http, &mut agent).await
}

async fn http_is_asked(cx: &Context, http: &mut crate::conformance::http::Http, agent: &mut Agent) -> Verdict {
    for _ in 0..5 {
        if http.say(&agent.heartbeat()).await?.asks_full_state() {
            return Ok(());
        }
        tokio::time::sleep(cx.quiet / 5).await;
    }
    Err("no answer has ReportFullState".into())
}

async fn http_asks_nothing(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    for number in 0..10 {
        let message = if number == 0 { agent.full() } else { agent.heartbeat() };
        let reply = http.say(&message).await?;
        ensure!(!reply.asks_full_state(), "the answer to message {number} has ReportFullState");
    }
    Ok(())
}

async fn http_asks_once(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    no_error(&http.say(&agent.full()).await?)?;
    agent.next += 5;
    let mut asks = 0;
    for _ in 0..20 {
        asks += usize::from(http.say(&agent.heartbeat()).await?.asks_full_state());
    }
    ensure!(asks == 1, "asked {asks} times for one gap");
    Ok(())
}

async fn takes_restarts(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    socket.say(&agent.heartbeat()).await?;
    drop(socket);
    agent.next = 0;
    let (mut socket, first) = cx.online(&mut agent).await?;
    is_not_asked(cx, &mut socket, &mut agent, first).await
}

async fn follows_transports(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    socket.say(&agent.goodbye()).await?;
    drop(socket);
    let mut http = cx.http().await?;
    for _ in 0..3 {
        let reply = http.say(&agent.heartbeat()).await?;
        no_error(&reply)?;
        ensure!(!reply.asks_full_state(), "over plain HTTP it is asked for its full state");
        ensure!(reply.new_uid.is_none(), "over plain HTTP it is given a new instance_uid");
    }
    comes_back(cx, &mut agent).await
}

async fn takes_missing_capabilities(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    for _ in 0..5 {
        let message = Message::new().bytes(1, agent.uid).uint(2, agent.next);
        agent.next += 1;
        let reply = socket.say(&message).await?;
        no_error(&reply)?;
        ensure!(!reply.asks_full_state(), "a heartbeat without capabilities is answered with ReportFullState");
    }
    Ok(())
}
