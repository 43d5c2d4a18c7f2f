//! The result of a run, as it is written in JSON. `docs/load.md` describes it.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Plan, Stats};

#[derive(Debug, Serialize)]
pub struct Summary {
    pub endpoints: Vec<String>,
    pub transport: &'static str,
    pub agents: u32,
    /// Agents that were connected at the end.
    pub connected: u64,
    pub seed: u64,
    pub elapsed_seconds: f64,
    pub latency_ms: Latencies,
    /// One for each configuration that arrived, in the order of their first arrival.
    pub configs: Vec<Config>,
    pub counts: BTreeMap<&'static str, u64>,
    /// Refused attempts by HTTP status.
    pub refused: BTreeMap<u16, u64>,
    /// Errors by their text.
    pub errors: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
pub struct Latencies {
    pub connect: Percentiles,
    pub first_reply: Percentiles,
    pub heartbeat_reply: Percentiles,
}

#[derive(Debug, Serialize)]
pub struct Config {
    /// Hexadecimal.
    pub hash: String,
    /// Where the time is counted from: `sent`, which the configuration's body states, or `first_arrival` at any agent.
    pub from: &'static str,
    pub latency_ms: Percentiles,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |us: u64| us as f64 / 1e3;
        Self {
            count: histogram.len(),
            mean: (histogram.mean()).round() / 1e3,
            p50: ms(histogram.value_at_quantile(0.5)),
            p90: ms(histogram.value_at_quantile(0.9)),
            p99: ms(histogram.value_at_quantile(0.99)),
            p999: ms(histogram.value_at_quantile(0.999)),
            max: ms(histogram.max()),
        }
    }
}

impl Summary {
    pub fn new(plan: &Plan, stats: &Stats, elapsed: Duration) -> Self {
        let latencies = stats.latencies.lock();
        let arrivals = stats.arrivals.lock();
        let config = |(hash, arrival): (&bytes::Bytes, &super::arrivals::Arrival)| Config {
            hash: hex::encode(hash),
            from: if arrival.is_from_body { "sent" } else { "first_arrival" },
            latency_ms: Percentiles::of(&arrival.latency),
        };
        Self {
            endpoints: plan.endpoints.iter().map(ToString::to_string).collect(),
            transport: plan.transport.name(),
            agents: plan.agents,
            connected: stats.connected.load(Relaxed),
            seed: plan.seed,
            elapsed_seconds: (elapsed.as_secs_f64() * 1e3).round() / 1e3,
            latency_ms: Latencies {
                connect: Percentiles::of(&latencies.connect),
                first_reply: Percentiles::of(&latencies.first_reply),
                heartbeat_reply: Percentiles::of(&latencies.heartbeat_reply),
            },
            configs: arrivals.in_order().into_iter().map(config).collect(),
            counts: stats.counters.read().into_iter().collect(),
            refused: stats.refused_by_status(),
            errors: stats.errors(),
        }
    }
}
