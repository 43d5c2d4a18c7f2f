//! Simulated agents, for load tests and for the demonstration inside `standalone`.
//!
//! Each agent is one small task that behaves as the opamp-go client does: a full first report, heartbeats, sequence
//! numbers, an answer to each configuration, a full report when asked, back-off and `Retry-After`. The tool must cost
//! less than what it measures, so it has its own WebSocket and HTTP client loops: reads go through one buffer a thread,
//! and an idle agent holds a socket, its state and one timer.
//!
//! Architecture invariant: shares nothing with the server's protocol code but the generated types, so that a mistake
//! there cannot cancel itself out here. Knows neither settings nor the terminal, [`progress`] and [`table`] excepted.

mod agent;
mod arrivals;
pub mod endpoint;
mod frame;
mod head;
mod http;
pub mod plan;
pub mod progress;
mod session;
pub mod stats;
pub mod summary;
pub mod table;
mod transport;
mod websocket;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use endpoint::Endpoint;
pub use plan::{Plan, Transport};
pub use stats::Stats;
pub use summary::Summary;

/// How fast agents leave at the end, so that a large fleet's goodbyes are not one burst.
const LEAVES_PER_SECOND: u32 = 5_000;

/// How long the agents may take to say goodbye beyond their pace; those that are still busy are dropped.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(5);

/// What all agents of one run share.
struct Shared {
    plan: Plan,
    stats: Arc<Stats>,
    reports: agent::Reports,
    stop: CancellationToken,
}

/// Simulated agents that run until they are stopped.
pub struct Fleet {
    shared: Arc<Shared>,
    agents: TaskTracker,
    started: Instant,
}

impl Fleet {
    /// Starts the agents at the plan's pace. They stop when `stop` is cancelled.
    pub fn start(plan: Plan, stop: CancellationToken) -> Self {
        let stats = Arc::new(Stats::new());
        let reports = agent::Reports::new(&plan);
        let shared = Arc::new(Shared { plan, stats, reports, stop });
        let agents = TaskTracker::new();
        let started = Instant::now();
        for index in 0..shared.plan.agents {
            let delay = Duration::from_secs_f64(f64::from(index) / f64::from(shared.plan.connects_per_second));
            agents.spawn(session::run(shared.clone(), index, started + delay));
        }
        agents.close();
        Self { shared, agents, started }
    }

    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }

    /// Waits for the plan's duration, or until the fleet is stopped, and lets the agents leave.
    pub async fn finish(self) -> Summary {
        let stop = &self.shared.stop;
        match self.shared.plan.duration {
            Some(duration) => tokio::select! {
                () = tokio::time::sleep_until(self.started + duration) => {}
                () = stop.cancelled() => {}
            },
            None => stop.cancelled().await,
        }
        let summary = Summary::new(&self.shared.plan, &self.shared.stats, self.started.elapsed());
        stop.cancel();
        let pace = Duration::from_secs(u64::from(self.shared.plan.agents / LEAVES_PER_SECOND));
        // What has not left by then goes with the process.
        let _ = tokio::time::timeout(pace + LEAVING_TIMEOUT, self.agents.wait()).await;
        summary
    }
}
