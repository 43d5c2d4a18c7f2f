//! What agents announce and how their health changed, many at a time.

use sqlx::types::Json;
use uuid::Uuid;

use super::{Backend, Tx};
use crate::{
    model::InstanceUid,
    store::{MAX_TRANSITIONS_KEPT, News, row::component_text},
};

pub(super) async fn read_announced(
    store: &Backend,
    uids: &[InstanceUid],
) -> sqlx::Result<Vec<(Uuid, Vec<u8>, Vec<u8>)>> {
    let statement = "SELECT uid, custom_capabilities, components_hash FROM announcements
        WHERE uid IN (SELECT unhex(value) FROM json_each($1))";
    let uids: Vec<String> = uids.iter().map(|uid| hex::encode(uid.as_bytes())).collect();
    sqlx::query_as(statement).bind(Json(uids)).fetch_all(store.reader()).await
}

pub(super) async fn write(tx: &mut Tx, news: &[&News]) -> sqlx::Result<()> {
    const CUSTOM_CAPABILITIES: &str = "INSERT INTO announcements (uid, custom_capabilities, components_hash)
        VALUES ($1, $2, x'') ON CONFLICT (uid) DO UPDATE SET custom_capabilities = excluded.custom_capabilities";
    const COMPONENTS: &str = "INSERT INTO announcements (uid, custom_capabilities, components_hash)
        VALUES ($1, x'', $2) ON CONFLICT (uid) DO UPDATE SET components_hash = excluded.components_hash";
    for news in news {
        for (statement, value) in
            [(CUSTOM_CAPABILITIES, &news.custom_capabilities), (COMPONENTS, &news.components_hash)]
        {
            if let Some(value) = value {
                sqlx::query(statement).bind(news.uid.as_uuid()).bind(&value[..]).execute(&mut **tx).await?;
            }
        }
        if !news.transitions.is_empty() {
            record(tx, news).await?;
        }
    }
    Ok(())
}

async fn record(tx: &mut Tx, news: &News) -> sqlx::Result<()> {
    let insert = "INSERT INTO health_transitions (uid, at_unix_ms, component, healthy, status, last_error)
        VALUES ($1, $2, $3, $4, $5, $6)";
    let trim = "DELETE FROM health_transitions WHERE uid = $1 AND id IN (
            SELECT id FROM health_transitions WHERE uid = $1 ORDER BY id DESC LIMIT -1 OFFSET $2)";
    for transition in &news.transitions {
        sqlx::query(insert)
            .bind(news.uid.as_uuid())
            .bind(transition.at)
            .bind(component_text(&transition.component).into_bytes())
            .bind(transition.healthy)
            .bind(transition.status.as_bytes())
            .bind(transition.last_error.as_bytes())
            .execute(&mut **tx)
            .await?;
    }
    sqlx::query(trim).bind(news.uid.as_uuid()).bind(i64::from(MAX_TRANSITIONS_KEPT)).execute(&mut **tx).await?;
    Ok(())
}
