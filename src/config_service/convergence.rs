//! How fast changes of policies reach the agents: for each of the newest changes, how many offers this replica has made because of it,
//! and how many agents have taken theirs up since.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::metrics;
use crate::model::{AgentRecord, UnixMs, offer, offer::Convergence, policy::PolicyKind};

/// Changes that are followed at a time. What comes of older ones is not measured any more.
const MAX_CHANGES: usize = 32;

/// What an agent said of what it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub kind: PolicyKind,
    pub state: Convergence,
}

/// What an agent's report says of offers that were open before.
pub fn answers(before: &AgentRecord, after: &AgentRecord) -> Vec<Answer> {
    let answer = |kind| {
        let (was, is) = (offer::convergence(before, kind), offer::convergence(after, kind));
        let is_same_offer = before.desired.of(kind).hash == after.desired.of(kind).hash;
        let was_open = matches!(was, Convergence::Behind | Convergence::Applying);
        let is_answered = matches!(is, Convergence::Converged | Convergence::Applying | Convergence::Quarantined);
        (is_same_offer && was_open && is_answered && was != is).then_some(Answer { kind, state: is })
    };
    PolicyKind::ALL.into_iter().filter_map(answer).collect()
}

#[derive(Default)]
pub struct Changes(Mutex<VecDeque<Change>>);

struct Change {
    epoch: u64,
    revised_at: UnixMs,
    /// Offers that nobody has taken up yet.
    open: usize,
}

impl Changes {
    /// Offers were made because of the change to this epoch.
    pub fn offered(&self, epoch: u64, revised_at: UnixMs, offers: usize) {
        let mut changes = self.0.lock();
        match changes.iter_mut().find(|change| change.epoch == epoch) {
            Some(change) => change.open += offers,
            None => {
                if changes.len() >= MAX_CHANGES {
                    changes.pop_front();
                }
                changes.push_back(Change { epoch, revised_at, open: offers });
            }
        }
    }

    /// Counts what an agent answered whose desired state is of this epoch.
    pub fn answered(&self, epoch: u64, answer: Answer, now: UnixMs) {
        let state = match answer.state {
            Convergence::Converged => "applied",
            Convergence::Quarantined => "failed",
            _ => "applying",
        };
        ::metrics::counter!(metrics::ANSWERS, "kind" => answer.kind.name(), "state" => state).increment(1);
        if answer.state == Convergence::Converged
            && let Some(revised_at) = self.took_up(epoch)
        {
            let lag = (now - revised_at).max(0) as f64 / 1_000.0;
            ::metrics::histogram!(metrics::CONVERGENCE_SECONDS).record(lag);
        }
    }

    /// When the change was made, if an offer of it is open.
    fn took_up(&self, epoch: u64) -> Option<UnixMs> {
        let mut changes = self.0.lock();
        let change = changes.iter_mut().find(|change| change.epoch == epoch && change.open > 0)?;
        change.open -= 1;
        Some(change.revised_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_measured_as_were_offered() {
        let changes = Changes::default();
        changes.offered(7, 1_000, 1);
        changes.offered(7, 1_000, 1);
        assert_eq!(changes.took_up(6), None);
        assert_eq!([(); 3].map(|()| changes.took_up(7)), [Some(1_000), Some(1_000), None]);
    }

    #[test]
    fn old_changes_are_forgotten() {
        let changes = Changes::default();
        (1..=MAX_CHANGES as u64 + 1).for_each(|epoch| changes.offered(epoch, 1, 1));
        assert_eq!((changes.took_up(1), changes.took_up(2)), (None, Some(1)));
    }
}
