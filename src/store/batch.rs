//! A batch of agents, ready to be written.

use crate::model::{AgentRecord, InstanceUid};

/// Records in the order of their uids, which is that of the index they are looked up in, each uid once.
pub(super) struct Batch<'a> {
    pub agents: Vec<&'a AgentRecord>,
    /// Uids that came more than once: only the first record can have the version that is stored.
    pub repeated: Vec<InstanceUid>,
}

impl<'a> Batch<'a> {
    pub fn new(agents: &'a [AgentRecord]) -> Self {
        let mut sorted: Vec<&AgentRecord> = agents.iter().collect();
        sorted.sort_by_key(|agent| agent.uid);
        let mut repeated = Vec::new();
        sorted.dedup_by(|later, earlier| {
            let same = later.uid == earlier.uid;
            if same {
                repeated.push(later.uid);
            }
            same
        });
        Self { agents: sorted, repeated }
    }

    /// The uids of records that are not among those written, each once.
    pub fn not_written(self, written: impl Fn(InstanceUid) -> bool) -> Vec<InstanceUid> {
        let mut uids = self.repeated;
        uids.extend(self.agents.iter().map(|agent| agent.uid).filter(|uid| !written(*uid)));
        uids.sort_unstable();
        uids.dedup();
        uids
    }
}
