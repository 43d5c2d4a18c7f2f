//! CPU time, by what Linux says of processes.

use std::fs;

/// Clock ticks a second, on every Linux that there is.
const TICKS: f64 = 100.0;

/// Seconds that this process has used.
pub fn of_this() -> f64 {
    stat(std::process::id()).map_or(0.0, |stat| stat.seconds)
}

/// Seconds that a process and its children have used, those included that have ended.
pub fn of_family(parent: u32) -> f64 {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let family = pids.filter_map(stat).filter(|stat| stat.pid == parent || stat.parent == parent);
    family.map(|stat| stat.seconds + if stat.pid == parent { stat.ended_children } else { 0.0 }).sum()
}

struct Stat {
    pid: u32,
    parent: u32,
    seconds: f64,
    ended_children: f64,
}

/// See proc(5), `/proc/pid/stat`.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let seconds = |user: usize| -> Option<f64> {
        Some((fields[user].parse::<f64>().ok()? + fields[user + 1].parse::<f64>().ok()?) / TICKS)
    };
    Some(Stat { pid, parent: fields[1].parse().ok()?, seconds: seconds(11)?, ended_children: seconds(13)? })
}
