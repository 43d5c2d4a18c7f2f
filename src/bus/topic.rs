//! What is published where.

use std::fmt;

use crate::model::uid::Shard;

/// A channel of the bus. Payloads are messages of `muster.bus.v1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// `ShardBatch`: gateways to the config service replica that owns the shard.
    Shard(Shard),
    /// `GatewayBatch`: the config service to one gateway, by node id.
    Gateway(String),
    /// `Hint`: to every config service replica.
    ConfigService,
    /// `AgentsChanged`: to whoever watches agents.
    AgentsChanged,
    /// `AgentMessages`: to whoever watches custom messages.
    AgentMessages,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(shard) => write!(f, "shard/{shard}"),
            Self::Gateway(id) => write!(f, "gateway/{id}"),
            Self::ConfigService => f.write_str("config-service"),
            Self::AgentsChanged => f.write_str("agents-changed"),
            Self::AgentMessages => f.write_str("agent-messages"),
        }
    }
}

impl Topic {
    /// The topic with this text, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            Some(("shard", shard)) => shard.parse().ok().map(Self::Shard),
            Some(("gateway", id)) => Some(Self::Gateway(id.to_owned())),
            None if text == "config-service" => Some(Self::ConfigService),
            None if text == "agents-changed" => Some(Self::AgentsChanged),
            None if text == "agent-messages" => Some(Self::AgentMessages),
            _ => None,
        }
    }
}
