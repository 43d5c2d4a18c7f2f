//! Policies.

use std::collections::BTreeMap;

use super::{settings, timestamp};
use crate::{
    model::policy::{FileRef, Policy, PolicyKind, PolicyOffer, Revision},
    proto::{admin, opamp::PackageAvailable},
    store::ApplyOutcome,
};

pub fn policy(policy: Policy) -> admin::Policy {
    admin::Policy {
        name: policy.name,
        kind: kind(policy.kind).into(),
        etag: policy.etag,
        create_time: Some(timestamp(policy.created_at)),
        revision: Some(revision(policy.revision)),
        stable_revision: policy.stable,
    }
}

pub fn revision(revision: Revision) -> admin::PolicyRevision {
    let content = revision.content;
    let (mut files, mut packages, mut connection_settings) = Default::default();
    match content.offer {
        PolicyOffer::Config(of_policy) => files = self::files(of_policy),
        PolicyOffer::Packages(of_policy) => {
            packages = of_policy.into_iter().map(|(name, package)| (name, without_secrets(package))).collect();
        }
        PolicyOffer::ConnectionSettings(of_policy) => connection_settings = Some(settings::without_secrets(*of_policy)),
    }
    admin::PolicyRevision {
        number: revision.number,
        selector: content.selector.to_string(),
        priority: content.priority,
        files,
        allow_empty: content.allow_empty,
        max_per_second: content.max_per_second,
        author: revision.author,
        create_time: Some(timestamp(revision.created_at)),
        packages,
        connection_settings,
        rollout: content.plan.as_ref().map(super::rollout::plan),
        message: revision.message,
    }
}

/// Headers of downloads may be credentials.
pub fn without_secrets(mut package: PackageAvailable) -> PackageAvailable {
    if let Some(file) = &mut package.file {
        settings::hide_values(&mut file.headers);
    }
    package
}

fn files(files: BTreeMap<String, FileRef>) -> Vec<admin::PolicyFile> {
    let file = |(name, file): (String, FileRef)| admin::PolicyFile {
        name,
        content_type: file.content_type,
        role: file.role,
        body: Default::default(),
        content_hash: file.content.to_bytes(),
        size: file.size,
        template: file.is_template,
    };
    files.into_iter().map(file).collect()
}

pub fn kind(kind: PolicyKind) -> admin::PolicyKind {
    match kind {
        PolicyKind::Config => admin::PolicyKind::Config,
        PolicyKind::Packages => admin::PolicyKind::Packages,
        PolicyKind::ConnectionSettings => admin::PolicyKind::ConnectionSettings,
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
