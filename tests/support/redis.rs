//! A private Redis server on a port of its own, that keeps nothing on disk.

use std::{process::Command, time::Duration};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    eventually,
    process::{Process, free_port},
    tls::Identity,
};

pub struct Server {
    port: u16,
    tls_port: Option<u16>,
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
        Self { port: free_port(), tls_port: None, process: None, folder: tempfile::tempdir().unwrap() }
    }

    /// A server that also answers over TLS, see [`Self::tls_url`].
    pub async fn start_with_tls(identity: &Identity) -> Self {
        let mut server = Self { tls_port: Some(free_port()), ..Self::stopped() };
        identity.write(server.folder.path(), "server");
        server.restart().await;
        server
    }

    /// At the host name or address that is given; it listens at 127.0.0.2, too, which is no name of the certificate.
    pub fn tls_url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.tls_port.expect("a server with TLS"))
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts the server, empty, on the port that it always has.
    pub async fn restart(&mut self) {
        self.kill();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &self.port.to_string(),
            "--bind",
            "127.0.0.1",
            "127.0.0.2",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.arg("--dir").arg(self.folder.path());
        if let Some(port) = self.tls_port {
            let file = |name: &str| self.folder.path().join(name);
            command.args(["--tls-port", &port.to_string(), "--tls-auth-clients", "no"]);
            command.arg("--tls-cert-file").arg(file("server.pem")).arg("--tls-key-file").arg(file("server.key"));
        }
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
