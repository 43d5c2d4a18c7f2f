//! Settings of what a node tells a collector of itself.

use clap::{Args, ValueEnum};

use super::values;
use crate::telemetry::otlp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Signals {
    /// Traces and metrics.
    All,
    Traces,
    /// Those of `/metrics`.
    Metrics,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Telemetry")]
pub struct Telemetry {
    /// Collector that traces and metrics are sent to by OTLP over HTTP, such as `http://collector:4318`. Without it, that of
    /// OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT; without those, nothing is sent, and no trace made.
    #[arg(long, value_name = "URL", value_parser = values::http_url)]
    otlp_endpoint: Option<String>,
    /// What is sent there.
    #[arg(long, value_name = "SIGNALS", value_enum, default_value = "all")]
    otlp_signals: Signals,
    /// How many of agents' reports are traced. Changes by operators all are. OTEL_TRACES_SAMPLER, where it is set, decides in place
    /// of this.
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = values::percent)]
    traced_reports: f64,
}

impl Telemetry {
    pub fn otlp(&self) -> otlp::Config {
        otlp::Config {
            endpoint: self.otlp_endpoint.clone(),
            sends_traces: self.otlp_signals != Signals::Metrics,
            sends_metrics: self.otlp_signals != Signals::Traces,
            traced_reports: self.traced_reports / 100.0,
        }
    }
}
