//! `/metrics`, `/healthz` and `/readyz`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{config_service, gateway, telemetry::Metrics};

/// Connections at a time: a few scrapers and probes, and somebody's browser. Further ones wait.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may take to send a request's head, or idle between two.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to pause when no connection can be accepted, as when all files are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// `Err` says why the component is not ready.
type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What this node tells of itself.
pub struct Health {
    metrics: Metrics,
    checks: Vec<(&'static str, Check)>,
}

impl Health {
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, checks: Vec::new() }
    }

    /// The node is ready when all checks are passed.
    fn check(&mut self, component: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.checks.push((component, Box::new(check)));
    }

    /// A node that shuts down takes nothing new.
    pub fn shutdown(&mut self, shutdown: &CancellationToken) {
        let shutdown = shutdown.clone();
        let is_over = move || if shutdown.is_cancelled() { Err("shutting down".to_owned()) } else { Ok(()) };
        self.check("process", is_over);
    }

    pub fn gateway(&mut self, gateway: gateway::Handle) {
        let counted = gateway.clone();
        self.metrics.count_agents(move || counted.agents());
        self.check("gateway", move || if gateway.is_ready() { Ok(()) } else { Err(gateway.reason()) });
    }

    pub fn config_service(&mut self, service: config_service::Handle) {
        let starting = || Err("has not read the policies and taken up its share of the agents yet".to_owned());
        self.check("config service", move || if service.is_ready() { Ok(()) } else { starting() });
    }

    /// Serves until `shutdown`.
    pub async fn run(self, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
        let metrics = self.metrics.clone();
        let routes = Router::new()
            .route("/metrics", get(scrape))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(Arc::new(self));
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = metrics.upkeep() => {}
            () = serve(listener, routes) => {}
        }
        Ok(())
    }

    /// One JSON object a line for each component that is not ready.
    fn reasons(&self) -> String {
        let failed = self.checks.iter().filter_map(|(component, check)| Some((component, check().err()?)));
        failed
            .map(|(component, reason)| format!("{}\n", serde_json::json!({"component": component, "reason": reason})))
            .collect()
    }
}

async fn serve(listener: TcpListener, routes: Router) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(routes.clone());
        connections.spawn(async move {
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A peer that breaks off is its own affair.
            let _ = served.await;
            drop(permit);
        });
    }
}

async fn scrape(State(health): State<Arc<Health>>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], health.metrics.render()).into_response()
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    let reasons = health.reasons();
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, [(CONTENT_TYPE, "application/jsonl")], reasons).into_response()
}
