//! Taking reports: in batches, each read, decided and written at once, and answered when it is durable.
//!
//! A report that cannot be taken is not answered, and comes again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    announcements,
    certificates::{self, Facts},
    comparisons,
    convergence::Answer,
    decide::{Connection, Context, Decided, Found, Outcome, decide},
    metrics,
    moves::{self, Found as Predecessor},
    openings::{Hold, Openings},
    outbox::Letters,
    policies::{Pace, Snapshot},
    queue::{Item, Queue},
    report::Report,
    room::{Room, Taken},
    shared::{Outage, Shared, isolated, isolated_agent, unix_ms},
    spans,
    waiting::Lane,
};
use crate::{
    bus::Role,
    model::{AgentRecord, ContentHash, InstanceUid},
    proto::bus,
    protocol::message::tag,
    store::{self, FormerUid},
};

/// How often a record that another replica wrote first is decided again before its report is left to come again.
const MAX_ROUNDS: usize = 5;
/// A batch has no more bytes of messages than this, but for its last report: it is one statement, which databases limit, and large
/// ones hold up the small.
const MAX_BATCH_BYTES: usize = 16 << 20;
/// After a failure of the store, the next attempt waits so long.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// What a gateway sent for one shard.
pub struct Input {
    pub reports: Vec<Report>,
    pub probe_results: Vec<(InstanceUid, bus::ProbeResult)>,
    /// The room that the reports take up while they wait.
    room: Taken,
}

/// The way to a worker, with a bound on the reports that wait there.
pub struct Sender {
    pub inputs: mpsc::UnboundedSender<Input>,
    pub room: Room,
}

impl Sender {
    pub fn send(&self, reports: Vec<Report>, probe_results: Vec<(InstanceUid, bus::ProbeResult)>) {
        let count = reports.len();
        let bytes = reports.iter().map(|report| report.message.len()).sum();
        ::metrics::counter!(metrics::REPORTS).increment(count as u64);
        match self.room.try_take(count + probe_results.len(), bytes) {
            // Fails only when the service stops.
            Some(room) => drop(self.inputs.send(Input { reports, probe_results, room })),
            None => ::metrics::counter!(metrics::REPORTS_DROPPED).increment(count as u64),
        }
    }
}

/// Takes the reports of some of the shards, one batch after the other.
pub struct Worker {
    shared: Arc<Shared>,
    number: usize,
    inputs: mpsc::UnboundedReceiver<Input>,
    queue: Queue,
    openings: Openings,
    outage: Outage,
}

/// What came of one batch.
#[derive(Default)]
struct Results {
    letters: Letters,
    verdicts: u64,
    /// Written, with a difference that an operator can see.
    visible: Vec<InstanceUid>,
    written: Vec<Written>,
    /// With the epoch of the agent's desired state.
    answers: Vec<(u64, Answer)>,
    /// To be decided in the next batch.
    again: Vec<Item>,
    /// Uids that new agents had before they were stored.
    former: Vec<FormerUid>,
    /// The policies that were decided by.
    epoch: u64,
    traces: spans::Parents,
}

struct Written {
    uid: InstanceUid,
    generation: u64,
    connected: bool,
    /// The agent does not know its uid yet.
    is_renamed: bool,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, number: usize, inputs: mpsc::UnboundedReceiver<Input>) -> Self {
        let config = &shared.config;
        let bytes = config.queue_bytes / config.ingest_workers.max(1);
        let openings = Openings::new(config.held_openings, bytes, config.probe_timeout);
        Self { shared, number, inputs, queue: Queue::default(), openings, outage: Outage::new("taking reports") }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let deadline = self.openings.next_deadline();
            tokio::select! {
                () = stop.cancelled() => break,
                input = self.inputs.recv() => match input {
                    Some(input) => self.accept(input),
                    None => break,
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            }
            self.gather().await;
            if self.openings.next_deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                // The answer may be here, behind what else has come.
                while let Ok(input) = self.inputs.try_recv() {
                    self.accept(input);
                }
            }
            for expired in self.openings.expired(Instant::now()) {
                ::metrics::counter!(metrics::PROBES, "found" => "no_answer").increment(1);
                self.queue.push(Item::resolved(expired));
            }
            while !self.queue.is_empty() && !stop.is_cancelled() {
                self.take_batch().await;
            }
            let gauge = ::metrics::gauge!(metrics::HELD_OPENINGS, "worker" => self.number.to_string());
            gauge.set(self.openings.len() as f64);
        }
    }

    /// Waits a moment for the batch to fill.
    async fn gather(&mut self) {
        let deadline = Instant::now() + self.shared.config.batch_wait;
        while self.queue.len() < self.shared.config.batch_size
            && self.queue.bytes() < MAX_BATCH_BYTES
            && let Ok(Some(input)) = timeout_at(deadline, self.inputs.recv()).await
        {
            self.accept(input);
        }
    }

    fn accept(&mut self, input: Input) {
        let Input { reports, probe_results, room } = input;
        // Reports first: what a gateway has still to say of the connection that was asked about precedes its answer.
        reports.into_iter().for_each(|report| self.queue.push(Item::new(report)));
        for (uid, result) in probe_results {
            let found = match result.alive {
                true => Found::Alive,
                false => Found::Gone { last_sequence_num: result.last_sequence_num },
            };
            if let Some(resolved) = self.openings.resolve(uid, result.connection_generation, found, Instant::now()) {
                let found = if result.alive { "alive" } else { "gone" };
                ::metrics::counter!(metrics::PROBES, "found" => found).increment(1);
                self.queue.push(Item::resolved(resolved));
            }
        }
        drop(room);
    }

    async fn take_batch(&mut self) {
        let items = self.queue.take(self.shared.config.batch_size, MAX_BATCH_BYTES);
        ::metrics::histogram!(metrics::BATCH_REPORTS).record(items.len() as f64);
        let started = Instant::now();
        let (spans, traces) = spans::Batch::new(&items);
        let mut results = Results { traces, ..Results::default() };
        let rounds = isolated("batch of reports", spans.run(self.rounds(items, &mut results))).await;
        let is_stored = rounds.map(|result| self.outage.note(result).is_some());
        if is_stored != Some(true) {
            spans.failed("not stored; the reports come again");
        }
        if is_stored == Some(false) {
            tokio::time::sleep(FAILURE_PAUSE).await;
        }
        ::metrics::histogram!(metrics::BATCH_SECONDS).record(started.elapsed().as_secs_f64());
        spans.run(self.publish(results)).await;
    }

    /// Decides and writes until every record is written, or has been written by others too often.
    async fn rounds(&mut self, mut items: Vec<Item>, results: &mut Results) -> store::Result<()> {
        for _ in 0..MAX_ROUNDS {
            items = Box::pin(self.round(items, results)).await?;
            if items.is_empty() {
                return Ok(());
            }
            ::metrics::counter!(metrics::CONFLICTS).increment(items.len() as u64);
        }
        tracing::debug!(reports = items.len(), "others keep writing these agents; the reports will come again");
        Ok(())
    }

    /// Returns the items whose records another writer wrote first.
    async fn round(&mut self, items: Vec<Item>, results: &mut Results) -> store::Result<Vec<Item>> {
        let uids: Vec<InstanceUid> = items.iter().map(|item| item.uid).collect();
        let rows = self.shared.store.read_agents(&uids).await?;
        let epoch = rows.iter().map(|row| row.desired.epoch).max().unwrap_or(0);
        let policies = self.shared.policies.get(epoch).await?;
        results.epoch = policies.epoch();
        let mut rows: HashMap<InstanceUid, AgentRecord> = rows.into_iter().map(|row| (row.uid, row)).collect();
        let (items, mut conflicts) = self.follow_moves(items, &mut rows, results).await?;
        let mut decided = Vec::new();
        for item in items {
            let row = rows.remove(&item.uid);
            match self.decide_with_certificates(&item, row, &policies).await? {
                Some(Outcome::Write(outcome)) => decided.push((item, *outcome)),
                Some(Outcome::Answer(verdict)) => {
                    if verdict.refuses_certificate {
                        self.tell_refused(&item.report, &verdict.refusal, results).await;
                    }
                    results.answer(&item.report.gateway, verdict);
                }
                Some(Outcome::Probe(connection)) => self.probe(item.uid, connection, item.report, results),
                Some(Outcome::StoreUnder(uid)) => {
                    tracing::info!(agent = %item.report.uid, new_uid = %uid, "two live agents have one uid");
                    results.again.push(Item { uid, ..item });
                }
                None => {}
            }
        }
        conflicts.extend(self.write(decided, results).await?);
        Ok(conflicts)
    }

    /// Sees to those of `items` that have no row under their uid, but may have one under another. Returns those that are to be
    /// decided on now, and those whose records others are writing.
    async fn follow_moves(
        &mut self,
        items: Vec<Item>,
        rows: &mut HashMap<InstanceUid, AgentRecord>,
        results: &mut Results,
    ) -> store::Result<(Vec<Item>, Vec<Item>)> {
        let unknown: Vec<&Item> = items.iter().filter(|item| !rows.contains_key(&item.uid)).collect();
        let mut found = Box::pin(moves::find(&self.shared, &unknown)).await?;
        let (mut now, mut conflicts) = (Vec::with_capacity(items.len()), Vec::new());
        for item in items {
            match found.remove(&item.uid) {
                None => now.push(item),
                Some(Predecessor::Nothing(former)) => {
                    results.former.extend(former);
                    now.push(item);
                }
                Some(Predecessor::Moved(row, from)) => {
                    results.visible.extend([from, row.uid]);
                    results.took_over(from, &item);
                    rows.insert(row.uid, *row);
                    now.push(item);
                }
                Some(Predecessor::Asks(uid, connection)) => self.probe(uid, connection, item.report, results),
                Some(Predecessor::Given(uid)) => results.again.push(Item { uid, ..item }),
                Some(Predecessor::Stale) => results.answer(&item.report.gateway, item.report.acknowledged()),
                Some(Predecessor::Conflict) => conflicts.push(item),
            }
        }
        Ok((now, conflicts))
    }

    /// Holds an opening back while it is asked whether the agent `uid` still has its other connection.
    fn probe(&mut self, uid: InstanceUid, connection: Connection, report: Report, results: &mut Results) {
        let probe = bus::Probe {
            instance_uid: uid.to_bytes(),
            connection_generation: connection.generation,
            newcomer_uid: report.uid.to_bytes(),
        };
        let gateway = connection.gateway.clone();
        if self.openings.hold(report, connection, Instant::now()) == Hold::Started {
            results.letters.to(&gateway).probes.push(probe);
        }
    }

    /// The other gateways are told too that a certificate is not believed any more: who shows it goes to them next.
    async fn tell_refused(&self, report: &Report, reason: &str, results: &mut Results) {
        let Some(serial) = report.certificate else { return };
        let refused = bus::RefusedCertificate { serial: serial.to_vec().into(), reason: reason.to_owned() };
        // While they are not known they find out when they are shown it.
        let gateways = self.shared.bus.members(Role::Gateway).await.unwrap_or_default();
        for gateway in gateways.iter().filter(|gateway| **gateway != *report.gateway) {
            results.letters.to(gateway).refused_certificates.push(refused.clone());
        }
    }

    /// Once it is known whose report it is, and if it has to do with certificates, those are looked up or issued.
    async fn decide_with_certificates(
        &self,
        item: &Item,
        row: Option<AgentRecord>,
        policies: &Snapshot,
    ) -> store::Result<Option<Outcome>> {
        let report = &item.report;
        let is_about_certificates = report.certificate.is_some() && report.opening.is_some()
            || report.carries(tag::CONNECTION_SETTINGS_REQUEST);
        let known = if is_about_certificates { row.clone() } else { None };
        let outcome = isolated_agent("report", item.uid, || self.decide(item, row, policies, None));
        if !is_about_certificates || !matches!(outcome, Some(Outcome::Write(_) | Outcome::Answer(_))) {
            return Ok(outcome);
        }
        let facts = Box::pin(certificates::facts(&self.shared, item.uid, known.as_ref(), report)).await?;
        Ok(match &facts {
            None => outcome,
            facts => isolated_agent("report", item.uid, || self.decide(item, known, policies, facts.as_ref())),
        })
    }

    fn decide(
        &self,
        item: &Item,
        row: Option<AgentRecord>,
        policies: &Snapshot,
        certificates: Option<&Facts>,
    ) -> Outcome {
        let is_gateway_dead = |gateway: &str| self.shared.gateways.is_dead(gateway);
        let may_offer =
            |pace: Option<&Pace>| Lane::of(pace, &self.shared.config).is_none_or(|lane| lane.may_go_now(&self.shared));
        let is_gateway_dead = &is_gateway_dead;
        let context = Context { policies, certificates, now: unix_ms(), is_gateway_dead, may_offer: &may_offer };
        decide(item.uid, row, &item.report, item.resolution.as_ref(), &context)
    }

    async fn write(&self, mut decided: Vec<(Item, Decided)>, results: &mut Results) -> store::Result<Vec<Item>> {
        if decided.is_empty() {
            return Ok(Vec::new());
        }
        // In one order everywhere, so that two replicas do not wait for each other.
        decided.sort_unstable_by_key(|(item, _)| item.uid);
        self.shared.bodies.store(&self.shared.store, decided.iter().map(|(_, decided)| &decided.meaning)).await?;
        let mut contents: HashMap<ContentHash, Bytes> = HashMap::new();
        for (_, outcome) in &mut decided {
            contents.extend(outcome.contents.take());
        }
        let is_new = |decided: &&mut Decided| decided.to_compare;
        let mut new: Vec<&mut Decided> = decided.iter_mut().map(|(_, decided)| decided).filter(is_new).collect();
        comparisons::judge(&self.shared, new.iter_mut().map(|decided| &mut decided.record), &contents).await?;
        new.into_iter().for_each(|decided| decided.is_visible = true);
        let contents: Vec<_> = contents.into_iter().collect();
        let records: Vec<AgentRecord> = decided.iter().map(|(_, outcome)| outcome.record.clone()).collect();
        let said = self.shared.components.store(&self.shared.store, &decided).await?;
        let news = announcements::news(&self.shared.store, &mut decided).await?;
        let conflicts = self.shared.store.write_reports(&records, &contents, &news).await?;
        self.shared.components.note(&self.shared.store, said).await?;
        if !results.former.is_empty() {
            self.shared.store.note_former_uids(&std::mem::take(&mut results.former)).await?;
        }
        let conflicts: std::collections::HashSet<InstanceUid> = conflicts.into_iter().collect();
        let mut again = Vec::new();
        for (item, outcome) in decided {
            match conflicts.contains(&item.uid) {
                true => again.push(item),
                false => {
                    results.took_over(item.uid, &item);
                    results.wrote(&item.report, outcome);
                }
            }
        }
        Ok(again)
    }

    async fn publish(&mut self, results: Results) {
        let Results { letters, verdicts, visible, written, answers, again, epoch, .. } = results;
        answers.into_iter().for_each(|(epoch, answer)| self.shared.changes.answered(epoch, answer, unix_ms()));
        ::metrics::counter!(metrics::VERDICTS).increment(verdicts);
        letters.send(&self.shared.outbox).await;
        self.shared.outbox.agents_changed(&visible).await;
        again.into_iter().for_each(|item| self.queue.push(item));
        // Newer policies that came meanwhile may have passed these agents by.
        let is_outdated = self.shared.policies.loaded().is_some_and(|newest| newest.epoch() > epoch);
        for Written { uid, generation, connected, is_renamed } in written {
            if let Some(report) = self.openings.changed(uid, generation, connected) {
                self.queue.push(Item::new(report));
            }
            if is_outdated || is_renamed {
                self.shared.reconcile.look_at(uid);
            }
        }
    }
}

impl Results {
    fn answer(&mut self, gateway: &str, mut verdict: bus::Verdict) {
        self.verdicts += 1;
        if !self.traces.is_empty()
            && let Ok(uid) = InstanceUid::from_slice(&verdict.instance_uid)
        {
            verdict.trace = self.traces.get(&uid).map(|parent| parent.to_bytes()).unwrap_or_default();
        }
        ::metrics::counter!(metrics::FULL_STATE).increment(u64::from(verdict.report_full_state));
        ::metrics::counter!(metrics::OFFERS, "cause" => "report").increment(verdict.offers.len() as u64);
        self.letters.to(gateway).verdicts.push(verdict);
    }

    /// Tells the gateway that was asked about `uid`'s older connection, and did not answer, that `item` has been given the record.
    fn took_over(&mut self, uid: InstanceUid, item: &Item) {
        let Some(silent) = item.resolution.as_ref().filter(|it| it.found == Found::Silent) else { return };
        let verdict = bus::Verdict {
            instance_uid: uid.to_bytes(),
            connection_generation: silent.of.generation,
            newer_connection_generation: item.report.generation,
            ..bus::Verdict::default()
        };
        self.letters.to(&silent.of.gateway).verdicts.push(verdict);
    }

    fn wrote(&mut self, report: &Report, outcome: Decided) {
        let Decided { record, verdict, answers, is_visible, unreadable, .. } = outcome;
        self.answers.extend(answers.into_iter().map(|answer| (record.desired.epoch, answer)));
        if let Some(error) = unreadable {
            tracing::warn!(agent = %record.uid, error, "a report could not be read; only its arrival was stored");
        }
        if is_visible {
            self.visible.push(record.uid);
        }
        let is_renamed = record.uid != report.uid;
        let connected = record.presence.connected;
        self.written.push(Written { uid: record.uid, generation: report.generation, connected, is_renamed });
        self.answer(&report.gateway, verdict);
    }
}
