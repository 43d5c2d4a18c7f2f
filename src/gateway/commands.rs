//! Commands for agents: each is sent once, to the connection that it is for, and the config service is told what became of
//! it.
//!
//! The config service publishes a command again until it has heard that. So what became of each is remembered, for longer
//! than it does that: [`command::REMEMBERED_FOR`].

use std::{collections::HashMap, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use prost::Message;
use tokio::task::coop::consume_budget;

use super::{
    Shared,
    agents::{Echo, Entry, Link},
    identity,
    reply::{self, Reply},
    spans,
};
use crate::{
    model::{
        InstanceUid,
        command::{self, CommandId},
    },
    proto::{
        bus::{CommandGroup, CommandResult, command_group::Action, command_result::Outcome},
        opamp::{self, AgentCapabilities, CommandType, ServerToAgentCommand},
    },
    protocol::reply::uid_field,
};

/// Commands remembered: a restart of the largest fleet that a gateway holds. Beyond, none are taken.
const MAX_REMEMBERED: usize = 1_000_000;
/// Commands that wait for one agent to read or to poll.
const MAX_QUEUED: usize = 16;
/// Old ones are looked for this often.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// What became of the commands that came here.
#[derive(Debug, Default)]
pub struct Commands {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    outcomes: HashMap<(CommandId, InstanceUid), Remembered>,
    forgot_ms: u64,
}

#[derive(Debug)]
struct Remembered {
    outcome: Outcome,
    /// Since when.
    at_ms: u64,
}

/// A command that waits for its agent to read or to poll.
#[derive(Clone, Debug)]
pub struct Queued {
    id: CommandId,
    /// The uid by which it came.
    uid: InstanceUid,
    /// A field of ServerToAgent, encoded; shared by all agents that are sent it.
    field: Bytes,
    /// No other field may stand beside it.
    is_alone: bool,
    until_ms: u64,
}

impl Commands {
    fn outcome(&self, id: CommandId, uid: InstanceUid) -> Option<Outcome> {
        self.known.lock().outcomes.get(&(id, uid)).map(|it| it.outcome)
    }

    /// False if there is no room to remember it.
    fn remember(&self, id: CommandId, uid: InstanceUid, outcome: Outcome, now_ms: u64) -> bool {
        let mut known = self.known.lock();
        if now_ms >= known.forgot_ms + FORGET_EVERY.as_millis() as u64 {
            known.forgot_ms = now_ms;
            let keep_ms = command::REMEMBERED_FOR.as_millis() as u64;
            known.outcomes.retain(|_, remembered| now_ms < remembered.at_ms + keep_ms);
            known.outcomes.shrink_to(64);
        }
        if known.outcomes.len() >= MAX_REMEMBERED && !known.outcomes.contains_key(&(id, uid)) {
            return false;
        }
        known.outcomes.insert((id, uid), Remembered { outcome, at_ms: now_ms });
        true
    }
}

/// Takes a command, and tells what became of it. Gives way to other tasks in between: there may be thousands of agents.
pub async fn take(shared: &Shared, group: CommandGroup) {
    let Some(id) = CommandId::from_slice(&group.command_id) else { return };
    let span = spans::command(id, &group);
    let mut sent: i64 = 0;
    let (field, is_alone) = match group.action {
        Some(Action::Restart(_)) => (restart_field(), true),
        Some(Action::CustomMessage(message)) => (message_field(&message), false),
        // Of a later version: who made it hears nothing, and gives it up.
        None => return,
    };
    for (uid, generation) in group.instance_uids.chunks_exact(16).zip(&group.connection_generations) {
        consume_budget().await;
        let Ok(uid) = InstanceUid::from_slice(uid) else { continue };
        let until_ms = shared.clock.now_ms() + command::HELD_FOR.as_millis() as u64;
        let queued = Queued { id, uid, field: field.clone(), is_alone, until_ms };
        let outcome = take_one(shared, queued, *generation);
        sent += i64::from(outcome == Outcome::Sent);
        report(shared, id, uid, outcome);
    }
    span.set("muster.command.sent", || sent);
}

fn take_one(shared: &Shared, queued: Queued, generation: u64) -> Outcome {
    let (id, uid) = (queued.id, queued.uid);
    let now_ms = shared.clock.now_ms();
    let agents = &mut *shared.registry.lock(&uid);
    let entry = agents.entries.get_mut(&uid);
    let known = shared.commands.outcome(id, uid).or_else(|| {
        // It may have come while the agent had another uid.
        let former = identity::former_uids(shared, &entry.as_ref()?.link, &uid);
        former.into_iter().find_map(|former| shared.commands.outcome(id, former))
    });
    if let Some(known) = known {
        let is_queued =
            |entry: &Entry| entry.rare.as_ref().is_some_and(|rare| rare.commands.iter().any(|it| it.id == id));
        let is_dropped = known == Outcome::Held && !entry.is_some_and(|entry| is_queued(entry));
        return if is_dropped { Outcome::Dropped } else { known };
    }
    let Some(entry) = entry.filter(|entry| entry.generation == generation && entry.is_live()) else {
        return Outcome::NotHere;
    };
    let restarts = AgentCapabilities::AcceptsRestartCommand as u64;
    if queued.is_alone && entry.capabilities != 0 && entry.capabilities & restarts == 0 {
        return Outcome::NotCapable;
    }
    let has_room = entry.rare().commands.len() < MAX_QUEUED;
    if !has_room || !shared.commands.remember(id, uid, Outcome::Held, now_ms) {
        entry.tidy(now_ms);
        return Outcome::Expired;
    }
    entry.rare().commands.push(queued);
    send_queued(shared, entry, now_ms);
    entry.tidy(now_ms);
    shared.registry.set_active(agents, &uid);
    shared.commands.outcome(id, uid).unwrap_or(Outcome::Held)
}

/// Sends what waits for the agent of a WebSocket, and gives up what has waited too long.
pub fn deliver(shared: &Shared, entry: &mut Entry, now_ms: u64) {
    for (queued, outcome) in send_queued(shared, entry, now_ms) {
        report(shared, queued.id, queued.uid, outcome);
    }
}

/// Those whose outcome is known now, which is remembered.
fn send_queued(shared: &Shared, entry: &mut Entry, now_ms: u64) -> Vec<(Queued, Outcome)> {
    let Some(rare) = entry.rare.as_mut().filter(|rare| !rare.commands.is_empty()) else { return Vec::new() };
    let mut settled = Vec::new();
    let mut waiting = Vec::new();
    for queued in std::mem::take(&mut rare.commands) {
        let outcome = match &entry.link {
            _ if now_ms >= queued.until_ms => Some(Outcome::Expired),
            // The first reply of a connection comes first, for it says what the server can do; and one keeps the order.
            Link::WebSocket(connection) if rare.waiting.is_none() && waiting.is_empty() => {
                let message = Reply { head: addressed(queued.uid), tail: Some(queued.field.clone()) };
                reply::send(shared, connection, &message).then_some(Outcome::Sent)
            }
            _ => None,
        };
        match outcome {
            Some(outcome) => settled.push((queued, outcome)),
            None => waiting.push(queued),
        }
    }
    rare.commands = waiting;
    for (queued, outcome) in &settled {
        note(shared, queued, *outcome, now_ms);
    }
    settled
}

/// The reply to a poll that takes along what waits for the agent, if anything does: one at a time.
pub fn for_poll(shared: &Shared, entry: &mut Entry, echo: Echo, now_ms: u64) -> Option<Reply> {
    let is_plain = matches!(entry.link, Link::Http) && echo.new_uid.is_none();
    let rare =
        entry.rare.as_mut().filter(|rare| is_plain && rare.uid_is_due().is_none() && !rare.commands.is_empty())?;
    while !rare.commands.is_empty() {
        let queued = rare.commands.remove(0);
        let outcome = if now_ms >= queued.until_ms { Outcome::Expired } else { Outcome::Sent };
        note(shared, &queued, outcome, now_ms);
        report(shared, queued.id, queued.uid, outcome);
        if outcome == Outcome::Sent {
            // Every reply over HTTP says what the server can do, and that may stand beside anything.
            let capabilities = opamp::ServerToAgent { capabilities: reply::capabilities(shared), ..Default::default() };
            let head = [&addressed(echo.uid)[..], &capabilities.encode_to_vec(), &queued.field].concat();
            return Some(Reply { head: head.into(), tail: None });
        }
    }
    None
}

fn note(shared: &Shared, queued: &Queued, outcome: Outcome, now_ms: u64) {
    if outcome == Outcome::Sent {
        shared.metrics.commands_sent.increment(1);
    }
    shared.commands.remember(queued.id, queued.uid, outcome, now_ms);
}

fn report(shared: &Shared, id: CommandId, uid: InstanceUid, outcome: Outcome) {
    let result = CommandResult { command_id: id.to_bytes(), instance_uid: uid.to_bytes(), outcome: outcome as i32 };
    shared.outgoing.command_result(result);
}

fn addressed(uid: InstanceUid) -> Bytes {
    Bytes::copy_from_slice(&uid_field(&uid))
}

fn restart_field() -> Bytes {
    let command = ServerToAgentCommand { r#type: CommandType::Restart as i32 };
    opamp::ServerToAgent { command: Some(command), ..Default::default() }.encode_to_vec().into()
}

/// `custom_message` of a ServerToAgent, from an encoded CustomMessage.
fn message_field(message: &[u8]) -> Bytes {
    let mut field = BytesMut::with_capacity(message.len() + 11);
    prost::encoding::encode_key(11, prost::encoding::WireType::LengthDelimited, &mut field);
    prost::encoding::encode_varint(message.len() as u64, &mut field);
    field.put_slice(message);
    field.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_stands_alone() {
        let decoded = opamp::ServerToAgent::decode(restart_field()).unwrap();
        let command = Some(ServerToAgentCommand { r#type: CommandType::Restart as i32 });
        assert_eq!(decoded, opamp::ServerToAgent { command, ..Default::default() });
    }

    #[test]
    fn a_message_is_the_whole_field() {
        let message = opamp::CustomMessage { capability: "c".into(), r#type: "t".into(), data: vec![7; 300].into() };
        let decoded = opamp::ServerToAgent::decode(message_field(&message.encode_to_vec())).unwrap();
        assert_eq!(decoded, opamp::ServerToAgent { custom_message: Some(message), ..Default::default() });
    }

    #[test]
    fn outcomes_are_remembered_for_long_enough_and_not_for_ever() {
        let commands = Commands::default();
        let (id, uid) = (CommandId(uuid::Uuid::from_u128(1)), InstanceUid::from_slice(&[1; 16]).unwrap());
        let other = InstanceUid::from_slice(&[2; 16]).unwrap();
        assert!(commands.remember(id, uid, Outcome::Sent, 0));
        let kept_ms = command::REMEMBERED_FOR.as_millis() as u64;
        assert!(command::REMEMBERED_FOR > command::REPEATED_FOR && command::REPEATED_FOR > command::HELD_FOR);
        commands.remember(id, other, Outcome::Held, kept_ms - 1);
        assert_eq!(commands.outcome(id, uid), Some(Outcome::Sent));
        commands.remember(id, other, Outcome::Held, kept_ms + FORGET_EVERY.as_millis() as u64);
        assert_eq!(commands.outcome(id, uid), None);
        assert_eq!(commands.outcome(id, other), Some(Outcome::Held));
    }
}
