//! Counts over all agents. Each is one pass over the table: there is no index to count by, on purpose.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;

use super::{Backend, Tx};
use crate::{
    model::{
        policy::PolicyKind,
        status::{Status, status},
    },
    store::{FleetSummary, Result, VersionCount, row},
};

const MAX_VERSIONS: i64 = 100;

#[derive(sqlx::FromRow)]
struct CountRow {
    agents: i64,
    connected: i64,
    healthy: i64,
    unhealthy: i64,
    unset: i64,
    applied: i64,
    applying: i64,
    failed: i64,
    desired: i64,
    converged: i64,
}

pub(super) async fn summary(store: &Backend) -> Result<FleetSummary> {
    let mut tx = store.snapshot().await?;
    let counts = counts(&mut tx).await?;
    let versions = versions(&mut tx).await?;
    let gateways = gateways(&mut tx).await?;
    let statuses = statuses(&mut tx).await?;
    tx.commit().await?;
    Ok(FleetSummary { versions, gateways, statuses, ..counts })
}

async fn counts(tx: &mut Tx) -> Result<FleetSummary> {
    // The numbers are those of `OfferStatus`.
    let statement = "SELECT count(*) AS agents,
            count(*) FILTER (WHERE connected) AS connected,
            count(*) FILTER (WHERE connected AND healthy) AS healthy,
            count(*) FILTER (WHERE connected AND NOT healthy) AS unhealthy,
            count(*) FILTER (WHERE config_status = 0) AS unset,
            count(*) FILTER (WHERE config_status = 1) AS applied,
            count(*) FILTER (WHERE config_status = 2) AS applying,
            count(*) FILTER (WHERE config_status = 3) AS failed,
            count(desired_config) AS desired,
            count(*) FILTER (WHERE desired_config = reported_config_hash AND config_status = 1) AS converged
        FROM agents";
    let row: CountRow = sqlx::query_as(statement).fetch_one(&mut **tx).await?;
    Ok(FleetSummary {
        agents: row.agents.cast_unsigned(),
        connected: row.connected.cast_unsigned(),
        healthy: row.healthy.cast_unsigned(),
        unhealthy: row.unhealthy.cast_unsigned(),
        config_unset: row.unset.cast_unsigned(),
        config_applied: row.applied.cast_unsigned(),
        config_applying: row.applying.cast_unsigned(),
        config_failed: row.failed.cast_unsigned(),
        desired: row.desired.cast_unsigned(),
        converged: row.converged.cast_unsigned(),
        ..FleetSummary::default()
    })
}

async fn versions(tx: &mut Tx) -> Result<Vec<VersionCount>> {
    let statement = "SELECT service_name, service_version, count(*) FROM agents
        GROUP BY service_name, service_version
        ORDER BY count(*) DESC, service_name, service_version LIMIT $1";
    let rows: Vec<(String, String, i64)> = sqlx::query_as(statement).bind(MAX_VERSIONS).fetch_all(&mut **tx).await?;
    let version = |(service_name, service_version, agents): (String, String, i64)| VersionCount {
        service_name,
        service_version,
        agents: agents.cast_unsigned(),
    };
    Ok(rows.into_iter().map(version).collect())
}

/// What [`status`] looks at: agents that are alike in it are counted by the database, so that as few as possible come here.
async fn statuses(tx: &mut Tx) -> Result<BTreeMap<(PolicyKind, Status), u64>> {
    let statement =
        "SELECT connected, healthy, capabilities, config_status, reported_config_hash, desired_config, quarantined,
            offered_at_unix_ms IS NOT NULL AS is_offered, more, count(*) AS agents
        FROM agents
        GROUP BY connected, healthy, capabilities, config_status, reported_config_hash, desired_config, quarantined,
            offered_at_unix_ms IS NOT NULL, more";
    let mut counts = BTreeMap::new();
    let mut rows = sqlx::query_as::<_, row::AlikeRow>(statement).fetch(&mut **tx);
    while let Some(row) = rows.try_next().await? {
        let agents = row.agents.cast_unsigned();
        let agent = row.try_into()?;
        for kind in PolicyKind::ALL {
            *counts.entry((kind, status(&agent, kind))).or_default() += agents;
        }
    }
    Ok(counts)
}

pub(super) async fn gateways_in_use(store: &Backend) -> Result<Vec<(String, u64)>> {
    let mut tx = store.snapshot().await?;
    let gateways = gateways(&mut tx).await?;
    tx.commit().await?;
    Ok(gateways)
}

async fn gateways(tx: &mut Tx) -> Result<Vec<(String, u64)>> {
    let statement = "SELECT gateway, count(*) FROM agents WHERE connected
        GROUP BY gateway ORDER BY count(*) DESC, gateway";
    let rows: Vec<(String, i64)> = sqlx::query_as(statement).fetch_all(&mut **tx).await?;
    Ok(rows.into_iter().map(|(gateway, agents)| (gateway, agents.cast_unsigned())).collect())
}
