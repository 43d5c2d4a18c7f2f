//! What is wrong with the settings.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What clap says of the command line; also help and version, which are no failures.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// A setting cannot have this value.
    #[error("setting {name} from {source_name}: {problem}")]
    Value { name: String, source_name: String, problem: String },
    #[error("settings file {}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    #[error("settings file {}: {key:?} is not a setting{hint}", path.display())]
    UnknownKey { path: PathBuf, key: String, hint: String },
    /// A setting that this command cannot do without.
    #[error("{0} is missing: give it as a flag, in the environment ({1}) or in the settings file")]
    Missing(String, String),
    #[error("{0} and {1} are both given: give one of them")]
    Both(String, String),
    #[error("cannot read {what} from {}: {error}", path.display())]
    SecretFile { what: String, path: PathBuf, error: String },
    /// Settings that cannot work together.
    #[error("{0}")]
    Conflict(String),
}

impl Error {
    /// Prints it as the command line's users expect, and returns the exit status.
    pub fn report(&self) -> u8 {
        match self {
            Self::CommandLine(error) => {
                // Help goes to standard output, errors to standard error; a closed one is no reason to say more.
                let _ = error.print();
                error.exit_code() as u8
            }
            other => {
                eprintln!("error: {other}");
                2
            }
        }
    }
}
