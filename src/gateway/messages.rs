//! Custom messages of agents, on their way to whoever watches. They are events: nobody repeats them, and of those that there
//! is no room for the number alone is told.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;

use super::Shared;
use crate::{
    bus::Topic,
    model::{InstanceUid, uid::stable_hash},
    proto::bus::{AgentMessage, AgentMessages},
};

/// Messages are gathered for this long.
const GATHER: Duration = Duration::from_millis(3);
/// A larger one is not passed on.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// What may wait for the bus, in bytes and messages.
const MAX_WAITING_BYTES: usize = 16 << 20;
const MAX_WAITING: usize = 16_384;
/// Beyond this a batch is published.
const MAX_BATCH_BYTES: usize = 512 << 10;
/// Agents whose last message is remembered; of more, those that sent theirs long ago are forgotten.
const MAX_LAST: usize = 65_536;

/// What waits for the next batch.
#[derive(Debug, Default)]
pub struct Messages {
    waiting: Mutex<Waiting>,
    last: Mutex<Last>,
    wake: Notify,
}

/// The last custom message of each agent that sends any: what was not answered in time is said again. By the sequence number it came
/// with and a digest of all that came with it, for there are clients whose numbers repeat.
#[derive(Debug, Default)]
struct Last {
    newer: HashMap<InstanceUid, Said>,
    older: HashMap<InstanceUid, Said>,
}

type Said = (u64, u64);

impl Last {
    fn replace(&mut self, uid: InstanceUid, said: Said) -> Option<Said> {
        if self.newer.len() >= MAX_LAST / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        let older = self.older.remove(&uid);
        self.newer.insert(uid, said).or(older)
    }
}

#[derive(Debug, Default)]
struct Waiting {
    messages: Vec<AgentMessage>,
    bytes: usize,
    lost: u64,
}

impl Messages {
    /// Takes an encoded CustomMessage.
    fn push(&self, uid: InstanceUid, message: &[u8]) -> bool {
        let mut waiting = self.waiting.lock();
        let is_room = message.len() <= MAX_MESSAGE_BYTES
            && waiting.messages.len() < MAX_WAITING
            && waiting.bytes + message.len() <= MAX_WAITING_BYTES;
        if is_room {
            waiting.bytes += message.len();
            let custom_message = Bytes::copy_from_slice(message);
            waiting.messages.push(AgentMessage { instance_uid: uid.to_bytes(), custom_message });
        } else {
            waiting.lost += 1;
        }
        drop(waiting);
        self.wake.notify_one();
        is_room
    }

    /// Whether this has been taken.
    fn is_repeat(&self, uid: InstanceUid, said: Said) -> bool {
        self.last.lock().replace(uid, said) == Some(said)
    }

    /// The agent has started afresh: what it says is new, also if it said the same when it started before.
    pub fn forget(&self, uid: &InstanceUid) {
        let mut last = self.last.lock();
        last.newer.remove(uid);
        last.older.remove(uid);
    }

    fn lost(&self, count: u64) {
        self.waiting.lock().lost += count;
        self.wake.notify_one();
    }

    fn take(&self) -> (Vec<AgentMessage>, u64) {
        let mut waiting = self.waiting.lock();
        waiting.bytes = 0;
        (std::mem::take(&mut waiting.messages), std::mem::take(&mut waiting.lost))
    }
}

/// Of one sender that it is not known yet who it is, so much is kept until it is.
const MAX_HELD: usize = 16;
const MAX_HELD_BYTES: usize = 64 << 10;

/// What an agent sent before it was known by which uid it goes.
#[derive(Debug, Default)]
pub struct Held {
    messages: Vec<(Said, Bytes)>,
    bytes: usize,
    lost: u64,
}

impl Held {
    /// As [`take`].
    pub fn push(&mut self, sequence_num: u64, payload: &[u8], message: Range<usize>) {
        let is_room = self.messages.len() < MAX_HELD && self.bytes + message.len() <= MAX_HELD_BYTES;
        if !is_room {
            self.lost += 1;
            return;
        }
        self.bytes += message.len();
        self.messages.push(((sequence_num, stable_hash(payload)), Bytes::copy_from_slice(&payload[message])));
    }

    /// The agent goes by this uid.
    pub fn settle(self, shared: &Shared, uid: InstanceUid) {
        if self.lost > 0 {
            shared.metrics.custom_messages_lost.increment(self.lost);
            shared.messages.lost(self.lost);
        }
        for (said, message) in self.messages {
            take_said(shared, uid, said, &message);
        }
    }
}

/// Takes the custom message of an agent, which is a part of this payload.
pub fn take(shared: &Shared, uid: InstanceUid, sequence_num: u64, payload: &[u8], message: Range<usize>) {
    take_said(shared, uid, (sequence_num, stable_hash(payload)), &payload[message]);
}

fn take_said(shared: &Shared, uid: InstanceUid, said: Said, message: &[u8]) {
    if shared.messages.is_repeat(uid, said) {
        return;
    }
    if shared.messages.push(uid, message) {
        shared.metrics.custom_messages.increment(1);
    } else {
        shared.metrics.custom_messages_lost.increment(1);
    }
}

/// Publishes what is gathered, for ever.
pub async fn run(shared: Arc<Shared>) {
    loop {
        shared.messages.wake.notified().await;
        tokio::time::sleep(GATHER).await;
        let (mut messages, mut lost) = shared.messages.take();
        while !messages.is_empty() || lost > 0 {
            let mut bytes = 0;
            let mut fits = |message: &AgentMessage| {
                bytes += message.custom_message.len();
                bytes <= MAX_BATCH_BYTES
            };
            let count = messages.iter().take_while(|message| fits(message)).count();
            let rest = messages.split_off(count.max(1).min(messages.len()));
            let batch = AgentMessages { messages, lost: std::mem::take(&mut lost) };
            if let Err(error) = shared.bus.publish(&Topic::AgentMessages, batch.encode_to_vec().into()).await {
                shared.metrics.custom_messages_lost.increment(batch.messages.len() as u64);
                tracing::debug!(%error, "custom messages not published");
            }
            messages = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_the_rest_is_counted() {
        let messages = Messages::default();
        let uid = InstanceUid::from_slice(&[1; 16]).unwrap();
        assert!(!messages.push(uid, &vec![0; MAX_MESSAGE_BYTES + 1]));
        let taken = (0..MAX_WAITING + 5).filter(|_| messages.push(uid, b"small")).count();
        assert_eq!(taken, MAX_WAITING);
        let (batch, lost) = messages.take();
        assert_eq!((batch.len(), lost), (MAX_WAITING, 6));
        let large = vec![0; MAX_MESSAGE_BYTES];
        assert_eq!((0..20).filter(|_| messages.push(uid, &large)).count(), 16);
        assert_eq!(messages.take().1, 4);
        assert!(messages.push(uid, &large), "what was taken makes room");
    }

    #[test]
    fn a_request_that_is_made_again_is_not_another_message() {
        let messages = Messages::default();
        let uid = InstanceUid::from_slice(&[1; 16]).unwrap();
        let said = [(1, 7), (1, 7), (2, 7), (2, 7), (2, 8), (1, 7)];
        assert_eq!(said.map(|said| messages.is_repeat(uid, said)), [false, true, false, true, false, false]);
        messages.forget(&uid);
        assert!(!messages.is_repeat(uid, (1, 7)));
    }

    #[test]
    fn who_sent_a_message_lately_is_remembered_and_no_more_than_so_many() {
        let mut last = Last::default();
        let uid = |n: usize| InstanceUid::from_slice(&(n as u128 + 1).to_be_bytes()).unwrap();
        for n in 0..3 * MAX_LAST {
            assert_eq!(last.replace(uid(n), (0, 0)), None);
            assert!(last.newer.len() + last.older.len() <= MAX_LAST);
            if let Some(before) = n.checked_sub(MAX_LAST / 2 - 1) {
                assert_eq!(last.newer.get(&uid(before)).or(last.older.get(&uid(before))), Some(&(0, 0)));
            }
        }
    }
}
