//! Bodies, many at a time.

use bytes::Bytes;
use sqlx::types::Json;

use super::{Backend, Tx};
use crate::{
    model::{ContentHash, UnixMs},
    store::{
        ConfigFiles, REFRESH_AFTER_MS, Result,
        json::Files,
        row::{self, ConfigRow, ContentRow},
        unix_ms,
    },
};

/// Inserting without a conflict clause that updates: that would write to the log for each body that is there already.
pub(super) async fn put(tx: &mut Tx, bodies: &[(ContentHash, Bytes)]) -> sqlx::Result<()> {
    if bodies.is_empty() {
        return Ok(());
    }
    let mut sorted: Vec<_> = bodies.iter().collect();
    // The same order for all writers, against deadlocks.
    sorted.sort_by_key(|(hash, _)| *hash);
    let hashes: Vec<&[u8]> = sorted.iter().map(|(hash, _)| &hash.0[..]).collect();
    let now = unix_ms();
    let refresh = "UPDATE contents SET made_unix_ms = $2 FROM (
            SELECT hash FROM contents WHERE hash = ANY($1) AND made_unix_ms < $3 ORDER BY hash FOR UPDATE
        ) AS old WHERE contents.hash = old.hash";
    sqlx::query(refresh).bind(&hashes).bind(now).bind(now - REFRESH_AFTER_MS).execute(&mut **tx).await?;
    let insert = "INSERT INTO contents (hash, body, made_unix_ms)
        SELECT hash, body, $3 FROM UNNEST($1::bytea[], $2::bytea[]) AS incoming (hash, body)
        ON CONFLICT (hash) DO NOTHING";
    let bodies: Vec<&[u8]> = sorted.iter().map(|(_, body)| &body[..]).collect();
    sqlx::query(insert).bind(&hashes).bind(&bodies).bind(now).execute(&mut **tx).await?;
    Ok(())
}

pub(super) async fn get(store: &Backend, hashes: &[ContentHash]) -> Result<Vec<(ContentHash, Bytes)>> {
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash.0[..]).collect();
    let query = sqlx::query_as("SELECT hash, body FROM contents WHERE hash = ANY($1)").bind(hashes);
    let rows: Vec<ContentRow> = query.fetch_all(store.reader()).await?;
    row::contents(rows)
}

/// As [`put`].
pub(super) async fn put_configs(tx: &mut Tx, configs: &[(ContentHash, ConfigFiles)]) -> sqlx::Result<()> {
    let mut sorted: Vec<_> = configs.iter().collect();
    sorted.sort_by_key(|(hash, _)| *hash);
    let hashes: Vec<&[u8]> = sorted.iter().map(|(hash, _)| &hash.0[..]).collect();
    let now = unix_ms();
    let refresh = "UPDATE configs SET made_unix_ms = $2 FROM (
            SELECT hash FROM configs WHERE hash = ANY($1) AND made_unix_ms < $3 ORDER BY hash FOR UPDATE
        ) AS old WHERE configs.hash = old.hash";
    sqlx::query(refresh).bind(&hashes).bind(now).bind(now - REFRESH_AFTER_MS).execute(&mut **tx).await?;
    let insert = "INSERT INTO configs (hash, files, made_unix_ms)
        SELECT hash, files, $3 FROM UNNEST($1::bytea[], $2::jsonb[]) AS incoming (hash, files)
        ON CONFLICT (hash) DO NOTHING";
    let files: Vec<Json<Files>> = sorted.iter().map(|(_, files)| Json(Files::from(files))).collect();
    sqlx::query(insert).bind(&hashes).bind(&files).bind(now).execute(&mut **tx).await?;
    Ok(())
}

pub(super) async fn get_configs(store: &Backend, hashes: &[ContentHash]) -> Result<Vec<(ContentHash, ConfigFiles)>> {
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash.0[..]).collect();
    let query = sqlx::query_as("SELECT hash, files FROM configs WHERE hash = ANY($1)").bind(hashes);
    let rows: Vec<ConfigRow> = query.fetch_all(store.reader()).await?;
    row::configs(rows)
}

pub(super) async fn collect_garbage(store: &Backend, before: UnixMs) -> Result<u64> {
    let configs = "DELETE FROM configs WHERE made_unix_ms < $1
        AND NOT EXISTS (SELECT FROM agents WHERE agents.desired_config = configs.hash)";
    let contents = "DELETE FROM contents WHERE made_unix_ms < $1
        AND NOT EXISTS (SELECT FROM agents WHERE agents.effective_config = contents.hash)
        AND NOT EXISTS (SELECT FROM configs, jsonb_each(configs.files) AS file
            WHERE decode(file.value ->> 'content', 'hex') = contents.hash)
        AND NOT EXISTS (SELECT FROM revisions, jsonb_each(revisions.files) AS file
            WHERE decode(file.value ->> 'content', 'hex') = contents.hash)";
    let mut tx = store.begin().await?;
    // It reads every agent; there is no hurry.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    let mut deleted = 0;
    let offers = "DELETE FROM offers WHERE made_unix_ms < $1";
    for statement in [configs, contents, offers] {
        deleted += sqlx::query(statement).bind(before).execute(&mut *tx).await?.rows_affected();
    }
    tx.commit().await?;
    Ok(deleted)
}
