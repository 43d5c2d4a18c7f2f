//! Every setting of `muster`: declared once, as a clap argument, and from there a flag, an environment variable, a key of
//! the settings file and a row of `docs/settings.md`.
//!
//! A field `ping_after` is the flag `--ping-after`, the variable `MUSTER_PING_AFTER` and the key `ping_after`; its help
//! text is the documentation, its value name the type and unit. Flags win over variables, variables over the file, the
//! file over defaults.
//!
//! Architecture invariant: nothing here does what a setting says. What is read is files of settings and of secrets.

mod admin;
mod config_service;
mod conformance;
mod connections;
#[cfg(test)]
mod defaults_tests;
mod error;
mod file;
mod gateway;
mod layers;
mod listen;
mod load;
mod packages;
mod process;
pub mod reference;
mod roles;
mod secret;
mod telemetry;
mod validators;
mod values;

pub use admin::Admin;
pub use config_service::ConfigService;
pub use conformance::{Conformance, ConformanceOutput};
pub use connections::{Bus, Store};
pub use error::Error;
pub use gateway::Gateway;
pub use layers::{Resolved, resolve};
pub use load::{Load, Output};
pub use packages::Packages;
pub use process::{LogFormat, Process};
pub use roles::{
    Cli, Command, ConfigServiceRole, ConformanceRole, GatewayRole, HealthcheckRole, LimitedRole, LoadRole, MigrateRole,
    StandaloneRole,
};
pub use secret::Secret;
pub use telemetry::Telemetry;
