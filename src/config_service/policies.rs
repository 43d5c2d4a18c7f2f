//! The policies, as this replica knows them, and what they make of each kind of agent.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    model::{
        AgentRecord, Attributes, ContentHash, InstanceUid,
        desired::{DesiredConfig, DesiredOffer, Part, PolicySet},
        policy::PolicyKind,
        rendering::Unrendered,
        template::Subject,
    },
    packages::{Locator, access::Key},
    proto::opamp,
    store::{self, SharedStore},
};

/// Sets of matching policies that are remembered with what they merge to. Few exist in practice; more are merged anew.
const MAX_REMEMBERED_TARGETS: usize = 4_096;

/// All policies at one epoch.
pub struct Snapshot {
    set: PolicySet,
    /// Where agents reach this deployment; empty if nobody said.
    opamp_url: Arc<str>,
    /// Where the packages are that are hosted here; `None` if nobody said.
    locator: Option<Locator>,
    /// By the indices of the matching policies. Only a memory: what it holds follows from `set`.
    targets: Mutex<HashMap<Vec<u32>, Merged>>,
}

/// What the policies that match an agent come to, before its configuration is written for it where that has templates.
#[derive(Clone, Debug)]
pub struct Merged {
    config: Option<Arc<DesiredConfig>>,
    pub packages: Option<Arc<DesiredOffer>>,
    /// Those that the agent takes are made into its offer.
    pub connection_settings: Arc<opamp::ConnectionSettingsOffers>,
    pub pace: Option<Pace>,
    pub rollouts: Rollouts,
}

/// Those whose new revisions are among what an agent should have.
pub type Rollouts = Arc<[(PolicyKind, Uuid)]>;

/// What an agent should have.
#[derive(Clone, Debug)]
pub struct Target {
    /// An error if it is written for the agent, and cannot be: the agent keeps what it has.
    pub config: Result<Option<Arc<DesiredConfig>>, Unrendered>,
    pub packages: Option<Arc<DesiredOffer>>,
    /// Those that the agent takes are made into its offer.
    pub connection_settings: Arc<opamp::ConnectionSettingsOffers>,
    pub pace: Option<Pace>,
    pub rollouts: Rollouts,
}

/// How fast the change that led to it may go out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pace {
    pub policy: Arc<str>,
    /// Offers a second over all replicas, not 0.
    pub per_second: u32,
    /// When the revision was made.
    pub revised_at: crate::model::UnixMs,
}

impl Snapshot {
    pub fn new(set: PolicySet, opamp_url: Arc<str>, locator: Option<Locator>) -> Self {
        Self { set, opamp_url, locator, targets: Mutex::default() }
    }

    pub fn epoch(&self) -> u64 {
        self.set.epoch
    }

    pub fn opamp_url(&self) -> &str {
        &self.opamp_url
    }

    /// What this agent should have. A configuration that its record names is known; see [`PolicySet::render`].
    pub fn target(&self, agent: &AgentRecord, attributes: &Attributes) -> Target {
        let Merged { config, packages, connection_settings, pace, rollouts } = self.merged(agent, attributes);
        let config = match config {
            Some(config) if config.has_templates => {
                let subject = Subject::new(agent.uid, attributes, &agent.labels);
                self.set.render(&config, &subject, agent.desired.config.hash).map(Arc::new).map(Some)
            }
            config => Ok(config),
        };
        Target { config, packages, connection_settings, pace, rollouts }
    }

    /// The configuration that this agent should have, or why there is none. If it is written for the agent, and its record
    /// is as far as these policies, that is not done again.
    pub fn wanted_config(&self, record: &AgentRecord, attributes: &Attributes) -> Result<Option<ContentHash>, String> {
        let Some(config) = self.merged(record, attributes).config else { return Ok(None) };
        let desired = &record.desired;
        if !config.has_templates {
            Ok(Some(config.hash))
        } else if desired.epoch != self.epoch() {
            let subject = Subject::new(record.uid, attributes, &record.labels);
            let rendered = self.set.render(&config, &subject, desired.config.hash);
            rendered.map(|config| Some(config.hash)).map_err(|unrendered| unrendered.to_string())
        } else if desired.unrendered.is_empty() {
            Ok(desired.config.hash)
        } else {
            Err(desired.unrendered.clone())
        }
    }

    /// What the policies that match an agent come to.
    pub fn merged(&self, agent: &AgentRecord, attributes: &Attributes) -> Merged {
        let matching = self.set.matching(agent, attributes);
        if let Some(merged) = self.targets.lock().get(&matching) {
            return merged.clone();
        }
        let merged = Merged {
            config: self.set.merge(&matching).map(Arc::new),
            packages: self.packages(&matching).map(Arc::new),
            connection_settings: Arc::new(self.set.merge_settings(&matching)),
            pace: self.pace(&matching),
            rollouts: self.set.rollouts(&matching).collect(),
        };
        let mut targets = self.targets.lock();
        if targets.len() < MAX_REMEMBERED_TARGETS {
            targets.insert(matching, merged.clone());
        }
        merged
    }

    /// Whether this rollout divides the fleet.
    pub fn is_dividing(&self, rollout: Uuid) -> bool {
        self.set.is_dividing(rollout)
    }

    /// Whether a rollout divides the fleet.
    pub fn is_divided(&self) -> bool {
        self.set.is_divided()
    }

    /// Whether the agent has a revision of the policy whatever rollouts do.
    pub fn is_overridden(&self, uid: InstanceUid, policy: &str) -> bool {
        self.set.override_of(uid, policy).is_some()
    }

    fn packages(&self, matching: &[u32]) -> Option<DesiredOffer> {
        self.set.merge_packages(matching, |file| match &self.locator {
            Some(locator) => locator.locate(file),
            None => false,
        })
    }

    /// The strictest limit of what is most likely going out: the policy that changed last, of those that match, and all that
    /// are being rolled out.
    fn pace(&self, matching: &[u32]) -> Option<Pace> {
        let policies = || matching.iter().map(|&index| &self.set.policies()[index as usize]);
        let newest = policies().max_by_key(|policy| policy.revision.created_at);
        let rolled_out = policies().filter(|policy| matches!(policy.part, Part::Inside(_)));
        let limited = newest.into_iter().chain(rolled_out).filter(|policy| policy.revision.content.max_per_second > 0);
        let strictest = limited.min_by_key(|policy| policy.revision.content.max_per_second)?;
        Some(Pace {
            policy: strictest.name.as_str().into(),
            per_second: strictest.revision.content.max_per_second,
            revised_at: strictest.revision.created_at,
        })
    }

    /// When the newest revision was made.
    pub fn revised_at(&self) -> Option<crate::model::UnixMs> {
        self.set.policies().iter().map(|policy| policy.revision.created_at).max()
    }
}

/// The newest snapshot, shared by whoever decides.
pub struct Policies {
    store: SharedStore,
    opamp_url: Arc<str>,
    package_url: Arc<str>,
    /// `None` until the first load.
    current: ArcSwap<Option<Arc<Snapshot>>>,
    /// Held while reading, so that an older answer never replaces a newer one.
    loading: tokio::sync::Mutex<()>,
}

impl Policies {
    /// `package_url`: in front of the hash of a file that is hosted here; empty if nobody said.
    pub fn new(store: SharedStore, opamp_url: &str, package_url: &str) -> Self {
        Self {
            store,
            opamp_url: opamp_url.into(),
            package_url: package_url.into(),
            current: ArcSwap::default(),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// The snapshot in memory, if one was ever loaded.
    pub fn loaded(&self) -> Option<Arc<Snapshot>> {
        self.current.load().as_ref().clone()
    }

    /// The snapshot in memory, at least of epoch `at_least`; it is read if need be.
    pub async fn get(&self, at_least: u64) -> store::Result<Arc<Snapshot>> {
        if let Some(snapshot) = self.loaded().filter(|snapshot| snapshot.epoch() >= at_least) {
            return Ok(snapshot);
        }
        let _loading = self.loading.lock().await;
        if let Some(snapshot) = self.loaded().filter(|snapshot| snapshot.epoch() >= at_least) {
            return Ok(snapshot);
        }
        self.load().await
    }

    /// The newest snapshot: the store is asked for its epoch, and for the policies if that has moved.
    pub async fn refresh(&self) -> store::Result<Arc<Snapshot>> {
        let _loading = self.loading.lock().await;
        let epoch = self.store.policy_epoch().await?;
        match self.loaded().filter(|snapshot| snapshot.epoch() == epoch) {
            Some(snapshot) => Ok(snapshot),
            None => self.load().await,
        }
    }

    async fn load(&self) -> store::Result<Arc<Snapshot>> {
        let set = self.store.policy_set().await?;
        let locator = match self.package_url.is_empty() {
            true => None,
            false => Some(Locator::new(self.package_url.clone(), Key::new(self.store.package_key().await?))),
        };
        if locator.is_none() && set.offers_hosted_packages() {
            tracing::warn!(
                "packages that are hosted here are not offered: set opamp-url, which says where agents fetch them"
            );
        }
        let snapshot = Arc::new(Snapshot::new(set, self.opamp_url.clone(), locator));
        tracing::debug!(epoch = snapshot.epoch(), policies = snapshot.set.policies().len(), "policies read");
        self.current.store(Arc::new(Some(snapshot.clone())));
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config_service::decide::testing::{policy, uid},
        model::{
            desired::InForce,
            policy::PolicyKind,
            rollout::{Control, Plan, Rollout, Seen, control},
        },
    };

    /// The limit that holds for everybody while `rolled_out` goes out with the one limit, and `others`, each made a second later
    /// and with its own, are there as well.
    fn pace_beside(rolled_out: u32, others: &[u32]) -> Option<u32> {
        let plan = Plan { steps: vec!["100%".parse().unwrap()], ..Plan::default() };
        let pending = Rollout::new(uuid::Uuid::nil(), "p0", PolicyKind::Config, (1, 2), Some(&plan));
        let rollout = control(&pending, Control::PromoteFully, &Seen::default(), "", 0).unwrap();
        let mut in_force = Vec::new();
        for (index, limit) in [rolled_out].iter().chain(others).enumerate() {
            let mut policy = policy(&format!("p{index}"), "", 0, &[("a", "b")]);
            policy.revision.created_at = index as i64 * 1_000;
            policy.revision.content.max_per_second = *limit;
            let part = if index == 0 { Part::Inside(0) } else { Part::Everybody };
            in_force.push(InForce { name: policy.name, kind: policy.kind, revision: policy.revision, part });
        }
        let set = PolicySet::new(1, in_force, vec![rollout.cohort()]);
        let snapshot = Snapshot::new(set, "".into(), None);
        let agent = AgentRecord::new(uid(1), 0);
        snapshot.merged(&agent, &Attributes::default()).pace.map(|pace| pace.per_second)
    }

    #[test]
    fn a_rollout_keeps_its_pace_whatever_is_applied_beside_it() {
        assert_eq!(pace_beside(7, &[]), Some(7));
        assert_eq!(pace_beside(7, &[0]), Some(7), "one without a limit does not lift it");
        assert_eq!(pace_beside(7, &[9]), Some(7));
        assert_eq!(pace_beside(7, &[5]), Some(5), "which goes out as well");
        assert_eq!(pace_beside(7, &[5, 0]), Some(7), "which has gone out");
        assert_eq!(pace_beside(0, &[5]), Some(5));
        assert_eq!(pace_beside(0, &[5, 0]), None);
    }
}
