//! Validators: commands of the deployment's own that revisions have to pass before they are applied, such as
//! `otelcol validate --config={yaml}`.
//!
//! They are trusted programs that read untrusted files: what may go wrong with them is bounded in time, memory, processor and
//! output, and leaves no process and no file behind.

mod capture;
mod command;
mod folder;
mod offer;
mod sandbox;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use tokio::{sync::Semaphore, time::Instant};
use tonic::{Code, Status};

pub use command::Command;
pub use folder::File;
pub use offer::as_file;
pub use sandbox::Failure;

use super::errors;
use crate::model::policy::PolicyKind;

/// Validators that run at a time; further ones wait.
const MAX_RUNNING: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// None for kinds that are not looked at.
    pub commands: BTreeMap<PolicyKind, Command>,
    /// How long one revision may take, with all that it is looked at for.
    pub timeout: Duration,
    /// Memory that the program may write to, in bytes.
    pub memory_bytes: u64,
    /// The program `muster`, which sets the limits for what it then becomes.
    pub launcher: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            commands: BTreeMap::new(),
            timeout: Duration::from_secs(10),
            memory_bytes: 1 << 30,
            // Also if the file has been replaced meanwhile.
            launcher: PathBuf::from("/proc/self/exe"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the validator of policies of kind {kind}: the program {program:?} is not there, or cannot be run")]
pub struct Missing {
    kind: &'static str,
    program: String,
}

pub struct Validators {
    config: Config,
    room: Semaphore,
}

/// What a revision offers, to some agent.
pub struct Candidate {
    /// Whose it is, where it was written for an agent.
    pub of: Option<String>,
    pub files: Vec<File>,
}

impl Validators {
    /// The programs must be there.
    pub fn new(config: Config) -> Result<Self, Missing> {
        for (kind, command) in &config.commands {
            if command.find_program().is_none() {
                return Err(Missing { kind: kind.name(), program: command.program().to_owned() });
            }
        }
        Ok(Self { config, room: Semaphore::new(MAX_RUNNING) })
    }

    /// Whether policies of this kind are looked at.
    pub fn has(&self, kind: PolicyKind) -> bool {
        self.config.commands.contains_key(&kind)
    }

    /// Has all of `candidates` looked at, until one is refused.
    pub async fn check(&self, policy: &str, kind: PolicyKind, candidates: Vec<Candidate>) -> Result<(), Status> {
        let Some(command) = self.config.commands.get(&kind) else { return Ok(()) };
        let Ok(_running) = self.room.acquire().await else { return Ok(()) };
        let deadline = Instant::now() + self.config.timeout;
        for Candidate { of, files } in candidates {
            let run = sandbox::run(&self.config, command, files, deadline);
            if let Err(failure) = Box::pin(run).await {
                let of = of.map(|agent| format!(" as written for agent {agent}")).unwrap_or_default();
                return Err(status(kind, &format!("policy {policy}{of}"), &failure));
            }
        }
        Ok(())
    }
}

/// A revision that is refused is the caller's to mend, all else the deployment's.
fn status(kind: PolicyKind, what: &str, failure: &Failure) -> Status {
    let message = format!("{what}: {failure}");
    match failure {
        Failure::Refused { .. } => errors::invalid(field(kind), message),
        Failure::TimedOut(_) => errors::status(Code::FailedPrecondition, "VALIDATOR_TIMED_OUT", message, &[]),
        Failure::TooMuchOutput => errors::status(Code::FailedPrecondition, "VALIDATOR_OUTPUT_TOO_LARGE", message, &[]),
        Failure::TooMuchWork => errors::status(Code::FailedPrecondition, "VALIDATOR_TOO_SLOW", message, &[]),
        Failure::NotFound(_) | Failure::NotRun(_) => {
            tracing::error!(%message, "a validator could not be run");
            errors::status(Code::FailedPrecondition, "VALIDATOR_NOT_RUN", message, &[])
        }
    }
}

/// The field of a request that a validator looks at.
fn field(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::Config => "files",
        PolicyKind::Packages => "packages",
        PolicyKind::ConnectionSettings => "connection_settings",
    }
}
