//! A private Redis server on a port of its own, that keeps nothing on disk.

use std::{process::Command, time::Duration};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    eventually,
    process::{Process, free_port},
};

pub struct Server {
    port: u16,
    process: Option<Process>,
    folder: TempDir,
}

impl Server {
    /// The server that tests of one binary share, each with a prefix of its own.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Server> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// A server that answers.
    pub async fn start() -> Self {
        let mut server = Self::stopped();
        server.restart().await;
        server
    }

    /// A server that has not been started: its port refuses connections.
    pub fn stopped() -> Self {
        Self { port: free_port(), process: None, folder: tempfile::tempdir().unwrap() }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts the server, empty, on the port that it always has.
    pub async fn restart(&mut self) {
        self.kill();
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(self.folder.path());
        let mut process = Process::spawn("redis-server", &mut command, self.folder.path().join("log"));
        let client = redis::Client::open(self.url()).unwrap();
        eventually("Redis answers", async || {
            assert_eq!(process.exit_status(), None, "Redis did not start");
            client.get_connection_with_timeout(Duration::from_secs(1)).ok()
        })
        .await;
        self.process = Some(process);
    }

    /// As SIGKILL does it: clients see their connections reset.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The server no longer answers, but its connections stay open.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    fn signal(&mut self, signal: Signal) {
        self.process.as_mut().expect("the server runs").signal(signal);
    }
}
