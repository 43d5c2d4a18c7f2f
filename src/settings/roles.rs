//! The commands of `muster`, each with its settings.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use super::{
    Admin, Bus, ConfigService, Conformance, Error, Gateway, Load, Packages, Process, Secret, Store, Telemetry,
    listen::Node, secret,
};

/// A fleet control plane for telemetry agents: the server side of OpAMP.
#[derive(Parser, Clone, Debug)]
#[command(name = "muster", version, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Clone, Debug)]
// One is made in the life of the process.
#[allow(clippy::large_enum_variant)]
pub enum Command {
    /// Run everything in one process, with its data in a folder.
    Standalone(StandaloneRole),
    /// Run a gateway, which agents connect to.
    Gateway(GatewayRole),
    /// Run a config service replica and the admin API.
    ConfigService(ConfigServiceRole),
    /// Bring the database's schema up to date, and exit.
    Migrate(MigrateRole),
    /// Run simulated agents against an OpAMP server, and report how it did.
    Load(LoadRole),
    /// Check what an OpAMP server does, case by case, against the specification and what clients need.
    ///
    /// Exits with 0 if the server does all that it must, with 1 if not, with 2 if there is no server to ask.
    Conformance(ConformanceRole),
    /// Ask for a URL, and exit with 0 if the answer is a success: a probe for containers.
    Healthcheck(HealthcheckRole),
    /// Become another program, which can take no more than it may.
    #[command(hide = true)]
    Limited(LimitedRole),
    /// Print the settings reference in Markdown.
    #[command(hide = true)]
    SettingsReference,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Standalone")]
pub struct StandaloneRole {
    /// Folder of the database, the first tokens and the addresses; made if it is not there.
    #[arg(long, value_name = "FOLDER", default_value = "./muster-data")]
    pub data_dir: PathBuf,
    /// Address that agents connect to; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4320")]
    pub opamp_listen: SocketAddr,
    /// Address of the admin API; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4321")]
    pub admin_listen: SocketAddr,
    /// Address of metrics (`/metrics`) and health (`/healthz`, `/readyz`); port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9320")]
    pub metrics_listen: SocketAddr,
    /// Simulated agents to run inside.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub demo: u32,
    #[command(flatten)]
    pub gateway: Gateway,
    #[command(flatten)]
    pub config_service: ConfigService,
    #[command(flatten)]
    pub admin: Admin,
    #[command(flatten)]
    pub packages: Packages,
    #[command(flatten)]
    pub telemetry: Telemetry,
    #[command(flatten)]
    pub process: Process,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Node")]
pub struct GatewayRole {
    /// Address that agents connect to; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:4320")]
    pub opamp_listen: SocketAddr,
    #[command(flatten)]
    pub node: Node,
    #[command(flatten)]
    pub bus: Bus,
    #[command(flatten)]
    pub gateway: Gateway,
    #[command(flatten)]
    pub packages: Packages,
    #[command(flatten)]
    pub telemetry: Telemetry,
    #[command(flatten)]
    pub process: Process,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Node")]
pub struct ConfigServiceRole {
    /// Address of the admin API; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:4321")]
    pub admin_listen: SocketAddr,
    #[command(flatten)]
    pub node: Node,
    #[command(flatten)]
    pub bus: Bus,
    #[command(flatten)]
    pub store: Store,
    /// How long to wait at the start for a migration that somebody else runs, before this is an error.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = super::values::duration_or_zero)]
    pub schema_wait: Duration,
    /// First operator token of the deployment, which may make further ones.
    #[arg(long, value_name = "SECRET", value_parser = Secret::parse, help_heading = "Admin API")]
    operator_token: Option<Secret>,
    /// File with the first operator token.
    #[arg(long, value_name = "FILE", help_heading = "Admin API")]
    operator_token_file: Option<PathBuf>,
    /// First agent token of the deployment, where one is wanted before there is an operator to make it.
    #[arg(long, value_name = "SECRET", value_parser = Secret::parse, help_heading = "Admin API")]
    agent_token: Option<Secret>,
    /// File with the first agent token.
    #[arg(long, value_name = "FILE", help_heading = "Admin API")]
    agent_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub config_service: ConfigService,
    #[command(flatten)]
    pub admin: Admin,
    #[command(flatten)]
    pub packages: Packages,
    #[command(flatten)]
    pub telemetry: Telemetry,
    #[command(flatten)]
    pub process: Process,
}

impl ConfigServiceRole {
    pub fn operator_token(&self) -> Result<Option<Secret>, Error> {
        header_text(
            "operator-token",
            secret::one_of("operator_token", &self.operator_token, &self.operator_token_file)?,
        )
    }

    pub fn agent_token(&self) -> Result<Option<Secret>, Error> {
        header_text("agent-token", secret::one_of("agent_token", &self.agent_token, &self.agent_token_file)?)
    }
}

/// A text that can stand in a header as it is; otherwise nobody could ever use it.
fn header_text(name: &str, token: Option<Secret>) -> Result<Option<Secret>, Error> {
    if token.as_ref().is_some_and(|token| !token.expose().chars().all(|c| c.is_ascii_graphic())) {
        return Err(Error::Conflict(format!("{name} must have visible ASCII characters only")));
    }
    Ok(token)
}

#[derive(Args, Clone, Debug)]
pub struct MigrateRole {
    #[command(flatten)]
    pub store: Store,
    /// How long to wait for a database that cannot be reached, before this is an error.
    #[arg(
        long, value_name = "DURATION", default_value = "0s", help_heading = "Database",
        value_parser = super::values::duration_or_zero
    )]
    pub database_wait: Duration,
    #[command(flatten)]
    pub process: Process,
}

#[derive(Args, Clone, Debug)]
pub struct LoadRole {
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub process: Process,
}

#[derive(Args, Clone, Debug)]
pub struct ConformanceRole {
    #[command(flatten)]
    pub conformance: Conformance,
    #[command(flatten)]
    pub process: Process,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Probe")]
pub struct HealthcheckRole {
    /// What to ask for.
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:9320/readyz")]
    pub url: String,
    /// How long the answer may take.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = super::values::duration)]
    pub timeout: Duration,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct LimitedRole {
    /// Memory that it may write to.
    #[arg(long, value_name = "BYTES")]
    pub memory_bytes: u64,
    /// Time of the processor.
    #[arg(long, value_name = "SECONDS")]
    pub cpu_seconds: u64,
    /// The program, by its path, and its arguments.
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}
