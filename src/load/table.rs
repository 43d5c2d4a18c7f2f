//! The result of a run for people.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use super::summary::{Percentiles, Summary};

/// Enough of a hash to tell configurations apart.
const SHORT_HASH_CHARACTERS: usize = 12;

pub fn render(summary: &Summary) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} of {} agents connected over {} after {:.1} s (seed {})\n\n{}\n\n{}",
        summary.connected,
        summary.agents,
        summary.transport,
        summary.elapsed_seconds,
        summary.seed,
        latencies(summary),
        counts(summary),
    );
    for (status, number) in &summary.refused {
        let _ = writeln!(text, "refused with {status}: {number}");
    }
    for (error, number) in &summary.errors {
        let _ = writeln!(text, "{number} x {error}");
    }
    text
}

fn latencies(summary: &Summary) -> Table {
    let mut table = table(&["LATENCY (ms)", "COUNT", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"]);
    let mut row = |name: String, percentiles: &Percentiles| {
        let Percentiles { count, mean, p50, p90, p99, p999, max } = percentiles;
        let values = [mean, p50, p90, p99, p999, max].map(|ms| format!("{ms:.1}"));
        table.add_row([name, count.to_string()].into_iter().chain(values));
    };
    row("connect".to_owned(), &summary.latency_ms.connect);
    row("first reply".to_owned(), &summary.latency_ms.first_reply);
    row("heartbeat reply".to_owned(), &summary.latency_ms.heartbeat_reply);
    for config in &summary.configs {
        let hash = config.hash.get(..SHORT_HASH_CHARACTERS).unwrap_or(&config.hash);
        let from = config.from.replace('_', " ");
        row(format!("config {hash} from {from}"), &config.latency_ms);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn counts(summary: &Summary) -> Table {
    let mut table = table(&["COUNT", ""]);
    for (name, number) in &summary.counts {
        table.add_row([name.replace('_', " "), number.to_string()]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header.iter().copied());
    table
}
