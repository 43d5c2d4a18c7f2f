//! What the gateway knows of one agent, and what a message does to that. No I/O: time comes in as a parameter.
//!
//! Architecture invariant: an idle agent is an [`Entry`] and nothing else. Whatever is there only at times is behind
//! [`Entry::rare`], which is freed when nothing is left in it.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    commands::Queued,
    connection::Connection,
    contender::Contender,
    full_state::{Asked, FullState},
    memory::{Kept, Memory, NotKept},
};
use crate::{
    model::{ContentHash, InstanceUid, offer::capabilities_that_accept, policy::PolicyKind},
    proto::bus::{Opening, ending::Reason},
    protocol::{Incoming, merge},
    trace::Span,
};

/// An HTTP agent that polls more seldom counts as gone in between: it would seem connected for three times as long.
pub const LONGEST_INTERVAL_S: u32 = 900;
/// An HTTP agent is gone after so many of its intervals.
const SILENT_INTERVALS: u32 = 3;

/// How an agent is reached.
#[derive(Clone, Debug)]
pub enum Link {
    WebSocket(Arc<Connection>),
    /// With the reply to its next poll.
    Http,
    /// It left; what it said last is still being handed over.
    Gone {
        was_http: bool,
    },
}

impl Link {
    pub fn is(&self, connection: &Arc<Connection>) -> bool {
        matches!(self, Self::WebSocket(own) if Arc::ptr_eq(own, connection))
    }

    pub fn is_open_socket(&self) -> bool {
        matches!(self, Self::WebSocket(own) if own.outbox.is_open())
    }
}

#[derive(Debug)]
pub struct Entry {
    pub link: Link,
    pub generation: u64,
    /// Of the pending report, or else of the last one.
    pub report_number: u64,
    /// The newest report of this connection that had all that a full report says; 0 if none had.
    pub full_report_number: u32,
    pub sequence_num: u64,
    /// 0 while unknown: some clients leave them out after a reconnect.
    pub capabilities: u64,
    /// For each kind the desired-state generation of what was last offered on this connection; 0 if nothing was.
    pub offered: [u32; PolicyKind::ALL.len()],
    pub heard_s: u32,
    /// HTTP: the longest recent time between two polls, in seconds.
    pub interval_s: u16,
    /// HTTP: this connection began with the number with which the one before it ended.
    pub has_repeated: bool,
    /// Of the last [`FullState`].
    pub asked: Asked,
    pub rare: Option<Box<Rare>>,
}

/// What an agent has only at times.
#[derive(Debug, Default)]
pub struct Rare {
    pub pending: Option<Pending>,
    pub waiting: Option<Waiting>,
    pub full_state: FullState,
    /// Wanted by the config service, not sent yet: at most one of a kind.
    pub offers: Vec<Offer>,
    /// For this connection, not sent yet.
    pub commands: Vec<Queued>,
    /// The next message is to ask for the components that it is built from.
    pub asks_components: bool,
    /// The next message is to say which custom capabilities the server has.
    pub tells_custom_capabilities: bool,
    /// The next message is this BAD_REQUEST.
    pub refusal: Option<Box<str>>,
    /// Another connection that claims the same uid, while it is being found out which one is to have it.
    pub contender: Option<Box<Contender>>,
    /// The config service asked whether the agent still lives on its connection.
    pub probes: Vec<Probe>,
    /// The store knows of a connection with this generation instead. If the agent still lives on its own, that is announced anew.
    pub superseded_by: Option<u64>,
    /// The next message is to tell the agent its new uid, under the one that it speaks by; not before the store knows it.
    pub tells_uid_to: Option<InstanceUid>,
}

/// A question of the config service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub generation: u64,
    /// To whom the answer is of use: another connection that claims the uid, or the agent's state.
    pub newcomer: InstanceUid,
}

/// Something that the agent is to be offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub kind: PolicyKind,
    pub hash: ContentHash,
    /// Of the agent's desired state of this kind.
    pub generation: u32,
}

/// What was said and is not known to be durable.
#[derive(Debug, Default)]
pub struct Pending {
    /// An encoded AgentToServer: see [`merge::merge`].
    pub message: Kept,
    /// It has the agent's description: it is all that a full report would say.
    pub is_full: bool,
    pub last_seen_unix_ms: u64,
    pub opening: Option<Opening>,
    pub ending: Option<Reason>,
    /// Connection settings that were put on the agent's connection.
    pub sent_connection_settings: Option<ContentHash>,
    /// The uid by which the store may know the agent, and a digest of the message that asked for another.
    pub former: Option<InstanceUid>,
    pub uid_request: u64,
    /// When to publish it again, by the gateway's clock; 0 if it waits for its first publication.
    pub due_ms: u64,
    pub attempts: u8,
    /// From the message that began it to the verdict that it is stored; of few reports.
    pub span: Span,
}

/// A reply is owed; it is held back until the verdict is here or its time is over.
#[derive(Debug)]
pub enum Waiting {
    WebSocket(Echo),
    /// Woken with the uid under which the agent is known now.
    Http(oneshot::Sender<InstanceUid>),
}

/// To whom a reply is addressed, and whether to say that it has another uid from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    pub uid: InstanceUid,
    pub new_uid: Option<InstanceUid>,
}

/// What taking a message came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// There is something to publish.
    pub is_reported: bool,
    pub is_gap: bool,
}

/// When a message arrived.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the gateway's clock.
    pub ms: u64,
    pub unix_ms: u64,
}

impl Now {
    pub fn seconds(self) -> u32 {
        (self.ms / 1000) as u32 + 1
    }
}

impl Entry {
    pub fn new(link: Link, generation: u64) -> Self {
        Self {
            link,
            generation,
            report_number: 0,
            full_report_number: 0,
            sequence_num: 0,
            capabilities: 0,
            offered: Default::default(),
            heard_s: 0,
            interval_s: 0,
            has_repeated: false,
            asked: Asked::default(),
            rare: None,
        }
    }

    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub fn pending(&self) -> Option<&Pending> {
        self.rare.as_ref()?.pending.as_ref()
    }

    /// Frees [`Entry::rare`] if nothing is in it.
    pub fn tidy(&mut self, now_ms: u64) {
        if let Some(rare) = self.rare.take_if(|rare| rare.is_empty(now_ms))
            && rare.full_state.dropped() != Asked::default()
        {
            self.asked = rare.full_state.dropped();
        }
    }

    /// Whether `incoming` shows that an HTTP agent has started afresh, or that the reply to its last report never came: what
    /// it was sent may be lost, as with a connection. (A WebSocket that is lost is seen to be.)
    ///
    /// Some clients' numbers never move, and others' repeat at times: a repeat counts only where numbers begin, and once until
    /// the number has moved on.
    pub fn is_restart(&self, incoming: &Incoming) -> bool {
        let is_at_beginning = incoming.sequence_num <= 1 && !self.has_repeated;
        let is_repeat = incoming.is_full && incoming.sequence_num == self.sequence_num && is_at_beginning;
        matches!(self.link, Link::Http) && (incoming.sequence_num < self.sequence_num || is_repeat)
    }

    /// Whether an HTTP agent has not polled for three of its intervals.
    pub fn is_silent(&self, now_s: u32, least_interval_s: u32) -> bool {
        let interval_s = u32::from(self.interval_s).max(least_interval_s).max(1);
        matches!(self.link, Link::Http) && now_s.saturating_sub(self.heard_s) > SILENT_INTERVALS * interval_s
    }

    pub fn is_live(&self) -> bool {
        !matches!(self.link, Link::Gone { .. })
    }

    /// Whether it may be offered something of this kind, for all that is known here.
    pub fn accepts(&self, kind: PolicyKind) -> bool {
        self.capabilities == 0 || self.capabilities & capabilities_that_accept(kind) != 0
    }

    /// The number after which nothing is missing: what another gateway, or the next connection, is to continue from.
    pub fn durable_sequence_num(&self) -> u64 {
        let before_gap = self.rare.as_ref().and_then(|rare| rare.full_state.before_gap());
        before_gap.unwrap_or(self.sequence_num)
    }

    /// Begins a connection of which `first_sequence_num` is the first message's. What is pending goes along.
    pub fn open(&mut self, link: Link, generation: u64, first_sequence_num: u64, previous_sequence_num: Option<u64>) {
        self.link = link;
        self.has_repeated = self.generation != 0 && first_sequence_num == self.sequence_num;
        self.generation = generation;
        self.report_number = 0;
        self.full_report_number = 0;
        self.offered = Default::default();
        // Nothing is missing before the first message but what the config service finds out.
        self.sequence_num = first_sequence_num;
        if let Some(rare) = &mut self.rare {
            rare.full_state.reconnected();
            // They were for the connection before.
            rare.commands = Vec::new();
            rare.asks_components = false;
            rare.superseded_by = None;
        }
        let pending = self.rare().pending.get_or_insert_default();
        pending.opening = Some(Opening { first_sequence_num, previous_sequence_num, follows_another: false });
        pending.ending = None;
        pending.attempts = 0;
    }

    /// Takes a message of the established connection, and makes it the pending report if it says anything new.
    /// What there is no `memory` for is asked for again.
    pub fn take(&mut self, incoming: &Incoming, message: &[u8], now: Now, memory: &Memory) -> Taken {
        let is_gap = incoming.sequence_num != self.sequence_num
            && Some(incoming.sequence_num) != self.sequence_num.checked_add(1);
        let makes_good = self.makes_good(incoming);
        if makes_good {
            // Whatever was missed is in it.
            if let Some(rare) = &mut self.rare {
                rare.full_state.satisfied();
            }
        } else if is_gap {
            let (before_gap, asked) = (self.sequence_num, self.asked);
            let full_state = &mut self.rare().full_state;
            full_state.resume(asked);
            full_state.missed(before_gap);
        }
        if !is_gap {
            self.asked.followed();
        }
        self.has_repeated &= incoming.sequence_num == self.sequence_num;
        self.sequence_num = incoming.sequence_num;
        let has_new_capabilities = incoming.capabilities != 0 && incoming.capabilities != self.capabilities;
        if has_new_capabilities {
            self.capabilities = incoming.capabilities;
            self.withdraw_offers();
        }
        let is_opening = self.pending().is_some_and(|pending| pending.opening.is_some());
        self.heard(now.seconds());
        let says_something = incoming.has_status || has_new_capabilities || is_opening && self.report_number == 0;
        if !says_something {
            return Taken { is_reported: false, is_gap };
        }
        self.merge(message, incoming.is_full, now, memory);
        Taken { is_reported: true, is_gap: is_gap && !makes_good }
    }

    /// Whether a message has whatever was missed before it. A description alone has not: clients send that when it changes. As the
    /// answer to a request for everything it has, whatever is left out.
    fn makes_good(&self, incoming: &Incoming) -> bool {
        let capabilities = if incoming.capabilities == 0 { self.capabilities } else { incoming.capabilities };
        let is_asked = self.rare.as_ref().is_some_and(|rare| rare.full_state.is_outstanding());
        incoming.is_full && (is_asked || incoming.has_all_of(capabilities))
    }

    /// Of kinds that the agent does not accept any more. If it does again, it is offered them as if for the first time.
    fn withdraw_offers(&mut self) {
        for kind in PolicyKind::ALL {
            if self.accepts(kind) {
                continue;
            }
            self.offered[kind as usize] = 0;
            if let Some(rare) = &mut self.rare {
                rare.offers.retain(|offer| offer.kind != kind);
            }
        }
    }

    /// Something was put on the agent's connection. Returns whether the config service is to be told.
    pub fn sent(&mut self, offer: Offer) -> bool {
        self.offered[offer.kind as usize] = offer.generation;
        if offer.kind != PolicyKind::ConnectionSettings {
            return false;
        }
        self.report_number += 1;
        let pending = self.rare().pending.get_or_insert_default();
        pending.sent_connection_settings = Some(offer.hash);
        pending.due_ms = 0;
        pending.attempts = 0;
        true
    }

    /// The agent is known by `uid` from now on, in place of `former`.
    pub fn renamed(&mut self, former: InstanceUid, uid: InstanceUid, request: u64) {
        self.report_number += 1;
        let pending = self.rare().pending.get_or_insert_default();
        // Of several, the store knows the first, or what became of that.
        if pending.former.is_none_or(|first| first == uid) {
            pending.former = Some(former);
        }
        pending.uid_request = request;
        pending.due_ms = 0;
        pending.attempts = 0;
    }

    /// Makes `message` part of the pending report. If the whole grows too big, the newest is kept and the rest forgotten.
    pub fn merge(&mut self, message: &[u8], is_full: bool, now: Now, memory: &Memory) {
        self.report_number += 1;
        let before = self.sequence_num.saturating_sub(1);
        let rare = self.rare();
        let pending = rare.pending.get_or_insert_default();
        let merged = merge::merge(pending.message.message(), message);
        match memory.replace(&mut pending.message, merged) {
            Ok(()) => pending.is_full |= is_full,
            Err(problem) => {
                rare.full_state.missed(before);
                if problem == NotKept::TooBig {
                    pending.message = Kept::default();
                    let is_kept = memory.replace(&mut pending.message, merge::merge(&[], message)).is_ok();
                    pending.is_full = is_full && is_kept;
                }
            }
        }
        pending.last_seen_unix_ms = now.unix_ms;
        pending.due_ms = 0;
        pending.attempts = 0;
        if is_full && pending.is_full {
            self.full_report_number = u32::try_from(self.report_number).unwrap_or(u32::MAX);
        }
    }

    /// Takes over what is pending in `other`, an entry that this one has replaced: of both the later connection's numbers count.
    pub fn absorb(&mut self, mut other: Self, now: Now, memory: &Memory) {
        if other.generation > self.generation {
            std::mem::swap(self, &mut other);
        }
        let Some(rare) = other.rare.as_mut() else { return };
        let waiting = rare.waiting.take();
        let pending = rare.pending.take();
        if self.rare().waiting.is_none() {
            self.rare().waiting = waiting;
        }
        let Some(pending) = pending else { return };
        if let Some(hash) = pending.sent_connection_settings {
            self.rare().pending.get_or_insert_default().sent_connection_settings.get_or_insert(hash);
        }
        if let Some(former) = pending.former {
            let own = self.rare().pending.get_or_insert_default();
            if own.former.is_none() {
                (own.former, own.uid_request) = (Some(former), pending.uid_request);
            }
        }
        if pending.message.message().is_empty() {
            return;
        }
        // The later connection's message is the newer one.
        let newer = self.rare().pending.take().unwrap_or_default();
        self.merge(pending.message.message(), pending.is_full, now, memory);
        self.merge(newer.message.message(), newer.is_full, now, memory);
        let merged = self.rare().pending.get_or_insert_default();
        (merged.opening, merged.ending) = (newer.opening, newer.ending);
        merged.sent_connection_settings = newer.sent_connection_settings;
        (merged.former, merged.uid_request) = (newer.former, newer.uid_request);
    }

    fn heard(&mut self, now_s: u32) {
        if matches!(self.link, Link::Http) && self.heard_s != 0 {
            let gap = now_s.saturating_sub(self.heard_s).min(LONGEST_INTERVAL_S) as u16;
            self.interval_s = gap.max(self.interval_s - self.interval_s / 4);
        }
        self.heard_s = now_s;
    }

    /// The agent left. What is pending now also says so.
    pub fn end(&mut self, reason: Reason, now: Now) {
        if !self.is_live() {
            return;
        }
        self.link = Link::Gone { was_http: matches!(self.link, Link::Http) };
        self.report_number += 1;
        let last_seen_unix_ms = now.unix_ms.saturating_sub(now.ms.saturating_sub(u64::from(self.heard_s) * 1000));
        let rare = self.rare();
        rare.waiting = None;
        rare.offers = Vec::new();
        rare.commands = Vec::new();
        rare.tells_custom_capabilities = false;
        rare.asks_components = false;
        rare.refusal = None;
        rare.tells_uid_to = None;
        let pending = rare.pending.get_or_insert_default();
        pending.ending = Some(reason);
        pending.last_seen_unix_ms = pending.last_seen_unix_ms.max(last_seen_unix_ms);
        pending.due_ms = 0;
        pending.attempts = 0;
    }

    /// Takes the config service's word that everything up to `report_number` is durable. Returns whether nothing is
    /// pending any more because of it.
    pub fn acknowledged(&mut self, report_number: u64) -> bool {
        if report_number == 0 || report_number > self.report_number {
            return false;
        }
        let is_newest = report_number == self.report_number;
        let Some(pending) = self.rare.as_mut().and_then(|rare| rare.pending.as_mut()) else { return false };
        pending.opening = None;
        (pending.former, pending.uid_request) = (None, 0);
        if is_newest && let Some(rare) = &mut self.rare {
            rare.pending = None;
        }
        is_newest
    }

    /// Announces the connection again, because the store may have taken it for dead; or under a new generation, because the
    /// store has taken another for the agent's.
    pub fn reopen(&mut self, generation: u64, now: Now) {
        let follows_another = generation != self.generation;
        if follows_another {
            self.generation = generation;
            self.report_number = 0;
            self.full_report_number = 0;
        }
        self.report_number += 1;
        let sequence_num = self.durable_sequence_num();
        let opening =
            Opening { first_sequence_num: sequence_num, previous_sequence_num: Some(sequence_num), follows_another };
        let heard_s = self.heard_s;
        let rare = self.rare();
        if follows_another {
            rare.superseded_by = None;
        }
        let pending = rare.pending.get_or_insert_default();
        // One that is still waiting for its first verdict says more.
        pending.opening.get_or_insert(opening);
        let heard_unix_ms = now.unix_ms.saturating_sub(now.ms.saturating_sub(u64::from(heard_s) * 1000));
        pending.last_seen_unix_ms = pending.last_seen_unix_ms.max(heard_unix_ms);
        pending.due_ms = 0;
    }
}

impl Rare {
    /// To whom the agent's new uid is to be told now.
    pub fn uid_is_due(&self) -> Option<InstanceUid> {
        self.tells_uid_to.filter(|_| !self.awaits_uid())
    }

    /// Whether the store does not know yet, for all that is known here, by which uid the agent goes.
    pub fn awaits_uid(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.former.is_some())
    }

    fn is_empty(&self, now_ms: u64) -> bool {
        self.pending.is_none()
            && self.waiting.is_none()
            && self.offers.is_empty()
            && self.commands.is_empty()
            && !self.tells_custom_capabilities
            && !self.asks_components
            && self.refusal.is_none()
            && self.contender.is_none()
            && self.probes.is_empty()
            && self.superseded_by.is_none()
            && self.tells_uid_to.is_none()
            && self.full_state.is_idle(now_ms)
    }
}

#[cfg(test)]
#[path = "agents_tests.rs"]
mod tests;
