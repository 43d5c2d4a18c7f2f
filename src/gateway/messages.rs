//! Custom messages of agents, on their way to whoever watches. They are events: nobody repeats them, and of those that there
//! is no room for the number alone is told.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;

use super::{Shared, agents::Link};
use crate::{
    bus::Topic,
    model::InstanceUid,
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
/// HTTP agents whose last message is remembered; beyond, all are forgotten.
const MAX_LAST: usize = 16_384;

/// What waits for the next batch.
#[derive(Debug, Default)]
pub struct Messages {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: Vec<AgentMessage>,
    bytes: usize,
    lost: u64,
    /// Of agents over HTTP, the sequence number that their last message came with: a request that was not answered in time
    /// is made again.
    last: HashMap<InstanceUid, u64>,
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

    /// Whether the message with this number has been taken.
    fn is_repeat(&self, uid: InstanceUid, sequence_num: u64) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.last.len() >= MAX_LAST {
            waiting.last.clear();
        }
        waiting.last.insert(uid, sequence_num) == Some(sequence_num)
    }

    fn take(&self) -> (Vec<AgentMessage>, u64) {
        let mut waiting = self.waiting.lock();
        waiting.bytes = 0;
        (std::mem::take(&mut waiting.messages), std::mem::take(&mut waiting.lost))
    }
}

/// Takes the custom message of an agent.
pub fn take(shared: &Shared, uid: InstanceUid, link: &Link, sequence_num: u64, message: &[u8]) {
    if matches!(link, Link::Http) && shared.messages.is_repeat(uid, sequence_num) {
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
        let repeats: Vec<bool> = [1, 1, 2, 2, 1].map(|number| messages.is_repeat(uid, number)).into();
        assert_eq!(repeats, [false, true, false, true, false]);
    }
}
