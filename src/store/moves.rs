//! Agents that go on under another uid.

use async_trait::async_trait;

use super::Result;
use crate::model::{AgentRecord, InstanceUid, UnixMs};

/// A uid that an agent had before the one that it has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerUid {
    pub former: InstanceUid,
    /// The uid under which the agent is stored.
    pub uid: InstanceUid,
    /// A digest of the message that asked for another uid; 0 if none did.
    pub request: u64,
    /// Nothing was known of the agent under it: several may have used it at a time.
    pub is_temporary: bool,
    pub made_at: UnixMs,
}

/// An agent that is to be stored under another uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub from: InstanceUid,
    /// Of the record that was read.
    pub version: i64,
    pub to: InstanceUid,
    /// As in [`FormerUid`].
    pub request: u64,
    pub now: UnixMs,
}

/// Former uids of one agent that are kept: the newest.
pub const MAX_FORMER_UIDS: u32 = 16;

/// Part of [`super::Store`].
#[async_trait]
pub trait MoveStore {
    /// Stores an agent under another uid, with all that is kept by its uid, and remembers the one that it had. `None`, and nothing
    /// changes, if another writer came first, or there is an agent with that uid.
    ///
    /// What became of commands that are finished stays under the uid that they were for.
    async fn move_agent(&self, step: Move) -> Result<Option<AgentRecord>>;
    /// Remembers uids that agents had under which they were never stored. Of agents that are not stored nothing is kept; neither
    /// is a uid that an agent had under which it was.
    async fn note_former_uids(&self, former: &[FormerUid]) -> Result<()>;
    /// Of those of `uids` that are former ones, in no particular order.
    async fn former_uids(&self, uids: &[InstanceUid]) -> Result<Vec<FormerUid>>;
    /// Forgets temporary uids that were noted before `before`; returns how many.
    async fn forget_former_uids(&self, before: UnixMs) -> Result<u64>;
}
