//! Agents, many at a time. Whole rows one statement each: in one process and one transaction that is fast enough.

use std::collections::HashSet;

use bytes::Bytes;
use sqlx::types::{Json, Uuid};

use super::{Backend, Tx, content_batches, news_batches};
use crate::{
    model::{AgentRecord, ContentHash, InstanceUid, Labels, agent::Wanted, uid::Shard},
    store::{
        DesiredWrite, News, Result,
        batch::Batch,
        more,
        row::{self, AgentRow, agent_columns},
    },
};

pub(super) async fn read(store: &Backend, uids: &[InstanceUid]) -> Result<Vec<AgentRecord>> {
    const READ: &str =
        concat!("SELECT ", agent_columns!(), " FROM agents WHERE uid IN (SELECT unhex(value) FROM json_each($1))");
    let uids: Vec<_> = uids.iter().map(|uid| hex::encode(uid.as_bytes())).collect();
    let rows: Vec<AgentRow> = sqlx::query_as(READ).bind(Json(uids)).fetch_all(store.reader()).await?;
    row::agents(rows)
}

pub(super) async fn write(
    store: &Backend,
    agents: &[AgentRecord],
    bodies: &[(ContentHash, Bytes)],
    news: &[News],
) -> Result<Vec<InstanceUid>> {
    let batch = Batch::new(agents);
    let mut tx = store.begin().await?;
    content_batches::put(&mut tx, bodies).await?;
    let mut written = HashSet::new();
    for agent in &batch.agents {
        let statement = if agent.version == 0 { INSERT } else { UPDATE };
        if write_one(&mut tx, statement, agent).await? {
            written.insert(agent.uid);
        }
    }
    let news: Vec<_> = news.iter().filter(|news| written.contains(&news.uid)).collect();
    news_batches::write(&mut tx, &news).await?;
    tx.commit().await?;
    Ok(batch.not_written(|uid| written.contains(&uid)))
}

/// In one statement: each one costs more than what it does here, and a change of a policy writes every agent.
pub(super) async fn write_desired(store: &Backend, agents: &[DesiredWrite]) -> Result<Vec<InstanceUid>> {
    const UPDATE: &str = "
        UPDATE agents SET version = version + 1, desired_config = unhex(n.value ->> 2), desired_generation = n.value ->> 3,
            desired_epoch = n.value ->> 4, quarantined = unhex(n.value ->> 5), offered_at_unix_ms = n.value ->> 6,
            offer_attempts = n.value ->> 7, more = unhex(n.value ->> 8), more_behind = n.value ->> 9
        FROM json_each($1) AS n WHERE uid = unhex(n.value ->> 0) AND version = n.value ->> 1
        RETURNING uid";
    let batch = Batch::new(agents);
    let hash = |hash: Option<ContentHash>| hash.map(|hash| hex::encode(hash.0));
    let rows = batch.agents.iter().map(|DesiredWrite { uid, version, desired, more, more_behind }| {
        let Wanted { hash: config, generation, quarantined, offered_at, offer_attempts, .. } = &desired.config;
        let numbers = (generation.cast_signed(), desired.epoch.cast_signed());
        let uid = hex::encode(uid.as_bytes());
        let offers = (offered_at, offer_attempts);
        let more = (hex::encode(more), more_behind);
        (uid, version, hash(*config), numbers.0, numbers.1, hash(*quarantined), offers.0, offers.1, more.0, more.1)
    });
    let mut tx = store.begin().await?;
    let written: Vec<Uuid> =
        sqlx::query_scalar(UPDATE).bind(Json(rows.collect::<Vec<_>>())).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let written: HashSet<Uuid> = written.into_iter().collect();
    Ok(batch.not_written(|uid| written.contains(&uid.as_uuid())))
}

const INSERT: &str = "
    INSERT INTO agents (uid, version, complete, description, service_name, service_version, capabilities, health,
        healthy, effective_config, config_status, reported_config_hash, config_error, connected, transport, gateway,
        connection_generation, report_number, sequence_num, last_seen_unix_ms, desired_config, desired_generation,
        desired_epoch, quarantined, offered_at_unix_ms, offer_attempts, more, more_behind, first_seen_unix_ms, shard, labels)
    VALUES ($1, $2 + 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
        $23, $24, $25, $26, $27, $28, $29, $30, $31)
    ON CONFLICT (uid) DO NOTHING";

const UPDATE: &str = "
    UPDATE agents SET version = version + 1, complete = $3, description = $4, service_name = $5, service_version = $6,
        capabilities = $7, health = $8, healthy = $9, effective_config = $10, config_status = $11,
        reported_config_hash = $12, config_error = $13, connected = $14, transport = $15, gateway = $16,
        connection_generation = $17, report_number = $18, sequence_num = $19, last_seen_unix_ms = $20,
        desired_config = $21, desired_generation = $22, desired_epoch = $23, quarantined = $24,
        offered_at_unix_ms = $25, offer_attempts = $26, more = $27, more_behind = $28
    WHERE uid = $1 AND version = $2";

/// Whether the row was written.
async fn write_one(tx: &mut Tx, statement: &'static str, agent: &AgentRecord) -> Result<bool> {
    let AgentRecord { uid, version, observed, presence, desired, first_seen, labels: _ } = agent;
    let (service_name, service_version) = row::service(&observed.description);
    let hash = |hash: Option<ContentHash>| hash.map(|hash| hash.0.to_vec());
    let mut query = sqlx::query(statement)
        .bind(uid.as_uuid())
        .bind(version)
        .bind(observed.complete)
        .bind(&observed.description[..])
        .bind(service_name)
        .bind(service_version)
        .bind(observed.capabilities.cast_signed())
        .bind(&observed.health[..])
        .bind(observed.healthy)
        .bind(hash(observed.effective_config))
        .bind(observed.config.status as i16)
        .bind(&observed.config.hash[..])
        .bind(observed.config.error.as_bytes())
        .bind(presence.connected)
        .bind(presence.transport as i16)
        .bind(&presence.gateway)
        .bind(presence.connection_generation.cast_signed())
        .bind(presence.report_number.cast_signed())
        .bind(presence.sequence_num.cast_signed())
        .bind(presence.last_seen)
        .bind(hash(desired.config.hash))
        .bind(desired.config.generation.cast_signed())
        .bind(desired.epoch.cast_signed())
        .bind(hash(desired.config.quarantined))
        .bind(desired.config.offered_at)
        .bind(i32::from(desired.config.offer_attempts))
        .bind(more::encode(observed, desired))
        .bind(more::is_behind(agent));
    if *version == 0 {
        query = query.bind(first_seen).bind(uid.shard().cast_signed()).bind(Json(Labels::new()));
    }
    Ok(query.execute(&mut **tx).await?.rows_affected() > 0)
}

/// There is one writer at a time as it is.
pub(super) async fn lock_shard(_: &mut Tx, _: Shard) -> sqlx::Result<()> {
    Ok(())
}
