//! Commands and their targets. Batches are each database's own.

use prost::Message;
use serde_json::json;
use sqlx::FromRow;
use uuid::Uuid;

use super::{Backend, audit, command_batches};
use crate::{
    model::{
        InstanceUid, UnixMs,
        command::{Action, Command, CommandId, Target, TargetState},
    },
    proto::opamp,
    store::{Actor, Claim, CommandProgress, Error, NewCommand, Result},
};

const RESTART: i16 = 1;
const MESSAGE: i16 = 2;

#[derive(FromRow)]
struct CommandRow {
    id: Uuid,
    action: i16,
    message: Vec<u8>,
    addressee: String,
    per_second: i32,
    author: String,
    created_unix_ms: UnixMs,
    finished_unix_ms: Option<UnixMs>,
}

impl TryFrom<CommandRow> for Command {
    type Error = Error;

    fn try_from(row: CommandRow) -> Result<Self> {
        let action = match row.action {
            RESTART => Action::Restart,
            MESSAGE => {
                let message = opamp::CustomMessage::decode(&row.message[..]);
                Action::Message(message.map_err(|error| Error::damaged("command", error))?)
            }
            other => return Err(Error::damaged("command", format!("action {other}"))),
        };
        Ok(Self {
            id: CommandId(row.id),
            action,
            addressee: row.addressee,
            per_second: row.per_second.max(1).cast_unsigned(),
            author: row.author,
            created_at: row.created_unix_ms,
            finished_at: row.finished_unix_ms,
        })
    }
}

#[derive(FromRow)]
struct TargetRow {
    command: Uuid,
    uid: Uuid,
    state: i16,
    gateway: String,
    connection_generation: i64,
    changed_unix_ms: UnixMs,
}

impl TryFrom<TargetRow> for Target {
    type Error = Error;

    fn try_from(row: TargetRow) -> Result<Self> {
        Ok(Self {
            command: CommandId(row.command),
            uid: uid(row.uid)?,
            state: state(row.state)?,
            gateway: row.gateway,
            connection_generation: row.connection_generation.cast_unsigned(),
            changed_at: row.changed_unix_ms,
        })
    }
}

fn uid(uid: Uuid) -> Result<InstanceUid> {
    InstanceUid::from_slice(uid.as_bytes()).map_err(|error| Error::damaged("command", error))
}

fn state(number: i16) -> Result<TargetState> {
    TargetState::from_number(number).ok_or_else(|| Error::damaged("command", format!("state {number}")))
}

fn uids(rows: Vec<Uuid>) -> Result<Vec<InstanceUid>> {
    rows.into_iter().map(uid).collect()
}

pub(super) async fn create(store: &Backend, new: &NewCommand, actor: &Actor) -> Result<bool> {
    let statement = "INSERT INTO commands (id, action, message, addressee, per_second, author, created_unix_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING";
    let (action, message) = match &new.action {
        Action::Restart => (RESTART, Vec::new()),
        Action::Message(message) => (MESSAGE, message.encode_to_vec()),
    };
    let mut tx = store.begin().await?;
    let insert = sqlx::query(statement)
        .bind(new.id.0)
        .bind(action)
        .bind(message)
        .bind(&new.addressee)
        .bind(i32::try_from(new.per_second).unwrap_or(i32::MAX))
        .bind(&actor.name)
        .bind(actor.now);
    if insert.execute(&mut *tx).await?.rows_affected() == 0 {
        return Ok(false);
    }
    command_batches::insert(&mut tx, new.id, &new.targets, actor.now).await?;
    let waiting = new.targets.iter().filter(|(_, state)| *state == TargetState::Waiting).count();
    let mut detail = json!({ "addressee": new.addressee, "agents": new.targets.len(), "eligible": waiting });
    let action = match &new.action {
        Action::Restart => "command.restart",
        Action::Message(message) => {
            // Of the payload the length alone: it may be a secret.
            detail["capability"] = message.capability.clone().into();
            detail["type"] = message.r#type.clone().into();
            detail["bytes"] = message.data.len().into();
            "command.message"
        }
    };
    audit::record(&mut tx, actor, action, &new.id.to_string(), detail).await?;
    tx.commit().await?;
    Ok(true)
}

pub(super) async fn get(store: &Backend, id: CommandId) -> Result<CommandProgress> {
    let mut tx = store.snapshot().await?;
    let row: Option<CommandRow> =
        sqlx::query_as("SELECT * FROM commands WHERE id = $1").bind(id.0).fetch_optional(&mut *tx).await?;
    let command = row.ok_or_else(|| Error::not_found("command", id))?.try_into()?;
    let statement = "SELECT state, COUNT(*) FROM command_targets WHERE command = $1 GROUP BY state";
    let counts: Vec<(i16, i64)> = sqlx::query_as(statement).bind(id.0).fetch_all(&mut *tx).await?;
    let counts = counts.into_iter().map(|(number, count)| Ok((state(number)?, count.cast_unsigned())));
    Ok(CommandProgress { command, counts: counts.collect::<Result<_>>()? })
}

pub(super) async fn targets(
    store: &Backend,
    id: CommandId,
    states: &[TargetState],
    after: Option<InstanceUid>,
    limit: u32,
) -> Result<Vec<Target>> {
    let statement = "SELECT command, uid, state, gateway, connection_generation, changed_unix_ms FROM command_targets
        WHERE command = $1 AND uid > $2 AND (CAST($3 AS bigint) >> state) & 1 = 1 ORDER BY uid LIMIT $4";
    let states = match states {
        [] => -1,
        states => states.iter().fold(0_i64, |bits, state| bits | 1 << *state as i16),
    };
    let after = after.map_or(Uuid::nil(), |uid| uid.as_uuid());
    let query = sqlx::query_as(statement).bind(id.0).bind(after).bind(states).bind(i64::from(limit));
    let rows: Vec<TargetRow> = query.fetch_all(store.reader()).await?;
    rows.into_iter().map(Target::try_from).collect()
}

pub(super) async fn open(store: &Backend) -> Result<Vec<Command>> {
    let statement = "SELECT * FROM commands WHERE finished_unix_ms IS NULL ORDER BY created_unix_ms, id";
    let rows: Vec<CommandRow> = sqlx::query_as(statement).fetch_all(store.reader()).await?;
    rows.into_iter().map(Command::try_from).collect()
}

pub(super) async fn waiting(store: &Backend, id: CommandId, shards: u64, limit: u32) -> Result<Vec<InstanceUid>> {
    let statement = "SELECT uid FROM command_targets
        WHERE command = $1 AND state = 0 AND state < 2 AND (CAST($2 AS bigint) >> shard) & 1 = 1 ORDER BY uid LIMIT $3";
    let query = sqlx::query_scalar(statement).bind(id.0).bind(shards.cast_signed()).bind(i64::from(limit));
    uids(query.fetch_all(store.reader()).await?)
}

pub(super) async fn claim(store: &Backend, id: CommandId, claims: &[Claim], now: UnixMs) -> Result<Vec<InstanceUid>> {
    let mut sorted: Vec<&Claim> = claims.iter().collect();
    // One order for all writers, against deadlocks.
    sorted.sort_unstable_by_key(|claim| claim.uid);
    let mut tx = store.begin().await?;
    let claimed = command_batches::claim(&mut tx, id, &sorted, now).await?;
    tx.commit().await?;
    uids(claimed)
}

pub(super) async fn under_way(store: &Backend, shards: u64, limit: u32) -> Result<Vec<Target>> {
    let statement = "SELECT command, uid, state, gateway, connection_generation, changed_unix_ms FROM command_targets
        WHERE state = 1 AND state < 2 AND (CAST($1 AS bigint) >> shard) & 1 = 1 ORDER BY command, uid LIMIT $2";
    let query = sqlx::query_as(statement).bind(shards.cast_signed()).bind(i64::from(limit));
    let rows: Vec<TargetRow> = query.fetch_all(store.reader()).await?;
    rows.into_iter().map(Target::try_from).collect()
}

pub(super) async fn settle(
    store: &Backend,
    settled: &[(CommandId, InstanceUid, TargetState)],
    now: UnixMs,
) -> Result<()> {
    let mut sorted = settled.to_vec();
    sorted.sort_unstable();
    let mut tx = store.begin().await?;
    command_batches::settle(&mut tx, &sorted, now).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn finish(store: &Backend, now: UnixMs) -> Result<u64> {
    let statement = "UPDATE commands SET finished_unix_ms = $1 WHERE finished_unix_ms IS NULL
        AND NOT EXISTS (SELECT 1 FROM command_targets WHERE command = commands.id AND state < 2)";
    let mut tx = store.begin().await?;
    let finished = sqlx::query(statement).bind(now).execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(finished)
}

pub(super) async fn forget(store: &Backend, before: UnixMs) -> Result<u64> {
    let mut tx = store.begin().await?;
    let query = sqlx::query("DELETE FROM commands WHERE finished_unix_ms < $1").bind(before);
    let deleted = query.execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(deleted)
}
