//! Two connections that claim one uid: which of them has it, and connections that outlive their agent.

use std::{sync::Arc, time::Duration};

use parking_lot::MutexGuard;
use tokio::sync::oneshot;

use super::{
    Shared,
    agents::{Echo, Entry, Link, Probe, Rare, Waiting},
    connection::Connection,
    contender::Contender,
    exchange::{Origin, Outcome},
    identity::new_uid,
    registry::Agents,
    reply::{self, Reply},
    timers::Timer,
    uids::Alias,
};
use crate::{
    model::InstanceUid,
    proto::bus::{ProbeResult, Verdict, ending::Reason},
    protocol::Incoming,
};

/// How long an agent has to answer a ping before its connection is taken for dead.
const LOCAL_PROBE: Duration = Duration::from_secs(3);
/// Shorter, so that the answer is there before the config service stops waiting for it (3 s).
const REMOTE_PROBE: Duration = Duration::from_secs(2);
/// Newcomers on whose behalf the config service asks about one agent at a time.
const MAX_PROBES: usize = 16;

/// Takes a message under a uid that another, open WebSocket has: that one is pinged, and whether it answers decides.
#[allow(clippy::too_many_arguments, reason = "one message's circumstances, passed on once")]
pub fn contend(
    shared: &Shared,
    agents: &mut Agents,
    uid: InstanceUid,
    origin: Origin<'_>,
    echo: Echo,
    incoming: &Incoming,
    payload: &[u8],
) -> Outcome {
    let Some(entry) = agents.entries.get_mut(&uid) else { return Outcome::Reply(Reply::plain(shared, echo)) };
    let Link::WebSocket(old) = entry.link.clone() else { return Outcome::Reply(Reply::plain(shared, echo)) };
    let generation = entry.generation;
    let rare = entry.rare();
    match &mut rare.contender {
        Some(contender) if !origin.is(&contender.link) => {
            return Outcome::Unavailable { uid: echo.uid, text: "two other connections use this instance_uid" };
        }
        Some(contender) => contender.take(incoming, payload, &shared.memory),
        None => {
            let generation = shared.registry.mint_generation(generation);
            let mut contender = Contender::new(origin.link(), generation, incoming.sequence_num);
            contender.take(incoming, payload, &shared.memory);
            rare.contender = Some(Box::new(contender));
            old.probe();
            shared.timers.add(LOCAL_PROBE, Timer::Contender { uid, generation });
            shared.timers.add(shared.config.verdict_wait, Timer::Reply { uid, generation });
            if let Origin::WebSocket(connection) = origin {
                connection.outbox.with_uids(|uids| uids.insert(uid));
            }
            agents.active.insert(uid);
            let Some(contender) = &mut rare.contender else { return Outcome::Reply(Reply::plain(shared, echo)) };
            return contender.hold(uid, origin, echo);
        }
    }
    match (&mut rare.contender, origin) {
        (Some(contender), Origin::Http(_)) => contender.hold(uid, origin, echo),
        _ => Outcome::Reply(Reply::plain(shared, echo)),
    }
}

/// Plainly answers a contender that has been kept waiting for long enough. It is told the rest later.
pub fn answer_contender(shared: &Shared, entry: &mut Entry, generation: u64) {
    let contender = entry.rare.as_mut().and_then(|rare| rare.contender.as_mut());
    if let Some(contender) = contender.filter(|contender| contender.generation == generation)
        && let Link::WebSocket(connection) = &contender.link
        && let Some(Waiting::WebSocket(echo)) = contender.waiting.take()
    {
        reply::send(shared, connection, &Reply::plain(shared, echo));
    }
}

/// A connection has answered a probe: its agent lives on it. Of a connection that carries several agents this says
/// nothing: their forwarder lives, and any of them may have gone elsewhere. Of those [`agent_spoke`] is the proof.
pub fn connection_answered(shared: &Shared, connection: &Arc<Connection>) {
    let Some(uid) = connection.outbox.with_uids(|uids| uids.only()) else { return };
    let agents = shared.registry.lock(&uid);
    proved_alive(shared, agents, uid, connection);
}

/// An agent has sent a message. Where it is the only one of its connection that proves nothing yet: the message may have
/// been under way when the connection was lost.
pub fn agent_spoke(shared: &Shared, agents: MutexGuard<'_, Agents>, uid: InstanceUid, connection: &Arc<Connection>) {
    if connection.outbox.with_uids(|uids| uids.len()) > 1 {
        proved_alive(shared, agents, uid, connection);
    }
}

fn proved_alive(shared: &Shared, mut agents: MutexGuard<'_, Agents>, uid: InstanceUid, connection: &Arc<Connection>) {
    let Some(entry) = agents.entries.get_mut(&uid).filter(|entry| entry.link.is(connection)) else { return };
    let Some(rare) = entry.rare.as_mut() else { return };
    probes_answered(shared, rare);
    if let Some(newer) = rare.superseded_by.take() {
        claim(shared, uid, entry, newer);
    }
    let Some(rare) = entry.rare.as_mut() else { return };
    if let Some(contender) = rare.contender.take() {
        drop(agents);
        is_duplicate(shared, uid, *contender);
    }
}

/// Announces the connection of an agent anew, as a later one than the `newer` that the store knows.
pub fn claim(shared: &Shared, uid: InstanceUid, entry: &mut Entry, newer: u64) {
    let generation = shared.registry.mint_generation(newer);
    entry.reopen(generation, shared.now());
    reply::limit_waiting(shared, uid, entry);
    shared.outgoing.report(uid);
}

/// The agent lives on the connection that the config service asked about.
pub fn probes_answered(shared: &Shared, rare: &mut Rare) {
    for probe in std::mem::take(&mut rare.probes) {
        shared.outgoing.probe_result(probe_result(&probe, true, None));
    }
}

/// The agent has left the connection that the config service asked about; its last report, which says how far it was, is sent first.
pub fn probes_ended(shared: &Shared, rare: &mut Rare) {
    for probe in std::mem::take(&mut rare.probes) {
        shared.outgoing.probe_result(probe_result(&probe, false, None));
    }
}

/// The contender's uid belongs to another, living agent: it gets a new one, and its state goes there.
fn is_duplicate(shared: &Shared, old: InstanceUid, mut contender: Contender) {
    if let Link::WebSocket(connection) = &contender.link {
        connection.outbox.with_uids(|uids| uids.remove(&old));
    }
    if !contender.is_here() {
        return;
    }
    let uid = new_uid();
    tracing::info!(agent = %old, new = %uid, "instance_uid is in use by another agent: assigned a new one");
    shared.metrics.duplicates.increment(1);
    let link = contender.link.clone();
    let told = address(&mut contender.waiting, uid);
    let mut entry = Box::new(Entry::new(link.clone(), contender.generation));
    contender.settle(shared, &mut entry, uid, None);
    put(shared, uid, entry);
    tell_new_uid(shared, old, uid, &link, told);
}

/// Puts the entry of an agent in its place under its new uid. The agent may have spoken under that before.
pub fn put(shared: &Shared, uid: InstanceUid, entry: Box<Entry>) {
    let has_rare = entry.rare.is_some();
    let mut agents = shared.registry.lock(&uid);
    let replaced = shared.registry.insert(&mut agents, uid, entry);
    if let (Some(replaced), Some(entry)) = (replaced, agents.entries.get_mut(&uid)) {
        entry.absorb(*replaced, shared.now(), &shared.memory);
    }
    if let Some(entry) = agents.entries.get(&uid) {
        reply::limit_waiting(shared, uid, entry);
    }
    shared.registry.set_active(&mut agents, &uid);
    if has_rare {
        shared.outgoing.report(uid);
    }
}

/// By what an agent learns its new uid.
enum Told {
    /// By the reply that is held back for it over WebSocket.
    ByReply,
    ByWaiter(oneshot::Sender<InstanceUid>),
    /// By a message of its own.
    NotYet,
    /// By the next message: it asked for a uid.
    Later,
}

/// Has a reply that is held back over WebSocket say the new uid.
fn address(waiting: &mut Option<Waiting>, uid: InstanceUid) -> Told {
    match waiting.take() {
        Some(Waiting::WebSocket(echo)) => {
            *waiting = Some(Waiting::WebSocket(Echo { new_uid: Some(uid), ..echo }));
            Told::ByReply
        }
        Some(Waiting::Http(waiter)) => Told::ByWaiter(waiter),
        None => Told::NotYet,
    }
}

/// Tells an agent its new uid, under which its entry is found already: from now on it is known by that.
fn tell_new_uid(shared: &Shared, old: InstanceUid, uid: InstanceUid, link: &Link, told: Told) {
    match link {
        Link::WebSocket(connection) => {
            let is_new = connection.outbox.with_uids(|uids| {
                uids.remove(&old);
                uids.insert(uid);
                uids.replace_alias(&old, uid);
                uids.add_alias(Alias::of_duplicate(old, uid), shared.clock.now_s())
            });
            if !is_new {
                tracing::debug!(agent = %old, "connection has too many agents with new uids");
            }
            if !matches!(told, Told::ByReply | Told::Later) {
                let echo = Echo { uid: old, new_uid: Some(uid) };
                reply::send(shared, connection, &Reply::plain(shared, echo));
            }
        }
        Link::Http => {
            let is_told = match told {
                Told::ByWaiter(waiter) => waiter.send(uid).is_ok(),
                Told::Later => true,
                Told::ByReply | Told::NotYet => false,
            };
            shared.http_aliases.replace(&old, uid);
            shared.http_aliases.insert(Alias::of_duplicate(old, uid), !is_told);
        }
        Link::Gone { .. } => {}
    }
}

/// The config service found the same, another gateway having the older connection; or that it has given the agent another
/// uid already. What was reported is stored under the new uid.
pub fn rename(shared: &Shared, old: InstanceUid, uid: InstanceUid, verdict: &Verdict) {
    let mut agents = shared.registry.lock(&old);
    if agents.entries.get(&old).is_none_or(|entry| entry.generation != verdict.connection_generation) {
        return;
    }
    let Some(mut entry) = shared.registry.remove(&mut agents, &old) else { return };
    drop(agents);
    let has_asked = entry.rare.as_ref().is_some_and(|rare| rare.tells_uid_to.is_some());
    if !has_asked {
        tracing::info!(agent = %old, new = %uid, "instance_uid is in use on another gateway: assigned a new one");
        shared.metrics.duplicates.increment(1);
    }
    entry.acknowledged(verdict.report_number);
    if let Some(contender) = entry.rare.as_mut().and_then(|rare| rare.contender.take())
        && let Link::WebSocket(connection) = &contender.link
    {
        connection.abandon("uid_contended");
    }
    // Those that waited were for the uid that it had; who sent them hears so.
    if let Some(rare) = &mut entry.rare {
        rare.commands = Vec::new();
    }
    let told = match entry.rare.as_mut() {
        Some(rare) if !has_asked => address(&mut rare.waiting, uid),
        Some(_) => Told::Later,
        None => Told::NotYet,
    };
    let link = entry.link.clone();
    if entry.is_live() || entry.pending().is_some() {
        put(shared, uid, entry);
    }
    tell_new_uid(shared, old, uid, &link, told);
}

/// The old connection has not answered: the contender is the agent.
pub fn contender_time_is_over(shared: &Shared, uid: InstanceUid, generation: u64) {
    let mut agents = shared.registry.lock(&uid);
    let Some(entry) = agents.entries.get_mut(&uid) else { return };
    let contender = entry.rare.as_mut().and_then(|rare| rare.contender.take_if(|it| it.generation == generation));
    if let Some(contender) = contender {
        take_over(shared, entry, uid, *contender);
    }
}

/// Gives the uid to the contender, if it is still there. The agent's earlier connection is dead.
pub fn take_over(shared: &Shared, entry: &mut Entry, uid: InstanceUid, contender: Contender) {
    if !contender.is_here() && !contender.has_left {
        return;
    }
    shared.metrics.takeovers.increment(1);
    if let Link::WebSocket(old) = &entry.link {
        let is_alone = old.outbox.with_uids(|uids| {
            uids.remove(&uid);
            uids.len() == 0
        });
        if is_alone {
            old.abandon("superseded");
        }
    }
    let previous = entry.durable_sequence_num();
    contender.settle(shared, entry, uid, Some(previous));
    shared.outgoing.report(uid);
}

/// The config service asks whether an agent still lives on a connection.
pub fn probe(shared: &Shared, uid: InstanceUid, probe: Probe) {
    let mut agents = shared.registry.lock(&uid);
    let entry = agents.entries.get_mut(&uid).filter(|entry| entry.generation == probe.generation);
    match entry.map(|entry| (entry.link.clone(), entry)) {
        Some((Link::WebSocket(connection), entry)) if connection.outbox.is_open() => {
            let probes = &mut entry.rare().probes;
            if !probes.contains(&probe) && probes.len() < MAX_PROBES {
                probes.push(probe);
            }
            agents.active.insert(uid);
            connection.probe();
            shared.timers.add(REMOTE_PROBE, Timer::Probe { uid, generation: probe.generation });
        }
        Some((_, entry)) => {
            entry.rare().probes.push(probe);
            give_up(shared, &mut agents, uid);
        }
        None => shared.outgoing.probe_result(probe_result(&probe, false, None)),
    }
}

/// A probed connection has not answered.
pub fn probe_time_is_over(shared: &Shared, uid: InstanceUid, generation: u64) {
    let mut agents = shared.registry.lock(&uid);
    let is_unanswered = agents.entries.get(&uid).is_some_and(|entry| {
        entry.rare.as_ref().is_some_and(|rare| rare.probes.iter().any(|probe| probe.generation == generation))
    });
    if is_unanswered {
        give_up(shared, &mut agents, uid);
    }
}

/// Lets go of an agent that is elsewhere now, and says so to who asked. The last number is given only if all that came before it
/// is stored.
fn give_up(shared: &Shared, agents: &mut Agents, uid: InstanceUid) {
    let Some(entry) = agents.entries.get_mut(&uid) else { return };
    let last = entry.pending().is_none().then(|| entry.durable_sequence_num());
    for probe in std::mem::take(&mut entry.rare().probes) {
        shared.outgoing.probe_result(probe_result(&probe, false, last));
    }
    if let Link::WebSocket(connection) = &entry.link {
        let is_alone = connection.outbox.with_uids(|uids| {
            uids.remove(&uid);
            uids.len() == 0
        });
        if is_alone {
            connection.abandon("superseded");
        }
    }
    let contender = entry.rare.as_mut().and_then(|rare| rare.contender.take());
    if let Some(contender) = contender {
        take_over(shared, entry, uid, *contender);
    } else if last.is_some() {
        shared.registry.remove(agents, &uid);
    } else {
        entry.end(Reason::Superseded, shared.now());
        // It may have ended before, and wait for its next repeat: the config service waits for it now.
        if let Some(pending) = &mut entry.rare().pending {
            pending.due_ms = 0;
        }
        shared.outgoing.report(uid);
    }
}

fn probe_result(probe: &Probe, alive: bool, last_sequence_num: Option<u64>) -> ProbeResult {
    let (instance_uid, connection_generation) = (probe.newcomer.to_bytes(), probe.generation);
    ProbeResult { instance_uid, connection_generation, alive, last_sequence_num }
}
