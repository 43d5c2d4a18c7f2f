//! What is counted and timed during a run.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::arrivals::Arrivals;

/// Most different error texts kept; the rest is counted together.
const MAX_ERRORS: usize = 32;

/// Largest latency that is told from larger ones.
const MAX_LATENCY_US: u64 = 600_000_000;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters, which only grow.
        #[derive(Default)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: AtomicU64,)+ }

        impl Counters {
            /// All of them by name, in the order of their declaration.
            pub fn read(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Relaxed)),)+]
            }
        }
    };
}

counters! {
    /// Connections that were established.
    connects,
    /// Connections that the agents dropped on purpose, to come back.
    drops,
    /// Connections that ended otherwise.
    disconnects,
    /// Attempts that were refused with an HTTP status.
    refused,
    /// Attempts that failed without an answer.
    connect_errors,
    /// Messages sent, heartbeats among them.
    sent,
    /// Heartbeats sent.
    heartbeats,
    /// Messages received.
    received,
    /// Messages that had no reply after half a heartbeat interval or more, when the next heartbeat was due.
    unanswered,
    /// Offers of a configuration that the agent did not have.
    offers,
    /// Of those, answered with APPLIED.
    applied,
    /// Of those, answered with FAILED.
    failed,
    /// Times that an agent was asked for its full state.
    full_state_asks,
    /// Times that an agent was given another uid.
    renames,
    /// Error responses received.
    error_responses,
    /// Bytes sent, WebSocket or HTTP framing included.
    sent_bytes,
    /// Bytes received, WebSocket or HTTP framing included.
    received_bytes,
}

/// Latencies, in microseconds.
pub struct Latencies {
    /// TCP connection and upgrade; with HTTP, TCP connection alone.
    pub connect: Histogram<u64>,
    /// From the first message of a connection to its reply.
    pub first_reply: Histogram<u64>,
    pub heartbeat_reply: Histogram<u64>,
}

pub struct Stats {
    pub counters: Counters,
    /// Agents that have a connection; with HTTP, whose last poll was answered.
    pub connected: AtomicU64,
    pub latencies: Mutex<Latencies>,
    pub arrivals: Mutex<Arrivals>,
    errors: Mutex<BTreeMap<String, u64>>,
    refused_by_status: Mutex<BTreeMap<u16, u64>>,
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

impl Stats {
    pub fn new() -> Self {
        let latencies =
            Latencies { connect: new_histogram(), first_reply: new_histogram(), heartbeat_reply: new_histogram() };
        Self {
            counters: Counters::default(),
            connected: AtomicU64::new(0),
            latencies: Mutex::new(latencies),
            arrivals: Mutex::default(),
            errors: Mutex::default(),
            refused_by_status: Mutex::default(),
        }
    }

    pub fn refused(&self, status: u16) {
        add(&self.counters.refused, 1);
        *self.refused_by_status.lock().entry(status).or_default() += 1;
    }

    /// Counts an error by its text.
    pub fn error(&self, text: String) {
        let mut errors = self.errors.lock();
        let is_room = errors.len() < MAX_ERRORS || errors.contains_key(&text);
        let text = if is_room { text } else { "(other errors)".to_owned() };
        *errors.entry(text).or_default() += 1;
    }

    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().clone()
    }

    pub fn refused_by_status(&self) -> BTreeMap<u16, u64> {
        self.refused_by_status.lock().clone()
    }
}

pub fn add(counter: &AtomicU64, number: usize) {
    counter.fetch_add(number as u64, Relaxed);
}

/// Of microseconds, to three significant digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new(3).unwrap_or_else(|_| unreachable!("the crate takes 0 to 5 digits"))
}

pub fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    record_ms(histogram, latency.as_secs_f64() * 1e3);
}

pub fn record_ms(histogram: &mut Histogram<u64>, latency_ms: f64) {
    let latency_us = ((latency_ms * 1e3) as u64).clamp(1, MAX_LATENCY_US);
    // A histogram that resizes takes every value up to its bound, which is above ours.
    let _ = histogram.record(latency_us);
}

pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
