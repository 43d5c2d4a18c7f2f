//! The program: reads the settings, starts logs and metrics, builds the parts of a role in the order in which they depend
//! on each other, and takes them down in reverse.
//!
//! Architecture invariant: the one place that knows every component. Components do not know it.

mod authority;
mod config_service;
mod conformance;
mod data_dir;
mod first_token;
mod gateway;
mod health;
mod healthcheck;
mod limited;
mod limits;
mod listeners;
mod load;
mod migrate;
mod node;
mod output;
mod shutdown;
mod stages;
mod standalone;
mod start;

use std::process::ExitCode;

use crate::settings::{self, Command};

/// The main function of `muster`.
pub fn main() -> ExitCode {
    let resolved = match settings::resolve(std::env::args_os().collect(), &start::environment()) {
        Ok(resolved) => resolved,
        Err(error) => return ExitCode::from(error.report()),
    };
    let odd = resolved.unknown_variables;
    match resolved.cli.command {
        Command::Standalone(role) => {
            start::server(&role.process.clone(), odd, |metrics| standalone::run(role, metrics))
        }
        Command::Gateway(role) => start::server(&role.process.clone(), odd, |metrics| gateway::run(role, metrics)),
        Command::ConfigService(role) => {
            start::server(&role.process.clone(), odd, |metrics| config_service::run(role, metrics))
        }
        Command::Migrate(role) => start::tool(Some(&role.process.clone()), odd, migrate::run(role)),
        Command::Load(role) => start::tool(Some(&role.process.clone()), odd, load::run(role)),
        Command::Conformance(role) => start::judged(&role.process.clone(), odd, conformance::run(role)),
        Command::Healthcheck(role) => start::tool(None, odd, healthcheck::run(role)),
        Command::Limited(role) => limited::run(&role),
        Command::SettingsReference => {
            output::write(settings::reference::markdown().trim_end());
            ExitCode::SUCCESS
        }
    }
}
