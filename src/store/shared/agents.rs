//! Agents: pages of them, and what operators change. Batches are each database's own.

use serde_json::{Value, json};
use sqlx::types::Json;

use super::{Backend, Tx, agent_batches, audit, overrides};
use crate::{
    model::{AgentRecord, InstanceUid, uid::SHARD_COUNT},
    store::{
        Actor, AgentFilter, Error, LabelChanges, Result, more, plan,
        row::{self, AgentRow, agent_columns},
    },
};

/// What [`AgentFilter`] asks besides the shard. Behind with its configuration, as in `model::offer`: something is desired, the
/// agent accepts it (capability 2) and has not refused it for good, and it has another configuration or has failed (status
/// 3) with this one, the quarantine for which was lifted.
macro_rules! filtered {
    () => {
        "uid > $1 AND ($2 IS NULL OR connected = $2) AND (NOT $3 OR more_behind OR (
            desired_config IS NOT NULL AND capabilities & 2 <> 0 AND quarantined IS DISTINCT FROM desired_config
            AND (desired_config <> reported_config_hash OR config_status = 3)))"
    };
}

const PAGE: &str = concat!("SELECT ", agent_columns!(), " FROM agents WHERE ", filtered!(), " ORDER BY uid LIMIT $4");

/// Apart from [`PAGE`] so that the plan of each is known: this one walks the index on (shard, uid).
const PAGE_OF_SHARD: &str =
    concat!("SELECT ", agent_columns!(), " FROM agents WHERE shard = $5 AND ", filtered!(), " ORDER BY uid LIMIT $4");

pub(super) async fn page(
    store: &Backend,
    filter: AgentFilter,
    after: Option<InstanceUid>,
    limit: u32,
) -> Result<Vec<AgentRecord>> {
    // No agent has the uid of all zeros, so that all come after it.
    let after = after.map_or(uuid::Uuid::nil(), |uid| uid.as_uuid());
    let statement = if filter.shard.is_some() { PAGE_OF_SHARD } else { PAGE };
    let mut query =
        sqlx::query_as(statement).bind(after).bind(filter.connected).bind(filter.only_behind).bind(i64::from(limit));
    if let Some(shard) = filter.shard {
        query = query.bind(shard.cast_signed());
    }
    row::agents(query.fetch_all(store.reader()).await?)
}

pub(super) async fn set_labels(
    store: &Backend,
    uid: InstanceUid,
    changes: &LabelChanges,
    etag: Option<&str>,
    actor: &Actor,
) -> Result<AgentRecord> {
    let change = |agent: &mut AgentRecord| {
        plan::check_agent_etag(agent, etag)?;
        Ok(plan::set_labels(agent, changes).then(|| json!({ "labels": changes })))
    };
    edit(store, uid, actor, "agent.label", change).await
}

pub(super) async fn lift_quarantine(store: &Backend, uid: InstanceUid, actor: &Actor) -> Result<AgentRecord> {
    let change = |agent: &mut AgentRecord| Ok(plan::lift_quarantine(agent));
    edit(store, uid, actor, "agent.lift_quarantine", change).await
}

/// Changes what operators may change of one agent. `change` returns what the audit log is to say, or `None` if it
/// changed nothing. The version grows, so that a decision made from the row as it was is made again.
async fn edit(
    store: &Backend,
    uid: InstanceUid,
    actor: &Actor,
    action: &'static str,
    change: impl FnOnce(&mut AgentRecord) -> Result<Option<Value>>,
) -> Result<AgentRecord> {
    let mut tx = store.begin().await?;
    let mut agent = lock(&mut tx, uid).await?;
    let Some(detail) = change(&mut agent)? else {
        agent.version -= 1;
        return Ok(agent);
    };
    let statement = "UPDATE agents SET labels = $2, quarantined = $3, offered_at_unix_ms = $4, offer_attempts = $5,
                     more = $6, more_behind = $7 WHERE uid = $1";
    sqlx::query(statement)
        .bind(uid.as_uuid())
        .bind(Json(&agent.labels))
        .bind(agent.desired.config.quarantined.as_ref().map(|hash| &hash.0[..]))
        .bind(agent.desired.config.offered_at)
        .bind(i32::from(agent.desired.config.offer_attempts))
        .bind(more::encode(&agent.observed, &agent.desired))
        .bind(more::is_behind(&agent))
        .execute(&mut *tx)
        .await?;
    audit::record(&mut tx, actor, action, &uid.to_string(), detail).await?;
    tx.commit().await?;
    Ok(agent)
}

/// The agent with the next version. Updating is how both databases lock a row; an ended transaction undoes it.
pub(super) async fn lock(tx: &mut Tx, uid: InstanceUid) -> Result<AgentRecord> {
    const LOCK: &str = concat!("UPDATE agents SET version = version + 1 WHERE uid = $1 RETURNING ", agent_columns!());
    let row: Option<AgentRow> = sqlx::query_as(LOCK).bind(uid.as_uuid()).fetch_optional(&mut **tx).await?;
    row.ok_or_else(|| Error::not_found("agent", uid))?.try_into()
}

/// Writes what is encoded in one column of a row that is locked.
pub(super) async fn put_more(tx: &mut Tx, agent: &AgentRecord) -> Result<()> {
    let statement = "UPDATE agents SET more = $2, more_behind = $3 WHERE uid = $1";
    let query = sqlx::query(statement).bind(agent.uid.as_uuid()).bind(more::encode(&agent.observed, &agent.desired));
    query.bind(more::is_behind(agent)).execute(&mut **tx).await?;
    Ok(())
}

pub(super) async fn forget(store: &Backend, uid: InstanceUid, etag: Option<&str>, actor: &Actor) -> Result<()> {
    let mut tx = store.begin().await?;
    overrides::announce_forgotten(&mut tx, uid).await?;
    let agent = lock(&mut tx, uid).await?;
    plan::check_agent_etag(&agent, etag)?;
    sqlx::query("DELETE FROM agents WHERE uid = $1").bind(uid.as_uuid()).execute(&mut *tx).await?;
    audit::record(&mut tx, actor, "agent.forget", &uid.to_string(), json!({ "labels": agent.labels })).await?;
    Ok(tx.commit().await?)
}

/// Reads every row: an index on what changes with each connection would cost more, all the time.
pub(super) async fn disconnect_gateway(store: &Backend, gateway: &str) -> Result<u64> {
    // A shard at a time: reports of the others are taken meanwhile, and what is done stays done if a later one fails.
    let statement =
        "UPDATE agents SET connected = $2, version = version + 1 WHERE shard = $3 AND connected AND gateway = $1";
    let mut agents = 0;
    for shard in 0..SHARD_COUNT {
        let mut tx = store.begin().await?;
        agent_batches::lock_shard(&mut tx, shard).await?;
        let update = sqlx::query(statement).bind(gateway).bind(false).bind(shard.cast_signed());
        agents += update.execute(&mut *tx).await?.rows_affected();
        tx.commit().await?;
    }
    Ok(agents)
}
