//! Gateways and a config service as they are, and clients that do what real ones do, at once and without thinking.

use std::net::SocketAddr;

use bytes::Bytes;
use muster::{
    gateway::{self, AgentAuth, Gateway},
    model::{AgentRecord, InstanceUid},
    proto::opamp::{
        AgentDescription, AgentRemoteConfig, AgentToServer, AnyValue, ComponentHealth, EffectiveConfig, KeyValue,
        RemoteConfigStatus, RemoteConfigStatuses, ServerToAgent, any_value::Value,
    },
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_tungstenite::{connect_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

use crate::{
    config_service::cluster::{Backend, Cluster, Replica},
    gateway::harness::{self, Agent},
};

pub const FULL_STATE: u64 = 1;
/// Field 4 of AgentToServer, a varint.
const CAPABILITIES_KEY: u8 = 4 << 3;
/// The description's attribute by which policies select these clients.
pub const GROUP: &str = "group";

pub struct World {
    pub cluster: Cluster,
    pub replica: Option<Replica>,
    pub gateways: Vec<Node>,
}

pub struct Node {
    pub address: SocketAddr,
    pub handle: gateway::Handle,
    pub shutdown: CancellationToken,
}

impl World {
    pub async fn start(gateways: usize) -> Self {
        let (cluster, replica) = Cluster::start(Backend::InProcess).await;
        let mut world = Self { cluster, replica: Some(replica), gateways: Vec::new() };
        for number in 0..gateways {
            world.add_gateway(&format!("gateway-{number}"), harness::config()).await;
        }
        world
    }

    pub async fn add_gateway(&mut self, name: &str, config: gateway::Config) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = gateway::Config { agent_auth: AgentAuth::None, ..config };
        let gateway = Gateway::new(config, name.to_owned(), self.cluster.bus.clone());
        let (handle, shutdown) = (gateway.handle(), CancellationToken::new());
        tokio::spawn(gateway.run(listener, shutdown.clone()));
        crate::support::eventually("the gateway is ready", async || handle.is_ready().then_some(())).await;
        self.gateways.push(Node { address, handle, shutdown });
    }

    /// The agents that the store knows.
    pub async fn agents(&self) -> usize {
        self.cluster.store.page_agents(Default::default(), None, 1_000).await.unwrap().len()
    }

    /// The config service ends and begins anew.
    pub async fn restart_service(&mut self) {
        self.replica.take().expect("it runs").stop().await;
        self.replica = Some(self.cluster.replica("again", crate::config_service::cluster::quick()).await);
    }
}

/// What a client makes of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Applies {
    #[default]
    Well,
    /// Reports FAILED.
    Badly,
    /// As the Supervisor with automatic rollback: APPLYING, FAILED, and APPLIED of what it had before.
    RollsBack,
}

/// How a client behaves. By default as opamp-go does.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub answers_asks: bool,
    pub takes_new_uids: bool,
    pub applies: Applies,
    /// As .NET, which sends capabilities only in its first message.
    pub capabilities_once: bool,
    /// By how much its numbers grow.
    pub step: u64,
    /// Asks for a uid in every message.
    pub requests_uid: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            answers_asks: true,
            takes_new_uids: true,
            applies: Applies::Well,
            capabilities_once: false,
            step: 1,
            requests_uid: false,
        }
    }
}

/// What a server did to a client.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub messages: usize,
    pub asks: usize,
    /// Hashes.
    pub offers: Vec<Bytes>,
    pub uids: Vec<Bytes>,
    pub errors: usize,
}

pub struct Client {
    manner: Manner,
    pub uid: InstanceUid,
    sequence_num: u64,
    has_said_capabilities: bool,
    /// The configuration that it runs, and what it last said of one.
    config: Option<AgentRemoteConfig>,
    status: Option<RemoteConfigStatus>,
    health: String,
    socket: Option<Agent>,
    pings: u64,
    pub seen: Seen,
}

impl Client {
    pub fn new(n: u8, manner: Manner) -> Self {
        Self {
            manner,
            uid: harness::uid(n),
            sequence_num: 0,
            has_said_capabilities: false,
            config: None,
            status: None,
            health: String::new(),
            socket: None,
            pings: 0,
            seen: Seen::default(),
        }
    }

    /// Connects and reports everything.
    pub async fn start(n: u8, manner: Manner, gateway: &Node) -> Self {
        let mut client = Self::new(n, manner);
        client.connect(gateway).await;
        let full = client.full();
        client.say(full).await;
        client
    }

    /// Has a connection from now on, in place of the one it had. Says nothing.
    pub async fn connect(&mut self, gateway: &Node) {
        self.socket = None;
        let (socket, _) = connect_async(format!("ws://{}/v1/opamp", gateway.address)).await.expect("it is let in");
        self.socket = Some(Agent { socket });
    }

    /// Says something, does what it is told in the meantime, and stops when there is an answer to a ping that was sent after it.
    /// What is told later is done the next time.
    pub async fn say(&mut self, message: AgentToServer) {
        self.send(message).await;
        let is_opening = self.sequence_num <= self.manner.step;
        self.pings += 1;
        let ping = Bytes::from(self.pings.to_string());
        let mut is_answered = !is_opening;
        self.socket().send_frame(Message::Ping(ping.clone())).await;
        let mut is_pinged = false;
        while !(is_pinged && is_answered) {
            match self.socket().frame().await.expect("nobody is sent away") {
                Message::Pong(payload) => is_pinged |= payload == ping,
                Message::Binary(frame) => {
                    is_answered = true;
                    let reply = ServerToAgent::decode(&frame[1..]).expect("a ServerToAgent");
                    for reaction in self.reactions(reply) {
                        self.send(reaction).await;
                    }
                }
                Message::Ping(_) => {}
                other => panic!("a real client goes wrong at {other:?}"),
            }
        }
    }

    async fn send(&mut self, message: AgentToServer) {
        let mut frame = [&[0][..], &message.encode_to_vec()].concat();
        if message.capabilities == 0 {
            // In so many bytes: the encoder leaves it out.
            frame.extend([CAPABILITIES_KEY, 0]);
        }
        self.socket().send_frame(Message::Binary(frame.into())).await;
    }

    fn socket(&mut self) -> &mut Agent {
        self.socket.as_mut().expect("it is connected")
    }

    /// Says something over plain HTTP, and does what the reply tells it until there is nothing to be done, or for ever.
    pub async fn poll(&mut self, gateway: &Node, message: AgentToServer, most: usize) {
        let mut waiting = vec![message];
        let mut polls = 0;
        while let Some(message) = waiting.pop() {
            polls += 1;
            assert!(polls <= most, "{polls} polls to say one thing: {:?}", self.seen);
            let reply = harness::post_message(gateway.address, &message).await;
            waiting.extend(self.reactions(reply));
        }
    }

    /// What it sends because of a message.
    fn reactions(&mut self, reply: ServerToAgent) -> Vec<AgentToServer> {
        self.seen.messages += 1;
        self.seen.errors += usize::from(reply.error_response.is_some());
        let mut reactions = Vec::new();
        if let Some(identification) = reply.agent_identification {
            self.seen.uids.push(identification.new_instance_uid.clone());
            if self.manner.takes_new_uids {
                self.uid = InstanceUid::from_slice(&identification.new_instance_uid).expect("a uid");
            }
        }
        if let Some(config) = reply.remote_config {
            self.seen.offers.push(config.config_hash.clone());
            reactions.extend(self.take(config));
        }
        if reply.flags & FULL_STATE != 0 {
            self.seen.asks += 1;
            if self.manner.answers_asks {
                reactions.push(self.full());
            }
        }
        reactions
    }

    fn take(&mut self, config: AgentRemoteConfig) -> Vec<AgentToServer> {
        let hash = config.config_hash.clone();
        let mut said = Vec::new();
        let mut say = |client: &mut Self, status, hash: &Bytes| {
            let status = RemoteConfigStatus {
                status: status as i32,
                last_remote_config_hash: hash.clone(),
                ..Default::default()
            };
            client.status = Some(status.clone());
            said.push(AgentToServer { remote_config_status: Some(status), ..client.heartbeat() });
        };
        match self.manner.applies {
            Applies::Well => {
                self.config = Some(config);
                say(self, RemoteConfigStatuses::Applied, &hash);
            }
            Applies::Badly => say(self, RemoteConfigStatuses::Failed, &hash),
            Applies::RollsBack => {
                say(self, RemoteConfigStatuses::Applying, &hash);
                say(self, RemoteConfigStatuses::Failed, &hash);
                // Said when the collector runs again, which takes seconds.
                let before = self.config.as_ref().map(|config| config.config_hash.clone()).unwrap_or_default();
                self.status = Some(RemoteConfigStatus {
                    status: RemoteConfigStatuses::Applied as i32,
                    last_remote_config_hash: before,
                    ..Default::default()
                });
            }
        }
        said
    }

    pub fn set_applies(&mut self, applies: Applies) {
        self.manner.applies = applies;
    }

    /// A message with nothing in it.
    pub fn heartbeat(&mut self) -> AgentToServer {
        let message = AgentToServer {
            instance_uid: self.uid.to_bytes(),
            sequence_num: self.sequence_num,
            capabilities: match self.manner.capabilities_once && self.has_said_capabilities {
                true => 0,
                false => harness::capabilities(),
            },
            flags: self.manner.requests_uid.into(),
            ..Default::default()
        };
        self.has_said_capabilities = true;
        self.sequence_num += self.manner.step;
        message
    }

    pub fn full(&mut self) -> AgentToServer {
        let value = Some(AnyValue { value: Some(Value::StringValue("looping".to_owned())) });
        let attribute = KeyValue { key: GROUP.to_owned(), value };
        let config_map = self.config.as_ref().and_then(|config| config.config.clone());
        AgentToServer {
            agent_description: Some(AgentDescription { identifying_attributes: vec![attribute], ..Default::default() }),
            health: Some(ComponentHealth { last_error: self.health.clone(), ..Default::default() }),
            effective_config: Some(EffectiveConfig { config_map }),
            remote_config_status: self.status.clone(),
            ..self.heartbeat()
        }
    }

    /// Reports `text` as its health, and waits until that is stored, and so decided on.
    pub async fn report(&mut self, world: &World, text: &str) -> AgentRecord {
        self.health = text.to_owned();
        let health = ComponentHealth { last_error: text.to_owned(), ..Default::default() };
        let remote_config_status = self.status.clone();
        let message = AgentToServer { health: Some(health.clone()), remote_config_status, ..self.heartbeat() };
        self.say(message).await;
        let row = world.cluster.row_when(self.uid, |row| row.observed.health == health.encode_to_vec()).await;
        // What that told it.
        let heartbeat = self.heartbeat();
        self.say(heartbeat).await;
        row
    }
}
