//! Settings of the programs that revisions have to pass before they are applied.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, value_parser};

use super::values;
use crate::admin::validator::{Command, Config};
use crate::model::policy::PolicyKind;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Validators")]
pub struct Validators {
    /// Program that revisions of kind Config have to pass, such as `otelcol validate --config={yaml}`: it ends with 0, or the
    /// revision is refused with what it said. A word with `{file}` is there once for each file, with its path; `{yaml}` stands
    /// for those that are YAML or JSON, `{dir}` for the folder with all of them. There is no shell.
    #[arg(long, value_name = "COMMAND", value_parser = Command::parse)]
    validate_config: Option<Command>,
    /// Program that revisions of kind Packages have to pass; the file has the packages as JSON.
    #[arg(long, value_name = "COMMAND", value_parser = Command::parse)]
    validate_packages: Option<Command>,
    /// Program that revisions of kind ConnectionSettings have to pass; the file has the settings as JSON.
    #[arg(long, value_name = "COMMAND", value_parser = Command::parse)]
    validate_connection_settings: Option<Command>,
    /// How long these programs may take for one revision. Shorter than `admin-request-timeout`.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::duration)]
    validate_timeout: Duration,
    /// Memory that such a program may write to.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = value_parser!(u64).range(1 << 20..))]
    validate_memory_bytes: u64,
}

impl Validators {
    pub fn config(&self) -> Config {
        let given = [
            (PolicyKind::Config, &self.validate_config),
            (PolicyKind::Packages, &self.validate_packages),
            (PolicyKind::ConnectionSettings, &self.validate_connection_settings),
        ];
        let commands: BTreeMap<_, _> =
            given.into_iter().filter_map(|(kind, command)| Some((kind, command.clone()?))).collect();
        Config {
            commands,
            timeout: self.validate_timeout,
            memory_bytes: self.validate_memory_bytes,
            ..Config::default()
        }
    }
}
