//! The admin API's metrics.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tonic::Code;

const CALLS: &str = "muster_admin_calls_total";
const CALL_SECONDS: &str = "muster_admin_call_seconds";
const WATCHES: &str = "muster_admin_watches";
const HINTS_LOST: &str = "muster_admin_hints_lost_total";

/// Tells the recorder what the metrics mean.
pub fn describe() {
    describe_counter!(CALLS, "Calls of the admin API, by method and gRPC code");
    describe_histogram!(CALL_SECONDS, "Time to the first answer of an admin call, by method");
    describe_gauge!(WATCHES, "Watches of agents that are open");
    describe_counter!(HINTS_LOST, "Hints after a change that could not be published; they cost latency only");
    counter!(HINTS_LOST).increment(0);
}

pub(super) fn call(method: String, code: Code, took: Duration) {
    counter!(CALLS, "method" => method.clone(), "code" => format!("{code:?}")).increment(1);
    histogram!(CALL_SECONDS, "method" => method).record(took);
}

pub(super) fn hint_lost() {
    counter!(HINTS_LOST).increment(1);
}

/// Counts a watch while it lives.
pub(super) struct WatchGuard(());

pub(super) fn watch_opened() -> WatchGuard {
    gauge!(WATCHES).increment(1);
    WatchGuard(())
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        gauge!(WATCHES).decrement(1);
    }
}
