//! Bodies and configurations, stored once by hash.
//!
//! Garbage and races: what is unreferenced may become referenced at any time, by a writer that need not store it again
//! because it is there. Each store of a hash therefore makes it young again (at most once a day, so that this costs
//! no write as a rule), and only what is older than [`crate::store::Store::collect_garbage`]'s `before` is deleted.

use bytes::Bytes;

use super::{Backend, Tx, content_batches};
use crate::{
    model::{ContentHash, desired::DesiredOffer},
    store::{ConfigFiles, REFRESH_AFTER_MS, Result, row, unix_ms},
};

pub(super) use content_batches::{collect_garbage, get, get_configs, put, put_configs};

pub(super) async fn put_all(store: &Backend, bodies: &[(ContentHash, Bytes)]) -> Result<()> {
    let mut tx = store.begin().await?;
    put(&mut tx, bodies).await?;
    Ok(tx.commit().await?)
}

/// Makes a stored body young; false if it is not stored.
pub(super) async fn hold(tx: &mut Tx, hash: ContentHash) -> Result<bool> {
    let query = sqlx::query("UPDATE contents SET made_unix_ms = $2 WHERE hash = $1").bind(&hash.0[..]).bind(unix_ms());
    Ok(query.execute(&mut **tx).await?.rows_affected() > 0)
}

pub(super) async fn put_all_configs(store: &Backend, configs: &[(ContentHash, ConfigFiles)]) -> Result<()> {
    if configs.is_empty() {
        return Ok(());
    }
    let mut tx = store.begin().await?;
    put_configs(&mut tx, configs).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn put_offer(store: &Backend, offer: &DesiredOffer) -> Result<()> {
    let statement = "INSERT INTO offers (hash, kind, body, made_unix_ms) VALUES ($1, $2, $3, $4)
        ON CONFLICT (hash) DO UPDATE SET made_unix_ms = excluded.made_unix_ms
        WHERE offers.made_unix_ms < excluded.made_unix_ms - $5";
    let mut tx = store.begin().await?;
    sqlx::query(statement)
        .bind(&offer.hash.0[..])
        .bind(offer.kind.name())
        .bind(&offer.body[..])
        .bind(unix_ms())
        .bind(REFRESH_AFTER_MS)
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}

pub(super) async fn get_offer(store: &Backend, hash: ContentHash) -> Result<Option<DesiredOffer>> {
    let query = sqlx::query_as("SELECT kind, body FROM offers WHERE hash = $1").bind(&hash.0[..]);
    let found: Option<(String, Vec<u8>)> = query.fetch_optional(store.reader()).await?;
    found.map(|(kind, body)| Ok(DesiredOffer { kind: row::kind(&kind)?, hash, body: body.into() })).transpose()
}
