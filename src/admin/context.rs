//! What every service of the API shares.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{errors, gateways::Gateways, publisher::Publisher, validator::Validators, watch};
use crate::{
    auth::{Operator, Operators, operators::Refusal},
    bus::SharedBus,
    model::UnixMs,
    pki::Issuer,
    store::SharedStore,
};

pub struct Context {
    pub store: SharedStore,
    pub bus: SharedBus,
    pub operators: Arc<Operators>,
    pub gateways: Gateways,
    pub publisher: Publisher,
    /// Agents can be told where uploaded files of packages are.
    pub hosts_packages: bool,
    /// Issues certificates, if anybody does.
    pub issuer: Option<Issuer>,
    /// What revisions have to pass, if anything.
    pub validators: Option<Validators>,
    /// One permit a watch.
    pub watches: Arc<Semaphore>,
    /// Ends watches.
    pub shutdown: CancellationToken,
}

impl Context {
    pub fn new(
        store: SharedStore,
        bus: SharedBus,
        hosts_packages: bool,
        issuer: Option<Issuer>,
        validators: Option<Validators>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            operators: Arc::new(Operators::new(store.clone())),
            gateways: Gateways::new(bus.clone()),
            publisher: Publisher::new(bus.clone()),
            hosts_packages,
            issuer,
            validators,
            watches: Arc::new(Semaphore::new(watch::MAX_WATCHES)),
            store,
            bus,
            shutdown,
        })
    }
}

impl Context {
    /// The change is committed; without the epoch nobody is hurried, and the sweep finds it.
    pub async fn tell_policies_changed(&self, policies: &[&str]) {
        match self.store.policy_epoch().await {
            Ok(epoch) => self.publisher.policies_changed(epoch, policies).await,
            Err(error) => tracing::info!(%error, "the policies' epoch could not be read after a change"),
        }
    }

    /// An error for an operator whose token is good no more.
    pub async fn confirm(&self, operator: &Operator) -> Result<(), Status> {
        match self.operators.confirm(operator).await {
            Err(refusal @ Refusal::Invalid) => {
                Err(errors::status(Code::Unauthenticated, "TOKEN_INVALID", refusal.to_string(), &[]))
            }
            // The store may be away; that is no reason to end a watch.
            _ => Ok(()),
        }
    }
}

/// The time of this node's clock.
pub fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::try_from(since.as_millis()).unwrap_or(UnixMs::MAX)
}
