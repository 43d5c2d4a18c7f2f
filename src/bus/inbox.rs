//! The bounded queue between the bus and one subscriber.
//!
//! Architecture invariant: a slow subscriber costs itself messages (it is told by a `Gap`), never memory, and never
//! the others' time.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Event, Topic, metrics};

/// What one subscriber may leave unread.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A subscriber that is this many batches behind is seconds behind; what it missed is repeated anyway.
    pub messages: usize,
    /// Bounds memory where messages are large. One message is always taken, whatever its size.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages: 16_384, bytes: 64 << 20 }
    }
}

pub(super) struct Inbox {
    limits: Limits,
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    /// Sum of the queued payloads' lengths.
    bytes: usize,
    /// A `Gap` closes the queue: nothing is taken until the subscriber has read up to it.
    overflowed: bool,
}

impl Inbox {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), ready: Notify::new() }
    }

    pub(super) fn push(&self, topic: &Topic, payload: &Bytes) {
        {
            let mut state = self.state.lock();
            if state.overflowed {
                metrics::dropped(topic);
                return;
            }
            let is_full = state.events.len() >= self.limits.messages
                || (!state.events.is_empty() && state.bytes + payload.len() > self.limits.bytes);
            if is_full {
                state.overflowed = true;
                state.push_gap();
                metrics::dropped(topic);
                metrics::gap("slow_subscriber");
                tracing::warn!(%topic, waiting = state.events.len(), "a subscriber of the bus is too slow and misses messages");
            } else {
                state.bytes += payload.len();
                state.events.push_back(Event::Message { topic: topic.clone(), payload: payload.clone() });
            }
        }
        self.ready.notify_one();
    }

    /// Messages from here on follow an interval in which some may have been missed.
    pub(super) fn push_gap(&self) {
        self.state.lock().push_gap();
        self.ready.notify_one();
    }

    /// The next event. Cancel safe. For one reader.
    pub(super) async fn next(&self) -> Event {
        loop {
            if let Some(event) = self.state.lock().pop() {
                return event;
            }
            self.ready.notified().await;
        }
    }
}

impl State {
    /// Two gaps with nothing in between are one.
    fn push_gap(&mut self) {
        if self.events.back() != Some(&Event::Gap) {
            self.events.push_back(Event::Gap);
        }
    }

    fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        match &event {
            Event::Message { payload, .. } => self.bytes -= payload.len(),
            // An overflow's gap is the last of the queue; an earlier one must not open it again.
            Event::Gap => self.overflowed &= !self.events.is_empty(),
        }
        if self.events.is_empty() {
            // A burst's buffer is not kept for ever.
            self.events.shrink_to(KEPT_CAPACITY);
        }
        Some(event)
    }
}

/// Events of queue capacity that an idle subscriber keeps.
const KEPT_CAPACITY: usize = 64;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn push(inbox: &Inbox, text: &'static str) {
        inbox.push(&Topic::ConfigService, &Bytes::from_static(text.as_bytes()));
    }

    fn read(inbox: &Inbox) -> Option<String> {
        inbox.next().now_or_never().map(|event| match event {
            Event::Gap => "GAP".to_owned(),
            Event::Message { payload, .. } => String::from_utf8(payload.to_vec()).unwrap(),
        })
    }

    fn read_all(inbox: &Inbox) -> Vec<String> {
        std::iter::from_fn(|| read(inbox)).collect()
    }

    #[test]
    fn overflow_is_one_gap_where_messages_are_missing() {
        let inbox = Inbox::new(Limits { messages: 2, bytes: 100 });
        ["a", "b", "c", "d"].into_iter().for_each(|text| push(&inbox, text));
        assert_eq!(read(&inbox).as_deref(), Some("a"));
        push(&inbox, "e");
        assert_eq!(read_all(&inbox), ["b", "GAP"], "no message overtakes the gap");
        push(&inbox, "f");
        assert_eq!(read_all(&inbox), ["f"]);
    }

    #[test]
    fn bytes_are_bounded_and_one_large_message_passes() {
        let inbox = Inbox::new(Limits { messages: 10, bytes: 4 });
        push(&inbox, "larger than all");
        push(&inbox, "x");
        assert_eq!(read_all(&inbox), ["larger than all", "GAP"]);
        push(&inbox, "1234");
        assert_eq!(read_all(&inbox), ["1234"], "read bytes are free again");
    }

    #[test]
    fn an_earlier_gap_does_not_end_an_overflow() {
        let inbox = Inbox::new(Limits { messages: 3, bytes: 100 });
        inbox.push_gap();
        inbox.push_gap();
        ["a", "b", "c"].into_iter().for_each(|text| push(&inbox, text));
        assert_eq!(read(&inbox).as_deref(), Some("GAP"));
        push(&inbox, "d");
        assert_eq!(read_all(&inbox), ["a", "b", "GAP"]);
    }
}
