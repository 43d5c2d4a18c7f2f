//! What the tasks of one replica share, and the queues between them.

use std::{
    collections::BTreeSet,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};

use super::{
    Approval, Config, bodies, commands, comparisons::Comparisons, components::Components, convergence::Changes,
    fanout::Fanout, ingest, metrics, outbox::Outbox, policies::Policies, presence::Gateways, reconcile::Requests,
    rollouts, room::Room, vouching,
};
use crate::{
    bus::SharedBus,
    model::{
        UnixMs,
        uid::{SHARD_COUNT, Shard},
    },
    pki::Issuer,
    proto::bus,
    store::SharedStore,
};

/// Requests of gateways waiting for an answer; more are dropped, and come again every second.
const WAITING_REQUESTS: usize = 1_024;

/// The shards of this replica.
pub type Owned = Arc<BTreeSet<Shard>>;

pub struct Shared {
    pub config: Config,
    /// Issues certificates, if anybody does.
    pub issuer: Option<Issuer>,
    pub node: String,
    pub store: SharedStore,
    pub bus: SharedBus,
    pub outbox: Outbox,
    pub policies: Policies,
    pub gateways: Gateways,
    pub bodies: bodies::Bodies,
    pub fanout: Fanout,
    pub changes: Changes,
    pub reconcile: Requests,
    pub commands: commands::Wake,
    pub rollouts: rollouts::Wake,
    pub components: Components,
    pub comparisons: Comparisons,
    pub ready: Arc<AtomicBool>,
    listening: AtomicBool,
    owned: watch::Sender<Option<Owned>>,
    workers: Vec<ingest::Sender>,
    token_requests: mpsc::Sender<Option<String>>,
    body_requests: mpsc::Sender<bodies::Request>,
    command_results: mpsc::Sender<bus::CommandResult>,
    uid_questions: mpsc::Sender<vouching::Question>,
}

/// The receiving ends, each for one task.
pub struct Inputs {
    pub reports: Vec<mpsc::UnboundedReceiver<ingest::Input>>,
    pub owned: watch::Receiver<Option<Owned>>,
    pub token_requests: mpsc::Receiver<Option<String>>,
    pub body_requests: mpsc::Receiver<bodies::Request>,
    pub command_results: mpsc::Receiver<bus::CommandResult>,
    pub uid_questions: mpsc::Receiver<vouching::Question>,
}

impl Shared {
    pub fn new(config: Config, node: String, store: SharedStore, bus: SharedBus) -> (Self, Inputs) {
        let each = |all: usize| all / config.ingest_workers.max(1);
        let (workers, reports) = (0..config.ingest_workers)
            .map(|_| {
                let (sender, receiver) = mpsc::unbounded_channel();
                let room = Room::new(each(config.queue_reports), each(config.queue_bytes));
                (ingest::Sender { inputs: sender, room }, receiver)
            })
            .unzip();
        let (owned, owned_receiver) = watch::channel(None);
        let (token_requests, token_receiver) = mpsc::channel(WAITING_REQUESTS);
        let (body_requests, body_receiver) = mpsc::channel(WAITING_REQUESTS);
        let (command_results, result_receiver) = mpsc::channel(commands::WAITING_RESULTS);
        let (uid_questions, question_receiver) = mpsc::channel(WAITING_REQUESTS);
        let shared = Self {
            outbox: Outbox::new(bus.clone()),
            policies: Policies::new(store.clone(), &config.opamp_url, &config.package_url),
            gateways: Gateways::new(config.gateway_grace),
            bodies: bodies::Bodies::new(config.body_cache_bytes),
            fanout: Fanout::default(),
            changes: Changes::default(),
            reconcile: Requests::default(),
            commands: commands::Wake::default(),
            rollouts: rollouts::Wake::default(),
            components: Components::default(),
            comparisons: Comparisons::default(),
            ready: Arc::default(),
            listening: AtomicBool::default(),
            config,
            issuer: None,
            node,
            store,
            bus,
            owned,
            workers,
            token_requests,
            body_requests,
            command_results,
            uid_questions,
        };
        let inputs = Inputs {
            reports,
            owned: owned_receiver,
            token_requests: token_receiver,
            body_requests: body_receiver,
            command_results: result_receiver,
            uid_questions: question_receiver,
        };
        (shared, inputs)
    }

    /// None before the first look at the list of members.
    pub fn owned(&self) -> Owned {
        self.owned.borrow().clone().unwrap_or_default()
    }

    /// Makes `shards` this replica's; returns whether that is a change.
    pub fn own(&self, shards: BTreeSet<Shard>) -> bool {
        ::metrics::gauge!(metrics::OWNED_SHARDS).set(shards.len() as f64);
        self.owned.send_if_modified(|owned| {
            let is_change = owned.as_deref() != Some(&shards);
            if is_change {
                *owned = Some(Arc::new(shards));
            }
            is_change
        })
    }

    /// This replica's part of what all do together, by its shards.
    pub fn share(&self) -> f64 {
        self.owned().len() as f64 / f64::from(SHARD_COUNT)
    }

    /// The worker that takes the reports of `shard`, so that one agent's reports are taken one after the other.
    pub fn worker(&self, shard: Shard) -> &ingest::Sender {
        &self.workers[usize::from(shard) % self.workers.len()]
    }

    /// Who issues certificates to agents that ask for one, if anybody does.
    pub fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref().filter(|_| self.config.certificate_approval != Approval::Off)
    }

    /// Sends the agent tokens to one gateway, or to all.
    pub fn request_tokens(&self, gateway: Option<String>) {
        // Full: gateways ask again.
        let _ = self.token_requests.try_send(gateway);
    }

    pub fn request_bodies(&self, request: bodies::Request) {
        // Full: gateways ask again.
        let _ = self.body_requests.try_send(request);
    }

    pub fn ask_about_uid(&self, question: vouching::Question) {
        // Full: the agent comes again.
        let _ = self.uid_questions.try_send(question);
    }

    pub fn take_command_result(&self, result: bus::CommandResult) {
        // Full: the command is published again, and answered again.
        let _ = self.command_results.try_send(result);
    }

    /// The bus now brings what is sent to this replica's shards. Returns whether it did not before.
    pub fn note_listening(&self) -> bool {
        let is_new = !self.listening.swap(true, Ordering::Relaxed);
        self.note_readiness();
        is_new
    }

    /// Looks whether both conditions of [`super::Handle::is_ready`] hold.
    pub fn note_readiness(&self) {
        let is_complete = self.listening.load(Ordering::Relaxed) && self.policies.loaded().is_some();
        if is_complete && !self.ready.swap(true, Ordering::Relaxed) {
            tracing::info!(node = %self.node, "config service is ready");
        }
    }
}

/// Now, by this machine's clock.
pub fn unix_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::try_from(since.as_millis()).unwrap_or(UnixMs::MAX)
}

/// Logs the first of a row of failures, and its end; counts all.
pub struct Outage {
    what: &'static str,
    failing: bool,
}

impl Outage {
    pub fn new(what: &'static str) -> Self {
        Self { what, failing: false }
    }

    /// Takes note of an attempt; gives back what it gave, if it succeeded.
    pub fn note<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(what = self.what, "works again");
                }
                Some(value)
            }
            Err(error) => {
                ::metrics::counter!(metrics::FAILURES, "what" => self.what).increment(1);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(what = self.what, %error, "failed; it is attempted again until it works");
                }
                None
            }
        }
    }
}

/// Runs `work`; a panic in it is logged and ends only this piece of work.
pub async fn isolated<T>(what: &'static str, work: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(work).catch_unwind().await.inspect_err(|_| panicked(what, None)).ok()
}

/// As [`isolated`], for one agent's part of a batch.
pub fn isolated_agent<T>(what: &'static str, uid: crate::model::InstanceUid, work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).inspect_err(|_| panicked(what, Some(uid))).ok()
}

fn panicked(what: &'static str, agent: Option<crate::model::InstanceUid>) {
    ::metrics::counter!(metrics::FAILURES, "what" => what).increment(1);
    tracing::error!(what, agent = agent.map(tracing::field::display), "panicked; this is a bug");
}
