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
        VALUES ($1, $2, $3, $4, '', 0, $5)";
    for (uid, state) in targets {
        sqlx::query(statement)
            .bind(command.0)
            .bind(uid.as_uuid())
            .bind(uid.shard().cast_signed())
            .bind(*state as i16)
            .bind(now)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

pub(super) async fn claim(tx: &mut Tx, command: CommandId, claims: &[&Claim], now: UnixMs) -> sqlx::Result<Vec<Uuid>> {
    let statement = "UPDATE command_targets SET state = $3, gateway = $4, connection_generation = $5,
            changed_unix_ms = $6
        WHERE command = $1 AND uid = $2 AND state = 0";
    let mut claimed = Vec::new();
    for claim in claims {
        let query = sqlx::query(statement)
            .bind(command.0)
            .bind(claim.uid.as_uuid())
            .bind(claim.state as i16)
            .bind(&claim.gateway)
            .bind(claim.connection_generation.cast_signed())
            .bind(now);
        if query.execute(&mut **tx).await?.rows_affected() > 0 {
            claimed.push(claim.uid.as_uuid());
        }
    }
    Ok(claimed)
}

pub(super) async fn settle(
    tx: &mut Tx,
    settled: &[(CommandId, InstanceUid, TargetState)],
    now: UnixMs,
) -> sqlx::Result<()> {
    let statement = "UPDATE command_targets SET state = $3, changed_unix_ms = $4
        WHERE command = $1 AND uid = $2 AND state = 1";
    for (command, uid, state) in settled {
        let query = sqlx::query(statement).bind(command.0).bind(uid.as_uuid()).bind(*state as i16).bind(now);
        query.execute(&mut **tx).await?;
    }
    Ok(())
}
