//! Leaving in good order: everybody is sent elsewhere at a bounded rate, and what they said last is handed over.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Shared,
    agents::Link,
    config::Config,
    connection::Connection,
    reply::{self, Reply},
    websocket::code,
};
use crate::{
    model::uid::SHARD_COUNT,
    proto::{bus::ending::Reason, opamp::ServerErrorResponseType},
};

const STEP: Duration = Duration::from_millis(20);
/// An UNAVAILABLE names a time between these: agents that obey it spread themselves.
const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 10_000;

/// Sends everybody away. Newcomers are refused already.
pub async fn run(shared: &Arc<Shared>) {
    let begun = Instant::now();
    let connections = shared.connections.slice(0, usize::MAX).0;
    tracing::info!(connections = connections.len(), agents = shared.registry.len(), "draining");
    end_http(shared);
    let pace = Pace::new(&shared.config, connections.len());
    pace.each(&connections, |connection| send_unavailable(shared, connection)).await;
    if !connections.is_empty() {
        tokio::time::sleep(shared.config.drain_grace).await;
    }
    pace.each(&connections, |connection| send_away(connection)).await;
    // Those whose upgrade was under way when the drain began.
    for connection in shared.connections.slice(0, usize::MAX).0 {
        send_away(&connection);
    }
    // And polls.
    end_http(shared);
    if hand_over(shared).await {
        tracing::info!(seconds = begun.elapsed().as_secs_f64(), "drained");
    }
}

/// How many connections are dealt with in one step.
struct Pace {
    per_step: usize,
}

impl Pace {
    fn new(config: &Config, connections: usize) -> Self {
        let by_rate = f64::from(config.drain_per_second) * STEP.as_secs_f64();
        // Two passes within the window.
        let steps = (config.drain_window.as_secs_f64() / 2.0 / STEP.as_secs_f64()).max(1.0);
        let by_window = connections as f64 / steps;
        Self { per_step: by_rate.max(by_window).ceil().max(1.0) as usize }
    }

    async fn each(&self, connections: &[Arc<Connection>], act: impl Fn(&Arc<Connection>)) {
        for step in connections.chunks(self.per_step) {
            step.iter().filter(|connection| connection.outbox.is_open()).for_each(&act);
            tokio::time::sleep(STEP).await;
        }
    }
}

fn send_unavailable(shared: &Shared, connection: &Arc<Connection>) {
    let retry_ns = rand::random_range(RETRY_MIN_MS..RETRY_MAX_MS) * 1_000_000;
    for uid in connection.outbox.with_uids(|uids| uids.to_vec()) {
        let kind = ServerErrorResponseType::Unavailable;
        let text = "this server is shutting down".to_owned();
        reply::send(shared, connection, &Reply::error(Some(uid), kind, text, Some(retry_ns)));
    }
}

/// Its agents are handed over when the peer has answered, for until then they may say something; or when its time is over.
fn send_away(connection: &Connection) {
    connection.close(code::GOING_AWAY, "this server is shutting down", "drain");
}

fn end_http(shared: &Shared) {
    for shard in 0..SHARD_COUNT {
        let agents = &mut *shared.registry.lock_shard(shard);
        for (uid, entry) in agents.entries.iter_mut().filter(|(_, entry)| matches!(entry.link, Link::Http)) {
            entry.end(Reason::Drain, shared.now());
            agents.active.insert(*uid);
            shared.outgoing.report(*uid);
        }
    }
}

/// Waits until the last reports are acknowledged and the sockets closed, but not for ever. Whether that came about.
async fn hand_over(shared: &Shared) -> bool {
    let deadline = Instant::now() + shared.config.drain_handover;
    let mut is_complete = true;
    while shared.registry.len() > 0 || shared.connections.len() > 0 {
        if Instant::now() >= deadline {
            tracing::warn!(
                reports = shared.registry.len(),
                connections = shared.connections.len(),
                "leaving before everything was handed over"
            );
            is_complete = false;
            break;
        }
        tokio::time::sleep(STEP).await;
    }
    for connection in shared.connections.slice(0, usize::MAX).0 {
        connection.outbox.kill();
    }
    debug_assert!(shared.is_draining.load(Ordering::Relaxed));
    is_complete
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_sent_away_at_the_rate_or_faster_to_be_done_within_the_window() {
        let config = Config { drain_per_second: 500, drain_window: Duration::from_secs(30), ..Config::default() };
        let per_step = |connections| Pace::new(&config, connections).per_step;
        assert_eq!((per_step(0), per_step(1_000), per_step(7_500)), (10, 10, 10), "500 a second");
        assert_eq!(per_step(75_000), 100, "75,000 within 15 s, for there are two passes");
        let none = Config { drain_window: Duration::ZERO, drain_per_second: 1, ..Config::default() };
        assert_eq!((Pace::new(&none, 10_000).per_step, Pace::new(&none, 0).per_step), (10_000, 1));
    }
}
