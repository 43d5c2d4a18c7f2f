//! The admin API: `muster.admin.v1` over gRPC and gRPC-web, with health and reflection.
//!
//! It owns who may call, what a request must look like, pages, etags and errors, and the hints that follow a change. It is thin:
//! it must not decide anything about agents, which is the config service's, and it must not know SQL or Redis.

mod agent_config;
mod agent_packages;
mod agents;
mod authorized;
mod certificates;
mod commands;
mod components;
mod context;
mod convert;
mod cors;
mod errors;
mod fleet;
mod gate;
mod gateways;
mod health;
mod labels;
mod listener;
mod messages;
pub mod metrics;
mod overrides;
mod package_files;
mod pages;
mod policies;
mod policy_rules;
mod policy_sets;
mod preview;
mod publisher;
mod revision_diff;
mod rollouts;
mod scan;
mod server;
mod tokens;
mod validation;
pub mod validator;
mod watch;

pub use server::{Error, Server};

use std::time::Duration;

/// Settings of the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A call that takes longer ends with DEADLINE_EXCEEDED. Watches may last.
    pub request_timeout: Duration,
    /// Largest request accepted, in bytes; room for a policy's files.
    pub max_request_bytes: usize,
    /// Largest package file that may be uploaded, in bytes.
    pub max_package_file_bytes: u64,
    /// Most connections at a time; further ones wait to be accepted.
    pub max_connections: usize,
    /// Web origins (`https://console.example.org`) whose scripts may call over gRPC-web; `*` for any. None by default.
    pub cors_origins: Vec<String>,
    /// How long calls under way may take to finish at shutdown.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(30),
            max_request_bytes: 32 * 1024 * 1024,
            max_package_file_bytes: 4 << 30,
            max_connections: 1024,
            cors_origins: Vec::new(),
            drain_timeout: Duration::from_secs(5),
        }
    }
}
