//! `muster conformance`.

use std::process::ExitCode;

use anyhow::Context;

use super::output;
use crate::{
    conformance,
    settings::{ConformanceOutput, ConformanceRole},
};

/// The exit code says whether the server does what it must. That there is no server is an error.
pub async fn run(role: ConformanceRole) -> anyhow::Result<ExitCode> {
    let settings = role.conformance;
    let report = conformance::run(&settings.plan()?).await?;
    match settings.output {
        ConformanceOutput::Table => output::write(&report.table()),
        ConformanceOutput::Json => output::write(&serde_json::to_string_pretty(&report).context("result")?),
        ConformanceOutput::Junit => output::write(&report.junit()),
    }
    Ok(if report.is_good(settings.strict) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
