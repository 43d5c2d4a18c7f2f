//! A rolling restart under load: each gateway drains, ends and is started again, one after another. How fast agents come back, and
//! whether any of them is lost or asked for what it has said. Prints figures; judges nothing.
//!
//!     cargo bench --bench rolling_restart
//!
//! A private Postgres and Redis, two config services, three gateways and one `muster load`, each a process on 127.0.0.1.
//! `MUSTER_BENCH_AGENTS` (9,000) and `MUSTER_BENCH_DRAIN_PER_SECOND` (200) change the size, and how fast a gateway sends its agents away.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on panics")]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{Load, change_config, setting, value, wait_for_fleet};
use support::{cluster::Cluster, eventually, node};
use tokio::task::JoinHandle;

/// Before each gateway ends, so that it has nothing else to do.
const SETTLE: Duration = Duration::from_secs(5);
/// Long enough for all agents at the pace that is set, so that none is sent away faster.
const WINDOW: &str = "120s";

#[tokio::main]
async fn main() {
    let agents = setting("MUSTER_BENCH_AGENTS", 9_000);
    let per_second = setting("MUSTER_BENCH_DRAIN_PER_SECOND", 200);
    let drain = per_second.to_string();
    let environment = [("MUSTER_DRAIN_PER_SECOND", &*drain), ("MUSTER_DRAIN_WINDOW", WINDOW)];
    let mut cluster = Cluster::start_with(3, 2, &environment).await;
    let ctl = cluster.ctl(0);
    let load = Load::start(&cluster, agents, 1_024);
    wait_for_fleet(&ctl, "connected", |fleet| fleet["connected"] == agents).await;
    change_config(&cluster, &ctl, agents, "a").await;

    let arrivals = Arrivals::watch(cluster.gateways.iter().map(|gateway| gateway.metrics()).collect());
    let mut drains = Vec::new();
    for index in 0..cluster.gateways.len() {
        tokio::time::sleep(SETTLE).await;
        let text = node::http_get(cluster.gateways[index].metrics(), "/metrics").await.unwrap();
        let connections = value(&text, "muster_gateway_tcp_connections");
        let started = Instant::now();
        cluster.gateways[index].terminate();
        cluster.gateways[index].ended().await;
        drains.push((connections, started.elapsed()));
        cluster.gateways[index].start().await;
        cluster.gateways[index].ready().await;
        eventually("all agents are back", async || {
            let fleet = ctl.json(&["fleet"]).await;
            (fleet["connected"] == agents).then_some(())
        })
        .await;
    }
    let rates = arrivals.end().await;
    let took = change_config(&cluster, &ctl, agents, "b").await;
    let result = load.end().await;

    println!("agents                                  {agents}");
    println!("sent away a second, as set              {per_second}");
    for (index, (connections, took)) in drains.into_iter().enumerate() {
        println!(
            "gateway {index}, drained                      {connections:.0} connections in {:.1} s",
            took.as_secs_f64()
        );
    }
    println!("reconnected                             {}", result["counts"]["disconnects"]);
    println!("reconnected a second, most in any 5 s   {:.0}", most(&rates, Duration::from_secs(5)));
    println!("reconnected in the fullest second       {:.0}", most(&rates, Duration::from_secs(1)));
    println!("connected at the end                    {}", result["connected"]);
    println!(
        "asked for full state / given a new uid  {} / {}",
        result["counts"]["full_state_asks"], result["counts"]["renames"]
    );
    println!("refused / errors                        {} / {}", result["counts"]["refused"], result["errors"]);
    println!(
        "offers / applied                        {} / {}",
        result["counts"]["offers"], result["counts"]["applied"]
    );
    println!("another configuration, with all         {:.1} s", took.as_secs_f64());
}

/// WebSockets that were opened, over all gateways, and when.
struct Arrivals {
    counts: Arc<Mutex<Vec<(Instant, f64)>>>,
    task: JoinHandle<()>,
}

impl Arrivals {
    fn watch(gateways: Vec<SocketAddr>) -> Self {
        let counts: Arc<Mutex<Vec<(Instant, f64)>>> = Arc::default();
        let seen = counts.clone();
        let task = tokio::spawn(async move {
            let mut last = vec![None; gateways.len()];
            let mut ticks = tokio::time::interval(Duration::from_millis(200));
            loop {
                ticks.tick().await;
                let mut opened = 0.0;
                for (gateway, last) in gateways.iter().zip(&mut last) {
                    let Some(text) = node::http_get(*gateway, "/metrics").await else { continue };
                    let now = value(&text, "muster_gateway_websockets_opened_total");
                    // One that was started again counts from 0.
                    opened += last.map_or(0.0, |last| if now < last { now } else { now - last });
                    *last = Some(now);
                }
                seen.lock().unwrap().push((Instant::now(), opened));
            }
        });
        Self { counts, task }
    }

    async fn end(self) -> Vec<(Instant, f64)> {
        self.task.abort();
        let _ = self.task.await;
        std::mem::take(&mut *self.counts.lock().unwrap())
    }
}

/// The highest mean rate over any time of about this length.
fn most(counts: &[(Instant, f64)], length: Duration) -> f64 {
    let rate = |(first, (from, _)): (usize, &(Instant, f64))| {
        let within = counts[first + 1..].iter().take_while(|(at, _)| *at <= *from + length);
        let opened: f64 = within.clone().map(|(_, opened)| opened).sum();
        within.last().map_or(0.0, |(until, _)| opened / (*until - *from).max(length / 2).as_secs_f64())
    };
    counts.iter().enumerate().map(rate).fold(0.0, f64::max)
}
