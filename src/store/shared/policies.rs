//! Policies and their revisions. All changes take turns on the epoch's row, so that epochs are in the order in which
//! the changes became visible.

use std::collections::{BTreeSet, HashMap};

use serde_json::json;
use sqlx::types::Json;

use super::{Backend, Tx, audit, contents, counters, package_files, rollouts};
use crate::{
    model::{
        ContentHash,
        desired::{InForce, Part, PolicySet},
        packages,
        policy::{Policy, PolicyKind, PolicyOffer, Revision},
        rendering,
    },
    store::{
        Actor, Applied, ApplyOutcome, ApplyPolicy, Error, Result,
        json::Files,
        plan,
        row::{self, PolicyRow, RevisionRow},
    },
};

macro_rules! revision_columns {
    () => {
        "r.number, r.selector, r.priority, r.files, r.offer, r.allow_empty, r.max_per_second, r.plan, r.author, r.message, \
            r.created_unix_ms"
    };
}

macro_rules! select_policies {
    ($rest:literal) => {
        concat!(
            "SELECT p.name, p.kind, p.changed_epoch, p.stable, p.created_unix_ms AS policy_created_unix_ms, ",
            revision_columns!(),
            " FROM policies p JOIN revisions r ON r.policy = p.name AND ",
            $rest
        )
    };
}

pub(super) async fn apply(store: &Backend, apply: ApplyPolicy, actor: &Actor) -> Result<Applied> {
    let mut tx = store.begin().await?;
    let epoch = counters::bump(&mut tx, counters::POLICY_EPOCH).await?;
    let current = find(&mut tx, &apply.name).await?;
    let stable = current.as_ref().map_or(0, |policy| policy.stable);
    let plan::PolicyPlan { policy, outcome } = plan::apply_policy(current, &apply, epoch, actor)?;
    if outcome != ApplyOutcome::Unchanged {
        contents::put(&mut tx, &apply.bodies).await?;
        hold_files(&mut tx, &policy.revision).await?;
        if !apply.validate_only {
            hold_package_files(&mut tx, &policy.revision).await?;
        }
        write(&mut tx, &policy, epoch).await?;
        rollouts::begin(&mut tx, &policy, stable, actor).await?;
        audit::record(&mut tx, actor, "policy.apply", &policy.name, plan::audit_detail(&policy)).await?;
        if !apply.validate_only {
            tx.commit().await?;
        }
    }
    Ok(Applied { policy, outcome })
}

/// Makes sure that every file's body is stored, and stays until the revision that refers to it is visible.
async fn hold_files(tx: &mut Tx, revision: &Revision) -> Result<()> {
    let hashes: BTreeSet<_> = revision.content.offer.files().map(|(_, file)| file.content).collect();
    for hash in hashes {
        if !contents::hold(tx, hash).await? {
            return Err(Error::not_found("content", hash));
        }
    }
    Ok(())
}

/// Makes sure that uploaded files of packages are there, and stay until the revision that refers to them is visible.
async fn hold_package_files(tx: &mut Tx, revision: &Revision) -> Result<()> {
    let PolicyOffer::Packages(packages) = &revision.content.offer else { return Ok(()) };
    // The same order for all, against deadlocks.
    let hashes: BTreeSet<_> = packages::hosted(packages).collect();
    for hash in hashes {
        if !package_files::hold(tx, hash).await? {
            return Err(Error::not_found("package file", hash));
        }
    }
    Ok(())
}

/// A policy whose newest revision refers to the uploaded file.
pub(super) async fn user_of(tx: &mut Tx, file: ContentHash) -> Result<Option<String>> {
    let rows =
        sqlx::query_as(select_policies!("r.number = p.newest WHERE p.kind = $1")).bind(PolicyKind::Packages.name());
    let policies = policies(rows.fetch_all(&mut **tx).await?)?;
    let uses = |policy: &Policy| match &policy.revision.content.offer {
        PolicyOffer::Packages(packages) => packages::hosted(packages).any(|hosted| hosted == file),
        _ => false,
    };
    Ok(policies.into_iter().find(uses).map(|policy| policy.name))
}

async fn write(tx: &mut Tx, policy: &Policy, epoch: u64) -> Result<()> {
    let Policy { name, kind, revision, .. } = policy;
    let statement = "INSERT INTO policies (name, kind, newest, changed_epoch, created_unix_ms, stable)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (name) DO UPDATE SET
            newest = excluded.newest, changed_epoch = excluded.changed_epoch, stable = excluded.stable";
    sqlx::query(statement)
        .bind(name)
        .bind(kind.name())
        .bind(revision.number.cast_signed())
        .bind(epoch.cast_signed())
        .bind(policy.created_at)
        .bind((policy.stable != revision.number).then_some(policy.stable.cast_signed()))
        .execute(&mut **tx)
        .await?;
    let content = &revision.content;
    let statement = "INSERT INTO revisions
        (policy, number, selector, priority, files, offer, allow_empty, max_per_second, author, created_unix_ms, plan,
         message)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    sqlx::query(statement)
        .bind(name)
        .bind(revision.number.cast_signed())
        .bind(content.selector.to_string())
        .bind(content.priority)
        .bind(Json(Files::from(content.offer.files())))
        .bind(row::encoded(&content.offer))
        .bind(content.allow_empty)
        .bind(i64::from(content.max_per_second))
        .bind(&revision.author)
        .bind(revision.created_at)
        .bind(content.plan.as_ref().map(Json))
        .bind(&revision.message)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The revisions go with it; what they were is lost but for the audit log.
pub(super) async fn delete(store: &Backend, name: &str, etag: Option<&str>, actor: &Actor) -> Result<()> {
    let mut tx = store.begin().await?;
    counters::bump(&mut tx, counters::POLICY_EPOCH).await?;
    let policy = find(&mut tx, name).await?.ok_or_else(|| Error::not_found("policy", name))?;
    plan::check_present_etag(&policy, etag)?;
    sqlx::query("DELETE FROM policies WHERE name = $1").bind(name).execute(&mut *tx).await?;
    audit::record(&mut tx, actor, "policy.delete", name, json!({ "revision": policy.revision.number })).await?;
    Ok(tx.commit().await?)
}

async fn find(tx: &mut Tx, name: &str) -> Result<Option<Policy>> {
    let query = sqlx::query_as(select_policies!("r.number = p.newest WHERE p.name = $1")).bind(name);
    query.fetch_optional(&mut **tx).await?.map(|row: PolicyRow| row.try_into()).transpose()
}

pub(super) async fn get(store: &Backend, name: &str) -> Result<Policy> {
    let query = sqlx::query_as(select_policies!("r.number = p.newest WHERE p.name = $1")).bind(name);
    let row: Option<PolicyRow> = query.fetch_optional(store.reader()).await?;
    row.ok_or_else(|| Error::not_found("policy", name))?.try_into()
}

pub(super) async fn list(store: &Backend, after: Option<&str>, limit: u32) -> Result<Vec<Policy>> {
    let query = sqlx::query_as(select_policies!(
        "r.number = p.newest WHERE $1 IS NULL OR p.name > $1 ORDER BY p.name LIMIT $2"
    ));
    policies(query.bind(after).bind(i64::from(limit)).fetch_all(store.reader()).await?)
}

fn policies(rows: Vec<PolicyRow>) -> Result<Vec<Policy>> {
    rows.into_iter().map(Policy::try_from).collect()
}

pub(super) async fn revisions(store: &Backend, name: &str, before: Option<u64>, limit: u32) -> Result<Vec<Revision>> {
    let statement = concat!(
        "SELECT ",
        revision_columns!(),
        " FROM revisions r WHERE r.policy = $1 AND r.number < $2 ORDER BY r.number DESC LIMIT $3"
    );
    let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
    let query = sqlx::query_as(statement).bind(name).bind(before).bind(i64::from(limit));
    let rows: Vec<RevisionRow> = query.fetch_all(store.reader()).await?;
    // Also says if there is no such policy.
    let kind = get(store, name).await?.kind;
    rows.into_iter().map(|row| row.of(kind)).collect()
}

pub(super) async fn set(store: &Backend) -> Result<PolicySet> {
    let mut tx = store.snapshot().await?;
    let epoch = counters::read(&mut tx, counters::POLICY_EPOCH).await?;
    let query = sqlx::query_as(select_policies!("r.number = COALESCE(p.stable, p.newest)"));
    let stable = policies(query.fetch_all(&mut *tx).await?)?;
    let rollouts = rollouts::open(&mut tx).await?;
    let query = sqlx::query_as(select_policies!(
        "r.number = p.newest WHERE EXISTS
            (SELECT 1 FROM rollouts o WHERE o.policy = p.name AND o.ended_unix_ms IS NULL AND NOT o.at_once)"
    ));
    let rolled_out = policies(query.fetch_all(&mut *tx).await?)?;
    tx.commit().await?;
    let (mut in_force, mut cohorts) = (Vec::new(), Vec::new());
    let mut dividing = HashMap::new();
    for rollout in rollouts.iter().filter(|rollout| rollout.divides()) {
        dividing.insert(rollout.policy.as_str(), cohorts.len());
        cohorts.push(rollout.cohort());
    }
    let mut add = |policy: Policy, part: Part| {
        in_force.push(InForce { name: policy.name, kind: policy.kind, revision: policy.revision, part });
    };
    for policy in stable {
        let part = dividing.get(policy.name.as_str()).map_or(Part::Everybody, |cohort| Part::Outside(*cohort));
        add(policy, part);
    }
    for policy in rolled_out {
        if let Some(cohort) = dividing.get(policy.name.as_str()) {
            let cohort = *cohort;
            add(policy, Part::Inside(cohort));
        }
    }
    let set = PolicySet::new(epoch, in_force, cohorts);
    let (mut room, mut hashes) = (rendering::MAX_TEMPLATE_BYTES, Vec::new());
    for (hash, size) in set.template_files() {
        let Some(left) = room.checked_sub(size) else {
            tracing::warn!(template = %hash, "left out: all templates together are too large; its agents keep what they have");
            continue;
        };
        room = left;
        hashes.push(hash);
    }
    if hashes.is_empty() {
        return Ok(set);
    }
    Ok(set.with_templates(contents::get(store, &hashes).await?))
}

pub(super) async fn epoch(store: &Backend) -> Result<u64> {
    let mut connection = store.reader().acquire().await?;
    counters::read(&mut connection, counters::POLICY_EPOCH).await
}
