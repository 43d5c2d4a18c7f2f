//! What a simulated agent knows and says, as the opamp-go client does. No I/O.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{Plan, arrivals::sent_at_unix_ms};
use crate::proto::opamp::{
    AgentCapabilities as Capability, AgentConfigMap, AgentConfigObject, AgentDescription, AgentDisconnect,
    AgentRemoteConfig, AgentToServer, AnyValue, ComponentHealth, EffectiveConfig, KeyValue, RemoteConfigStatus,
    RemoteConfigStatuses, ServerToAgent, ServerToAgentFlags, any_value,
};

const CAPABILITIES: u64 = Capability::ReportsStatus as u64
    | Capability::AcceptsRemoteConfig as u64
    | Capability::ReportsEffectiveConfig as u64
    | Capability::ReportsHealth as u64
    | Capability::ReportsRemoteConfig as u64
    | Capability::ReportsHeartbeat as u64;

/// Most configurations whose effective form is kept for all agents; beyond it the oldest knowledge is dropped and made
/// again when needed.
const MAX_CONFIGS: usize = 256;

/// What an agent has been given. Shared by all agents that were given the same.
pub struct Taken {
    pub hash: Bytes,
    pub effective: EffectiveConfig,
    /// When the operator sent it, if its body says so.
    pub sent_at_unix_ms: Option<u64>,
}

/// What the reports of all agents have in common.
pub struct Reports {
    attributes: Vec<(String, String)>,
    fail_percent: f64,
    seed: u64,
    initial_effective: EffectiveConfig,
    taken: Mutex<HashMap<Bytes, Arc<Taken>>>,
}

impl Reports {
    pub fn new(plan: &Plan) -> Self {
        let mut reports = Self {
            attributes: plan.attributes.clone(),
            fail_percent: plan.fail_percent,
            seed: plan.seed,
            initial_effective: effective(Bytes::from_static(b"# no configuration yet\n")),
            taken: Mutex::default(),
        };
        let bare = Agent::new(&reports, 0).full(&reports).len();
        let padding = "# padding of a simulated effective configuration\n".bytes().cycle();
        let body: Vec<u8> = padding.take(plan.report_bytes.saturating_sub(bare)).collect();
        if !body.is_empty() {
            reports.initial_effective = effective(body.into());
        }
        reports
    }

    fn take(&self, offer: &AgentRemoteConfig) -> Arc<Taken> {
        let mut taken = self.taken.lock();
        if let Some(known) = taken.get(&offer.config_hash) {
            return known.clone();
        }
        if taken.len() >= MAX_CONFIGS {
            taken.clear();
        }
        // Copied, for the offer's bytes may be slices of a larger buffer.
        let hash = Bytes::copy_from_slice(&offer.config_hash);
        let bodies = offer.config.iter().flat_map(|config| config.config_map.values());
        let sent_at_unix_ms = bodies.filter_map(|file| sent_at_unix_ms(&file.body)).next();
        let effective = EffectiveConfig { config_map: offer.config.clone() };
        let made = Arc::new(Taken { hash: hash.clone(), effective, sent_at_unix_ms });
        taken.insert(hash, made.clone());
        made
    }
}

fn effective(body: Bytes) -> EffectiveConfig {
    let object = AgentConfigObject { body, content_type: "text/yaml".into(), role: String::new() };
    EffectiveConfig { config_map: Some(AgentConfigMap { config_map: [(String::new(), object)].into() }) }
}

/// One agent's state.
pub struct Agent {
    uid: [u8; 16],
    pub index: u32,
    next_sequence_num: u64,
    fails: bool,
    taken: Option<Arc<Taken>>,
    random: u64,
}

/// What a ServerToAgent did to the agent.
#[derive(Default)]
pub struct Effect {
    pub offer: Option<Arc<Taken>>,
    pub failed: bool,
    pub full_state_asked: bool,
    pub renamed: bool,
    /// Kind and text of an error response.
    pub error: Option<(i32, String)>,
    /// What the agent sends in return.
    pub answer: Option<Vec<u8>>,
}

impl Agent {
    pub fn new(reports: &Reports, index: u32) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"muster load agent\0");
        hasher.update(reports.seed.to_be_bytes());
        hasher.update(index.to_be_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let mut uid = [0; 16];
        uid.copy_from_slice(&digest[..16]);
        // The form of a UUIDv7, though its time is random.
        uid[6] = 0x70 | uid[6] & 0x0f;
        uid[8] = 0x80 | uid[8] & 0x3f;
        let share = f64::from(u32::from_be_bytes([digest[16], digest[17], digest[18], digest[19]])) / 2f64.powi(32);
        let random = digest[20..28].iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        let fails = share * 100.0 < reports.fail_percent;
        Self { uid, index, next_sequence_num: 0, fails, taken: None, random }
    }

    /// The first message of a connection: everything, or nothing new if the agent was connected before.
    pub fn first(&mut self, reports: &Reports) -> Vec<u8> {
        if self.next_sequence_num == 0 { self.full(reports) } else { self.heartbeat() }
    }

    /// Everything the agent has to say.
    pub fn full(&mut self, reports: &Reports) -> Vec<u8> {
        let message = AgentToServer {
            agent_description: Some(self.description(reports)),
            health: Some(ComponentHealth { healthy: true, status: "StatusOK".into(), ..Default::default() }),
            effective_config: Some(match &self.taken {
                Some(taken) if !self.fails => taken.effective.clone(),
                _ => reports.initial_effective.clone(),
            }),
            remote_config_status: Some(self.config_status()),
            ..Default::default()
        };
        self.message(message)
    }

    /// A message with nothing in it.
    pub fn heartbeat(&mut self) -> Vec<u8> {
        self.message(AgentToServer::default())
    }

    pub fn farewell(&mut self) -> Vec<u8> {
        self.message(AgentToServer { agent_disconnect: Some(AgentDisconnect {}), ..Default::default() })
    }

    /// Takes in a message of the server.
    pub fn take(&mut self, reports: &Reports, message: &ServerToAgent) -> Effect {
        let mut effect = Effect::default();
        if let Some(error) = &message.error_response {
            effect.error = Some((error.r#type, error.error_message.clone()));
            return effect;
        }
        let renamed = message.agent_identification.as_ref().map(|identity| &identity.new_instance_uid[..]);
        if let Some(Ok(uid)) = renamed.map(<[u8; 16]>::try_from) {
            self.uid = uid;
            effect.renamed = true;
        }
        if let Some(offer) = &message.remote_config
            && self.taken.as_ref().is_none_or(|taken| taken.hash != offer.config_hash)
        {
            self.taken = Some(reports.take(offer));
            effect.offer = self.taken.clone();
            effect.failed = self.fails;
        }
        effect.full_state_asked = message.flags & ServerToAgentFlags::ReportFullState as u64 != 0;
        effect.answer = match (&effect.offer, effect.full_state_asked) {
            (_, true) => Some(self.full(reports)),
            (Some(taken), false) => {
                let effective_config = (!self.fails).then(|| taken.effective.clone());
                let remote_config_status = Some(self.config_status());
                Some(self.message(AgentToServer { effective_config, remote_config_status, ..Default::default() }))
            }
            (None, false) => None,
        };
        effect
    }

    fn message(&mut self, mut message: AgentToServer) -> Vec<u8> {
        message.instance_uid = Bytes::copy_from_slice(&self.uid);
        message.sequence_num = self.next_sequence_num;
        message.capabilities = CAPABILITIES;
        self.next_sequence_num += 1;
        message.encode_to_vec()
    }

    fn config_status(&self) -> RemoteConfigStatus {
        let (status, error_message) = match (&self.taken, self.fails) {
            (None, _) => (RemoteConfigStatuses::Unset, ""),
            (Some(_), false) => (RemoteConfigStatuses::Applied, ""),
            (Some(_), true) => (RemoteConfigStatuses::Failed, "simulated failure"),
        };
        let last_remote_config_hash = self.taken.as_ref().map(|taken| taken.hash.clone()).unwrap_or_default();
        RemoteConfigStatus { last_remote_config_hash, status: status as i32, error_message: error_message.into() }
    }

    fn description(&self, reports: &Reports) -> AgentDescription {
        let own = [
            ("service.name", "io.opentelemetry.collector".to_owned()),
            ("service.version", "0.140.0".to_owned()),
            ("service.instance.id", uuid::Uuid::from_bytes(self.uid).hyphenated().to_string()),
            ("host.name", format!("load-{:06}", self.index)),
            ("host.arch", "amd64".to_owned()),
            ("os.type", "linux".to_owned()),
            ("os.description", "Simulated Linux".to_owned()),
        ];
        let is_replaced = |key: &str| reports.attributes.iter().any(|(name, _)| name == key);
        let own = own.into_iter().filter(|(key, _)| !is_replaced(key)).map(|(key, value)| (key.to_owned(), value));
        let attributes = own.chain(reports.attributes.iter().cloned()).map(|(key, value)| KeyValue {
            key,
            value: Some(AnyValue { value: Some(any_value::Value::StringValue(value)) }),
        });
        let (identifying_attributes, non_identifying_attributes) =
            attributes.partition(|attribute| attribute.key.starts_with("service."));
        AgentDescription { identifying_attributes, non_identifying_attributes }
    }

    /// A pseudo-random number, good enough for masks and jitter.
    pub fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Evenly between zero and `limit`.
    pub fn jitter(&mut self, limit: Duration) -> Duration {
        limit.mul_f64(self.fraction())
    }

    /// Exponentially distributed around `mean`, at most ten times it.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64((-(1.0 - self.fraction()).ln()).min(10.0))
    }

    fn fraction(&mut self) -> f64 {
        (self.random() >> 11) as f64 / 2f64.powi(53)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        load::{Endpoint, Transport},
        proto::opamp::AgentIdentification,
    };

    fn plan() -> Plan {
        Plan {
            endpoints: vec!["ws://h".parse::<Endpoint>().unwrap()],
            transport: Transport::WebSocket,
            token: None,
            agents: 1,
            connects_per_second: 1,
            heartbeat: Duration::from_secs(30),
            report_bytes: 0,
            attributes: vec![("os.type".into(), "windows".into()), ("env".into(), "prod".into())],
            fail_percent: 0.0,
            reconnect: None,
            duration: None,
            source_addresses: vec![],
            seed: 1,
        }
    }

    fn decode(message: &[u8]) -> AgentToServer {
        AgentToServer::decode(message).unwrap()
    }

    fn offer(hash: &'static [u8]) -> ServerToAgent {
        let file = AgentConfigObject {
            body: Bytes::from_static(b"a: 1\n# muster-load-sent-unix-ms: 1234\n"),
            ..Default::default()
        };
        let config = Some(AgentConfigMap { config_map: [("f".to_owned(), file)].into() });
        let remote_config = Some(AgentRemoteConfig { config, config_hash: Bytes::from_static(hash) });
        ServerToAgent { remote_config, ..Default::default() }
    }

    #[test]
    fn first_report_is_full_and_of_the_asked_size() {
        let reports = Reports::new(&Plan { report_bytes: 3_000, ..plan() });
        let mut agent = Agent::new(&reports, 3);
        let message = agent.full(&reports);
        assert!((2_950..3_050).contains(&message.len()), "{}", message.len());
        let message = decode(&message);
        assert_eq!((message.sequence_num, message.capabilities), (0, CAPABILITIES));
        let description = message.agent_description.unwrap();
        let keys: Vec<_> = description.non_identifying_attributes.iter().map(|a| a.key.as_str()).collect();
        assert_eq!(keys, ["host.name", "host.arch", "os.description", "os.type", "env"]);
        assert_eq!(description.identifying_attributes.len(), 3);
        assert_eq!(decode(&agent.heartbeat()).sequence_num, 1);
    }

    #[test]
    fn an_offer_is_applied_once() {
        let reports = Reports::new(&plan());
        let mut agent = Agent::new(&reports, 0);
        let effect = agent.take(&reports, &offer(b"h1"));
        assert_eq!(effect.offer.unwrap().sent_at_unix_ms, Some(1234));
        let answer = decode(&effect.answer.unwrap());
        let status = answer.remote_config_status.unwrap();
        assert_eq!(
            (status.status, &status.last_remote_config_hash[..]),
            (RemoteConfigStatuses::Applied as i32, &b"h1"[..])
        );
        assert_eq!(answer.effective_config.unwrap().config_map, offer(b"h1").remote_config.unwrap().config);
        let again = agent.take(&reports, &offer(b"h1"));
        assert!(again.offer.is_none() && again.answer.is_none(), "the same hash is not new");
    }

    #[test]
    fn failing_agents_are_the_asked_share_and_always_the_same() {
        let reports = Reports::new(&Plan { fail_percent: 20.0, ..plan() });
        let failing = || (0..2_000).filter(|&index| Agent::new(&reports, index).fails).collect::<Vec<_>>();
        assert!((300..500).contains(&failing().len()), "{}", failing().len());
        assert_eq!(failing(), failing());
        let mut agent = Agent::new(&reports, failing()[0]);
        let answer = decode(&agent.take(&reports, &offer(b"h")).answer.unwrap());
        assert_eq!(answer.remote_config_status.unwrap().status, RemoteConfigStatuses::Failed as i32);
        assert_eq!(answer.effective_config, None, "what failed is not in effect");
    }

    #[test]
    fn full_state_and_a_new_uid_are_obeyed() {
        let reports = Reports::new(&plan());
        let mut agent = Agent::new(&reports, 0);
        let identity = AgentIdentification { new_instance_uid: Bytes::from_static(&[9; 16]) };
        let flags = ServerToAgentFlags::ReportFullState as u64;
        let effect =
            agent.take(&reports, &ServerToAgent { flags, agent_identification: Some(identity), ..Default::default() });
        let answer = decode(&effect.answer.unwrap());
        assert!(answer.agent_description.is_some() && effect.renamed && effect.full_state_asked);
        assert_eq!(answer.instance_uid[..], [9; 16]);
    }

    #[test]
    fn uids_depend_on_seed_and_index_alone() {
        let uid = |seed, index| Agent::new(&Reports::new(&Plan { seed, ..plan() }), index).uid;
        assert_eq!(uid(1, 1), uid(1, 1));
        assert!(uid(1, 1) != uid(1, 2) && uid(1, 1) != uid(2, 1));
        assert_eq!(uuid::Uuid::from_bytes(uid(5, 5)).get_version_num(), 7);
    }
}
