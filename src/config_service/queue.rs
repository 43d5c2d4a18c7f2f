//! Reports waiting to be taken, at most one of each agent in a batch.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use super::{decide::Resolution, report::Report};
use crate::model::InstanceUid;

/// A report, and the agent that it is to be stored as: usually, but not always, the report's own uid.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub uid: InstanceUid,
    pub report: Report,
    pub resolution: Option<Resolution>,
}

impl Item {
    pub fn new(report: Report) -> Self {
        Self { uid: report.uid, report, resolution: None }
    }

    pub fn resolved((report, resolution): (Report, Resolution)) -> Self {
        Self { uid: report.uid, report, resolution: Some(resolution) }
    }
}

#[derive(Default)]
pub struct Queue {
    items: VecDeque<Item>,
    /// Of the items' messages.
    bytes: usize,
}

impl Queue {
    pub fn push(&mut self, item: Item) {
        self.bytes += item.report.message.len();
        self.items.push_back(item);
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The next batch, of no more than `size` reports, and full once it has `bytes` of messages. Of several reports of one
    /// connection the newest is taken: it has all that the others have. Of reports of different connections the oldest
    /// connection's goes first, and the others stay for a later batch.
    pub fn take(&mut self, size: usize, bytes: usize) -> Vec<Item> {
        let mut batch: Vec<Item> = Vec::with_capacity(size.min(self.items.len()));
        let mut places = HashMap::new();
        let mut later = VecDeque::new();
        let mut taken_bytes = 0;
        while batch.len() < size
            && taken_bytes < bytes
            && let Some(item) = self.items.pop_front()
        {
            taken_bytes += item.report.message.len();
            match places.entry(item.uid) {
                Entry::Vacant(place) => {
                    place.insert(batch.len());
                    batch.push(item);
                }
                Entry::Occupied(place) => later.extend(combine(&mut batch[*place.get()], item)),
            }
        }
        later.append(&mut self.items);
        self.items = later;
        self.bytes = self.items.iter().map(|item| item.report.message.len()).sum();
        batch
    }
}

/// Puts `other` into `first` if both are of one connection; else leaves the older connection's there and returns the rest.
fn combine(first: &mut Item, mut other: Item) -> Option<Item> {
    if (&first.report.gateway, first.report.generation) == (&other.report.gateway, other.report.generation) {
        if first.report.number < other.report.number {
            std::mem::swap(first, &mut other);
        }
        first.resolution = first.resolution.take().or(other.resolution);
        return None;
    }
    if other.report.generation < first.report.generation {
        std::mem::swap(first, &mut other);
    }
    Some(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_service::decide::{
        Connection, Found,
        testing::{report, uid},
    };

    fn summary(batch: &[Item]) -> Vec<(u8, u64, u64)> {
        batch.iter().map(|item| (item.uid.as_bytes()[0], item.report.generation, item.report.number)).collect()
    }

    #[test]
    fn one_report_an_agent_the_oldest_connection_first() {
        let mut queue = Queue::default();
        for (n, generation, number) in [(1, 20, 1), (2, 5, 1), (1, 10, 7), (2, 5, 3), (2, 5, 2), (3, 1, 1)] {
            queue.push(Item::new(report("g", n, generation, number)));
        }
        assert_eq!(summary(&queue.take(10, usize::MAX)), [(1, 10, 7), (2, 5, 3), (3, 1, 1)]);
        assert_eq!(summary(&queue.take(10, usize::MAX)), [(1, 20, 1)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_batch_is_no_larger_than_asked_and_nothing_is_lost() {
        let mut queue = Queue::default();
        for n in 1..=5 {
            queue.push(Item::new(report("g", n, 1, 1)));
        }
        let taken: Vec<usize> =
            std::iter::from_fn(|| Some(queue.take(2, usize::MAX).len()).filter(|&n| n > 0)).collect();
        assert_eq!(taken, [2, 2, 1]);
    }

    #[test]
    fn a_batch_is_full_when_it_has_so_many_bytes() {
        let mut queue = Queue::default();
        for n in 1..=3 {
            queue.push(Item::new(Report { message: vec![0; 60].into(), ..report("g", n, 1, 1) }));
        }
        assert_eq!(queue.bytes(), 180);
        assert_eq!((queue.take(10, 100).len(), queue.bytes()), (2, 60));
        assert_eq!((queue.take(10, 1).len(), queue.bytes()), (1, 0), "one is always taken");
    }

    #[test]
    fn a_resolution_stays_with_its_connection() {
        let mut queue = Queue::default();
        let of = Connection { gateway: "old".into(), generation: 1 };
        let resolution = Resolution { of, found: Found::Alive };
        queue.push(Item::resolved((report("g", 1, 2, 1), resolution.clone())));
        queue.push(Item::new(report("g", 1, 2, 2)));
        let expected = Item { uid: uid(1), report: report("g", 1, 2, 2), resolution: Some(resolution) };
        assert_eq!(queue.take(10, usize::MAX), [expected]);
    }
}
