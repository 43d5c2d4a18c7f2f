//! What one gateway costs: resident memory per idle agent, CPU per heartbeat, and how long a 4 KB configuration takes to
//! every agent. Prints figures; judges nothing.
//!
//!     cargo bench --bench gateway
//!
//! A private Postgres and Redis, one config service, one gateway and one `muster load`, each a process on 127.0.0.1.
//! `MUSTER_BENCH_AGENTS` (15,000) and `MUSTER_BENCH_SECONDS` (30, of counted heartbeats) change the size.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use common::{CONFIG_BYTES, Load, change_config, setting, value, wait_for_fleet, wait_for_reports};
use support::{cluster::Cluster, node};

/// Each agent's first report.
const REPORT_BYTES: usize = 16 * 1024;
/// Time for the allocator to give back what the connecting took.
const SETTLE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() {
    let agents = setting("MUSTER_BENCH_AGENTS", 15_000);
    let seconds = setting("MUSTER_BENCH_SECONDS", 30);
    let cluster = Cluster::start(1, 1).await;
    let ctl = cluster.ctl(0);
    let before = Scrape::of(&cluster).await;
    let load = Load::start(&cluster, agents, REPORT_BYTES);

    wait_for_fleet(&ctl, "connected", |fleet| fleet["connected"] == agents).await;
    wait_for_reports(&cluster).await;
    tokio::time::sleep(SETTLE).await;
    let connected = Scrape::of(&cluster).await;

    change_config(&cluster, &ctl, agents, "a").await;
    tokio::time::sleep(SETTLE).await;
    let idle = Scrape::of(&cluster).await;
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let later = Scrape::of(&cluster).await;

    change_config(&cluster, &ctl, agents, "b").await;

    let result = load.end().await;
    let per_agent = |after: &Scrape| (after.resident_bytes - before.resident_bytes) / agents as f64;
    let heartbeats = later.heartbeats - idle.heartbeats;
    println!("agents                                  {agents}");
    println!("gateway, resident without agents        {:.1} MB", before.resident_bytes / 1e6);
    println!("resident per agent, after its report    {:.0} B", per_agent(&connected));
    println!("resident per agent, after a config      {:.0} B", per_agent(&idle));
    println!("resident per agent, heartbeats later    {:.0} B", per_agent(&later));
    println!(
        "CPU per heartbeat                       {:.1} µs ({heartbeats} in {seconds} s)",
        (later.cpu_seconds - idle.cpu_seconds) / heartbeats * 1e6
    );
    for config in result["configs"].as_array().unwrap() {
        let ms = &config["latency_ms"];
        println!(
            "{CONFIG_BYTES} B config to all, from {:<13} p50 {} ms, p99 {} ms, last {} ms ({} agents)",
            config["from"].as_str().unwrap(),
            ms["p50"],
            ms["p99"],
            ms["max"],
            ms["count"]
        );
    }
    println!("load                                    {}", result["counts"]);
    println!("latencies, ms                           {}", result["latency_ms"]);
}

/// What the gateway says of itself at one moment.
struct Scrape {
    resident_bytes: f64,
    cpu_seconds: f64,
    heartbeats: f64,
}

impl Scrape {
    async fn of(cluster: &Cluster) -> Self {
        let text = node::http_get(cluster.gateways[0].metrics(), "/metrics").await.unwrap();
        Self {
            resident_bytes: value(&text, "process_resident_memory_bytes"),
            cpu_seconds: value(&text, "process_cpu_seconds_total"),
            heartbeats: value(&text, "muster_gateway_heartbeats_total"),
        }
    }
}
