//! Policies.

use std::collections::BTreeMap;

use super::timestamp;
use crate::{
    model::policy::{FileRef, Policy, PolicyKind, Revision},
    proto::admin,
    store::ApplyOutcome,
};

pub fn policy(policy: Policy) -> admin::Policy {
    admin::Policy {
        name: policy.name,
        kind: kind(policy.kind).into(),
        etag: policy.etag,
        create_time: Some(timestamp(policy.created_at)),
        revision: Some(revision(policy.revision)),
    }
}

pub fn revision(revision: Revision) -> admin::PolicyRevision {
    let content = revision.content;
    admin::PolicyRevision {
        number: revision.number,
        selector: content.selector.to_string(),
        priority: content.priority,
        files: files(content.files),
        allow_empty: content.allow_empty,
        max_per_second: content.max_per_second,
        author: revision.author,
        create_time: Some(timestamp(revision.created_at)),
    }
}

fn files(files: BTreeMap<String, FileRef>) -> Vec<admin::PolicyFile> {
    let file = |(name, file): (String, FileRef)| admin::PolicyFile {
        name,
        content_type: file.content_type,
        role: file.role,
        body: Default::default(),
        content_hash: file.content.to_bytes(),
        size: file.size,
    };
    files.into_iter().map(file).collect()
}

fn kind(kind: PolicyKind) -> admin::PolicyKind {
    match kind {
        PolicyKind::Config => admin::PolicyKind::Config,
    }
}

pub fn outcome(outcome: ApplyOutcome) -> admin::apply_policy_response::Outcome {
    use admin::apply_policy_response::Outcome;
    match outcome {
        ApplyOutcome::Created => Outcome::Created,
        ApplyOutcome::Configured => Outcome::Configured,
        ApplyOutcome::Unchanged => Outcome::Unchanged,
    }
}
