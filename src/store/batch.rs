//! A batch of agents, ready to be written.

use super::DesiredWrite;
use crate::model::{AgentRecord, InstanceUid, uid::Shard};

/// What is written to the row of one agent.
pub(super) trait Write {
    fn uid(&self) -> InstanceUid;
}

impl Write for AgentRecord {
    fn uid(&self) -> InstanceUid {
        self.uid
    }
}

impl Write for DesiredWrite {
    fn uid(&self) -> InstanceUid {
        self.uid
    }
}

/// Records in the order of their uids, which is that of the index they are looked up in, each uid once.
pub(super) struct Batch<'a, T> {
    pub agents: Vec<&'a T>,
    /// Uids that came more than once: only the first record can have the version that is stored.
    pub repeated: Vec<InstanceUid>,
}

impl<'a, T: Write> Batch<'a, T> {
    pub fn new(agents: &'a [T]) -> Self {
        let mut sorted: Vec<&T> = agents.iter().collect();
        sorted.sort_by_key(|agent| agent.uid());
        let mut repeated = Vec::new();
        sorted.dedup_by(|later, earlier| {
            let same = later.uid() == earlier.uid();
            if same {
                repeated.push(later.uid());
            }
            same
        });
        Self { agents: sorted, repeated }
    }

    /// The uids of records that are not among those written, each once.
    pub fn not_written(self, written: impl Fn(InstanceUid) -> bool) -> Vec<InstanceUid> {
        let mut uids = self.repeated;
        uids.extend(self.agents.iter().map(|agent| agent.uid()).filter(|uid| !written(*uid)));
        uids.sort_unstable();
        uids.dedup();
        uids
    }

    /// The shards of the batch, in order.
    pub fn shards(&self) -> Vec<Shard> {
        let mut shards: Vec<Shard> = self.agents.iter().map(|agent| agent.uid().shard()).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}
