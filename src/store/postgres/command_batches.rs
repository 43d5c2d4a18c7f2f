//! Targets of commands, many at a time.

use uuid::Uuid;

use super::Tx;
use crate::{
    model::{
        InstanceUid, UnixMs,
        command::{CommandId, TargetState},
    },
    store::Claim,
};

pub(super) async fn insert(
    tx: &mut Tx,
    command: CommandId,
    targets: &[(InstanceUid, TargetState)],
    now: UnixMs,
) -> sqlx::Result<()> {
    let statement = "INSERT INTO command_targets
            (command, uid, shard, state, gateway, connection_generation, changed_unix_ms)
        SELECT $1, uid, shard, state, '', 0, $5
        FROM UNNEST($2::uuid[], $3::smallint[], $4::smallint[]) AS n (uid, shard, state)";
    let uids: Vec<Uuid> = targets.iter().map(|(uid, _)| uid.as_uuid()).collect();
    let shards: Vec<i16> = targets.iter().map(|(uid, _)| uid.shard().cast_signed()).collect();
    let states: Vec<i16> = targets.iter().map(|(_, state)| *state as i16).collect();
    sqlx::query(statement).bind(command.0).bind(uids).bind(shards).bind(states).bind(now).execute(&mut **tx).await?;
    Ok(())
}

pub(super) async fn claim(tx: &mut Tx, command: CommandId, claims: &[&Claim], now: UnixMs) -> sqlx::Result<Vec<Uuid>> {
    let statement = "UPDATE command_targets AS t SET state = n.state, gateway = n.gateway,
            connection_generation = n.connection_generation, changed_unix_ms = $6
        FROM UNNEST($2::uuid[], $3::smallint[], $4::text[], $5::bigint[])
            AS n (uid, state, gateway, connection_generation)
        WHERE t.command = $1 AND t.uid = n.uid AND t.state = 0 RETURNING t.uid";
    lock(tx, claims.iter().map(|claim| (command.0, claim.uid.as_uuid()))).await?;
    let uids: Vec<Uuid> = claims.iter().map(|claim| claim.uid.as_uuid()).collect();
    let states: Vec<i16> = claims.iter().map(|claim| claim.state as i16).collect();
    let gateways: Vec<&str> = claims.iter().map(|claim| claim.gateway.as_str()).collect();
    let generations: Vec<i64> = claims.iter().map(|claim| claim.connection_generation.cast_signed()).collect();
    let query = sqlx::query_scalar(statement).bind(command.0).bind(uids).bind(states).bind(gateways);
    query.bind(generations).bind(now).fetch_all(&mut **tx).await
}

pub(super) async fn settle(
    tx: &mut Tx,
    settled: &[(CommandId, InstanceUid, TargetState)],
    now: UnixMs,
) -> sqlx::Result<()> {
    let statement = "UPDATE command_targets AS t SET state = n.state, changed_unix_ms = $4
        FROM UNNEST($1::uuid[], $2::uuid[], $3::smallint[]) AS n (command, uid, state)
        WHERE t.command = n.command AND t.uid = n.uid AND t.state = 1";
    lock(tx, settled.iter().map(|(command, uid, _)| (command.0, uid.as_uuid()))).await?;
    let commands: Vec<Uuid> = settled.iter().map(|(command, ..)| command.0).collect();
    let uids: Vec<Uuid> = settled.iter().map(|(_, uid, _)| uid.as_uuid()).collect();
    let states: Vec<i16> = settled.iter().map(|(.., state)| *state as i16).collect();
    sqlx::query(statement).bind(commands).bind(uids).bind(states).bind(now).execute(&mut **tx).await?;
    Ok(())
}

/// In the order given, for an update may meet them in any.
async fn lock(tx: &mut Tx, targets: impl Iterator<Item = (Uuid, Uuid)>) -> sqlx::Result<()> {
    let statement = "SELECT 1 FROM command_targets AS t
        JOIN UNNEST($1::uuid[], $2::uuid[]) AS n (command, uid) ON t.command = n.command AND t.uid = n.uid
        ORDER BY t.command, t.uid FOR UPDATE OF t";
    let (commands, uids): (Vec<Uuid>, Vec<Uuid>) = targets.unzip();
    sqlx::query(statement).bind(commands).bind(uids).execute(&mut **tx).await?;
    Ok(())
}
