//! What a change comes to, decided from what is stored. No I/O.

use serde_json::json;

use super::{Actor, ApplyOutcome, ApplyPolicy, Error, LabelChanges, Result, apply_label_changes, row::etag};
use crate::model::{
    AgentRecord,
    effective::Effective,
    policy::{Policy, PolicyKind, PolicyOffer, Revision},
    settings,
};

/// What applying comes to.
pub(super) struct PolicyPlan {
    pub policy: Policy,
    pub outcome: ApplyOutcome,
}

/// `epoch` is the one that the change would have.
pub(super) fn apply_policy(
    current: Option<Policy>,
    apply: &ApplyPolicy,
    epoch: u64,
    actor: &Actor,
) -> Result<PolicyPlan> {
    check_policy_etag(current.as_ref(), apply.name.as_str(), apply.etag.as_deref())?;
    let revision = |number| Revision {
        number,
        content: apply.content.clone(),
        author: actor.name.clone(),
        message: apply.message.clone(),
        created_at: actor.now,
    };
    let Some(current) = current else {
        let policy = Policy {
            name: apply.name.clone(),
            kind: apply.kind,
            etag: etag(1, epoch),
            created_at: actor.now,
            revision: revision(1),
            stable: stable_after(apply, 1, 0),
        };
        return Ok(PolicyPlan { policy, outcome: ApplyOutcome::Created });
    };
    if current.kind != apply.kind {
        return Err(Error::AlreadyExists { kind: current.kind.name(), name: current.name });
    }
    if current.revision.content == apply.content {
        return Ok(PolicyPlan { policy: current, outcome: ApplyOutcome::Unchanged });
    }
    let number = current.revision.number + 1;
    let stable = stable_after(apply, number, current.stable);
    let policy = Policy { etag: etag(number, epoch), revision: revision(number), stable, ..current };
    Ok(PolicyPlan { policy, outcome: ApplyOutcome::Configured })
}

/// A revision that goes to all at once is the stable one from the start.
fn stable_after(apply: &ApplyPolicy, number: u64, before: u64) -> u64 {
    if apply.content.plan.is_none() { number } else { before }
}

/// An empty etag asks that there be no such policy.
pub(super) fn check_policy_etag(current: Option<&Policy>, name: &str, given: Option<&str>) -> Result<()> {
    match (current, given) {
        (_, None) | (None, Some("")) => Ok(()),
        (Some(_), Some("")) => Err(Error::AlreadyExists { kind: "policy", name: name.to_owned() }),
        (None, Some(_)) => Err(Error::not_found("policy", name)),
        (Some(policy), Some(given)) => check_etag("policy", name, &policy.etag, given),
    }
}

/// For a change that needs the policy to be there.
pub(super) fn check_present_etag(policy: &Policy, given: Option<&str>) -> Result<()> {
    given.map_or(Ok(()), |given| check_etag("policy", &policy.name, &policy.etag, given))
}

pub(super) fn check_agent_etag(agent: &AgentRecord, given: Option<&str>) -> Result<()> {
    given.map_or(Ok(()), |given| check_etag("agent", &agent.uid.to_string(), &agent.etag(), given))
}

fn check_etag(kind: &'static str, name: &str, current: &str, given: &str) -> Result<()> {
    if current == given {
        return Ok(());
    }
    Err(Error::EtagMismatch { kind, name: name.to_owned(), given: given.to_owned(), current: current.to_owned() })
}

/// Whether the labels differ afterwards.
pub(super) fn set_labels(agent: &mut AgentRecord, changes: &LabelChanges) -> bool {
    let before = agent.labels.clone();
    apply_label_changes(&mut agent.labels, changes);
    agent.labels != before
}

/// What was lifted, for the audit log, if there was anything to lift.
pub(super) fn lift_quarantine(agent: &mut AgentRecord) -> Option<serde_json::Value> {
    let mut lifted = serde_json::Map::new();
    for kind in PolicyKind::ALL {
        let wanted = agent.desired.of_mut(kind);
        if let Some(hash) = wanted.quarantined.take() {
            wanted.refusal = String::new();
            wanted.reset_offers();
            lifted.insert(kind.name().to_owned(), json!(hash.to_string()));
        }
    }
    // So is what is offered with pauses only.
    let lost = std::mem::take(&mut agent.desired.lost_packages).connections;
    for kind in PolicyKind::ALL {
        let wanted = agent.desired.of_mut(kind);
        let is_lost = kind == PolicyKind::Packages && lost > 1;
        if std::mem::take(&mut wanted.forgotten).times > 1 || is_lost {
            wanted.reset_offers();
            lifted.insert("paused".to_owned(), json!(kind.name()));
        }
    }
    if agent.desired.effective == Effective::Drifted {
        agent.desired.effective = Effective::Retried;
        agent.desired.config.reset_offers();
        lifted.insert("drift".to_owned(), json!(agent.desired.config.hash.map(|hash| hash.to_string())));
    }
    (!lifted.is_empty()).then(|| lifted.into())
}

/// What the audit log keeps of an applied policy: never what may hold a secret.
pub(super) fn audit_detail(policy: &Policy) -> serde_json::Value {
    let content = &policy.revision.content;
    let offered: serde_json::Map<_, _> = match &content.offer {
        PolicyOffer::Config(files) => {
            files.iter().map(|(name, file)| (name.clone(), json!(file.content.to_string()))).collect()
        }
        PolicyOffer::Packages(packages) => {
            packages.iter().map(|(name, package)| (name.clone(), json!(package.version))).collect()
        }
        PolicyOffer::ConnectionSettings(settings) => {
            settings::endpoints(settings).into_iter().map(|(part, endpoint)| (part, json!(endpoint))).collect()
        }
    };
    let what = match policy.kind {
        PolicyKind::Config => "files",
        PolicyKind::Packages => "packages",
        PolicyKind::ConnectionSettings => "endpoints",
    };
    json!({
        "revision": policy.revision.number,
        "selector": content.selector.to_string(),
        "priority": content.priority,
        what: offered,
    })
}
