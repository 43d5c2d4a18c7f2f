//! What every command starts with: logs, limits, a runtime.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Context;

use super::limits;
use crate::{
    settings::{self, LogFormat, Process},
    telemetry::{Metrics, logs},
};

/// The environment, as far as it concerns us. Text that is not UTF-8 cannot be a value of any setting; it is replaced, and
/// refused where it is read.
pub fn environment() -> BTreeMap<String, String> {
    let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
    let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    all.filter(|(name, _)| name.starts_with("MUSTER_")).collect()
}

/// Runs a server: a role with metrics.
pub fn server<F: Future<Output = anyhow::Result<()>>>(
    process: &Process,
    unknown_variables: Vec<String>,
    run: impl FnOnce(Metrics) -> F,
) -> ExitCode {
    tool(Some(process), unknown_variables, async {
        let metrics = Metrics::install().context("metrics")?;
        run(metrics).await
    })
}

/// Runs a command to its end.
pub fn tool(
    process: Option<&Process>,
    unknown_variables: Vec<String>,
    run: impl Future<Output = anyhow::Result<()>>,
) -> ExitCode {
    match prepare(process, unknown_variables).and_then(|runtime| runtime.block_on(Box::pin(run))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // The status that clap uses for a command line that cannot work.
            ExitCode::from(if error.is::<settings::Error>() { 2 } else { 1 })
        }
    }
}

/// Runs a command that judges something: 1 is a bad result, an error that there is none.
pub fn judged(
    process: &Process,
    unknown_variables: Vec<String>,
    run: impl Future<Output = anyhow::Result<ExitCode>>,
) -> ExitCode {
    let result = prepare(Some(process), unknown_variables).and_then(|runtime| runtime.block_on(Box::pin(run)));
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn prepare(process: Option<&Process>, unknown_variables: Vec<String>) -> anyhow::Result<tokio::runtime::Runtime> {
    if let Some(process) = process {
        let format = match process.log_format {
            LogFormat::Text => logs::Format::Text,
            LogFormat::Json => logs::Format::Json,
        };
        logs::init(format, &process.log_level).with_context(|| format!("log-level {:?}", process.log_level))?;
    }
    for name in unknown_variables {
        tracing::warn!(variable = name, "an environment variable looks like a setting and is none");
    }
    limits::raise_open_files();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("runtime")
}
