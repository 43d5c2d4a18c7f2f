//! Child processes that never outlive the test, even if the test is killed.

use std::{
    fs::File,
    io::Write,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::eventually_within;

pub struct Process {
    name: String,
    child: Child,
    watchdog: Child,
    /// Standard output and error of the child.
    log: PathBuf,
}

/// Waits for its input to end, as it does however the test ends, and kills the process then. A line of input
/// dismisses it.
const WATCHDOG: &str = "read -r dismissed || kill -KILL \"$1\"";

impl Process {
    /// Starts `command`. What it prints goes to the file `log`, and to the test's output if the test fails.
    ///
    /// It is put into a process group of its own: a Ctrl-C for the test is not one for the child.
    pub fn spawn(name: &str, command: &mut Command, log: PathBuf) -> Self {
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self::watch(name, child, log)
    }

    /// Takes care of a child that was started in another way.
    pub fn watch(name: &str, child: Child, log: PathBuf) -> Self {
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", &child.id().to_string()])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), child, watchdog, log }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal, if the process still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            kill_process(self.pid(), signal).unwrap();
        }
    }

    /// The processes that it has started itself, and that still run.
    pub fn children(&self) -> Vec<Pid> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid().as_raw_nonzero()));
        let threads = threads.into_iter().flatten().flatten();
        let children =
            threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        let children = children.collect::<Vec<_>>().join(" ");
        children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }

    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually_within(limit, &what, async || self.exit_status()).await
    }

    /// Everything that the process printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.output();
            let tail = output.len() - output.len().min(SHOWN_OUTPUT_BYTES);
            let tail = (tail..output.len()).find(|at| output.is_char_boundary(*at)).unwrap_or(output.len());
            eprintln!("---- output of {}:\n{}", self.name, &output[tail..]);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(input) = &mut self.watchdog.stdin {
            let _ = input.write_all(b"dismissed\n");
        }
        let _ = self.watchdog.wait();
    }
}

/// How much of a process's output a failed test shows.
const SHOWN_OUTPUT_BYTES: usize = 6_000;

/// A port of 127.0.0.1 that nothing listens on now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap().port()
}
