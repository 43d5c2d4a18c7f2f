//! Gateways and a config service as they are, and clients that do what real ones do, at once and without thinking.

use std::net::SocketAddr;

use bytes::Bytes;
use muster::{
    gateway::{self, AgentAuth, Gateway},
    model::{AgentRecord, InstanceUid},
    proto::opamp::{
        AgentCapabilities, AgentDescription, AgentRemoteConfig, AgentToServer, AgentToServerFlags, AnyValue,
        AvailableComponents, ComponentDetails, ComponentHealth, ConnectionSettingsOffers, ConnectionSettingsStatus,
        ConnectionSettingsStatuses, EffectiveConfig, KeyValue, RemoteConfigStatus, RemoteConfigStatuses, ServerToAgent,
        ServerToAgentFlags, any_value::Value,
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

pub const FULL_STATE: u64 = ServerToAgentFlags::ReportFullState as u64;
const COMPONENTS: u64 = ServerToAgentFlags::ReportAvailableComponents as u64;
/// Field 4 of AgentToServer, a varint.
const CAPABILITIES_KEY: u8 = 4 << 3;
/// The description's attribute by which policies select these clients.
pub const GROUP: &str = "group";

pub struct World {
    pub cluster: Cluster,
    /// Of the config service.
    replicas: Vec<Replica>,
    started_replicas: usize,
    pub gateways: Vec<Node>,
}

pub struct Node {
    pub address: SocketAddr,
    pub handle: gateway::Handle,
    pub shutdown: CancellationToken,
}

impl World {
    pub async fn start(gateways: usize) -> Self {
        Self::on(Backend::InProcess, gateways).await
    }

    pub async fn on(backend: Backend, gateways: usize) -> Self {
        let (cluster, replica) = Cluster::start(backend).await;
        let mut world = Self { cluster, replicas: vec![replica], started_replicas: 1, gateways: Vec::new() };
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
        self.cluster.agents().await
    }

    /// One more replica of the config service.
    pub async fn add_replica(&mut self) {
        self.started_replicas += 1;
        let name = format!("replica-{}", self.started_replicas);
        self.replicas.push(self.cluster.replica(&name, crate::config_service::cluster::quick()).await);
    }

    /// All of the config service ends and begins anew.
    pub async fn restart_service(&mut self) {
        let replicas = std::mem::take(&mut self.replicas);
        let count = replicas.len();
        for replica in replicas {
            replica.stop().await;
        }
        for _ in 0..count {
            self.add_replica().await;
        }
    }

    /// Reports, new connections to gateways in turn, and a restart of the config service: each is an occasion to offer again.
    pub async fn go_on(&mut self, client: &mut Client) {
        for round in 0..ROUNDS {
            client.report(self, &format!("round {round}")).await;
            if round % 4 == 3 {
                let next = round / 4 % self.gateways.len();
                client.reconnect(&self.gateways[next]).await;
            }
            if round == ROUNDS / 2 {
                self.restart_service().await;
            }
        }
    }
}

const ROUNDS: usize = 12;
/// A client that moves more often than this in a test is in a loop.
const MOST_MOVES: usize = 40;

impl Node {
    pub fn url(&self) -> String {
        format!("ws://{}/v1/opamp", self.address)
    }
}

/// What a client makes of connection settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Settings {
    /// It takes none.
    #[default]
    Ignores,
    /// As opamp-go with all that it can report: takes them, says so, and does nothing about a hash that it has.
    Reports,
    /// As the Supervisor: makes a new client from what it is offered alone. That connects, begins with number 0, says everything, and
    /// knows nothing of the hash.
    Moves,
}

/// What a client tells of the components that it is built from, the same for all of these clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Components {
    /// Nothing.
    #[default]
    Unknown,
    /// Their hash, and all of them when it is asked.
    Tells,
    /// Their hash alone, whatever it is asked.
    Withholds,
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
    pub settings: Settings,
    pub components: Components,
    /// As .NET, which sends capabilities only in its first message.
    pub capabilities_once: bool,
    /// By how much its numbers grow.
    pub step: u64,
    /// Asks for a uid in every message.
    pub requests_uid: bool,
}

impl Manner {
    pub const USUAL: Self = Self {
        answers_asks: true,
        takes_new_uids: true,
        applies: Applies::Well,
        settings: Settings::Ignores,
        components: Components::Unknown,
        capabilities_once: false,
        step: 1,
        requests_uid: false,
    };
}

impl Default for Manner {
    fn default() -> Self {
        Self::USUAL
    }
}

/// What a server did to a client.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub messages: usize,
    pub asks: usize,
    /// For its components.
    pub component_asks: usize,
    /// Hashes.
    pub offers: Vec<Bytes>,
    /// Hashes of connection settings.
    pub settings: Vec<Bytes>,
    /// Settings that it did something about.
    pub taken_settings: usize,
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
    settings: Option<ConnectionSettingsStatus>,
    /// Where it is to connect to.
    moves_to: Option<String>,
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
            settings: None,
            moves_to: None,
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
        self.connect_to(&gateway.url()).await;
    }

    async fn connect_to(&mut self, url: &str) {
        self.socket = None;
        let (socket, _) = connect_async(url).await.expect("it is let in");
        self.socket = Some(Agent { socket });
    }

    /// Connects anew and says what it would: nothing, or, if it is one that forgets, everything.
    pub async fn reconnect(&mut self, gateway: &Node) {
        if self.manner.settings == Settings::Moves {
            return self.begin_anew(&gateway.url()).await;
        }
        self.connect(gateway).await;
        let heartbeat = self.heartbeat();
        self.say(heartbeat).await;
    }

    async fn begin_anew(&mut self, url: &str) {
        self.connect_to(url).await;
        self.sequence_num = 0;
        let full = self.full();
        Box::pin(self.say(full)).await;
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
        if let Some(url) = self.moves_to.take() {
            self.seen.taken_settings += 1;
            assert!(self.seen.taken_settings <= MOST_MOVES, "it moves for ever: {:?}", self.seen);
            self.begin_anew(&url).await;
        }
    }

    /// Answers pings, and does nothing else, while `meanwhile` runs.
    pub async fn alive_while<T>(&mut self, meanwhile: impl Future<Output = T>) -> T {
        self.socket().alive_while(meanwhile).await
    }

    /// Sends a message, and loses its connection before there is an answer.
    pub async fn send_and_lose(&mut self, message: AgentToServer) {
        self.send(message).await;
        self.socket = None;
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
        if let Some(settings) = reply.connection_settings {
            self.seen.settings.push(settings.hash.clone());
            reactions.extend(self.take_settings(settings));
        }
        if reply.flags & COMPONENTS != 0 {
            self.seen.component_asks += 1;
            if self.manner.components == Components::Tells {
                let available_components = self.available_components(&["otlp", "batch"]);
                reactions.push(AgentToServer { available_components, ..self.heartbeat() });
            }
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

    fn take_settings(&mut self, settings: ConnectionSettingsOffers) -> Option<AgentToServer> {
        let last = self.settings.as_ref().map(|status| &status.last_connection_settings_hash);
        let is_known = !settings.hash.is_empty() && last == Some(&settings.hash);
        match self.manner.settings {
            Settings::Ignores => panic!("it takes no connection settings"),
            Settings::Reports if is_known => None,
            Settings::Reports => {
                self.seen.taken_settings += 1;
                self.settings = Some(ConnectionSettingsStatus {
                    last_connection_settings_hash: settings.hash,
                    status: ConnectionSettingsStatuses::Applied as i32,
                    ..Default::default()
                });
                Some(AgentToServer { connection_settings_status: self.settings.clone(), ..self.heartbeat() })
            }
            Settings::Moves => {
                self.moves_to = settings.opamp.map(|opamp| opamp.destination_endpoint);
                None
            }
        }
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
                false => self.capabilities(),
            },
            flags: self.manner.requests_uid.into(),
            ..Default::default()
        };
        self.has_said_capabilities = true;
        self.sequence_num += self.manner.step;
        message
    }

    /// Asks for another uid, and says nothing else.
    pub fn uid_request(&mut self) -> AgentToServer {
        AgentToServer { flags: AgentToServerFlags::RequestInstanceUid as u64, ..self.heartbeat() }
    }

    fn available_components(&self, names: &[&str]) -> Option<AvailableComponents> {
        let components = names.iter().map(|name| ((*name).to_owned(), ComponentDetails::default())).collect();
        let told = AvailableComponents { components, hash: b"built like this"[..].into() };
        (self.manner.components != Components::Unknown).then_some(told)
    }

    fn capabilities(&self) -> u64 {
        let more: &[AgentCapabilities] = match self.manner.settings {
            Settings::Ignores => &[],
            Settings::Reports => &[
                AgentCapabilities::ReportsOwnMetrics,
                AgentCapabilities::AcceptsOtherConnectionSettings,
                AgentCapabilities::ReportsConnectionSettingsStatus,
            ],
            Settings::Moves => {
                &[AgentCapabilities::AcceptsOpAmpConnectionSettings, AgentCapabilities::ReportsHeartbeat]
            }
        };
        let components = match self.manner.components {
            Components::Unknown => 0,
            Components::Tells | Components::Withholds => AgentCapabilities::ReportsAvailableComponents as u64,
        };
        more.iter().fold(harness::capabilities() | components, |all, capability| all | *capability as u64)
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
            connection_settings_status: self.settings.clone(),
            available_components: self.available_components(&[]),
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
