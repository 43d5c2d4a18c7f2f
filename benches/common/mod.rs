//! What benchmarks of a whole deployment share: its agents, its configurations, and waiting for both.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{cluster::Cluster, ctl::Ctl, eventually_within, node, process::Process};

pub const PATIENCE: Duration = Duration::from_secs(300);
pub const CONFIG_BYTES: usize = 4 * 1024;
/// Agents that connect each second.
const CONNECTS_PER_SECOND: usize = 1_000;
const HEARTBEAT: Duration = Duration::from_secs(30);

pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// A `muster load` that runs.
pub struct Load {
    process: Process,
    folder: TempDir,
}

impl Load {
    /// Agents spread over all gateways, whose first report has so many bytes.
    pub fn start(cluster: &Cluster, agents: usize, report_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command: Command = node::clean(env!("CARGO_BIN_EXE_muster"));
        command.arg("load");
        for gateway in cluster.opamp() {
            command.args(["--url", &format!("ws://{gateway}/v1/opamp")]);
        }
        command
            .args(["--token", cluster.agent_token()])
            .args(["--agents", &agents.to_string(), "--rate", &CONNECTS_PER_SECOND.to_string()])
            .args(["--report-bytes", &report_bytes.to_string()])
            .args(["--heartbeat", &humantime::format_duration(HEARTBEAT).to_string()])
            .arg("--json-file")
            .arg(result_file(folder.path()));
        let process = Process::spawn("load", &mut command, folder.path().join("load.log"));
        Self { process, folder }
    }

    /// Ends it; what it has seen.
    pub async fn end(mut self) -> Value {
        self.process.signal(Signal::INT);
        self.process.ended(PATIENCE).await;
        serde_json::from_slice(&std::fs::read(result_file(self.folder.path())).unwrap()).unwrap()
    }
}

fn result_file(folder: &Path) -> std::path::PathBuf {
    folder.join("load.json")
}

/// Until the summary of the fleet is so.
pub async fn wait_for_fleet(ctl: &Ctl, what: &str, holds: impl Fn(&Value) -> bool) {
    let started = Instant::now();
    eventually_within(PATIENCE, what, async || holds(&ctl.json(&["fleet"]).await).then_some(())).await;
    eprintln!("all {what} after {:.1} s", started.elapsed().as_secs_f64());
}

/// Until everything that agents said is stored.
pub async fn wait_for_reports(cluster: &Cluster) {
    eventually_within(PATIENCE, "every report is stored", async || {
        for gateway in &cluster.gateways {
            let text = node::http_get(gateway.metrics(), "/metrics").await?;
            if value(&text, "muster_gateway_reports_pending") > 0.0 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Applies another configuration of [`CONFIG_BYTES`], and waits until all agents run it and have said so. How long that took.
pub async fn change_config(cluster: &Cluster, ctl: &Ctl, agents: usize, filling: &str) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    let wanted = offers_sent(cluster).await + agents as f64;
    std::fs::write(&file, manifest(filling)).unwrap();
    let started = Instant::now();
    ctl.run(&["apply", "-f", &file.to_string_lossy()]).await;
    eventually_within(PATIENCE, "every agent is offered it", async || {
        (offers_sent(cluster).await >= wanted).then_some(())
    })
    .await;
    wait_for_fleet(ctl, "run the configuration", |fleet| fleet["converged"] == agents).await;
    let took = started.elapsed();
    wait_for_reports(cluster).await;
    took
}

/// By all gateways.
async fn offers_sent(cluster: &Cluster) -> f64 {
    let mut sent = 0.0;
    for gateway in &cluster.gateways {
        let text = node::http_get(gateway.metrics(), "/metrics").await.unwrap();
        sent += value(&text, "muster_gateway_offers_sent_total");
    }
    sent
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

/// Of a metric without labels; 0 if there is none.
pub fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}
