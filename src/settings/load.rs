//! Settings of `muster load`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, value_parser};

use super::{Error, Secret, secret, values};
use crate::load::{Endpoint, Plan, Transport};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TransportName {
    Ws,
    Http,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
pub struct Load {
    /// OpAMP endpoint. Given several times, agents are dealt to them in turn, and go to the next when they come back.
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:4320/v1/opamp")]
    url: Vec<Endpoint>,
    /// How agents connect. By default, what the first URL's scheme says.
    #[arg(long, value_name = "TRANSPORT", value_enum)]
    transport: Option<TransportName>,
    /// Agent token that all agents show.
    #[arg(long = "token", value_name = "SECRET", value_parser = Secret::parse)]
    agent_token: Option<Secret>,
    /// File with the agent token.
    #[arg(long = "token-file", value_name = "FILE")]
    agent_token_file: Option<PathBuf>,
    /// Agents.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    agents: u32,
    /// Agents that connect for the first time a second.
    #[arg(long, value_name = "NUMBER", default_value_t = 500, value_parser = value_parser!(u32).range(1..))]
    rate: u32,
    /// Time between an agent's heartbeats, or its polls over HTTP.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    heartbeat: Duration,
    /// Size of a full report, which its effective configuration is padded to.
    #[arg(long, value_name = "BYTES", default_value_t = 2_048, value_parser = value_parser!(u32).range(..=32 << 20))]
    report_bytes: u32,
    /// Attribute of every agent, which replaces a built-in one of the same key.
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::key_value)]
    label: Vec<(String, String)>,
    /// Share of the agents that answer configurations with FAILED.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = values::percent)]
    fail_percent: f64,
    /// Mean time after which an agent drops its connection and comes back. By default it never does.
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    reconnect: Option<Duration>,
    /// How long the run takes, connecting included. By default until it is interrupted.
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    duration: Option<Duration>,
    /// Address, or range of addresses, to connect from in turn, such as `127.0.0.2-127.0.0.9`.
    #[arg(long, value_name = "ADDRESSES", value_parser = values::addresses)]
    source_addresses: Vec<Vec<IpAddr>>,
    /// Number that decides the agents' uids: runs with the same seed are the same agents. By default random.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How the result is written to standard output.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "table")]
    pub output: Output,
    /// File that the result is also written to, in JSON.
    #[arg(long, value_name = "FILE")]
    pub json_file: Option<PathBuf>,
}

impl Load {
    pub fn plan(&self) -> Result<Plan, Error> {
        let token = secret::one_of("token", &self.agent_token, &self.agent_token_file)?;
        let transport = match (self.transport, self.url.first()) {
            (Some(TransportName::Http), _) => Transport::Http,
            (Some(TransportName::Ws), _) | (None, None) => Transport::WebSocket,
            (None, Some(endpoint)) => endpoint.transport,
        };
        Ok(Plan {
            endpoints: self.url.clone(),
            transport,
            token: token.map(|token| token.expose().to_owned()),
            agents: self.agents,
            connects_per_second: self.rate,
            heartbeat: self.heartbeat,
            report_bytes: self.report_bytes as usize,
            attributes: self.label.clone(),
            fail_percent: self.fail_percent,
            reconnect: self.reconnect,
            duration: self.duration,
            source_addresses: self.source_addresses.concat(),
            seed: self.seed.unwrap_or_else(rand::random),
        })
    }
}
