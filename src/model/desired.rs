//! Desired state: a pure function of an agent's attributes and labels, and the policies.

mod stored;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    AgentRecord, Attributes, ContentHash, InstanceUid,
    overrides::Overrides,
    packages,
    policy::{FileRef, Policy, PolicyKind, PolicyOffer, Revision},
    rendering::{Templates, Unrendered},
    rollout::Cohort,
    settings,
    template::Subject,
};
use crate::proto::opamp::{self, DownloadableFile};

pub use stored::Stored;

/// All policies at one epoch, in the order in which they are consulted: highest priority first, then by
/// name. The epoch grows with every change of any policy, and of whom a rollout has reached.
#[derive(Clone, Debug)]
pub struct PolicySet {
    pub epoch: u64,
    policies: Vec<InForce>,
    /// Of the rollouts that divide the fleet.
    cohorts: Vec<Cohort>,
    templates: Templates,
    overrides: Arc<Overrides>,
    /// Indices of the policies that agents without overrides may have.
    general: Vec<u32>,
}

/// A revision that some agents have.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    pub name: String,
    pub kind: PolicyKind,
    pub revision: Revision,
    pub part: Part,
}

/// The part of the fleet that a revision is for, by the index of a cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Everybody,
    Inside(usize),
    Outside(usize),
    /// Only agents with an override.
    Overridden,
}

/// A configuration as an agent should have it.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredConfig {
    pub hash: ContentHash,
    pub files: BTreeMap<String, DesiredFile>,
    /// Bodies of the files that were written for the agent, from templates.
    pub rendered: Vec<(ContentHash, Bytes)>,
    /// Files in it are templates still: nobody is offered it as it is. See [`PolicySet::render`].
    pub has_templates: bool,
}

/// An offer of packages or connection settings as an agent should have it.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredOffer {
    pub kind: PolicyKind,
    pub hash: ContentHash,
    /// An encoded PackagesAvailable or ConnectionSettingsOffers, with the hash in it.
    pub body: Bytes,
}

/// A package, and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredPackage {
    /// Without its hash.
    pub package: opamp::PackageAvailable,
    pub policy: String,
    pub revision: u64,
}

/// A file, and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredFile {
    pub file: FileRef,
    pub policy: String,
    pub revision: u64,
    /// It was written for the agent, from the template with this text.
    pub template: Option<ContentHash>,
}

impl PolicySet {
    pub fn new(epoch: u64, mut policies: Vec<InForce>, cohorts: Vec<Cohort>) -> Self {
        policies.sort_by(|a, b| {
            let priority = |p: &InForce| std::cmp::Reverse(p.revision.content.priority);
            (priority(a), &a.name).cmp(&(priority(b), &b.name))
        });
        let general = (0u32..).zip(&policies).filter(|(_, policy)| policy.part != Part::Overridden);
        let general = general.map(|(index, _)| index).collect();
        Self { epoch, policies, cohorts, templates: Templates::default(), overrides: Arc::default(), general }
    }

    /// With the texts of templates that its policies have.
    pub fn with_templates(self, bodies: impl IntoIterator<Item = (ContentHash, Bytes)>) -> Self {
        let templates = self.templates.with(bodies);
        Self { templates, ..self }
    }

    /// The hash and the size of each template that its policies have.
    pub fn template_files(&self) -> BTreeMap<ContentHash, u64> {
        let files = self.policies.iter().flat_map(|policy| policy.revision.content.offer.files());
        files.filter(|(_, file)| file.is_template).map(|(_, file)| (file.content, file.size)).collect()
    }

    /// With overrides, whose revisions are among the policies.
    pub fn overridden(self, overrides: Overrides) -> Self {
        Self { overrides: Arc::new(overrides), ..self }
    }

    /// Policies with one revision each, for everybody.
    pub fn undivided(epoch: u64, policies: Vec<Policy>) -> Self {
        let in_force = |policy: Policy| InForce {
            name: policy.name,
            kind: policy.kind,
            revision: policy.revision,
            part: Part::Everybody,
        };
        Self::new(epoch, policies.into_iter().map(in_force).collect(), Vec::new())
    }

    /// As if each of `changed` were what there is of its policy, and there were no policies called `removed`.
    pub fn with<'a>(&self, changed: Vec<InForce>, removed: impl Iterator<Item = &'a str>) -> Self {
        let removed: BTreeSet<&str> = removed.collect();
        let names: BTreeSet<&str> = changed.iter().map(|policy| policy.name.as_str()).collect();
        let others = self.policies.iter().filter(|policy| !removed.contains(policy.name.as_str()));
        let others = others.filter_map(|policy| match names.contains(policy.name.as_str()) {
            false => Some(policy.clone()),
            // Agents with an override keep what they have.
            true => self
                .overrides
                .name(&policy.name, policy.revision.number)
                .then(|| InForce { part: Part::Overridden, ..policy.clone() }),
        });
        let policies = others.chain(changed.iter().cloned()).collect();
        let set = Self::new(self.epoch, policies, self.cohorts.clone());
        Self { overrides: self.overrides.clone(), templates: self.templates.clone(), ..set }
    }

    pub fn policies(&self) -> &[InForce] {
        &self.policies
    }

    /// Indices into [`Self::policies`] of those that match. Two agents with equal results have equal
    /// desired configurations, so this is a key to remember [`Self::merge`] by.
    pub fn matching(&self, agent: &AgentRecord, attributes: &Attributes) -> Vec<u32> {
        let (uid, labels) = (agent.placement(), &agent.labels);
        let has = |policy: &InForce| {
            let is_inside = |cohort: usize| self.cohorts[cohort].gives(agent, attributes);
            let is_for = match policy.part {
                Part::Everybody => true,
                Part::Inside(cohort) => is_inside(cohort),
                Part::Outside(cohort) => !is_inside(cohort),
                Part::Overridden => false,
            };
            is_for && policy.revision.content.selector.matches(attributes, labels)
        };
        let Some(own) = self.overrides.of(uid) else {
            let general = self.general.iter().copied();
            return general.filter(|&index| has(&self.policies[index as usize])).collect();
        };
        let has = |policy: &InForce| match own.of(&policy.name) {
            Some(number) => {
                policy.revision.number == number && policy.revision.content.selector.matches(attributes, labels)
            }
            None => has(policy),
        };
        (0u32..).zip(&self.policies).filter(|(_, policy)| has(policy)).map(|(index, _)| index).collect()
    }

    /// The rollouts whose new revisions are among the policies at `matching`, with the kind of each.
    pub fn rollouts(&self, matching: &[u32]) -> impl Iterator<Item = (PolicyKind, Uuid)> {
        let policies = matching.iter().map(|&index| &self.policies[index as usize]);
        policies.filter_map(|policy| match policy.part {
            Part::Inside(cohort) => Some((policy.kind, self.cohorts[cohort].id())),
            _ => None,
        })
    }

    /// Whether this rollout divides the fleet.
    pub fn is_dividing(&self, rollout: Uuid) -> bool {
        self.cohorts.iter().any(|cohort| cohort.id() == rollout)
    }

    /// Whether a rollout divides the fleet.
    pub fn is_divided(&self) -> bool {
        !self.cohorts.is_empty()
    }

    /// The revision of a policy that an agent has by an override; 0: nothing of it. `None`: there is no override.
    pub fn override_of(&self, uid: InstanceUid, policy: &str) -> Option<u64> {
        self.overrides.of(uid)?.of(policy)
    }

    /// The revision of a policy that an agent has; 0 if none.
    pub fn revision_of(&self, policy: &str, agent: &AgentRecord, attributes: &Attributes) -> u64 {
        let matching = self.matching(agent, attributes);
        let mut policies = matching.into_iter().map(|index| &self.policies[index as usize]);
        policies.find(|one| one.name == policy).map_or(0, |one| one.revision.number)
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
                    template: None,
                });
            }
        }
        if files.is_empty() && !allow_empty {
            return None;
        }
        Some(DesiredConfig::of(files, Vec::new()))
    }

    /// What [`Self::merge`] gave, as one agent is to have it: files that are templates are written for it. All of them, or
    /// none. `known` is a hash that the agent was to have before: what comes to it need not be looked at again.
    pub fn render(
        &self,
        merged: &DesiredConfig,
        subject: &Subject,
        known: Option<ContentHash>,
    ) -> Result<DesiredConfig, Unrendered> {
        self.templates.render(merged, subject, known)
    }

    /// The union of the packages of the policies at `matching`, likewise. Of a package that is hosted here `locate` says
    /// where it can be fetched; `None` for all of them if it cannot, because a list that lacks one would have it removed.
    pub fn merge_packages(
        &self,
        matching: &[u32],
        locate: impl Fn(&mut DownloadableFile) -> bool,
    ) -> Option<DesiredOffer> {
        let allow_empty = |policy: &InForce| policy.revision.content.allow_empty;
        let is_empty_allowed = self.at(matching, PolicyKind::Packages).any(allow_empty);
        let mut packages = BTreeMap::new();
        for (name, DesiredPackage { mut package, .. }) in self.packages(matching) {
            if let Some(file) = package.file.as_mut().filter(|file| packages::is_hosted(file))
                && !locate(file)
            {
                return None;
            }
            packages.insert(name, package);
        }
        (!packages.is_empty() || is_empty_allowed).then(|| packages::offer(packages))
    }

    /// Whether a policy has a package that is hosted here.
    pub fn offers_hosted_packages(&self) -> bool {
        self.policies.iter().any(|policy| match &policy.revision.content.offer {
            PolicyOffer::Packages(packages) => packages::hosted(packages).next().is_some(),
            _ => false,
        })
    }

    /// The packages of the policies at `matching`, by name.
    pub fn packages(&self, matching: &[u32]) -> BTreeMap<String, DesiredPackage> {
        let mut packages = BTreeMap::new();
        for policy in self.at(matching, PolicyKind::Packages) {
            let PolicyOffer::Packages(own) = &policy.revision.content.offer else { continue };
            for (name, package) in own {
                packages.entry(name.clone()).or_insert_with(|| DesiredPackage {
                    package: package.clone(),
                    policy: policy.name.clone(),
                    revision: policy.revision.number,
                });
            }
        }
        packages
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

    fn at<'a>(&'a self, matching: &'a [u32], kind: PolicyKind) -> impl Iterator<Item = &'a InForce> {
        matching.iter().map(|&index| &self.policies[index as usize]).filter(move |policy| policy.kind == kind)
    }
}

impl DesiredConfig {
    pub fn of(files: BTreeMap<String, DesiredFile>, rendered: Vec<(ContentHash, Bytes)>) -> Self {
        let hash = config_hash(files.iter().map(|(name, file)| (name.as_str(), &file.file)));
        let has_templates = files.values().any(|file| file.file.is_template);
        Self { hash, files, rendered, has_templates }
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

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::model::{Selector, policy::RevisionContent};

    /// A policy of packages, given by their names and URLs.
    fn policy(name: &str, priority: i32, packages: &[(&str, &str)], allow_empty: bool) -> Policy {
        let package = |version: &str, url: &str| {
            let content_hash = ContentHash([1; 32]).to_bytes();
            let file = DownloadableFile { download_url: url.to_owned(), content_hash, ..Default::default() };
            opamp::PackageAvailable { version: version.to_owned(), file: Some(file), ..Default::default() }
        };
        let packages = packages.iter().map(|(package_name, url)| ((*package_name).to_owned(), package(name, url)));
        let content = RevisionContent {
            selector: Selector::default(),
            priority,
            offer: PolicyOffer::Packages(packages.collect()),
            allow_empty,
            max_per_second: 0,
            plan: None,
        };
        Policy {
            name: name.to_owned(),
            kind: PolicyKind::Packages,
            etag: String::new(),
            created_at: 0,
            revision: Revision { number: 7, content, author: String::new(), message: String::new(), created_at: 0 },
            stable: 7,
        }
    }

    fn merged(policies: Vec<Policy>, locate: impl Fn(&mut DownloadableFile) -> bool) -> Option<Vec<(String, String)>> {
        let set = PolicySet::undivided(1, policies);
        let all: Vec<u32> = (0u32..).take(set.policies().len()).collect();
        let offer = set.merge_packages(&all, locate)?;
        let available = opamp::PackagesAvailable::decode(offer.body).expect("an offer");
        let url = |package: opamp::PackageAvailable| package.file.map(|file| file.download_url).unwrap_or_default();
        Some(available.packages.into_iter().map(|(name, package)| (name, url(package))).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(pairs.iter().map(|(name, url)| ((*name).to_owned(), (*url).to_owned())).collect())
    }

    #[test]
    fn packages_of_several_policies_are_united() {
        let policies = || {
            vec![
                policy("low", 0, &[("a", "low"), ("b", "low")], false),
                policy("high", 1, &[("b", "high"), ("c", "high")], false),
                policy("also-high", 1, &[("c", "also-high")], false),
            ]
        };
        let expected = pairs(&[("a", "low"), ("b", "high"), ("c", "also-high")]);
        assert_eq!(merged(policies(), |_| true), expected);
        let mut reversed = policies();
        reversed.reverse();
        assert_eq!(merged(reversed, |_| true), expected);
        let set = PolicySet::undivided(1, policies());
        let origins = set.packages(&[0, 1, 2]).into_iter().map(|(name, package)| (name, package.policy));
        assert_eq!(
            origins.collect::<Vec<_>>(),
            pairs(&[("a", "low"), ("b", "high"), ("c", "also-high")]).unwrap_or_default()
        );
        let high_alone = set.packages(&[1]);
        assert_eq!(
            high_alone.iter().map(|(name, package)| (name.as_str(), package.revision)).collect::<Vec<_>>(),
            [("b", 7), ("c", 7)]
        );
    }

    #[test]
    fn no_packages_are_an_offer_only_where_a_policy_says_so() {
        assert_eq!(merged(Vec::new(), |_| true), None);
        assert_eq!(merged(vec![policy("a", 0, &[], false)], |_| true), None);
        assert_eq!(merged(vec![policy("a", 0, &[], false), policy("b", 0, &[], true)], |_| true), pairs(&[]));
        let one = [("x", "url")];
        assert_eq!(merged(vec![policy("a", 0, &one, false), policy("b", 0, &[], true)], |_| true), pairs(&one));
    }

    #[test]
    fn what_nobody_can_locate_is_not_offered_in_part() {
        let policies = || vec![policy("a", 0, &[("hosted", ""), ("other", "url")], false)];
        let locate = |file: &mut DownloadableFile| {
            assert_eq!(file.download_url, "", "of others the URL is known");
            file.download_url.push_str("here");
            true
        };
        assert_eq!(merged(policies(), locate), pairs(&[("hosted", "here"), ("other", "url")]));
        assert_eq!(merged(policies(), |_| false), None);
        assert!(PolicySet::undivided(1, policies()).offers_hosted_packages());
        assert!(!PolicySet::undivided(1, vec![policy("a", 0, &[("other", "url")], false)]).offers_hosted_packages());
    }
}
