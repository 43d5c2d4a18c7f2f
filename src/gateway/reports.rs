//! Reports on their way to the config service: gathered for a few milliseconds, published by shard, and published again
//! until acknowledged (the sweeper sees to that).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;

use super::{
    Shared,
    agents::{Entry, Link},
    duplicates, vouching,
};
use crate::{
    bus::Topic,
    model::{
        ContentHash, InstanceUid,
        uid::{SHARD_COUNT, Shard},
    },
    pki::Serial,
    proto::bus::{CommandResult, Ending, ProbeResult, Report, ShardBatch, Transport, UidQuestion},
    trace::{self, Parent},
};

/// Reports are gathered for this long: long enough for a busy gateway's batches, too short for anybody to notice.
const GATHER: Duration = Duration::from_millis(3);
/// A batch is sent when it has this many reports or bytes, whichever is first.
const MAX_BATCH_REPORTS: usize = 256;
const MAX_BATCH_BYTES: usize = 512 << 10;
/// A report is published again after this long, later after twice the time, up to the longest.
const FIRST_REPEAT_MS: u64 = 1_000;
const LONGEST_REPEAT_MS: u64 = 5_000;

/// What waits for the next batch.
#[derive(Debug, Default)]
pub struct Outgoing {
    gathered: Mutex<Gathered>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Gathered {
    /// Agents with something to report; an agent may be here twice, and is published once.
    uids: Vec<InstanceUid>,
    probe_results: Vec<ProbeResult>,
    command_results: Vec<CommandResult>,
    uid_questions: Vec<vouching::Pair>,
    hashes: Vec<ContentHash>,
    wants_tokens: bool,
}

impl Outgoing {
    pub fn report(&self, uid: InstanceUid) {
        self.gather(|gathered| gathered.uids.push(uid));
    }

    pub fn probe_result(&self, result: ProbeResult) {
        self.gather(|gathered| gathered.probe_results.push(result));
    }

    pub fn command_result(&self, result: CommandResult) {
        self.gather(|gathered| gathered.command_results.push(result));
    }

    pub fn ask_about_uid(&self, pair: vouching::Pair) {
        self.gather(|gathered| gathered.uid_questions.push(pair));
    }

    pub fn want_body(&self, hash: ContentHash) {
        self.gather(|gathered| gathered.hashes.push(hash));
    }

    pub fn want_tokens(&self) {
        self.gather(|gathered| gathered.wants_tokens = true);
    }

    fn gather(&self, add: impl FnOnce(&mut Gathered)) {
        add(&mut self.gathered.lock());
        self.wake.notify_one();
    }
}

/// Publishes what is gathered, for ever.
pub async fn run(shared: Arc<Shared>) {
    loop {
        shared.outgoing.wake.notified().await;
        tokio::time::sleep(GATHER).await;
        let gathered = std::mem::take(&mut *shared.outgoing.gathered.lock());
        publish(&shared, gathered).await;
    }
}

async fn publish(shared: &Shared, mut gathered: Gathered) {
    gathered.uids.sort_unstable_by_key(InstanceUid::shard);
    for uids in gathered.uids.chunk_by(|one, other| one.shard() == other.shard()) {
        let Some(shard) = uids.first().map(InstanceUid::shard) else { continue };
        let mut rest = uids;
        while !rest.is_empty() {
            let (reports, taken) = batch(shared, shard, rest);
            rest = &rest[taken..];
            if !reports.is_empty() {
                shared.metrics.reports_published.increment(reports.len() as u64);
                send(shared, shard, ShardBatch { reports, ..Default::default() }).await;
            }
        }
    }
    publish_questions(shared, gathered).await;
}

/// Probe results, results of commands, questions, wanted bodies and tokens: few, and in one batch a shard.
async fn publish_questions(shared: &Shared, gathered: Gathered) {
    let mut batches: Vec<(Shard, ShardBatch)> = Vec::new();
    let mut at = |shard: Shard, add: &mut dyn FnMut(&mut ShardBatch)| {
        let index = batches.iter().position(|(known, _)| *known == shard).unwrap_or_else(|| {
            batches.push((shard, ShardBatch::default()));
            batches.len() - 1
        });
        add(&mut batches[index].1);
    };
    for result in gathered.probe_results {
        let shard = InstanceUid::from_slice(&result.instance_uid).map_or(0, |uid| uid.shard());
        at(shard, &mut |batch| batch.probe_results.push(result.clone()));
    }
    for result in gathered.command_results {
        let shard = InstanceUid::from_slice(&result.instance_uid).map_or(0, |uid| uid.shard());
        at(shard, &mut |batch| batch.command_results.push(result.clone()));
    }
    for (former, uid) in gathered.uid_questions {
        let question = UidQuestion { former_instance_uid: former.to_bytes(), instance_uid: uid.to_bytes() };
        at(uid.shard(), &mut |batch| batch.uid_questions.push(question.clone()));
    }
    for hash in gathered.hashes {
        at(hash.shard(), &mut |batch| batch.wanted_hashes.push(hash.to_bytes()));
    }
    if gathered.wants_tokens {
        at(0, &mut |batch| batch.wants_agent_tokens = true);
    }
    for (shard, batch) in batches {
        send(shared, shard, batch).await;
    }
}

async fn send(shared: &Shared, shard: Shard, mut batch: ShardBatch) {
    debug_assert!(shard < SHARD_COUNT);
    batch.gateway.clone_from(&shared.node);
    let (topic, trace) =
        (Topic::Shard(shard), batch.reports.iter().find_map(|report| Parent::from_slice(&report.trace)));
    let published = shared.bus.publish(&topic, batch.encode_to_vec().into());
    if let Err(error) = trace::within(trace, published).await {
        shared.metrics.reports_failed.increment(1);
        tracing::debug!(%error, shard, "batch not published; it is repeated");
    }
}

/// As many of the reports of `uids` as go into one batch, and of how many uids that took care.
fn batch(shared: &Shared, shard: Shard, uids: &[InstanceUid]) -> (Vec<Report>, usize) {
    let now_ms = shared.clock.now_ms();
    let mut reports = Vec::new();
    let mut bytes = 0;
    let mut agents = shared.registry.lock_shard(shard);
    for (index, uid) in uids.iter().enumerate() {
        if reports.len() >= MAX_BATCH_REPORTS || bytes >= MAX_BATCH_BYTES {
            return (reports, index);
        }
        if let Some(report) = agents.entries.get_mut(uid).and_then(|entry| published(shared, *uid, entry, now_ms)) {
            bytes += report.message.len();
            reports.push(report);
        }
    }
    (reports, uids.len())
}

/// The agent's report if it waits for publication, which is noted.
fn published(shared: &Shared, uid: InstanceUid, entry: &mut Entry, now_ms: u64) -> Option<Report> {
    let sequence_num = entry.durable_sequence_num();
    let transport = match entry.link {
        Link::WebSocket(_) | Link::Gone { was_http: false } => Transport::Websocket,
        Link::Http | Link::Gone { was_http: true } => Transport::Http,
    };
    let rare = entry.rare.as_mut()?;
    if rare.pending.as_ref()?.due_ms != 0 {
        return None;
    }
    if rare.pending.as_ref()?.ending.is_some() {
        duplicates::probes_ended(shared, rare);
    }
    let pending = rare.pending.as_mut()?;
    let certificate = shared.certificates.serial(&uid, &entry.link);
    let doublings = u32::from(pending.attempts).min(8);
    let repeat_ms = (FIRST_REPEAT_MS << doublings).min(LONGEST_REPEAT_MS);
    pending.due_ms = now_ms + repeat_ms + rand::random_range(0..=repeat_ms / 5);
    pending.attempts = pending.attempts.saturating_add(1);
    Some(Report {
        instance_uid: uid.to_bytes(),
        connection_generation: entry.generation,
        report_number: entry.report_number,
        sequence_num,
        message: pending.message.message().clone(),
        transport: transport as i32,
        last_seen_unix_ms: pending.last_seen_unix_ms,
        opening: pending.opening,
        ending: pending.ending.map(|reason| Ending { reason: reason as i32 }),
        sent_connection_settings: pending.sent_connection_settings.map(ContentHash::to_bytes).unwrap_or_default(),
        former_instance_uid: pending.former.map(InstanceUid::to_bytes).unwrap_or_default(),
        uid_request: pending.uid_request,
        certificate_serial: certificate.map(Serial::to_bytes).unwrap_or_default(),
        trace: pending.span.parent().map(Parent::to_bytes).unwrap_or_default(),
    })
}

/// Lets the reports of `shard` that were not acknowledged in time be published again.
pub fn repeat_due(shared: &Shared, shard: Shard, now_ms: u64) {
    if !shared.bus.is_reachable() || !shared.is_subscribed.load(Ordering::Relaxed) {
        return;
    }
    let agents = &mut *shared.registry.lock_shard(shard);
    for uid in &agents.active {
        let pending = agents.entries.get_mut(uid).and_then(|entry| entry.rare.as_mut()?.pending.as_mut());
        let Some(pending) = pending.filter(|pending| pending.due_ms != 0 && now_ms >= pending.due_ms) else { continue };
        if !shared.repeats.try_take() {
            return;
        }
        pending.due_ms = 0;
        shared.metrics.reports_repeated.increment(1);
        shared.outgoing.report(*uid);
    }
}
