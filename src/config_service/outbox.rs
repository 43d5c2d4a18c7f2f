//! What goes out over the bus.

use std::sync::Arc;

use prost::Message;

use crate::{
    bus::{SharedBus, Topic},
    model::InstanceUid,
    proto::bus,
    trace::{self, Parent},
};

/// Uids in one `AgentsChanged`; more go into further messages.
const MAX_CHANGED_UIDS: usize = 10_000;

pub struct Outbox {
    bus: SharedBus,
}

impl Outbox {
    pub fn new(bus: SharedBus) -> Self {
        Self { bus }
    }

    /// Returns whether the bus took it. That it did not is logged where the bus is watched, and healed by repeats
    /// and sweeps.
    pub async fn to_gateway(&self, gateway: &str, batch: bus::GatewayBatch) -> bool {
        self.publish(Topic::Gateway(gateway.to_owned()), &batch).await
    }

    pub async fn agents_changed(&self, uids: &[InstanceUid]) {
        for uids in uids.chunks(MAX_CHANGED_UIDS) {
            let message = bus::AgentsChanged { instance_uids: concatenated(uids) };
            self.publish(Topic::AgentsChanged, &message).await;
        }
    }

    /// It is not known which.
    pub async fn some_agents_changed(&self) {
        self.publish(Topic::AgentsChanged, &bus::AgentsChanged::default()).await;
    }

    /// For the other replicas.
    pub async fn policies_changed(&self, epoch: u64) {
        let trace = trace::current().map(Parent::to_bytes).unwrap_or_default();
        self.publish(Topic::ConfigService, &bus::Hint { policies_epoch: epoch, trace, ..Default::default() }).await;
    }

    async fn publish(&self, topic: Topic, message: &impl Message) -> bool {
        let sent = self.bus.publish(&topic, message.encode_to_vec().into()).await;
        sent.inspect_err(|error| tracing::debug!(%topic, %error, "not published")).is_ok()
    }
}

pub fn concatenated(uids: &[InstanceUid]) -> bytes::Bytes {
    uids.iter().flat_map(|uid| *uid.as_bytes()).collect::<Vec<u8>>().into()
}

/// The reverse of [`concatenated`]; what is no uid is left out.
pub fn separated(uids: &[u8]) -> Vec<InstanceUid> {
    uids.chunks(16).filter_map(|uid| InstanceUid::from_slice(uid).ok()).collect()
}

/// What is to be sent to each gateway.
#[derive(Default)]
pub struct Letters(std::collections::HashMap<Arc<str>, bus::GatewayBatch>);

impl Letters {
    pub fn to(&mut self, gateway: &str) -> &mut bus::GatewayBatch {
        if !self.0.contains_key(gateway) {
            self.0.insert(gateway.into(), bus::GatewayBatch::default());
        }
        self.0.entry(gateway.into()).or_default()
    }

    pub async fn send(self, outbox: &Outbox) {
        for (gateway, batch) in self.0 {
            outbox.to_gateway(&gateway, batch).await;
        }
    }
}
