//! Commands: what operators have agents do once.

use std::{fmt, time::Duration};

use bytes::Bytes;

use super::{InstanceUid, UnixMs, agent::Observed};
use crate::proto::opamp;

/// A gateway holds a command for an agent that has to poll for it, or does not read, for so long.
pub const HELD_FOR: Duration = Duration::from_secs(300);
/// A command that was published is published again for no longer than this.
pub const REPEATED_FOR: Duration = Duration::from_secs(480);
/// Gateways remember for so long what became of a command: until nobody publishes it again.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(1_200);

/// Chosen by whoever asks for a command, so that asking again makes no second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub uuid::Uuid);

impl CommandId {
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        uuid::Uuid::from_slice(bytes).ok().map(Self)
    }

    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_bytes())
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Restart,
    /// A custom message, for agents that announced its capability.
    Message(opamp::CustomMessage),
}

impl Action {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Message(_) => "message",
        }
    }

    /// Whether an agent takes it, which announced these custom capabilities.
    pub fn is_for(&self, observed: &Observed, custom_capabilities: &[String]) -> bool {
        match self {
            Self::Restart => observed.has(opamp::AgentCapabilities::AcceptsRestartCommand),
            Self::Message(message) => custom_capabilities.contains(&message.capability),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub id: CommandId,
    pub action: Action,
    /// To whom it was addressed, as the operator said it.
    pub addressee: String,
    /// Agents a second, over all replicas.
    pub per_second: u32,
    pub author: String,
    pub created_at: UnixMs,
    /// When the last agent's part was settled.
    pub finished_at: Option<UnixMs>,
}

/// What became of one agent's part. Each but the first two is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum TargetState {
    /// Its turn has not come.
    Waiting = 0,
    /// A gateway has been told to send it, and may have.
    UnderWay = 1,
    Sent = 2,
    NotConnected = 3,
    NotCapable = 4,
    /// Its connection was lost before the gateway said whether it was sent. It is not sent again.
    Unknown = 5,
    /// An agent over HTTP did not poll in time, or did not read.
    Expired = 6,
}

impl TargetState {
    pub const ALL: [Self; 7] =
        [Self::Waiting, Self::UnderWay, Self::Sent, Self::NotConnected, Self::NotCapable, Self::Unknown, Self::Expired];

    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i16 == number)
    }

    pub fn is_settled(self) -> bool {
        self > Self::UnderWay
    }
}

/// One agent's part of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub command: CommandId,
    pub uid: InstanceUid,
    pub state: TargetState,
    /// The connection that it was sent to: it goes to no other one. Empty and 0 before.
    pub gateway: String,
    pub connection_generation: u64,
    pub changed_at: UnixMs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_keep_their_numbers() {
        for state in TargetState::ALL {
            assert_eq!(TargetState::from_number(state as i16), Some(state));
        }
        assert_eq!(TargetState::from_number(7), None);
        assert!(!TargetState::UnderWay.is_settled() && TargetState::Sent.is_settled());
    }
}
