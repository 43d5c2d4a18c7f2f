//! Hints that follow a change. One that is lost costs latency only: everything is swept too.

use bytes::Bytes;
use prost::Message;

use super::metrics;
use crate::{
    bus::{SharedBus, Topic},
    model::{AgentRecord, InstanceUid, command::CommandId},
    proto::bus::{AgentsChanged, GatewayBatch, Hint, Verdict},
    trace,
};

pub struct Publisher {
    bus: SharedBus,
}

impl Publisher {
    pub fn new(bus: SharedBus) -> Self {
        Self { bus }
    }

    /// These policies changed; `epoch` is their newest.
    pub async fn policies_changed(&self, epoch: u64, policies: &[&str]) {
        let policies = policies.iter().map(|&name| name.to_owned()).collect();
        self.hint(Hint { policies_epoch: epoch, policies, ..Default::default() }).await;
    }

    pub async fn agent_tokens_changed(&self) {
        self.hint(Hint { agent_tokens_changed: true, ..Default::default() }).await;
    }

    /// This command is new.
    pub async fn commands_changed(&self, id: CommandId) {
        self.hint(Hint { commands_changed: true, command_id: id.to_bytes(), ..Default::default() }).await;
    }

    /// An operator changed something about this agent that may change what it should run.
    pub async fn agent_to_reconcile(&self, uid: InstanceUid) {
        self.hint(Hint { agents_to_reconcile: uid.to_bytes(), ..Default::default() }).await;
        self.agent_changed(uid).await;
    }

    /// Tells an agent, where it is connected, why it does not get what it asked for. If that is lost, it learns it when it asks
    /// again.
    pub async fn agent_refused(&self, agent: &AgentRecord, reason: &str) {
        let verdict = Verdict {
            instance_uid: agent.uid.to_bytes(),
            connection_generation: agent.presence.connection_generation,
            refusal: reason.to_owned(),
            ..Default::default()
        };
        let batch = GatewayBatch { verdicts: vec![verdict], ..Default::default() };
        self.publish(&Topic::Gateway(agent.presence.gateway.clone()), batch.encode_to_vec().into()).await;
    }

    /// For those who watch.
    pub async fn agent_changed(&self, uid: InstanceUid) {
        let message = AgentsChanged { instance_uids: uid.to_bytes() };
        self.publish(&Topic::AgentsChanged, message.encode_to_vec().into()).await;
    }

    async fn hint(&self, mut hint: Hint) {
        match trace::current() {
            Some(trace) => hint.trace = trace.to_bytes(),
            // What is for traces alone.
            None => (hint.policies, hint.command_id) = Default::default(),
        }
        self.publish(&Topic::ConfigService, hint.encode_to_vec().into()).await;
    }

    async fn publish(&self, topic: &Topic, payload: Bytes) {
        if let Err(error) = self.bus.publish(topic, payload).await {
            metrics::hint_lost();
            tracing::info!(%topic, %error, "a hint was not published; the next sweep will find the change");
        }
    }
}
