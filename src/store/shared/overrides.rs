//! Overrides. Each change takes its turn on the epoch's row, as changes of policies do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::{FromRow, QueryBuilder};
use uuid::Uuid;

use super::{Backend, Connection, Tx, audit, counters, observed, policies};
use crate::{
    model::{
        InstanceUid, UnixMs,
        overrides::{MAX_OVERRIDES, Override, Overrides},
    },
    store::{Actor, Error, NewOverride, NewOverrides, OverrideFilter, OverrideStore, Result, row},
};

/// Rows of one statement: databases bound its parameters.
const CHUNK: usize = 500;
/// Agents that an entry of the audit log names.
const MAX_NAMED: usize = 100;

#[derive(FromRow)]
struct OverrideRow {
    policy: String,
    uid: Uuid,
    revision: i64,
    hold: bool,
    message: String,
    author: String,
    created_unix_ms: UnixMs,
    expires_unix_ms: Option<UnixMs>,
}

macro_rules! select_overrides {
    ($rest:literal) => {
        concat!(
            "SELECT v.policy, v.uid, v.revision, v.hold, v.message, v.author, v.created_unix_ms, v.expires_unix_ms
             FROM overrides v ",
            $rest
        )
    };
}

impl TryFrom<OverrideRow> for Override {
    type Error = Error;

    fn try_from(row: OverrideRow) -> Result<Self> {
        Ok(Self {
            policy: row.policy,
            uid: row::uid(row.uid)?,
            revision: row.revision.cast_unsigned(),
            is_hold: row.hold,
            message: row.message,
            author: row.author,
            created_at: row.created_unix_ms,
            expires_at: row.expires_unix_ms,
        })
    }
}

#[async_trait]
impl OverrideStore for Backend {
    async fn set_overrides(&self, new: &NewOverrides, actor: &Actor) -> Result<Option<u64>> {
        observed("set_overrides", self.limit(), set(self, new, actor)).await
    }

    async fn clear_overrides(&self, policy: &str, agents: &[InstanceUid], actor: &Actor) -> Result<u64> {
        observed("clear_overrides", self.limit(), clear(self, policy, agents, actor)).await
    }

    async fn expire_overrides(&self, now: UnixMs) -> Result<u64> {
        observed("expire_overrides", self.limit(), expire(self, now)).await
    }

    async fn list_overrides(
        &self,
        filter: OverrideFilter<'_>,
        after: Option<(&str, InstanceUid)>,
        limit: u32,
    ) -> Result<Vec<Override>> {
        observed("list_overrides", self.limit(), list(self, filter, after, limit)).await
    }
}

async fn set(store: &Backend, new: &NewOverrides, actor: &Actor) -> Result<Option<u64>> {
    let mut tx = store.begin().await?;
    let epoch = counters::bump(&mut tx, counters::POLICY_EPOCH).await?;
    if new.epoch.is_some_and(|expected| expected != epoch - 1) {
        return Ok(None);
    }
    let revisions: BTreeSet<u64> = new.agents.iter().map(|one| one.revision).filter(|number| *number > 0).collect();
    policies::hold_revisions(&mut tx, &new.policy, &revisions).await?;
    let before = of_policy(&mut tx, &new.policy).await?;
    let is_change = |one: &&NewOverride| {
        before.get(&one.uid).is_none_or(|old| {
            (old.revision, old.is_hold, old.expires_at, &old.message)
                != (one.revision, new.is_hold, new.expires_at, &new.message)
        })
    };
    let changed: Vec<&NewOverride> = new.agents.iter().filter(is_change).collect();
    if changed.is_empty() {
        return Ok(Some(0));
    }
    for chunk in changed.chunks(CHUNK) {
        check_agents(&mut tx, chunk).await?;
        put(&mut tx, new, chunk, actor).await?;
    }
    let (all,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM overrides").fetch_one(&mut *tx).await?;
    if all > MAX_OVERRIDES as i64 {
        return Err(Error::TooMany { kind: "overrides", limit: MAX_OVERRIDES as u64, count: all.cast_unsigned() });
    }
    audit::record(&mut tx, actor, "override.set", &new.policy, told(new, &changed)).await?;
    if !new.validate_only {
        tx.commit().await?;
    }
    Ok(Some(changed.len() as u64))
}

/// For the audit log: how many agents have which revision, and who they are, as far as there is room.
fn told(new: &NewOverrides, changed: &[&NewOverride]) -> Value {
    let mut revisions = BTreeMap::<String, u64>::new();
    for one in changed {
        *revisions.entry(one.revision.to_string()).or_default() += 1;
    }
    let agents = changed.iter().take(MAX_NAMED).map(|one| one.uid.to_string());
    json!({
        "hold": new.is_hold,
        "revisions": revisions,
        "agents": agents.collect::<Vec<_>>(),
        "message": new.message,
        "expires_unix_ms": new.expires_at,
    })
}

async fn check_agents(tx: &mut Tx, chunk: &[&NewOverride]) -> Result<()> {
    let mut query = QueryBuilder::new("SELECT uid FROM agents WHERE uid IN (");
    let mut uids = query.separated(", ");
    for one in chunk {
        uids.push_bind(one.uid.as_uuid());
    }
    query.push(")");
    let known: Vec<Uuid> = query.build_query_scalar().fetch_all(&mut **tx).await?;
    match chunk.iter().find(|one| !known.contains(&one.uid.as_uuid())) {
        Some(missing) => Err(Error::not_found("agent", missing.uid)),
        None => Ok(()),
    }
}

async fn put(tx: &mut Tx, new: &NewOverrides, chunk: &[&NewOverride], actor: &Actor) -> Result<()> {
    let mut query = QueryBuilder::new(
        "INSERT INTO overrides
            (policy, uid, placement, revision, hold, message, author, created_unix_ms, expires_unix_ms) ",
    );
    query.push_values(chunk, |mut row, one| {
        row.push_bind(new.policy.as_str())
            .push_bind(one.uid.as_uuid())
            .push_bind(one.placement.as_uuid())
            .push_bind(one.revision.cast_signed())
            .push_bind(new.is_hold)
            .push_bind(new.message.as_str())
            .push_bind(actor.name.as_str())
            .push_bind(actor.now)
            .push_bind(new.expires_at);
    });
    query.push(
        " ON CONFLICT (policy, uid) DO UPDATE SET placement = excluded.placement, revision = excluded.revision,
            hold = excluded.hold, message = excluded.message, author = excluded.author,
            created_unix_ms = excluded.created_unix_ms, expires_unix_ms = excluded.expires_unix_ms",
    );
    query.build().execute(&mut **tx).await?;
    Ok(())
}

async fn of_policy(tx: &mut Tx, policy: &str) -> Result<HashMap<InstanceUid, Override>> {
    let query = sqlx::query_as(select_overrides!("WHERE v.policy = $1")).bind(policy);
    let rows: Vec<OverrideRow> = query.fetch_all(&mut **tx).await?;
    let all = rows.into_iter().map(|row| Override::try_from(row).map(|one| (one.uid, one)));
    all.collect()
}

async fn clear(store: &Backend, policy: &str, agents: &[InstanceUid], actor: &Actor) -> Result<u64> {
    let mut tx = store.begin().await?;
    counters::bump(&mut tx, counters::POLICY_EPOCH).await?;
    policies::hold_revisions(&mut tx, policy, &BTreeSet::new()).await?;
    let mut cleared: Vec<String> = Vec::new();
    for chunk in agents.chunks(CHUNK) {
        let mut query = QueryBuilder::new("DELETE FROM overrides WHERE policy = ");
        query.push_bind(policy).push(" AND uid IN (");
        let mut uids = query.separated(", ");
        for uid in chunk {
            uids.push_bind(uid.as_uuid());
        }
        query.push(") RETURNING uid");
        let deleted: Vec<Uuid> = query.build_query_scalar().fetch_all(&mut *tx).await?;
        cleared.extend(deleted.iter().map(Uuid::to_string));
    }
    let count = cleared.len() as u64;
    if count > 0 {
        cleared.truncate(MAX_NAMED);
        audit::record(&mut tx, actor, "override.clear", policy, json!({ "count": count, "agents": cleared })).await?;
        tx.commit().await?;
    }
    Ok(count)
}

async fn expire(store: &Backend, now: UnixMs) -> Result<u64> {
    let mut reader = store.reader().acquire().await?;
    let query = sqlx::query("SELECT 1 FROM overrides WHERE expires_unix_ms <= $1 LIMIT 1").bind(now);
    if query.fetch_optional(&mut *reader).await?.is_none() {
        return Ok(0);
    }
    drop(reader);
    let mut tx = store.begin().await?;
    counters::bump(&mut tx, counters::POLICY_EPOCH).await?;
    let query = sqlx::query_as("DELETE FROM overrides WHERE expires_unix_ms <= $1 RETURNING policy, uid").bind(now);
    let expired: Vec<(String, Uuid)> = query.fetch_all(&mut *tx).await?;
    let mut by_policy = BTreeMap::<&str, Vec<String>>::new();
    for (policy, uid) in &expired {
        by_policy.entry(policy).or_default().push(uid.to_string());
    }
    let actor = Actor { name: "system".to_owned(), token_id: String::new(), now };
    for (policy, mut agents) in by_policy {
        let count = agents.len();
        agents.truncate(MAX_NAMED);
        audit::record(&mut tx, &actor, "override.expire", policy, json!({ "count": count, "agents": agents })).await?;
    }
    if !expired.is_empty() {
        tx.commit().await?;
    }
    Ok(expired.len() as u64)
}

async fn list(
    store: &Backend,
    filter: OverrideFilter<'_>,
    after: Option<(&str, InstanceUid)>,
    limit: u32,
) -> Result<Vec<Override>> {
    let (after_policy, after_uid) = after.map_or(("", Uuid::nil()), |(policy, uid)| (policy, uid.as_uuid()));
    let query = sqlx::query_as(select_overrides!(
        "WHERE (v.policy > $1 OR v.policy = $1 AND v.uid > $2) AND ($3 IS NULL OR v.policy = $3)
            AND ($4 IS NULL OR v.uid = $4) ORDER BY v.policy, v.uid LIMIT $5"
    ));
    let query = query.bind(after_policy).bind(after_uid).bind(filter.policy).bind(filter.uid.map(|uid| uid.as_uuid()));
    let rows: Vec<OverrideRow> = query.bind(i64::from(limit)).fetch_all(store.reader()).await?;
    rows.into_iter().map(Override::try_from).collect()
}

/// All of them, as far as they decide anything.
pub(super) async fn all(connection: &mut Connection) -> Result<Overrides> {
    let query = sqlx::query_as("SELECT policy, placement, revision FROM overrides");
    let rows: Vec<(String, Uuid, i64)> = query.fetch_all(connection).await?;
    let mut names = HashMap::<String, Arc<str>>::new();
    let mut all = Vec::with_capacity(rows.len());
    for (policy, placement, revision) in rows {
        let name = names.entry(policy).or_insert_with_key(|name| name.as_str().into()).clone();
        all.push((row::uid(placement)?, name, revision.cast_unsigned()));
    }
    Ok(Overrides::new(all))
}

/// An agent's overrides are about to go with it: whoever decides has to know. To be called before the agent's row is locked, which
/// comes after the epoch's for all.
pub(super) async fn announce_forgotten(tx: &mut Tx, uid: InstanceUid) -> Result<()> {
    let query = sqlx::query("SELECT 1 FROM overrides WHERE uid = $1 LIMIT 1").bind(uid.as_uuid());
    if query.fetch_optional(&mut **tx).await?.is_some() {
        counters::bump(tx, counters::POLICY_EPOCH).await?;
    }
    Ok(())
}
