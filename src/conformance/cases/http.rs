//! Plain HTTP: requests, answers, and what is refused.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, time::Instant};

use crate::conformance::{
    agent::Agent,
    case::{Stop, Verdict, cases, ensure, skip},
    context::{Context, no_error},
    http::{Http, Request},
    protobuf::Message,
    reply::capability,
};

cases! {
    "HTTP-01" Must Http "Plain HTTP Transport" "a status report is answered with status 200" is_answered_with_200;
    "HTTP-02" Must Http "Plain HTTP Transport" "an answer is a ServerToAgent, and not empty" is_not_empty;
    "HTTP-03" Field Http "Plain HTTP Transport" "an answer's Content-Type is application/x-protobuf without parameters"
        has_plain_content_type;
    "HTTP-04" Must Http "ServerToAgent.instance_uid" "an answer has the instance_uid of the request" echoes_uid;
    "HTTP-05" Must Http "ServerToAgent.capabilities" "an answer has the server's capabilities, with AcceptsStatus"
        has_capabilities;
    "HTTP-06" Should Http "Plain HTTP Transport" "the request's Content-Type may be written in any case"
        takes_any_case;
    "HTTP-07" Field Http "Plain HTTP Transport" "the request's Content-Type may have parameters" takes_parameters;
    "HTTP-08" Should Http "Plain HTTP Transport" "a POST of another Content-Type is not taken for a report"
        refuses_other_types;
    "HTTP-09" Should Http "Plain HTTP Transport" "a GET without an upgrade is refused with 4xx" refuses_plain_get;
    "HTTP-10" Field Http "RFC 9110, 15.5.6" "other methods are refused with 405 and Allow" refuses_other_methods;
    "HTTP-11" Field Http "Communication Model" "another path is not found" refuses_other_paths;
    "HTTP-12" Must Http "Retrying Messages" "a message that is sent twice is answered twice" answers_repeats;
    "HTTP-13" Field Http "Plain HTTP Transport" "the OpAMP-Instance-UID header is a hint: the message counts"
        header_is_a_hint;
    "HTTP-14" Field Http "Plain HTTP Transport" "several exchanges share one connection" keeps_the_connection;
    "HTTP-15" Field Http "Plain HTTP Transport" "answers come within one second" answers_in_time;
    "HTTP-16" Must Http "Plain HTTP Transport" "a poll with instance_uid alone is answered" answers_polls;
    "HTTP-17" Should Http "AgentToServer.agent_disconnect" "an agent_disconnect is answered, and the agent may return"
        takes_goodbyes;
    "HTTP-18" Must Http "Authentication" "a wrong token is refused with 401" refuses_wrong_tokens;
    "HTTP-19" Must Http "Authentication" "a request without credentials is refused with 401" refuses_strangers;
    "HTTP-20" Must Http "RFC 9110, 11.6.1" "a 401 has WWW-Authenticate" names_the_scheme;
    "HTTP-21" Field Http "Security" "headers that never end are given up" gives_up_slow_headers;
    "HTTP-22" Field Http "Security" "a body that never ends is given up" gives_up_slow_bodies;
    "HTTP-23" Must Http "RFC 9112, 2.2" "an answer to what is not HTTP is an error or the end" refuses_garbage;
    "HTTP-24" Field Http "Duplicate WebSocket Connections" "polls over changing connections never look like a duplicate"
        changing_connections_are_one_agent;
    "HTTP-25" Must Http "RFC 9112, 9.3.2" "requests that are sent at once are answered in their order" answers_in_order;
    "HTTP-26" Must Http "ServerToAgent.capabilities" "no bit that the specification does not define is set"
        sets_no_unknown_bits;
}

async fn started(cx: &Context) -> Result<(Http, Agent), Stop> {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    no_error(&http.say(&agent.full()).await?)?;
    Ok((http, agent))
}

async fn is_answered_with_200(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    let answer = http.exchange(&http.post(&cx.agent().full())).await?;
    ensure!(answer.status == 200, "status {} instead of 200", answer.status);
    Ok(())
}

async fn is_not_empty(cx: &Context) -> Verdict {
    let (mut http, mut agent) = started(cx).await?;
    let answer = http.exchange(&http.post(&agent.heartbeat())).await?;
    ensure!(!answer.body.is_empty(), "the answer to a heartbeat is empty");
    no_error(&answer.reply()?)
}

async fn has_plain_content_type(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    let answer = http.exchange(&http.post(&cx.agent().full())).await?;
    let found = answer.header("content-type");
    ensure!(found == Some("application/x-protobuf"), "Content-Type is {found:?}");
    Ok(())
}

async fn echoes_uid(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    for message in [agent.full(), agent.heartbeat()] {
        let reply = http.say(&message).await?;
        ensure!(reply.uid == agent.uid, "instance_uid is {}", hex::encode(reply.uid));
    }
    Ok(())
}

async fn has_capabilities(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    let reply = http.say(&agent.full()).await?;
    ensure!(reply.capabilities & capability::ACCEPTS_STATUS != 0, "capabilities are {:#x}", reply.capabilities);
    Ok(())
}

async fn sets_no_unknown_bits(cx: &Context) -> Verdict {
    let reply = cx.http().await?.say(&cx.agent().full()).await?;
    let unknown = reply.capabilities & !capability::ALL;
    ensure!(unknown == 0, "capabilities have the unknown bits {unknown:#x}");
    Ok(())
}

async fn takes_content_type(cx: &Context, value: &str) -> Verdict {
    let mut http = cx.http().await?;
    let request = http.post(&cx.agent().full()).header("Content-Type", value);
    no_error(&http.exchange(&request).await?.reply()?)
}

async fn takes_any_case(cx: &Context) -> Verdict {
    takes_content_type(cx, "Application/X-Protobuf").await
}

async fn takes_parameters(cx: &Context) -> Verdict {
    takes_content_type(cx, "application/x-protobuf; charset=utf-8").await
}

async fn refuses_other_types(cx: &Context) -> Verdict {
    for value in ["application/json", "text/plain", "application/x-protobuf2"] {
        let request = cx.http().await?.post(&cx.agent().full()).header("Content-Type", value);
        let status = cx.ask(&request).await?.status;
        ensure!((400..500).contains(&status), "a POST of {value} is answered with status {status}");
    }
    Ok(())
}

async fn refuses_plain_get(cx: &Context) -> Verdict {
    let status = cx.ask(&cx.request("GET").without("Content-Type")).await?.status;
    ensure!((400..500).contains(&status), "status {status}");
    Ok(())
}

async fn refuses_other_methods(cx: &Context) -> Verdict {
    for method in ["PUT", "DELETE", "PATCH"] {
        let request = Request { body: cx.agent().full().encoded().to_vec(), ..cx.request(method) };
        let answer = cx.ask(&request).await?;
        ensure!(answer.status == 405, "{method} is answered with status {}", answer.status);
        ensure!(answer.header("allow").is_some(), "the 405 to {method} has no Allow");
    }
    Ok(())
}

async fn refuses_other_paths(cx: &Context) -> Verdict {
    let mut request = cx.http().await?.post(&cx.agent().full());
    request.path = "/conformance/there-is-nothing-here".to_owned();
    let status = cx.ask(&request).await?.status;
    ensure!(status == 404, "status {status}");
    Ok(())
}

async fn answers_repeats(cx: &Context) -> Verdict {
    let (mut http, mut agent) = started(cx).await?;
    let message = agent.heartbeat();
    for _ in 0..2 {
        no_error(&http.say(&message).await?)?;
    }
    Ok(())
}

async fn header_is_a_hint(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    for value in ["f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "not a uuid"] {
        let request = http.post(&agent.full()).header("OpAMP-Instance-UID", value);
        let reply = http.exchange(&request).await?.reply()?;
        no_error(&reply)?;
        ensure!(reply.uid == agent.uid, "with the header {value:?} instance_uid is {}", hex::encode(&reply.uid));
    }
    Ok(())
}

async fn keeps_the_connection(cx: &Context) -> Verdict {
    let (mut http, mut agent) = started(cx).await?;
    for _ in 0..5 {
        no_error(&http.say(&agent.heartbeat()).await?)?;
    }
    Ok(())
}

/// The most that the slowest client of the field waits.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

async fn answers_in_time(cx: &Context) -> Verdict {
    let (mut http, mut agent) = (cx.http().await?, cx.agent());
    for number in 0..50 {
        let mut attempts_left = 3;
        // A machine with other work may be late once; a server that is slow is so again.
        loop {
            let message = if number % 10 == 0 { agent.full() } else { agent.heartbeat() };
            let sent = Instant::now();
            no_error(&http.say(&message).await?)?;
            let took = sent.elapsed();
            attempts_left -= 1;
            if took < ANSWER_LIMIT {
                break;
            }
            ensure!(
                attempts_left > 0,
                "the answer to message {number} took {took:?}, and longer than a second twice before"
            );
        }
    }
    Ok(())
}

async fn answers_polls(cx: &Context) -> Verdict {
    let (mut http, agent) = started(cx).await?;
    let reply = http.say(&Message::new().bytes(1, agent.uid)).await?;
    no_error(&reply)?;
    ensure!(reply.uid == agent.uid, "instance_uid is {}", hex::encode(reply.uid));
    Ok(())
}

async fn takes_goodbyes(cx: &Context) -> Verdict {
    let (mut http, mut agent) = started(cx).await?;
    no_error(&http.say(&agent.goodbye()).await?)?;
    no_error(&cx.http().await?.say(&agent.full()).await?)
}

/// The status of a report with this Authorization.
async fn status_with(cx: &Context, authorization: Option<&str>) -> Result<(u16, Option<String>), Stop> {
    let request = cx.http().await?.post(&cx.agent().full()).without("Authorization");
    let request = authorization.map_or(request.clone(), |value| request.header("Authorization", value));
    let answer = cx.ask(&request).await?;
    Ok((answer.status, answer.header("www-authenticate").map(str::to_owned)))
}

async fn refuses_wrong_tokens(cx: &Context) -> Verdict {
    if cx.world.token.is_none() && status_with(cx, None).await?.0 == 200 {
        skip!("the server takes agents without a token");
    }
    for value in ["Bearer not-the-token", "Bearer ", "Basic YTpi", "nonsense"] {
        let (status, _) = status_with(cx, Some(value)).await?;
        ensure!(status == 401, "{value:?} is answered with status {status}");
    }
    Ok(())
}

async fn refuses_strangers(cx: &Context) -> Verdict {
    let (status, _) = status_with(cx, None).await?;
    if status == 200 && cx.world.token.is_none() {
        skip!("the server takes agents without a token");
    }
    ensure!(status == 401, "status {status}");
    Ok(())
}

async fn names_the_scheme(cx: &Context) -> Verdict {
    let (status, scheme) = status_with(cx, None).await?;
    if status == 200 && cx.world.token.is_none() {
        skip!("the server takes agents without a token");
    }
    ensure!(scheme.is_some_and(|scheme| !scheme.is_empty()), "status {status} without WWW-Authenticate");
    Ok(())
}

/// Waits until the server answers with an error, or closes the connection.
async fn is_given_up(cx: &Context, http: &mut Http, what: &str) -> Verdict {
    http.patience = cx.long;
    match http.answer().await {
        Ok(answer) if (400..600).contains(&answer.status) => Ok(()),
        Ok(answer) => Err(Stop::Fail(format!("{what} are answered with status {}", answer.status))),
        Err(Stop::Fail(why)) if why.starts_with("no answer") => {
            Err(Stop::Fail(format!("{what} are waited for: {why}")))
        }
        Err(_) => Ok(()),
    }
}

async fn gives_up_slow_headers(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    let head = http.template.head();
    http.stream.write_all(&head[..head.len() - 4]).await?;
    is_given_up(cx, &mut http, "unfinished headers").await
}

async fn gives_up_slow_bodies(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    let message = cx.agent().full();
    let head = http.post(&message).head();
    http.stream.write_all(&head).await?;
    http.stream.write_all(&message.encoded()[..10]).await?;
    is_given_up(cx, &mut http, "unfinished bodies").await
}

async fn refuses_garbage(cx: &Context) -> Verdict {
    let mut http = cx.http().await?;
    match http.exchange_bytes(b"\x16\x03\x01 this is not HTTP at all\r\n\r\n", false).await {
        Ok(answer) if answer.status < 400 => Err(Stop::Fail(format!("status {}", answer.status))),
        Err(Stop::Fail(why)) if why.starts_with("no answer") => Err(Stop::Fail(why)),
        _ => started(cx).await.map(|_| ()),
    }
}

async fn changing_connections_are_one_agent(cx: &Context) -> Verdict {
    let (mut first, mut agent) = started(cx).await?;
    let mut second = cx.http().await?;
    for number in 0..6 {
        let http = if number % 2 == 0 { &mut second } else { &mut first };
        let reply = http.say(&agent.heartbeat()).await?;
        no_error(&reply)?;
        ensure!(reply.new_uid.is_none(), "poll {number} is answered with a new instance_uid");
    }
    Ok(())
}

async fn answers_in_order(cx: &Context) -> Verdict {
    let (mut http, agents) = (cx.http().await?, [cx.agent(), cx.agent(), cx.agent()]);
    let mut bytes = Vec::new();
    for mut agent in agents.clone() {
        let request = http.post(&agent.full());
        bytes.extend([request.head(), request.body].concat());
    }
    for (number, agent) in agents.iter().enumerate() {
        let answer = http.exchange_bytes(std::mem::take(&mut bytes).as_slice(), false).await?;
        let reply = answer.reply()?;
        ensure!(reply.uid == agent.uid, "answer {number} is for {}", hex::encode(reply.uid));
    }
    Ok(())
}
