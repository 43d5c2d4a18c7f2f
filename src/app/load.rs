//! `muster load`.

use anyhow::Context;

use super::{output, shutdown};
use crate::{
    load::{Fleet, Summary, progress, table},
    settings::{LoadRole, Output},
};

pub async fn run(role: LoadRole) -> anyhow::Result<()> {
    let plan = role.load.plan()?;
    let (agents, stop) = (plan.agents, shutdown::on_signal().context("signals")?);
    let fleet = Fleet::start(plan, stop);
    let stats = fleet.stats();
    let summary = tokio::select! {
        summary = fleet.finish() => summary,
        () = progress::show(stats, agents) => unreachable!("progress is shown for ever"),
    };
    progress::finish();
    write(&role, &summary)?;
    anyhow::ensure!(summary.latency_ms.first_reply.count > 0, "no agent got an answer");
    Ok(())
}

fn write(role: &LoadRole, summary: &Summary) -> anyhow::Result<()> {
    let json = || serde_json::to_string_pretty(summary).context("result");
    if let Some(path) = &role.load.json_file {
        std::fs::write(path, json()? + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    match role.load.output {
        Output::Table => output::write(table::render(summary).trim_end()),
        Output::Json => output::write(&json()?),
    }
    Ok(())
}
