//! What many agents should have, written at once. Apart from whole rows, because a change of a policy writes it for every
//! agent of the fleet: sending less to the server, and comparing nothing there, makes that several times as fast.

use sqlx::types::Uuid;

use super::Tx;
use crate::{model::UnixMs, store::DesiredWrite};

const WRITE: &str = "
    UPDATE agents SET
        version = agents.version + 1, desired_config = n.desired_config, desired_generation = n.desired_generation,
        desired_epoch = n.desired_epoch, quarantined = n.quarantined, offered_at_unix_ms = n.offered_at_unix_ms,
        offer_attempts = n.offer_attempts, more_behind = n.more_behind,
        more = CASE WHEN agents.more = n.more THEN agents.more ELSE n.more END
    FROM UNNEST(
        $1::uuid[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bigint[], $8::integer[],
        $9::bytea[], $10::boolean[]
    ) AS n (
        uid, version, desired_config, desired_generation, desired_epoch, quarantined, offered_at_unix_ms,
        offer_attempts, more, more_behind
    )
    WHERE agents.uid = n.uid AND agents.version = n.version
    RETURNING agents.uid";

/// The uids of those that were written.
pub(super) async fn write(tx: &mut Tx, agents: &[&DesiredWrite]) -> sqlx::Result<Vec<Uuid>> {
    let config = || agents.iter().map(|agent| &agent.desired.config);
    let uid: Vec<Uuid> = agents.iter().map(|agent| agent.uid.as_uuid()).collect();
    let version: Vec<i64> = agents.iter().map(|agent| agent.version).collect();
    let hash: Vec<Option<&[u8]>> = config().map(|config| config.hash.as_ref().map(|hash| &hash.0[..])).collect();
    let generation: Vec<i64> = config().map(|config| config.generation.cast_signed()).collect();
    let epoch: Vec<i64> = agents.iter().map(|agent| agent.desired.epoch.cast_signed()).collect();
    let quarantined: Vec<Option<&[u8]>> =
        config().map(|config| config.quarantined.as_ref().map(|hash| &hash.0[..])).collect();
    let offered_at: Vec<Option<UnixMs>> = config().map(|config| config.offered_at).collect();
    let attempts: Vec<i32> = config().map(|config| i32::from(config.offer_attempts)).collect();
    let more: Vec<&[u8]> = agents.iter().map(|agent| &agent.more[..]).collect();
    let more_behind: Vec<bool> = agents.iter().map(|agent| agent.more_behind).collect();
    let query = sqlx::query_scalar(WRITE).bind(uid).bind(version).bind(hash).bind(generation).bind(epoch);
    query.bind(quarantined).bind(offered_at).bind(attempts).bind(more).bind(more_behind).fetch_all(&mut **tx).await
}
