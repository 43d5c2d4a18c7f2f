//! What one gateway costs: resident memory per idle agent, CPU per heartbeat, and how long a 4 KB configuration takes to
//! every agent. Prints figures; judges nothing.
//!
//!     cargo bench --bench gateway
//!
//! A private Postgres and Redis, one config service, one gateway and one `muster load`, each a process on 127.0.0.1.
//! `MUSTER_BENCH_AGENTS` (15,000) and `MUSTER_BENCH_SECONDS` (30, of counted heartbeats) change the size.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use support::{cluster::Cluster, ctl::Ctl, eventually_within, node, process::Process};

/// Each agent's first report.
const REPORT_BYTES: usize = 16 * 1024;
const CONFIG_BYTES: usize = 4 * 1024;
const CONNECTS_PER_SECOND: usize = 1_000;
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Time for the allocator to give back what the connecting took.
const SETTLE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() {
    let agents = setting("MUSTER_BENCH_AGENTS", 15_000);
    let seconds = setting("MUSTER_BENCH_SECONDS", 30);
    let cluster = Cluster::start(1, 1).await;
    let ctl = cluster.ctl(0);
    let before = Scrape::of(&cluster).await;
    let results = tempfile::tempdir().unwrap();
    let result_file = results.path().join("load.json");
    let mut load = start_load(&cluster, agents, &result_file);

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

    load.signal(Signal::INT);
    load.ended(PATIENCE).await;
    let result: Value = serde_json::from_slice(&std::fs::read(result_file).unwrap()).unwrap();
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

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

fn start_load(cluster: &Cluster, agents: usize, result_file: &std::path::Path) -> Process {
    let mut command: Command = node::clean(env!("CARGO_BIN_EXE_muster"));
    command
        .arg("load")
        .args(["--url", &format!("ws://{}/v1/opamp", cluster.opamp()[0])])
        .args(["--token", cluster.agent_token()])
        .args(["--agents", &agents.to_string(), "--rate", &CONNECTS_PER_SECOND.to_string()])
        .args(["--report-bytes", &REPORT_BYTES.to_string()])
        .args(["--heartbeat", &humantime::format_duration(HEARTBEAT).to_string()])
        .arg("--json-file")
        .arg(result_file);
    Process::spawn("load", &mut command, result_file.with_extension("log"))
}

async fn wait_for_fleet(ctl: &Ctl, what: &str, holds: impl Fn(&Value) -> bool) {
    let started = Instant::now();
    eventually_within(PATIENCE, what, async || holds(&ctl.json(&["fleet"]).await).then_some(())).await;
    eprintln!("all {what} after {:.1} s", started.elapsed().as_secs_f64());
}

/// Until everything that agents said is stored.
async fn wait_for_reports(cluster: &Cluster) {
    let address = cluster.gateways[0].metrics();
    eventually_within(PATIENCE, "every report is stored", async || {
        let text = node::http_get(address, "/metrics").await?;
        (value(&text, "muster_gateway_reports_pending") == 0.0).then_some(())
    })
    .await;
}

/// Applies another configuration, and waits until all agents run it and have said so.
async fn change_config(cluster: &Cluster, ctl: &Ctl, agents: usize, filling: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    let wanted = Scrape::of(cluster).await.offers_sent + agents as f64;
    std::fs::write(&file, manifest(filling)).unwrap();
    ctl.run(&["apply", "-f", &file.to_string_lossy()]).await;
    eventually_within(PATIENCE, "every agent is offered it", async || {
        (Scrape::of(cluster).await.offers_sent >= wanted).then_some(())
    })
    .await;
    wait_for_fleet(ctl, "run the configuration", |fleet| fleet["converged"] == agents).await;
    wait_for_reports(cluster).await;
}

/// A policy for all agents, with one file.
fn manifest(filling: &str) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let filling = filling.repeat(CONFIG_BYTES - 64);
    format!(
        "kind: Config\nname: bench\nselector: service.name\nfiles:\n  collector.yaml:\n    content_type: text/yaml\n    \
         body: |\n      # muster-load-sent-unix-ms: {now}\n      filling: {filling}\n"
    )
}

/// What the gateway says of itself at one moment.
struct Scrape {
    resident_bytes: f64,
    cpu_seconds: f64,
    heartbeats: f64,
    offers_sent: f64,
}

impl Scrape {
    async fn of(cluster: &Cluster) -> Self {
        let text = node::http_get(cluster.gateways[0].metrics(), "/metrics").await.unwrap();
        Self {
            resident_bytes: value(&text, "process_resident_memory_bytes"),
            cpu_seconds: value(&text, "process_cpu_seconds_total"),
            heartbeats: value(&text, "muster_gateway_heartbeats_total"),
            offers_sent: value(&text, "muster_gateway_offers_sent_total"),
        }
    }
}

fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}
