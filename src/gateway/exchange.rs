//! One message of an agent: whose it is, what it changes, and the reply to it. Both transports meet in [`receive`].

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::oneshot;

use super::{
    Shared,
    agents::{Echo, Entry, Link, Now, Rare, Waiting},
    auth::Credential,
    certificates,
    connection::Connection,
    duplicates,
    identity::{self, Identity},
    messages,
    polls::Polls,
    reply::{self, Reply},
    spans,
    vouching::{self, Hold},
};
use crate::{
    model::InstanceUid,
    proto::{bus::ending::Reason, opamp::ServerErrorResponseType},
    protocol::{Incoming, fields, frame, message::tag},
};

/// Agents on one socket. A forwarding gateway in front of more opens another.
const MAX_AGENTS_PER_CONNECTION: usize = 16_384;

const UNVOUCHED: &str = "it is not known yet whose certificate this is";

/// Where a message came from.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    WebSocket(&'a Arc<Connection>),
    /// With what the request was let in by.
    Http(Option<&'a Credential>),
}

impl<'a> Origin<'a> {
    pub fn link(self) -> Link {
        match self {
            Self::WebSocket(connection) => Link::WebSocket(connection.clone()),
            Self::Http(_) => Link::Http,
        }
    }

    pub fn is(self, link: &Link) -> bool {
        match self {
            Self::WebSocket(connection) => link.is(connection),
            Self::Http(_) => matches!(link, Link::Http),
        }
    }

    pub fn credential(self) -> Option<&'a Credential> {
        match self {
            Self::WebSocket(connection) => connection.credential.as_deref(),
            Self::Http(credential) => credential,
        }
    }
}

pub enum Outcome {
    Reply(Reply),
    /// The message cannot be taken now, and the agent is to come back: told by UNAVAILABLE or, over HTTP, by the status.
    Unavailable {
        uid: InstanceUid,
        text: &'static str,
    },
    /// HTTP: the agent polls too often, and this is not taken.
    TooOften,
    /// The agent asks for a uid more often than there are any; likewise.
    NoMoreUids(InstanceUid),
    /// The agent's certificate has another uid. Whether that is the same agent's has to be asked for; it is to come back if
    /// there is no answer.
    Unvouched(vouching::Pair),
    /// WebSocket: the reply has been sent, or is when the verdict is here.
    Settled,
    /// HTTP: likewise. The agent is known by `uid` for now.
    HeldHttp {
        uid: InstanceUid,
        echo: Echo,
        waiter: oneshot::Receiver<InstanceUid>,
    },
}

/// Why a poll is not taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComeBackLater {
    /// There are too many agents.
    NoRoom,
    /// This agent has polled too often.
    TooOften,
    /// Too many uids are asked for.
    NoMoreUids,
}

/// Takes one WebSocket message. While the gateway leaves, one that comes after its own Close is taken too, though not replied
/// to: what it says is handed over, so that the next gateway finds nothing missing.
pub fn receive_websocket(shared: &Arc<Shared>, connection: &Arc<Connection>, message: &[u8]) {
    shared.metrics.websocket_messages.increment(1);
    if !connection.outbox.is_open() && !shared.is_draining.load(Ordering::Relaxed) {
        return;
    }
    let payload = frame::payload(message);
    if payload.is_empty()
        && let Some(uid) = connection.outbox.with_uids(|uids| uids.only())
    {
        reply::send(shared, connection, &Reply::plain(shared, Echo { uid, new_uid: None }));
        return;
    }
    if shared.held.has(connection) {
        return hold_unvouched(shared, connection, payload);
    }
    match receive(shared, Origin::WebSocket(connection), payload) {
        Outcome::Unvouched(_) => hold_unvouched(shared, connection, payload),
        outcome => answer_websocket(shared, connection, outcome),
    }
}

/// Has a message wait until it is known for whom the connection's agent may speak, or until those before it have been taken.
fn hold_unvouched(shared: &Arc<Shared>, connection: &Arc<Connection>, payload: &[u8]) {
    match shared.held.hold(connection, payload, &shared.memory) {
        Hold::Behind => {}
        Hold::Refused => {
            let uid = likely_uid(Origin::WebSocket(connection), payload);
            reply::send(shared, connection, &unavailable(shared, uid, UNVOUCHED));
        }
        Hold::First => {
            let (shared, connection) = (shared.clone(), connection.clone());
            tokio::spawn(async move {
                while let Some(kept) = shared.held.next(&connection) {
                    let mut outcome = receive(&shared, Origin::WebSocket(&connection), kept.message());
                    if let Outcome::Unvouched(pair) = outcome {
                        vouching::ask(&shared, pair).await;
                        outcome = receive(&shared, Origin::WebSocket(&connection), kept.message());
                    }
                    answer_websocket(&shared, &connection, outcome);
                }
            });
        }
    }
}

fn answer_websocket(shared: &Shared, connection: &Connection, outcome: Outcome) {
    let message = match outcome {
        Outcome::Reply(message) => message,
        Outcome::Unavailable { uid, text } => unavailable(shared, Some(uid), text),
        Outcome::NoMoreUids(uid) => unavailable(shared, Some(uid), "too many requests for an instance_uid"),
        Outcome::Unvouched((_, uid)) => unavailable(shared, Some(uid), UNVOUCHED),
        Outcome::Settled | Outcome::HeldHttp { .. } | Outcome::TooOften => return,
    };
    reply::send(shared, connection, &message);
}

fn unavailable(shared: &Shared, uid: Option<InstanceUid>, text: &str) -> Reply {
    let retry_ns = shared.config.retry_after_s() * 1_000_000_000;
    Reply::error(uid, ServerErrorResponseType::Unavailable, text.to_owned(), Some(retry_ns))
}

/// Answers a text frame, in binary.
pub fn refuse_text(shared: &Shared, connection: &Connection) {
    let uid = connection.outbox.with_uids(|uids| uids.only());
    reply::send(shared, connection, &bad_request(shared, uid, "OpAMP messages are binary frames".to_owned()));
}

/// Takes the message of an HTTP request, and waits shortly for its verdict. `hint` is the uid that the request's header
/// gives; clients differ in how they write it, so it is used only when the message has none.
pub async fn receive_http(
    shared: &Arc<Shared>,
    payload: &[u8],
    hint: Option<InstanceUid>,
    credential: Option<&Credential>,
) -> Result<Reply, ComeBackLater> {
    shared.metrics.http_messages.increment(1);
    let mut outcome = receive(shared, Origin::Http(credential), payload);
    if let Outcome::Unvouched(pair) = outcome {
        vouching::ask(shared, pair).await;
        outcome = receive(shared, Origin::Http(credential), payload);
    }
    let (mut uid, mut echo, waiter) = match outcome {
        Outcome::HeldHttp { uid, echo, waiter } => (uid, echo, waiter),
        Outcome::Unavailable { .. } | Outcome::Settled | Outcome::Unvouched(_) => return Err(ComeBackLater::NoRoom),
        Outcome::TooOften => return Err(ComeBackLater::TooOften),
        Outcome::NoMoreUids(_) => return Err(ComeBackLater::NoMoreUids),
        Outcome::Reply(reply) if reply.head.first() != Some(&UID_TAG) => {
            // An error without a uid.
            let uid_field = hint.map(|uid| crate::protocol::reply::uid_field(&uid));
            let head = [uid_field.as_ref().map_or(&[][..], |field| field), &reply.head].concat();
            return Ok(Reply { head: head.into(), tail: None });
        }
        Outcome::Reply(reply) => return Ok(reply),
    };
    match tokio::time::timeout(shared.config.verdict_wait, waiter).await {
        Ok(Ok(known)) if known != uid => {
            uid = known;
            echo.new_uid = Some(known);
        }
        Ok(Ok(_)) | Err(_) => {}
        // Another request of the same agent took its place.
        Ok(Err(_)) => return Ok(Reply::plain(shared, echo)),
    }
    let now_ms = shared.clock.now_ms();
    let agents = &mut *shared.registry.lock(&uid);
    Ok(match agents.entries.get_mut(&uid).filter(|entry| matches!(entry.link, Link::Http)) {
        Some(entry) => {
            if let Some(rare) = &mut entry.rare {
                rare.waiting = None;
            }
            let message = reply::compose(shared, uid, entry, echo, now_ms);
            shared.want_body(uid, entry);
            shared.registry.set_active(agents, &uid);
            message
        }
        None => Reply::plain(shared, echo),
    })
}

/// The first byte of a message that begins with `instance_uid`.
const UID_TAG: u8 = (tag::INSTANCE_UID as u8) << 3 | 2;

fn receive(shared: &Arc<Shared>, origin: Origin<'_>, payload: &[u8]) -> Outcome {
    let incoming = match Incoming::parse(payload) {
        Ok(incoming) => incoming,
        Err(error) => {
            let uid = likely_uid(origin, payload);
            tracing::debug!(agent = ?uid, %error, "bad request");
            return Outcome::Reply(bad_request(shared, uid, error.to_string()));
        }
    };
    if let Some(own) = identity::spoken_for(shared, origin, incoming.uid) {
        let pair = (own, incoming.uid);
        match shared.vouching.get(pair, shared.clock.now_ms()) {
            Some(true) => {}
            None => return Outcome::Unvouched(pair),
            Some(false) => {
                let text = format!("the certificate of this connection is that of the agent {own}");
                return Outcome::Reply(bad_request(shared, Some(incoming.uid), text));
            }
        }
    }
    if let Err(text) = certificates::check_request(&incoming, payload) {
        return Outcome::Reply(bad_request(shared, Some(incoming.uid), text));
    }
    let Some(sender) = identity::identify(shared, origin, &incoming, payload) else {
        return Outcome::NoMoreUids(incoming.uid);
    };
    let Identity { uid, echo, .. } = sender;
    let now = shared.now();
    let has_another_certificate = shared.certificates.is_another(uid, origin);
    let mut guard = shared.registry.lock(&uid);
    let agents = &mut *guard;
    let is_opening = match agents.entries.get_mut(&uid) {
        Some(entry) if polls_too_often(shared, entry, &mut agents.polls, uid, origin, now) => {
            if has_another_certificate {
                // That is noted when it is taken.
                shared.certificates.forget(&uid);
            }
            return Outcome::TooOften;
        }
        Some(entry) if origin.is(&entry.link) && !entry.is_restart(&incoming) && !has_another_certificate => false,
        Some(entry) if entry.link.is_open_socket() => {
            return duplicates::contend(shared, agents, uid, origin, echo, &incoming, payload);
        }
        Some(entry) => {
            if is_afresh(entry, origin, &incoming) {
                shared.messages.forget(&uid);
            }
            reopen(shared, entry, uid, origin, &incoming);
            true
        }
        None => {
            if !has_room(shared, origin) {
                return Outcome::Unavailable { uid: echo.uid, text: "too many agents" };
            }
            if incoming.sequence_num <= 1 {
                shared.messages.forget(&uid);
            }
            let mut entry = Box::new(Entry::new(origin.link(), 0));
            if matches!(origin, Origin::Http(_)) {
                entry.heard_s = shared.seldom.came_back(&uid);
            }
            entry.open(origin.link(), shared.registry.mint_generation(0), incoming.sequence_num, None);
            shared.registry.insert(agents, uid, entry);
            true
        }
    };
    if is_opening && let Origin::WebSocket(connection) = origin {
        connection.outbox.with_uids(|uids| uids.insert(uid));
    }
    let Some(entry) = agents.entries.get_mut(&uid) else { return Outcome::Reply(Reply::plain(shared, echo)) };
    let outcome = take(shared, entry, &sender, origin, &incoming, payload, now, is_opening);
    if entry.rare.is_some() {
        agents.active.insert(uid);
        if let Origin::WebSocket(connection) = origin {
            duplicates::agent_spoke(shared, guard, uid, connection);
        }
    }
    outcome
}

/// What a message of the established connection does, and the reply.
#[allow(clippy::too_many_arguments, reason = "one message's circumstances, passed on once")]
fn take(
    shared: &Shared,
    entry: &mut Entry,
    sender: &Identity,
    origin: Origin<'_>,
    incoming: &Incoming,
    payload: &[u8],
    now: Now,
    is_opening: bool,
) -> Outcome {
    let Identity { uid, echo, .. } = *sender;
    if let Some(message) = incoming.custom_message.clone() {
        messages::take(shared, uid, incoming.sequence_num, payload, message);
    }
    // An agent that has any may have use for the server's. A delta that opens a connection does not say whether it has.
    let may_have_custom = incoming.has_custom_capabilities || is_opening && !incoming.is_full;
    if may_have_custom && !shared.config.custom_capabilities.is_empty() {
        entry.rare().tells_custom_capabilities = true;
    }
    let taken = entry.take(incoming, payload, now, &shared.memory);
    let is_reported = sender.note(entry) || taken.is_reported;
    if taken.is_gap {
        shared.metrics.gaps.increment(1);
        tracing::debug!(agent = %uid, "sequence gap");
    }
    if incoming.is_disconnect {
        entry.end(Reason::AgentDisconnect, now);
        spans::reported(entry, uid, origin);
        if let Some(contender) = entry.rare.as_mut().and_then(|rare| rare.contender.take()) {
            duplicates::take_over(shared, entry, uid, *contender);
        }
        if let Origin::WebSocket(connection) = origin {
            connection.outbox.with_uids(|uids| uids.remove(&uid));
        }
        shared.outgoing.report(uid);
        return Outcome::Reply(Reply::plain(shared, echo));
    }
    if is_reported {
        spans::reported(entry, uid, origin);
        shared.outgoing.report(uid);
    } else {
        shared.metrics.heartbeats.increment(1);
    }
    let is_http = matches!(origin, Origin::Http(_));
    let waits = is_opening || is_http && is_reported || waits_for_uid(entry, sender, is_http);
    if waits && shared.bus.is_reachable() {
        return hold(shared, entry, uid, is_http, echo);
    }
    let outcome = match origin {
        Origin::WebSocket(connection) => {
            reply::tell(shared, uid, entry, connection, echo, now.ms);
            Outcome::Settled
        }
        Origin::Http(_) => Outcome::Reply(reply::compose(shared, uid, entry, echo, now.ms)),
    };
    shared.want_body(uid, entry);
    outcome
}

/// Whether the reply is to tell a uid that the store does not know yet.
fn waits_for_uid(entry: &Entry, sender: &Identity, is_http: bool) -> bool {
    let is_free = |rare: &Rare| is_http || rare.waiting.is_none();
    sender.request.is_some() && entry.rare.as_ref().is_some_and(|rare| rare.awaits_uid() && is_free(rare))
}

fn hold(shared: &Shared, entry: &mut Entry, uid: InstanceUid, is_http: bool, echo: Echo) -> Outcome {
    if is_http {
        let (sender, waiter) = oneshot::channel();
        entry.rare().waiting = Some(Waiting::Http(sender));
        return Outcome::HeldHttp { uid, echo, waiter };
    }
    entry.rare().waiting = Some(Waiting::WebSocket(echo));
    reply::limit_waiting(shared, uid, entry);
    Outcome::Settled
}

/// Whether the agent's client was made anew, so that it does not only say again what it said last: it counts from the beginning.
fn is_afresh(entry: &Entry, origin: Origin<'_>, incoming: &Incoming) -> bool {
    let may_be_again = matches!((origin, &entry.link), (Origin::Http(_), Link::Http));
    let is_again = may_be_again && incoming.sequence_num == entry.sequence_num;
    incoming.sequence_num <= 1 && !is_again
}

/// The agent comes back on another connection than the one it had, which is over.
fn reopen(shared: &Shared, entry: &mut Entry, uid: InstanceUid, origin: Origin<'_>, incoming: &Incoming) {
    if let Link::WebSocket(old) = &entry.link {
        old.outbox.with_uids(|uids| uids.remove(&uid));
    }
    let previous = entry.durable_sequence_num();
    let generation = shared.registry.mint_generation(entry.generation);
    entry.open(origin.link(), generation, incoming.sequence_num, Some(previous));
}

/// Whether an agent over HTTP says more in a second than it may, as clients in a loop do. (Those over WebSocket are read from
/// more slowly.)
fn polls_too_often(
    shared: &Shared,
    entry: &Entry,
    polls: &mut Polls,
    uid: InstanceUid,
    origin: Origin<'_>,
    now: Now,
) -> bool {
    let is_again = matches!((origin, &entry.link), (Origin::Http(_), Link::Http)) && entry.heard_s == now.seconds();
    is_again && polls.is_too_many(&uid, now.seconds(), shared.messages_per_second())
}

fn has_room(shared: &Shared, origin: Origin<'_>) -> bool {
    let on_connection = match origin {
        Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.len()),
        Origin::Http(_) => 0,
    };
    let has_memory = !shared.memory.is_scarce();
    has_memory && shared.registry.len() < shared.config.max_agents && on_connection < MAX_AGENTS_PER_CONNECTION
}

fn bad_request(shared: &Shared, uid: Option<InstanceUid>, text: String) -> Reply {
    shared.metrics.bad_requests.increment(1);
    Reply::error(uid, ServerErrorResponseType::BadRequest, text, None)
}

/// Whom to address in the answer to a message that cannot be read.
fn likely_uid(origin: Origin<'_>, payload: &[u8]) -> Option<InstanceUid> {
    let said = fields::fields(payload).map_while(Result::ok).find_map(|field| match field.value {
        fields::Value::Bytes(range) if field.number == tag::INSTANCE_UID => {
            InstanceUid::from_slice(&payload[range]).ok()
        }
        _ => None,
    });
    said.or_else(|| match origin {
        Origin::WebSocket(connection) => connection.outbox.with_uids(|uids| uids.only()),
        Origin::Http(_) => None,
    })
}
