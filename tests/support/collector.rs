//! The OpenTelemetry Collector and its Supervisor, as built from `tests/interop/collector`.

use std::{
    fmt::{self, Display, Formatter},
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{
    PATIENCE,
    client::installed,
    node::http_get,
    process::{Process, free_port},
};

/// A Supervisor, with the collector that it runs.
pub struct Supervisor {
    // Before its folder, with the log that a failed test shows.
    process: Option<Process>,
    program: PathBuf,
    folder: TempDir,
}

/// What a Supervisor is set to do besides the usual.
#[derive(Clone, Copy, Default)]
pub struct Options {
    /// Has a new configuration checked by the collector, and keeps the former one if it is refused.
    pub validate_config: bool,
    /// It has stored this uid before.
    pub uid: Option<uuid::Uuid>,
}

impl Supervisor {
    /// Starts one whose agent has the attribute `service.name`; `None` if the Collector was not built.
    pub fn start(url: &str, token: &str, service: &str, options: Options) -> Option<Self> {
        let program = installed("collector", "collector/opampsupervisor")?;
        let collector = installed("collector", "collector/collector")?;
        let folder = tempfile::tempdir().unwrap();
        let settings = SETTINGS
            .replace("URL", url)
            .replace("TOKEN", token)
            .replace("SERVICE", service)
            .replace("COLLECTOR", &collector.to_string_lossy())
            .replace("STORAGE", &folder.path().join("storage").to_string_lossy())
            .replace("VALIDATE", &options.validate_config.to_string());
        fs::write(folder.path().join("supervisor.yaml"), settings).unwrap();
        if let Some(uid) = options.uid {
            let storage = folder.path().join("storage");
            fs::create_dir(&storage).unwrap();
            fs::write(storage.join("persistent_state.yaml"), format!("instance_id: {uid}\n")).unwrap();
        }
        let mut supervisor = Self { process: None, program, folder };
        supervisor.start_again();
        Some(supervisor)
    }

    /// Starts it with what it stored before.
    pub fn start_again(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.folder.path().join("supervisor.yaml"));
        self.process = Some(Process::spawn("supervisor", &mut command, self.log()));
    }

    /// Ends it, and its collector, as an operator would.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        // It knows no other way to end in order.
        process.signal(Signal::INT);
        process.ended(PATIENCE).await;
    }

    /// Hashes of the configurations that it was given, in order.
    pub fn offers(&self) -> Vec<String> {
        self.said("Received remote config from server")
            .filter_map(|line| Some(line["hash"].as_str()?.to_owned()))
            .collect()
    }

    /// How often it has made a client for the server.
    pub fn connections(&self) -> usize {
        self.said("OpAMP client started.").count()
    }

    /// How often it has started its collector with a configuration.
    pub fn collector_starts(&self) -> usize {
        self.said("Agent process started").count()
    }

    /// What it has logged under this message.
    fn said<'a>(&self, message: &'a str) -> impl Iterator<Item = Value> + use<'a> {
        let log = fs::read_to_string(self.log()).unwrap();
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lines.into_iter().filter(move |line| line["msg"] == message)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

/// The time-outs are long because machines are busy; a collector that cannot start is noticed without them.
const SETTINGS: &str = r#"
server:
  endpoint: URL
  headers: {Authorization: ["Bearer TOKEN"]}
capabilities:
  accepts_remote_config: true
  accepts_restart_command: true
  accepts_opamp_connection_settings: true
  reports_effective_config: true
  reports_own_metrics: true
  reports_own_logs: true
  reports_own_traces: true
  reports_health: true
  reports_remote_config: true
  reports_available_components: true
  reports_heartbeat: true
agent:
  executable: COLLECTOR
  description: {identifying_attributes: {service.name: SERVICE}}
  config_apply_timeout: 8s
  bootstrap_timeout: 60s
  orphan_detection_interval: 1s
  validate_config: VALIDATE
storage: {directory: STORAGE}
telemetry: {logs: {level: debug, output_paths: [stdout]}}
"#;

/// A collector on its own, whose extension speaks OpAMP with the server itself.
pub struct Collector {
    process: Process,
    _folder: TempDir,
}

/// A Supervisor that is killed leaves its collector behind: it is asked to end first, and waited for a while.
impl Drop for Supervisor {
    fn drop(&mut self) {
        let Some(process) = &mut self.process else { return };
        let collectors = process.children();
        process.signal(Signal::TERM);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while process.exit_status().is_none() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // It may have ended before they did.
        for collector in collectors {
            let _ = kill_process(collector, Signal::KILL);
        }
    }
}

impl Collector {
    /// Starts one with this configuration; `None` if it was not built.
    pub fn start(config: &str) -> Option<Self> {
        let program = installed("collector", "collector/collector")?;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("collector.yaml");
        fs::write(&path, config).unwrap();
        let process = Process::spawn(
            "collector",
            Command::new(program).arg(GATES).arg("--config").arg(path),
            folder.path().join("log"),
        );
        Some(Self { process, _folder: folder })
    }

    /// Everything that it printed.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Ends it as an operator would.
    pub async fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        assert!(self.process.ended(PATIENCE).await.success(), "{}", self.process.output());
    }
}

/// What a collector does not do by default yet: restart when it is told to.
const GATES: &str = "--feature-gates=+extension.opampextension.RemoteRestarts";

/// A place where a collector can be told to answer, so as to see from outside what it runs.
#[derive(Clone, Copy)]
pub struct Port(SocketAddr);

impl Display for Port {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

impl Port {
    pub fn free() -> Self {
        Self(SocketAddr::from(([127, 0, 0, 1], free_port())))
    }

    /// A configuration with a pipeline, and the extension that answers here.
    pub fn config(self) -> String {
        format!(
            "extensions: {{health_check: {{endpoint: \"{}\"}}}}\nreceivers: {{nop: {{}}}}\nexporters: {{nop: {{}}}}\n\
             service:\n  extensions: [health_check]\n  pipelines: {{traces: {{receivers: [nop], exporters: [nop]}}}}\n",
            self.0
        )
    }

    /// A configuration that takes traces and metrics here, and passes them on as its own requests.
    pub fn otlp_relay(self, to: &str) -> String {
        let pipeline = "{receivers: [otlp], exporters: [otlp_http]}";
        format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: \"{}\"}}}}}}}}\n\
             exporters: {{otlp_http: {{endpoint: \"{to}\", compression: none}}}}\n\
             service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines: {{traces: {pipeline}, metrics: {pipeline}}}\n",
            self.0
        )
    }

    /// A configuration that takes telemetry here, and prints all of it.
    pub fn otlp_sink(self) -> String {
        let pipeline = "{receivers: [otlp], exporters: [debug]}";
        format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: \"{}\"}}}}}}}}\nexporters: {{debug: {{verbosity: detailed}}}}\n\
             service:\n  telemetry: {{metrics: {{level: none}}}}\n  pipelines: {{metrics: {pipeline}, logs: {pipeline}}}\n",
            self.0
        )
    }

    pub async fn listens(self) -> bool {
        TcpStream::connect(self.0).await.is_ok()
    }

    /// Whether the extension of [`Self::config`] says that all is well.
    pub async fn answers(self) -> bool {
        http_get(self.0, "/").await.is_some_and(|response| response.starts_with("HTTP/1.1 200"))
    }
}
