//! Policies and their revisions. All changes take turns on the epoch's row, so that epochs are in the order in which
//! the changes became visible.

use std::collections::BTreeSet;

use serde_json::json;
use sqlx::types::Json;

use super::{Backend, Tx, audit, contents, counters, overrides, package_files, rollouts};
use crate::{
    model::{
        ContentHash,
        desired::{PolicySet, Stored},
        packages,
        policy::{Policy, PolicyKind, PolicyOffer, Revision},
        rendering,
    },
    store::{
        Actor, Applied, AppliedSet, ApplyOutcome, ApplyPolicy, ApplySet, Error, Refusal, Refusals, Result,
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
    let set = ApplySet { validate_only: apply.validate_only, policies: vec![apply], prune: false };
    let applied = match apply_set(store, set, actor).await {
        Ok(AppliedSet { mut applied, .. }) => applied.pop(),
        Err(Error::Refused(Refusals(mut refusals))) => match refusals.pop() {
            Some(Refusal { error, .. }) => return Err(error),
            None => None,
        },
        Err(error) => return Err(error),
    };
    applied.ok_or_else(|| Error::Internal("nothing came of a policy".to_owned()))
}

pub(super) async fn apply_set(store: &Backend, set: ApplySet, actor: &Actor) -> Result<AppliedSet> {
    let mut tx = store.begin().await?;
    let epoch = counters::bump(&mut tx, counters::POLICY_EPOCH).await?;
    let mut plans = Vec::with_capacity(set.policies.len());
    let mut refusals = Vec::new();
    for (index, apply) in set.policies.iter().enumerate() {
        let current = find(&mut tx, &apply.name).await?;
        let stable = current.as_ref().map_or(0, |policy| policy.stable);
        match plan::apply_policy(current, apply, epoch, actor) {
            Ok(plan::PolicyPlan { policy, outcome }) => {
                plans.push(Planned { index, applied: Applied { policy, outcome }, stable });
            }
            Err(error) => refusals.push(Refusal { index, policy: apply.name.clone(), error }),
        }
    }
    let changes: Vec<&Planned> = plans.iter().filter(|plan| plan.is_change()).collect();
    let bodies: Vec<_> = changes.iter().flat_map(|plan| set.policies[plan.index].bodies.iter().cloned()).collect();
    contents::put(&mut tx, &bodies).await?;
    refusals.extend(hold_files(&mut tx, &changes).await?);
    if !set.validate_only {
        refusals.extend(hold_package_files(&mut tx, &changes).await?);
    }
    if !refusals.is_empty() {
        refusals.sort_by_key(|refusal| refusal.index);
        return Err(Error::Refused(Refusals(refusals)));
    }
    for Planned { applied: Applied { policy, .. }, stable, .. } in &changes {
        write(&mut tx, policy, epoch).await?;
        rollouts::begin(&mut tx, policy, *stable, actor).await?;
        audit::record(&mut tx, actor, "policy.apply", &policy.name, plan::audit_detail(policy)).await?;
    }
    let is_changed = !changes.is_empty();
    let pruned = if set.prune { prune(&mut tx, &set.policies, actor).await? } else { Vec::new() };
    if (is_changed || !pruned.is_empty()) && !set.validate_only {
        tx.commit().await?;
    }
    Ok(AppliedSet { applied: plans.into_iter().map(|plan| plan.applied).collect(), pruned })
}

/// What becomes of one policy of a set.
struct Planned {
    /// Within the set.
    index: usize,
    applied: Applied,
    /// Before.
    stable: u64,
}

impl Planned {
    fn is_change(&self) -> bool {
        self.applied.outcome != ApplyOutcome::Unchanged
    }

    fn refused(&self, error: Error) -> Refusal {
        Refusal { index: self.index, policy: self.applied.policy.name.clone(), error }
    }

    fn files(&self) -> impl Iterator<Item = ContentHash> {
        self.applied.policy.revision.content.offer.files().map(|(_, file)| file.content)
    }

    fn package_files(&self) -> impl Iterator<Item = ContentHash> {
        hosted(&self.applied.policy.revision.content.offer)
    }
}

/// Makes sure that every file's body is stored, and stays until the revision that refers to it is visible.
async fn hold_files(tx: &mut Tx, changes: &[&Planned]) -> Result<Vec<Refusal>> {
    let mut missing = BTreeSet::new();
    // The same order for all, against deadlocks.
    for hash in changes.iter().flat_map(|plan| plan.files()).collect::<BTreeSet<_>>() {
        if !contents::hold(tx, hash).await? {
            missing.insert(hash);
        }
    }
    let refusal = |plan: &&Planned| {
        let hash = plan.files().find(|hash| missing.contains(hash))?;
        Some(plan.refused(Error::not_found("content", hash)))
    };
    Ok(changes.iter().filter_map(refusal).collect())
}

/// Makes sure that uploaded files of packages are there, and stay until the revision that refers to them is visible.
async fn hold_package_files(tx: &mut Tx, changes: &[&Planned]) -> Result<Vec<Refusal>> {
    let mut missing = BTreeSet::new();
    for hash in changes.iter().flat_map(|plan| plan.package_files()).collect::<BTreeSet<_>>() {
        if !package_files::hold(tx, hash).await? {
            missing.insert(hash);
        }
    }
    let refusal = |plan: &&Planned| {
        let hash = plan.package_files().find(|hash| missing.contains(hash))?;
        Some(plan.refused(Error::not_found("package file", hash)))
    };
    Ok(changes.iter().filter_map(refusal).collect())
}

/// Makes sure that these revisions of a policy are there, with all that they need, until the transaction ends: `NotFound` otherwise.
pub(super) async fn hold_revisions(tx: &mut Tx, name: &str, numbers: &BTreeSet<u64>) -> Result<()> {
    let kind = find(tx, name).await?.ok_or_else(|| Error::not_found("policy", name))?.kind;
    let statement = concat!("SELECT ", revision_columns!(), " FROM revisions r WHERE r.policy = $1 AND r.number = $2");
    let mut files = BTreeSet::new();
    for number in numbers {
        let query = sqlx::query_as(statement).bind(name).bind(number.cast_signed());
        let row: Option<RevisionRow> = query.fetch_optional(&mut **tx).await?;
        let row = row.ok_or_else(|| Error::not_found("revision", format!("{name}@{number}")))?;
        files.extend(hosted(&row.of(kind)?.content.offer));
    }
    for hash in files {
        if !package_files::hold(tx, hash).await? {
            return Err(Error::not_found("package file", hash));
        }
    }
    Ok(())
}

/// Files of packages that are hosted here.
fn hosted(offer: &PolicyOffer) -> impl Iterator<Item = ContentHash> {
    let packages = match offer {
        PolicyOffer::Packages(packages) => Some(packages),
        _ => None,
    };
    packages.into_iter().flat_map(packages::hosted)
}

/// Deletes the policies that are not in the set.
async fn prune(tx: &mut Tx, set: &[ApplyPolicy], actor: &Actor) -> Result<Vec<Policy>> {
    let kept: BTreeSet<&str> = set.iter().map(|apply| apply.name.as_str()).collect();
    let query = sqlx::query_as(select_policies!("r.number = p.newest ORDER BY p.name"));
    let mut others = policies(query.fetch_all(&mut **tx).await?)?;
    others.retain(|policy| !kept.contains(policy.name.as_str()));
    for policy in &others {
        remove(tx, policy, actor).await?;
    }
    Ok(others)
}

/// A policy that refers to the uploaded file in its newest revision, or in one that agents may have.
pub(super) async fn user_of(tx: &mut Tx, file: ContentHash) -> Result<Option<String>> {
    let rows = sqlx::query_as(select_policies!(
        "(r.number IN (p.newest, p.stable) OR EXISTS
                (SELECT 1 FROM overrides v WHERE v.policy = p.name AND v.revision = r.number)) WHERE p.kind = $1"
    ))
    .bind(PolicyKind::Packages.name());
    let policies = policies(rows.fetch_all(&mut **tx).await?)?;
    let uses = |policy: &Policy| hosted(&policy.revision.content.offer).any(|hosted| hosted == file);
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
    remove(&mut tx, &policy, actor).await?;
    Ok(tx.commit().await?)
}

async fn remove(tx: &mut Tx, policy: &Policy, actor: &Actor) -> Result<()> {
    let Policy { name, revision, .. } = policy;
    sqlx::query("DELETE FROM policies WHERE name = $1").bind(name).execute(&mut **tx).await?;
    audit::record(tx, actor, "policy.delete", name, json!({ "revision": revision.number })).await
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
    let overrides = overrides::all(&mut tx).await?;
    let query = sqlx::query_as(select_policies!(
        "EXISTS (SELECT 1 FROM overrides v WHERE v.policy = p.name AND v.revision = r.number)"
    ));
    let overriding = policies(query.fetch_all(&mut *tx).await?)?;
    tx.commit().await?;
    let set = Stored { stable, rolled_out, overriding, rollouts, overrides }.into_set(epoch);
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
