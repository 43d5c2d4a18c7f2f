//! An agent that a case plays: its uid, its sequence numbers, and the messages that it says.

use super::protobuf::Message;

/// Bits of `AgentToServer.capabilities`.
pub mod can {
    pub const REPORT_STATUS: u64 = 0x0001;
    pub const ACCEPT_REMOTE_CONFIG: u64 = 0x0002;
    pub const REPORT_EFFECTIVE_CONFIG: u64 = 0x0004;
    pub const ACCEPT_PACKAGES: u64 = 0x0008;
    pub const REPORT_PACKAGE_STATUSES: u64 = 0x0010;
    pub const REPORT_OWN_METRICS: u64 = 0x0040;
    pub const ACCEPT_OPAMP_SETTINGS: u64 = 0x0100;
    pub const ACCEPT_OTHER_SETTINGS: u64 = 0x0200;
    pub const ACCEPT_RESTART: u64 = 0x0400;
    pub const REPORT_HEALTH: u64 = 0x0800;
    pub const REPORT_REMOTE_CONFIG: u64 = 0x1000;
    pub const REPORT_HEARTBEAT: u64 = 0x2000;
    pub const REPORT_COMPONENTS: u64 = 0x4000;
    pub const REPORT_SETTINGS_STATUS: u64 = 0x8000;
    /// What an agent says unless a case wants something else: it reports, and accepts nothing.
    pub const REPORT: u64 = REPORT_STATUS | REPORT_EFFECTIVE_CONFIG | REPORT_HEALTH;
    pub const CONFIG: u64 = REPORT | ACCEPT_REMOTE_CONFIG | REPORT_REMOTE_CONFIG;
}

/// `RequestInstanceUid` of `AgentToServer.flags`.
pub const REQUEST_INSTANCE_UID: u64 = 1;

/// Values of `RemoteConfigStatus.status`.
pub const APPLIED: u64 = 1;
pub const APPLYING: u64 = 2;
pub const FAILED: u64 = 3;

/// The attribute by which a policy can select the agents of one case of one run.
pub const CASE_ATTRIBUTE: &str = "conformance.case";

#[derive(Clone, Debug)]
pub struct Agent {
    pub uid: [u8; 16],
    /// The sequence number of the next message.
    pub next: u64,
    pub capabilities: u64,
    /// The value of [`CASE_ATTRIBUTE`].
    pub mark: String,
    pub extra: Vec<Message>,
}

impl Agent {
    pub fn new(uid: [u8; 16], mark: &str) -> Self {
        Self { uid, next: 0, capabilities: can::REPORT, mark: mark.to_owned(), extra: Vec::new() }
    }

    pub fn with(mut self, capabilities: u64) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Uid, the next sequence number and capabilities: what each message has, and a heartbeat alone.
    pub fn heartbeat(&mut self) -> Message {
        self.next = self.next.wrapping_add(1);
        self.numbered(self.next.wrapping_sub(1))
    }

    /// As a heartbeat, with a number of the case's choice.
    pub fn numbered(&self, number: u64) -> Message {
        let message = Message::new().bytes(1, self.uid);
        let message = if number == 0 { message } else { message.uint(2, number) };
        if self.capabilities == 0 { message } else { message.uint(4, self.capabilities) }
    }

    /// Everything that there is to say.
    pub fn full(&mut self) -> Message {
        let message = self.heartbeat();
        self.state(message)
    }

    /// The state of the agent, in full.
    pub fn state(&self, message: Message) -> Message {
        let message = message.message(3, &self.description()).message(5, &health(true, "running"));
        message.message(6, &effective_config("receivers: {}"))
    }

    pub fn description(&self) -> Message {
        let description = Message::new()
            .message(1, &text_attribute("service.name", "opamp-conformance"))
            .message(1, &text_attribute("service.instance.id", &uid_text(&self.uid)))
            .message(2, &text_attribute("os.type", "linux"))
            .message(2, &text_attribute(CASE_ATTRIBUTE, &self.mark));
        self.extra.iter().fold(description, |description, attribute| description.message(2, attribute))
    }

    /// A delta: how it stands with a configuration.
    pub fn config_status(&mut self, hash: &[u8], status: u64) -> Message {
        let message = self.heartbeat();
        message.message(7, &remote_config_status(hash, status, if status == FAILED { "refused" } else { "" }))
    }

    /// The last message.
    pub fn goodbye(&mut self) -> Message {
        self.heartbeat().message(9, &Message::new())
    }
}

pub fn uid_text(uid: &[u8]) -> String {
    let hex = hex::encode(uid);
    match uid.len() {
        16 => [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"),
        _ => hex,
    }
}

/// A `KeyValue` whose value is a text.
pub fn text_attribute(key: &str, value: &str) -> Message {
    attribute(key, &Message::new().bytes(1, value))
}

/// A `KeyValue`; `value` is an `AnyValue`.
pub fn attribute(key: &str, value: &Message) -> Message {
    Message::new().bytes(1, key).message(2, value)
}

pub fn health(is_healthy: bool, status: &str) -> Message {
    let health = Message::new().uint(1, is_healthy.into()).fixed64(2, 1_700_000_000_000_000_000);
    let health = if is_healthy { health } else { health.bytes(3, "broken") };
    health.bytes(4, status).fixed64(5, 1_700_000_001_000_000_000)
}

pub fn effective_config(body: impl AsRef<[u8]>) -> Message {
    let file = Message::new().bytes(1, body).bytes(2, "text/yaml");
    Message::new().message(1, &Message::new().entry(1, "collector.yaml", &file))
}

pub fn remote_config_status(hash: &[u8], status: u64, error: &str) -> Message {
    let message = Message::new().bytes(1, hash).uint(2, status);
    if error.is_empty() { message } else { message.bytes(3, error) }
}
