//! Settings of the admin API.

use std::time::Duration;

use clap::{Args, value_parser};

use super::{validators::Validators, values};
use crate::admin;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Admin API")]
pub struct Admin {
    /// How long a call may take; watches may last.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    admin_request_timeout: Duration,
    /// Largest request.
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 20, value_parser = value_parser!(u32).range(1024..))]
    admin_max_request_bytes: u32,
    /// Largest package file that may be uploaded.
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 30, value_parser = value_parser!(u64).range(1..=64 << 30))]
    package_max_bytes: u64,
    /// Most connections at a time; further ones wait.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_024, value_parser = value_parser!(u32).range(1..))]
    admin_max_connections: u32,
    /// Web origin whose scripts may call over gRPC-web, such as `https://console.example.org`; `*` for any.
    #[arg(long = "admin-cors-origin", value_name = "ORIGIN")]
    admin_cors_origin: Vec<String>,
    /// How long calls under way may take to finish at shutdown.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::duration_or_zero)]
    admin_drain_timeout: Duration,
    #[command(flatten)]
    validators: Validators,
}

impl Admin {
    pub fn config(&self) -> admin::Config {
        admin::Config {
            request_timeout: self.admin_request_timeout,
            max_request_bytes: self.admin_max_request_bytes as usize,
            max_package_file_bytes: self.package_max_bytes,
            max_connections: self.admin_max_connections as usize,
            cors_origins: self.admin_cors_origin.clone(),
            drain_timeout: self.admin_drain_timeout,
        }
    }

    pub fn validators(&self) -> admin::validator::Config {
        self.validators.config()
    }
}
