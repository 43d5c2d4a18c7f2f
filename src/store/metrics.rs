//! The metrics of this module, and the one place where operations are timed.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use super::{Error, Result};
use crate::trace;

const DURATION: &str = "muster_store_operation_duration_seconds";
const ERRORS: &str = "muster_store_operation_errors_total";

/// Registers the descriptions. The label `operation` is the name of a method of [`super::Store`].
pub fn describe() {
    metrics::describe_histogram!(
        DURATION,
        metrics::Unit::Seconds,
        "Time that store operations took, waiting included."
    );
    metrics::describe_counter!(ERRORS, "Store operations that failed because of the database.");
}

/// Runs one operation of `database`: counts and times it, gives up after `limit`, and names the operation in errors.
pub(super) async fn observed<T>(
    database: &'static str,
    operation: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let span = trace::child(operation, trace::Kind::Client).with("db.system.name", || database);
    let started = Instant::now();
    let result = match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Unreachable(format!("no answer within {limit:?}"))),
    };
    metrics::histogram!(DURATION, "operation" => operation).record(started.elapsed().as_secs_f64());
    result.map_err(|error| {
        let named = match error {
            Error::Unreachable(text) => Error::Unreachable(format!("{operation}: {text}")),
            Error::Settings(text) => Error::Settings(format!("{operation}: {text}")),
            Error::Internal(text) => Error::Internal(format!("{operation}: {text}")),
            Error::Schema(_) => error,
            // Answers to the caller, not trouble of the database.
            Error::NotFound { .. }
            | Error::AlreadyExists { .. }
            | Error::BeingDeleted { .. }
            | Error::InUse { .. }
            | Error::Ambiguous { .. }
            | Error::WrongState { .. }
            | Error::EtagMismatch { .. }
            | Error::TooMany { .. }
            | Error::Refused(_) => return error,
        };
        metrics::counter!(ERRORS, "operation" => operation).increment(1);
        span.failed(|| named.to_string());
        named
    })
}
