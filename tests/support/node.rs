//! `muster` as a process.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use rustix::process::Signal;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{eventually, process::Process};

/// One node of Muster. It keeps its ports when it is started again.
pub struct Node {
    pub name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    listen_file: PathBuf,
    listen: Listen,
    process: Option<Process>,
}

/// Where a node listens, as it says in its listen file.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Listen {
    opamp: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
}

/// How long an orderly end may take: agents are sent away one after another.
const END_PATIENCE: Duration = Duration::from_secs(120);

impl Node {
    /// A node that runs `muster` with these arguments in `folder`, not started yet. It is to write its listen file to
    /// `listen_file`; `listeners` are those that it has: `opamp`, `admin`, `metrics`.
    pub fn new(name: &str, folder: PathBuf, listen_file: PathBuf, listeners: &[&str], arguments: &[&str]) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let has = |listener| listeners.contains(&listener).then_some(any);
        Self {
            name: name.to_owned(),
            arguments: arguments.iter().map(|argument| argument.to_string()).collect(),
            environment: Vec::new(),
            folder,
            listen_file,
            listen: Listen { opamp: has("opamp"), admin: has("admin"), metrics: has("metrics") },
            process: None,
        }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// From the next start on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn opamp(&self) -> SocketAddr {
        self.listen.opamp.expect("a node with an OpAMP listener")
    }

    pub fn admin(&self) -> SocketAddr {
        self.listen.admin.expect("a node with an admin listener")
    }

    pub fn metrics(&self) -> SocketAddr {
        self.listen.metrics.expect("a node with a metrics listener")
    }

    /// Starts the process and waits until it listens.
    pub async fn start(&mut self) {
        let _ = fs::remove_file(&self.listen_file);
        let mut command = clean(env!("CARGO_BIN_EXE_muster"));
        command.current_dir(&self.folder).args(&self.arguments).envs(self.environment.iter().cloned());
        for (listener, address) in
            [("opamp", self.listen.opamp), ("admin", self.listen.admin), ("metrics", self.listen.metrics)]
        {
            if let Some(address) = address {
                command.arg(format!("--{listener}-listen")).arg(address.to_string());
            }
        }
        let log = self.folder.join(format!("{}.log", self.name));
        let process = self.process.insert(Process::spawn(&self.name, &mut command, log));
        self.listen = eventually(&format!("{} listens", self.name), async || {
            assert_eq!(process.exit_status(), None, "{} ended: {}", self.name, process.output());
            serde_json::from_slice(&fs::read(&self.listen_file).ok()?).ok()
        })
        .await;
    }

    /// Waits until the node says that it is ready.
    pub async fn ready(&mut self) {
        let address = self.metrics();
        let what = format!("{} is ready", self.name);
        eventually(&what, async || {
            assert!(self.is_running(), "{} ended: {}", self.name, self.output());
            http_get(address, "/readyz").await?.starts_with("HTTP/1.1 200").then_some(())
        })
        .await;
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let text = http_get(self.metrics(), "/metrics").await?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM; the process is then on its way to an orderly end, see [`Self::ended`].
    pub fn terminate(&mut self) {
        self.running().signal(Signal::TERM);
    }

    /// Waits for an orderly end.
    pub async fn ended(&mut self) {
        let status = self.running().ended(END_PATIENCE).await;
        assert!(status.success(), "{} ended with {status}: {}", self.name, self.output());
        self.process = None;
    }

    /// The id of the running process.
    pub fn pid(&mut self) -> u32 {
        self.running().pid().as_raw_nonzero().get().unsigned_abs()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.exit_status().is_none())
    }

    /// What the node printed since it was first started.
    pub fn output(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("the node was started")
    }
}

/// A command without the settings that whoever runs the tests may have in the environment.
pub fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["MUSTER_", "OTEL_", "TRACEPARENT"].iter().any(|own| text.starts_with(own)) {
            command.env_remove(name);
        }
    }
    command
}

/// The whole response to a GET; `None` if there is none.
pub async fn http_get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    Some(response)
}
