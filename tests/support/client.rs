//! Real OpAMP clients as processes: the programs of `tests/interop`.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{eventually, process::Process};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Python,
    Node,
    Go,
    Java,
}

pub struct Client {
    name: String,
    process: Process,
    /// The program ends when this is closed.
    input: Option<ChildStdin>,
    events: PathBuf,
    _folder: TempDir,
}

impl Client {
    /// Starts a client; `None` if `scripts/test` was told to leave it out.
    pub fn start(kind: Kind, url: &str, token: &str, service: &str) -> Option<Self> {
        Self::start_with(kind, url, token, service, &[])
    }

    /// As [`Self::start`], with further arguments.
    pub fn start_with(kind: Kind, url: &str, token: &str, service: &str, more: &[&str]) -> Option<Self> {
        let mut command = program(kind)?;
        let folder = tempfile::tempdir().unwrap();
        let (events, log) = (folder.path().join("events"), folder.path().join("log"));
        command.args(["--url", url, "--token", token, "--service", service, "--interval", "1"]).args(more);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(File::create(&events).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start the {kind:?} client ({command:?}): {error}"));
        let input = child.stdin.take();
        let name = format!("{kind:?} client");
        Some(Self { process: Process::watch(&name, child, log), name, input, events, _folder: folder })
    }

    /// Everything that the client has said, oldest first.
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.events).unwrap();
        // A last line without its end is still being written.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The events of one name.
    pub fn all(&self, event: &str) -> Vec<Value> {
        self.events().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// Waits for an event of this name that is as wanted.
    pub async fn event(&mut self, event: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{} says {event}", self.name), async || {
            // In this order: its last word may come between the two.
            let has_ended = self.process.exit_status().is_some();
            let found = self.all(event).into_iter().find(|line| is_wanted(line));
            if found.is_none() && has_ended {
                panic!("the {} ended: {:?} {}", self.name, self.events(), self.process.output());
            }
            found
        })
        .await
    }

    /// The uid with which it started.
    pub async fn uid(&mut self) -> String {
        let started = self.event("started", |_| true).await;
        started["instance_uid"].as_str().unwrap().to_owned()
    }

    /// Has the client do something: a line of its standard input.
    pub fn order(&mut self, order: &Value) {
        writeln!(self.input.as_mut().expect("it was not stopped"), "{order}").unwrap();
    }

    /// Ends the client as its user would.
    pub async fn stop(&mut self) {
        self.input = None;
        self.event("stopped", |_| true).await;
    }
}

fn program(kind: Kind) -> Option<Command> {
    let (program, script) = match kind {
        Kind::Python => (installed("python", "python/venv/bin/python")?, vec![interop("python/agent.py")]),
        Kind::Node => ("node".into(), vec![installed("node", "node/agent.js")?]),
        Kind::Go => (installed("go", "go/agent")?, vec![]),
        Kind::Java => {
            let classes = installed("java", "java/classes")?;
            let path = format!("{}:{}/*", classes.display(), classes.with_file_name("lib").display());
            ("java".into(), vec!["-cp".into(), path.into(), "Agent".into()])
        }
    };
    let mut command = Command::new(program);
    command.args(script);
    Some(command)
}

/// What `scripts/test` has installed of a client, at this path of its cache; `None` if it was told to leave it out.
pub fn installed(client: &str, path: &str) -> Option<PathBuf> {
    if env::var("MUSTER_TEST_SKIP").is_ok_and(|skipped| skipped.split_whitespace().any(|other| other == client)) {
        eprintln!("SKIPPED: the {client} client is not installed");
        return None;
    }
    let cache = env::var_os("MUSTER_TEST_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache/muster-test")))?;
    let path = cache.join(path);
    assert!(path.exists(), "the {client} client is not installed: run scripts/test, which does it");
    Some(path)
}

fn interop(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(path)
}
