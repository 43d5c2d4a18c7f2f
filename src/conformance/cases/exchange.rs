//! Messages and their replies over WebSocket: what every exchange keeps to, and what is malformed.

use tokio::time::{Duration, Instant};

use crate::conformance::{
    agent::{Agent, can, health},
    case::{Step, Stop, Verdict, cases, ensure, skip},
    context::{Context, no_error},
    protobuf::Message,
    reply::{Reply, capability},
    websocket::{BINARY, Event, Frame, Socket, framed},
};

cases! {
    "MSG-01" Must WebSocket "ServerToAgent.instance_uid" "each reply has the instance_uid of its message" echoes_uid;
    "MSG-02" Must WebSocket "ServerToAgent.capabilities" "the first reply has the server's capabilities, with AcceptsStatus"
        first_has_capabilities;
    "MSG-03" Must WebSocket "ServerToAgent.capabilities" "the first reply sets no bit that is not defined"
        sets_no_unknown_bits;
    "MSG-04" Must WebSocket "Status Reporting" "each of a hundred messages is replied to" answers_each;
    "MSG-05" Must WebSocket "Retrying Messages" "a message that comes twice is replied to twice" answers_repeats;
    "MSG-06" Must WebSocket "ServerToAgent.instance_uid" "agents that share a socket get their own replies"
        tells_agents_apart;
    "MSG-07" Must WebSocket "WebSocket Message Format" "a message of a header alone is taken" takes_empty_message;
    "MSG-08" Field WebSocket "WebSocket Message Format" "a message without the header is taken" takes_missing_header;
    "MSG-09" Field WebSocket "WebSocket Message Format" "a header of 0 in two bytes is taken" takes_long_zero;
    "MSG-10" Should WebSocket "WebSocket Message Format" "a header other than 0 is BAD_REQUEST" refuses_headers;
    "MSG-11" Should WebSocket "Bad Request" "a message that is not protobuf is BAD_REQUEST" refuses_garbage;
    "MSG-12" Should WebSocket "Bad Request" "a field of the wrong wire type is BAD_REQUEST" refuses_wire_types;
    "MSG-13" Should WebSocket "Bad Request" "a message that is cut off is BAD_REQUEST" refuses_cut_off;
    "MSG-14" Should WebSocket "Bad Request" "a BAD_REQUEST says what is wrong" explains;
    "MSG-15" Must WebSocket "ServerToAgent.error_response" "an error travels alone" error_travels_alone;
    "MSG-16" Field WebSocket "Bad Request" "after a malformed message the connection is kept" keeps_connection;
    "MSG-17" Must WebSocket "AgentToServer.instance_uid" "an instance_uid of 15 bytes is BAD_REQUEST" refuses_short_uid;
    "MSG-18" Must WebSocket "AgentToServer.instance_uid" "an instance_uid of 36 characters is BAD_REQUEST"
        refuses_text_uid;
    "MSG-19" Must WebSocket "AgentToServer.instance_uid" "a first message without instance_uid is BAD_REQUEST"
        refuses_missing_uid;
    "MSG-20" Field WebSocket "AgentToServer.instance_uid" "an instance_uid of zeros is BAD_REQUEST" refuses_zero_uid;
    "MSG-21" Must WebSocket "Interoperability of Future Capabilities" "unknown fields are ignored" ignores_fields;
    "MSG-22" Must WebSocket "Interoperability of Future Capabilities" "unknown values of enums are ignored" ignores_enums;
    "MSG-23" Must WebSocket "Interoperability of Future Capabilities" "unknown capabilities and flags are ignored"
        ignores_bits;
    "MSG-24" Field WebSocket "WebSocket Message Exchange" "replies come within one second" answers_in_time;
    "MSG-25" Field WebSocket "Throttling" "an agent that does not read for a while is not closed" waits_for_readers;
    "MSG-26" Must WebSocket "Closing Connection" "after agent_disconnect and Close the agent may return" lets_return;
    "MSG-27" Field WebSocket "AgentToServer.agent_disconnect" "messages after agent_disconnect are replied to"
        answers_after_goodbye;
    "MSG-28" Must Http "AgentToServer.instance_uid" "a wrong instance_uid over plain HTTP is an error" http_refuses_uids;
    "MSG-29" Should Http "Bad Request" "a body that is not protobuf is BAD_REQUEST" http_refuses_garbage;
    "MSG-30" Must Http "Interoperability of Future Capabilities" "unknown fields and enum values are ignored in a body"
        http_ignores_unknown;
    "MSG-31" Must WebSocket "Status Reporting" "a reply that is no error has no error_response" has_no_empty_error;
    "MSG-32" Field WebSocket "AgentToServer.agent_description" "values of every kind are taken" takes_every_value;
    "MSG-33" Field WebSocket "ComponentHealth.component_health_map" "health that nests deeply is taken" takes_deep_health;
}

async fn echoes_uid(cx: &Context) -> Verdict {
    let (mut socket, mut agent) = (cx.connect().await?, cx.agent());
    for message in [agent.full(), agent.heartbeat(), agent.heartbeat()] {
        let reply = socket.say(&message).await?;
        ensure!(reply.uid == agent.uid, "instance_uid is {:?}", hex::encode(&reply.uid));
    }
    Ok(())
}

async fn first_has_capabilities(cx: &Context) -> Verdict {
    let (_, reply) = cx.online(&mut cx.agent()).await?;
    ensure!(reply.capabilities & capability::ACCEPTS_STATUS != 0, "capabilities are {:#x}", reply.capabilities);
    Ok(())
}

async fn sets_no_unknown_bits(cx: &Context) -> Verdict {
    let (_, reply) = cx.online(&mut cx.agent()).await?;
    let unknown = reply.capabilities & !capability::ALL;
    ensure!(unknown == 0, "capabilities have the unknown bits {unknown:#x}");
    Ok(())
}

async fn answers_each(cx: &Context) -> Verdict {
    const MESSAGES: usize = 100;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    let all: Vec<u8> = (0..MESSAGES).flat_map(|_| Frame::new(BINARY, framed(&agent.heartbeat())).encoded()).collect();
    socket.send_bytes(&all).await?;
    for number in 0..MESSAGES {
        let reply = socket.message_within(cx.patience).await?;
        ensure!(reply.is_some(), "{number} replies to {MESSAGES} messages");
    }
    Ok(())
}

async fn answers_repeats(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    let message = agent.heartbeat();
    socket.send(&message).await?;
    socket.send(&message).await?;
    for number in 1..=2 {
        let reply = socket.message_within(cx.patience).await?;
        let reply = reply.ok_or_else(|| format!("{} replies to a message that came twice", number - 1))?;
        no_error(&reply)?;
    }
    Ok(())
}

async fn tells_agents_apart(cx: &Context) -> Verdict {
    let mut socket = cx.connect().await?;
    let mut agents = [cx.agent(), cx.agent(), cx.agent()];
    for agent in &mut agents {
        let reply = socket.say(&agent.full()).await?;
        ensure!(reply.uid == agent.uid, "a first reply is for {}", hex::encode(&reply.uid));
    }
    for _ in 0..3 {
        for agent in &mut agents {
            let reply = socket.say(&agent.heartbeat()).await?;
            ensure!(reply.uid == agent.uid, "a reply is for {}", hex::encode(&reply.uid));
            no_error(&reply)?;
        }
    }
    Ok(())
}

async fn takes_empty_message(cx: &Context) -> Verdict {
    let (mut socket, _) = cx.online(&mut cx.agent()).await?;
    socket.send_frame(&Frame::new(BINARY, [0])).await?;
    no_error(&socket.reply().await?)
}

async fn takes_missing_header(cx: &Context) -> Verdict {
    let mut socket = cx.connect().await?;
    socket.send_frame(&Frame::new(BINARY, cx.agent().full().encoded())).await?;
    no_error(&socket.reply().await?)
}

async fn takes_long_zero(cx: &Context) -> Verdict {
    let mut socket = cx.connect().await?;
    socket.send_frame(&Frame::new(BINARY, [&[0x80, 0x00], cx.agent().full().encoded()].concat())).await?;
    no_error(&socket.reply().await?)
}

/// What a connected agent gets for bytes that are no message.
async fn reply_to(cx: &Context, bytes: &[u8]) -> Step<(Socket, Agent, Reply)> {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    socket.send_frame(&Frame::new(BINARY, bytes)).await?;
    let reply = socket.reply().await?;
    Ok((socket, agent, reply))
}

async fn is_bad_request(cx: &Context, bytes: &[u8]) -> Verdict {
    let (_, _, reply) = reply_to(cx, bytes).await?;
    ensure!(reply.is_bad_request(), "answered with {} instead of BAD_REQUEST", reply.summary());
    Ok(())
}

async fn refuses_headers(cx: &Context) -> Verdict {
    let message = cx.agent().heartbeat();
    is_bad_request(cx, &[&[1], message.encoded()].concat()).await
}

const GARBAGE: &[u8] = b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff this is no protobuf";

async fn refuses_garbage(cx: &Context) -> Verdict {
    is_bad_request(cx, GARBAGE).await
}

async fn refuses_wire_types(cx: &Context) -> Verdict {
    let message = Message::new().bytes(1, cx.agent().uid).uint(2, 1).uint(3, 7);
    is_bad_request(cx, &framed(&message)).await
}

async fn refuses_cut_off(cx: &Context) -> Verdict {
    let message = framed(&cx.agent().full());
    is_bad_request(cx, &message[..message.len() - 5]).await
}

/// The error for what is no message, if the server says anything of it.
async fn error_for_garbage(cx: &Context) -> Step<Reply> {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    socket.send_frame(&Frame::new(BINARY, GARBAGE)).await?;
    match socket.message_within(cx.patience).await {
        Ok(Some(reply)) if reply.error.is_some() => Ok(reply),
        _ => skip!("the server says nothing of a malformed message (MSG-11)"),
    }
}

async fn explains(cx: &Context) -> Verdict {
    let error = error_for_garbage(cx).await?.error.unwrap_or_default();
    ensure!(!error.text.trim().is_empty(), "the error has no error_message");
    Ok(())
}

async fn error_travels_alone(cx: &Context) -> Verdict {
    let reply = error_for_garbage(cx).await?;
    let others: Vec<u32> = reply.numbers.iter().copied().filter(|number| ![1, 2].contains(number)).collect();
    ensure!(others.is_empty(), "beside the error stand the fields {others:?}");
    Ok(())
}

async fn keeps_connection(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    socket.send_frame(&Frame::new(BINARY, GARBAGE)).await?;
    // Whether or not it is answered.
    socket.during(cx.quiet).await?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}

/// A report with this instance_uid, on a connection of its own.
async fn reply_to_uid(cx: &Context, uid: &[u8]) -> Step<Reply> {
    let agent = cx.agent();
    let message = if uid.is_empty() { Message::new() } else { Message::new().bytes(1, uid) };
    let message = agent.state(message.uint(2, 1).uint(4, agent.capabilities));
    let mut socket = cx.connect().await?;
    socket.say(&message).await
}

async fn refuses_uid(cx: &Context, uid: &[u8]) -> Verdict {
    let reply = reply_to_uid(cx, uid).await?;
    ensure!(reply.is_bad_request(), "answered with {} instead of BAD_REQUEST", reply.summary());
    Ok(())
}

async fn refuses_short_uid(cx: &Context) -> Verdict {
    refuses_uid(cx, &cx.agent().uid[..15]).await
}

async fn refuses_text_uid(cx: &Context) -> Verdict {
    refuses_uid(cx, b"f81d4fae-7dec-11d0-a765-00a0c91e6bf6").await
}

async fn refuses_missing_uid(cx: &Context) -> Verdict {
    refuses_uid(cx, &[]).await
}

async fn refuses_zero_uid(cx: &Context) -> Verdict {
    refuses_uid(cx, &[0; 16]).await
}

/// A report with everything in it that a later version of the protocol might bring.
fn with_unknown_fields(agent: &mut Agent) -> Message {
    let message = agent.full().uint(500, 7).bytes(501, "new").fixed64(502, 9);
    message.message(503, &Message::new().uint(1, 1)).raw(&[0xbd, 0x3f, 1, 2, 3, 4])
}

async fn ignores_fields(cx: &Context) -> Verdict {
    let (mut socket, mut agent) = (cx.connect().await?, cx.agent());
    no_error(&socket.say(&with_unknown_fields(&mut agent)).await?)?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}

async fn ignores_enums(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    no_error(&socket.say(&agent.config_status(&[1; 32], 99)).await?)?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}

async fn ignores_bits(cx: &Context) -> Verdict {
    let mut agent = cx.agent().with(can::REPORT | 1 << 40 | 1 << 63);
    let mut socket = cx.connect().await?;
    let message = agent.full().uint(10, 1 << 50);
    no_error(&socket.say(&message).await?)?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}

const REPLY_LIMIT: Duration = Duration::from_secs(1);

async fn answers_in_time(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let mut socket = cx.connect().await?;
    for number in 0..50 {
        let message = if number % 10 == 0 { agent.full() } else { agent.heartbeat() };
        let sent = Instant::now();
        no_error(&socket.say(&message).await?)?;
        ensure!(sent.elapsed() < REPLY_LIMIT, "the reply to message {number} took {:?}", sent.elapsed());
    }
    Ok(())
}

async fn waits_for_readers(cx: &Context) -> Verdict {
    const MESSAGES: usize = 300;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    for _ in 0..MESSAGES {
        socket.send(&agent.heartbeat()).await?;
    }
    tokio::time::sleep(cx.quiet).await;
    for number in 0..MESSAGES {
        let reply = socket.message_within(cx.patience).await?;
        ensure!(reply.is_some(), "{number} replies to {MESSAGES} messages");
    }
    Ok(())
}

async fn lets_return(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    no_error(&socket.say(&agent.goodbye()).await?)?;
    socket.send_frame(&Frame::new(crate::conformance::websocket::CLOSE, [3, 232])).await?;
    while !matches!(socket.control().await?, Event::Close(_) | Event::End) {}
    let (_, reply) = cx.online(&mut agent).await?;
    ensure!(reply.new_uid.is_none(), "the agent is given a new instance_uid on its return");
    Ok(())
}

async fn answers_after_goodbye(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    socket.say(&agent.goodbye()).await?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}

/// Whether plain HTTP refused it: by an error in the message, or by a status.
async fn http_error(cx: &Context, body: &[u8]) -> Verdict {
    let mut http = cx.http().await?;
    let mut request = http.post(&Message::new());
    request.body = body.to_vec();
    let answer = http.exchange(&request).await?;
    if answer.status == 400 {
        return Ok(());
    }
    let reply = answer.reply()?;
    ensure!(reply.is_bad_request(), "answered with {} instead of an error", reply.summary());
    Ok(())
}

async fn http_refuses_uids(cx: &Context) -> Verdict {
    let agent = cx.agent();
    for uid in [&agent.uid[..15], &[0; 17], &[]] {
        let message = agent.state(Message::new().bytes(1, uid).uint(2, 1));
        http_error(cx, message.encoded()).await.map_err(|stop| match stop {
            Stop::Fail(why) => Stop::Fail(format!("{} bytes: {why}", uid.len())),
            skip => skip,
        })?;
    }
    Ok(())
}

async fn http_refuses_garbage(cx: &Context) -> Verdict {
    http_error(cx, &GARBAGE[1..]).await
}

async fn http_ignores_unknown(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    no_error(&http.say(&with_unknown_fields(&mut agent)).await?)?;
    no_error(&http.say(&agent.config_status(&[1; 32], 99)).await?)
}

async fn has_no_empty_error(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    for reply in [first, socket.say(&agent.heartbeat()).await?] {
        ensure!(!reply.numbers.contains(&2), "error_response is set: {}", reply.summary());
    }
    Ok(())
}

/// An attribute for each kind of AnyValue.
pub fn every_value() -> Vec<Message> {
    use crate::conformance::agent::attribute;
    let list = Message::new().message(1, &Message::new().bytes(1, "a")).message(1, &Message::new().uint(3, 2));
    let pair = attribute("inner", &Message::new().bytes(1, "x"));
    vec![
        attribute("t.text", &Message::new().bytes(1, "Grüße")),
        attribute("t.bool", &Message::new().uint(2, 1)),
        attribute("t.int", &Message::new().uint(3, (-42i64) as u64)),
        attribute("t.double", &Message::new().fixed64(4, 1.5f64.to_bits())),
        attribute("t.list", &Message::new().message(5, &list)),
        attribute("t.map", &Message::new().message(6, &Message::new().message(1, &pair))),
        attribute("t.bytes", &Message::new().bytes(7, [0, 159, 146, 150])),
    ]
}

async fn takes_every_value(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    agent.extra = every_value();
    cx.online(&mut agent).await.map(|_| ())
}

async fn takes_deep_health(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let deep = (0..20).fold(health(true, "leaf"), |inner, _| health(true, "node").entry(6, "component", &inner));
    let mut socket = cx.connect().await?;
    let message = agent.heartbeat().message(3, &agent.description()).message(5, &deep);
    no_error(&socket.say(&message).await?)?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}
