//! What each command does.

pub mod agent_config;
pub mod agent_packages;
pub mod agents;
pub mod apply;
pub mod certificates;
pub mod commands;
pub mod components;
pub mod contexts;
pub mod diff;
pub mod fleet;
pub mod health;
pub mod overrides;
pub mod package_files;
pub mod policies;
mod rollout_watch;
pub mod rollouts;
pub mod tokens;
pub mod watch;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{args::Args, error::Result, output};

/// Items asked for at once: as many as the server gives.
const PAGE_SIZE: i32 = 1000;

pub fn completion(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "musterctl", &mut script);
    output::write_bytes(&script)
}
