//! Agents that go on under another uid by the certificate of the one that they had: the config service is asked whether it is
//! the same agent, and what they say waits for the answer. (On the connection on which they were given it, the gateway knows.)

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    Shared,
    connection::Connection,
    memory::{Kept, Memory},
};
use crate::{model::InstanceUid, proto::bus::UidAnswer};

/// Agents of which that is known, or asked; beyond, none are taken.
const MAX_PAIRS: usize = 20_000;
/// Messages that wait for one answer, and messages of one connection that wait.
const MAX_WAITING: usize = 64;
/// An answer is believed for so long. The certificate may have been replaced since, but the config service refuses that one.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// Likewise, if it was no.
const DENIED_FOR: Duration = Duration::from_secs(5);

/// The agent of the certificate, and who speaks.
pub type Pair = (InstanceUid, InstanceUid);

#[derive(Debug, Default)]
pub struct Vouching(Mutex<HashMap<Pair, State>>);

#[derive(Debug)]
enum State {
    Asked(Vec<oneshot::Sender<()>>),
    Known { is_same_agent: bool, until_ms: u64 },
}

impl Vouching {
    /// Whether it is one agent, if that is known.
    pub fn get(&self, pair: Pair, now_ms: u64) -> Option<bool> {
        match self.0.lock().get(&pair) {
            Some(State::Known { is_same_agent, until_ms }) if now_ms < *until_ms => Some(*is_same_agent),
            _ => None,
        }
    }

    /// What ends when there is an answer, and whether to ask for it; `None` if too many wait.
    fn wait(&self, pair: Pair, now_ms: u64) -> Option<(oneshot::Receiver<()>, bool)> {
        let mut pairs = self.0.lock();
        if pairs.len() >= MAX_PAIRS {
            pairs.retain(|_, state| !matches!(state, State::Known { until_ms, .. } if now_ms >= *until_ms));
        }
        let (sender, receiver) = oneshot::channel();
        let has_room = pairs.len() < MAX_PAIRS;
        match pairs.get_mut(&pair) {
            Some(State::Asked(waiting)) if waiting.len() < MAX_WAITING => {
                waiting.push(sender);
                Some((receiver, false))
            }
            Some(State::Asked(_)) => None,
            None if !has_room => None,
            Some(State::Known { .. }) | None => {
                pairs.insert(pair, State::Asked(vec![sender]));
                Some((receiver, true))
            }
        }
    }

    /// There was no answer in time: the next message asks again.
    fn give_up(&self, pair: Pair) {
        let mut pairs = self.0.lock();
        if matches!(pairs.get(&pair), Some(State::Asked(_))) {
            pairs.remove(&pair);
        }
    }

    /// Only what was asked is taken.
    fn answered(&self, pair: Pair, is_same_agent: bool, now_ms: u64) {
        let mut pairs = self.0.lock();
        let Some(state @ State::Asked(_)) = pairs.get_mut(&pair) else { return };
        let known_for = if is_same_agent { KNOWN_FOR } else { DENIED_FOR };
        // Those who wait are woken by the end of their channel.
        *state = State::Known { is_same_agent, until_ms: now_ms + known_for.as_millis() as u64 };
    }
}

/// WebSocket messages that wait. Whatever comes on a connection after one that waits does so as well: they are taken in their order.
#[derive(Debug, Default)]
pub struct Held {
    by_connection: Mutex<HashMap<usize, Line>>,
    /// How many connections there are in it: mostly none.
    connections: AtomicUsize,
}

/// The messages of a connection, by its address: its own as long as the connection is here.
#[derive(Debug)]
struct Line {
    _connection: Arc<Connection>,
    messages: VecDeque<Kept>,
}

/// What became of a message that was to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It is the first of its connection: whoever has it held sees to it, and to those that come after it.
    First,
    Behind,
    /// Too much is held already.
    Refused,
}

impl Held {
    /// Whether a message of `connection` waits.
    pub fn has(&self, connection: &Arc<Connection>) -> bool {
        self.connections.load(Ordering::Acquire) > 0 && self.by_connection.lock().contains_key(&key(connection))
    }

    pub fn hold(&self, connection: &Arc<Connection>, message: &[u8], memory: &Memory) -> Hold {
        let mut kept = Kept::default();
        if memory.replace(&mut kept, message.to_vec()).is_err() {
            return Hold::Refused;
        }
        match self.by_connection.lock().entry(key(connection)) {
            Entry::Vacant(place) => {
                place.insert(Line { _connection: connection.clone(), messages: VecDeque::from([kept]) });
                self.connections.fetch_add(1, Ordering::Release);
                Hold::First
            }
            Entry::Occupied(place) if place.get().messages.len() >= MAX_WAITING => Hold::Refused,
            Entry::Occupied(mut place) => {
                place.get_mut().messages.push_back(kept);
                Hold::Behind
            }
        }
    }

    /// The next message of `connection`, once all before it have been taken; at the end, nothing of it waits any more.
    pub fn next(&self, connection: &Arc<Connection>) -> Option<Kept> {
        let mut by_connection = self.by_connection.lock();
        let next = by_connection.get_mut(&key(connection))?.messages.pop_front();
        if next.is_none() {
            by_connection.remove(&key(connection));
            self.connections.fetch_sub(1, Ordering::Release);
        }
        next
    }
}

fn key(connection: &Arc<Connection>) -> usize {
    Arc::as_ptr(connection) as usize
}

/// Asks, unless that is done already, and returns when there is an answer, or none in time.
pub async fn ask(shared: &Shared, pair: Pair) {
    let Some((answered, is_first)) = shared.vouching.wait(pair, shared.clock.now_ms()) else { return };
    if is_first {
        shared.outgoing.ask_about_uid(pair);
    }
    if tokio::time::timeout(shared.config.verdict_wait, answered).await.is_err() {
        shared.vouching.give_up(pair);
    }
}

pub fn take(shared: &Shared, answer: &UidAnswer) {
    let uids = (InstanceUid::from_slice(&answer.former_instance_uid), InstanceUid::from_slice(&answer.instance_uid));
    if let (Ok(former), Ok(uid)) = uids {
        shared.vouching.answered((former, uid), answer.is_same_agent, shared.clock.now_ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Pair {
        let uid = |n| InstanceUid::from_slice(&[n; 16]).unwrap();
        (uid(1), uid(2))
    }

    #[test]
    fn one_question_for_all_who_wait_and_an_answer_for_a_time() {
        let vouching = Vouching::default();
        assert_eq!(vouching.get(pair(), 0), None);
        let (mut first, is_first) = vouching.wait(pair(), 0).unwrap();
        assert!(is_first);
        assert!(!vouching.wait(pair(), 0).unwrap().1);
        assert!(first.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        vouching.answered(pair(), true, 0);
        assert!(first.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(vouching.get(pair(), 599_999), Some(true));
        assert_eq!(vouching.get(pair(), 600_000), None);
        assert!(vouching.wait(pair(), 600_000).unwrap().1, "asked again");
        vouching.answered(pair(), false, 600_000);
        assert_eq!((vouching.get(pair(), 604_999), vouching.get(pair(), 605_000)), (Some(false), None));
    }

    #[test]
    fn what_nobody_asked_is_not_taken_and_what_is_not_answered_is_asked_again() {
        let vouching = Vouching::default();
        vouching.answered(pair(), true, 0);
        assert_eq!(vouching.get(pair(), 0), None);
        let waiting = vouching.wait(pair(), 0).unwrap();
        vouching.give_up(pair());
        assert!(waiting.1 && vouching.wait(pair(), 0).unwrap().1);
        for _ in 1..MAX_WAITING {
            assert!(vouching.wait(pair(), 0).is_some());
        }
        assert!(vouching.wait(pair(), 0).is_none());
    }
}
