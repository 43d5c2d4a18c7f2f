//! What is known of one agent.

use std::collections::BTreeSet;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    ContentHash, InstanceUid, Labels, UnixMs, effective::Effective, offer, policy::PolicyKind, proof::Unproven,
};
use crate::proto::opamp;

/// One agent as the store holds it: what it reported (observed), and what it should have (desired). Those are large, and on
/// the heap: records pass through many hands.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentRecord {
    pub uid: InstanceUid,
    /// Optimistic lock: grows with every write of the row; 0 for an agent that is not stored yet.
    pub version: i64,
    pub labels: Labels,
    pub observed: Box<Observed>,
    pub presence: Presence,
    pub desired: Box<Desired>,
    pub first_seen: UnixMs,
}

/// What the agent said of itself, as it said it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// A full report has been taken and nothing was missed since: deltas can be applied to it.
    pub complete: bool,
    /// Encoded `AgentDescription`, empty when none was sent.
    pub description: Bytes,
    /// `AgentCapabilities` bits.
    pub capabilities: u64,
    /// Encoded `ComponentHealth`, empty when none was sent.
    pub health: Bytes,
    /// The root component's `healthy`; `None` when no health was reported.
    pub healthy: Option<bool>,
    /// Where the encoded `EffectiveConfig` is stored.
    pub effective_config: Option<ContentHash>,
    /// `RemoteConfigStatus`.
    pub config: Reported,
    /// What `package_statuses` come to, by the hash of all packages.
    pub packages: Reported,
    /// Encoded `PackageStatuses`, empty when none were sent.
    pub package_statuses: Bytes,
    /// `ConnectionSettingsStatus`.
    pub connection_settings: Reported,
    /// The connection settings that were last put on the agent's connection. Clients that connect anew with what they were
    /// offered forget its hash.
    pub sent_connection_settings: Option<ContentHash>,
    /// When they were; 0 if never.
    pub sent_connection_settings_at: UnixMs,
}

/// What the agent says of an offer of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reported {
    pub status: OfferStatus,
    /// The hash that it is about, verbatim; empty when none.
    pub hash: Bytes,
    /// The agent's words with FAILED.
    pub error: String,
}

/// `RemoteConfigStatuses` and `ConnectionSettingsStatuses`, by the specification's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i16)]
pub enum OfferStatus {
    #[default]
    Unset = 0,
    Applied = 1,
    Applying = 2,
    Failed = 3,
}

impl OfferStatus {
    /// Numbers of later versions of the protocol read as `Unset`.
    pub fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Applied,
            2 => Self::Applying,
            3 => Self::Failed,
            _ => Self::Unset,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Unset => "UNSET",
            Self::Applied => "APPLIED",
            Self::Applying => "APPLYING",
            Self::Failed => "FAILED",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i16)]
pub enum Transport {
    #[default]
    Unknown = 0,
    WebSocket = 1,
    Http = 2,
}

impl Transport {
    pub fn from_number(number: i32) -> Self {
        match number {
            1 => Self::WebSocket,
            2 => Self::Http,
            _ => Self::Unknown,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::WebSocket => "WEBSOCKET",
            Self::Http => "HTTP",
        }
    }
}

/// Where the agent is connected, and how far its messages have been taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Presence {
    pub connected: bool,
    pub transport: Transport,
    /// Node id of the gateway that holds, or last held, the connection.
    pub gateway: String,
    /// Orders the agent's connections; see `muster.bus.v1.Report`.
    pub connection_generation: u64,
    /// The last report taken of that connection.
    pub report_number: u64,
    /// `sequence_num` of the newest message known to the store. Heartbeats are not stored: on a live
    /// connection the gateway's own count is ahead.
    pub sequence_num: u64,
    /// When the newest message that is known to the store arrived.
    pub last_seen: UnixMs,
}

/// What the agent should have, and what became of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    pub config: Wanted,
    pub packages: Wanted,
    pub connection_settings: Wanted,
    /// Whether the agent runs the configuration that it applied.
    pub effective: Effective,
    /// The policies' epoch that these were computed from.
    pub epoch: u64,
    /// The parts of connection settings that the agent was ever to have: of those, one that it is not to have any more is
    /// withdrawn.
    pub connection_settings_parts: BTreeSet<String>,
    /// The client certificate that was issued to the agent.
    pub certificate: Option<Certificate>,
    /// Why the agent's configuration cannot be written; empty if it can. See [`super::rendering`].
    pub unrendered: String,
    /// What became of offers of packages that nothing was heard of any more.
    pub lost_packages: Lost,
    /// The first uid that it had, if it has taken another since; see [`AgentRecord::placement`].
    pub placement: Option<InstanceUid>,
    /// The rollouts in flight whose new revision it was offered, or had already. While one is paused, only those agents have it.
    pub reached: BTreeSet<Uuid>,
}

/// What the agent should have of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// `None` when no policy matches: nothing is offered.
    pub hash: Option<ContentHash>,
    /// Grows with every change of `hash`.
    pub generation: u64,
    /// A hash that the agent refused: not offered again until the desired state changes or an operator
    /// asks for it.
    pub quarantined: Option<ContentHash>,
    /// The agent's words when it refused that one.
    pub refusal: String,
    /// When `hash` was last offered on the present connection; `None` if it was not.
    pub offered_at: Option<UnixMs>,
    /// How often `hash` was offered without an answer; spaces repeats.
    pub offer_attempts: u16,
    /// What it has still to prove of `hash`, once it was offered that on any connection.
    pub unproven: Option<Unproven>,
    /// How often it had `hash`, and then said that it has not.
    pub forgotten: Forgotten,
}

/// Times in a row that an agent had what it should have, and then, by its own words, had it no more; see [`offer::forget`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub times: u16,
    /// When it was last offered before the last of them.
    pub offered_at: UnixMs,
}

/// Connections in a row that ended while what was offered on them was neither installed nor refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub connections: u16,
    /// When it was last offered on the last of them.
    pub offered_at: UnixMs,
}

/// A client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// PEM.
    pub certificate: Bytes,
    /// The authority's own, PEM.
    pub issuer: Bytes,
    /// 16 bytes.
    pub serial: Bytes,
    pub not_after: UnixMs,
    /// The agent has connected with it.
    pub is_used: bool,
}

impl AgentRecord {
    pub fn new(uid: InstanceUid, first_seen: UnixMs) -> Self {
        Self {
            uid,
            version: 0,
            labels: Labels::new(),
            observed: Box::default(),
            presence: Presence::default(),
            desired: Box::default(),
            first_seen,
        }
    }
}

impl AgentRecord {
    /// The uid that decides when rollouts reach the agent. It stays when the agent takes another: nothing else has changed, so
    /// nothing else is offered.
    pub fn placement(&self) -> InstanceUid {
        self.desired.placement.unwrap_or(self.uid)
    }

    /// Changes with what an operator can change: the labels. Opaque to clients.
    pub fn etag(&self) -> String {
        let mut text = Vec::new();
        for (key, value) in &self.labels {
            for part in [key, value] {
                text.extend_from_slice(&(part.len() as u64).to_be_bytes());
                text.extend_from_slice(part.as_bytes());
            }
        }
        hex::encode(&ContentHash::of(&text).0[..8])
    }
}

impl Desired {
    pub fn of(&self, kind: PolicyKind) -> &Wanted {
        match kind {
            PolicyKind::Config => &self.config,
            PolicyKind::Packages => &self.packages,
            PolicyKind::ConnectionSettings => &self.connection_settings,
        }
    }

    pub fn of_mut(&mut self, kind: PolicyKind) -> &mut Wanted {
        match kind {
            PolicyKind::Config => &mut self.config,
            PolicyKind::Packages => &mut self.packages,
            PolicyKind::ConnectionSettings => &mut self.connection_settings,
        }
    }

    /// Forgets what was offered: it may have been lost with its connection.
    pub fn reset_offers(&mut self) {
        PolicyKind::ALL.into_iter().for_each(|kind| self.of_mut(kind).reset_offers());
    }
}

impl Wanted {
    /// Makes `hash` what the agent should have; returns whether that is a change. A quarantine and the record of offers
    /// end with what they were about.
    pub fn set(&mut self, hash: Option<ContentHash>, now: UnixMs) -> bool {
        if self.hash == hash {
            return false;
        }
        // An agent that is forgotten while it is connected comes back with a new row, and its gateway still drops
        // what is not newer than its last offer. So the first generation is the time in seconds.
        let floor = if self.generation == 0 { u64::try_from(now / 1_000).unwrap_or(0) } else { 0 };
        *self = Self { hash, generation: (self.generation + 1).max(floor), ..Self::default() };
        true
    }

    /// Forgets what was offered: it may have been lost with its connection.
    pub fn reset_offers(&mut self) {
        self.offered_at = None;
        self.offer_attempts = 0;
    }
}

impl Observed {
    pub fn reported(&self, kind: PolicyKind) -> &Reported {
        match kind {
            PolicyKind::Config => &self.config,
            PolicyKind::Packages => &self.packages,
            PolicyKind::ConnectionSettings => &self.connection_settings,
        }
    }

    /// Whether it is known which policies match. Until it is, nothing is decided: the agent would get the wrong configuration
    /// first.
    pub fn has_attributes(&self) -> bool {
        self.complete || !self.description.is_empty()
    }

    /// Whether the agent takes offers of this kind.
    pub fn accepts(&self, kind: PolicyKind) -> bool {
        self.capabilities & offer::capabilities_that_accept(kind) != 0
    }

    pub fn has(&self, capability: opamp::AgentCapabilities) -> bool {
        self.capabilities & (capability as u64) != 0
    }
}
