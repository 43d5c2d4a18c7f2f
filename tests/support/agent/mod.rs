//! A scripted agent that behaves like opamp-go over WebSocket: full state once, then only what changed; after a
//! reconnect just its next message, which may be empty. It keeps count of what the server does to it.

pub mod fleet;
mod link;
mod others;
mod poll;

use std::net::SocketAddr;

use bytes::Bytes;
use muster::proto::opamp::{
    AgentCapabilities, AgentConfigMap, AgentConfigObject, AgentDescription, AgentRemoteConfig, AgentToServer,
    AgentToServerFlags, AnyValue, ComponentHealth, EffectiveConfig, KeyValue, RemoteConfigStatus, RemoteConfigStatuses,
    ServerToAgent, ServerToAgentFlags, any_value::Value,
};

pub use fleet::Fleet;
pub use others::Others;

/// One agent's own state, and what it has seen.
#[derive(Clone, Debug)]
pub struct Agent {
    pub uid: uuid::Uuid,
    description: AgentDescription,
    health: ComponentHealth,
    config: Option<AgentRemoteConfig>,
    /// Besides those that all have.
    capabilities: u64,
    /// It fails to apply a configuration in which this text is.
    refuses: Option<String>,
    /// It crashes when it is given one, and does not live to tell.
    crashes: bool,
    has_crashed: bool,
    /// What it says that it runs, whatever it was offered.
    runs: Option<String>,
    /// The hash of the last offer, if it failed.
    refused: Option<Bytes>,
    pub others: Others,
    sequence_num: u64,
    has_reported: bool,
    /// Messages sent on this connection whose reply has not come.
    unanswered: u32,
    /// The server may know less than was said: a connection ended with messages unanswered, or its gateway died.
    may_have_lost: bool,
    /// Its last message was a heartbeat: only its gateway knows of that.
    was_heartbeat: bool,
    /// What it was before it was given another uid: answers under way still say so.
    former_uid: Option<uuid::Uuid>,
    /// It wants another uid, and asks for it on each connection until it has one.
    asks_for_uid: bool,
    /// The gateway that it last connected to.
    gateway: Option<SocketAddr>,
    pub seen: Seen,
}

/// What the server did to an agent.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub is_connected: bool,
    pub connects: u32,
    pub disconnects: u32,
    pub refusals: u32,
    pub full_state_asks: u32,
    /// Asked although nothing can have been missed.
    pub needless_asks: u32,
    /// Hashes in the order of the offers.
    pub offers: Vec<Bytes>,
    pub new_uids: u32,
    pub restarts: u32,
    /// Texts of error responses.
    pub errors: Vec<String>,
}

impl Agent {
    pub fn new(index: usize, service: &str) -> Self {
        let identifying = vec![attribute("service.name", service), attribute("service.version", "1.0")];
        let other = vec![attribute("os.type", "linux"), attribute("test.index", &index.to_string())];
        Self {
            uid: uuid::Uuid::now_v7(),
            description: AgentDescription { identifying_attributes: identifying, non_identifying_attributes: other },
            health: ComponentHealth { healthy: true, status: "new".to_owned(), ..Default::default() },
            config: None,
            capabilities: 0,
            refuses: None,
            crashes: false,
            has_crashed: false,
            runs: None,
            refused: None,
            others: Others::default(),
            sequence_num: 0,
            has_reported: false,
            unanswered: 0,
            may_have_lost: false,
            was_heartbeat: false,
            former_uid: None,
            asks_for_uid: false,
            gateway: None,
            seen: Seen::default(),
        }
    }

    /// One that takes other kinds of offer as well.
    pub fn taking(self, others: Others) -> Self {
        Self { others, ..self }
    }

    /// One that fails to apply a configuration, package or endpoint in which this text is.
    pub fn refusing(self, text: &str) -> Self {
        Self { refuses: Some(text.to_owned()), ..self }
    }

    /// One that can be told to restart.
    pub fn restarting(self) -> Self {
        Self { capabilities: AgentCapabilities::AcceptsRestartCommand as u64, ..self }
    }

    /// One that crashes when it is given a configuration in which this text is, and is started again with what it had.
    pub fn crashing(self, text: &str) -> Self {
        Self { crashes: true, ..self.refusing(text) }
    }

    /// One that says that it runs this text, whatever it was offered.
    pub fn running(self, text: &str) -> Self {
        Self { runs: Some(text.to_owned()), ..self }
    }

    /// The status of its health, as last said.
    pub fn health_status(&self) -> &str {
        &self.health.status
    }

    /// Everything that it said has been answered.
    pub fn is_answered(&self) -> bool {
        self.seen.is_connected && self.unanswered == 0
    }

    /// It waits for the uid that it asked for.
    pub fn asks_for_uid(&self) -> bool {
        self.asks_for_uid
    }

    pub fn has_just_sent_heartbeat(&self) -> bool {
        self.was_heartbeat
    }

    /// The gateway that it last connected to.
    pub fn gateway(&self) -> Option<SocketAddr> {
        self.gateway
    }

    /// The hash of the configuration that it has applied.
    pub fn applied(&self) -> Option<&Bytes> {
        self.config.as_ref().map(|config| &config.config_hash)
    }

    /// The text of a file of the configuration that it has applied.
    pub fn file(&self, name: &str) -> Option<String> {
        let file = self.config.as_ref()?.config.as_ref()?.config_map.get(name)?;
        Some(String::from_utf8_lossy(&file.body).into_owned())
    }

    /// The first message of a connection.
    fn open(&mut self, gateway: SocketAddr) -> AgentToServer {
        self.gateway = Some(gateway);
        self.seen.is_connected = true;
        self.seen.connects += 1;
        self.unanswered = 0;
        if std::mem::take(&mut self.has_crashed) {
            (self.sequence_num, self.has_reported) = (0, false);
        }
        if self.others.begins_anew() {
            (self.sequence_num, self.has_reported) = (0, false);
        }
        if self.asks_for_uid {
            return self.ask_for_uid();
        }
        if self.has_reported { self.delta(|_, _| {}) } else { self.full() }
    }

    fn wants_uid(&mut self) {
        self.asks_for_uid = true;
    }

    fn ask_for_uid(&mut self) -> AgentToServer {
        let message = if self.has_reported { self.delta(|_, _| {}) } else { self.full() };
        AgentToServer { flags: AgentToServerFlags::RequestInstanceUid as u64, ..message }
    }

    /// Whether it is gone before it can say anything more.
    fn leaves(&self) -> bool {
        self.has_crashed || self.others.is_leaving()
    }

    fn close(&mut self) {
        self.seen.is_connected = false;
        self.seen.disconnects += 1;
        self.may_have_lost |= self.unanswered > 0;
    }

    fn heartbeat(&mut self) -> AgentToServer {
        let message = self.delta(|_, _| {});
        self.was_heartbeat = true;
        message
    }

    /// Its gateway has died, and with it what only that knew.
    fn gateway_died(&mut self) {
        self.may_have_lost |= self.unanswered > 0 || self.was_heartbeat;
    }

    fn is_addressed(&self, uid: &[u8]) -> bool {
        uid == self.uid.as_bytes() || self.former_uid.is_some_and(|former| uid == former.as_bytes())
    }

    fn report_health(&mut self, status: String) -> AgentToServer {
        self.health.status = status;
        self.delta(|agent, message| message.health = Some(agent.health.clone()))
    }

    /// What it has to say to a message, if anything.
    fn receive(&mut self, message: ServerToAgent) -> Option<AgentToServer> {
        if let Some(error) = message.error_response {
            self.seen.errors.push(error.error_message);
            self.unanswered = self.unanswered.saturating_sub(1);
            return None;
        }
        if message.command.is_some() {
            self.seen.restarts += 1;
            return None;
        }
        let asks_full_state = message.flags & ServerToAgentFlags::ReportFullState as u64 != 0;
        // A push carries an offer or a question; what carries neither, or opens the connection, is a reply.
        let is_offer = message.remote_config.is_some()
            || message.packages_available.is_some()
            || message.connection_settings.is_some();
        if message.capabilities != 0 || (!is_offer && !asks_full_state) {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        if let Some(identification) = message.agent_identification {
            self.seen.new_uids += 1;
            self.asks_for_uid = false;
            self.former_uid = Some(self.uid);
            self.uid = uuid::Uuid::from_slice(&identification.new_instance_uid).unwrap();
        }
        let has_config = message.remote_config.is_some();
        let mut has_others = message.packages_available.is_some();
        if let Some(config) = message.remote_config {
            self.seen.offers.push(config.config_hash.clone());
            self.take_config(config);
        }
        if let Some(packages) = message.packages_available {
            self.others.take_packages(packages, self.refuses.as_deref());
        }
        if let Some(settings) = message.connection_settings {
            has_others |= self.others.take_settings(settings, self.refuses.as_deref());
        }
        if (has_config || has_others) && !asks_full_state {
            return Some(self.delta(|agent, message| {
                if has_config {
                    message.remote_config_status = agent.config_status();
                    message.effective_config = agent.effective_config();
                }
                if has_others {
                    agent.others.fill(message);
                }
            }));
        }
        asks_full_state.then(|| {
            self.seen.full_state_asks += 1;
            self.seen.needless_asks += u32::from(!self.may_have_lost);
            self.may_have_lost = false;
            self.full()
        })
    }

    fn take_config(&mut self, config: AgentRemoteConfig) {
        let files = config.config.iter().flat_map(|map| map.config_map.values());
        let is_bad = |text: &String| files.clone().any(|file| String::from_utf8_lossy(&file.body).contains(text));
        if self.refuses.as_ref().is_some_and(is_bad) {
            self.has_crashed = self.crashes;
            self.refused = (!self.crashes).then_some(config.config_hash);
        } else {
            self.refused = None;
            self.config = Some(config);
        }
    }

    fn full(&mut self) -> AgentToServer {
        self.has_reported = true;
        self.delta(|agent, message| {
            message.agent_description = Some(agent.description.clone());
            message.health = Some(agent.health.clone());
            message.remote_config_status = agent.config_status();
            message.effective_config = agent.effective_config();
            agent.others.fill(message);
        })
    }

    fn delta(&mut self, fill: impl FnOnce(&Self, &mut AgentToServer)) -> AgentToServer {
        let mut message = AgentToServer {
            instance_uid: Bytes::copy_from_slice(self.uid.as_bytes()),
            sequence_num: self.sequence_num,
            capabilities: self.capabilities
                | self.others.capabilities()
                | AgentCapabilities::ReportsStatus as u64
                | AgentCapabilities::AcceptsRemoteConfig as u64
                | AgentCapabilities::ReportsRemoteConfig as u64
                | AgentCapabilities::ReportsEffectiveConfig as u64
                | AgentCapabilities::ReportsHealth as u64
                | AgentCapabilities::ReportsHeartbeat as u64,
            ..Default::default()
        };
        fill(self, &mut message);
        self.was_heartbeat = false;
        self.sequence_num += 1;
        self.unanswered += 1;
        message
    }

    fn config_status(&self) -> Option<RemoteConfigStatus> {
        if let Some(refused) = &self.refused {
            return Some(RemoteConfigStatus {
                last_remote_config_hash: refused.clone(),
                status: RemoteConfigStatuses::Failed as i32,
                error_message: "it does not parse".to_owned(),
            });
        }
        self.config.as_ref().map(|config| RemoteConfigStatus {
            last_remote_config_hash: config.config_hash.clone(),
            status: RemoteConfigStatuses::Applied as i32,
            error_message: String::new(),
        })
    }

    fn effective_config(&self) -> Option<EffectiveConfig> {
        let config = self.config.as_ref()?;
        let Some(runs) = &self.runs else { return Some(EffectiveConfig { config_map: config.config.clone() }) };
        let file = AgentConfigObject { body: runs.clone().into_bytes().into(), ..Default::default() };
        Some(EffectiveConfig { config_map: Some(AgentConfigMap { config_map: [(String::new(), file)].into() }) })
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value) }
}
