//! The audit log. An entry is written in the transaction of the change that it tells of.

use serde_json::Value;
use sqlx::types::Json;

use super::{Backend, Tx};
use crate::store::{Actor, AuditEntry, Result, row::AuditRow};

pub(super) async fn record(
    tx: &mut Tx,
    actor: &Actor,
    action: &'static str,
    target: &str,
    detail: Value,
) -> Result<()> {
    let statement = "INSERT INTO audit (at_unix_ms, actor, token_id, action, target, detail)
        VALUES ($1, $2, $3, $4, $5, $6)";
    sqlx::query(statement)
        .bind(actor.now)
        .bind(&actor.name)
        .bind(&actor.token_id)
        .bind(action)
        .bind(target)
        .bind(Json(detail))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

pub(super) async fn list(store: &Backend, before: Option<i64>, limit: u32) -> Result<Vec<AuditEntry>> {
    let statement = "SELECT id, at_unix_ms, actor, token_id, action, target, detail FROM audit
        WHERE id < $1 ORDER BY id DESC LIMIT $2";
    let query = sqlx::query_as(statement).bind(before.unwrap_or(i64::MAX)).bind(i64::from(limit));
    let rows: Vec<AuditRow> = query.fetch_all(store.reader()).await?;
    Ok(rows.into_iter().map(AuditEntry::from).collect())
}
