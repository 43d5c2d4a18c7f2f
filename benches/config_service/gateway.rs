//! A gateway that sends reports and counts what it hears.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use muster::{
    bus::{Bus, Event, Role, Subscription, Topic, in_process::InProcess},
    model::{InstanceUid, uid::Shard},
    proto::bus,
};
use prost::Message;

use super::{
    fleet::{GATEWAY, GENERATION},
    support::PATIENCE,
};

/// Reports in one message.
const BATCH: usize = 500;

pub struct Gateway {
    bus: Arc<InProcess>,
    subscription: Box<dyn Subscription>,
}

impl Gateway {
    pub async fn start(bus: Arc<InProcess>) -> Self {
        let mut subscription = bus.subscribe();
        subscription.set_topics(vec![Topic::Gateway(GATEWAY.into())]).await;
        bus.announce(Role::Gateway, GATEWAY, PATIENCE * 60).await.unwrap();
        Self { bus, subscription }
    }

    /// Publishes a report of each agent, and waits until all are acknowledged. What is dropped is sent again.
    pub async fn report(&mut self, number: u64, messages: Vec<(InstanceUid, Bytes)>) {
        let mut open: HashMap<InstanceUid, Bytes> = messages.into_iter().collect();
        while !open.is_empty() {
            self.publish(number, &open).await;
            while let Some(batch) = self.next().await {
                let heard = batch.verdicts.iter().filter(|verdict| verdict.report_number >= number);
                for verdict in heard {
                    open.remove(&InstanceUid::from_slice(&verdict.instance_uid).unwrap());
                }
                if open.is_empty() {
                    break;
                }
            }
        }
    }

    async fn publish(&self, number: u64, messages: &HashMap<InstanceUid, Bytes>) {
        let mut shards: HashMap<Shard, Vec<bus::Report>> = HashMap::new();
        for (uid, message) in messages {
            shards.entry(uid.shard()).or_default().push(bus::Report {
                instance_uid: uid.to_bytes(),
                connection_generation: GENERATION,
                report_number: number,
                sequence_num: number,
                message: message.clone(),
                transport: bus::Transport::Websocket as i32,
                last_seen_unix_ms: 1,
                opening: None,
                ending: None,
                sent_connection_settings: Bytes::new(),
                former_instance_uid: Bytes::new(),
                uid_request: 0,
                certificate_serial: Default::default(),
                trace: Default::default(),
            });
        }
        for (shard, reports) in shards {
            for reports in reports.chunks(BATCH) {
                let batch =
                    bus::ShardBatch { gateway: GATEWAY.into(), reports: reports.to_vec(), ..Default::default() };
                self.bus.publish(&Topic::Shard(shard), batch.encode_to_vec().into()).await.unwrap();
            }
        }
    }

    /// Waits until `count` agents have been offered something; calls `seen` with how many there are so far. Returns the
    /// hash of the last offer.
    pub async fn offers(&mut self, count: usize, mut seen: impl FnMut(usize)) -> Bytes {
        let (mut offered, mut hash) = (HashSet::new(), Bytes::new());
        while offered.len() < count {
            let Some(batch) = self.next().await else { continue };
            for group in batch.offers {
                hash = group.hash;
                offered.extend(group.instance_uids.chunks(16).map(|uid| InstanceUid::from_slice(uid).unwrap()));
            }
            seen(offered.len());
        }
        hash
    }

    /// `None` if messages were missed, or none came for a second.
    async fn next(&mut self) -> Option<bus::GatewayBatch> {
        let event = tokio::time::timeout(std::time::Duration::from_secs(1), self.subscription.next()).await;
        match event.ok()? {
            Event::Message { payload, .. } => Some(bus::GatewayBatch::decode(payload).unwrap()),
            Event::Gap => None,
        }
    }
}
