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

/// The shortest pause; what is faster is done several at a time.
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

/// How many connections are dealt with in one step, and how long it takes: never more a second than is wanted.
#[derive(Debug, PartialEq)]
struct Pace {
    per_step: usize,
    pause: Duration,
}

impl Pace {
    fn new(config: &Config, connections: usize) -> Self {
        // Two passes within the window.
        let by_window = connections as f64 / (config.drain_window / 2).max(STEP).as_secs_f64();
        let per_second = f64::from(config.drain_per_second).max(by_window).max(1.0);
        let per_step = (per_second * STEP.as_secs_f64()).ceil();
        Self { per_step: per_step as usize, pause: Duration::from_secs_f64(per_step / per_second) }
    }

    async fn each(&self, connections: &[Arc<Connection>], act: impl Fn(&Arc<Connection>)) {
        for step in connections.chunks(self.per_step) {
            step.iter().filter(|connection| connection.outbox.is_open()).for_each(&act);
            tokio::time::sleep(self.pause).await;
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
        let config = |drain_per_second, seconds| Config {
            drain_per_second,
            drain_window: Duration::from_secs(seconds),
            ..Config::default()
        };
        let pace = |config: &Config, connections| {
            let Pace { per_step, pause } = Pace::new(config, connections);
            (per_step, pause.as_millis())
        };
        for connections in [0, 1_000, 7_500] {
            assert_eq!(pace(&config(500, 30), connections), (10, 20), "500 a second");
        }
        assert_eq!(pace(&config(20, 30), 100), (1, 50), "not one in each of the shortest steps");
        assert_eq!(pace(&config(120, 30), 100), (3, 25), "no more for being rounded");
        assert_eq!(pace(&config(500, 30), 75_000), (100, 20), "75,000 within 15 s, for there are two passes");
        assert_eq!(pace(&config(1, 0), 10_000), (10_000, 20));
        assert_eq!(pace(&config(1, 0), 0), (1, 1_000));
    }
}
