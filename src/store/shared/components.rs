//! What agents are built from, by the hash that they give.

use bytes::Bytes;
use sqlx::FromRow;

use super::{Backend, Tx};
use crate::{
    model::{InstanceUid, UnixMs},
    store::{MAX_CANDIDATES, REFRESH_COMPONENTS_MS, Result, UnknownComponents},
};

/// Hashes that nobody has told the components of: agents choose them.
const MAX_UNKNOWN: i64 = 1_000;

#[derive(FromRow)]
struct Row {
    is_known: bool,
    candidates: Vec<u8>,
    used_unix_ms: UnixMs,
}

pub(super) async fn note(store: &Backend, said: &[(Bytes, Vec<InstanceUid>)], now: UnixMs) -> Result<Vec<Bytes>> {
    let insert = "INSERT INTO components (hash, candidates, asked, asked_unix_ms, used_unix_ms)
        SELECT $1, $2, 0, 0, $3 WHERE (SELECT COUNT(*) FROM components WHERE body IS NULL) < $4
        ON CONFLICT (hash) DO NOTHING";
    // Updating is how both databases lock a row.
    let lock = "UPDATE components SET asked = asked WHERE hash = $1
        RETURNING body IS NOT NULL AS is_known, candidates, used_unix_ms";
    let change = "UPDATE components SET candidates = $2, used_unix_ms = $3 WHERE hash = $1";
    let mut sorted: Vec<_> = said.iter().collect();
    // One order for all writers, against deadlocks.
    sorted.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    let mut known = Vec::new();
    let mut tx = store.begin().await?;
    for (hash, uids) in sorted {
        let fresh = joined(&[], uids);
        let query = sqlx::query(insert).bind(&hash[..]).bind(&fresh).bind(now).bind(MAX_UNKNOWN);
        if query.execute(&mut *tx).await?.rows_affected() > 0 {
            continue;
        }
        let row: Option<Row> = sqlx::query_as(lock).bind(&hash[..]).fetch_optional(&mut *tx).await?;
        let Some(row) = row else { continue };
        let candidates = if row.is_known { Vec::new() } else { joined(&row.candidates, uids) };
        if candidates != row.candidates || row.used_unix_ms < now - REFRESH_COMPONENTS_MS {
            sqlx::query(change).bind(&hash[..]).bind(candidates).bind(now).execute(&mut *tx).await?;
        }
        if row.is_known {
            known.push(hash.clone());
        }
    }
    tx.commit().await?;
    Ok(known)
}

/// `candidates` with those of `uids` that are new and for which there is room.
fn joined(candidates: &[u8], uids: &[InstanceUid]) -> Vec<u8> {
    let mut joined = candidates.to_vec();
    for uid in uids {
        let is_known = joined.chunks(16).any(|known| known == uid.as_bytes());
        if !is_known && joined.len() < 16 * MAX_CANDIDATES {
            joined.extend_from_slice(uid.as_bytes());
        }
    }
    joined
}

/// An agent that may be asked goes on under another uid.
pub(super) async fn replace_candidate(tx: &mut Tx, from: InstanceUid, to: InstanceUid) -> Result<()> {
    let find = "SELECT c.hash, c.candidates FROM components AS c JOIN announcements AS a ON a.components_hash = c.hash
        WHERE a.uid = $1 AND c.body IS NULL";
    let change = "UPDATE components SET candidates = $3 WHERE hash = $1 AND candidates = $2";
    let found: Option<(Vec<u8>, Vec<u8>)> = sqlx::query_as(find).bind(to.as_uuid()).fetch_optional(&mut **tx).await?;
    let Some((hash, candidates)) = found else { return Ok(()) };
    let uids = candidates.chunks(16).map(|uid| if uid == from.as_bytes() { &to.as_bytes()[..] } else { uid });
    let replaced: Vec<u8> = uids.flatten().copied().collect();
    sqlx::query(change).bind(hash).bind(candidates).bind(replaced).execute(&mut **tx).await?;
    Ok(())
}

pub(super) async fn put(store: &Backend, components: &[(Bytes, Bytes)], now: UnixMs) -> Result<()> {
    let statement = "INSERT INTO components (hash, body, candidates, asked, asked_unix_ms, used_unix_ms)
        VALUES ($1, $2, $3, 0, 0, $4)
        ON CONFLICT (hash) DO UPDATE SET body = excluded.body, candidates = excluded.candidates,
            used_unix_ms = excluded.used_unix_ms
        WHERE components.body IS NULL";
    let mut sorted: Vec<_> = components.iter().collect();
    sorted.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    let mut tx = store.begin().await?;
    for (hash, body) in sorted {
        let query = sqlx::query(statement).bind(&hash[..]).bind(&body[..]).bind(&b""[..]).bind(now);
        query.execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

pub(super) async fn get(store: &Backend, hash: &[u8]) -> Result<Option<Bytes>> {
    let query = sqlx::query_scalar("SELECT body FROM components WHERE hash = $1 AND body IS NOT NULL").bind(hash);
    let body: Option<Vec<u8>> = query.fetch_optional(store.reader()).await?;
    Ok(body.map(Bytes::from))
}

pub(super) async fn unknown(store: &Backend, limit: u32) -> Result<Vec<UnknownComponents>> {
    let statement = "SELECT hash, candidates, asked, asked_unix_ms FROM components
        WHERE body IS NULL AND asked * 16 < length(candidates) ORDER BY asked_unix_ms, hash LIMIT $1";
    let rows: Vec<(Vec<u8>, Vec<u8>, i16, UnixMs)> =
        sqlx::query_as(statement).bind(i64::from(limit)).fetch_all(store.reader()).await?;
    let of_row = |(hash, candidates, asked, asked_at): (Vec<u8>, Vec<u8>, i16, UnixMs)| UnknownComponents {
        hash: hash.into(),
        candidates: candidates.chunks(16).filter_map(|uid| InstanceUid::from_slice(uid).ok()).collect(),
        asked: asked.max(0).cast_unsigned(),
        asked_at,
    };
    Ok(rows.into_iter().map(of_row).collect())
}

pub(super) async fn ask(store: &Backend, hash: &[u8], asked: u16, now: UnixMs) -> Result<bool> {
    let statement = "UPDATE components SET asked = asked + 1, asked_unix_ms = $3
        WHERE hash = $1 AND asked = $2 AND body IS NULL";
    let mut tx = store.begin().await?;
    let query = sqlx::query(statement).bind(hash).bind(asked.cast_signed()).bind(now);
    let is_first = query.execute(&mut *tx).await?.rows_affected() > 0;
    tx.commit().await?;
    Ok(is_first)
}

pub(super) async fn forget(store: &Backend, used_before: UnixMs, unanswered_before: UnixMs) -> Result<u64> {
    let statement = "DELETE FROM components WHERE used_unix_ms < $1
        OR body IS NULL AND asked > 0 AND asked * 16 >= length(candidates) AND asked_unix_ms < $2";
    let mut tx = store.begin().await?;
    let query = sqlx::query(statement).bind(used_before).bind(unanswered_before);
    let deleted = query.execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(deleted)
}
