//! What is sent to agents: replies and pushes, put together from the agent's state.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Shared,
    agents::{Echo, Entry, Link, Offer, Waiting},
    commands,
    connection::Connection,
    full_state::FullState,
    identity, offers,
    timers::Timer,
    websocket,
};
use crate::{
    model::InstanceUid,
    proto::opamp::{self, AgentIdentification, ServerErrorResponseType, ServerToAgentFlags},
    protocol::{frame, reply},
};

/// A ServerToAgent in two parts; the second is shared by all who are sent it.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub head: Bytes,
    pub tail: Option<Bytes>,
}

impl Reply {
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.as_ref().map_or(0, Bytes::len)
    }

    /// Uid, capabilities and what `fields` sets.
    fn with(shared: &Shared, echo: Echo, fields: opamp::ServerToAgent, tail: Option<Bytes>) -> Self {
        let identification = echo.new_uid.map(|uid| AgentIdentification { new_instance_uid: uid.to_bytes() });
        let fields =
            opamp::ServerToAgent { capabilities: capabilities(shared), agent_identification: identification, ..fields };
        Self { head: addressed(Some(echo.uid), &fields), tail }
    }

    /// Nothing to say.
    pub fn plain(shared: &Shared, echo: Echo) -> Self {
        Self::with(shared, echo, opamp::ServerToAgent::default(), None)
    }

    /// An error, which travels alone. Without a uid only if none is known.
    pub fn error(uid: Option<InstanceUid>, kind: ServerErrorResponseType, text: String, retry_ns: Option<u64>) -> Self {
        Self { head: addressed(uid, &reply::error(kind, text, retry_ns)), tail: None }
    }
}

/// What the server does, as each reply says it.
pub fn capabilities(shared: &Shared) -> u64 {
    reply::capabilities(shared.certificates.are_issued())
}

fn addressed(uid: Option<InstanceUid>, fields: &opamp::ServerToAgent) -> Bytes {
    use prost::Message;
    let mut head = BytesMut::with_capacity(reply::UID_FIELD_BYTES + fields.encoded_len());
    if let Some(uid) = uid {
        head.put_slice(&reply::uid_field(&uid));
    }
    fields.encode_raw(&mut head);
    head.freeze()
}

/// Whether there is something that the agent should be sent now.
fn has_news(shared: &Shared, entry: &Entry, now_ms: u64) -> bool {
    entry.rare.as_ref().is_some_and(|rare| {
        rare.full_state.is_due(now_ms)
            || rare.tells_custom_capabilities
            || rare.asks_components
            || rare.refusal.is_some()
            || rare.uid_is_due().is_some()
            || rare.offers.iter().any(|offer| shared.bodies.has(&offer.hash))
    })
}

/// What an agent is to be told.
#[derive(Debug, Default)]
struct News {
    /// By whom it has to be known that it has another uid.
    new_uid_for: Option<InstanceUid>,
    /// If it is asked for its full state: what was noted of that before.
    asks_full_state: Option<FullState>,
    asks_components: bool,
    custom_capabilities: Option<opamp::CustomCapabilities>,
    /// With the field that makes each, encoded.
    offers: Vec<(Offer, Bytes)>,
}

impl News {
    fn is_empty(&self) -> bool {
        self.new_uid_for.is_none()
            && self.asks_full_state.is_none()
            && !self.asks_components
            && self.custom_capabilities.is_none()
            && self.offers.is_empty()
    }

    /// To whom it is said, if not to who waits for a reply.
    fn echo(&self, uid: InstanceUid, owed: Option<Echo>) -> Echo {
        let echo = owed.unwrap_or(Echo { uid: self.new_uid_for.unwrap_or(uid), new_uid: None });
        Echo { new_uid: echo.new_uid.or(self.new_uid_for.map(|_| uid)), ..echo }
    }

    fn addressed(&self, shared: &Shared, echo: Echo) -> Reply {
        let flag = |is_set, flag: ServerToAgentFlags| if is_set { flag as u64 } else { 0 };
        let flags = flag(self.asks_full_state.is_some(), ServerToAgentFlags::ReportFullState)
            | flag(self.asks_components, ServerToAgentFlags::ReportAvailableComponents);
        let custom_capabilities = self.custom_capabilities.clone();
        let fields = opamp::ServerToAgent { flags, custom_capabilities, ..Default::default() };
        let Some(((_, tail), rest)) = self.offers.split_first() else { return Reply::with(shared, echo, fields, None) };
        let mut reply = Reply::with(shared, echo, fields, Some(tail.clone()));
        if !rest.is_empty() {
            // Seldom, and small beside a configuration, which is the first.
            let rest = rest.iter().map(|(_, field)| field);
            reply.head = std::iter::once(&reply.head).chain(rest).flatten().copied().collect::<Vec<u8>>().into();
        }
        reply
    }

    /// It could not be said: it stays to be told.
    fn put_back(self, entry: &mut Entry) {
        let Some(rare) = &mut entry.rare else { return };
        if let Some(before) = self.asks_full_state {
            rare.full_state = before;
        }
        rare.tells_uid_to = rare.tells_uid_to.or(self.new_uid_for);
        rare.asks_components |= self.asks_components;
        rare.tells_custom_capabilities |= self.custom_capabilities.is_some();
        rare.offers.extend(self.offers.into_iter().map(|(offer, _)| offer));
    }
}

/// Takes from the agent's entry what it is to be told: told once. Then [`note_sent`] is to be called, or [`News::put_back`].
fn take_news(shared: &Shared, entry: &mut Entry, now_ms: u64) -> News {
    let mut news = News::default();
    if let Some(rare) = &mut entry.rare {
        news.new_uid_for = rare.uid_is_due();
        if news.new_uid_for.is_some() {
            rare.tells_uid_to = None;
        }
        // What could not be kept is not asked for.
        // Not beside a new uid: opamp-go would have its answer ask for another.
        let is_asked = rare.full_state.is_due(now_ms) && news.new_uid_for.is_none();
        if is_asked && !shared.memory.is_scarce() && shared.full_state.try_take() {
            news.asks_full_state = Some(rare.full_state.clone());
            rare.full_state.asked(now_ms);
            shared.metrics.full_state_asks.increment(1);
        }
        news.asks_components = std::mem::take(&mut rare.asks_components);
        if std::mem::take(&mut rare.tells_custom_capabilities) {
            let capabilities = shared.config.custom_capabilities.clone();
            news.custom_capabilities = Some(opamp::CustomCapabilities { capabilities });
        }
        rare.offers.sort_unstable_by_key(|offer| offer.kind);
        let mut room = shared.config.max_sent_bytes.saturating_sub(offers::ENVELOPE_BYTES);
        rare.offers.retain(|offer| match shared.bodies.get(&offer.hash) {
            // What does not fit is sent by itself, a moment later.
            Some(field) if news.offers.is_empty() || field.len() <= room => {
                room = room.saturating_sub(field.len());
                news.offers.push((*offer, field));
                false
            }
            _ => true,
        });
    }
    news
}

/// A reply that says everything that the agent is to be told; or, over HTTP, takes along a command that waits.
pub fn compose(shared: &Shared, uid: InstanceUid, entry: &mut Entry, echo: Echo, now_ms: u64) -> Reply {
    if let Some(reply) = commands::for_poll(shared, entry, echo, now_ms) {
        return reply;
    }
    if let Some(refusal) = take_refusal(shared, entry, echo.uid) {
        return refusal;
    }
    let news = take_news(shared, entry, now_ms);
    note_sent(shared, uid, entry, &news);
    news.addressed(shared, news.echo(uid, Some(echo)))
}

/// What the agent asked for and is not to have: told once, and alone.
fn take_refusal(shared: &Shared, entry: &mut Entry, uid: InstanceUid) -> Option<Reply> {
    let text = entry.rare.as_mut()?.refusal.take()?;
    shared.metrics.bad_requests.increment(1);
    Some(Reply::error(Some(uid), ServerErrorResponseType::BadRequest, text.into(), None))
}

fn note_sent(shared: &Shared, uid: InstanceUid, entry: &mut Entry, news: &News) {
    if let Some(old) = &news.new_uid_for {
        identity::told(shared, &entry.link, old);
    }
    for (offer, _) in &news.offers {
        shared.metrics.offers_sent.increment(1);
        if entry.sent(*offer) {
            shared.outgoing.report(uid);
        }
    }
}

/// Replies over a WebSocket with what the agent is to be told.
pub fn tell(shared: &Shared, uid: InstanceUid, entry: &mut Entry, connection: &Connection, echo: Echo, now_ms: u64) {
    tell_if(shared, uid, entry, connection, Some(echo), now_ms);
}

/// Sends over a WebSocket what the agent is to be told; if no reply is owed, only if there is something (requests for full
/// state wait for their turn). What a slow peer has no room for stays to be told: the sweeper comes back to it.
fn tell_if(
    shared: &Shared,
    uid: InstanceUid,
    entry: &mut Entry,
    connection: &Connection,
    owed: Option<Echo>,
    now_ms: u64,
) {
    if let Some(refusal) = take_refusal(shared, entry, owed.map_or(uid, |echo| echo.uid)) {
        send(shared, connection, &refusal);
    }
    let news = take_news(shared, entry, now_ms);
    if owed.is_none() && news.is_empty() {
        return;
    }
    if send(shared, connection, &news.addressed(shared, news.echo(uid, owed))) {
        note_sent(shared, uid, entry, &news);
    } else {
        news.put_back(entry);
    }
}

/// Tells the agent what there is to tell: by the reply that is held back for it, if that is complete, or by a push. Over
/// HTTP without such a reply it waits for the next poll.
pub fn deliver(shared: &Shared, uid: InstanceUid, entry: &mut Entry, is_answered: bool, now_ms: u64) {
    let mut owed = None;
    if let Some(rare) = &mut entry.rare
        && rare.waiting.is_some()
    {
        let lacks_body = rare.offers.iter().any(|offer| !shared.bodies.has(&offer.hash));
        if !is_answered || lacks_body {
            return;
        }
        match rare.waiting.take() {
            Some(Waiting::WebSocket(echo)) => owed = Some(echo),
            Some(Waiting::Http(waiter)) => {
                let _ = waiter.send(uid);
                return;
            }
            None => return,
        }
    } else if !has_news(shared, entry, now_ms) {
        return;
    }
    if let Link::WebSocket(connection) = entry.link.clone() {
        tell_if(shared, uid, entry, &connection, owed, now_ms);
    }
}

/// Sees to it that the reply which is held back for the agent, if one is, is sent after a time even without a verdict. To be
/// called again when the agent's generation or uid changes, for the deadline names both.
pub fn limit_waiting(shared: &Shared, uid: InstanceUid, entry: &Entry) {
    if let Some(Waiting::WebSocket(_)) = entry.rare.as_ref().and_then(|rare| rare.waiting.as_ref()) {
        shared.timers.add(shared.config.verdict_wait, Timer::Reply { uid, generation: entry.generation });
    }
}

/// Answers a reply that is held back, with what there is.
pub fn answer_waiting(shared: &Shared, uid: InstanceUid, entry: &mut Entry, now_ms: u64) {
    let waiting = entry.rare.as_mut().and_then(|rare| rare.waiting.take());
    if let (Some(Waiting::WebSocket(echo)), Link::WebSocket(connection)) = (waiting, entry.link.clone()) {
        tell(shared, uid, entry, &connection, echo, now_ms);
    }
}

/// Sends a message over a WebSocket. Returns false if it was too big or the peer is too slow; the latter is found out by
/// the sweeper, the former logged here.
pub fn send(shared: &Shared, connection: &Connection, message: &Reply) -> bool {
    let payload_bytes = 1 + message.len();
    if payload_bytes > shared.config.max_sent_bytes {
        shared.metrics.oversize.increment(1);
        tracing::warn!(bytes = payload_bytes, "message not sent: it is over the size limit");
        return false;
    }
    let mut header = [0; websocket::MAX_SENT_HEADER_BYTES];
    let header_bytes = websocket::binary_header(payload_bytes, &mut header);
    let mut head = BytesMut::with_capacity(header_bytes + 1 + message.head.len());
    head.put_slice(&header[..header_bytes]);
    head.put_u8(frame::HEADER);
    head.put_slice(&message.head);
    shared.metrics.sent_bytes.increment(payload_bytes as u64);
    connection.outbox.try_send(head.freeze(), message.tail.clone(), shared.config.max_sent_bytes)
}
