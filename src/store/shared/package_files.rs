//! Which files are in the package storage.
//!
//! The storage is written before this says so, and deleted from while this says that it is being deleted. A file that this has
//! is therefore there, but for what was done to the storage by others.

use rand::Rng;
use serde_json::json;

use super::{Backend, Tx, audit, policies};
use crate::{
    model::{ContentHash, UnixMs},
    store::{Actor, Error, NewPackageFile, PackageFile, Result, row::PackageFileRow},
};

/// A deletion that began longer ago has been given up half way, and may begin again.
const DELETION_MS: UnixMs = 10 * 60_000;

macro_rules! columns {
    () => {
        "sha256, size, name, created_unix_ms, author, deleting_unix_ms"
    };
}

pub(super) async fn put(store: &Backend, file: &NewPackageFile, actor: &Actor) -> Result<PackageFile> {
    let statement = concat!(
        "INSERT INTO package_files (sha256, size, name, created_unix_ms, author) VALUES ($1, $2, $3, $4, $5) ",
        "ON CONFLICT (sha256) DO UPDATE SET size = excluded.size RETURNING ",
        columns!()
    );
    let mut tx = store.begin().await?;
    let row: PackageFileRow = sqlx::query_as(statement)
        .bind(&file.sha256.0[..])
        .bind(file.size.cast_signed())
        .bind(&file.name)
        .bind(actor.now)
        .bind(&actor.name)
        .fetch_one(&mut *tx)
        .await?;
    let stored = PackageFile::try_from(row)?;
    if stored.deleting_since.is_some() {
        return Err(being_deleted(file.sha256));
    }
    let detail = json!({ "name": file.name, "size": file.size });
    audit::record(&mut tx, actor, "package-file.upload", &file.sha256.to_string(), detail).await?;
    tx.commit().await?;
    Ok(stored)
}

pub(super) async fn get(store: &Backend, sha256: ContentHash) -> Result<Option<PackageFile>> {
    let statement =
        concat!("SELECT ", columns!(), " FROM package_files WHERE sha256 = $1 AND deleting_unix_ms IS NULL");
    let query = sqlx::query_as(statement).bind(&sha256.0[..]);
    query.fetch_optional(store.reader()).await?.map(|row: PackageFileRow| row.try_into()).transpose()
}

pub(super) async fn list(store: &Backend, after: Option<ContentHash>, limit: u32) -> Result<Vec<PackageFile>> {
    let statement = concat!("SELECT ", columns!(), " FROM package_files WHERE sha256 > $1 ORDER BY sha256 LIMIT $2");
    let after = after.map(|after| after.0.to_vec()).unwrap_or_default();
    let query = sqlx::query_as(statement).bind(after).bind(i64::from(limit));
    let rows: Vec<PackageFileRow> = query.fetch_all(store.reader()).await?;
    rows.into_iter().map(PackageFile::try_from).collect()
}

pub(super) async fn begin_delete(store: &Backend, sha256: ContentHash, actor: &Actor) -> Result<PackageFile> {
    // Locks the row, so that this and the policies that would refer to it take turns.
    let statement = concat!(
        "UPDATE package_files SET deleting_unix_ms = $2 ",
        "WHERE sha256 = $1 AND (deleting_unix_ms IS NULL OR deleting_unix_ms < $3) RETURNING ",
        columns!()
    );
    let mut tx = store.begin().await?;
    let query = sqlx::query_as(statement).bind(&sha256.0[..]).bind(actor.now).bind(actor.now - DELETION_MS);
    let row: Option<PackageFileRow> = query.fetch_optional(&mut *tx).await?;
    let Some(row) = row else { return Err(missing(&mut tx, sha256).await?) };
    let file = PackageFile::try_from(row)?;
    if let Some(policy) = policies::user_of(&mut tx, sha256).await? {
        return Err(Error::InUse { kind: "package file", name: sha256.to_string(), policy });
    }
    let detail = json!({ "name": file.name, "size": file.size });
    audit::record(&mut tx, actor, "package-file.delete", &sha256.to_string(), detail).await?;
    tx.commit().await?;
    Ok(file)
}

/// Keeps the file from being deleted until the transaction ends; false if it is not there.
pub(super) async fn hold(tx: &mut Tx, sha256: ContentHash) -> Result<bool> {
    let statement = "UPDATE package_files SET size = size WHERE sha256 = $1 AND deleting_unix_ms IS NULL";
    let query = sqlx::query(statement).bind(&sha256.0[..]);
    Ok(query.execute(&mut **tx).await?.rows_affected() > 0)
}

/// Why no file could be marked.
async fn missing(tx: &mut Tx, sha256: ContentHash) -> Result<Error> {
    let query = sqlx::query("SELECT 1 FROM package_files WHERE sha256 = $1").bind(&sha256.0[..]);
    let is_there = query.fetch_optional(&mut **tx).await?.is_some();
    Ok(if is_there { being_deleted(sha256) } else { Error::not_found("package file", sha256) })
}

pub(super) async fn end_delete(store: &Backend, sha256: ContentHash) -> Result<()> {
    let statement = "DELETE FROM package_files WHERE sha256 = $1 AND deleting_unix_ms IS NOT NULL";
    let mut tx = store.begin().await?;
    sqlx::query(statement).bind(&sha256.0[..]).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

fn being_deleted(sha256: ContentHash) -> Error {
    Error::BeingDeleted { kind: "package file", name: sha256.to_string() }
}

/// Whoever is first makes it.
pub(super) async fn key(store: &Backend) -> Result<[u8; 32]> {
    const READ: &str = "SELECT value FROM secrets WHERE name = 'package_key'";
    let stored: Option<(Vec<u8>,)> = sqlx::query_as(READ).fetch_optional(store.reader()).await?;
    let key = match stored {
        Some((key,)) => key,
        None => {
            let mut new = [0; 32];
            rand::rng().fill_bytes(&mut new);
            let mut tx = store.begin().await?;
            let statement = "INSERT INTO secrets (name, value) VALUES ('package_key', $1) ON CONFLICT DO NOTHING";
            sqlx::query(statement).bind(&new[..]).execute(&mut *tx).await?;
            let (key,): (Vec<u8>,) = sqlx::query_as(READ).fetch_one(&mut *tx).await?;
            tx.commit().await?;
            key
        }
    };
    key.try_into().map_err(|_| Error::damaged("secret", "package_key"))
}
