//! Desired state: a pure function of an agent's attributes and labels, and the policies.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Attributes, ContentHash, Labels, packages,
    policy::{FileRef, Policy, PolicyKind, PolicyOffer},
    settings,
};
use crate::proto::opamp;

/// All policies at one epoch, in the order in which they are consulted: highest priority first, then by
/// name. The epoch grows with every change of any policy.
#[derive(Clone, Debug)]
pub struct PolicySet {
    pub epoch: u64,
    policies: Vec<Policy>,
}

/// A configuration as an agent should have it.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredConfig {
    pub hash: ContentHash,
    pub files: BTreeMap<String, DesiredFile>,
}

/// An offer of packages or connection settings as an agent should have it.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredOffer {
    pub kind: PolicyKind,
    pub hash: ContentHash,
    /// An encoded PackagesAvailable or ConnectionSettingsOffers, with the hash in it.
    pub body: Bytes,
}

/// A file, and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredFile {
    pub file: FileRef,
    pub policy: String,
    pub revision: u64,
}

impl PolicySet {
    pub fn new(epoch: u64, mut policies: Vec<Policy>) -> Self {
        policies.sort_by(|a, b| {
            let priority = |p: &Policy| std::cmp::Reverse(p.revision.content.priority);
            (priority(a), &a.name).cmp(&(priority(b), &b.name))
        });
        Self { epoch, policies }
    }

    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Indices into [`Self::policies`] of those that match. Two agents with equal results have equal
    /// desired configurations, so this is a key to remember [`Self::merge`] by.
    pub fn matching(&self, attributes: &Attributes, labels: &Labels) -> Vec<u32> {
        (0u32..)
            .zip(&self.policies)
            .filter(|(_, policy)| policy.revision.content.selector.matches(attributes, labels))
            .map(|(index, _)| index)
            .collect()
    }

    /// The union of the files of the policies at `matching`; on the same name the earlier policy wins.
    /// `None` when there is nothing to offer: no policy matches, or none has a file and none of them may
    /// leave an agent empty.
    pub fn merge(&self, matching: &[u32]) -> Option<DesiredConfig> {
        let mut files = BTreeMap::new();
        let mut allow_empty = false;
        for policy in self.at(matching, PolicyKind::Config) {
            allow_empty |= policy.revision.content.allow_empty;
            for (name, file) in policy.revision.content.offer.files() {
                files.entry(name.clone()).or_insert_with(|| DesiredFile {
                    file: file.clone(),
                    policy: policy.name.clone(),
                    revision: policy.revision.number,
                });
            }
        }
        if files.is_empty() && !allow_empty {
            return None;
        }
        Some(DesiredConfig { hash: config_hash(files.iter().map(|(name, f)| (name.as_str(), &f.file))), files })
    }

    /// The union of the packages of the policies at `matching`, likewise.
    pub fn merge_packages(&self, matching: &[u32]) -> Option<DesiredOffer> {
        let mut packages = BTreeMap::new();
        let mut allow_empty = false;
        for policy in self.at(matching, PolicyKind::Packages) {
            allow_empty |= policy.revision.content.allow_empty;
            if let PolicyOffer::Packages(own) = &policy.revision.content.offer {
                for (name, package) in own {
                    packages.entry(name.clone()).or_insert_with(|| package.clone());
                }
            }
        }
        (!packages.is_empty() || allow_empty).then(|| packages::offer(packages))
    }

    /// The connection settings of the policies at `matching`, before it is looked at which of them an agent takes: each
    /// part as a whole from the earliest policy that has it.
    pub fn merge_settings(&self, matching: &[u32]) -> opamp::ConnectionSettingsOffers {
        let mut merged = opamp::ConnectionSettingsOffers::default();
        for policy in self.at(matching, PolicyKind::ConnectionSettings) {
            if let PolicyOffer::ConnectionSettings(own) = &policy.revision.content.offer {
                settings::add_missing(&mut merged, own);
            }
        }
        merged
    }

    fn at<'a>(&'a self, matching: &'a [u32], kind: PolicyKind) -> impl Iterator<Item = &'a Policy> {
        matching.iter().map(|&index| &self.policies[index as usize]).filter(move |policy| policy.kind == kind)
    }

    /// The configuration that an agent with these attributes and labels should have.
    pub fn desired(&self, attributes: &Attributes, labels: &Labels) -> Option<Arc<DesiredConfig>> {
        self.merge(&self.matching(attributes, labels)).map(Arc::new)
    }
}

/// The `config_hash` that agents see: SHA-256 over the files in the order of their names, each as
/// length-prefixed name, content type and role, and the SHA-256 of the body. It depends on nothing else, so it
/// is the same on every node and after every restart, and for policies that differ but merge to the same files.
pub fn config_hash<'a>(files: impl Iterator<Item = (&'a str, &'a FileRef)>) -> ContentHash {
    let mut hasher = Sha256::new();
    hasher.update(b"muster config v1\0");
    for (name, file) in files {
        for text in [name, &file.content_type, &file.role] {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text);
        }
        hasher.update(file.content.as_bytes());
    }
    ContentHash(hasher.finalize().into())
}
