//! Rollouts, and the lease of whoever drives them.

use async_trait::async_trait;
use uuid::Uuid;

use super::{Actor, Result};
use crate::model::{
    UnixMs,
    rollout::{Counts, Rollout},
};

/// The right to drive rollouts, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Larger than that of every holder before.
    pub token: u64,
}

/// The lease of whoever drives rollouts.
pub const ROLLOUT_LEASE: &str = "rollouts";

/// Part of [`super::Store`]. Rollouts are made by applying policies.
#[async_trait]
pub trait RolloutStore {
    /// Those that have not ended.
    async fn open_rollouts(&self) -> Result<Vec<Rollout>>;
    /// The newest rollout of a policy. `NotFound` for a policy that has none.
    async fn get_rollout(&self, policy: &str) -> Result<Rollout>;
    /// Newest first, older than `before`; of one policy, or of all.
    async fn list_rollouts(&self, policy: Option<&str>, before: Option<Uuid>, limit: u32) -> Result<Vec<Rollout>>;
    /// Writes a rollout's next state, if the one before it is stored, and, for a driver, if its lease has not passed to another;
    /// returns whether it was. What agents should have follows in the same transaction.
    async fn write_rollout(&self, next: &Rollout, lease: Option<Lease>, actor: &Actor) -> Result<bool>;
    /// Notes what was seen, if the rollout is still of this version.
    async fn note_rollout(&self, id: Uuid, version: i64, counts: &Counts, seen_at: UnixMs) -> Result<()>;
    /// Takes the lease `name`, or keeps it, until `now` + `ms`; `None` if another holds it.
    async fn take_lease(&self, name: &str, holder: &str, now: UnixMs, ms: i64) -> Result<Option<Lease>>;
}
