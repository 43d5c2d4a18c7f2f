//! Openings held back until it is known whether the agent's older connection lives.
//!
//! Only memory: what is held is not acknowledged, so its gateway repeats it if this replica dies.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    decide::{Connection, Found, Resolution},
    report::Report,
};
use crate::model::InstanceUid;

/// A gateway that lets go of a connection, and gives no last number, has still to say what it had not delivered: that is
/// about to come as the connection's last report. Longer than gateways collect reports for, shorter than openings wait
/// for their verdict.
const LAST_WORDS: Duration = Duration::from_millis(150);

pub struct Openings {
    by_uid: HashMap<InstanceUid, Held>,
    /// The deadline of each that is held.
    deadlines: BTreeSet<(Instant, InstanceUid)>,
    /// Of the messages of what is held.
    bytes: usize,
    capacity: usize,
    max_bytes: usize,
    patience: Duration,
}

struct Held {
    report: Report,
    probed: Connection,
    deadline: Instant,
    /// What is known if the deadline comes first.
    found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Send a probe.
    Started,
    /// A probe is under way.
    Known,
    /// No room, or another newcomer is waiting for the same agent. The report will come again.
    Refused,
}

impl Openings {
    pub fn new(capacity: usize, max_bytes: usize, patience: Duration) -> Self {
        Self { by_uid: HashMap::new(), deadlines: BTreeSet::new(), bytes: 0, capacity, max_bytes, patience }
    }

    pub fn len(&self) -> usize {
        self.by_uid.len()
    }

    /// Holds `report`, the opening of a newcomer, until `probed` has been asked.
    pub fn hold(&mut self, mut report: Report, probed: Connection, now: Instant) -> Hold {
        let held_bytes = self.by_uid.get(&report.uid).map_or(0, |held| held.report.message.len());
        if self.bytes - held_bytes + report.message.len() > self.max_bytes {
            return Hold::Refused;
        }
        // The message is a slice of its whole batch, which need not be kept as long.
        report.message = Bytes::copy_from_slice(&report.message);
        let uid = report.uid;
        if let Some(held) = self.by_uid.get_mut(&uid)
            && held.probed == probed
        {
            if (&held.report.gateway, held.report.generation) != (&report.gateway, report.generation) {
                return Hold::Refused;
            }
            if held.report.number < report.number {
                self.bytes = self.bytes - held_bytes + report.message.len();
                held.report = report;
            }
            return Hold::Known;
        }
        if self.by_uid.len() >= self.capacity && !self.by_uid.contains_key(&uid) {
            return Hold::Refused;
        }
        let deadline = now + self.patience;
        self.remove(uid);
        self.bytes += report.message.len();
        self.by_uid.insert(uid, Held { report, probed, deadline, found: Found::Silent });
        self.deadlines.insert((deadline, uid));
        Hold::Started
    }

    /// Takes the answer of a probe of `generation`; gives back what was held for it.
    pub fn resolve(
        &mut self,
        uid: InstanceUid,
        generation: u64,
        found: Found,
        now: Instant,
    ) -> Option<(Report, Resolution)> {
        let held = self.by_uid.get_mut(&uid).filter(|held| held.probed.generation == generation)?;
        if found == (Found::Gone { last_sequence_num: None }) {
            let deadline = held.deadline.min(now + LAST_WORDS);
            self.deadlines.remove(&(held.deadline, uid));
            self.deadlines.insert((deadline, uid));
            (held.deadline, held.found) = (deadline, found);
            return None;
        }
        self.remove(uid).map(|held| (held.report, Resolution { of: held.probed, found }))
    }

    /// Takes note that the record of `uid` has changed: what was held is to be decided again if it has moved beyond the
    /// connection that was asked about, or if that has ended.
    pub fn changed(&mut self, uid: InstanceUid, generation: u64, connected: bool) -> Option<Report> {
        let held = self.by_uid.get(&uid)?;
        let is_settled = generation > held.probed.generation || !connected;
        is_settled.then(|| self.remove(uid).map(|held| held.report)).flatten()
    }

    /// When the first probe times out.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// What was held for probes that were not answered in time: those connections are taken for gone.
    pub fn expired(&mut self, now: Instant) -> Vec<(Report, Resolution)> {
        let mut expired = Vec::new();
        while let Some((_, uid)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            let Some(held) = self.remove(uid) else {
                break;
            };
            expired.push((held.report, Resolution { of: held.probed, found: held.found }));
        }
        expired
    }

    fn remove(&mut self, uid: InstanceUid) -> Option<Held> {
        let held = self.by_uid.remove(&uid)?;
        self.deadlines.remove(&(held.deadline, uid));
        self.bytes -= held.report.message.len();
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_service::decide::testing;

    fn connection(generation: u64) -> Connection {
        Connection { gateway: "old".into(), generation }
    }

    fn openings(capacity: usize) -> Openings {
        Openings::new(capacity, 1_000, Duration::from_secs(3))
    }

    #[test]
    fn no_more_bytes_are_held_than_there_is_room_for() {
        let (mut openings, now) = (openings(10), Instant::now());
        let report =
            |n, number, bytes| Report { message: vec![0; bytes].into(), ..testing::report("new", n, 20, number) };
        assert_eq!(openings.hold(report(1, 1, 600), connection(10), now), Hold::Started);
        assert_eq!(openings.hold(report(2, 1, 500), connection(10), now), Hold::Refused);
        assert_eq!(openings.hold(report(1, 2, 900), connection(10), now), Hold::Known, "in place of the first");
        assert_eq!(openings.hold(report(2, 1, 200), connection(10), now), Hold::Refused);
        assert_eq!(openings.expired(now + Duration::from_secs(3)).len(), 1);
        assert_eq!(openings.hold(report(2, 1, 1_000), connection(10), now), Hold::Started);
        assert_eq!(openings.bytes, 1_000);
    }

    #[test]
    fn a_repeat_replaces_what_is_held_and_probes_once() {
        let (mut openings, now) = (openings(10), Instant::now());
        let report = testing::report("new", 1, 20, 1);
        assert_eq!(openings.hold(report.clone(), connection(10), now), Hold::Started);
        assert_eq!(openings.hold(Report { number: 2, ..report.clone() }, connection(10), now), Hold::Known);
        assert_eq!(openings.hold(testing::report("third", 1, 30, 1), connection(10), now), Hold::Refused);
        assert_eq!(openings.resolve(report.uid, 9, Found::Alive, now), None);
        let (held, resolution) = openings.resolve(report.uid, 10, Found::Alive, now).unwrap();
        assert_eq!((held.number, resolution.of), (2, connection(10)));
        assert!(openings.expired(now + Duration::from_secs(9)).is_empty());
    }

    #[test]
    fn what_is_not_answered_expires_once_and_no_earlier() {
        let (mut openings, now) = (openings(10), Instant::now());
        openings.hold(testing::report("new", 1, 20, 1), connection(10), now);
        assert!(openings.expired(now + Duration::from_millis(2_999)).is_empty());
        let expired = openings.expired(now + Duration::from_secs(3));
        assert_eq!(expired[0].1.found, Found::Silent);
        assert_eq!((openings.len(), openings.next_deadline()), (0, None));
    }

    #[test]
    fn a_connection_let_go_without_its_number_may_still_say_its_last_words() {
        let (mut openings, now) = (openings(10), Instant::now());
        let report = testing::report("new", 1, 20, 1);
        openings.hold(report.clone(), connection(10), now);
        let gone = Found::Gone { last_sequence_num: None };
        assert_eq!(openings.resolve(report.uid, 10, gone, now), None);
        assert_eq!(openings.next_deadline(), Some(now + LAST_WORDS));
        assert!(openings.changed(report.uid, 10, false).is_some());
        assert_eq!(openings.next_deadline(), None);
        openings.hold(report.clone(), connection(10), now);
        openings.resolve(report.uid, 10, gone, now);
        assert_eq!(openings.expired(now + LAST_WORDS)[0].1.found, gone, "it has answered");
    }

    #[test]
    fn no_more_are_held_than_there_is_room_for() {
        let (mut openings, now) = (openings(1), Instant::now());
        assert_eq!(openings.hold(testing::report("new", 1, 20, 1), connection(10), now), Hold::Started);
        assert_eq!(openings.hold(testing::report("new", 2, 20, 1), connection(10), now), Hold::Refused);
        // The record moved on: the same agent is asked about at its present place.
        assert_eq!(openings.hold(testing::report("new", 1, 20, 1), connection(11), now), Hold::Started);
        let uid = testing::uid(1);
        assert_eq!(openings.changed(uid, 11, true), None);
        assert!(openings.changed(uid, 11, false).is_some());
    }
}
