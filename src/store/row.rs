//! Rows to and from the domain, the same for both databases.

use bytes::Bytes;
use prost::Message;
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use super::{
    AuditEntry, ConfigFiles, Error, FormerUid, PackageFile, Result, Token, TokenDigest, TokenKind, json::Files, more,
};
use crate::{
    model::{
        AgentRecord, Attributes, ContentHash, InstanceUid, Labels, UnixMs,
        agent::{Desired, Observed, OfferStatus, Presence, Reported, Transport, Wanted},
        policy::{Policy, PolicyKind, PolicyOffer, Revision, RevisionContent},
        rollout::Plan,
    },
    proto::opamp,
};

/// The columns that [`AgentRow`] reads, as a literal, so that statements stay constants.
macro_rules! agent_columns {
    () => {
        "uid, version, labels, first_seen_unix_ms, complete, description, capabilities, health, healthy, \
         effective_config, config_status, reported_config_hash, config_error, connected, transport, gateway, \
         connection_generation, report_number, sequence_num, last_seen_unix_ms, desired_config, desired_generation, \
         desired_epoch, quarantined, offered_at_unix_ms, offer_attempts, more"
    };
}
pub(super) use agent_columns;

#[derive(FromRow)]
pub(super) struct AgentRow {
    uid: Uuid,
    version: i64,
    labels: Json<Labels>,
    first_seen_unix_ms: UnixMs,
    complete: bool,
    description: Vec<u8>,
    capabilities: i64,
    health: Vec<u8>,
    healthy: Option<bool>,
    effective_config: Option<Vec<u8>>,
    config_status: i16,
    reported_config_hash: Vec<u8>,
    config_error: Vec<u8>,
    connected: bool,
    transport: i16,
    gateway: String,
    connection_generation: i64,
    report_number: i64,
    sequence_num: i64,
    last_seen_unix_ms: UnixMs,
    desired_config: Option<Vec<u8>>,
    desired_generation: i64,
    desired_epoch: i64,
    quarantined: Option<Vec<u8>>,
    offered_at_unix_ms: Option<UnixMs>,
    offer_attempts: i32,
    more: Vec<u8>,
}

pub(super) fn uid(stored: Uuid) -> Result<InstanceUid> {
    InstanceUid::from_slice(stored.as_bytes()).map_err(|error| Error::damaged("agent", error))
}

impl TryFrom<AgentRow> for AgentRecord {
    type Error = Error;

    fn try_from(row: AgentRow) -> Result<Self> {
        let uid = uid(row.uid)?;
        let mut record = Self {
            uid,
            version: row.version,
            labels: row.labels.0,
            first_seen: row.first_seen_unix_ms,
            observed: Box::new(Observed {
                complete: row.complete,
                description: row.description.into(),
                capabilities: row.capabilities.cast_unsigned(),
                health: row.health.into(),
                healthy: row.healthy,
                effective_config: row.effective_config.map(hash).transpose()?,
                config: Reported {
                    status: OfferStatus::from_number(row.config_status.into()),
                    hash: row.reported_config_hash.into(),
                    error: String::from_utf8(row.config_error).map_err(|error| Error::damaged("agent", error))?,
                },
                ..Observed::default()
            }),
            presence: Presence {
                connected: row.connected,
                transport: Transport::from_number(row.transport.into()),
                gateway: row.gateway,
                connection_generation: row.connection_generation.cast_unsigned(),
                report_number: row.report_number.cast_unsigned(),
                sequence_num: row.sequence_num.cast_unsigned(),
                last_seen: row.last_seen_unix_ms,
            },
            desired: Box::new(Desired {
                config: Wanted {
                    hash: row.desired_config.map(hash).transpose()?,
                    generation: row.desired_generation.cast_unsigned(),
                    quarantined: row.quarantined.map(hash).transpose()?,
                    offered_at: row.offered_at_unix_ms,
                    offer_attempts: row.offer_attempts.clamp(0, u16::MAX.into()) as u16,
                    ..Wanted::default()
                },
                epoch: row.desired_epoch.cast_unsigned(),
                ..Desired::default()
            }),
        };
        more::decode(row.more, &mut record.observed, &mut record.desired)?;
        Ok(record)
    }
}

/// Agents whose statuses are the same.
#[derive(FromRow)]
pub(super) struct AlikeRow {
    connected: bool,
    healthy: Option<bool>,
    capabilities: i64,
    config_status: i16,
    reported_config_hash: Vec<u8>,
    desired_config: Option<Vec<u8>>,
    quarantined: Option<Vec<u8>>,
    is_offered: bool,
    more: Vec<u8>,
    pub agents: i64,
}

/// One that stands for them, as far as statuses go.
impl TryFrom<AlikeRow> for AgentRecord {
    type Error = Error;

    fn try_from(row: AlikeRow) -> Result<Self> {
        let mut record = Self::new(InstanceUid::from_uuid(Uuid::max()), 0);
        record.presence.connected = row.connected;
        record.observed.healthy = row.healthy;
        record.observed.capabilities = row.capabilities.cast_unsigned();
        record.observed.config.status = OfferStatus::from_number(row.config_status.into());
        record.observed.config.hash = row.reported_config_hash.into();
        record.desired.config.hash = row.desired_config.map(hash).transpose()?;
        record.desired.config.quarantined = row.quarantined.map(hash).transpose()?;
        record.desired.config.offered_at = row.is_offered.then_some(0);
        more::decode(row.more, &mut record.observed, &mut record.desired)?;
        Ok(record)
    }
}

pub(super) fn hash(bytes: Vec<u8>) -> Result<ContentHash> {
    ContentHash::from_slice(&bytes).ok_or_else(|| Error::damaged("hash", format!("{} bytes long", bytes.len())))
}

pub(super) fn agents(rows: Vec<AgentRow>) -> Result<Vec<AgentRecord>> {
    // Results would be collected into a vector that grows step by step.
    let mut agents = Vec::with_capacity(rows.len());
    for row in rows {
        agents.push(row.try_into()?);
    }
    Ok(agents)
}

/// `service.name` and `service.version` as the columns that the fleet summary counts by.
pub(super) fn service(description: &[u8]) -> (String, String) {
    let attributes = Attributes::decode(description);
    let text = |key| countable(&attributes.text(key).unwrap_or_default());
    (text("service.name"), text("service.version"))
}

/// Longest name or version that is told apart, in characters: agents choose these texts.
const MAX_COUNTABLE_CHARS: usize = 200;

/// Postgres' text cannot hold U+0000.
fn countable(text: &str) -> String {
    text.chars().take(MAX_COUNTABLE_CHARS).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Ends each name of a component's path; no name has it.
const NAME_END: char = '\u{1f}';

/// The path of a component as one text.
pub(super) fn component_text(path: &[String]) -> String {
    path.iter().flat_map(|name| [name.replace(NAME_END, "\u{fffd}"), NAME_END.to_string()]).collect()
}

/// The reverse of [`component_text`].
pub(super) fn component_of(text: &str) -> Vec<String> {
    text.split_terminator(NAME_END).map(str::to_owned).collect()
}

/// `hash, body`.
pub(super) type ContentRow = (Vec<u8>, Vec<u8>);

pub(super) fn contents(rows: Vec<ContentRow>) -> Result<Vec<(ContentHash, Bytes)>> {
    rows.into_iter().map(|(key, body)| Ok((hash(key)?, body.into()))).collect()
}

pub(super) type ConfigRow = (Vec<u8>, Json<Files>);

pub(super) fn configs(rows: Vec<ConfigRow>) -> Result<Vec<(ContentHash, ConfigFiles)>> {
    rows.into_iter().map(|(key, files)| Ok((hash(key)?, files.0.try_into()?))).collect()
}

/// A policy with its newest revision.
#[derive(FromRow)]
pub(super) struct PolicyRow {
    name: String,
    kind: String,
    changed_epoch: i64,
    stable: Option<i64>,
    policy_created_unix_ms: UnixMs,
    #[sqlx(flatten)]
    revision: RevisionRow,
}

#[derive(FromRow)]
pub(super) struct RevisionRow {
    number: i64,
    selector: String,
    priority: i32,
    files: Json<Files>,
    offer: Option<Vec<u8>>,
    allow_empty: bool,
    max_per_second: i64,
    plan: Option<Json<Plan>>,
    author: String,
    message: String,
    created_unix_ms: UnixMs,
}

impl TryFrom<PolicyRow> for Policy {
    type Error = Error;

    fn try_from(row: PolicyRow) -> Result<Self> {
        let kind = kind(&row.kind)?;
        Ok(Self {
            etag: etag(row.revision.number.cast_unsigned(), row.changed_epoch.cast_unsigned()),
            kind,
            stable: row.stable.unwrap_or(row.revision.number).cast_unsigned(),
            created_at: row.policy_created_unix_ms,
            revision: row.revision.of(kind)?,
            name: row.name,
        })
    }
}

pub(super) fn kind(name: &str) -> Result<PolicyKind> {
    PolicyKind::from_name(name).ok_or_else(|| Error::damaged("policy", format!("kind {name:?}")))
}

impl RevisionRow {
    /// As a revision of a policy of this kind.
    pub(super) fn of(self, kind: PolicyKind) -> Result<Revision> {
        let damaged = |error: prost::DecodeError| Error::damaged("revision", error);
        let encoded = self.offer.unwrap_or_default();
        let offer = match kind {
            PolicyKind::Config => PolicyOffer::Config(self.files.0.try_into()?),
            PolicyKind::Packages => {
                let available = opamp::PackagesAvailable::decode(&encoded[..]).map_err(damaged)?;
                PolicyOffer::Packages(available.packages)
            }
            PolicyKind::ConnectionSettings => {
                let settings = opamp::ConnectionSettingsOffers::decode(&encoded[..]).map_err(damaged)?;
                PolicyOffer::ConnectionSettings(Box::new(settings))
            }
        };
        Ok(Revision {
            number: self.number.cast_unsigned(),
            content: RevisionContent {
                selector: self.selector.parse().map_err(|error| Error::damaged("selector", error))?,
                priority: self.priority,
                offer,
                allow_empty: self.allow_empty,
                max_per_second: self.max_per_second.clamp(0, u32::MAX.into()) as u32,
                plan: self.plan.map(|plan| plan.0),
            },
            message: self.message,
            author: self.author,
            created_at: self.created_unix_ms,
        })
    }
}

/// What the column `offer` holds: nothing for a configuration, which is in `files`.
pub(super) fn encoded(offer: &PolicyOffer) -> Option<Vec<u8>> {
    match offer {
        PolicyOffer::Config(_) => None,
        PolicyOffer::Packages(packages) => {
            let packages = packages.clone();
            Some(opamp::PackagesAvailable { packages, ..Default::default() }.encode_to_vec())
        }
        PolicyOffer::ConnectionSettings(settings) => Some(settings.encode_to_vec()),
    }
}

/// Never the same twice for one name, even when a policy is deleted and made again: each change has its own epoch.
pub(super) fn etag(revision: u64, changed_epoch: u64) -> String {
    format!("{revision}.{changed_epoch}")
}

/// All columns but the hash, which is looked up and never shown.
#[derive(FromRow)]
pub(super) struct TokenRow {
    id: String,
    kind: String,
    name: String,
    created_unix_ms: UnixMs,
    created_by: String,
    expires_unix_ms: Option<UnixMs>,
    revoked_unix_ms: Option<UnixMs>,
}

impl TryFrom<TokenRow> for Token {
    type Error = Error;

    fn try_from(row: TokenRow) -> Result<Self> {
        let kind = TokenKind::from_name(&row.kind);
        Ok(Self {
            id: row.id,
            kind: kind.ok_or_else(|| Error::damaged("token", format!("kind {:?}", row.kind)))?,
            name: row.name,
            created_at: row.created_unix_ms,
            created_by: row.created_by,
            expires_at: row.expires_unix_ms,
            revoked_at: row.revoked_unix_ms,
        })
    }
}

/// `id, sha256, expires_unix_ms`.
pub(super) type DigestRow = (String, Vec<u8>, Option<UnixMs>);

pub(super) fn digest((id, sha256, expires_at): DigestRow) -> Result<TokenDigest> {
    Ok(TokenDigest { id, sha256: hash(sha256)?.0, expires_at })
}

#[derive(FromRow)]
pub(super) struct PackageFileRow {
    sha256: Vec<u8>,
    size: i64,
    name: String,
    created_unix_ms: UnixMs,
    author: String,
    deleting_unix_ms: Option<UnixMs>,
}

impl TryFrom<PackageFileRow> for PackageFile {
    type Error = Error;

    fn try_from(row: PackageFileRow) -> Result<Self> {
        Ok(Self {
            sha256: hash(row.sha256)?,
            size: row.size.cast_unsigned(),
            name: row.name,
            created_at: row.created_unix_ms,
            author: row.author,
            deleting_since: row.deleting_unix_ms,
        })
    }
}

#[derive(FromRow)]
pub(super) struct FormerUidRow {
    former: Uuid,
    uid: Uuid,
    request: i64,
    is_temporary: bool,
    made_unix_ms: UnixMs,
}

impl TryFrom<FormerUidRow> for FormerUid {
    type Error = Error;

    fn try_from(row: FormerUidRow) -> Result<Self> {
        let uid =
            |uid: Uuid| InstanceUid::from_slice(uid.as_bytes()).map_err(|error| Error::damaged("former uid", error));
        Ok(Self {
            former: uid(row.former)?,
            uid: uid(row.uid)?,
            request: row.request.cast_unsigned(),
            is_temporary: row.is_temporary,
            made_at: row.made_unix_ms,
        })
    }
}

#[derive(FromRow)]
pub(super) struct AuditRow {
    id: i64,
    at_unix_ms: UnixMs,
    actor: String,
    token_id: String,
    action: String,
    target: String,
    detail: Json<serde_json::Value>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        let AuditRow { id, at_unix_ms: at, actor, token_id, action, target, detail } = row;
        Self { id, at, actor, token_id, action, target, detail: detail.0 }
    }
}
