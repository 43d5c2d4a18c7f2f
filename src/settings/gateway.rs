//! Settings of the gateway.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, value_parser};

use super::{Error, values};
use crate::gateway;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AgentAuth {
    /// Every connection carries a valid agent token.
    Required,
    /// Anybody may connect.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientCertificates {
    /// Agents are not asked for a certificate.
    Off,
    /// A certificate counts in place of a token.
    Optional,
    /// Every connection carries a valid certificate.
    Required,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Gateway")]
pub struct Gateway {
    /// Path of OpAMP, over WebSocket and plain HTTP alike.
    #[arg(long, value_name = "PATH", default_value = "/v1/opamp", value_parser = values::url_path)]
    opamp_path: String,
    /// Whether agents must show a token.
    #[arg(long, value_name = "MODE", value_enum, default_value = "required")]
    agent_auth: AgentAuth,
    /// PEM file with the certificate of the OpAMP listener and those that lead to its authority; agents then use TLS. Read again
    /// when it changes.
    #[arg(long, value_name = "FILE")]
    tls_certificate_file: Option<PathBuf>,
    /// PEM file with the key of that certificate. Read again when it changes.
    #[arg(long, value_name = "FILE")]
    tls_key_file: Option<PathBuf>,
    /// Whether agents show a certificate, of the built-in authority or of one in client-ca-file. Needs TLS.
    #[arg(long, value_name = "MODE", value_enum, default_value = "off")]
    client_certificates: ClientCertificates,
    /// PEM file with the certificate authorities whose certificates agents may show. Read again when it changes.
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Most TCP connections at a time; newcomers beyond it get 503.
    #[arg(long, value_name = "NUMBER", default_value_t = 250_000, value_parser = value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Most agents at a time; one connection may carry many.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000, value_parser = value_parser!(u32).range(1..))]
    max_agents: u32,
    /// New WebSockets admitted a second; newcomers beyond it get 503 and a time to come back.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = value_parser!(u32).range(1..))]
    admission_per_second: u32,
    /// New WebSockets admitted at once after a quiet time.
    #[arg(long, value_name = "NUMBER", default_value_t = 2_000, value_parser = value_parser!(u32).range(1..))]
    admission_burst: u32,
    /// Shortest time after which a refused agent is told to come back.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    retry_after_min: Duration,
    /// Longest time after which a refused agent is told to come back.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    retry_after_max: Duration,
    /// Messages that an agent may send a second, 0 for any number: one that sends more over its WebSocket is read from more
    /// slowly, and over HTTP gets 429.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = value_parser!(u32).range(0..=50_000))]
    agent_messages_per_second: u32,
    /// How long the headers of a request may take.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::duration)]
    header_timeout: Duration,
    /// How long an HTTP connection may idle between requests.
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = values::duration)]
    http_idle_timeout: Duration,
    /// How long the body of a request may take, or the rest of a WebSocket message that has begun.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = values::duration)]
    body_timeout: Duration,
    /// Largest message taken from an agent, after decompression.
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, value_parser = value_parser!(u32).range(1024..=64 << 20))]
    max_received_bytes: u32,
    /// Largest message sent to an agent. Some clients refuse more than 128 KiB.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = value_parser!(u32).range(1024..=64 << 20))]
    max_sent_bytes: u32,
    /// Memory for reports that the config service has not acknowledged; near it new agents are told to come back.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = value_parser!(u32).range(1 << 20..))]
    max_pending_bytes: u32,
    /// A WebSocket that was silent for this long is pinged.
    #[arg(long, value_name = "DURATION", default_value = "45s", value_parser = values::duration)]
    ping_after: Duration,
    /// A WebSocket that was silent for this long, pings notwithstanding, is dropped.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = values::duration)]
    idle_timeout: Duration,
    /// A WebSocket that takes none of what it is sent for this long is dropped.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    write_timeout: Duration,
    /// How long a reply may wait for the config service's decision; clients give up after one second.
    #[arg(long, value_name = "DURATION", default_value = "300ms", value_parser = values::duration)]
    verdict_wait: Duration,
    /// Agents asked for their full state a second.
    #[arg(long, value_name = "NUMBER", default_value_t = 500, value_parser = value_parser!(u32).range(1..))]
    full_state_per_second: u32,
    /// Reports published again a second after the bus or the config service was away.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000, value_parser = value_parser!(u32).range(1..))]
    repeats_per_second: u32,
    /// Connections announced again a second after the bus was away.
    #[arg(long, value_name = "NUMBER", default_value_t = 5_000, value_parser = value_parser!(u32).range(1..))]
    reopen_per_second: u32,
    /// An HTTP agent is taken to poll this often until its polls show otherwise; it is gone after three intervals.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    http_interval: Duration,
    /// How long newcomers are still taken at shutdown, while `/readyz` says that they should go elsewhere: load balancers need
    /// a moment to see it.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = values::duration_or_zero)]
    drain_delay: Duration,
    /// Connections sent away a second at shutdown, or more if that took longer than the drain window.
    #[arg(long, value_name = "NUMBER", default_value_t = 500, value_parser = value_parser!(u32).range(1..))]
    drain_per_second: u32,
    /// In how long a time all connections are sent away at shutdown.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    drain_window: Duration,
    /// How long agents have at shutdown to leave by themselves before their connection is closed.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = values::duration_or_zero)]
    drain_grace: Duration,
    /// How long to wait at shutdown until everything has been handed over to the config service.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::duration_or_zero)]
    drain_handover: Duration,
    /// Memory for configurations that are being offered.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = value_parser!(u32).range(1 << 20..))]
    offer_cache_bytes: u32,
    /// Custom capabilities that agents are told the server has, such as com.example.pause/v2; separated by commas.
    #[arg(long, value_name = "NAMES", default_value = "", hide_default_value = true, value_parser = values::names)]
    custom_capabilities: values::Names,
    /// Package files on their way out at a time; further requests wait for their turn.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = value_parser!(u32).range(1..))]
    package_downloads: u32,
}

impl Gateway {
    pub fn config(&self) -> Result<gateway::Config, Error> {
        self.check()?;
        Ok(gateway::Config {
            path: self.opamp_path.clone(),
            agent_auth: match self.agent_auth {
                AgentAuth::Required => gateway::AgentAuth::Required,
                AgentAuth::None => gateway::AgentAuth::None,
            },
            client_certificates: match self.client_certificates {
                ClientCertificates::Off => gateway::ClientCertificates::Off,
                ClientCertificates::Optional => gateway::ClientCertificates::Optional,
                ClientCertificates::Required => gateway::ClientCertificates::Required,
            },
            max_connections: self.max_connections as usize,
            max_agents: self.max_agents as usize,
            admission_per_second: self.admission_per_second,
            admission_burst: self.admission_burst,
            retry_after_min: self.retry_after_min,
            retry_after_max: self.retry_after_max,
            messages_per_second: self.agent_messages_per_second,
            header_timeout: self.header_timeout,
            http_idle_timeout: self.http_idle_timeout,
            body_timeout: self.body_timeout,
            max_received_bytes: self.max_received_bytes as usize,
            max_sent_bytes: self.max_sent_bytes as usize,
            max_pending_bytes: self.max_pending_bytes as usize,
            ping_after: self.ping_after,
            idle_timeout: self.idle_timeout,
            write_timeout: self.write_timeout,
            verdict_wait: self.verdict_wait,
            full_state_per_second: self.full_state_per_second,
            repeats_per_second: self.repeats_per_second,
            reopen_per_second: self.reopen_per_second,
            http_interval: self.http_interval,
            drain_delay: self.drain_delay,
            drain_per_second: self.drain_per_second,
            drain_window: self.drain_window,
            drain_grace: self.drain_grace,
            drain_handover: self.drain_handover,
            body_cache_bytes: self.offer_cache_bytes as usize,
            custom_capabilities: self.custom_capabilities.0.clone(),
            // What is served is opened where everything is wired.
            package_storage: None,
            max_downloads: self.package_downloads as usize,
            download_bytes_per_second: gateway::Config::default().download_bytes_per_second,
            download_window: gateway::Config::default().download_window,
            uid_patience: gateway::Config::default().uid_patience,
        })
    }

    /// Where the listener's certificate is; `None` for plain text.
    pub fn tls(&self) -> Result<Option<gateway::TlsConfig>, Error> {
        let asks_clients = self.client_certificates != ClientCertificates::Off;
        let conflict = |text: &str| Err(Error::Conflict(text.to_owned()));
        if self.client_ca_file.is_some() && !asks_clients {
            return conflict("client-ca-file is of no use while client-certificates is off");
        }
        match (&self.tls_certificate_file, &self.tls_key_file) {
            (Some(certificate), Some(key)) => Ok(Some(gateway::TlsConfig {
                certificate_file: certificate.clone(),
                key_file: key.clone(),
                client_ca_file: self.client_ca_file.clone(),
                asks_clients,
            })),
            (Some(_), None) => conflict("tls-certificate-file needs tls-key-file"),
            (None, Some(_)) => conflict("tls-key-file needs tls-certificate-file"),
            (None, None) if asks_clients => {
                conflict("client-certificates needs TLS: give tls-certificate-file and tls-key-file")
            }
            (None, None) => Ok(None),
        }
    }

    pub fn path(&self) -> &str {
        &self.opamp_path
    }

    /// Whether agents need neither token nor certificate.
    pub fn admits_anybody(&self) -> bool {
        self.agent_auth == AgentAuth::None && self.client_certificates != ClientCertificates::Required
    }

    fn check(&self) -> Result<(), Error> {
        let rules = [
            (self.retry_after_min <= self.retry_after_max, "retry-after-min must not be longer than retry-after-max"),
            (self.ping_after < self.idle_timeout, "ping-after must be shorter than idle-timeout"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, problem)) => Err(Error::Conflict((*problem).to_owned())),
            None => Ok(()),
        }
    }
}
