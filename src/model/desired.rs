//! Desired state: a pure function of an agent's attributes and labels, and the policies.

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    Attributes, ContentHash, Labels,
    policy::{FileRef, Policy},
};

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
        for policy in matching.iter().map(|&index| &self.policies[index as usize]) {
            allow_empty |= policy.revision.content.allow_empty;
            for (name, file) in &policy.revision.content.files {
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

    /// What an agent with these attributes and labels should have.
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
