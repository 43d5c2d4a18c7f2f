//! A connection that claims a uid which another one has: what it said is kept until it is known who is to have the uid.

use super::{
    Shared,
    agents::{Echo, Entry, Link, Waiting},
    exchange::{Origin, Outcome},
    memory::{Kept, Memory},
    messages, reply,
};
use crate::{
    model::InstanceUid,
    proto::bus::ending::Reason,
    protocol::{Incoming, merge},
};

#[derive(Debug)]
pub struct Contender {
    pub link: Link,
    pub generation: u64,
    pub first_sequence_num: u64,
    pub sequence_num: u64,
    pub capabilities: u64,
    pub message: Kept,
    /// Some of what it said could not be kept.
    pub has_missed: bool,
    pub is_full: bool,
    pub waiting: Option<Waiting>,
    pub has_left: bool,
    /// Custom messages, which are no state.
    pub said: messages::Held,
}

impl Contender {
    pub fn new(link: Link, generation: u64, first_sequence_num: u64) -> Self {
        Self {
            link,
            generation,
            first_sequence_num,
            sequence_num: first_sequence_num,
            capabilities: 0,
            message: Kept::default(),
            has_missed: false,
            is_full: false,
            waiting: None,
            has_left: false,
            said: messages::Held::default(),
        }
    }

    /// Takes a message; what there is no `memory` for is asked for once it is known who the sender is.
    pub fn take(&mut self, incoming: &Incoming, payload: &[u8], memory: &Memory) {
        self.sequence_num = incoming.sequence_num;
        let merged = merge::merge(self.message.message(), payload);
        match memory.replace(&mut self.message, merged) {
            Ok(()) => self.is_full |= incoming.is_full,
            Err(_) => self.has_missed = true,
        }
        if let Some(message) = incoming.custom_message.clone() {
            self.said.push(incoming.sequence_num, payload, message);
        }
        self.has_left = incoming.is_disconnect;
        if incoming.capabilities != 0 {
            self.capabilities = incoming.capabilities;
        }
    }

    pub fn hold(&mut self, uid: InstanceUid, origin: Origin<'_>, echo: Echo) -> Outcome {
        match origin {
            Origin::WebSocket(_) => {
                self.waiting = Some(Waiting::WebSocket(echo));
                Outcome::Settled
            }
            Origin::Http(_) => {
                let (sender, waiter) = tokio::sync::oneshot::channel();
                self.waiting = Some(Waiting::Http(sender));
                Outcome::HeldHttp { uid, echo, waiter }
            }
        }
    }

    pub fn is_here(&self) -> bool {
        match &self.link {
            Link::WebSocket(connection) => connection.outbox.is_open() && !self.has_left,
            Link::Http => !self.has_left,
            Link::Gone { .. } => false,
        }
    }

    /// Makes `entry` the contender's, with what it has said so far.
    pub fn settle(self, shared: &Shared, entry: &mut Entry, uid: InstanceUid, previous_sequence_num: Option<u64>) {
        let now = shared.now();
        let has_left = self.has_left;
        self.said.settle(shared, uid);
        entry.open(self.link, self.generation, self.first_sequence_num, previous_sequence_num);
        entry.sequence_num = self.sequence_num;
        entry.heard_s = now.seconds();
        if self.capabilities != 0 {
            entry.capabilities = self.capabilities;
        }
        if self.is_full {
            // Whatever was to be asked of the connection before is in it.
            entry.rare().full_state.satisfied();
        }
        if !shared.config.custom_capabilities.is_empty() {
            entry.rare().tells_custom_capabilities = true;
        }
        entry.merge(self.message.message(), self.is_full, now, &shared.memory);
        if self.has_missed {
            entry.rare().full_state.missed(self.first_sequence_num);
        }
        if let Some(waiting) = self.waiting {
            entry.rare().waiting = Some(waiting);
            reply::limit_waiting(shared, uid, entry);
        }
        if has_left {
            entry.end(Reason::AgentDisconnect, now);
        }
    }
}
