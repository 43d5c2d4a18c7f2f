//! `musterctl` as an operator runs it.

use std::{collections::HashMap, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout},
};

use super::{
    PATIENCE,
    agent::{Agent, Fleet},
    eventually, eventually_within,
    node::clean,
};

/// `musterctl` against one server.
pub struct Ctl {
    server: SocketAddr,
    token: String,
    environment: Vec<(String, String)>,
    /// For manifests, and as a home without settings of its own.
    folder: TempDir,
}

/// What a run of `musterctl` gave.
pub struct Outcome {
    pub succeeded: bool,
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A run of `musterctl` that follows something.
pub struct Follower {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Follower {
    /// The next line, if there is one soon enough. None is lost.
    pub async fn next_within(&mut self, limit: Duration) -> Option<Value> {
        let line = tokio::time::timeout(limit, self.lines.next_line()).await.ok()?;
        let line = line.unwrap().expect("musterctl goes on");
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Whether it ends by itself soon enough, having nothing more to tell.
    pub async fn ends_within(&mut self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.lines.next_line()).await, Ok(Ok(None)))
    }
}

impl Ctl {
    pub fn new(server: SocketAddr, token: &str) -> Self {
        Self { server, token: token.to_owned(), environment: Vec::new(), folder: tempfile::tempdir().unwrap() }
    }

    /// With a variable in the environment of its runs.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub async fn try_run(&self, arguments: &[&str]) -> Outcome {
        let output = self.command(arguments).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome {
            succeeded: output.status.success(),
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::from(clean(env!("CARGO_BIN_EXE_musterctl")));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .env("MUSTER_SERVER", format!("http://{}", self.server))
            .env("MUSTER_TOKEN", &self.token)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true);
        command
    }

    /// A run that goes on until this is dropped, and prints JSON, one object a line.
    pub fn follow(&self, arguments: &[&str]) -> Follower {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Follower { lines, _child: child }
    }

    /// Standard output of a run that must succeed.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let outcome = self.try_run(arguments).await;
        assert!(outcome.succeeded, "musterctl {arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    }

    pub async fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["-o", "json"]].concat();
        serde_json::from_str(&self.run(&arguments).await).unwrap()
    }

    /// Writes a file where runs find it.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Applies what a manifest says; returns what was printed.
    pub async fn apply_written(&self, manifest: &str) -> String {
        self.write("manifest.yaml", manifest);
        self.run(&["apply", "-f", "manifest.yaml"]).await
    }

    /// Every agent.
    pub async fn agents(&self) -> Vec<Value> {
        let Value::Array(agents) = self.json(&["get", "agents"]).await else { panic!("a list is a JSON array") };
        agents
    }

    pub async fn agent(&self, uid: &str) -> Option<Value> {
        let outcome = self.try_run(&["get", "agent", uid, "-o", "json"]).await;
        outcome.succeeded.then(|| serde_json::from_str(&outcome.stdout).unwrap())
    }

    /// Waits until this holds for the agent as the server sees it.
    pub async fn agent_is(&self, uid: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.agent_is_within(PATIENCE, uid, what, holds).await
    }

    /// As [`Self::agent_is`], with another limit.
    pub async fn agent_is_within(
        &self,
        limit: Duration,
        uid: &str,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = Value::Null;
        let result = eventually_within(limit, what, async || {
            let agent = self.agent(uid).await?;
            if agent != last {
                println!("{what}: {agent}");
                last = agent.clone();
            }
            holds(&agent).then_some(agent)
        });
        result.await
    }

    /// Waits until the server has `count` agents and this holds for each.
    pub async fn all_agents(&self, count: usize, what: &str, holds: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut example = None;
        let all = async || {
            let agents = self.agents().await;
            let missing = agents.iter().filter(|agent| !holds(agent)).count();
            let other = agents.iter().find(|agent| !holds(agent)).cloned();
            if other != example {
                println!("{what}: {missing} of {} to go, such as {other:?}", agents.len());
                example = other;
            }
            (agents.len() == count && missing == 0).then_some(agents)
        };
        eventually(&format!("{count} agents are {what}"), all).await
    }

    /// Waits until `count` agents are connected and run what they should.
    pub async fn settled_agents(&self, count: usize) -> Vec<Value> {
        self.all_agents(count, "settled", |agent| {
            agent["connected"] == true
                && agent["config_status"] == "APPLIED"
                && agent["reported_config_hash"] == agent["desired_config_hash"]
        })
        .await
    }

    /// Waits until the server knows of each agent of a fleet the status of its health that the agent last reported.
    pub async fn agents_say(&self, fleet: &Fleet) {
        self.among(fleet, "known by their last status", |said, agent| agent["health_status"] == said.health_status())
            .await;
    }

    /// As [`Self::settled_agents`], where there are others as well.
    pub async fn settled_among(&self, fleet: &Fleet) {
        self.among(fleet, "settled", |said, agent| {
            let hash = said.applied().map(hex::encode);
            agent["connected"] == true
                && agent["config_status"] == "APPLIED"
                && agent["reported_config_hash"].as_str() == hash.as_deref()
                && agent["desired_config_hash"].as_str() == hash.as_deref()
        })
        .await;
    }

    async fn among(&self, fleet: &Fleet, what: &str, holds: impl Fn(&Agent, &Value) -> bool) {
        let mut example = None;
        eventually(&format!("{} agents are {what}", fleet.len()), async || {
            let known = self.agents().await;
            // What they say now: an order to say something else may still be on its way to them.
            let fleet: HashMap<String, Agent> =
                fleet.agents().into_iter().map(|agent| (agent.uid.to_string(), agent)).collect();
            let agents = known.iter().filter_map(|agent| Some((fleet.get(agent["instance_uid"].as_str()?)?, agent)));
            let (right, wrong): (Vec<_>, Vec<_>) = agents.partition(|(said, agent)| holds(said, agent));
            let other = wrong.first().map(|(_, agent)| (*agent).clone());
            if other != example {
                println!("{what}: {} of {}, but not {other:?}", right.len(), fleet.len());
                example = other;
            }
            (right.len() == fleet.len()).then_some(())
        })
        .await;
    }

    /// Waits until the agent is known, and what it is built from.
    pub async fn components(&self, uid: &str) -> Value {
        eventually("it is known what the agent is built from", async || {
            let outcome = self.try_run(&["agent", "components", uid, "-o", "json"]).await;
            let mut shown: Value = serde_json::from_str(&outcome.stdout).ok()?;
            shown["components"].is_object().then(|| shown["components"].take())
        })
        .await
    }

    /// Applies a policy with one file.
    pub async fn apply(&self, name: &str, selector: &str, file: &str, body: &str) {
        self.run(&["apply", "-f", &self.manifest(name, selector, file, body)]).await;
    }

    /// As [`Self::apply`], if the server takes it.
    pub async fn try_apply(&self, name: &str, selector: &str, file: &str, body: &str) -> Outcome {
        self.try_run(&["apply", "-f", &self.manifest(name, selector, file, body)]).await
    }

    /// Writes a manifest, with the file's body in a file beside it. Gives its path.
    fn manifest(&self, name: &str, selector: &str, file: &str, body: &str) -> String {
        let manifest = format!(
            "kind: Config\nname: {name}\nselector: {selector}\npriority: 100\nfiles:\n  {file}:\n    \
             content_type: text/yaml\n    path: ./{name}.body\n"
        );
        let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        write(&self.folder.path().join(format!("{name}.body")), body);
        let path = self.folder.path().join(format!("{name}.yaml"));
        write(&path, &manifest);
        path.to_string_lossy().into_owned()
    }
}
