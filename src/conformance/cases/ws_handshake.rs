//! WebSocket: the upgrade.

use std::io::{Read, Write};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};

use crate::conformance::{
    case::{Step, Stop, Verdict, cases, ensure, skip},
    context::{Context, no_error},
    http::{Request, Response},
    reply::Reply,
    websocket::{BINARY, Event, Frame, Socket, accept_of, framed},
};

cases! {
    "WS-01" Must WebSocket "WebSocket Transport" "the upgrade is answered with 101 and the right Sec-WebSocket-Accept"
        upgrades;
    "WS-02" Must Both "Communication Model" "one URL serves both transports" serves_both;
    "WS-03" Must WebSocket "RFC 6455, 4.2.1" "Connection and Upgrade may be lists, in any case" takes_lists;
    "WS-04" Must WebSocket "RFC 6455, 4.4" "another WebSocket version is refused, and 13 named" refuses_versions;
    "WS-05" Must WebSocket "RFC 6455, 4.2.1" "an upgrade without a key is refused" refuses_missing_key;
    "WS-06" Must WebSocket "RFC 6455, 4.2.2" "no subprotocol or extension is chosen that was not offered"
        chooses_nothing;
    "WS-07" Should WebSocket "RFC 7692" "permessage-deflate is declined, or works" deflates_or_declines;
    "WS-08" Must WebSocket "Authentication" "an upgrade with a wrong token is refused with 401" refuses_wrong_tokens;
    "WS-09" Field WebSocket "Establishing Connection" "what was accepted is not closed at once" stays_open;
    "WS-10" Field WebSocket "Establishing Connection" "a socket outlives the time that its headers had" outlives_headers;
    "WS-11" Should WebSocket "Throttling" "a burst of upgrades is taken, or refused with 503 or 429 and Retry-After"
        takes_bursts;
    "WS-12" Field WebSocket "Security" "connections that say nothing do not keep others out" survives_silent_peers;
    "WS-13" Field WebSocket "Plain HTTP Transport" "an upgrade with another Content-Type is taken"
        takes_content_type;
}

async fn upgrades(cx: &Context) -> Verdict {
    let mut socket = cx.connect().await?;
    no_error(&socket.say(&cx.agent().full()).await?)
}

async fn serves_both(cx: &Context) -> Verdict {
    let (mut agent, mut other) = (cx.agent(), cx.agent());
    no_error(&cx.online(&mut agent).await?.1)?;
    no_error(&cx.http().await?.say(&other.full()).await?)
}

async fn takes_lists(cx: &Context) -> Verdict {
    let (request, key) = cx.upgrade();
    let request = request.header("Connection", "keep-alive, UPGRADE").header("Upgrade", "WebSocket");
    let mut socket = cx.connect_with(&cx.world.target, &request, &key).await?;
    no_error(&socket.say(&cx.agent().full()).await?)
}

async fn refuses_versions(cx: &Context) -> Verdict {
    let answer = cx.ask(&cx.upgrade().0.header("Sec-WebSocket-Version", "12")).await?;
    ensure!((400..500).contains(&answer.status), "status {}", answer.status);
    let named = answer.header("sec-websocket-version");
    ensure!(named == Some("13"), "status {} with Sec-WebSocket-Version {named:?}", answer.status);
    Ok(())
}

async fn refuses_missing_key(cx: &Context) -> Verdict {
    let answer = cx.ask(&cx.upgrade().0.without("Sec-WebSocket-Key")).await?;
    ensure!((400..500).contains(&answer.status), "status {}", answer.status);
    Ok(())
}

async fn handshake(cx: &Context, request: &Request, key: &str) -> Step<(Response, Socket)> {
    let mut http = cx.http().await?;
    let answer = http.exchange(request).await?;
    ensure!(answer.status == 101, "status {}", answer.status);
    ensure!(answer.header("sec-websocket-accept") == Some(&accept_of(key)), "Sec-WebSocket-Accept is wrong");
    Ok((answer, Socket { stream: http.stream, buffer: http.buffer, patience: cx.patience }))
}

async fn chooses_nothing(cx: &Context) -> Verdict {
    let (request, key) = cx.upgrade();
    let (answer, _) = handshake(cx, &request, &key).await?;
    for name in ["sec-websocket-protocol", "sec-websocket-extensions"] {
        ensure!(answer.header(name).is_none(), "{name}: {:?}", answer.header(name));
    }
    Ok(())
}

async fn deflates_or_declines(cx: &Context) -> Verdict {
    let (request, key) = cx.upgrade();
    let offer = "permessage-deflate; client_no_context_takeover; server_no_context_takeover";
    let (answer, mut socket) = handshake(cx, &request.header("Sec-WebSocket-Extensions", offer), &key).await?;
    let message = framed(&cx.agent().full());
    let Some(chosen) = answer.header("sec-websocket-extensions").map(str::to_owned) else {
        socket.send_frame(&Frame::new(BINARY, message)).await?;
        return no_error(&socket.reply().await?);
    };
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    let _ = encoder.write_all(&message);
    let _ = encoder.flush();
    let mut compressed = encoder.get_ref().clone();
    compressed.truncate(compressed.len().saturating_sub(4));
    socket.send_frame(&Frame { reserved: 4, ..Frame::new(BINARY, compressed) }).await?;
    let body = compressed_message(&mut socket).await.map_err(|stop| with(&chosen, stop))?;
    no_error(&Reply::read_framed(&body)?)
}

fn with(chosen: &str, stop: Stop) -> Stop {
    match stop {
        Stop::Fail(why) => Stop::Fail(format!("with {chosen:?} chosen: {why}")),
        skip => skip,
    }
}

/// The next message, which may be compressed: the only place where a reserved bit has a meaning.
async fn compressed_message(socket: &mut Socket) -> Step<Vec<u8>> {
    use tokio::io::AsyncReadExt;
    while socket.buffer.len() < 2 {
        if socket.stream.read_buf(&mut socket.buffer).await? == 0 {
            return Err("the server ends the connection".into());
        }
    }
    let is_compressed = socket.buffer[0] & 0x40 != 0;
    socket.buffer[0] &= !0x40;
    let Event::Binary(payload) = socket.event().await? else { return Err("no message".into()) };
    if !is_compressed {
        return Ok(payload);
    }
    let mut plain = Vec::new();
    let input = [payload.as_slice(), &[0, 0, 0xff, 0xff]].concat();
    // The stream has no end of its own.
    let _ = DeflateDecoder::new(input.as_slice()).read_to_end(&mut plain);
    Ok(plain)
}

async fn refuses_wrong_tokens(cx: &Context) -> Verdict {
    let stranger = cx.ask(&cx.upgrade().0.without("Authorization")).await?;
    if cx.world.token.is_none() && stranger.status == 101 {
        skip!("the server takes agents without a token");
    }
    ensure!(stranger.status == 401, "without a token: status {}", stranger.status);
    let status = cx.ask(&cx.upgrade().0.header("Authorization", "Bearer not-the-token")).await?.status;
    ensure!(status == 401, "with a wrong token: status {status}");
    Ok(())
}

async fn stays_open(cx: &Context) -> Verdict {
    let mut socket = cx.connect().await?;
    if let Some(event) = socket.event_within(cx.quiet).await? {
        ensure!(matches!(event, Event::Ping(_)), "before the agent said anything came {event:?}");
    }
    no_error(&socket.say(&cx.agent().full()).await?)
}

async fn outlives_headers(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    // Longer than most servers give a client for its headers.
    socket.during(cx.watch * 3).await?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}

async fn takes_bursts(cx: &Context) -> Verdict {
    const UPGRADES: usize = 50;
    let mut taken = Vec::new();
    for number in 0..UPGRADES {
        let mut http = cx.http().await?;
        let answer = http.exchange(&cx.upgrade().0).await?;
        match answer.status {
            101 => taken.push(http),
            503 | 429 => {
                let wait = answer.header("retry-after");
                ensure!(wait.is_some(), "upgrade {number} is refused with {} without Retry-After", answer.status);
            }
            other => return Err(Stop::Fail(format!("upgrade {number} is answered with status {other}"))),
        }
    }
    Ok(())
}

async fn survives_silent_peers(cx: &Context) -> Verdict {
    const PEERS: usize = 200;
    let mut silent = Vec::new();
    for _ in 0..PEERS {
        silent.push(cx.world.target.connect(cx.patience).await?);
    }
    cx.online(&mut cx.agent()).await.map(|_| ())
}

async fn takes_content_type(cx: &Context) -> Verdict {
    // The method and the upgrade say what it is.
    let (request, key) = cx.upgrade();
    let request = request.header("Content-Type", "application/octet-stream");
    let mut socket = cx.connect_with(&cx.world.target, &request, &key).await?;
    no_error(&socket.say(&cx.agent().full()).await?)
}
