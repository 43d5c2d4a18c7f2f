//! Custom messages of agents, for those who watch.
//!
//! A watch takes from the bus whatever comes, at once, and keeps what matches for a client that is slow, up to a bound: what is
//! beyond it is dropped, and the client told. So neither the bus nor this process holds memory for it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{
    context::Context,
    errors, metrics,
    scan::Query,
    watch::{CONFIRM, MAX_WATCHES},
};
use crate::{
    auth::{Operator, operators::Refusal},
    bus::{Event, Subscription, Topic},
    model::{InstanceUid, Selector},
    proto::{
        admin::{AgentCustomMessage, MessagesLost, WatchMessagesResponse, watch_messages_response},
        bus::{AgentMessage, AgentMessages},
        opamp::CustomMessage,
    },
    store,
};

/// What is kept for a client that is slow, in messages and bytes.
const MAX_KEPT: usize = 2_048;
const MAX_KEPT_BYTES: usize = 8 << 20;
/// Whether an agent matches is looked up again after this long.
const REMEMBER: Duration = Duration::from_secs(10);
/// Agents of which that is remembered; beyond, all are forgotten.
const MAX_REMEMBERED: usize = 20_000;
/// A new agent's first message may be here before its record is stored: that is looked up again after so long,
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// and after this long the message is lost.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

type Responses = ReceiverStream<Result<WatchMessagesResponse, Status>>;

/// Starts a watch in a task of its own. Messages that are sent after this has returned are in it.
pub async fn start(
    context: Arc<Context>,
    capability: String,
    selector: Selector,
    operator: Operator,
) -> Result<Responses, Status> {
    let permit = context.watches.clone().try_acquire_owned().map_err(|_| too_many())?;
    let mut subscription = context.bus.subscribe();
    subscription.set_topics(vec![Topic::AgentMessages]).await;
    let (responses, receiver) = mpsc::channel(1);
    let query = Query { selector, connected: None, statuses: Vec::new() };
    let (kept, waiting, matching) = (Kept::default(), Waiting::default(), HashMap::new());
    let watch = Watch { context, capability, query, operator, kept, waiting, matching };
    tokio::spawn(watch.run(subscription, responses, permit));
    Ok(ReceiverStream::new(receiver))
}

pub fn too_many() -> Status {
    let problem = format!("{MAX_WATCHES} watches are open, which is as many as this server takes");
    errors::status(Code::ResourceExhausted, "TOO_MANY_WATCHES", problem, &[])
}

pub fn shutting_down() -> Status {
    errors::unavailable("SHUTTING_DOWN", "the server is shutting down")
}

struct Watch {
    context: Arc<Context>,
    /// Empty: all.
    capability: String,
    query: Query,
    operator: Operator,
    kept: Kept,
    waiting: Waiting,
    /// Whether an agent matches, `None` if there is no such agent, and when that was looked up.
    matching: HashMap<InstanceUid, (Option<bool>, Instant)>,
}

/// Messages of which it is not known yet whether they match, in the order in which they came, with the time until which they wait.
#[derive(Default)]
struct Waiting {
    messages: VecDeque<(InstanceUid, CustomMessage, Instant)>,
    bytes: usize,
}

impl Waiting {
    /// Returns whether there is room.
    fn push(&mut self, uid: InstanceUid, message: CustomMessage, until: Instant) -> bool {
        let bytes = message.encoded_len();
        let is_room = self.messages.len() < MAX_KEPT && self.bytes + bytes <= MAX_KEPT_BYTES;
        if is_room {
            self.bytes += bytes;
            self.messages.push_back((uid, message, until));
        }
        is_room
    }
}

impl Watch {
    async fn run(
        mut self,
        mut subscription: Box<dyn Subscription>,
        responses: mpsc::Sender<Result<WatchMessagesResponse, Status>>,
        _permit: OwnedSemaphorePermit,
    ) {
        let _guard = metrics::watch_opened();
        let mut confirm = tokio::time::interval(CONFIRM);
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        let end = loop {
            tokio::select! {
                () = responses.closed() => return,
                () = self.context.shutdown.cancelled() => break shutting_down(),
                room = responses.reserve(), if !self.kept.is_empty() => {
                    let Ok(room) = room else { return };
                    if let Some(event) = self.kept.pop() {
                        room.send(Ok(WatchMessagesResponse { event: Some(event) }));
                    }
                }
                event = subscription.next() => self.take(event).await,
                _ = look_again.tick(), if !self.waiting.messages.is_empty() => self.settle(Vec::new()).await,
                _ = confirm.tick() => {
                    if let Err(refusal @ Refusal::Invalid) = self.context.operators.confirm(&self.operator).await {
                        break errors::status(Code::Unauthenticated, "TOKEN_INVALID", refusal.to_string(), &[]);
                    }
                }
            }
        };
        // Who reads is told, and who does not is not waited for.
        let _ = responses.try_send(Err(end));
    }

    async fn take(&mut self, event: Event) {
        let batch = match event {
            Event::Message { payload, .. } => AgentMessages::decode(payload).unwrap_or_default(),
            Event::Gap => return self.kept.lost(None),
        };
        if batch.lost > 0 {
            self.kept.lost(Some(batch.lost));
        }
        let of_capability = |message: AgentMessage| {
            let uid = InstanceUid::from_slice(&message.instance_uid).ok()?;
            let message = CustomMessage::decode(message.custom_message).ok()?;
            (self.capability.is_empty() || message.capability == self.capability).then_some((uid, message))
        };
        let messages: Vec<_> = batch.messages.into_iter().filter_map(of_capability).collect();
        if self.query.selector.matches_everything() {
            messages.into_iter().for_each(|(uid, message)| self.kept.push(uid, message));
            return;
        }
        self.settle(messages).await;
    }

    /// Passes on what matches of those that wait and of these, which came after them.
    async fn settle(&mut self, messages: Vec<(InstanceUid, CustomMessage)>) {
        let now = Instant::now();
        let waiting = std::mem::take(&mut self.waiting).messages;
        let new = messages.into_iter().map(|(uid, message)| (uid, message, now + UNKNOWN_FOR));
        let messages: Vec<_> = waiting.into_iter().chain(new).collect();
        if let Err(error) = self.look_up(messages.iter().map(|(uid, ..)| *uid).collect()).await {
            tracing::debug!(%error, "it is not known whose custom messages these are");
            return self.kept.lost(Some(messages.len() as u64));
        }
        for (uid, message, until) in messages {
            match self.matching.get(&uid).and_then(|(matches, _)| *matches) {
                Some(true) => self.kept.push(uid, message),
                Some(false) => {}
                None if now < until && self.waiting.push(uid, message, until) => {}
                None => self.kept.lost(Some(1)),
            }
        }
    }

    /// Sees to it that of each of `uids` it is known whether the agent matches.
    async fn look_up(&mut self, uids: HashSet<InstanceUid>) -> store::Result<()> {
        let now = Instant::now();
        if self.matching.len() >= MAX_REMEMBERED {
            self.matching.clear();
        }
        let is_known = |uid: &InstanceUid| {
            let known = self.matching.get(uid);
            known.is_some_and(|(matches, at)| now < *at + if matches.is_some() { REMEMBER } else { LOOK_AGAIN })
        };
        let unknown: Vec<InstanceUid> = uids.into_iter().filter(|uid| !is_known(uid)).collect();
        for uids in unknown.chunks(store::MAX_BATCH) {
            let agents = self.context.store.read_agents(uids).await?;
            self.matching.extend(uids.iter().map(|uid| (*uid, (None, now))));
            self.matching.extend(agents.iter().map(|agent| (agent.uid, (Some(self.query.matches(agent)), now))));
        }
        Ok(())
    }
}

/// What waits for the client, with a bound.
#[derive(Default)]
struct Kept {
    events: VecDeque<watch_messages_response::Event>,
    bytes: usize,
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn push(&mut self, uid: InstanceUid, message: CustomMessage) {
        let bytes = message.encoded_len();
        if self.events.len() >= MAX_KEPT || self.bytes + bytes > MAX_KEPT_BYTES && !self.events.is_empty() {
            return self.lost(Some(1));
        }
        self.bytes += bytes;
        let CustomMessage { capability, r#type, data } = message;
        // A slice of its whole batch, which need not be kept as long.
        let data = Bytes::copy_from_slice(&data);
        let message = AgentCustomMessage { instance_uid: uid.to_string(), capability, r#type, data };
        self.events.push_back(watch_messages_response::Event::Message(message));
    }

    /// So many were lost here; `None`: nobody knows how many.
    fn lost(&mut self, count: Option<u64>) {
        let count = count.unwrap_or(0);
        match self.events.back_mut() {
            // What is not known stays so.
            Some(watch_messages_response::Event::Lost(lost)) => {
                lost.count = if lost.count == 0 || count == 0 { 0 } else { lost.count + count };
            }
            _ => self.events.push_back(watch_messages_response::Event::Lost(MessagesLost { count })),
        }
    }

    fn pop(&mut self) -> Option<watch_messages_response::Event> {
        let event = self.events.pop_front()?;
        if let watch_messages_response::Event::Message(message) = &event {
            let AgentCustomMessage { capability, r#type, data, .. } = message;
            let message = CustomMessage { capability: capability.clone(), r#type: r#type.clone(), data: data.clone() };
            self.bytes -= message.encoded_len();
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> CustomMessage {
        CustomMessage { capability: "c".into(), r#type: "t".into(), data: vec![1; bytes].into() }
    }

    fn shown(kept: &mut Kept) -> Vec<String> {
        let text = |event| match event {
            watch_messages_response::Event::Message(message) => format!("{} bytes", message.data.len()),
            watch_messages_response::Event::Lost(lost) => format!("{} lost", lost.count),
        };
        std::iter::from_fn(|| kept.pop()).map(text).collect()
    }

    #[test]
    fn what_is_beyond_the_bound_is_counted_where_it_is_missing() {
        let uid = InstanceUid::from_slice(&[1; 16]).unwrap();
        let mut kept = Kept::default();
        (0..MAX_KEPT + 3).for_each(|_| kept.push(uid, message(1)));
        assert_eq!(kept.events.len(), MAX_KEPT + 1);
        assert_eq!(shown(&mut kept).last().map(String::as_str), Some("3 lost"));
        assert_eq!(kept.bytes, 0);
        for bytes in [MAX_KEPT_BYTES + 1, 1] {
            kept.push(uid, message(bytes));
        }
        assert_eq!(shown(&mut kept), [format!("{} bytes", MAX_KEPT_BYTES + 1), "1 lost".to_owned()]);
        kept.lost(Some(5));
        kept.lost(None);
        kept.lost(Some(1));
        assert_eq!(shown(&mut kept), ["0 lost"], "of some it is not known how many");
    }
}
