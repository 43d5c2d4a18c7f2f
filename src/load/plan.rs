//! What a run does.

use std::{net::IpAddr, time::Duration};

use super::Endpoint;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Http,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Http => "http",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// At least one. Agents are dealt to them in turn; an agent that comes back takes the next one.
    pub endpoints: Vec<Endpoint>,
    pub transport: Transport,
    /// Bearer token of every agent.
    pub token: Option<String>,
    pub agents: u32,
    /// At least 1.
    pub connects_per_second: u32,
    pub heartbeat: Duration,
    /// About how large a full report is; the effective configuration is padded to it.
    pub report_bytes: usize,
    /// Attributes of every agent, which replace the built-in ones of the same key.
    pub attributes: Vec<(String, String)>,
    /// Share of the agents that answer each configuration with FAILED; always the same ones. 0 to 100.
    pub fail_percent: f64,
    /// Mean time from an agent's connection to when it drops it and comes back.
    pub reconnect: Option<Duration>,
    /// Without it, the run goes on until it is stopped.
    pub duration: Option<Duration>,
    /// Addresses to connect from, in turn; the system's choice if there are none.
    pub source_addresses: Vec<IpAddr>,
    /// Decides the agents' uids: runs with the same seed are the same agents.
    pub seed: u64,
}
