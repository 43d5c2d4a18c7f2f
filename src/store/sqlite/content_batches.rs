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

pub(super) async fn put(tx: &mut Tx, bodies: &[(ContentHash, Bytes)]) -> Result<()> {
    let statement = "INSERT INTO contents (hash, body, made_unix_ms) VALUES ($1, $2, $3)
        ON CONFLICT (hash) DO UPDATE SET made_unix_ms = excluded.made_unix_ms
        WHERE contents.made_unix_ms < excluded.made_unix_ms - $4";
    for (hash, body) in bodies {
        sqlx::query(statement)
            .bind(&hash.0[..])
            .bind(&body[..])
            .bind(unix_ms())
            .bind(REFRESH_AFTER_MS)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

pub(super) async fn get(store: &Backend, hashes: &[ContentHash]) -> Result<Vec<(ContentHash, Bytes)>> {
    let statement = "SELECT hash, body FROM contents WHERE hash IN (SELECT unhex(value) FROM json_each($1))";
    let hashes: Vec<_> = hashes.iter().map(ToString::to_string).collect();
    let rows: Vec<ContentRow> = sqlx::query_as(statement).bind(Json(hashes)).fetch_all(store.reader()).await?;
    row::contents(rows)
}

pub(super) async fn put_configs(tx: &mut Tx, configs: &[(ContentHash, ConfigFiles)]) -> Result<()> {
    let statement = "INSERT INTO configs (hash, files, made_unix_ms) VALUES ($1, $2, $3)
        ON CONFLICT (hash) DO UPDATE SET made_unix_ms = excluded.made_unix_ms
        WHERE configs.made_unix_ms < excluded.made_unix_ms - $4";
    for (hash, files) in configs {
        sqlx::query(statement)
            .bind(&hash.0[..])
            .bind(Json(Files::from(files)))
            .bind(unix_ms())
            .bind(REFRESH_AFTER_MS)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

pub(super) async fn get_configs(store: &Backend, hashes: &[ContentHash]) -> Result<Vec<(ContentHash, ConfigFiles)>> {
    let statement = "SELECT hash, files FROM configs WHERE hash IN (SELECT unhex(value) FROM json_each($1))";
    let hashes: Vec<_> = hashes.iter().map(ToString::to_string).collect();
    let rows: Vec<ConfigRow> = sqlx::query_as(statement).bind(Json(hashes)).fetch_all(store.reader()).await?;
    row::configs(rows)
}

pub(super) async fn collect_garbage(store: &Backend, before: UnixMs) -> Result<u64> {
    let configs = "DELETE FROM configs WHERE made_unix_ms < $1
        AND hash NOT IN (SELECT desired_config FROM agents WHERE desired_config IS NOT NULL)";
    let contents = "DELETE FROM contents WHERE made_unix_ms < $1
        AND hash NOT IN (SELECT effective_config FROM agents WHERE effective_config IS NOT NULL)
        AND hash NOT IN (SELECT unhex(file.value ->> 'content') FROM configs, json_each(configs.files) AS file)
        AND hash NOT IN (SELECT unhex(file.value ->> 'content') FROM revisions, json_each(revisions.files) AS file)";
    let mut tx = store.begin().await?;
    let mut deleted = 0;
    let offers = "DELETE FROM offers WHERE made_unix_ms < $1";
    for statement in [configs, contents, offers] {
        deleted += sqlx::query(statement).bind(before).execute(&mut *tx).await?.rows_affected();
    }
    tx.commit().await?;
    Ok(deleted)
}
