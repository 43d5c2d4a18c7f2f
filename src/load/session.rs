//! An agent's life: connect, talk, lose the connection, wait, come back.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use prost::Message;
use tokio::time::Instant;

use super::{
    LEAVES_PER_SECOND, Plan, Shared, Stats, Transport,
    agent::Agent,
    http,
    stats::{add, record},
    websocket,
};
use crate::proto::opamp::ServerToAgent;

/// Agents that lost their connection come back within this time, each after its own share of it.
const COME_BACK_WITHIN: Duration = Duration::from_secs(1);

/// Pauses after failed attempts, as the opamp-go client makes them: from the first to the last, growing by half.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How a connection, or an attempt at one, ended.
pub enum Ending {
    /// The run is over.
    Stopped,
    /// The agent dropped the connection to come back.
    Dropped,
    /// The server or the network ended the connection.
    Lost,
    /// The server refused with a status.
    Refused(u16, Option<Duration>),
    /// There was no connection.
    Unreachable,
}

/// Runs agent `index` from `start` until the fleet is stopped.
pub async fn run(shared: Arc<Shared>, index: u32, start: Instant) {
    let mut life = Life { agent: Agent::new(&shared.reports, index), attempts: 0, unsent: None };
    let (mut resume, mut failures) = (start, 0u32);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep_until(resume) => {}
        }
        let ending = match shared.plan.transport {
            Transport::WebSocket => websocket::run(&mut life, &shared).await,
            Transport::Http => http::run(&mut life, &shared).await,
        };
        life.attempts = life.attempts.wrapping_add(1);
        let pause = match ending {
            Ending::Stopped => return,
            Ending::Dropped | Ending::Lost => {
                let is_drop = matches!(ending, Ending::Dropped);
                let counters = &shared.stats.counters;
                add(if is_drop { &counters.drops } else { &counters.disconnects }, 1);
                failures = 0;
                life.agent.jitter(COME_BACK_WITHIN)
            }
            Ending::Refused(status, retry_after) => {
                shared.stats.refused(status);
                retry_after.unwrap_or_else(|| pause_after(&mut failures, &mut life.agent))
            }
            Ending::Unreachable => {
                add(&shared.stats.counters.connect_errors, 1);
                pause_after(&mut failures, &mut life.agent)
            }
        };
        resume = Instant::now() + pause;
    }
}

fn pause_after(failures: &mut u32, agent: &mut Agent) -> Duration {
    let pause = FIRST_PAUSE.mul_f64(1.5f64.powi((*failures).min(20) as i32)).min(LONGEST_PAUSE);
    *failures += 1;
    pause / 2 + agent.jitter(pause)
}

/// What outlives an agent's connections.
pub struct Life {
    pub agent: Agent,
    pub attempts: u32,
    /// A message that was not answered over HTTP, to be sent again as it is.
    pub unsent: Option<Vec<u8>>,
}

impl Life {
    /// Which of several endpoints, or source addresses, this attempt takes.
    pub fn turn<'a, T>(&self, choices: &'a [T]) -> Option<&'a T> {
        let turn = u64::from(self.agent.index) + u64::from(self.attempts);
        choices.get(turn.checked_rem(choices.len() as u64)? as usize)
    }

    /// When the agent will drop a connection that it makes now.
    pub fn drop_at(&mut self, plan: &Plan) -> Option<Instant> {
        plan.reconnect.map(|mean| Instant::now() + self.agent.exponential(mean))
    }

    /// Lets the agents of a large fleet leave one after the other.
    pub async fn wait_to_leave(&mut self, plan: &Plan) {
        let spread = Duration::from_secs_f64(f64::from(plan.agents) / f64::from(LEAVES_PER_SECOND));
        tokio::time::sleep(self.agent.jitter(spread)).await;
    }

    /// Takes in a message of the server, counts what it did, and returns what to send in return.
    pub fn take(&mut self, shared: &Shared, message: &[u8]) -> Option<Vec<u8>> {
        let (stats, counters) = (&shared.stats, &shared.stats.counters);
        add(&counters.received, 1);
        let message = match ServerToAgent::decode(message) {
            Ok(message) => message,
            Err(error) => {
                stats.error(format!("not a ServerToAgent: {error}"));
                return None;
            }
        };
        let effect = self.agent.take(&shared.reports, &message);
        if let Some(taken) = &effect.offer {
            add(&counters.offers, 1);
            add(if effect.failed { &counters.failed } else { &counters.applied }, 1);
            stats.arrivals.lock().record(taken);
        }
        add(&counters.full_state_asks, usize::from(effect.full_state_asked));
        add(&counters.renames, usize::from(effect.renamed));
        if let Some((kind, text)) = effect.error {
            add(&counters.error_responses, 1);
            stats.error(format!("error response {kind}: {text}"));
        }
        effect.answer
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    First,
    Heartbeat,
    Status,
}

/// Messages that have no reply yet. OpAMP's replies name no message, so they are matched by order, and of several that
/// are on their way only the oldest is timed.
#[derive(Default)]
pub struct Awaited {
    oldest: Option<(Kind, Instant)>,
    number: u16,
}

impl Awaited {
    pub fn sent(&mut self, kind: Kind, stats: &Stats) {
        add(&stats.counters.sent, 1);
        add(&stats.counters.heartbeats, usize::from(kind == Kind::Heartbeat));
        self.number += 1;
        self.oldest.get_or_insert((kind, Instant::now()));
    }

    pub fn received(&mut self, stats: &Stats) {
        self.number = self.number.saturating_sub(1);
        let Some((kind, sent)) = self.oldest.take() else { return };
        let latency = sent.elapsed();
        match kind {
            Kind::First => record(&mut stats.latencies.lock().first_reply, latency),
            Kind::Heartbeat => record(&mut stats.latencies.lock().heartbeat_reply, latency),
            Kind::Status => {}
        }
    }

    /// Gives up what has been awaited for `patience`, and counts it as not answered.
    pub fn give_up(&mut self, patience: Duration, stats: &Stats) {
        if self.oldest.is_some_and(|(_, sent)| sent.elapsed() >= patience) {
            add(&stats.counters.unanswered, self.number.into());
            *self = Self::default();
        }
    }
}

/// Counts a connection for as long as it lives.
pub struct Connected<'a>(&'a Stats);

impl<'a> Connected<'a> {
    pub fn new(stats: &'a Stats) -> Self {
        stats.connected.fetch_add(1, Relaxed);
        Self(stats)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Endpoint;

    /// An agent must stay cheaper than the connection that it is there to measure.
    #[test]
    fn an_agent_is_small() {
        let plan = Plan {
            endpoints: vec!["ws://127.0.0.1:1".parse::<Endpoint>().unwrap()],
            transport: Transport::WebSocket,
            token: None,
            agents: 1,
            connects_per_second: 1,
            heartbeat: Duration::from_secs(30),
            report_bytes: 0,
            attributes: vec![],
            fail_percent: 0.0,
            reconnect: None,
            duration: None,
            source_addresses: vec![],
            seed: 0,
        };
        let stats = Arc::new(Stats::new());
        let reports = crate::load::agent::Reports::new(&plan);
        let shared = Arc::new(Shared { plan, stats, reports, stop: Default::default() });
        let bytes = size_of_val(&run(shared, 0, Instant::now()));
        assert!(bytes <= 2_048, "an agent's future has {bytes} bytes");
    }

    #[test]
    fn only_the_oldest_of_several_is_timed() {
        let (stats, mut awaited) = (Stats::new(), Awaited::default());
        awaited.sent(Kind::First, &stats);
        awaited.sent(Kind::Heartbeat, &stats);
        awaited.received(&stats);
        awaited.received(&stats);
        let latencies = stats.latencies.lock();
        assert_eq!((latencies.first_reply.len(), latencies.heartbeat_reply.len()), (1, 0));
        awaited.sent(Kind::Heartbeat, &stats);
        awaited.give_up(Duration::from_secs(3_600), &stats);
        assert_eq!(stats.counters.unanswered.load(Relaxed), 0, "it may still come");
        awaited.give_up(Duration::ZERO, &stats);
        assert_eq!(stats.counters.unanswered.load(Relaxed), 1);
    }
}
