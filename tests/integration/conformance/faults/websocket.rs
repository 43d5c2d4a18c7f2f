//! Faults of WebSocket.

use std::time::Duration;

use super::{super::proxy::*, *};

fn is_fragment(frame: &Frame) -> bool {
    frame.first & 0x80 == 0
}

/// The server's Close has another code.
fn closes_with(code: u16) -> Fault {
    down(move |frame, _| {
        if frame.opcode() == CLOSE {
            frame.payload = code.to_be_bytes().to_vec();
        }
        Act::Pass
    })
}

fn keeps(such: impl Fn(&Frame) -> bool + Send + Sync + 'static) -> Fault {
    up_if(move |frame, _| such(frame), || Act::Drop)
}

fn ends(such: impl Fn(&Frame) -> bool + Send + Sync + 'static) -> Fault {
    up_if(move |frame, _| such(frame), || Act::End)
}

fn upgraded(fault: impl Fn(&mut Response) + Send + Sync + 'static) -> Fault {
    response(move |_, it| {
        if it.status == 101 {
            fault(it);
        }
    })
}

fn handshakes() -> Vec<Broken> {
    let b = broken;
    vec![
        b("WS-01", "Sec-WebSocket-Accept", upgraded(|it| it.set("sec-websocket-accept", "x"))),
        b("WS-02", "status 404", status(404, |it, _| !it.is_upgrade())),
        b("WS-03", "status 400", status(400, |it, _| it.header("connection") != Some("Upgrade"))),
        b("WS-04", "Sec-WebSocket-Version None", response(|_, it| it.remove("sec-websocket-version"))),
        b("WS-05", "status 101", status(101, |it, _| it.header("sec-websocket-key").is_none())),
        b("WS-06", "sec-websocket-protocol", upgraded(|it| it.set("sec-websocket-protocol", "opamp"))),
        b("WS-07", "permessage-deflate", upgraded(|it| it.set("sec-websocket-extensions", "permessage-deflate"))),
        b("WS-08", "status 403", response(|_, it| it.status = if it.status == 401 { 403 } else { it.status })),
        b(
            "WS-09",
            "before the agent said anything came End",
            Fault { idle_limit: Some(Duration::ZERO), ..Fault::default() },
        ),
        b("WS-10", "the end of the connection", Fault { idle_limit: Some(Duration::from_secs(1)), ..Fault::default() }),
        b("WS-11", "without Retry-After", status(503, |it, link| it.is_upgrade() && link.world.count("upgrades") > 20)),
        b("WS-12", "connection", Fault { max_connections: Some(100), ..Fault::default() }),
        b("WS-13", "status 415", status(415, |it, _| it.is_upgrade() && it.header("content-type").is_some())),
    ]
}

fn frames() -> Vec<Broken> {
    let b = broken;
    vec![
        b(
            "FRAME-01",
            "instead of a binary frame",
            down(|frame, _| {
                if frame.is_message() {
                    frame.first = 0x80 | TEXT;
                }
                Act::Pass
            }),
        ),
        b(
            "FRAME-02",
            "the reply begins with",
            down(|frame, _| {
                if frame.is_message() {
                    frame.payload.remove(0);
                }
                Act::Pass
            }),
        ),
        b(
            "FRAME-03",
            "masked frame",
            down(|frame, _| {
                frame.is_masked = true;
                Act::Pass
            }),
        ),
        b("FRAME-04", "the end of the connection", ends(is_fragment)),
        b("FRAME-05", "connection", ends(|frame| is_fragment(frame) && frame.payload.len() == 1)),
        b("FRAME-06", "no pong between", ends(|frame| frame.opcode() == PING)),
        b(
            "FRAME-07",
            "is answered with",
            down(|frame, _| {
                if frame.opcode() == PONG {
                    frame.payload.clear();
                }
                Act::Pass
            }),
        ),
        b(
            "FRAME-08",
            "125 bytes is answered with",
            down(|frame, _| {
                frame.payload.truncate(if frame.opcode() == PONG { 100 } else { usize::MAX });
                Act::Pass
            }),
        ),
        b(
            "FRAME-09",
            "nothing within",
            up_if(|frame, link| frame.opcode() == PING && link.last().instance_uid.is_empty(), || Act::Drop),
        ),
        b("FRAME-10", "connection", ends(|frame| frame.opcode() == PONG)),
        b("FRAME-11", "has code Some(1001)", closes_with(1001)),
        b(
            "FRAME-12",
            "End instead of a Close",
            down(|frame, _| if frame.opcode() == CLOSE { Act::Drop } else { Act::Pass }),
        ),
        b("FRAME-13", "nothing within", Fault { keeps_tcp: true, ..Fault::default() }),
        b(
            "FRAME-14",
            "the connection is kept",
            up(|frame, _| {
                frame.is_masked = true;
                Act::Pass
            }),
        ),
        b(
            "FRAME-15",
            "the connection is kept",
            up(|frame, _| {
                frame.first &= !0x70;
                Act::Pass
            }),
        ),
        b("FRAME-16", "the connection is kept", keeps(|frame| [0x3, 0xb].contains(&frame.opcode()))),
        b("FRAME-17", "the connection is kept", keeps(is_fragment)),
        b("FRAME-18", "the connection is kept", keeps(|frame| frame.opcode() == PING && frame.payload.len() > 125)),
        b(
            "FRAME-19",
            "the connection is kept",
            up(|frame, _| {
                if frame.opcode() == CONTINUATION {
                    frame.first = 0x80 | BINARY;
                }
                Act::Pass
            }),
        ),
        b("FRAME-20", "the connection is kept", keeps(is_fragment)),
        b("FRAME-21", "closed with code", closes_with(1000)),
        b("FRAME-22", "the connection is kept", Fault { drops_huge_frames: true, ..Fault::default() }),
        b("FRAME-23", "the connection is kept", Fault { drops_huge_frames: true, ..Fault::default() }),
        b("FRAME-24", "closed with code Some(1000)", closes_with(1000)),
        b("FRAME-25", "the connection is kept", keeps(|frame| is_fragment(frame) || frame.opcode() == CONTINUATION)),
        b("FRAME-26", "after a text frame came", ends(|frame| frame.opcode() == TEXT)),
        b(
            "FRAME-27",
            "answered in text",
            up(|frame, _| match frame.opcode() {
                TEXT => Act::Send(Frame::new(TEXT, "no").encoded()),
                _ => Act::Pass,
            }),
        ),
        b("FRAME-28", "no message within", up_if(|_, link| link.count("frames") == 2, || Act::Drop)),
        b("FRAME-29", "connection", Fault { needs_whole_frames: true, ..Fault::default() }),
        b("FRAME-30", "padded by 70000 bytes", ends(|frame| frame.payload.len() > 60_000)),
    ]
}

pub fn table() -> Vec<Broken> {
    handshakes().into_iter().chain(frames()).collect()
}
