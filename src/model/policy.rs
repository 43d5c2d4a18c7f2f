//! Policies and their revisions.

use std::collections::BTreeMap;

use super::{ContentHash, Selector, UnixMs, rollout::Plan};
use crate::proto::{bus, opamp};

/// What a policy offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum PolicyKind {
    Config = 0,
    Packages = 1,
    ConnectionSettings = 2,
}

impl PolicyKind {
    pub const ALL: [Self; 3] = [Self::Config, Self::Packages, Self::ConnectionSettings];

    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "Config",
            Self::Packages => "Packages",
            Self::ConnectionSettings => "ConnectionSettings",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
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
    /// The newest revision. Agents may have another: see [`super::rollout`].
    pub revision: Revision,
    /// The number of the revision that agents have outside of a rollout; 0 if there is none yet.
    pub stable: u64,
}

/// An immutable version of a policy: content, selector and priority together.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// From 1, in steps of 1, within the policy.
    pub number: u64,
    pub content: RevisionContent,
    /// Who applied it: the operator token's name.
    pub author: String,
    /// Why, in the author's words.
    pub message: String,
    pub created_at: UnixMs,
}

/// What an operator states in a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionContent {
    pub selector: Selector,
    /// On the same file name the higher priority wins; ties break by policy name, the smaller wins.
    pub priority: i32,
    pub offer: PolicyOffer,
    /// The policy may leave an agent with no file, or package, at all: only then an empty configuration, or list of
    /// packages, is ever sent.
    pub allow_empty: bool,
    /// How fast a change goes out, in agents a second; 0 for the deployment's default.
    pub max_per_second: u32,
    /// How it goes out step by step; `None` to all at once.
    pub plan: Option<Plan>,
}

/// What agents are offered, by kind. In OpAMP's own messages hashes are left out: they depend on what else an agent is offered.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyOffer {
    /// By file name, which may be empty.
    Config(BTreeMap<String, FileRef>),
    /// By package name.
    Packages(BTreeMap<String, opamp::PackageAvailable>),
    ConnectionSettings(Box<opamp::ConnectionSettingsOffers>),
}

impl PolicyOffer {
    pub fn kind(&self) -> PolicyKind {
        match self {
            Self::Config(_) => PolicyKind::Config,
            Self::Packages(_) => PolicyKind::Packages,
            Self::ConnectionSettings(_) => PolicyKind::ConnectionSettings,
        }
    }

    /// Files of a configuration; none of the other kinds.
    pub fn files(&self) -> impl Iterator<Item = (&String, &FileRef)> {
        match self {
            Self::Config(files) => Some(files),
            _ => None,
        }
        .into_iter()
        .flatten()
    }
}

/// One file of a configuration, its body stored once by hash. Content type and role are the user's,
/// passed on verbatim. Of a [template](super::template) the body is its text: agents get what it comes to for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileRef {
    pub content: ContentHash,
    pub content_type: String,
    pub role: String,
    /// Bytes of the body.
    pub size: u64,
    pub is_template: bool,
}

impl From<PolicyKind> for bus::OfferKind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Config => Self::Config,
            PolicyKind::Packages => Self::Packages,
            PolicyKind::ConnectionSettings => Self::ConnectionSettings,
        }
    }
}

impl From<bus::OfferKind> for PolicyKind {
    fn from(kind: bus::OfferKind) -> Self {
        match kind {
            bus::OfferKind::Config => Self::Config,
            bus::OfferKind::Packages => Self::Packages,
            bus::OfferKind::ConnectionSettings => Self::ConnectionSettings,
        }
    }
}
