//! Agents that go on under another uid. What refers to an agent's row follows by itself (`ON UPDATE CASCADE`); what outlives the
//! row is changed here.

use async_trait::async_trait;
use serde_json::json;
use uuid::Uuid;

use super::{Backend, Tx, agent_batches, agents, audit, components, move_batches, observed};
use crate::{
    model::{AgentRecord, InstanceUid, UnixMs, uid::Shard},
    store::{
        Actor, FormerUid, MAX_FORMER_UIDS, Move, MoveStore, Result,
        row::{AgentRow, agent_columns},
    },
};

#[async_trait]
impl MoveStore for Backend {
    async fn move_agent(&self, step: Move) -> Result<Option<AgentRecord>> {
        Box::pin(observed("move_agent", self.limit(), move_one(self, step))).await
    }

    async fn note_former_uids(&self, former: &[FormerUid]) -> Result<()> {
        observed("note_former_uids", self.limit(), note(self, former)).await
    }

    async fn former_uids(&self, uids: &[InstanceUid]) -> Result<Vec<FormerUid>> {
        observed("former_uids", self.limit(), read(self, uids)).await
    }

    async fn forget_former_uids(&self, before: UnixMs) -> Result<u64> {
        observed("forget_former_uids", Self::MAINTENANCE_LIMIT, forget(self, before)).await
    }
}

async fn move_one(store: &Backend, step: Move) -> Result<Option<AgentRecord>> {
    let mut tx = store.begin().await?;
    lock_shards(&mut tx, [step.from.shard(), step.to.shard()]).await?;
    // Before the agent's row: whoever decides on a certificate takes them in this order.
    let certificates = "UPDATE certificates SET uid = $2 WHERE uid = $1";
    sqlx::query(certificates).bind(step.from.as_uuid()).bind(step.to.as_uuid()).execute(&mut *tx).await?;
    let Some(mut agent) = move_row(&mut tx, &step).await? else { return Ok(None) };
    agent.desired.placement.get_or_insert(step.from);
    agents::put_more(&mut tx, &agent).await?;
    move_targets(&mut tx, &step).await?;
    components::replace_candidate(&mut tx, step.from, step.to).await?;
    remember(&mut tx, &step).await?;
    let actor = Actor { name: "system".to_owned(), token_id: String::new(), now: step.now };
    let detail = json!({ "former": step.from.to_string() });
    audit::record(&mut tx, &actor, "agent.move", &step.to.to_string(), detail).await?;
    tx.commit().await?;
    Ok(Some(agent))
}

/// In order, as all who take several.
async fn lock_shards(tx: &mut Tx, mut shards: [Shard; 2]) -> Result<()> {
    shards.sort_unstable();
    let [first, second] = shards;
    agent_batches::lock_shard(tx, first).await?;
    if first != second {
        agent_batches::lock_shard(tx, second).await?;
    }
    Ok(())
}

async fn move_row(tx: &mut Tx, step: &Move) -> Result<Option<AgentRecord>> {
    const MOVE: &str = concat!(
        "UPDATE agents SET uid = $2, shard = $3, version = version + 1 WHERE uid = $1 AND version = $4
            AND NOT EXISTS (SELECT 1 FROM agents AS others WHERE others.uid = $2) RETURNING ",
        agent_columns!()
    );
    let query = sqlx::query_as(MOVE).bind(step.from.as_uuid()).bind(step.to.as_uuid());
    let row: Option<AgentRow> =
        query.bind(step.to.shard().cast_signed()).bind(step.version).fetch_optional(&mut **tx).await?;
    row.map(AgentRecord::try_from).transpose()
}

/// One command after the other, in the order in which they are locked elsewhere. Those that are finished stay: they have no index by
/// agent, and are history.
async fn move_targets(tx: &mut Tx, step: &Move) -> Result<()> {
    let open = "SELECT id FROM commands WHERE finished_unix_ms IS NULL ORDER BY id";
    let change = "UPDATE command_targets SET uid = $3, shard = $4 WHERE command = $1 AND uid = $2
        AND NOT EXISTS (SELECT 1 FROM command_targets AS others WHERE others.command = $1 AND others.uid = $3)";
    let commands: Vec<Uuid> = sqlx::query_scalar(open).fetch_all(&mut **tx).await?;
    for command in commands {
        let query = sqlx::query(change).bind(command).bind(step.from.as_uuid()).bind(step.to.as_uuid());
        query.bind(step.to.shard().cast_signed()).execute(&mut **tx).await?;
    }
    Ok(())
}

async fn remember(tx: &mut Tx, step: &Move) -> Result<()> {
    let forget = "DELETE FROM uid_moves WHERE former = $1";
    let insert = "INSERT INTO uid_moves (former, uid, made_unix_ms, request, is_temporary) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (former) DO UPDATE SET uid = excluded.uid, made_unix_ms = excluded.made_unix_ms,
            request = excluded.request, is_temporary = excluded.is_temporary";
    let trim = "DELETE FROM uid_moves WHERE uid = $1 AND former NOT IN (
        SELECT former FROM uid_moves WHERE uid = $1 ORDER BY made_unix_ms DESC, former LIMIT $2)";
    sqlx::query(forget).bind(step.to.as_uuid()).execute(&mut **tx).await?;
    let query = sqlx::query(insert).bind(step.from.as_uuid()).bind(step.to.as_uuid()).bind(step.now);
    query.bind(step.request.cast_signed()).bind(false).execute(&mut **tx).await?;
    sqlx::query(trim).bind(step.to.as_uuid()).bind(i64::from(MAX_FORMER_UIDS)).execute(&mut **tx).await?;
    Ok(())
}

async fn note(store: &Backend, former: &[FormerUid]) -> Result<()> {
    let insert = "INSERT INTO uid_moves (former, uid, made_unix_ms, request, is_temporary)
        SELECT $1, uid, $3, $4, $5 FROM agents WHERE uid = $2
        ON CONFLICT (former) DO UPDATE SET uid = excluded.uid, made_unix_ms = excluded.made_unix_ms,
            request = excluded.request
        WHERE uid_moves.is_temporary";
    let mut sorted: Vec<_> = former.iter().collect();
    // One order for all writers, against deadlocks.
    sorted.sort_unstable_by_key(|it| it.former);
    let mut tx = store.begin().await?;
    for it in sorted {
        let query = sqlx::query(insert).bind(it.former.as_uuid()).bind(it.uid.as_uuid()).bind(it.made_at);
        query.bind(it.request.cast_signed()).bind(true).execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

async fn read(store: &Backend, uids: &[InstanceUid]) -> Result<Vec<FormerUid>> {
    let rows = move_batches::read(store, uids).await?;
    rows.into_iter().map(FormerUid::try_from).collect()
}

async fn forget(store: &Backend, before: UnixMs) -> Result<u64> {
    let mut tx = store.begin().await?;
    let query = sqlx::query("DELETE FROM uid_moves WHERE is_temporary AND made_unix_ms < $1").bind(before);
    let deleted = query.execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(deleted)
}
