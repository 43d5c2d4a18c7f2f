//! What many agents should have, written at once. Apart from whole rows, because a change of a policy writes it for every
//! agent of the fleet: sending less to the server, and comparing nothing there, makes that several times as fast.

use sqlx::types::Uuid;

use super::Tx;
use crate::{model::UnixMs, store::DesiredWrite};

const WRITE: &str = "
    UPDATE agents SET
        version = agents.version + 1, desired_config = n.desired_config, desired_generation = n.desired_generation,
        desired_epoch = n.desired_epoch, quarantined = n.quarantined, offered_at_unix_ms = n.offered_at_unix_ms,
        offer_attempts = n.offer_attempts
    FROM UNNEST(
        $1::uuid[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bigint[], $8::integer[]
    ) AS n (
        uid, version, desired_config, desired_generation, desired_epoch, quarantined, offered_at_unix_ms,
        offer_attempts
    )
    WHERE agents.uid = n.uid AND agents.version = n.version
    RETURNING agents.uid";

/// The uids of those that were written.
pub(super) async fn write(tx: &mut Tx, agents: &[&DesiredWrite]) -> sqlx::Result<Vec<Uuid>> {
    let desired = || agents.iter().map(|agent| &agent.desired);
    let uid: Vec<Uuid> = agents.iter().map(|agent| agent.uid.as_uuid()).collect();
    let version: Vec<i64> = agents.iter().map(|agent| agent.version).collect();
    let config: Vec<Option<&[u8]>> = desired().map(|desired| desired.config.as_ref().map(|hash| &hash.0[..])).collect();
    let generation: Vec<i64> = desired().map(|desired| desired.generation.cast_signed()).collect();
    let epoch: Vec<i64> = desired().map(|desired| desired.epoch.cast_signed()).collect();
    let quarantined: Vec<Option<&[u8]>> =
        desired().map(|desired| desired.quarantined.as_ref().map(|hash| &hash.0[..])).collect();
    let offered_at: Vec<Option<UnixMs>> = desired().map(|desired| desired.offered_at).collect();
    let attempts: Vec<i32> = desired().map(|desired| i32::from(desired.offer_attempts)).collect();
    let query = sqlx::query_scalar(WRITE).bind(uid).bind(version).bind(config).bind(generation).bind(epoch);
    query.bind(quarantined).bind(offered_at).bind(attempts).fetch_all(&mut **tx).await
}
