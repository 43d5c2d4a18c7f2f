//! Everything that time brings about, in one task: pings, silence, slow peers, repeats, revoked tokens.
//!
//! Each round takes a second and is done in slices, so that no slice holds anything up.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};

use super::{
    Shared,
    agents::Link,
    commands,
    connection::Connection,
    pace, reply, reports,
    websocket::{self, code},
};
use crate::{
    bus::Role,
    model::uid::{SHARD_COUNT, Shard},
    proto::bus::ending::Reason,
};

const SLICES: u16 = 10;
const SLICE: Duration = Duration::from_millis(100);
/// How long the peer may take to answer a Close.
const CLOSE_WAIT_S: u32 = 2;
/// Agents over HTTP are looked through this seldom: their time is counted in tens of seconds.
const HTTP_ROUND_S: u32 = 5;
/// Sockets with revoked tokens closed in one slice.
const MAX_REVOCATIONS: usize = 50;
/// How long this gateway counts as alive after it last said so, and how often it says so.
pub const MEMBERSHIP_TTL: Duration = Duration::from_secs(10);
const ANNOUNCE_EVERY: Duration = Duration::from_secs(3);
/// The list of tokens is asked for this often, in rounds, once it is known.
const TOKENS_EVERY_ROUNDS: u64 = 60;
/// HTTP agents that left are forgotten this often, in rounds.
const FORGET_EVERY_ROUNDS: u64 = 60;

/// Sweeps, for ever.
pub async fn run(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(SLICE);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connections_from = 0;
    for slice in 0u64.. {
        interval.tick().await;
        let part = (slice % u64::from(SLICES)) as u16;
        shared.paused.wake();
        let now_ms = shared.clock.now_ms();
        let now_s = shared.clock.now_s();
        let is_http_round = (slice / u64::from(SLICES)).is_multiple_of(u64::from(HTTP_ROUND_S));
        for shard in (0..SHARD_COUNT).filter(|shard| shard % SLICES == part) {
            reports::repeat_due(&shared, shard, now_ms);
            sweep_active(&shared, shard, now_ms);
            if is_http_round {
                end_silent(&shared, shard, now_s);
            }
        }
        let count = shared.connections.slots().div_ceil(usize::from(SLICES)).max(1);
        connections_from = sweep_connections(&shared, connections_from, count, now_s);
        if part == 0 {
            each_second(&shared, slice / u64::from(SLICES), now_ms);
        }
    }
}

fn each_second(shared: &Shared, round: u64, now_ms: u64) {
    if round.is_multiple_of(FORGET_EVERY_ROUNDS) {
        shared.seldom.forget(shared.clock.now_s());
    }
    shared.ask_for_bodies(now_ms);
    if shared.config.awaits_tokens() && (!shared.tokens.are_known() || round.is_multiple_of(TOKENS_EVERY_ROUNDS)) {
        shared.outgoing.want_tokens();
    }
    shared.metrics.connections.set(shared.open.count() as f64);
    shared.metrics.agents.set(shared.registry.len() as f64);
    let pending: usize = (0..SHARD_COUNT)
        .map(|shard| {
            let agents = shared.registry.lock_shard(shard);
            agents.active.iter().filter(|uid| agents.entries.get(*uid).is_some_and(|e| e.pending().is_some())).count()
        })
        .sum();
    shared.metrics.reports_pending.set(pending as f64);
    shared.metrics.pending_bytes.set(shared.memory.held_bytes() as f64);
    shared.metrics.max_pending_bytes.set(shared.config.max_pending_bytes as f64);
}

/// Looks at the agents that have something unfinished.
fn sweep_active(shared: &Shared, shard: Shard, now_ms: u64) {
    shared.registry.lock_shard(shard).retain_active(|uid, entry| {
        if let Some(rare) = &mut entry.rare {
            rare.full_state.tick(now_ms);
        }
        if matches!(entry.link, Link::WebSocket(_)) {
            reply::deliver(shared, *uid, entry, false, now_ms);
            shared.want_body(*uid, entry);
        }
        commands::deliver(shared, entry, now_ms);
        entry.tidy(now_ms);
        entry.rare.is_some()
    });
}

fn end_silent(shared: &Shared, shard: Shard, now_s: u32) {
    let http_s = shared.config.http_interval.as_secs() as u32;
    let agents = &mut *shared.registry.lock_shard(shard);
    for (uid, entry) in agents.entries.iter_mut().filter(|(_, entry)| entry.is_silent(now_s, http_s)) {
        tracing::debug!(agent = %uid, "no poll for three intervals");
        shared.seldom.left(*uid, entry.heard_s);
        entry.end(Reason::ConnectionClosed, shared.now());
        agents.active.insert(*uid);
        shared.outgoing.report(*uid);
    }
}

fn sweep_connections(shared: &Shared, from: usize, count: usize, now_s: u32) -> usize {
    let (connections, next) = shared.connections.slice(from, count);
    let mut revocations = MAX_REVOCATIONS;
    for connection in connections {
        sweep_connection(shared, &connection, now_s, &mut revocations);
    }
    next
}

fn sweep_connection(shared: &Shared, connection: &Connection, now_s: u32, revocations: &mut usize) {
    let stalled_s = connection.outbox.stalled_for_s(now_s);
    if !connection.outbox.is_open() {
        if stalled_s >= CLOSE_WAIT_S {
            connection.outbox.kill();
        }
        return;
    }
    if u64::from(stalled_s) > shared.config.write_timeout.as_secs() {
        return connection.abandon("write_timeout");
    }
    let is_revoked = connection.credential.as_ref().is_some_and(|token| !token.is_valid(pace::unix_ms()));
    if is_revoked && *revocations > 0 {
        *revocations -= 1;
        return connection.close(code::POLICY, "token is not valid any more", "revoked");
    }
    let silent_s = u64::from(now_s.saturating_sub(connection.heard_s.load(Ordering::Relaxed)));
    if silent_s > shared.config.idle_timeout.as_secs() {
        connection.abandon("idle");
    } else if silent_s >= shared.config.ping_after.as_secs() && connection.pinged_s.load(Ordering::Relaxed) == 0 {
        connection.pinged_s.store(now_s, Ordering::Relaxed);
        connection.outbox.send(websocket::ping(&[]).into(), None);
        shared.metrics.pings.increment(1);
    }
}

/// Keeps this gateway on the list of those alive, for ever. After a time off the list its agents may have been taken for
/// disconnected, so they are announced again.
pub async fn announce(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(ANNOUNCE_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_success = None::<Instant>;
    loop {
        interval.tick().await;
        match shared.bus.announce(Role::Gateway, &shared.node, MEMBERSHIP_TTL).await {
            Ok(()) => {
                if last_success.is_some_and(|last| last.elapsed() > MEMBERSHIP_TTL) {
                    shared.reopen_all();
                }
                last_success = Some(Instant::now());
            }
            Err(error) => tracing::debug!(%error, "not announced"),
        }
    }
}

/// Announces all connections again whenever that is asked for, at a bounded rate.
pub async fn reopen(shared: Arc<Shared>) {
    const STEP: Duration = Duration::from_millis(20);
    let per_step = (shared.config.reopen_per_second / 50).max(1) as usize;
    loop {
        shared.reopening.notified().await;
        for shard in 0..SHARD_COUNT {
            let uids: Vec<_> = {
                let agents = shared.registry.lock_shard(shard);
                agents.entries.iter().filter(|(_, entry)| entry.is_live()).map(|(uid, _)| *uid).collect()
            };
            for uids in uids.chunks(per_step) {
                let now = shared.now();
                {
                    let agents = &mut *shared.registry.lock_shard(shard);
                    for uid in uids {
                        if let Some(entry) = agents.entries.get_mut(uid).filter(|entry| entry.is_live()) {
                            entry.reopen(entry.generation, now);
                            agents.active.insert(*uid);
                            shared.outgoing.report(*uid);
                        }
                    }
                }
                tokio::time::sleep(STEP * uids.len() as u32 / per_step as u32).await;
            }
        }
    }
}
