//! What tests of several tiers share. Each binary uses its part of it.
#![allow(dead_code)]

pub mod agent;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod ctl;
pub mod node;
pub mod otlp;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod s3;
pub mod sink;
pub mod standalone;
pub mod tls;
pub mod traces;

use std::time::{Duration, Instant};

/// Far longer than anything takes on a busy machine; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `check` until it has an answer. Panics with `what` when that takes longer than [`PATIENCE`].
pub async fn eventually<T>(what: &str, check: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, check).await
}

/// As [`eventually`], with another limit.
pub async fn eventually_within<T>(limit: Duration, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = check().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
