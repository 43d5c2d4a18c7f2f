//! Policies and their revisions.

use std::collections::BTreeMap;

use super::{ContentHash, Selector, UnixMs};

/// What a policy offers. Packages and connection settings will be further kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    Config,
}

impl PolicyKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "Config",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        (name == "Config").then_some(Self::Config)
    }
}

/// A named, versioned offer with a selector.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub name: String,
    pub kind: PolicyKind,
    /// Changes with every change of the policy; opaque to clients.
    pub etag: String,
    pub created_at: UnixMs,
    /// The newest revision. It is also the stable one: the revision that matching agents get. (Once there
    /// are stepped rollouts, a rollout moves agents from the stable revision to the newest.)
    pub revision: Revision,
}

/// An immutable version of a policy: content, selector and priority together.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// From 1, in steps of 1, within the policy.
    pub number: u64,
    pub content: RevisionContent,
    /// Who applied it: the operator token's name.
    pub author: String,
    pub created_at: UnixMs,
}

/// What an operator states in a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionContent {
    pub selector: Selector,
    /// On the same file name the higher priority wins; ties break by policy name, the smaller wins.
    pub priority: i32,
    /// By file name, which may be empty.
    pub files: BTreeMap<String, FileRef>,
    /// The policy may leave an agent with no file at all: only then an empty configuration is ever sent.
    pub allow_empty: bool,
    /// How fast a change goes out, in agents a second; 0 for the deployment's default.
    pub max_per_second: u32,
}

/// One file of a configuration, its body stored once by hash. Content type and role are the user's,
/// passed on verbatim.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileRef {
    pub content: ContentHash,
    pub content_type: String,
    pub role: String,
    /// Bytes of the body.
    pub size: u64,
}
