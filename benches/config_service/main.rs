//! How fast the config service is, on a private Postgres and on SQLite, with a gateway played by the benchmark.
//!
//! It prints figures and judges none: compare runs on one machine. See docs/performance.md.

#![allow(clippy::unwrap_used)]

mod cpu;
mod fleet;
mod gateway;
mod rollouts;
mod service;
mod stores;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{process::ExitCode, sync::Arc, time::Duration};

use muster::store::{
    SharedStore, Store,
    postgres::{Config, PostgresStore},
    sqlite::SqliteStore,
};

/// Agents that the first figures are made with, if the command line does not say.
const DEFAULT_AGENTS: u64 = 20_000;

const USAGE: &str =
    "cargo bench --bench config_service -- [--agents N] [--store postgres|sqlite|rollout] [--plans FILE]";

struct Options {
    agents: u64,
    /// All, if empty. `rollout`: only what a rollout costs, over Postgres.
    store: String,
    /// Where Postgres' plans of what a rollout asks of it go. Making them takes time.
    plans: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("usage: {USAGE}");
        return ExitCode::FAILURE;
    };
    println!("{} agents; times in seconds, the rest a second", options.agents);
    if matches!(options.store.as_str(), "" | "postgres") {
        let server = support::postgres::Server::start();
        let store = PostgresStore::connect(&server.new_database().await, Config::default()).unwrap();
        store.migrate().await.unwrap();
        measure("postgres", Arc::new(store), options.agents).await;
    }
    if matches!(options.store.as_str(), "" | "sqlite") {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("muster.db")).await.unwrap();
        measure("sqlite", Arc::new(store), options.agents).await;
    }
    if matches!(options.store.as_str(), "" | "rollout") {
        let server = support::postgres::Server::start();
        let plans = rollouts::measure(&server, options.agents, options.plans.is_some()).await;
        if let Some((file, plans)) = options.plans.zip(plans) {
            std::fs::write(file, plans).unwrap();
        }
    }
    ExitCode::SUCCESS
}

fn options() -> Option<Options> {
    let mut options = Options { agents: DEFAULT_AGENTS, store: String::new(), plans: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo says so by itself.
            "--bench" => {}
            "--agents" => options.agents = arguments.next()?.parse().ok()?,
            "--store" => {
                options.store = arguments.next().filter(|name| ["postgres", "sqlite", "rollout"].contains(&&**name))?;
            }
            "--plans" => options.plans = Some(arguments.next()?),
            _ => return None,
        }
    }
    Some(options)
}

async fn measure(name: &str, store: SharedStore, agents: u64) {
    println!("\n{name}");
    stores::measure(&store, agents).await;
    service::measure(&store, agents).await;
}

/// One line of the report.
fn rate(what: &str, count: u64, took: Duration) {
    println!("  {what:<48} {:>9.3} s {:>10.0} /s", took.as_secs_f64(), count as f64 / took.as_secs_f64());
}

fn time(what: &str, took: Duration) {
    println!("  {what:<48} {:>9.3} s", took.as_secs_f64());
}
