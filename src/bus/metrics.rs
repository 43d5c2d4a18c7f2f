//! The bus's metrics.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tokio::time::Instant;

use super::{Error, Topic};
use crate::trace;

const PUBLISHED: &str = "muster_bus_published_total";
const PUBLISHED_BYTES: &str = "muster_bus_published_bytes_total";
const PUBLISH_FAILURES: &str = "muster_bus_publish_failures_total";
const RECEIVED: &str = "muster_bus_received_total";
const DROPPED: &str = "muster_bus_dropped_total";
const GAPS: &str = "muster_bus_gaps_total";
const CONNECTS: &str = "muster_bus_connects_total";
const REACHABLE: &str = "muster_bus_reachable";
const DURATION: &str = "muster_bus_operation_duration_seconds";

/// Registers the descriptions with the process's recorder.
pub fn describe() {
    describe_counter!(PUBLISHED, Unit::Count, "Messages published, by kind of topic.");
    describe_counter!(PUBLISHED_BYTES, Unit::Bytes, "Payload bytes published, by kind of topic.");
    describe_counter!(PUBLISH_FAILURES, Unit::Count, "Messages that could not be published, by kind of topic.");
    describe_counter!(RECEIVED, Unit::Count, "Messages received from the bus, by kind of topic.");
    describe_counter!(DROPPED, Unit::Count, "Messages dropped for a slow subscriber, by kind of topic.");
    describe_counter!(GAPS, Unit::Count, "Intervals in which messages may have been missed, by reason.");
    describe_counter!(CONNECTS, Unit::Count, "Connections made to the bus, by link.");
    describe_gauge!(REACHABLE, Unit::Count, "1 while the link to the bus is up, by link.");
    describe_histogram!(DURATION, Unit::Seconds, "Time that operations of the bus took, by operation.");
}

/// Runs one operation, and times it.
pub(super) async fn observed<T>(
    operation: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let started = Instant::now();
    let result = work.await;
    histogram!(DURATION, "operation" => operation).record(started.elapsed().as_secs_f64());
    result
}

/// Publishes `payload` by `work`.
pub(super) async fn publishing(
    system: &'static str,
    topic: &Topic,
    bytes: usize,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let span = trace::child("publish", trace::Kind::Producer)
        .with("messaging.system", || system)
        .with("messaging.operation.type", || "send")
        .with("messaging.destination.name", || topic.to_string())
        .with("messaging.message.body.size", || bytes as i64);
    let result = observed("publish", work).await;
    match &result {
        Ok(()) => published(topic, bytes),
        Err(error) => {
            publish_failed(topic);
            span.failed(|| error.to_string());
        }
    }
    result
}

fn published(topic: &Topic, bytes: usize) {
    counter!(PUBLISHED, "topic" => kind(topic)).increment(1);
    counter!(PUBLISHED_BYTES, "topic" => kind(topic)).increment(bytes as u64);
}

fn publish_failed(topic: &Topic) {
    counter!(PUBLISH_FAILURES, "topic" => kind(topic)).increment(1);
}

pub(super) fn received(topic: &Topic) {
    counter!(RECEIVED, "topic" => kind(topic)).increment(1);
}

pub(super) fn dropped(topic: &Topic) {
    counter!(DROPPED, "topic" => kind(topic)).increment(1);
}

pub(super) fn gap(reason: &'static str) {
    counter!(GAPS, "reason" => reason).increment(1);
}

pub(super) fn link_up(link: &'static str) {
    counter!(CONNECTS, "link" => link).increment(1);
    gauge!(REACHABLE, "link" => link).set(1);
}

pub(super) fn link_down(link: &'static str) {
    gauge!(REACHABLE, "link" => link).set(0);
}

/// Bounded: shards and gateways are not told apart.
fn kind(topic: &Topic) -> &'static str {
    match topic {
        Topic::Shard(_) => "shard",
        Topic::Gateway(_) => "gateway",
        Topic::ConfigService => "config_service",
        Topic::AgentsChanged => "agents_changed",
        Topic::AgentMessages => "agent_messages",
    }
}
