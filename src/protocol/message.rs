//! What an AgentToServer carries, found at its top level. A heartbeat is recognised without decoding anything.

use std::ops::Range;

use prost::Message;

use super::fields::{self, Malformed, Value};
use crate::{
    model::{InstanceUid, uid::InvalidUid},
    proto::opamp,
};

/// Field numbers of AgentToServer.
pub mod tag {
    pub const INSTANCE_UID: u32 = 1;
    pub const SEQUENCE_NUM: u32 = 2;
    pub const AGENT_DESCRIPTION: u32 = 3;
    pub const CAPABILITIES: u32 = 4;
    pub const HEALTH: u32 = 5;
    pub const EFFECTIVE_CONFIG: u32 = 6;
    pub const REMOTE_CONFIG_STATUS: u32 = 7;
    pub const PACKAGE_STATUSES: u32 = 8;
    pub const AGENT_DISCONNECT: u32 = 9;
    pub const FLAGS: u32 = 10;
    pub const CONNECTION_SETTINGS_REQUEST: u32 = 11;
    pub const CUSTOM_CAPABILITIES: u32 = 12;
    pub const CUSTOM_MESSAGE: u32 = 13;
    pub const AVAILABLE_COMPONENTS: u32 = 14;
    pub const CONNECTION_SETTINGS_STATUS: u32 = 15;
}

/// The top level of one AgentToServer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    pub uid: InstanceUid,
    pub sequence_num: u64,
    /// 0 when left out or zero: unchanged.
    pub capabilities: u64,
    /// `AgentToServerFlags` bits.
    pub flags: u64,
    /// Carries something that is to be stored: anything but uid, sequence number, capabilities, flags, agent_disconnect and
    /// custom_message.
    pub has_status: bool,
    /// Is a full report rather than a delta: it carries the agent's description, which clients send
    /// exactly when they send everything.
    pub is_full: bool,
    pub has_health: bool,
    pub has_effective_config: bool,
    pub is_disconnect: bool,
    /// Where its custom message is, encoded. That is an event, and no part of the agent's state.
    pub custom_message: Option<Range<usize>>,
    /// Where its request for connection settings is, encoded.
    pub connection_settings_request: Option<Range<usize>>,
    /// Announces custom capabilities, and at least one.
    pub has_custom_capabilities: bool,
}

/// Why a message cannot be taken. The text goes to the agent in a BAD_REQUEST.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Uid(#[from] InvalidUid),
    #[error("not an AgentToServer: {0}")]
    Undecodable(String),
    #[error("field {0} of AgentToServer has the wrong wire type")]
    WireType(u32),
}

impl Incoming {
    /// Reads `message`, an encoded AgentToServer without header. Status is decoded once, to refuse here what the
    /// config service could not read; a heartbeat is not.
    pub fn parse(message: &[u8]) -> Result<Self, InvalidMessage> {
        let mut uid = Err(InvalidUid::Length(0));
        let mut incoming = Self {
            uid: InstanceUid::PLACEHOLDER,
            sequence_num: 0,
            capabilities: 0,
            flags: 0,
            has_status: false,
            is_full: false,
            has_health: false,
            has_effective_config: false,
            is_disconnect: false,
            custom_message: None,
            connection_settings_request: None,
            has_custom_capabilities: false,
        };
        for field in fields::fields(message) {
            let field = field?;
            match (field.number, field.value) {
                (tag::INSTANCE_UID, Value::Bytes(range)) => uid = InstanceUid::from_slice(&message[range]),
                (tag::SEQUENCE_NUM, Value::Varint(number)) => incoming.sequence_num = number,
                (tag::CAPABILITIES, Value::Varint(bits)) => incoming.capabilities = bits,
                (tag::FLAGS, Value::Varint(bits)) => incoming.flags = bits,
                (tag::AGENT_DISCONNECT, Value::Bytes(_)) => incoming.is_disconnect = true,
                (tag::CUSTOM_MESSAGE, Value::Bytes(range)) => incoming.custom_message = Some(range),
                (number @ (1..=2 | 4 | 9..=10 | tag::CUSTOM_MESSAGE), _) => {
                    return Err(InvalidMessage::WireType(number));
                }
                (number, value) => {
                    incoming.has_status = true;
                    incoming.has_custom_capabilities |= number == tag::CUSTOM_CAPABILITIES
                        && matches!(&value, Value::Bytes(range) if !range.is_empty());
                    incoming.is_full |= number == tag::AGENT_DESCRIPTION;
                    incoming.has_health |= number == tag::HEALTH;
                    incoming.has_effective_config |= number == tag::EFFECTIVE_CONFIG;
                    if let (tag::CONNECTION_SETTINGS_REQUEST, Value::Bytes(range)) = (number, value) {
                        incoming.connection_settings_request = Some(range);
                    }
                }
            }
        }
        incoming.uid = uid?;
        if incoming.has_status || incoming.is_disconnect || incoming.custom_message.is_some() {
            opamp::AgentToServer::decode(message).map_err(|error| InvalidMessage::Undecodable(error.to_string()))?;
        }
        Ok(incoming)
    }

    /// Whether it is a full report of an agent with these capabilities, and not a description that has changed. (What else an
    /// agent may report, it may have nothing to say of.)
    pub fn has_all_of(&self, capabilities: u64) -> bool {
        let reports = |capability: opamp::AgentCapabilities| capabilities & capability as u64 != 0;
        self.is_full
            && (self.has_health || !reports(opamp::AgentCapabilities::ReportsHealth))
            && (self.has_effective_config || !reports(opamp::AgentCapabilities::ReportsEffectiveConfig))
    }

    pub fn requests_instance_uid(&self) -> bool {
        self.flags & opamp::AgentToServerFlags::RequestInstanceUid as u64 != 0
    }
}
