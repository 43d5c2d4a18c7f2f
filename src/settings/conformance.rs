//! Settings of `muster conformance`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, value_parser};

use super::{Error, Secret, secret, values};
use crate::conformance::{Pattern, Plan, Trust, Url};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConformanceOutput {
    Table,
    Json,
    Junit,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Conformance")]
pub struct Conformance {
    /// OpAMP server; http, https, ws or wss. Both transports are tried at this URL.
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:4320/v1/opamp")]
    url: Url,
    /// Another node of the same deployment, for the cases that take two.
    #[arg(long, value_name = "URL")]
    second_url: Option<Url>,
    /// Agent token to show to the server.
    #[arg(long = "token", value_name = "SECRET", value_parser = Secret::parse)]
    agent_token: Option<Secret>,
    /// File with the agent token.
    #[arg(long = "token-file", value_name = "FILE")]
    agent_token_file: Option<PathBuf>,
    /// Muster's admin API, for the cases that need an operator.
    #[arg(long, value_name = "URL", requires = "admin-token")]
    admin: Option<String>,
    /// Operator token for the admin API.
    #[arg(long, value_name = "SECRET", value_parser = Secret::parse, group = "admin-token")]
    admin_token: Option<Secret>,
    /// File with the operator token.
    #[arg(long, value_name = "FILE", group = "admin-token")]
    admin_token_file: Option<PathBuf>,
    /// Case to run, by its id (`HTTP-01`, `WS-*`) or a part of its title.
    #[arg(long, value_name = "PATTERN")]
    only: Vec<Pattern>,
    /// How long the server may take for an answer.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    timeout: Duration,
    /// Cases to run at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = value_parser!(u32).range(1..=64))]
    parallel: u32,
    /// A failed SHOULD makes the run fail, too.
    #[arg(long)]
    pub strict: bool,
    /// File of certificates, in PEM, to trust besides those of the system.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Trust any certificate of the server.
    #[arg(long)]
    insecure: bool,
    /// PEM file with a certificate to show to a server that asks for one.
    #[arg(long, value_name = "FILE", requires = "client_key_file")]
    client_certificate_file: Option<PathBuf>,
    /// PEM file with the key of that certificate.
    #[arg(long, value_name = "FILE", requires = "client_certificate_file")]
    client_key_file: Option<PathBuf>,
    /// How the result is written to standard output.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "table")]
    pub output: ConformanceOutput,
}

impl Conformance {
    pub fn plan(&self) -> Result<Plan, Error> {
        let token = secret::one_of("token", &self.agent_token, &self.agent_token_file)?;
        let admin_token = secret::one_of("admin_token", &self.admin_token, &self.admin_token_file)?;
        let text = |secret: Secret| secret.expose().to_owned();
        Ok(Plan {
            url: self.url.clone(),
            second_url: self.second_url.clone(),
            token: token.map(text),
            admin: self.admin.clone().zip(admin_token.map(text)),
            only: self.only.clone(),
            patience: self.timeout,
            slack: 1,
            parallel: self.parallel as usize,
            trust: Trust {
                ca_file: self.ca_file.clone(),
                is_insecure: self.insecure,
                identity: self.client_certificate_file.clone().zip(self.client_key_file.clone()),
            },
        })
    }
}
