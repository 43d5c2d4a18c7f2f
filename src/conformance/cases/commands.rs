//! Commands, and custom messages in both directions.

use crate::{
    admin_client::CustomMessages,
    conformance::{
        agent::{Agent, can},
        case::{Step, Verdict, cases, ensure},
        context::{Context, no_error},
        protobuf::{Fields, Message},
        reply::Reply,
        websocket::Socket,
    },
};

cases! {
    "CMD-01" Must WebSocket "ServerToAgent.command" "a restart reaches an agent that accepts it" restarts;
    "CMD-02" Must WebSocket "ServerToAgentCommand Message" "a restart travels alone" restart_travels_alone;
    "CMD-03" Field WebSocket "ServerToAgent.command" "a restart comes once" restarts_once;
    "CMD-04" Field WebSocket "ServerToAgent.command" "an agent that has restarted is not told again"
        restarts_once_over_connections;
    "CMD-05" Must WebSocket "AgentToServer.capabilities" "an agent that does not accept restarts is sent none"
        restarts_only_the_capable;
    "CMD-06" Must Http "Plain HTTP Transport" "a restart comes with the answer to a poll" restarts_by_poll;
    "CUST-01" Must WebSocket "CustomMessage" "a custom message reaches an agent that has its capability, as it was given"
        sends_messages;
    "CUST-02" Must WebSocket "CustomCapabilities" "an agent that has another capability is not sent it"
        sends_only_to_the_capable;
    "CUST-03" Must Http "Plain HTTP Transport" "a custom message comes with the answer to a poll" sends_by_poll;
    "CUST-04" Field WebSocket "CustomMessage" "a custom message comes once" sends_once;
    "CUST-05" Must WebSocket "Agent Status Compression" "custom capabilities that are left out are unchanged"
        remembers_capabilities;
    "CUST-06" Must WebSocket "Agent Status Compression" "custom capabilities that are empty replace" forgets_capabilities;
    "CUST-07" Must WebSocket "CustomMessage" "a custom message of an agent reaches the operator, as it was given"
        takes_messages;
    "CUST-08" Must Http "CustomMessage" "a custom message over plain HTTP reaches the operator" takes_messages_by_post;
    "CUST-09" Field Http "AgentToServer.sequence_num" "another custom message with the same sequence number is another"
        takes_messages_of_one_number;
    "CUST-10" Field WebSocket "AgentToServer.sequence_num" "a message that is sent again is not another custom message"
        takes_messages_once;
}

/// Waits until a message that is so comes, or until the server has had the time for it.
async fn comes(cx: &Context, socket: &mut Socket, is_so: impl Fn(&Reply) -> bool) -> Step<Option<Reply>> {
    let replies = socket.during(cx.quiet * 2).await?;
    Ok(replies.into_iter().find(is_so))
}

fn restart_agent(cx: &Context) -> Agent {
    cx.agent().with(can::REPORT | can::ACCEPT_RESTART)
}

/// An agent that the operator sees, and can command.
async fn seen(cx: &Context, agent: &mut Agent, message: &Message) -> Step<Socket> {
    cx.admin()?;
    let mut socket = cx.connect().await?;
    no_error(&socket.say(message).await?)?;
    cx.seen_as(&agent.uid, "it is connected", |state| state.is_connected).await?;
    Ok(socket)
}

async fn restarted(cx: &Context) -> Step<(Socket, Agent, Reply)> {
    let mut agent = restart_agent(cx);
    let full = agent.full();
    let mut socket = seen(cx, &mut agent, &full).await?;
    cx.restart(&agent.uid).await?;
    let command = socket.until("a command", |reply| reply.command.is_some()).await?;
    Ok((socket, agent, command))
}

async fn restarts(cx: &Context) -> Verdict {
    let (_, agent, reply) = restarted(cx).await?;
    ensure!(reply.uid == agent.uid, "the command is for {}", hex::encode(&reply.uid));
    let kind = reply.command.unwrap_or_default().uint(1)?;
    ensure!(kind == 0, "the command is {kind}, and not Restart");
    Ok(())
}

async fn restart_travels_alone(cx: &Context) -> Verdict {
    let (_, _, reply) = restarted(cx).await?;
    let others: Vec<u32> = reply.numbers.into_iter().filter(|number| ![1, 7, 9].contains(number)).collect();
    ensure!(others.is_empty(), "beside the command stand the fields {others:?}");
    Ok(())
}

async fn restarts_once(cx: &Context) -> Verdict {
    let (mut socket, mut agent, _) = restarted(cx).await?;
    for _ in 0..3 {
        let reply = socket.say(&agent.heartbeat()).await?;
        ensure!(reply.command.is_none(), "a heartbeat is answered with the command");
    }
    let again = comes(cx, &mut socket, |reply| reply.command.is_some()).await?;
    ensure!(again.is_none(), "the command comes again");
    Ok(())
}

async fn restarts_once_over_connections(cx: &Context) -> Verdict {
    let (socket, mut agent, _) = restarted(cx).await?;
    drop(socket);
    agent.next = 0;
    let (mut socket, reply) = cx.online(&mut agent).await?;
    ensure!(reply.command.is_none(), "the first reply has the command");
    let again = comes(cx, &mut socket, |reply| reply.command.is_some()).await?;
    ensure!(again.is_none(), "the command comes again");
    Ok(())
}

async fn restarts_only_the_capable(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let full = agent.full();
    let mut socket = seen(cx, &mut agent, &full).await?;
    // The server may say so to the operator as well.
    let _ = cx.restart(&agent.uid).await;
    let command = comes(cx, &mut socket, |reply| reply.command.is_some()).await?;
    ensure!(command.is_none(), "a command comes");
    Ok(())
}

/// Polls until there is something.
async fn polled(cx: &Context, agent: &mut Agent, message: &Message, is_so: fn(&Reply) -> bool) -> Step<Option<Reply>> {
    let mut http = cx.http().await?;
    no_error(&http.say(message).await?)?;
    cx.seen_as(&agent.uid, "it is connected", |state| state.is_connected).await?;
    if agent.capabilities & can::ACCEPT_RESTART != 0 {
        cx.restart(&agent.uid).await?;
    } else {
        cx.send_message(&agent.uid, CAPABILITY, DATA).await?;
    }
    for _ in 0..10 {
        let reply = http.say(&agent.heartbeat()).await?;
        if is_so(&reply) {
            return Ok(Some(reply));
        }
        tokio::time::sleep(cx.quiet / 5).await;
    }
    Ok(None)
}

async fn restarts_by_poll(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = restart_agent(cx);
    let full = agent.full();
    let reply = polled(cx, &mut agent, &full, |reply| reply.command.is_some()).await?;
    ensure!(reply.is_some(), "no poll is answered with the command");
    Ok(())
}

const CAPABILITY: &str = "org.example.conformance";
const DATA: &[u8] = &[0, 0xff, b'x'];

fn capabilities(names: &[&str]) -> Message {
    names.iter().fold(Message::new(), |message, name| message.bytes(1, name))
}

/// A full report of an agent with custom capabilities.
fn announcing(agent: &mut Agent, names: &[&str]) -> Message {
    agent.full().message(12, &capabilities(names))
}

fn has_message(reply: &Reply) -> bool {
    reply.custom_message.is_some()
}

fn is_as_given(message: &Fields) -> Verdict {
    let (capability, kind, data) = (message.text(1)?, message.text(2)?, message.bytes(3)?.unwrap_or_default());
    ensure!(
        (capability.as_str(), kind.as_str(), data) == (CAPABILITY, "hello", DATA),
        "it arrives as {capability:?}, {kind:?} and {}",
        hex::encode(data)
    );
    Ok(())
}

async fn sent(cx: &Context) -> Step<(Socket, Agent, Reply)> {
    let mut agent = cx.agent();
    let message = announcing(&mut agent, &["org.example.other", CAPABILITY]);
    let mut socket = seen(cx, &mut agent, &message).await?;
    cx.send_message(&agent.uid, CAPABILITY, DATA).await?;
    let reply = socket.until("a custom message", has_message).await?;
    Ok((socket, agent, reply))
}

async fn sends_messages(cx: &Context) -> Verdict {
    let (_, agent, reply) = sent(cx).await?;
    ensure!(reply.uid == agent.uid, "it is for {}", hex::encode(&reply.uid));
    is_as_given(&reply.custom_message.unwrap_or_default())
}

async fn sends_only_to_the_capable(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let message = announcing(&mut agent, &["org.example.other"]);
    let mut socket = seen(cx, &mut agent, &message).await?;
    // The server may say so to the operator as well.
    let _ = cx.send_message(&agent.uid, CAPABILITY, DATA).await;
    ensure!(comes(cx, &mut socket, has_message).await?.is_none(), "the custom message comes");
    Ok(())
}

async fn sends_by_poll(cx: &Context) -> Verdict {
    cx.admin()?;
    let mut agent = cx.agent();
    let message = announcing(&mut agent, &[CAPABILITY]);
    let reply = polled(cx, &mut agent, &message, has_message).await?;
    is_as_given(&reply.and_then(|reply| reply.custom_message).ok_or("no poll is answered with the custom message")?)
}

async fn sends_once(cx: &Context) -> Verdict {
    let (mut socket, mut agent, _) = sent(cx).await?;
    for _ in 0..3 {
        ensure!(!has_message(&socket.say(&agent.heartbeat()).await?), "a heartbeat is answered with it again");
    }
    ensure!(comes(cx, &mut socket, has_message).await?.is_none(), "it comes again");
    Ok(())
}

async fn remembers_capabilities(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let message = announcing(&mut agent, &[CAPABILITY]);
    let mut socket = seen(cx, &mut agent, &message).await?;
    for _ in 0..3 {
        no_error(&socket.say(&agent.heartbeat()).await?)?;
    }
    cx.send_message(&agent.uid, CAPABILITY, DATA).await?;
    socket.until("a custom message", has_message).await.map(|_| ())
}

async fn forgets_capabilities(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let message = announcing(&mut agent, &[CAPABILITY]);
    let mut socket = seen(cx, &mut agent, &message).await?;
    no_error(&socket.say(&agent.heartbeat().message(12, &Message::new())).await?)?;
    socket.during(cx.quiet / 2).await?;
    let _ = cx.send_message(&agent.uid, CAPABILITY, DATA).await;
    ensure!(comes(cx, &mut socket, has_message).await?.is_none(), "the custom message comes");
    Ok(())
}

/// A heartbeat with a custom message of a capability that no other case has.
fn saying(agent: &mut Agent, capability: &str) -> Message {
    saying_this(agent, capability, DATA)
}

fn saying_this(agent: &mut Agent, capability: &str, data: &[u8]) -> Message {
    let message = Message::new().bytes(1, capability).bytes(2, "hello").bytes(3, data);
    agent.heartbeat().message(12, &capabilities(&[capability])).message(13, &message)
}

fn is_heard_as_given(agent: &Agent, heard: &crate::admin_client::CustomMessage) -> Verdict {
    let uid = crate::conformance::agent::uid_text(&agent.uid);
    ensure!(heard.instance_uid == uid, "it is said to come from {}", heard.instance_uid);
    ensure!(
        (heard.kind.as_str(), heard.data.as_slice()) == ("hello", DATA),
        "it arrives as {:?} and {}",
        heard.kind,
        hex::encode(&heard.data)
    );
    Ok(())
}

async fn takes_messages(cx: &Context) -> Verdict {
    let capability = format!("org.example.{}", cx.mark);
    let mut messages = cx.messages(&capability).await?;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    for _ in 0..5 {
        // Each node learns of the operator's wish in its own time.
        no_error(&socket.say(&saying(&mut agent, &capability)).await?)?;
        if let Some(heard) = messages.next_within(cx.quiet).await.map_err(|error| error.to_string())? {
            return is_heard_as_given(&agent, &heard);
        }
    }
    Err("the operator hears nothing".into())
}

async fn takes_messages_by_post(cx: &Context) -> Verdict {
    let capability = format!("org.example.{}", cx.mark);
    let mut messages = cx.messages(&capability).await?;
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    no_error(&http.say(&agent.full()).await?)?;
    for _ in 0..5 {
        no_error(&http.say(&saying(&mut agent, &capability)).await?)?;
        if let Some(heard) = messages.next_within(cx.quiet).await.map_err(|error| error.to_string())? {
            return is_heard_as_given(&agent, &heard);
        }
    }
    Err("the operator hears nothing".into())
}

async fn heard(cx: &Context, messages: &mut CustomMessages) -> Step<Option<Vec<u8>>> {
    let heard = messages.next_within(cx.quiet).await.map_err(|error| error.to_string())?;
    Ok(heard.map(|message| message.data))
}

async fn takes_messages_of_one_number(cx: &Context) -> Verdict {
    let capability = format!("org.example.{}", cx.mark);
    let mut messages = cx.messages(&capability).await?;
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    no_error(&http.say(&agent.full()).await?)?;
    for _ in 0..5 {
        no_error(&http.say(&saying_this(&mut agent, &capability, b"first")).await?)?;
        // As clients do that count only what was answered.
        agent.next -= 1;
        no_error(&http.say(&saying_this(&mut agent, &capability, b"second")).await?)?;
        // Each node learns of the operator's wish in its own time.
        if heard(cx, &mut messages).await?.as_deref() == Some(b"first") {
            let second = heard(cx, &mut messages).await?;
            ensure!(second.as_deref() == Some(b"second"), "of two messages with one number the second is not heard");
            return Ok(());
        }
    }
    Err("the operator hears nothing".into())
}

async fn takes_messages_once(cx: &Context) -> Verdict {
    let capability = format!("org.example.{}", cx.mark);
    let mut messages = cx.messages(&capability).await?;
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    for _ in 0..5 {
        let message = saying_this(&mut agent, &capability, b"once");
        no_error(&socket.say(&message).await?)?;
        no_error(&socket.say(&message).await?)?;
        if heard(cx, &mut messages).await?.is_some() {
            ensure!(heard(cx, &mut messages).await?.is_none(), "a message that is sent again is heard twice");
            return Ok(());
        }
    }
    Err("the operator hears nothing".into())
}
