//! Settings of the config service.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, value_parser};

use super::{Error, Secret, secret, values};
use crate::{
    config_service::{self, Approval},
    packages,
};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Config service")]
pub struct ConfigService {
    /// Where agents reach this deployment, such as wss://opamp.example.com/v1/opamp: offered to agents that are given a
    /// certificate, where no policy of connection settings says where to connect. At the same host and port they fetch
    /// packages that are hosted here. Needed with `--agent-ca-file`; `standalone` takes the address that it listens on where
    /// this is not given.
    #[arg(long, value_name = "URL", default_value = "", value_parser = values::opamp_url)]
    opamp_url: String,
    /// How long to wait for more reports before a batch that is not full is taken.
    #[arg(long, value_name = "DURATION", default_value = "3ms", value_parser = values::duration_or_zero)]
    batch_wait: Duration,
    /// Most reports in one batch.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=5_000))]
    batch_size: u32,
    /// Tasks that take batches side by side.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = value_parser!(u32).range(1..=64))]
    ingest_workers: u32,
    /// Most reports that wait to be taken; more are dropped, and come again by themselves.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000, value_parser = value_parser!(u32).range(1..))]
    queue_reports: u32,
    /// Memory for reports that wait to be taken, and as much again for those that wait for an agent's older connection; more are
    /// dropped, and come again by themselves.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20, value_parser = value_parser!(u32).range(1 << 20..))]
    queue_bytes: u32,
    /// How long a gateway may take to say whether an agent's older connection lives.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = values::duration)]
    probe_timeout: Duration,
    /// After how long a replica that has stopped without a word loses its share of the agents.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    membership_ttl: Duration,
    /// After how long a gateway that is missing counts as dead.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::duration)]
    gateway_grace: Duration,
    /// How often to look for changed policies; usually a hint comes first.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = values::duration)]
    policy_poll_interval: Duration,
    /// How often to look for offers that were not answered.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = values::duration)]
    sweep_interval: Duration,
    /// In how long a time every agent's desired state is computed again, whether or not anything has changed.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = values::duration)]
    full_sweep_interval: Duration,
    /// Agents read and written at a time when policies have changed.
    #[arg(long, value_name = "NUMBER", default_value_t = 2_000, value_parser = value_parser!(u32).range(1..=5_000))]
    page_size: u32,
    /// Offers a second when policies have changed, where the policy does not say; 0 for no limit.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    offers_per_second: u32,
    /// Memory for assembled configurations.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = value_parser!(u32).range(1 << 20..))]
    config_cache_bytes: u32,
    /// How often contents that nothing refers to are deleted.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = values::duration)]
    gc_interval: Duration,
    /// How long transitions of agents' health are kept; of one agent, no more than the newest 200.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = values::duration)]
    health_history: Duration,
    /// Whether agents get certificates when they ask for one.
    #[arg(long, value_name = "MODE", value_enum, default_value = "manual")]
    agent_certificates: AgentCertificates,
    /// How long agents' certificates are good; after two thirds of that they can be renewed.
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = values::duration)]
    agent_certificate_validity: Duration,
    /// PEM file with the certificate of the authority that issues certificates to agents, and after it those of former ones
    /// whose certificates are still to be taken. `standalone` makes an authority in its data folder where none is given.
    #[arg(long, value_name = "FILE")]
    agent_ca_file: Option<PathBuf>,
    /// The key of that authority, PKCS #8 in PEM.
    #[arg(long, value_name = "SECRET", value_parser = Secret::parse)]
    agent_ca_key: Option<Secret>,
    /// File with the key of that authority.
    #[arg(long, value_name = "FILE")]
    agent_ca_key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AgentCertificates {
    /// Nobody gets one.
    Off,
    /// An operator decides; who has a good one gets the next at once.
    Manual,
    /// Each agent gets one for its own uid.
    Automatic,
}

/// The authority that issues certificates to agents.
pub struct AgentCa {
    pub certificate_file: PathBuf,
    pub key: Secret,
}

impl ConfigService {
    pub fn config(&self) -> Result<config_service::Config, Error> {
        let config = config_service::Config {
            opamp_url: self.opamp_url.clone(),
            package_url: packages::base_url(&self.opamp_url).unwrap_or_default(),
            batch_wait: self.batch_wait,
            batch_size: self.batch_size as usize,
            ingest_workers: self.ingest_workers as usize,
            queue_reports: self.queue_reports as usize,
            queue_bytes: self.queue_bytes as usize,
            probe_timeout: self.probe_timeout,
            membership_ttl: self.membership_ttl,
            gateway_grace: self.gateway_grace,
            policy_poll_interval: self.policy_poll_interval,
            sweep_interval: self.sweep_interval,
            full_sweep_interval: self.full_sweep_interval,
            page_size: self.page_size,
            offers_per_second: self.offers_per_second,
            body_cache_bytes: self.config_cache_bytes as usize,
            gc_interval: self.gc_interval,
            health_history: self.health_history,
            certificate_approval: match self.agent_certificates {
                AgentCertificates::Off => Approval::Off,
                AgentCertificates::Manual => Approval::Manual,
                AgentCertificates::Automatic => Approval::Automatic,
            },
            ..Default::default()
        };
        config.check().map_err(|error| Error::Conflict(error.to_string()))?;
        Ok(config)
    }

    /// `None` if none is given.
    pub fn agent_ca(&self) -> Result<Option<AgentCa>, Error> {
        let key = secret::one_of("agent_ca_key", &self.agent_ca_key, &self.agent_ca_key_file)?;
        match (&self.agent_ca_file, key) {
            (Some(file), Some(key)) => Ok(Some(AgentCa { certificate_file: file.clone(), key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(Error::Conflict("agent-ca-file needs agent-ca-key or agent-ca-key-file".to_owned())),
            (None, Some(_)) => Err(Error::Conflict("the key of agent-ca-key needs agent-ca-file".to_owned())),
        }
    }

    pub fn agent_certificate_validity(&self) -> Duration {
        self.agent_certificate_validity
    }
}
