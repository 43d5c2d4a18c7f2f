//! Settings of every long-running command.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Process")]
pub struct Process {
    /// Settings file in TOML, see `docs/settings.md`.
    #[arg(long = "config", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// How log lines are written to standard error.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Which log lines are written: a level, or directives such as `info,muster::gateway=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log_level: String,
}
