//! What agents announce, and the history of their health. Batches are each database's own.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Backend, news_batches};
use crate::{
    model::{InstanceUid, UnixMs, health::Transition},
    store::{Announced, Error, Result, row::component_of},
};

pub(super) async fn read_announced(store: &Backend, uids: &[InstanceUid]) -> Result<Vec<(InstanceUid, Announced)>> {
    let rows = news_batches::read_announced(store, uids).await?;
    let of_row = |(uid, custom_capabilities, components_hash): (Uuid, Vec<u8>, Vec<u8>)| {
        let uid = InstanceUid::from_slice(uid.as_bytes()).map_err(|error| Error::damaged("announcement", error))?;
        let announced =
            Announced { custom_capabilities: custom_capabilities.into(), components_hash: components_hash.into() };
        Ok((uid, announced))
    };
    rows.into_iter().map(of_row).collect()
}

#[derive(FromRow)]
struct TransitionRow {
    id: i64,
    at_unix_ms: UnixMs,
    component: Vec<u8>,
    healthy: Option<bool>,
    status: Vec<u8>,
    last_error: Vec<u8>,
}

pub(super) async fn health_history(
    store: &Backend,
    uid: InstanceUid,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<(i64, Transition)>> {
    let statement = "SELECT id, at_unix_ms, component, healthy, status, last_error FROM health_transitions
        WHERE uid = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
    let query = sqlx::query_as(statement).bind(uid.as_uuid()).bind(before.unwrap_or(i64::MAX)).bind(i64::from(limit));
    let rows: Vec<TransitionRow> = query.fetch_all(store.reader()).await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let of_row = |row: TransitionRow| {
        let transition = Transition {
            at: row.at_unix_ms,
            component: component_of(&text(row.component)),
            healthy: row.healthy,
            status: text(row.status),
            last_error: text(row.last_error),
        };
        (row.id, transition)
    };
    Ok(rows.into_iter().map(of_row).collect())
}

pub(super) async fn forget_health(store: &Backend, before: UnixMs) -> Result<u64> {
    let mut tx = store.begin().await?;
    let query = sqlx::query("DELETE FROM health_transitions WHERE at_unix_ms < $1").bind(before);
    let deleted = query.execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(deleted)
}
