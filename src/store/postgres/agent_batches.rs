//! Agents, many at a time: one statement a batch, whatever its size.

use bytes::Bytes;
use uuid::Uuid;

use super::{Backend, Tx, content_batches, desired, news_batches};
use crate::{
    model::{AgentRecord, ContentHash, InstanceUid, UnixMs, uid::Shard},
    store::{
        DesiredWrite, News, Result,
        batch::Batch,
        more,
        row::{self, AgentRow, agent_columns},
    },
};

pub(super) async fn read(store: &Backend, uids: &[InstanceUid]) -> Result<Vec<AgentRecord>> {
    const READ: &str = concat!("SELECT ", agent_columns!(), " FROM agents WHERE uid = ANY($1)");
    let uids: Vec<Uuid> = uids.iter().map(InstanceUid::as_uuid).collect();
    let rows: Vec<AgentRow> = sqlx::query_as(READ).bind(uids).fetch_all(store.reader()).await?;
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
    lock(&mut tx, &batch.shards()).await?;
    content_batches::put(&mut tx, bodies).await?;
    let mut written = Columns::of(&batch.agents).write(&mut tx).await?;
    written.sort_unstable();
    let news: Vec<_> = news.iter().filter(|news| written.binary_search(&news.uid.as_uuid()).is_ok()).collect();
    news_batches::write(&mut tx, &news).await?;
    tx.commit().await?;
    Ok(batch.not_written(|uid| written.binary_search(&uid.as_uuid()).is_ok()))
}

pub(super) async fn write_desired(store: &Backend, agents: &[DesiredWrite]) -> Result<Vec<InstanceUid>> {
    let batch = Batch::new(agents);
    let mut tx = store.begin().await?;
    lock(&mut tx, &batch.shards()).await?;
    let mut written = desired::write(&mut tx, &batch.agents).await?;
    tx.commit().await?;
    written.sort_unstable();
    Ok(batch.not_written(|uid| written.binary_search(&uid.as_uuid()).is_ok()))
}

/// Whoever writes several agents at once holds their shards, taken in order, until the end of the transaction: without
/// that two writers of the same rows can deadlock, for Postgres may meet the rows of a batch in any order. As a rule a
/// shard has one writer anyway. (Locking each row in order would do as well, at the price of a third more log.)
async fn lock(tx: &mut Tx, shards: &[Shard]) -> sqlx::Result<()> {
    /// Tells these advisory locks from others; any number.
    const SHARD_LOCKS: i32 = 0x6d75_7374;
    let shards: Vec<i32> = shards.iter().copied().map(i32::from).collect();
    let statement = "SELECT pg_advisory_xact_lock($1, shard) FROM UNNEST($2::integer[]) AS shard";
    sqlx::query(statement).bind(SHARD_LOCKS).bind(shards).execute(&mut **tx).await?;
    Ok(())
}

/// For a statement that writes several agents of a shard.
pub(super) async fn lock_shard(tx: &mut Tx, shard: Shard) -> sqlx::Result<()> {
    lock(tx, &[shard]).await
}

/// New rows are inserted or left alone, known rows updated if their version is the given one: an update for conflicts
/// in the insert, even one that changes nothing, would lock the row and write to the log.
///
/// Description, health and what is in `more` are large and mostly unchanged. Setting a column to what it holds, rather than to an equal
/// value, keeps Postgres from compressing and storing it again.
const WRITE: &str = "
    WITH incoming AS (
        SELECT * FROM UNNEST(
            $1::uuid[], $2::bigint[], $3::smallint[], $4::bigint[], $5::boolean[], $6::bytea[], $7::text[], $8::text[],
            $9::bigint[], $10::bytea[], $11::boolean[], $12::bytea[], $13::smallint[], $14::bytea[], $15::bytea[],
            $16::boolean[], $17::smallint[], $18::text[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[],
            $23::bytea[], $24::bigint[], $25::bigint[], $26::bytea[], $27::bigint[], $28::integer[], $29::bytea[],
            $30::boolean[]
        ) AS t (
            uid, version, shard, first_seen_unix_ms, complete, description, service_name, service_version,
            capabilities, health, healthy, effective_config, config_status, reported_config_hash, config_error,
            connected, transport, gateway, connection_generation, report_number, sequence_num, last_seen_unix_ms,
            desired_config, desired_generation, desired_epoch, quarantined, offered_at_unix_ms, offer_attempts, more,
            more_behind
        )
    ), inserted AS (
        INSERT INTO agents (
            uid, version, labels, shard, first_seen_unix_ms, complete, description, service_name, service_version,
            capabilities, health, healthy, effective_config, config_status, reported_config_hash, config_error,
            connected, transport, gateway, connection_generation, report_number, sequence_num, last_seen_unix_ms,
            desired_config, desired_generation, desired_epoch, quarantined, offered_at_unix_ms, offer_attempts, more,
            more_behind
        )
        SELECT
            uid, 1, '{}', shard, first_seen_unix_ms, complete, description, service_name, service_version,
            capabilities, health, healthy, effective_config, config_status, reported_config_hash, config_error,
            connected, transport, gateway, connection_generation, report_number, sequence_num, last_seen_unix_ms,
            desired_config, desired_generation, desired_epoch, quarantined, offered_at_unix_ms, offer_attempts, more,
            more_behind
        FROM incoming WHERE version = 0
        ON CONFLICT (uid) DO NOTHING
        RETURNING uid
    ), updated AS (
        UPDATE agents SET
            version = agents.version + 1, complete = n.complete,
            description = CASE WHEN agents.description = n.description THEN agents.description ELSE n.description END,
            service_name = n.service_name, service_version = n.service_version, capabilities = n.capabilities,
            health = CASE WHEN agents.health = n.health THEN agents.health ELSE n.health END, healthy = n.healthy,
            effective_config = n.effective_config, config_status = n.config_status,
            reported_config_hash = n.reported_config_hash, config_error = n.config_error, connected = n.connected,
            transport = n.transport, gateway = n.gateway, connection_generation = n.connection_generation,
            report_number = n.report_number, sequence_num = n.sequence_num, last_seen_unix_ms = n.last_seen_unix_ms,
            desired_config = n.desired_config, desired_generation = n.desired_generation,
            desired_epoch = n.desired_epoch, quarantined = n.quarantined, offered_at_unix_ms = n.offered_at_unix_ms,
            offer_attempts = n.offer_attempts, more_behind = n.more_behind,
            more = CASE WHEN agents.more = n.more THEN agents.more ELSE n.more END
        FROM incoming AS n WHERE n.version > 0 AND agents.uid = n.uid AND agents.version = n.version
        RETURNING agents.uid
    )
    SELECT uid FROM inserted UNION ALL SELECT uid FROM updated";

/// The rows of a batch as one array a column, in the order of [`WRITE`]'s parameters.
#[derive(Default)]
struct Columns<'a> {
    uid: Vec<Uuid>,
    version: Vec<i64>,
    shard: Vec<i16>,
    first_seen: Vec<UnixMs>,
    complete: Vec<bool>,
    description: Vec<&'a [u8]>,
    service_name: Vec<String>,
    service_version: Vec<String>,
    capabilities: Vec<i64>,
    health: Vec<&'a [u8]>,
    healthy: Vec<Option<bool>>,
    effective_config: Vec<Option<&'a [u8]>>,
    config_status: Vec<i16>,
    reported_config_hash: Vec<&'a [u8]>,
    config_error: Vec<&'a [u8]>,
    connected: Vec<bool>,
    transport: Vec<i16>,
    gateway: Vec<&'a str>,
    connection_generation: Vec<i64>,
    report_number: Vec<i64>,
    sequence_num: Vec<i64>,
    last_seen: Vec<UnixMs>,
    desired_config: Vec<Option<&'a [u8]>>,
    desired_generation: Vec<i64>,
    desired_epoch: Vec<i64>,
    quarantined: Vec<Option<&'a [u8]>>,
    offered_at: Vec<Option<UnixMs>>,
    offer_attempts: Vec<i32>,
    more: Vec<Vec<u8>>,
    more_behind: Vec<bool>,
}

impl<'a> Columns<'a> {
    fn of(agents: &[&'a AgentRecord]) -> Self {
        let mut columns = Self::default();
        for agent in agents {
            columns.push(agent);
        }
        columns
    }

    fn push(&mut self, agent: &'a AgentRecord) {
        let AgentRecord { uid, version, observed, presence, desired, first_seen, labels: _ } = agent;
        let (service_name, service_version) = row::service(&observed.description);
        self.uid.push(uid.as_uuid());
        self.version.push(*version);
        self.shard.push(uid.shard().cast_signed());
        self.first_seen.push(*first_seen);
        self.complete.push(observed.complete);
        self.description.push(&observed.description);
        self.service_name.push(service_name);
        self.service_version.push(service_version);
        self.capabilities.push(observed.capabilities.cast_signed());
        self.health.push(&observed.health);
        self.healthy.push(observed.healthy);
        self.effective_config.push(bytes(&observed.effective_config));
        self.config_status.push(observed.config.status as i16);
        self.reported_config_hash.push(&observed.config.hash);
        self.config_error.push(observed.config.error.as_bytes());
        self.connected.push(presence.connected);
        self.transport.push(presence.transport as i16);
        self.gateway.push(&presence.gateway);
        self.connection_generation.push(presence.connection_generation.cast_signed());
        self.report_number.push(presence.report_number.cast_signed());
        self.sequence_num.push(presence.sequence_num.cast_signed());
        self.last_seen.push(presence.last_seen);
        self.desired_config.push(bytes(&desired.config.hash));
        self.desired_generation.push(desired.config.generation.cast_signed());
        self.desired_epoch.push(desired.epoch.cast_signed());
        self.quarantined.push(bytes(&desired.config.quarantined));
        self.offered_at.push(desired.config.offered_at);
        self.offer_attempts.push(i32::from(desired.config.offer_attempts));
        self.more.push(more::encode(observed, desired));
        self.more_behind.push(more::is_behind(agent));
    }

    async fn write(self, tx: &mut Tx) -> sqlx::Result<Vec<Uuid>> {
        let query = sqlx::query_scalar(WRITE)
            .bind(self.uid)
            .bind(self.version)
            .bind(self.shard)
            .bind(self.first_seen)
            .bind(self.complete)
            .bind(self.description)
            .bind(self.service_name)
            .bind(self.service_version)
            .bind(self.capabilities)
            .bind(self.health)
            .bind(self.healthy)
            .bind(self.effective_config)
            .bind(self.config_status)
            .bind(self.reported_config_hash)
            .bind(self.config_error)
            .bind(self.connected)
            .bind(self.transport)
            .bind(self.gateway)
            .bind(self.connection_generation)
            .bind(self.report_number)
            .bind(self.sequence_num)
            .bind(self.last_seen)
            .bind(self.desired_config)
            .bind(self.desired_generation)
            .bind(self.desired_epoch)
            .bind(self.quarantined)
            .bind(self.offered_at)
            .bind(self.offer_attempts)
            .bind(self.more)
            .bind(self.more_behind);
        query.fetch_all(&mut **tx).await
    }
}

fn bytes(hash: &Option<ContentHash>) -> Option<&[u8]> {
    hash.as_ref().map(|hash| &hash.0[..])
}
