//! The process's metrics in Prometheus's text format.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::process;

/// From the reply to a heartbeat (tens of microseconds) to a repair after an outage (minutes).
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
];
/// From a heartbeat to the largest message.
const BYTES: &[f64] =
    &[64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
/// Numbers of things, such as the reports of a batch.
const COUNTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0];

/// How often the recorder folds what was recorded into its buckets; what waits for it takes memory.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What the process's memory comes to for each agent of a gateway, code and caches included.
const PER_AGENT: &str = "muster_gateway_resident_bytes_per_agent";

/// Reads the process's metrics.
#[derive(Clone)]
pub struct Metrics {
    recorder: PrometheusHandle,
    agents: Arc<OnceLock<Count>>,
}

type Count = Box<dyn Fn() -> usize + Send + Sync>;

impl Metrics {
    /// Makes this process's recorder. Can be done once in a process.
    pub fn install() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(COUNTS)?
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES)?
            .install_recorder()?;
        process::started();
        metrics::describe_gauge!("muster_build_info", "1, with the version that runs.");
        metrics::gauge!("muster_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self { recorder, agents: Arc::default() })
    }

    /// Has the memory for each agent told; `agents` says how many there are.
    pub fn count_agents(&self, agents: impl Fn() -> usize + Send + Sync + 'static) {
        metrics::describe_gauge!(PER_AGENT, "Resident memory of the process by agents known; 0 without agents.");
        // There is one gateway in a process.
        let _ = self.agents.set(Box::new(agents));
    }

    /// When the process began to count.
    pub fn started_unix_nano(&self) -> u64 {
        process::started_at().map_or(0, |seconds| (seconds * 1e9) as u64)
    }

    /// Everything, as Prometheus scrapes it.
    pub fn render(&self) -> String {
        if let Some(agents) = self.agents.get() {
            let (agents, bytes) = (agents(), process::resident_bytes().unwrap_or(0.0));
            metrics::gauge!(PER_AGENT).set(if agents == 0 { 0.0 } else { bytes / agents as f64 });
        }
        let mut text = self.recorder.render();
        process::render(&mut text);
        text
    }

    /// Keeps the recorder small. Never ends.
    pub async fn upkeep(&self) {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            self.recorder.run_upkeep();
        }
    }
}
