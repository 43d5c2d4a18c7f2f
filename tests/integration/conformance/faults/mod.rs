//! For each case a server that is broken so that this case fails.

mod certificates;
mod http;
mod messages;
mod offers;
mod operator;
mod websocket;

use bytes::Bytes;
use muster::proto::opamp::{
    AgentIdentification, AgentToServer, ServerErrorResponse, ServerErrorResponseType, ServerToAgent,
};
use prost::Message as _;

use super::proxy::{Act, BINARY, Fault, Frame, Link, Request, Response, Then};

/// How a server is broken, for one case.
pub struct Broken {
    pub case: &'static str,
    /// What the case says of it: one of these, parted by `|`.
    pub complaint: &'static str,
    pub fault: Fault,
}

pub fn all() -> Vec<Broken> {
    [http::table(), websocket::table(), messages::table(), operator::table(), offers::table(), certificates::table()]
        .into_iter()
        .flatten()
        .collect()
}

fn broken(case: &'static str, complaint: &'static str, fault: Fault) -> Broken {
    Broken { case, complaint, fault }
}

fn request(fault: impl Fn(&mut Request, &Link) -> Then + Send + Sync + 'static) -> Fault {
    Fault { request: Some(Box::new(fault)), ..Fault::default() }
}

/// Answers so the requests that are such.
fn answer(response: Response, such: impl Fn(&Request, &Link) -> bool + Send + Sync + 'static) -> Fault {
    request(move |request, link| if such(request, link) { Then::Answer(response.clone()) } else { Then::Forward })
}

fn status(status: u16, such: impl Fn(&Request, &Link) -> bool + Send + Sync + 'static) -> Fault {
    answer(Response::new(status), such)
}

fn response(fault: impl Fn(&Request, &mut Response) + Send + Sync + 'static) -> Fault {
    Fault { response: Some(Box::new(move |request, response, _| fault(request, response))), ..Fault::default() }
}

/// Spoils what the client sends over a WebSocket.
fn up(fault: impl Fn(&mut Frame, &Link) -> Act + Send + Sync + 'static) -> Fault {
    Fault { up: Some(Box::new(fault)), ..Fault::default() }
}

/// Does this to the frames that are such.
fn up_if(such: impl Fn(&Frame, &Link) -> bool + Send + Sync + 'static, act: fn() -> Act) -> Fault {
    up(move |frame, link| if such(frame, link) { act() } else { Act::Pass })
}

/// Spoils what the server sends over a WebSocket.
fn down(fault: impl Fn(&mut Frame, &Link) -> Act + Send + Sync + 'static) -> Fault {
    Fault { down: Some(Box::new(fault)), ..Fault::default() }
}

/// Takes connections, and says nothing on them.
pub fn mute() -> Fault {
    let never = |request: &mut Request, _: &Link| if request.is_upgrade() { Then::Forward } else { Then::Never };
    Fault { up: Some(Box::new(|_, _| Act::Drop)), ..request(never) }
}

fn message_frame(message: &ServerToAgent) -> Frame {
    Frame::new(BINARY, [&[0], &message.encode_to_vec()[..]].concat())
}

fn read(frame: &Frame) -> Option<ServerToAgent> {
    let payload = frame.payload.strip_prefix(&[0]).filter(|_| frame.is_message())?;
    ServerToAgent::decode(payload).ok()
}

/// Spoils the server's messages, over both transports.
fn reply(fault: impl Fn(&mut ServerToAgent, &Link) + Clone + Send + Sync + 'static) -> Fault {
    let over_http = fault.clone();
    Fault {
        response: Some(Box::new(move |_, response, link| {
            if response.status == 200
                && response.header("content-encoding").is_none()
                && let Ok(mut message) = ServerToAgent::decode(&response.body[..])
            {
                over_http(&mut message, link);
                response.body = message.encode_to_vec();
            }
        })),
        down: Some(Box::new(move |frame, link| {
            if let Some(mut message) = read(frame) {
                fault(&mut message, link);
                *frame = message_frame(&message);
            }
            Act::Pass
        })),
        ..Fault::default()
    }
}

/// Spoils the agent's messages, over both transports.
fn message(fault: impl Fn(&mut AgentToServer) + Clone + Send + Sync + 'static) -> Fault {
    let over_http = fault.clone();
    Fault {
        request: Some(Box::new(move |request, _| {
            if !request.body.is_empty()
                && request.header("content-encoding").is_none()
                && let Ok(mut message) = AgentToServer::decode(&request.body[..])
            {
                over_http(&mut message);
                request.body = message.encode_to_vec();
            }
            Then::Forward
        })),
        up: Some(Box::new(move |frame, _| {
            if frame.is_message()
                && let Some(payload) = frame.payload.strip_prefix(&[0])
                && let Ok(mut message) = AgentToServer::decode(payload)
            {
                fault(&mut message);
                frame.payload = [&[0], &message.encode_to_vec()[..]].concat();
            }
            Act::Pass
        })),
        ..Fault::default()
    }
}

/// Answers the messages over WebSocket that are such with an error.
fn refuse(such: impl Fn(&AgentToServer, &Frame) -> bool + Send + Sync + 'static) -> Fault {
    up(move |frame, link| {
        let said = link.last();
        if !frame.is_message() || !such(&said, frame) {
            return Act::Pass;
        }
        let error = ServerErrorResponse {
            r#type: ServerErrorResponseType::BadRequest as i32,
            error_message: "not that".into(),
            details: None,
        };
        let message =
            ServerToAgent { instance_uid: said.instance_uid, error_response: Some(error), ..Default::default() };
        Act::Send(message_frame(&message).encoded())
    })
}

fn other(bytes: &Bytes) -> Bytes {
    bytes.iter().enumerate().map(|(index, byte)| if index == 0 { byte ^ 0xff } else { *byte }).collect()
}

/// Errors are not told.
fn without_errors(message: &mut ServerToAgent, _: &Link) {
    message.error_response = None;
}

const REPORT_FULL_STATE: u64 = 1;
const REPORT_COMPONENTS: u64 = 2;

fn always_asks(message: &mut ServerToAgent, _: &Link) {
    if message.error_response.is_none() {
        message.flags |= REPORT_FULL_STATE;
    }
}

fn never_asks(message: &mut ServerToAgent, _: &Link) {
    message.flags &= !REPORT_FULL_STATE;
}

fn rekeys(message: &mut ServerToAgent, _: &Link) {
    message.agent_identification = Some(AgentIdentification { new_instance_uid: vec![7; 16].into() });
}

fn never_rekeys(message: &mut ServerToAgent, _: &Link) {
    message.agent_identification = None;
}

fn never_offers(message: &mut ServerToAgent, _: &Link) {
    message.remote_config = None;
}

/// What was offered to anybody is offered to everybody, again and again.
fn offers_for_ever(message: &mut ServerToAgent, link: &Link) {
    let mut sent = link.world.sent.lock();
    match &message.remote_config {
        Some(offer) => sent.remote_config = Some(offer.clone()),
        None => message.remote_config.clone_from(&sent.remote_config),
    }
}

/// Only at the second node.
fn at_second(fault: fn(&mut ServerToAgent, &Link)) -> Fault {
    reply(move |message, link| {
        if link.node == 1 {
            fault(message, link);
        }
    })
}
