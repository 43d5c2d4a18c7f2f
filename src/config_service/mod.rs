//! The config service: decides what each agent should run, and gets it there. Any number of equal replicas.
//!
//! Owns: taking reports, desired state, offers, sweeps, presence of gateways. Must not know of OpAMP connections or
//! of any web framework; it meets gateways on the bus only.
//!
//! Every task here re-reads the store and may run twice, or on two replicas, without harm (see the design's rules):
//! - [`router`] hands what comes over the bus to the others, and [`shards`] says what comes here at all.
//! - [`ingest`] takes reports in batches: reads, decides ([`decide`], pure), writes, answers.
//! - [`reconcile`] brings a change of policies to every agent, [`sweep`] repeats what was not answered; both through
//!   [`fanout`]; what must not go out faster than some pace ([`pace`]) is [`waiting`].
//! - [`certificates`] are requested by reports, and taken up with them.
//! - [`commands`] go once to each agent that they are for.
//! - [`rollouts`] go from step to step.
//! - [`components`] are asked for once for each hash.
//! - [`comparisons`] say whether agents run what they were offered.
//! - [`bodies`] and [`tokens`] answer gateways; [`presence`] finds dead ones; [`garbage`] and [`package_files`] clean up.

mod announcements;
mod bodies;
mod census;
mod certificates;
mod commands;
mod comparisons;
mod components;
mod config;
mod convergence;
mod decide;
mod fanout;
mod garbage;
mod ingest;
mod metrics;
mod moves;
mod openings;
mod outbox;
mod overrides;
mod pace;
mod package_files;
mod policies;
mod presence;
mod queue;
mod reconcile;
mod report;
mod rollouts;
mod room;
mod router;
mod shards;
mod shared;
mod spans;
mod sweep;
mod tokens;
mod vouching;
mod waiting;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use certificates::Approval;
pub use config::Config;

use crate::{bus::SharedBus, packages::Storage, pki::Issuer, store::SharedStore};
use shared::Shared;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("config service setting {name}: {problem}")]
    Setting { name: &'static str, problem: &'static str },
    /// A bug: the process should be started again.
    #[error("a task of the config service ended: {0}")]
    Task(String),
}

/// One replica.
pub struct ConfigService {
    shared: Box<Shared>,
    inputs: shared::Inputs,
    packages: Option<Storage>,
}

/// What others in the process may ask of a running replica.
#[derive(Clone)]
pub struct Handle {
    ready: Arc<AtomicBool>,
}

impl Handle {
    /// It has read the policies, and taken up its shards.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

impl ConfigService {
    /// `node` names this replica among its peers, and must be unique.
    pub fn new(config: Config, node: String, store: SharedStore, bus: SharedBus) -> Self {
        let (shared, inputs) = Shared::new(config, node, store, bus);
        Self { shared: Box::new(shared), inputs, packages: None }
    }

    /// Keeps the package storage tidy.
    pub fn with_packages(self, storage: Option<Storage>) -> Self {
        Self { packages: storage, ..self }
    }

    /// Has certificates issued by it.
    pub fn with_issuer(mut self, issuer: Option<Issuer>) -> Self {
        self.shared.issuer = issuer;
        self
    }

    pub fn handle(&self) -> Handle {
        Handle { ready: self.shared.ready.clone() }
    }

    /// Runs until `shutdown`; then the batches under way are finished, and the membership ends.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { shared, inputs, packages } = self;
        let shared: Arc<Shared> = shared.into();
        shared.config.check()?;
        metrics::describe();
        let mut tasks = JoinSet::new();
        let stop = shutdown.child_token();
        for (worker, reports) in inputs.reports.into_iter().enumerate() {
            tasks.spawn(ingest::Worker::new(shared.clone(), worker, reports).run(stop.clone()));
        }
        tasks.spawn(router::run(shared.clone(), inputs.owned, stop.clone()));
        tasks.spawn(shards::run(shared.clone(), stop.clone()));
        tasks.spawn(reconcile::watch_policies(shared.clone(), stop.clone()));
        tasks.spawn(reconcile::follow_policies(shared.clone(), stop.clone()));
        tasks.spawn(reconcile::look_again(shared.clone(), stop.clone()));
        tasks.spawn(sweep::run(shared.clone(), stop.clone()));
        tasks.spawn(presence::run(shared.clone(), stop.clone()));
        tasks.spawn(tokens::run(shared.clone(), inputs.token_requests, stop.clone()));
        tasks.spawn(commands::run(shared.clone(), inputs.command_results, stop.clone()));
        tasks.spawn(rollouts::run(shared.clone(), stop.clone()));
        tasks.spawn(overrides::run(shared.clone(), stop.clone()));
        tasks.spawn(components::run(shared.clone(), stop.clone()));
        tasks.spawn(vouching::run(shared.clone(), inputs.uid_questions, stop.clone()));
        tasks.spawn(bodies::run(shared.clone(), inputs.body_requests, stop.clone()));
        if let Some(storage) = packages {
            tasks.spawn(package_files::run(shared.clone(), storage, stop.clone()));
        }
        tasks.spawn(garbage::run(shared, stop.clone()));
        let mut outcome = Ok(());
        while let Some(ended) = tasks.join_next().await {
            if !stop.is_cancelled() {
                let problem = ended.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string());
                outcome = Err(Error::Task(problem));
                stop.cancel();
            }
        }
        outcome
    }
}
