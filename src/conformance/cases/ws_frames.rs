//! WebSocket: frames, control frames, and violations of their rules.

use crate::conformance::{
    agent::Agent,
    case::{Step, Stop, Verdict, cases, ensure},
    context::{Context, no_error},
    protobuf::Message,
    websocket::{BINARY, CLOSE, CONTINUATION, Event, Frame, PING, PONG, Socket, TEXT, framed},
};

cases! {
    "FRAME-01" Must WebSocket "WebSocket Transport" "replies are binary frames" replies_in_binary;
    "FRAME-02" Must WebSocket "WebSocket Message Format" "replies begin with the header 0" replies_with_header;
    "FRAME-03" Must WebSocket "RFC 6455, 5.1" "the server's frames are not masked" does_not_mask;
    "FRAME-04" Must WebSocket "RFC 6455, 5.4" "a message in fragments is taken" takes_fragments;
    "FRAME-05" Must WebSocket "RFC 6455, 5.4" "a message in fragments of one byte, the last one empty, is taken"
        takes_tiny_fragments;
    "FRAME-06" Must WebSocket "RFC 6455, 5.4" "a ping between fragments is answered, and the message taken"
        takes_interleaved_pings;
    "FRAME-07" Must WebSocket "RFC 6455, 5.5.2" "a ping is answered by a pong with the same payload" answers_pings;
    "FRAME-08" Must WebSocket "RFC 6455, 5.5" "a ping of 125 bytes is answered" answers_long_pings;
    "FRAME-09" Must WebSocket "RFC 6455, 5.5.2" "a ping before the first message is answered" answers_early_pings;
    "FRAME-10" Must WebSocket "RFC 6455, 5.5.3" "a pong that nobody asked for is ignored" ignores_pongs;
    "FRAME-11" Must WebSocket "RFC 6455, 5.5.1" "a Close is answered with a Close" echoes_close;
    "FRAME-12" Must WebSocket "RFC 6455, 5.5.1" "a Close without a code is answered" echoes_bare_close;
    "FRAME-13" Should WebSocket "RFC 6455, 7.1.1" "after the Closes the server ends the TCP connection" ends_tcp;
    "FRAME-14" Must WebSocket "RFC 6455, 5.1" "a frame without a mask ends the connection" refuses_unmasked;
    "FRAME-15" Must WebSocket "RFC 6455, 5.2" "a reserved bit without an extension ends the connection" refuses_bits;
    "FRAME-16" Must WebSocket "RFC 6455, 5.2" "a reserved opcode ends the connection" refuses_opcodes;
    "FRAME-17" Must WebSocket "RFC 6455, 5.5" "a control frame in fragments ends the connection" refuses_pieces;
    "FRAME-18" Must WebSocket "RFC 6455, 5.5" "a control frame of 126 bytes ends the connection" refuses_long_pings;
    "FRAME-19" Must WebSocket "RFC 6455, 5.4" "a continuation of nothing ends the connection" refuses_continuation;
    "FRAME-20" Must WebSocket "RFC 6455, 5.4" "a new message within a fragmented one ends the connection"
        refuses_nesting;
    "FRAME-21" Must WebSocket "RFC 6455, 5.5.1" "a Close with half a code is a protocol error" refuses_half_codes;
    "FRAME-22" Must WebSocket "RFC 6455, 5.2" "a length with its highest bit set ends the connection" refuses_negative;
    "FRAME-23" Must WebSocket "WebSocket Message Size Limits" "a message beyond the limit ends the connection"
        refuses_large;
    "FRAME-24" Should WebSocket "WebSocket Message Size Limits" "a message beyond the limit is closed with 1009"
        closes_with_1009;
    "FRAME-25" Must WebSocket "WebSocket Message Size Limits" "the limit holds for the sum of fragments"
        refuses_large_sums;
    "FRAME-26" Field WebSocket "WebSocket Transport" "a text frame is survived" survives_text;
    "FRAME-27" Field WebSocket "WebSocket Transport" "a text frame is never answered in text" answers_no_text;
    "FRAME-28" Must WebSocket "WebSocket Transport" "several frames in one segment are all taken" takes_packed_frames;
    "FRAME-29" Must WebSocket "WebSocket Transport" "a frame that comes byte by byte is taken" takes_dribbled_frames;
    "FRAME-30" Must WebSocket "RFC 6455, 5.2" "lengths of each of the three forms are taken" takes_each_length;
}

async fn replies_in_binary(cx: &Context) -> Verdict {
    let mut socket = cx.connect().await?;
    socket.send(&cx.agent().full()).await?;
    let event = socket.event().await?;
    ensure!(matches!(event, Event::Binary(_)), "{event:?} instead of a binary frame");
    Ok(())
}

async fn replies_with_header(cx: &Context) -> Verdict {
    let (mut socket, mut agent) = (cx.connect().await?, cx.agent());
    for message in [agent.full(), agent.heartbeat()] {
        socket.send(&message).await?;
        let Event::Binary(bytes) = socket.event().await? else { return Err("no message".into()) };
        ensure!(bytes.first() == Some(&0), "the reply begins with {:?}", bytes.first());
    }
    Ok(())
}

async fn does_not_mask(cx: &Context) -> Verdict {
    // Every frame that is read is checked for it: a reply and a pong are.
    let (mut socket, _) = cx.online(&mut cx.agent()).await?;
    socket.send_frame(&Frame::new(PING, "x")).await?;
    socket.control().await.map(|_| ())
}

async fn takes_fragments(cx: &Context) -> Verdict {
    let mut socket = cx.connect().await?;
    let message = framed(&cx.agent().full());
    let (head, tail) = message.split_at(message.len() / 2);
    socket.send_frame(&Frame::fragment(BINARY, head)).await?;
    socket.send_frame(&Frame::new(CONTINUATION, tail)).await?;
    no_error(&socket.reply().await?)
}

async fn takes_tiny_fragments(cx: &Context) -> Verdict {
    let mut socket = cx.connect().await?;
    for (index, byte) in framed(&cx.agent().heartbeat()).iter().enumerate() {
        let opcode = if index == 0 { BINARY } else { CONTINUATION };
        socket.send_frame(&Frame::fragment(opcode, [*byte])).await?;
    }
    socket.send_frame(&Frame::new(CONTINUATION, [])).await?;
    no_error(&socket.reply().await?)
}

async fn takes_interleaved_pings(cx: &Context) -> Verdict {
    let mut socket = cx.connect().await?;
    let message = framed(&cx.agent().full());
    let (head, tail) = message.split_at(10);
    socket.send_frame(&Frame::fragment(BINARY, head)).await?;
    socket.send_frame(&Frame::new(PING, "between")).await?;
    ensure!(socket.event().await? == Event::Pong(b"between".to_vec()), "no pong between the fragments");
    socket.send_frame(&Frame::new(CONTINUATION, tail)).await?;
    no_error(&socket.reply().await?)
}

async fn answers_ping(socket: &mut Socket, payload: &[u8]) -> Verdict {
    socket.send_frame(&Frame::new(PING, payload)).await?;
    let event = socket.control().await?;
    ensure!(event == Event::Pong(payload.to_vec()), "the ping of {} bytes is answered with {event:?}", payload.len());
    Ok(())
}

async fn answers_pings(cx: &Context) -> Verdict {
    let (mut socket, _) = cx.online(&mut cx.agent()).await?;
    for payload in [&b""[..], b"\x00\xff are you there?"] {
        answers_ping(&mut socket, payload).await?;
    }
    Ok(())
}

async fn answers_long_pings(cx: &Context) -> Verdict {
    let (mut socket, _) = cx.online(&mut cx.agent()).await?;
    answers_ping(&mut socket, &[7; 125]).await
}

async fn answers_early_pings(cx: &Context) -> Verdict {
    answers_ping(&mut cx.connect().await?, b"early").await
}

async fn ignores_pongs(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    socket.send_frame(&Frame::new(PONG, "unasked")).await?;
    no_error(&socket.say(&agent.heartbeat()).await?)
}

async fn close_of(cx: &Context, payload: &[u8]) -> Step<(Socket, Event)> {
    let (mut socket, _) = cx.online(&mut cx.agent()).await?;
    socket.send_frame(&Frame::new(CLOSE, payload)).await?;
    let event = socket.control().await?;
    Ok((socket, event))
}

async fn echoes_close(cx: &Context) -> Verdict {
    let (_, event) = close_of(cx, &[0x03, 0xe8]).await?;
    ensure!(matches!(event, Event::Close(_)), "{event:?} instead of a Close");
    ensure!(
        event.close_code() == Some(1000),
        "the Close has code {:?}, not the 1000 of the agent's",
        event.close_code()
    );
    Ok(())
}

async fn echoes_bare_close(cx: &Context) -> Verdict {
    let (_, event) = close_of(cx, &[]).await?;
    ensure!(matches!(event, Event::Close(_)), "{event:?} instead of a Close");
    Ok(())
}

async fn ends_tcp(cx: &Context) -> Verdict {
    let (mut socket, _) = close_of(cx, &[0x03, 0xe8]).await?;
    loop {
        if socket.control().await? == Event::End {
            return Ok(());
        }
    }
}

/// Says what no client may say, and waits until the server fails the connection. Returns the code of its Close.
async fn is_failed(cx: &Context, bytes: &[u8]) -> Step<Option<u16>> {
    let (mut socket, _) = cx.online(&mut cx.agent()).await?;
    socket.send_unwelcome(bytes).await;
    let mut code = None;
    loop {
        match socket.control().await {
            Ok(Event::End) => return Ok(code),
            Ok(event @ Event::Close(_)) => {
                code = event.close_code();
                // As a good client does; the server may be gone.
                socket.send_unwelcome(&Frame::new(CLOSE, code.unwrap_or(1000).to_be_bytes()).encoded()).await;
            }
            Ok(_) => {}
            Err(Stop::Fail(why)) if why.starts_with("nothing within") => {
                return Err(Stop::Fail("the connection is kept".to_owned()));
            }
            Err(Stop::Fail(why)) if why.starts_with("the connection was lost") => return Ok(code),
            Err(stop) => return Err(stop),
        }
    }
}

async fn is_violation(cx: &Context, bytes: &[u8]) -> Verdict {
    let code = is_failed(cx, bytes).await?;
    ensure!(code.is_none_or(|code| code == 1002), "closed with code {code:?} instead of 1002");
    Ok(())
}

fn heartbeat(cx: &Context) -> Vec<u8> {
    framed(&cx.agent().heartbeat())
}

async fn refuses_unmasked(cx: &Context) -> Verdict {
    is_violation(cx, &Frame { is_masked: false, ..Frame::new(BINARY, heartbeat(cx)) }.encoded()).await
}

async fn refuses_bits(cx: &Context) -> Verdict {
    is_violation(cx, &Frame { reserved: 2, ..Frame::new(BINARY, heartbeat(cx)) }.encoded()).await
}

async fn refuses_opcodes(cx: &Context) -> Verdict {
    for opcode in [0x3, 0xb] {
        is_violation(cx, &Frame::new(opcode, "x").encoded()).await?;
    }
    Ok(())
}

async fn refuses_pieces(cx: &Context) -> Verdict {
    is_violation(cx, &Frame::fragment(PING, "x").encoded()).await
}

async fn refuses_long_pings(cx: &Context) -> Verdict {
    is_violation(cx, &Frame::new(PING, [0; 126]).encoded()).await
}

async fn refuses_continuation(cx: &Context) -> Verdict {
    is_violation(cx, &Frame::new(CONTINUATION, heartbeat(cx)).encoded()).await
}

async fn refuses_nesting(cx: &Context) -> Verdict {
    let message = heartbeat(cx);
    let bytes = [Frame::fragment(BINARY, message.clone()).encoded(), Frame::new(BINARY, message).encoded()].concat();
    is_violation(cx, &bytes).await
}

async fn refuses_half_codes(cx: &Context) -> Verdict {
    let code = is_failed(cx, &Frame::new(CLOSE, [3]).encoded()).await?;
    ensure!(code.is_none_or(|code| code == 1002), "closed with code {code:?} instead of 1002");
    Ok(())
}

async fn refuses_negative(cx: &Context) -> Verdict {
    let mut bytes = Frame::new(BINARY, []).header(u64::MAX);
    bytes.extend([0; 64]);
    is_failed(cx, &bytes).await.map(|_| ())
}

const TOO_LARGE_BYTES: usize = (64 << 20) + (1 << 20);

/// A valid message beyond the limit that the specification recommends.
fn too_large(cx: &Context) -> Vec<u8> {
    framed(&cx.agent().heartbeat().bytes(1_000, vec![0; TOO_LARGE_BYTES]))
}

async fn large(cx: &Context) -> Step<Option<u16>> {
    is_failed(cx, &Frame::new(BINARY, too_large(cx)).encoded()).await
}

async fn refuses_large(cx: &Context) -> Verdict {
    large(cx).await.map(|_| ())
}

async fn closes_with_1009(cx: &Context) -> Verdict {
    // The announcement is enough to know.
    let bytes = [Frame::new(BINARY, []).header(TOO_LARGE_BYTES as u64), vec![0; 1_000]].concat();
    let code = is_failed(cx, &bytes).await?;
    ensure!(code == Some(1009), "closed with code {code:?}");
    Ok(())
}

async fn refuses_large_sums(cx: &Context) -> Verdict {
    let message = too_large(cx);
    let mut bytes = Vec::with_capacity(message.len() + 1_024);
    for (index, piece) in message.chunks(1 << 20).enumerate() {
        let opcode = if index == 0 { BINARY } else { CONTINUATION };
        bytes.extend(Frame::fragment(opcode, piece).encoded());
    }
    bytes.extend(Frame::new(CONTINUATION, []).encoded());
    is_failed(cx, &bytes).await.map(|_| ())
}

async fn after_text(cx: &Context) -> Step<(Socket, Agent)> {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    socket.send_frame(&Frame::new(TEXT, "{\"hello\": true}")).await?;
    Ok((socket, agent))
}

async fn survives_text(cx: &Context) -> Verdict {
    let (mut socket, mut agent) = after_text(cx).await?;
    // It may be answered with an error, in binary.
    socket.send(&agent.heartbeat()).await?;
    loop {
        match socket.event().await? {
            Event::Binary(_) => return Ok(()),
            Event::Text(_) | Event::Ping(_) | Event::Pong(_) => {}
            gone => return Err(Stop::Fail(format!("after a text frame came {gone:?}"))),
        }
    }
}

async fn answers_no_text(cx: &Context) -> Verdict {
    let (mut socket, _) = after_text(cx).await?;
    if let Some(event) = socket.event_within(cx.quiet).await? {
        ensure!(!matches!(event, Event::Text(_)), "answered in text");
    }
    Ok(())
}

async fn takes_packed_frames(cx: &Context) -> Verdict {
    let (mut socket, mut agent) = (cx.connect().await?, cx.agent());
    let frames =
        [agent.full(), agent.heartbeat(), agent.heartbeat()].map(|it| Frame::new(BINARY, framed(&it)).encoded());
    socket.send_bytes(&frames.concat()).await?;
    for _ in 0..3 {
        no_error(&socket.reply().await?)?;
    }
    Ok(())
}

async fn takes_dribbled_frames(cx: &Context) -> Verdict {
    let mut socket = cx.connect().await?;
    for byte in Frame::new(BINARY, framed(&cx.agent().heartbeat())).encoded() {
        socket.send_bytes(&[byte]).await?;
        tokio::task::yield_now().await;
    }
    no_error(&socket.reply().await?)
}

async fn takes_each_length(cx: &Context) -> Verdict {
    let mut agent = cx.agent();
    let (mut socket, _) = cx.online(&mut agent).await?;
    // The unknown field pads the message into each form of the length.
    for bytes in [10, 200, 70_000] {
        let message: Message = agent.heartbeat().bytes(1_000, vec![0; bytes]);
        let padded = |stop| match stop {
            Stop::Fail(why) => Stop::Fail(format!("padded by {bytes} bytes: {why}")),
            skip => skip,
        };
        let reply = socket.say(&message).await.map_err(padded)?;
        no_error(&reply).map_err(padded)?;
    }
    Ok(())
}
