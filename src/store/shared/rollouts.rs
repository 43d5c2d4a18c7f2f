//! Rollouts. Whatever changes what agents should have takes its turn on the epoch's row, as changes of policies do.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use super::{Backend, Tx, audit, counters, observed};
use crate::{
    model::{
        UnixMs,
        policy::Policy,
        rollout::{Counts, Plan, Rollout, State},
    },
    store::{Actor, Error, Lease, ROLLOUT_LEASE, Result, RolloutStore, row},
};

#[derive(FromRow)]
struct RolloutRow {
    id: Uuid,
    policy: String,
    kind: String,
    revision: i64,
    stable: i64,
    plan: Json<StoredPlan>,
    at_once: bool,
    state: String,
    step: i32,
    threshold: i64,
    step_since_unix_ms: UnixMs,
    since_unix_ms: UnixMs,
    forgiven: i64,
    reason: String,
    author: String,
    created_unix_ms: UnixMs,
    ended_unix_ms: Option<UnixMs>,
    version: i64,
    counts: Json<Counts>,
    seen_unix_ms: Option<UnixMs>,
}

/// The plan, and beside it what has been added since the table was made.
#[derive(Serialize, Deserialize)]
struct StoredPlan {
    #[serde(flatten)]
    plan: Plan,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    besides: Vec<u64>,
}

impl StoredPlan {
    fn of(rollout: &Rollout) -> Self {
        Self { plan: rollout.plan.clone(), besides: rollout.besides.clone() }
    }
}

macro_rules! select_rollouts {
    ($rest:literal) => {
        concat!(
            "SELECT o.id, o.policy, p.kind, o.revision, o.stable, o.plan, o.at_once, o.state, o.step, o.threshold,
                o.step_since_unix_ms, o.since_unix_ms, o.forgiven, o.reason, o.author, o.created_unix_ms, o.ended_unix_ms,
                o.version, o.counts, o.seen_unix_ms
             FROM rollouts o JOIN policies p ON p.name = o.policy ",
            $rest
        )
    };
}

impl TryFrom<RolloutRow> for Rollout {
    type Error = Error;

    fn try_from(row: RolloutRow) -> Result<Self> {
        let state = State::from_name(&row.state);
        Ok(Self {
            id: row.id,
            kind: row::kind(&row.kind)?,
            revision: row.revision.cast_unsigned(),
            stable: row.stable.cast_unsigned(),
            plan: row.plan.0.plan,
            besides: row.plan.0.besides,
            at_once: row.at_once,
            state: state.ok_or_else(|| Error::damaged("rollout", format!("state {:?}", row.state)))?,
            step: row.step.cast_unsigned(),
            threshold: row.threshold.cast_unsigned(),
            step_since: row.step_since_unix_ms,
            since: row.since_unix_ms,
            forgiven: row.forgiven.cast_unsigned(),
            reason: row.reason,
            author: row.author,
            created_at: row.created_unix_ms,
            ended_at: row.ended_unix_ms,
            version: row.version,
            counts: row.counts.0,
            seen_at: row.seen_unix_ms,
            policy: row.policy,
        })
    }
}

#[async_trait]
impl RolloutStore for Backend {
    async fn open_rollouts(&self) -> Result<Vec<Rollout>> {
        observed("open_rollouts", self.limit(), async {
            let mut connection = self.reader().acquire().await?;
            open(&mut connection).await
        })
        .await
    }

    async fn get_rollout(&self, policy: &str) -> Result<Rollout> {
        observed("get_rollout", self.limit(), async {
            let found = self.list_rollouts(Some(policy), None, 1).await?.pop();
            found.ok_or_else(|| Error::not_found("rollout of policy", policy))
        })
        .await
    }

    async fn list_rollouts(&self, policy: Option<&str>, before: Option<Uuid>, limit: u32) -> Result<Vec<Rollout>> {
        observed("list_rollouts", self.limit(), list(self, policy, before, limit)).await
    }

    async fn write_rollout(&self, next: &Rollout, lease: Option<Lease>, actor: &Actor) -> Result<bool> {
        observed("write_rollout", self.limit(), write(self, next, lease, actor)).await
    }

    async fn note_rollout(&self, id: Uuid, version: i64, counts: &Counts, seen_at: UnixMs) -> Result<()> {
        observed("note_rollout", self.limit(), note(self, id, version, counts, seen_at)).await
    }

    async fn take_lease(&self, name: &str, holder: &str, now: UnixMs, ms: i64) -> Result<Option<Lease>> {
        observed("take_lease", self.limit(), take_lease(self, name, holder, now, ms)).await
    }
}

pub(super) async fn open(connection: &mut super::Connection) -> Result<Vec<Rollout>> {
    let query = sqlx::query_as(select_rollouts!("WHERE o.ended_unix_ms IS NULL ORDER BY o.id"));
    let rows: Vec<RolloutRow> = query.fetch_all(connection).await?;
    rows.into_iter().map(Rollout::try_from).collect()
}

async fn list(store: &Backend, policy: Option<&str>, before: Option<Uuid>, limit: u32) -> Result<Vec<Rollout>> {
    let before = before.unwrap_or(Uuid::max());
    let rows: Vec<RolloutRow> = match policy {
        Some(policy) => {
            let query =
                sqlx::query_as(select_rollouts!("WHERE o.policy = $1 AND o.id < $2 ORDER BY o.id DESC LIMIT $3"));
            query.bind(policy).bind(before).bind(i64::from(limit)).fetch_all(store.reader()).await?
        }
        None => {
            let query = sqlx::query_as(select_rollouts!("WHERE o.id < $1 ORDER BY o.id DESC LIMIT $2"));
            query.bind(before).bind(i64::from(limit)).fetch_all(store.reader()).await?
        }
    };
    rows.into_iter().map(Rollout::try_from).collect()
}

/// Begins the rollout of a policy's new revision, in place of one that is in flight.
pub(super) async fn begin(tx: &mut Tx, policy: &Policy, stable: u64, actor: &Actor) -> Result<()> {
    let Policy { name, kind, revision, .. } = policy;
    let statement =
        "UPDATE rollouts SET state = $2, reason = $3, ended_unix_ms = $4, since_unix_ms = $4, version = version + 1
        WHERE policy = $1 AND ended_unix_ms IS NULL";
    sqlx::query(statement)
        .bind(name)
        .bind(State::Aborted.name())
        .bind(format!("revision {} took its place", revision.number))
        .bind(actor.now)
        .execute(&mut **tx)
        .await?;
    let plan = revision.content.plan.as_ref();
    let rollout =
        Rollout::new(Uuid::now_v7(), name, *kind, (stable, revision.number), plan).made_by(&actor.name, actor.now);
    let statement = "INSERT INTO rollouts (id, policy, revision, stable, plan, at_once, state, step, threshold,
            step_since_unix_ms, since_unix_ms, forgiven, reason, author, created_unix_ms, version, counts)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";
    sqlx::query(statement)
        .bind(rollout.id)
        .bind(&rollout.policy)
        .bind(rollout.revision.cast_signed())
        .bind(rollout.stable.cast_signed())
        .bind(Json(StoredPlan::of(&rollout)))
        .bind(rollout.at_once)
        .bind(rollout.state.name())
        .bind(rollout.step.cast_signed())
        .bind(rollout.threshold.cast_signed())
        .bind(rollout.step_since)
        .bind(rollout.since)
        .bind(rollout.forgiven.cast_signed())
        .bind(&rollout.reason)
        .bind(&rollout.author)
        .bind(rollout.created_at)
        .bind(rollout.version)
        .bind(Json(&rollout.counts))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn write(store: &Backend, next: &Rollout, lease: Option<Lease>, actor: &Actor) -> Result<bool> {
    let mut tx = store.begin().await?;
    // First, as those do that apply policies.
    let epoch = counters::bump(&mut tx, counters::POLICY_EPOCH).await?;
    if let Some(Lease { token }) = lease {
        // Holds it until the end of the transaction.
        let statement = "UPDATE leases SET token = token WHERE name = $1 AND token = $2";
        let held = sqlx::query(statement).bind(ROLLOUT_LEASE).bind(token.cast_signed()).execute(&mut *tx).await?;
        if held.rows_affected() == 0 {
            return Ok(false);
        }
    }
    let query = sqlx::query_as(select_rollouts!("WHERE o.id = $1 AND o.version = $2"));
    let before: Option<RolloutRow> = query.bind(next.id).bind(next.version - 1).fetch_optional(&mut *tx).await?;
    let Some(before) = before.map(Rollout::try_from).transpose()? else { return Ok(false) };
    let statement =
        "UPDATE rollouts SET state = $2, step = $3, threshold = $4, step_since_unix_ms = $5, since_unix_ms = $6,
            forgiven = $7, reason = $8, ended_unix_ms = $9, version = $10, counts = $11, plan = $12
        WHERE id = $1 AND version = $10 - 1";
    let written = sqlx::query(statement)
        .bind(next.id)
        .bind(next.state.name())
        .bind(next.step.cast_signed())
        .bind(next.threshold.cast_signed())
        .bind(next.step_since)
        .bind(next.since)
        .bind(next.forgiven.cast_signed())
        .bind(&next.reason)
        .bind(next.ended_at)
        .bind(next.version)
        .bind(Json(&next.counts))
        .bind(Json(StoredPlan::of(next)))
        .execute(&mut *tx)
        .await?;
    if written.rows_affected() == 0 {
        return Ok(false);
    }
    if next.state == State::Succeeded && !next.at_once {
        // Null if it is the newest, which it is: applying another would have ended the rollout.
        sqlx::query("UPDATE policies SET stable = NULL WHERE name = $1").bind(&next.policy).execute(&mut *tx).await?;
    }
    let is_paused = |rollout: &Rollout| rollout.state == State::Paused;
    let reach = |rollout: &Rollout| {
        (rollout.divides(), is_paused(rollout), rollout.step, rollout.threshold, rollout.step_since)
    };
    let is_moved = reach(&before) != reach(next);
    let detail =
        json!({ "revision": next.revision, "state": next.state.name(), "step": next.step, "reason": next.reason });
    audit::record(&mut tx, actor, "rollout.change", &next.policy, detail).await?;
    if !is_moved {
        // Nobody's desired state is touched: the epoch stays.
        let statement = "UPDATE counters SET value = $2 WHERE name = $1";
        sqlx::query(statement).bind(counters::POLICY_EPOCH).bind((epoch - 1).cast_signed()).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(true)
}

async fn note(store: &Backend, id: Uuid, version: i64, counts: &Counts, seen_at: UnixMs) -> Result<()> {
    let mut tx = store.begin().await?;
    let statement = "UPDATE rollouts SET counts = $3, seen_unix_ms = $4 WHERE id = $1 AND version = $2";
    sqlx::query(statement).bind(id).bind(version).bind(Json(counts)).bind(seen_at).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

async fn take_lease(store: &Backend, name: &str, holder: &str, now: UnixMs, ms: i64) -> Result<Option<Lease>> {
    let mut tx = store.begin().await?;
    let statement = "INSERT INTO leases (name, holder, token, expires_unix_ms) VALUES ($1, $2, 1, $4)
        ON CONFLICT (name) DO UPDATE SET
            token = CASE WHEN leases.holder = excluded.holder THEN leases.token ELSE leases.token + 1 END,
            holder = excluded.holder,
            expires_unix_ms = excluded.expires_unix_ms
        WHERE leases.holder = excluded.holder OR leases.expires_unix_ms <= $3
        RETURNING token";
    let query = sqlx::query_as(statement).bind(name).bind(holder).bind(now).bind(now.saturating_add(ms));
    let token: Option<(i64,)> = query.fetch_optional(&mut *tx).await?;
    tx.commit().await?;
    Ok(token.map(|(token,)| Lease { token: token.cast_unsigned() }))
}
