//! Spans of what is done for reports and for changes.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use super::queue::Item;
use crate::{
    model::{
        InstanceUid,
        command::{Command, CommandId},
        rollout::Rollout,
    },
    trace::{self, Kind, Parent, Span},
};

/// Reports of one batch that are traced; of the others in it nothing is recorded, nor told to gateways.
const MAX_TRACED_REPORTS: usize = 64;
/// Spans below that of one change, in this process.
const MAX_SPANS: u32 = 500;
/// Operators' calls that are remembered as causes,
const MAX_CAUSES: usize = 256;
/// and how often each is.
const MAX_EFFECTS: u32 = 100;

/// The traced reports of a batch. They are taken together: what is done for the batch is shown in the first one's trace, and
/// the others' spans refer to that.
#[derive(Default)]
pub struct Batch {
    spans: Vec<Span>,
}

/// What travels with the verdicts on them.
pub type Parents = HashMap<InstanceUid, Parent>;

impl Batch {
    pub fn new(items: &[Item]) -> (Self, Parents) {
        let (mut batch, mut parents) = (Self::default(), Parents::default());
        let traced = items.iter().filter(|item| item.report.trace.is_some()).take(MAX_TRACED_REPORTS);
        for Item { report, .. } in traced {
            let span = match batch.spans.first() {
                None => trace::follow(report.trace, "take report", Kind::Consumer),
                Some(first) => trace::follow_beside(report.trace, "take report", Kind::Consumer, first),
            };
            let span = span
                .with("muster.agent.uid", || report.uid.to_string())
                .with("muster.gateway", || report.gateway.to_string())
                .with("muster.batch.reports", || items.len() as i64);
            if let Some(parent) = span.parent() {
                parents.insert(report.uid, parent);
                batch.spans.push(span);
            }
        }
        (batch, parents)
    }

    /// Does the batch's work.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        match self.spans.first() {
            Some(first) => first.run(work).await,
            None => work.await,
        }
    }

    pub fn failed(&self, why: &str) {
        self.spans.iter().for_each(|span| span.failed(|| why.to_owned()));
    }
}

/// The change that a hint told of last, if it is traced. Reconcilers take no input: this only says, of what they find to do, why
/// it is most likely there.
#[derive(Default)]
pub struct Change(Mutex<Hinted>);

#[derive(Default)]
struct Hinted {
    last: Option<(u64, Parent)>,
    /// The epoch up to which everything is done.
    done: u64,
}

impl Change {
    /// Of policies, to this epoch; or of agents, with 0.
    pub fn hinted(&self, epoch: u64, parent: Option<Parent>) {
        let mut hinted = self.0.lock();
        if let Some(parent) = parent.filter(|_| epoch == 0 || epoch > hinted.done) {
            hinted.last = Some((epoch, parent));
        }
    }

    /// A span for work that brings what is in force at `epoch`.
    pub fn span(&self, name: &'static str, epoch: u64) -> Span {
        let parent = self.0.lock().last.as_ref().filter(|(hinted, _)| *hinted <= epoch).map(|(_, parent)| *parent);
        trace::follow(parent, name, Kind::Consumer).limited(MAX_SPANS)
    }

    /// That work is done.
    pub fn done(&self, epoch: u64) {
        let mut hinted = self.0.lock();
        hinted.last.take_if(|(hinted, _)| *hinted <= epoch);
        hinted.done = hinted.done.max(epoch);
    }
}

/// The calls that set the last few commands and rollouts going, as hints told. As with [`Change`], they only say why.
pub struct Causes<K>(Mutex<VecDeque<Cause<K>>>);

struct Cause<K> {
    of: K,
    call: Parent,
    /// How often it may still be named, so that no trace grows with the fleet.
    left: u32,
}

impl<K> Default for Causes<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq> Causes<K> {
    pub fn note(&self, of: K, call: Parent) {
        let mut causes = self.0.lock();
        causes.retain(|cause| cause.of != of);
        if causes.len() >= MAX_CAUSES {
            causes.pop_front();
        }
        causes.push_back(Cause { of, call, left: MAX_EFFECTS });
    }

    /// For one span more.
    pub fn of(&self, what: &K) -> Option<Parent> {
        let mut causes = self.0.lock();
        let cause = causes.iter_mut().find(|cause| cause.of == *what)?;
        cause.left = cause.left.checked_sub(1)?;
        Some(cause.call)
    }
}

/// What a rollout does next. It begins a trace, for that may be days after its policy was applied.
pub fn rollout_step(next: &Rollout, causes: &Causes<String>) -> Span {
    trace::consequence("rollout step", causes.of(&next.policy))
        .with("muster.policy", || next.policy.clone())
        .with("muster.policy.revision", || next.revision as i64)
        .with("muster.rollout.state", || next.state.name())
        .with("muster.rollout.step", || i64::from(next.step))
        .with("muster.rollout.reason", || next.reason.clone())
}

/// Handing a command to gateways for some of its agents.
pub fn command(command: &Command, agents: usize, causes: &Causes<CommandId>) -> Span {
    trace::follow(causes.of(&command.id), "bring command to agents", Kind::Internal)
        .with("muster.command.id", || command.id.to_string())
        .with("muster.command.agents", || agents as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_causes_are_remembered_and_named_so_often() {
        let call = |byte| Parent::from_slice(&[byte; 25]).unwrap();
        let causes = Causes::default();
        causes.note(0, call(1));
        causes.note(0, call(3));
        assert_eq!(causes.of(&0), Some(call(3)), "the last call counts");
        assert_eq!((1..=MAX_EFFECTS).filter_map(|_| causes.of(&0)).count(), MAX_EFFECTS as usize - 1);
        (1..=MAX_CAUSES).for_each(|key| causes.note(key, call(5)));
        assert_eq!((causes.of(&0), causes.of(&1)), (None, Some(call(5))));
        assert_eq!(causes.0.lock().len(), MAX_CAUSES);
    }

    #[test]
    fn a_change_is_told_of_until_it_is_done() {
        let parent = Parent::from_slice(&[1; 25]);
        let change = Change::default();
        change.hinted(3, parent);
        change.hinted(4, None);
        change.done(2);
        assert_eq!(change.0.lock().last, parent.map(|parent| (3, parent)), "a hint without a trace takes nothing away");
        change.done(3);
        assert_eq!(change.0.lock().last, None);
        change.hinted(3, parent);
        assert_eq!(change.0.lock().last, None, "a hint that comes late tells of nothing");
        change.hinted(0, parent);
        assert_eq!(change.0.lock().last, parent.map(|parent| (0, parent)));
    }
}
