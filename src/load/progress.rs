//! The live line on the terminal.

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};

use super::Stats;

/// A terminal's line is replaced this often.
const TERMINAL_INTERVAL: Duration = Duration::from_secs(1);
/// A log gets a line this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Writes how the run goes to standard error, for as long as it is polled.
pub async fn show(stats: Arc<Stats>, agents: u32) {
    let is_terminal = std::io::stderr().is_terminal();
    let mut ticks = tokio::time::interval(if is_terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut last_sent, mut last_received, mut last_at) = (0, 0, Instant::now());
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let counters = &stats.counters;
        let (sent, received) = (counters.sent.load(Relaxed), counters.received.load(Relaxed));
        let seconds = last_at.elapsed().as_secs_f64().max(1e-3);
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let line = format!(
            "connected {}/{agents}  sent {:.0}/s  received {:.0}/s  applied {}  failed {}  disconnects {}  refused {}  connect errors {}",
            stats.connected.load(Relaxed),
            per_second(sent, last_sent),
            per_second(received, last_received),
            counters.applied.load(Relaxed),
            counters.failed.load(Relaxed),
            counters.disconnects.load(Relaxed),
            counters.refused.load(Relaxed),
            counters.connect_errors.load(Relaxed),
        );
        (last_sent, last_received, last_at) = (sent, received, Instant::now());
        write(&line, is_terminal);
    }
}

/// Ends the live line, so that what follows starts on its own.
pub fn finish() {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
}

fn write(line: &str, is_terminal: bool) {
    if is_terminal {
        eprint!("\r\x1b[2K{line}");
        // A terminal that is gone is no reason to stop.
        let _ = std::io::stderr().flush();
    } else {
        eprintln!("{line}");
    }
}
