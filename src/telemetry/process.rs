//! Metrics of the process itself, under the names that Prometheus's client libraries have agreed on.

use std::{
    fmt::Write,
    fs,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

static STARTED: OnceLock<f64> = OnceLock::new();

/// Remembers when the process started.
pub fn started() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    STARTED.get_or_init(|| now);
}

/// When that was, in seconds since the Unix epoch.
pub fn started_at() -> Option<f64> {
    STARTED.get().copied()
}

/// Appends the metrics that this system can tell.
pub fn render(text: &mut String) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    let limit = getrlimit(Resource::Nofile).current.map(|files| files as f64);
    let metrics = [
        ("process_cpu_seconds_total", "counter", "CPU time spent.", Some(cpu_seconds)),
        ("process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes()),
        ("process_open_fds", "gauge", "Open file descriptors.", open_files()),
        ("process_max_fds", "gauge", "Most file descriptors that may be open.", limit),
        ("process_start_time_seconds", "gauge", "Unix time of the start.", started_at()),
    ];
    for (name, kind, help, value) in metrics {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }
}

/// From `/proc`; `None` on systems without it.
pub fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    Some(kib.trim().parse::<f64>().ok()? * 1024.0)
}

fn open_files() -> Option<f64> {
    // Less the one that the listing itself opens.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_files_and_spent_time() {
        started();
        let mut text = String::new();
        render(&mut text);
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
            assert!(value.parse::<f64>().unwrap() > 0.0, "{name} {value}");
        }
        assert_eq!(text.matches("# TYPE").count(), 5);
    }
}
