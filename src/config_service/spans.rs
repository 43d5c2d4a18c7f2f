//! Spans of what is done for reports and for changes.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::queue::Item;
use crate::{
    model::InstanceUid,
    trace::{self, Kind, Parent, Span},
};

/// Reports of one batch that are traced; of the others in it nothing is recorded, nor told to gateways.
const MAX_TRACED_REPORTS: usize = 64;
/// Spans below that of one change, in this process.
const MAX_SPANS: u32 = 500;

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
pub struct Change(Mutex<Option<(u64, Parent)>>);

impl Change {
    /// Of policies, to this epoch; or of agents, with 0.
    pub fn hinted(&self, epoch: u64, parent: Option<Parent>) {
        if let Some(parent) = parent {
            *self.0.lock() = Some((epoch, parent));
        }
    }

    /// A span for work that brings what is in force at `epoch`.
    pub fn span(&self, name: &'static str, epoch: u64) -> Span {
        let parent = self.0.lock().as_ref().filter(|(hinted, _)| *hinted <= epoch).map(|(_, parent)| *parent);
        trace::follow(parent, name, Kind::Consumer).limited(MAX_SPANS)
    }

    /// That work is done.
    pub fn done(&self, epoch: u64) {
        self.0.lock().take_if(|(hinted, _)| *hinted <= epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_of_until_it_is_done() {
        let parent = Parent::from_slice(&[1; 25]);
        let change = Change::default();
        change.hinted(3, parent);
        change.hinted(4, None);
        change.done(2);
        assert_eq!(change.0.lock().map(|(epoch, _)| epoch), Some(3), "a hint without a trace takes nothing away");
        change.done(3);
        assert!(change.0.lock().is_none());
    }
}
