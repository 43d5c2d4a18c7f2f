//! What is the same in both databases: one text, compiled as a submodule of each of them against its own types. (Code
//! that is generic over the database would drag a page of sqlx's bounds through every function.)
//!
//! Of the module around it this uses: `Backend`, the store, with `reader()`, `begin()`, `snapshot()`, `limit()` and
//! `run_migrations()`; `Tx`; `Connection`; `MIGRATOR`; `DATABASE`, what spans call it; and the batches, which each database does in its own way.
//!
//! Statements keep to what both databases understand, `$1` for parameters included.

mod agents;
mod audit;
mod certificates;
mod commands;
mod components;
mod contents;
mod counters;
mod fleet;
mod moves;
mod news;
mod operations;
mod overrides;
mod package_files;
mod policies;
mod rollouts;
mod schema;
mod tokens;

use std::time::Duration;

use super::{
    Backend, Connection, DATABASE, MIGRATOR, Tx, agent_batches, command_batches, content_batches, move_batches,
    news_batches,
};
use crate::store::{Result, metrics};

/// Runs one operation, as every one is to be run.
async fn observed<T>(operation: &'static str, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    metrics::observed(DATABASE, operation, limit, work).await
}
