//! Tokens of agents and operators, by their hashes.

use serde_json::json;

use super::{Backend, Tx, audit, counters};
use crate::{
    model::UnixMs,
    store::{
        Actor, Error, NewToken, Result, Token, TokenDigest, TokenKind,
        row::{self, DigestRow, TokenRow},
    },
};

macro_rules! columns {
    () => {
        "id, kind, name, created_unix_ms, created_by, expires_unix_ms, revoked_unix_ms"
    };
}

pub(super) async fn create(store: &Backend, token: &NewToken, actor: &Actor) -> Result<Token> {
    let mut tx = store.begin().await?;
    let statement = concat!(
        "INSERT INTO tokens (id, kind, name, sha256, created_unix_ms, created_by, expires_unix_ms) ",
        "VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING ",
        columns!()
    );
    let inserted: sqlx::Result<TokenRow> = sqlx::query_as(statement)
        .bind(&token.id)
        .bind(token.kind.name())
        .bind(&token.name)
        .bind(&token.sha256[..])
        .bind(actor.now)
        .bind(&actor.name)
        .bind(token.expires_at)
        .fetch_one(&mut *tx)
        .await;
    let created = match inserted {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            return Err(Error::AlreadyExists { kind: "token", name: token.name.clone() });
        }
        other => Token::try_from(other?)?,
    };
    let detail = json!({ "kind": token.kind.name(), "name": token.name, "expires_unix_ms": token.expires_at });
    changed(&mut tx, &created, actor, "token.create", detail).await?;
    tx.commit().await?;
    Ok(created)
}

/// Revoking again changes nothing.
pub(super) async fn revoke(store: &Backend, id_or_name: &str, now: UnixMs, actor: &Actor) -> Result<Token> {
    let mut tx = store.begin().await?;
    let token = find_to_revoke(&mut tx, id_or_name).await?;
    let statement = concat!(
        "UPDATE tokens SET revoked_unix_ms = $2 WHERE id = $1 AND revoked_unix_ms IS NULL RETURNING ",
        columns!()
    );
    let row: Option<TokenRow> = sqlx::query_as(statement).bind(&token.id).bind(now).fetch_optional(&mut *tx).await?;
    let Some(row) = row else {
        return Ok(token);
    };
    let revoked = Token::try_from(row)?;
    let detail = json!({ "kind": revoked.kind.name(), "name": revoked.name });
    changed(&mut tx, &revoked, actor, "token.revoke", detail).await?;
    tx.commit().await?;
    Ok(revoked)
}

/// An id goes before a name. Names are unique for each kind only; where both have one, the id must tell.
async fn find_to_revoke(tx: &mut Tx, id_or_name: &str) -> Result<Token> {
    let by_id = concat!("SELECT ", columns!(), " FROM tokens WHERE id = $1");
    let row: Option<TokenRow> = sqlx::query_as(by_id).bind(id_or_name).fetch_optional(&mut **tx).await?;
    if let Some(row) = row {
        return row.try_into();
    }
    let by_name = concat!("SELECT ", columns!(), " FROM tokens WHERE name = $1 AND revoked_unix_ms IS NULL");
    let mut rows: Vec<TokenRow> = sqlx::query_as(by_name).bind(id_or_name).fetch_all(&mut **tx).await?;
    match (rows.pop(), rows.is_empty()) {
        (Some(row), true) => row.try_into(),
        (Some(_), false) => Err(Error::Ambiguous { kind: "token", name: id_or_name.to_owned() }),
        (None, _) => Err(Error::not_found("token", id_or_name)),
    }
}

async fn changed(
    tx: &mut Tx,
    token: &Token,
    actor: &Actor,
    action: &'static str,
    detail: serde_json::Value,
) -> Result<()> {
    if token.kind == TokenKind::Agent {
        counters::bump(tx, counters::AGENT_TOKENS).await?;
    }
    audit::record(tx, actor, action, &token.id, detail).await
}

pub(super) async fn list(store: &Backend) -> Result<Vec<Token>> {
    let statement = concat!("SELECT ", columns!(), " FROM tokens ORDER BY number");
    let rows: Vec<TokenRow> = sqlx::query_as(statement).fetch_all(store.reader()).await?;
    rows.into_iter().map(Token::try_from).collect()
}

pub(super) async fn find(store: &Backend, kind: TokenKind, sha256: &[u8; 32], now: UnixMs) -> Result<Option<Token>> {
    let statement = concat!(
        "SELECT ",
        columns!(),
        " FROM tokens WHERE sha256 = $1 AND kind = $2 AND revoked_unix_ms IS NULL",
        " AND (expires_unix_ms IS NULL OR expires_unix_ms > $3)"
    );
    let query = sqlx::query_as(statement).bind(&sha256[..]).bind(kind.name()).bind(now);
    query.fetch_optional(store.reader()).await?.map(|row: TokenRow| row.try_into()).transpose()
}

/// With the version of the same moment.
pub(super) async fn agent_tokens(store: &Backend, now: UnixMs) -> Result<(u64, Vec<TokenDigest>)> {
    let statement = "SELECT id, sha256, expires_unix_ms FROM tokens
        WHERE kind = $1 AND revoked_unix_ms IS NULL AND (expires_unix_ms IS NULL OR expires_unix_ms > $2)
        ORDER BY number";
    let mut tx = store.snapshot().await?;
    let version = counters::read(&mut tx, counters::AGENT_TOKENS).await?;
    let query = sqlx::query_as(statement).bind(TokenKind::Agent.name()).bind(now);
    let rows: Vec<DigestRow> = query.fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok((version, rows.into_iter().map(row::digest).collect::<Result<_>>()?))
}
