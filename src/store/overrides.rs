//! Overrides: agents that have a revision of a policy whatever rollouts do.

use async_trait::async_trait;

use super::{Actor, Result};
use crate::model::{InstanceUid, UnixMs, overrides::Override};

/// Overrides of one policy, made or replaced together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOverrides {
    pub policy: String,
    /// Each agent once.
    pub agents: Vec<NewOverride>,
    /// Whether they are held on what they had, rather than pinned.
    pub is_hold: bool,
    /// Why, in the operator's words.
    pub message: String,
    pub expires_at: Option<UnixMs>,
    /// Only if the policies are still those of this epoch, by which the revisions were found.
    pub epoch: Option<u64>,
    pub validate_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewOverride {
    pub uid: InstanceUid,
    /// By which policies know it: see [`crate::model::desired::PolicySet::matching`].
    pub placement: InstanceUid,
    /// 0: nothing of the policy.
    pub revision: u64,
}

/// Which overrides to list; `None` does not restrict.
#[derive(Clone, Copy, Debug, Default)]
pub struct OverrideFilter<'a> {
    pub policy: Option<&'a str>,
    pub uid: Option<InstanceUid>,
}

/// Part of [`super::Store`]. Overrides are a part of the policies, and change with an epoch. They go with their policy and with
/// their agent.
#[async_trait]
pub trait OverrideStore {
    /// Returns how many are new or differ from before; of none, nothing is written. `None`, and nothing is written, if the policies
    /// have changed since [`NewOverrides::epoch`]. `NotFound` of kind `policy`, `revision`, `package file` (of a revision that has
    /// one that was deleted) or `agent`; `TooMany` beyond [`crate::model::overrides::MAX_OVERRIDES`].
    async fn set_overrides(&self, new: &NewOverrides, actor: &Actor) -> Result<Option<u64>>;
    /// Returns how many there were. `NotFound` of kind `policy`.
    async fn clear_overrides(&self, policy: &str, agents: &[InstanceUid], actor: &Actor) -> Result<u64>;
    /// Clears those that have expired at `now`; returns how many.
    async fn expire_overrides(&self, now: UnixMs) -> Result<u64>;
    /// In the order of policies and agents, after `after`.
    async fn list_overrides(
        &self,
        filter: OverrideFilter<'_>,
        after: Option<(&str, InstanceUid)>,
        limit: u32,
    ) -> Result<Vec<Override>>;
}
