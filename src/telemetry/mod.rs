//! Logs, metrics and traces of the process: where they go, and in which form. What is logged and measured belongs to the modules.

mod exposition;
mod http;
pub mod logs;
pub mod metrics;
pub mod otlp;
mod otlp_metrics;
mod process;

pub use metrics::Metrics;
