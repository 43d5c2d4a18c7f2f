//! Numbers that grow with every change of something, and the progress that is measured by one of them.

use super::{Backend, Connection, Tx};
use crate::{model::uid::Shard, store::Result};

/// Grows with every change of a policy.
pub(super) const POLICY_EPOCH: &str = "policy_epoch";
/// Grows with every agent token that is made or revoked, and every certificate that is revoked.
pub(super) const AGENT_TOKENS: &str = "agent_tokens";

/// The counter's next value. Until the transaction ends, others that want to bump it wait.
pub(super) async fn bump(tx: &mut Tx, name: &'static str) -> Result<u64> {
    let statement = "UPDATE counters SET value = value + 1 WHERE name = $1 RETURNING value";
    let (value,): (i64,) = sqlx::query_as(statement).bind(name).fetch_one(&mut **tx).await?;
    Ok(value.cast_unsigned())
}

pub(super) async fn read(connection: &mut Connection, name: &'static str) -> Result<u64> {
    let statement = "SELECT value FROM counters WHERE name = $1";
    let (value,): (i64,) = sqlx::query_as(statement).bind(name).fetch_one(connection).await?;
    Ok(value.cast_unsigned())
}

pub(super) async fn shard_progress(store: &Backend) -> Result<Vec<(Shard, u64)>> {
    let query = sqlx::query_as("SELECT shard, epoch FROM shard_progress ORDER BY shard");
    let rows: Vec<(i16, i64)> = query.fetch_all(store.reader()).await?;
    Ok(rows.into_iter().map(|(shard, epoch)| (shard.cast_unsigned(), epoch.cast_unsigned())).collect())
}

pub(super) async fn set_shard_progress(store: &Backend, shard: Shard, epoch: u64) -> Result<()> {
    let statement = "INSERT INTO shard_progress (shard, epoch) VALUES ($1, $2)
        ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch WHERE shard_progress.epoch < excluded.epoch";
    let mut tx = store.begin().await?;
    sqlx::query(statement).bind(shard.cast_signed()).bind(epoch.cast_signed()).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}
