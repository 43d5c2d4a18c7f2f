//! What goes into and comes out of the store beside the domain's own types.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::more;
use crate::model::{
    AgentRecord, ContentHash, InstanceUid, UnixMs,
    agent::Desired,
    command::{Action, Command, CommandId, TargetState},
    health::Transition,
    policy::{Policy, PolicyKind, RevisionContent},
    status::Status,
    uid::Shard,
};
use crate::proto::opamp;

/// Who makes a change; goes into the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The operator token's name, or `system`.
    pub name: String,
    /// The operator token's id, empty for the system.
    pub token_id: String,
    /// When, by the clock of the node that took the request.
    pub now: UnixMs,
}

/// What an agent should have, decided from a certain version of its record.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredWrite {
    pub uid: InstanceUid,
    pub version: i64,
    pub desired: Box<Desired>,
    /// See [`super::more`].
    pub(super) more: Vec<u8>,
    pub(super) more_behind: bool,
}

impl DesiredWrite {
    pub fn of(agent: &AgentRecord) -> Self {
        Self {
            uid: agent.uid,
            version: agent.version,
            desired: agent.desired.clone(),
            more: more::encode(&agent.observed, &agent.desired),
            more_behind: more::is_behind(agent),
        }
    }
}

/// Which agents to page through; `None` does not restrict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    pub shard: Option<Shard>,
    pub connected: Option<bool>,
    /// Only those that [`crate::model::offer::Convergence::Behind`] may be true of; all of which it is true, and as few
    /// others as the database can tell.
    pub only_behind: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ApplyPolicy {
    pub name: String,
    pub kind: PolicyKind,
    pub content: RevisionContent,
    /// Why, in the operator's words.
    pub message: String,
    /// Bodies that `content` refers to and that may not be stored yet.
    pub bodies: Vec<(ContentHash, Bytes)>,
    /// Only if the policy has this etag; an empty text: only if there is no such policy.
    pub etag: Option<String>,
    pub validate_only: bool,
}

/// What an apply did, or would have done.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    pub policy: Policy,
    pub outcome: ApplyOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyOutcome {
    Created,
    Configured,
    Unchanged,
}

/// Counts over all agents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetSummary {
    pub agents: u64,
    pub connected: u64,
    /// Of those connected.
    pub healthy: u64,
    /// Of those connected; the rest report no health.
    pub unhealthy: u64,
    /// Of all agents, by config status.
    pub config_unset: u64,
    pub config_applied: u64,
    pub config_applying: u64,
    pub config_failed: u64,
    /// Agents with a desired configuration, and of those the ones that report its hash as APPLIED.
    pub desired: u64,
    pub converged: u64,
    /// By `service.name` and `service.version`, largest first, at most 100.
    pub versions: Vec<VersionCount>,
    /// Connected agents by gateway id, largest first.
    pub gateways: Vec<(String, u64)>,
    /// All agents by kind and status; of those that any agent has.
    pub statuses: BTreeMap<(PolicyKind, Status), u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionCount {
    pub service_name: String,
    pub service_version: String,
    pub agents: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    Agent,
    Operator,
}

impl TokenKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "agent" => Some(Self::Agent),
            "operator" => Some(Self::Operator),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    pub id: String,
    pub kind: TokenKind,
    /// Unique among the tokens of a kind that are not revoked.
    pub name: String,
    /// Of the token's text; the text itself is not stored.
    pub sha256: [u8; 32],
    pub expires_at: Option<UnixMs>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    pub kind: TokenKind,
    pub name: String,
    pub created_at: UnixMs,
    pub created_by: String,
    pub expires_at: Option<UnixMs>,
    pub revoked_at: Option<UnixMs>,
}

/// What a gateway needs to know of an agent token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenDigest {
    pub id: String,
    pub sha256: [u8; 32],
    pub expires_at: Option<UnixMs>,
}

/// A file that was put into the package storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPackageFile {
    pub sha256: ContentHash,
    /// Bytes.
    pub size: u64,
    /// As its uploader calls it; for people.
    pub name: String,
}

/// A file in the package storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageFile {
    pub sha256: ContentHash,
    pub size: u64,
    pub name: String,
    /// When it was first uploaded.
    pub created_at: UnixMs,
    /// Who uploaded it: the operator token's name.
    pub author: String,
    /// Set while it is being deleted.
    pub deleting_since: Option<UnixMs>,
}

/// One change that an operator (or the system) made.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// Grows.
    pub id: i64,
    pub at: UnixMs,
    pub actor: String,
    pub token_id: String,
    /// Such as `policy.apply`, `agent.label`, `token.revoke`.
    pub action: String,
    /// What was changed: a policy's name, an agent's uid, a token's id.
    pub target: String,
    /// JSON: what is worth keeping of the change. Never a secret.
    pub detail: serde_json::Value,
}

/// A command that is to be made, with everybody whom it concerns.
#[derive(Clone, Debug, PartialEq)]
pub struct NewCommand {
    pub id: CommandId,
    pub action: Action,
    /// As the operator said it.
    pub addressee: String,
    pub per_second: u32,
    /// Each uid once. Of those to whom it cannot go, the state is a settled one from the start.
    pub targets: Vec<(InstanceUid, TargetState)>,
}

/// A command, and how many of its targets are in each state.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandProgress {
    pub command: Command,
    pub counts: BTreeMap<TargetState, u64>,
}

/// Takes a waiting target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub uid: InstanceUid,
    /// [`TargetState::UnderWay`], with the connection that it is sent to; or a settled one.
    pub state: TargetState,
    pub gateway: String,
    pub connection_generation: u64,
}

/// What is written beside an agent's row when a report has been taken.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    pub uid: InstanceUid,
    /// See [`Announced`]; `None` leaves what is stored.
    pub custom_capabilities: Option<Bytes>,
    pub components_hash: Option<Bytes>,
    pub transitions: Vec<Transition>,
}

/// What an agent announced of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Encoded `CustomCapabilities`, empty when none were sent.
    pub custom_capabilities: Bytes,
    /// `AvailableComponents.hash` verbatim, empty when none was sent.
    pub components_hash: Bytes,
}

impl Announced {
    /// The names of the custom capabilities.
    pub fn capabilities(&self) -> Vec<String> {
        use prost::Message;
        opamp::CustomCapabilities::decode(self.custom_capabilities.clone()).unwrap_or_default().capabilities
    }
}

/// Transitions of health kept for one agent: the newest.
pub const MAX_TRANSITIONS_KEPT: u32 = 200;

/// Agents that may be asked for one set of components.
pub const MAX_CANDIDATES: usize = 16;
/// How long ago a hash must have been said last for its row to be made young again.
pub(super) const REFRESH_COMPONENTS_MS: UnixMs = 12 * 3_600_000;

/// A hash of components that no agent has told the contents of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownComponents {
    /// As agents give it.
    pub hash: Bytes,
    /// Agents that said this hash, in the order in which they are asked.
    pub candidates: Vec<InstanceUid>,
    /// How many of them have been asked, and when the last one was.
    pub asked: u16,
    pub asked_at: UnixMs,
}
