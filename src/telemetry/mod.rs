//! Logs and metrics of the process: where they go, and in which form. What is logged and measured belongs to the modules.

pub mod logs;
pub mod metrics;
mod process;

pub use metrics::Metrics;
