//! The only module with SQL: what Muster knows, in Postgres or (for `standalone`) SQLite.
//!
//! What is stored:
//! - `agents`: one row an agent: what it reported, where it is connected, what it should have. Written in batches,
//!   guarded by the row's version, never on a heartbeat, and without touching an indexed column so that Postgres can
//!   update in place (HOT).
//! - `contents`: bodies (offered files, effective configurations) once by SHA-256.
//! - `configs`: which files a config hash stands for, so that any replica can make its body.
//! - `offers`: bodies of offers of packages and connection settings by their hash.
//! - `policies`, `revisions`: policies, their immutable revisions.
//! - `counters`: the epoch, which counts all changes of policies, and the version of the list of agent tokens.
//! - `shard_progress`: up to which epoch each shard has been reconciled.
//! - `commands`, `command_targets`: what operators had agents do once, and what became of it.
//! - `components`: what agents are built from, once by the hash that they give.
//! - `announcements`, `health_transitions`: of agents that announce custom capabilities or components, and whose health
//!   changed.
//! - `uid_moves`: uids that agents had before those that they have.
//! - `package_files`: which files are in the package storage; the files themselves are not here.
//! - `secrets`: what a deployment makes for itself once, such as the key of the package files' tokens.
//! - `certificates`: requests of agents for client certificates, and those that were issued.
//! - `rollouts`: how changes of policies go out, and who drives them.
//! - `overrides`: agents that have a revision of a policy whatever rollouts do.
//! - `tokens`: hashes of agent and operator tokens; `audit`: who changed what, written with the change.
//!
//! Two implementations pass one contract suite. What is the same in both is in `shared`, one file an aggregate; what a
//! database does in its own way (batches, connections) is in its own module.

#![allow(clippy::duplicate_mod, reason = "`shared` is compiled once for each database, on purpose; see there")]

mod batch;
mod certificates;
mod error;
mod json;
pub mod metrics;
mod more;
mod moves;
mod overrides;
mod plan;
pub mod postgres;
mod rollouts;
mod row;
mod sets;
pub mod sqlite;
mod types;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use certificates::*;
pub use moves::*;
pub use overrides::*;
pub use rollouts::*;
pub use sets::*;
pub use types::*;

use crate::model::{
    AgentRecord, ContentHash, InstanceUid, Labels, UnixMs,
    command::{Command, CommandId, Target, TargetState},
    desired::{DesiredOffer, PolicySet},
    health::Transition,
    policy::{FileRef, Policy, Revision},
    uid::Shard,
};

/// A shared store.
pub type SharedStore = Arc<dyn Store>;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is away or overloaded; the same call may succeed later.
    #[error("the database is not reachable: {0}")]
    Unreachable(String),
    /// The database's URL, its certificate or what this program knows of certificates does not allow a connection; somebody has
    /// to mend it.
    #[error("the database cannot be used as it is set: {0}")]
    Settings(String),
    #[error("{kind} {name:?} does not exist")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} {name:?} is in use by policy {policy:?}")]
    InUse { kind: &'static str, name: String, policy: String },
    #[error("{kind} {name:?} is being deleted; try again in a moment")]
    BeingDeleted { kind: &'static str, name: String },
    #[error("{kind} {name:?} exists already")]
    AlreadyExists { kind: &'static str, name: String },
    #[error("more than one {kind} is called {name:?}: give its id")]
    Ambiguous { kind: &'static str, name: String },
    /// A given etag is not the present one.
    #[error("{kind} {name:?} has changed: its etag is {current}, not {given}")]
    EtagMismatch { kind: &'static str, name: String, given: String, current: String },
    /// It is too late for that, or too early.
    #[error("{kind} {name:?} is {state}")]
    WrongState { kind: &'static str, name: String, state: &'static str },
    #[error("there can be {limit} {kind}, and this would make {count}")]
    TooMany { kind: &'static str, limit: u64, count: u64 },
    /// A set of policies is not applied.
    #[error("{0}")]
    Refused(Refusals),
    /// The schema is older or newer than this program.
    #[error("database schema: {0}")]
    Schema(String),
    /// A bug, or a damaged database.
    #[error("database: {0}")]
    Internal(String),
}

/// Every method is one transaction. A batch may be of any size up to [`MAX_BATCH`].
#[async_trait]
pub trait Store: CertificateStore + MoveStore + OverrideStore + RolloutStore + Send + Sync + 'static {
    /// Brings the schema up to this program's. Safe to run from several processes at once.
    async fn migrate(&self) -> Result<()>;
    /// Succeeds if the database answers and its schema is one that this program can use.
    async fn check(&self) -> Result<()>;

    // Agents.

    /// The agents of `uids` that are stored, in no particular order.
    async fn read_agents(&self, uids: &[InstanceUid]) -> Result<Vec<AgentRecord>>;
    /// Writes each record whose stored version is the one it carries (0: no row yet), with the version one larger, and
    /// all `contents`. Returns the uids of those that were not written because another writer came first: to be read
    /// and decided again. Labels are not written: they belong to [`Self::set_labels`].
    async fn write_agents(
        &self,
        agents: &[AgentRecord],
        contents: &[(ContentHash, Bytes)],
    ) -> Result<Vec<InstanceUid>> {
        self.write_reports(agents, contents, &[]).await
    }
    /// As [`Self::write_agents`], with `news` of the agents that are written.
    async fn write_reports(
        &self,
        agents: &[AgentRecord],
        contents: &[(ContentHash, Bytes)],
        news: &[News],
    ) -> Result<Vec<InstanceUid>>;
    /// Writes what each agent should have, and nothing else, under the same guard as [`Self::write_agents`]; also
    /// returns who was not written, such as agents that are not stored.
    async fn write_desired(&self, agents: &[DesiredWrite]) -> Result<Vec<InstanceUid>>;
    /// Agents in the order of their uids after `after`, at most `limit`.
    async fn page_agents(
        &self,
        filter: AgentFilter,
        after: Option<InstanceUid>,
        limit: u32,
    ) -> Result<Vec<AgentRecord>>;
    /// Merges `changes` into the labels (`None` removes). With an etag ([`crate::model::agent::AgentRecord::etag`]),
    /// only if it is still the present one. Returns the new record.
    async fn set_labels(
        &self,
        uid: InstanceUid,
        changes: &LabelChanges,
        etag: Option<&str>,
        actor: &Actor,
    ) -> Result<AgentRecord>;
    /// Lifts the agent's quarantines, so that what it should have is offered again; also what it has drifted from.
    async fn lift_quarantine(&self, uid: InstanceUid, actor: &Actor) -> Result<AgentRecord>;
    /// Deletes an agent. It will be a new one if it comes back.
    async fn forget_agent(&self, uid: InstanceUid, etag: Option<&str>, actor: &Actor) -> Result<()>;
    /// Marks every agent that is connected to `gateway` as disconnected, a shard at a time; returns how many.
    async fn disconnect_gateway(&self, gateway: &str) -> Result<u64>;
    /// Gateways that any connected agent's row names, with the number of those agents.
    async fn gateways_in_use(&self) -> Result<Vec<(String, u64)>>;
    async fn fleet_summary(&self) -> Result<FleetSummary>;

    // What agents announce, and the history of their health.

    /// Of those of `uids` that announced anything, in no particular order.
    async fn read_announced(&self, uids: &[InstanceUid]) -> Result<Vec<(InstanceUid, Announced)>>;
    /// Transitions of an agent's health with their numbers, newest first, numbers below `before`. At most
    /// [`MAX_TRANSITIONS_KEPT`] are kept.
    async fn health_history(&self, uid: InstanceUid, before: Option<i64>, limit: u32)
    -> Result<Vec<(i64, Transition)>>;
    /// Deletes transitions older than `before`; returns how many.
    async fn forget_health(&self, before: UnixMs) -> Result<u64>;

    // Components that agents are built from.

    /// Takes note that agents said these hashes. Where nobody has told what one stands for, they become candidates for being
    /// asked, [`MAX_CANDIDATES`] at most. Returns the hashes that are known.
    async fn note_components(&self, said: &[(Bytes, Vec<InstanceUid>)], now: UnixMs) -> Result<Vec<Bytes>>;
    /// Stores what hashes stand for: encoded `AvailableComponents`. What is known stays.
    async fn put_components(&self, told: &[(Bytes, Bytes)], now: UnixMs) -> Result<()>;
    async fn get_components(&self, hash: &[u8]) -> Result<Option<Bytes>>;
    /// Hashes that nobody has told the contents of, and for which there is a candidate who was not asked; those first that were
    /// asked for longest ago.
    async fn unknown_components(&self, limit: u32) -> Result<Vec<UnknownComponents>>;
    /// Counts one more candidate as asked; true for the first who does so after `asked` of them.
    async fn ask_components(&self, hash: &[u8], asked: u16, now: UnixMs) -> Result<bool>;
    /// Deletes what no agent has said since `used_before`, and hashes all of whose candidates were asked in vain, the
    /// last before `unanswered_before`.
    async fn forget_components(&self, used_before: UnixMs, unanswered_before: UnixMs) -> Result<u64>;

    // Commands.

    /// Returns false, and changes nothing, if there is a command with this id.
    async fn create_command(&self, command: &NewCommand, actor: &Actor) -> Result<bool>;
    async fn get_command(&self, id: CommandId) -> Result<CommandProgress>;
    /// Targets in one of `states` (all if empty), in the order of their uids after `after`.
    async fn command_targets(
        &self,
        id: CommandId,
        states: &[TargetState],
        after: Option<InstanceUid>,
        limit: u32,
    ) -> Result<Vec<Target>>;
    /// Commands that are not finished, oldest first.
    async fn open_commands(&self) -> Result<Vec<Command>>;
    /// Some of the targets that wait, in `shards` (bit n: shard n).
    async fn waiting_targets(&self, id: CommandId, shards: u64, limit: u32) -> Result<Vec<InstanceUid>>;
    /// Takes targets that still wait; returns those that were taken. Of several who try, one succeeds.
    async fn claim_targets(&self, id: CommandId, claims: &[Claim], now: UnixMs) -> Result<Vec<InstanceUid>>;
    /// Targets under way, in `shards`.
    async fn targets_under_way(&self, shards: u64, limit: u32) -> Result<Vec<Target>>;
    /// Changes the state of targets that are under way, and of no others.
    async fn settle_targets(&self, settled: &[(CommandId, InstanceUid, TargetState)], now: UnixMs) -> Result<()>;
    /// Marks the commands all of whose targets are settled as finished; returns how many.
    async fn finish_commands(&self, now: UnixMs) -> Result<u64>;
    /// Deletes commands that were finished before `before`; returns how many.
    async fn forget_commands(&self, before: UnixMs) -> Result<u64>;

    // Contents.

    /// Stores bodies under their hashes; those that are there already stay.
    async fn put_contents(&self, contents: &[(ContentHash, Bytes)]) -> Result<()>;
    async fn get_contents(&self, hashes: &[ContentHash]) -> Result<Vec<(ContentHash, Bytes)>>;
    /// Remembers which files each config hash stands for.
    async fn put_configs(&self, configs: &[(ContentHash, ConfigFiles)]) -> Result<()>;
    /// Of those of `hashes` that are known, in no particular order.
    async fn get_configs(&self, hashes: &[ContentHash]) -> Result<Vec<(ContentHash, ConfigFiles)>>;
    /// Remembers what the hash of an offer of packages or connection settings stands for, for at least two days.
    async fn put_offer(&self, offer: &DesiredOffer) -> Result<()>;
    async fn get_offer(&self, hash: ContentHash) -> Result<Option<DesiredOffer>>;
    /// Deletes contents and configs that were last put before `before` and that nothing refers to, and offers that were
    /// last put before `before`; returns how many.
    /// `before` must be two days back or more: putting a hash that is there makes it young again, but at most once a
    /// day. For the same reason nobody may rely for more than a day on having put a hash that nothing refers to.
    async fn collect_garbage(&self, before: UnixMs) -> Result<u64>;

    // Policies.

    /// Makes a new revision of a policy, or a new policy, together with file bodies that are not stored yet. If the
    /// content equals the newest revision's, nothing changes. With [`ApplyPolicy::validate_only`], nothing is written,
    /// and the result is what would have been. `NotFound` of kind `content` if a file's body is neither given nor
    /// stored, and, unless it only validates, of kind `package file` if one that is hosted here has not been uploaded.
    async fn apply_policy(&self, apply: ApplyPolicy, actor: &Actor) -> Result<Applied>;
    /// As [`Self::apply_policy`] of several, in one transaction with one epoch: all of them, or none. If nothing changes, the epoch
    /// stays. `Refused` with everything that is wrong.
    async fn apply_policies(&self, set: ApplySet, actor: &Actor) -> Result<AppliedSet>;
    async fn delete_policy(&self, name: &str, etag: Option<&str>, actor: &Actor) -> Result<()>;
    async fn get_policy(&self, name: &str) -> Result<Policy>;
    /// In the order of their names after `after`.
    async fn list_policies(&self, after: Option<&str>, limit: u32) -> Result<Vec<Policy>>;
    /// Newest first, numbers below `before`. `NotFound` if there is no such policy.
    async fn list_revisions(&self, name: &str, before: Option<u64>, limit: u32) -> Result<Vec<Revision>>;
    /// `NotFound` of kind `policy` or `revision`.
    async fn get_revision(&self, name: &str, number: u64) -> Result<Revision> {
        let found = self.list_revisions(name, number.checked_add(1), 1).await?.pop();
        let found = found.filter(|revision| revision.number == number);
        found.ok_or_else(|| Error::not_found("revision", format!("{name}@{number}")))
    }
    /// All policies and the epoch, read consistently.
    async fn policy_set(&self) -> Result<PolicySet>;
    async fn policy_epoch(&self) -> Result<u64>;

    // Reconciliation.

    /// The epoch up to which each shard has been reconciled; a shard that is missing never was.
    async fn shard_progress(&self) -> Result<Vec<(Shard, u64)>>;
    /// Never goes back.
    async fn set_shard_progress(&self, shard: Shard, epoch: u64) -> Result<()>;

    // Tokens.

    async fn create_token(&self, token: &NewToken, actor: &Actor) -> Result<Token>;
    /// In the order in which they were made.
    async fn list_tokens(&self) -> Result<Vec<Token>>;
    /// By id or, if no token has that id, by the name of one that is not revoked; `NotFound` also if both an agent and
    /// an operator token have the name. Revoking again changes nothing.
    async fn revoke_token(&self, id_or_name: &str, now: UnixMs, actor: &Actor) -> Result<Token>;
    /// The token with this hash that is neither revoked nor expired at `now`.
    async fn find_token(&self, kind: TokenKind, sha256: &[u8; 32], now: UnixMs) -> Result<Option<Token>>;
    /// The agent tokens that are neither revoked nor expired at `now`, and a number that grows with every change of
    /// them.
    async fn agent_tokens(&self, now: UnixMs) -> Result<(u64, Vec<TokenDigest>)>;

    // Package files.

    /// Says that a file is in the package storage, young as of the actor's time, and its size known; one that is there
    /// already keeps its name and author. `BeingDeleted` if so.
    async fn put_package_file(&self, file: &NewPackageFile, actor: &Actor) -> Result<PackageFile>;
    /// `None` also for one that is being deleted.
    async fn get_package_file(&self, sha256: ContentHash) -> Result<Option<PackageFile>>;
    /// In the order of their hashes after `after`; also those that are being deleted.
    async fn list_package_files(&self, after: Option<ContentHash>, limit: u32) -> Result<Vec<PackageFile>>;
    /// From now on no policy may refer to the file; to be called before it is deleted from the storage. `InUse` if the
    /// newest revision of one does, or one that agents may have; `BeingDeleted` if another deletion of it began less than ten minutes ago.
    async fn begin_delete_package_file(&self, sha256: ContentHash, actor: &Actor) -> Result<PackageFile>;
    /// It has been deleted from the storage.
    async fn end_delete_package_file(&self, sha256: ContentHash) -> Result<()>;
    /// What the tokens of package files are made with: random, and the same for ever.
    async fn package_key(&self) -> Result<[u8; 32]>;

    // Audit.

    /// Newest first, ids below `before`.
    async fn list_audit(&self, before: Option<i64>, limit: u32) -> Result<Vec<AuditEntry>>;
}

/// Most records, or uids, in one call.
pub const MAX_BATCH: usize = 5_000;

/// How young a stored body or config must be to stay as young as it is when it is stored again.
const REFRESH_AFTER_MS: i64 = 24 * 3_600_000;

/// The time now.
fn unix_ms() -> UnixMs {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// Which files a configuration has, by name.
pub type ConfigFiles = std::collections::BTreeMap<String, FileRef>;

/// `None` removes the label.
pub type LabelChanges = std::collections::BTreeMap<String, Option<String>>;

/// Applies changes to labels.
pub fn apply_label_changes(labels: &mut Labels, changes: &LabelChanges) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(labels.insert(key.clone(), value.clone())),
            None => drop(labels.remove(key)),
        }
    }
}
