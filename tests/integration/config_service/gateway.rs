//! A gateway that does what the test says, and remembers what it is told.

use std::time::Duration;

use bytes::Bytes;
use muster::{
    bus::{Event, Role, SharedBus, Subscription, Topic},
    model::{InstanceUid, uid::stable_hash},
    proto::{
        bus,
        opamp::{
            AgentCapabilities, AgentDescription, AgentToServer, AnyValue, KeyValue, RemoteConfigStatus,
            RemoteConfigStatuses, any_value::Value,
        },
    },
};
use prost::Message;

use crate::support::PATIENCE;

pub struct Gateway {
    pub name: String,
    bus: SharedBus,
    subscription: Box<dyn Subscription>,
    /// What has arrived and was not asked for yet.
    heard: Vec<Heard>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Verdict(bus::Verdict),
    Offer(Offer),
    Body(bus::OfferBody),
    Probe(bus::Probe),
    Tokens(bus::AgentTokens),
    Command(SentCommand),
    ComponentAsk(bus::ComponentAsk),
    Refused(bus::RefusedCertificate),
    UidAnswer(bus::UidAnswer),
}

/// One agent's part of a command group.
#[derive(Clone, Debug, PartialEq)]
pub struct SentCommand {
    pub id: Vec<u8>,
    pub uid: InstanceUid,
    pub generation: u64,
    pub action: bus::command_group::Action,
}

/// One agent's part of an offer group.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub uid: InstanceUid,
    pub config_hash: Vec<u8>,
    pub generation: u64,
    pub repeat: bool,
}

pub fn uid(n: u64) -> InstanceUid {
    let bytes = [stable_hash(&n.to_be_bytes()).to_be_bytes(), n.to_be_bytes()].concat();
    InstanceUid::from_slice(&bytes).unwrap()
}

/// A full message of an agent of `group`.
pub fn full(group: &str) -> AgentToServer {
    let value = Some(AnyValue { value: Some(Value::StringValue(group.into())) });
    let attribute = KeyValue { key: "group".into(), value };
    AgentToServer {
        capabilities: AgentCapabilities::AcceptsRemoteConfig as u64 | AgentCapabilities::ReportsRemoteConfig as u64,
        agent_description: Some(AgentDescription { identifying_attributes: vec![attribute], ..Default::default() }),
        ..Default::default()
    }
}

/// The hash of what a verdict offers, which is of this kind or nothing.
pub fn offered(kind: bus::OfferKind, verdict: &bus::Verdict) -> Option<Bytes> {
    assert!(verdict.offers.iter().all(|offer| offer.kind() == kind), "{verdict:?}");
    verdict.offers.first().map(|offer| offer.hash.clone())
}

pub fn status(status: RemoteConfigStatuses, hash: &[u8]) -> AgentToServer {
    let status = RemoteConfigStatus {
        status: status as i32,
        last_remote_config_hash: hash.to_vec().into(),
        ..Default::default()
    };
    AgentToServer { remote_config_status: Some(status), ..Default::default() }
}

/// A report of `message` as the connection's report `number`.
pub fn report(uid: InstanceUid, generation: u64, number: u64, message: &AgentToServer) -> bus::Report {
    bus::Report {
        instance_uid: uid.to_bytes(),
        connection_generation: generation,
        report_number: number,
        sequence_num: number,
        message: message.encode_to_vec().into(),
        transport: bus::Transport::Websocket as i32,
        last_seen_unix_ms: 1,
        ..Default::default()
    }
}

/// The configuration that a verdict offers, and nothing else.
pub trait Offered {
    /// Empty if none.
    fn config_hash(&self) -> Bytes;
    fn desired_generation(&self) -> u64;
}

impl Offered for bus::Verdict {
    fn config_hash(&self) -> Bytes {
        assert!(self.offers.iter().all(|offer| offer.kind() == bus::OfferKind::Config), "{self:?}");
        self.offers.first().map(|offer| offer.hash.clone()).unwrap_or_default()
    }

    fn desired_generation(&self) -> u64 {
        self.offers.first().map_or(0, |offer| offer.generation)
    }
}

/// The first report of a connection, whose first message has `sequence_num`.
pub fn opening(uid: InstanceUid, generation: u64, sequence_num: u64, message: &AgentToServer) -> bus::Report {
    let opening = bus::Opening { first_sequence_num: sequence_num, ..Default::default() };
    bus::Report { sequence_num, opening: Some(opening), ..report(uid, generation, 1, message) }
}

/// The last report of a connection.
pub fn ending(uid: InstanceUid, generation: u64, number: u64, sequence_num: u64) -> bus::Report {
    let ending = bus::Ending { reason: bus::ending::Reason::ConnectionClosed as i32 };
    let report = report(uid, generation, number, &AgentToServer::default());
    bus::Report { sequence_num, ending: Some(ending), ..report }
}

impl Gateway {
    pub async fn start(bus: SharedBus, name: &str) -> Self {
        let mut subscription = bus.subscribe();
        subscription.set_topics(vec![Topic::Gateway(name.into())]).await;
        let gateway = Self { name: name.into(), bus, subscription, heard: Vec::new() };
        gateway.announce().await;
        gateway
    }

    pub async fn announce(&self) {
        self.bus.announce(Role::Gateway, &self.name, Duration::from_secs(3_600)).await.unwrap();
    }

    pub async fn die(&self) {
        self.bus.withdraw(Role::Gateway, &self.name).await.unwrap();
    }

    pub async fn send(&self, uid: InstanceUid, batch: bus::ShardBatch) {
        let batch = bus::ShardBatch { gateway: self.name.clone(), ..batch };
        self.bus.publish(&Topic::Shard(uid.shard()), batch.encode_to_vec().into()).await.unwrap();
    }

    /// The body that `hash` stands for.
    pub async fn body(&mut self, kind: bus::OfferKind, hash: &Bytes) -> Bytes {
        let wanted = bus::ShardBatch { wanted_hashes: vec![hash.clone()], ..Default::default() };
        self.send(uid(1), wanted).await;
        let body = self.hear(|heard| match heard {
            Heard::Body(body) if body.hash == *hash => Some(body.clone()),
            _ => None,
        });
        let body = body.await;
        assert_eq!(body.kind(), kind);
        body.body
    }

    pub async fn report(&self, report: bus::Report) {
        let uid = InstanceUid::from_slice(&report.instance_uid).unwrap();
        self.send(uid, bus::ShardBatch { reports: vec![report], ..Default::default() }).await;
    }

    /// Reports, and waits for the verdict.
    pub async fn tell(&mut self, report: bus::Report) -> bus::Verdict {
        self.report(report.clone()).await;
        self.verdict_on(&report).await
    }

    /// Reports again and again until it is answered, as a gateway does.
    pub async fn insist(&mut self, report: bus::Report) -> bus::Verdict {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            // While the bus is away this fails.
            let _ = self.try_report(&report).await;
            let verdict = tokio::time::timeout(Duration::from_millis(200), self.verdict_on(&report)).await;
            // One on an earlier report may have been under way.
            if let Some(verdict) = verdict.ok().filter(|verdict| verdict.report_number >= report.report_number) {
                return verdict;
            }
        }
        panic!("no verdict; instead: {:?}", self.heard)
    }

    async fn try_report(&self, report: &bus::Report) -> Result<(), muster::bus::Error> {
        let shard = InstanceUid::from_slice(&report.instance_uid).unwrap().shard();
        let batch = bus::ShardBatch { gateway: self.name.clone(), reports: vec![report.clone()], ..Default::default() };
        self.bus.publish(&Topic::Shard(shard), batch.encode_to_vec().into()).await
    }

    pub async fn answer_probe(&self, probe: bus::Probe, alive: bool, last_sequence_num: Option<u64>) {
        let uid = InstanceUid::from_slice(&probe.newcomer_uid).unwrap();
        let result = bus::ProbeResult {
            instance_uid: probe.newcomer_uid,
            connection_generation: probe.connection_generation,
            alive,
            last_sequence_num,
        };
        self.send(uid, bus::ShardBatch { probe_results: vec![result], ..Default::default() }).await;
    }

    pub async fn verdict_on(&mut self, report: &bus::Report) -> bus::Verdict {
        self.hear(|heard| match heard {
            Heard::Verdict(verdict)
                if verdict.instance_uid == report.instance_uid
                    && verdict.connection_generation == report.connection_generation =>
            {
                Some(verdict.clone())
            }
            _ => None,
        })
        .await
    }

    pub async fn probe(&mut self) -> bus::Probe {
        self.hear(|heard| match heard {
            Heard::Probe(probe) => Some(probe.clone()),
            _ => None,
        })
        .await
    }

    pub async fn offer_to(&mut self, uid: InstanceUid) -> Offer {
        self.hear(|heard| match heard {
            Heard::Offer(offer) if offer.uid == uid => Some(offer.clone()),
            _ => None,
        })
        .await
    }

    /// The first of what is heard, now or before, that `pick` takes.
    pub async fn hear<T>(&mut self, pick: impl Fn(&Heard) -> Option<T>) -> T {
        loop {
            if let Some((index, found)) = self.heard.iter().enumerate().find_map(|(n, heard)| Some((n, pick(heard)?))) {
                self.heard.remove(index);
                return found;
            }
            let event = tokio::time::timeout(PATIENCE, self.subscription.next()).await;
            match event.unwrap_or_else(|_| panic!("not heard; instead: {:?}", self.heard)) {
                Event::Message { payload, .. } => self.take(bus::GatewayBatch::decode(payload).unwrap()),
                Event::Gap => {}
            }
        }
    }

    /// Everything that has been heard and not been asked for.
    pub fn rest(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }

    fn take(&mut self, batch: bus::GatewayBatch) {
        // In the order in which a gateway takes them.
        self.heard.extend(batch.agent_tokens.into_iter().map(Heard::Tokens));
        self.heard.extend(batch.bodies.into_iter().map(Heard::Body));
        self.heard.extend(batch.refused_certificates.into_iter().map(Heard::Refused));
        self.heard.extend(batch.verdicts.into_iter().map(Heard::Verdict));
        self.heard.extend(batch.probes.into_iter().map(Heard::Probe));
        self.heard.extend(batch.uid_answers.into_iter().map(Heard::UidAnswer));
        self.heard.extend(batch.component_asks.into_iter().map(Heard::ComponentAsk));
        for group in batch.commands {
            assert_eq!(group.instance_uids.len(), 16 * group.connection_generations.len());
            let uids = group.instance_uids.chunks(16).map(|uid| InstanceUid::from_slice(uid).unwrap());
            for (uid, generation) in uids.zip(group.connection_generations) {
                let (id, action) = (group.command_id.to_vec(), group.action.clone().unwrap());
                self.heard.push(Heard::Command(SentCommand { id, uid, generation, action }));
            }
        }
        for group in batch.offers {
            let uids = group.instance_uids.chunks(16).map(|uid| InstanceUid::from_slice(uid).unwrap());
            assert_eq!(group.instance_uids.len(), 16 * group.generations.len());
            for (uid, generation) in uids.zip(group.generations) {
                let config_hash = group.hash.to_vec();
                self.heard.push(Heard::Offer(Offer { uid, config_hash, generation, repeat: group.repeat }));
            }
        }
    }
}
