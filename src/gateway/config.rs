//! The gateway's settings.

use std::time::Duration;

use crate::packages::Storage;

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentAuth {
    /// Every connection carries a valid agent token; nobody is let in before the list of tokens is known.
    Required,
    /// Anybody may connect.
    None,
}

/// Whether agents show a certificate. For any of this the gateway must serve TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for one.
    Off,
    /// One that is shown counts in place of a token.
    Optional,
    /// Nobody is let in without one.
    Required,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// Where OpAMP is served, over WebSocket and plain HTTP alike.
    pub path: String,
    pub agent_auth: AgentAuth,
    pub client_certificates: ClientCertificates,
    /// TCP connections at one time. Beyond it newcomers get 503.
    pub max_connections: usize,
    /// Agents known at one time, connected or still being handed over. One socket may carry many.
    pub max_agents: usize,
    /// New WebSockets a second, and how many may come at once after a quiet time.
    pub admission_per_second: u32,
    pub admission_burst: u32,
    /// A refused client is told to come back after a random time in between.
    pub retry_after_min: Duration,
    pub retry_after_max: Duration,
    /// Messages that an agent may send in a second; 0 for any number. Whoever sends more over a WebSocket is read from more
    /// slowly: a client in a loop is held up by its own full socket, while a closed one would come back at once. Over HTTP
    /// more are refused. Far above what status, custom messages and downloads in progress need.
    pub messages_per_second: u32,
    /// For a request's headers.
    pub header_timeout: Duration,
    /// How long an HTTP connection may idle between requests: agents that poll each 30 s keep theirs.
    pub http_idle_timeout: Duration,
    /// For a request's body, and for the rest of a WebSocket message of which some has come.
    pub body_timeout: Duration,
    /// Messages, after decompression. The largest real reports (effective configurations of big collectors) stay under
    /// 1 MiB; the specification's 64 MiB would let a few clients fill the memory that holds a fleet.
    pub max_received_bytes: usize,
    /// The specification's default: a body is held once for all agents, so a large one costs little. Above what one policy
    /// may hold (16 MiB), so that what the admin API takes can be sent.
    pub max_sent_bytes: usize,
    /// What agents have said and the config service has not acknowledged, of all agents together. When so much is pending
    /// nothing more is kept, and asked for later; when it comes near that, new agents are told to come back.
    pub max_pending_bytes: usize,
    /// A WebSocket that was silent for this long is pinged. Above the usual heartbeat of 30 s, so that agents which send
    /// heartbeats cost no pings.
    pub ping_after: Duration,
    /// A WebSocket that was silent for this long is dropped.
    pub idle_timeout: Duration,
    /// A WebSocket that takes none of what it is sent for this long is dropped.
    pub write_timeout: Duration,
    /// How long a reply waits for the config service's verdict. Clients give up after one second.
    pub verdict_wait: Duration,
    /// An agent that asked for a uid, and speaks under its own for so long after it was told, keeps its own.
    pub uid_patience: Duration,
    /// Requests for full state over all agents: after a crash the whole fleet may be asked.
    pub full_state_per_second: u32,
    /// Reports published again after an outage.
    pub repeats_per_second: u32,
    /// Connections announced again after the bus was away.
    pub reopen_per_second: u32,
    /// An HTTP agent is taken to poll at least this often: it is gone after three intervals, by its own polls or this.
    pub http_interval: Duration,
    /// On shutdown: how long newcomers are still taken. Whoever sends them has to see first that this node is not ready.
    pub drain_delay: Duration,
    /// On shutdown: connections sent away a second, unless that took longer than the window.
    pub drain_per_second: u32,
    pub drain_window: Duration,
    /// How long agents have between UNAVAILABLE, which well-behaved ones obey, and the Close.
    pub drain_grace: Duration,
    /// How long to wait after the last Close until everything has been handed over.
    pub drain_handover: Duration,
    /// Memory for configurations that are being offered.
    pub body_cache_bytes: usize,
    /// Custom capabilities of the server, for agents that have any.
    pub custom_capabilities: Vec<String>,
    /// Package files to serve.
    pub package_storage: Option<Storage>,
    /// Package files on their way out at one time; further requests wait for their turn.
    pub max_downloads: usize,
    /// While others wait, a download of which less is taken than this, on average over each `download_window`, is ended.
    pub download_bytes_per_second: u32,
    pub download_window: Duration,
}

impl Config {
    pub fn requires_token(&self) -> bool {
        self.agent_auth == AgentAuth::Required
    }

    /// Whether nobody can be let in before the config service has said by which tokens and certificates.
    pub fn awaits_tokens(&self) -> bool {
        self.requires_token() || self.client_certificates != ClientCertificates::Off
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: "/v1/opamp".to_owned(),
            agent_auth: AgentAuth::Required,
            client_certificates: ClientCertificates::Off,
            max_connections: 250_000,
            max_agents: 1_000_000,
            admission_per_second: 1_000,
            admission_burst: 2_000,
            retry_after_min: Duration::from_secs(5),
            retry_after_max: Duration::from_secs(30),
            messages_per_second: 100,
            header_timeout: Duration::from_secs(10),
            http_idle_timeout: Duration::from_secs(90),
            body_timeout: Duration::from_secs(15),
            max_received_bytes: 4 << 20,
            max_sent_bytes: 64 << 20,
            max_pending_bytes: 1 << 30,
            ping_after: Duration::from_secs(45),
            idle_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            verdict_wait: Duration::from_millis(300),
            uid_patience: Duration::from_secs(10),
            full_state_per_second: 500,
            repeats_per_second: 20_000,
            reopen_per_second: 5_000,
            http_interval: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            drain_per_second: 500,
            drain_window: Duration::from_secs(30),
            drain_grace: Duration::from_secs(2),
            drain_handover: Duration::from_secs(10),
            body_cache_bytes: 64 << 20,
            custom_capabilities: Vec::new(),
            package_storage: None,
            max_downloads: 1_000,
            download_bytes_per_second: 8 << 10,
            download_window: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// When a client that is refused is to come back: another time for each, so that they do not come back in step.
    pub fn retry_after_s(&self) -> u64 {
        let (min, max) = (self.retry_after_min.as_secs().max(1), self.retry_after_max.as_secs());
        rand::random_range(min..=max.max(min))
    }
}
