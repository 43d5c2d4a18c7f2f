//! The gateway under test, what stands in for the config service, and clients.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use muster::{
    auth::token,
    bus::{Bus, Event, Topic, in_process::InProcess},
    gateway::{self, AgentAuth, Config, Gateway, Tls},
    model::{ContentHash, InstanceUid, uid::SHARD_COUNT},
    proto::{
        bus::{
            AgentToken, AgentTokens, CommandResult, GatewayBatch, OfferBody, OfferGroup, OfferKind, Probe, ProbeResult,
            Report, ShardBatch, UidQuestion, Verdict,
        },
        opamp::{
            AgentCapabilities, AgentDescription, AgentRemoteConfig, AgentToServer, ComponentHealth, ServerToAgent,
        },
    },
};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest},
};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes, except on a machine that hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const NODE: &str = "gateway-under-test";
/// What the gateway says it does, where nobody issues certificates: all that there is but for requests for them.
pub const CAPABILITIES: u64 = 0x3f;
/// What the tokens of package files are made with.
pub const PACKAGE_KEY: [u8; 32] = [7; 32];
pub const TOKEN: &str = "muster_agent_test";

pub struct Bench {
    pub address: SocketAddr,
    pub handle: gateway::Handle,
    pub service: Service,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<Result<(), gateway::Error>>,
}

/// Stands in for the config service. Acknowledges each report at once, unless told to wait for orders.
pub struct Service {
    pub bus: Arc<InProcess>,
    pub reports: mpsc::UnboundedReceiver<Report>,
    pub probe_results: mpsc::UnboundedReceiver<ProbeResult>,
    pub wanted: mpsc::UnboundedReceiver<ContentHash>,
    pub command_results: mpsc::UnboundedReceiver<CommandResult>,
    pub uid_questions: mpsc::UnboundedReceiver<UidQuestion>,
    acknowledges: Arc<AtomicBool>,
}

pub fn config() -> Config {
    Config {
        agent_auth: AgentAuth::None,
        drain_window: Duration::from_millis(200),
        drain_grace: Duration::from_millis(100),
        // So long that a reply which is waited for comes because of its verdict.
        verdict_wait: PATIENCE,
        ..Config::default()
    }
}

impl Bench {
    pub async fn start(config: Config) -> Self {
        Self::start_with(config, None).await
    }

    pub async fn start_with(config: Config, tls: Option<Tls>) -> Self {
        let bus = InProcess::new();
        let service = Service::start(bus.clone()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gateway = Gateway::with_tls(config, tls, NODE.to_owned(), bus);
        let (handle, shutdown) = (gateway.handle(), CancellationToken::new());
        let task = tokio::spawn(gateway.run(listener, shutdown.clone()));
        let bench = Self { address, handle, service, shutdown, task };
        bench.until(|bench| bench.handle.is_ready()).await;
        bench
    }

    /// Waits until `holds`.
    pub async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it never came to hold");
    }

    pub async fn connect(&self) -> Agent {
        self.try_connect(None).await.expect("the gateway lets agents in")
    }

    pub async fn try_connect(&self, token: Option<&str>) -> Result<Agent, Box<WsError>> {
        let mut request = format!("ws://{}/v1/opamp", self.address).into_client_request().unwrap();
        if let Some(token) = token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let (socket, _) = connect_async(request).await?;
        Ok(Agent { socket })
    }

    /// As [`raw`].
    pub async fn raw(&self, request: &[u8]) -> Vec<u8> {
        raw(self.address, request).await
    }

    /// One POST: status line and headers in lower case, and the body.
    pub async fn post(&self, headers: &str, body: &[u8]) -> (String, Vec<u8>) {
        let head = format!(
            "POST /v1/opamp HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        split(&self.raw(&[head.as_bytes(), body].concat()).await)
    }

    /// As [`post_message`].
    pub async fn poll(&self, message: &AgentToServer) -> ServerToAgent {
        post_message(self.address, message).await
    }

    pub async fn stop(self) -> Service {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").unwrap().expect("it ends well");
        self.service
    }
}

/// One exchange over plain HTTP.
pub async fn post_message(address: SocketAddr, message: &AgentToServer) -> ServerToAgent {
    let body = message.encode_to_vec();
    let head = format!(
        "POST /v1/opamp HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-protobuf\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let (head, body) = split(&raw(address, &[head.as_bytes(), &body].concat()).await);
    assert!(head.starts_with("http/1.1 200"), "{head}");
    ServerToAgent::decode(&body[..]).expect("a ServerToAgent")
}

/// Sends `request` as it is, and returns all of the answer. The request must ask for the connection to be closed.
pub async fn raw(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an answer").unwrap();
    answer
}

pub fn split(answer: &[u8]) -> (String, Vec<u8>) {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an end of the headers");
    (String::from_utf8_lossy(&answer[..end]).to_lowercase(), answer[end + 4..].to_vec())
}

impl Service {
    async fn start(bus: Arc<InProcess>) -> Self {
        let (report, reports) = mpsc::unbounded_channel();
        let (probe_result, probe_results) = mpsc::unbounded_channel();
        let (want, wanted) = mpsc::unbounded_channel();
        let (command_result, command_results) = mpsc::unbounded_channel();
        let (uid_question, uid_questions) = mpsc::unbounded_channel();
        let acknowledges = Arc::new(AtomicBool::new(true));
        let mut subscription = bus.subscribe();
        subscription.set_topics((0..SHARD_COUNT).map(Topic::Shard).collect()).await;
        let (own_bus, acknowledges_now) = (bus.clone(), acknowledges.clone());
        tokio::spawn(async move {
            loop {
                let Event::Message { payload, .. } = subscription.next().await else { continue };
                let batch = ShardBatch::decode(payload).expect("a ShardBatch");
                assert_eq!(batch.gateway, NODE);
                if batch.wants_agent_tokens {
                    own_bus.publish(&Topic::Gateway(NODE.to_owned()), tokens(1, &[TOKEN])).await.unwrap();
                }
                let verdicts = batch.reports.iter().map(acknowledgement).collect();
                if acknowledges_now.load(Ordering::SeqCst) && !batch.reports.is_empty() {
                    say(&own_bus, GatewayBatch { verdicts, ..Default::default() }).await;
                }
                batch.reports.into_iter().for_each(|it| drop(report.send(it)));
                batch.probe_results.into_iter().for_each(|it| drop(probe_result.send(it)));
                batch.command_results.into_iter().for_each(|it| drop(command_result.send(it)));
                batch.uid_questions.into_iter().for_each(|it| drop(uid_question.send(it)));
                for hash in batch.wanted_hashes {
                    let _ = want.send(ContentHash::from_slice(&hash).expect("a hash"));
                }
            }
        });
        Self { bus, reports, probe_results, wanted, command_results, uid_questions, acknowledges }
    }

    /// From now on reports are acknowledged only by what the test says.
    pub fn keep_silent(&self) {
        self.acknowledges.store(false, Ordering::SeqCst);
    }

    pub async fn say(&self, batch: GatewayBatch) {
        say(&self.bus, batch).await;
    }

    pub async fn verdict(&self, verdict: Verdict) {
        self.say(GatewayBatch { verdicts: vec![verdict], ..Default::default() }).await;
    }

    pub async fn probe(&self, report: &Report) {
        self.probe_for(report, InstanceUid::from_slice(&report.instance_uid).unwrap()).await;
    }

    /// On behalf of an agent with another uid.
    pub async fn probe_for(&self, report: &Report, newcomer: InstanceUid) {
        let probe = Probe {
            instance_uid: report.instance_uid.clone(),
            connection_generation: report.connection_generation,
            newcomer_uid: newcomer.to_bytes(),
        };
        self.say(GatewayBatch { probes: vec![probe], ..Default::default() }).await;
    }

    pub async fn tokens(&self, version: u64, texts: &[&str]) {
        self.bus.publish(&Topic::Gateway(NODE.to_owned()), tokens(version, texts)).await.unwrap();
    }

    /// Offers `hash` to these agents, with the generation.
    pub async fn offer(&self, hash: ContentHash, agents: &[(InstanceUid, u64)], repeat: bool) {
        let offer = OfferGroup {
            kind: OfferKind::Config as i32,
            hash: hash.to_bytes(),
            instance_uids: agents.iter().flat_map(|(uid, _)| *uid.as_bytes()).collect::<Vec<_>>().into(),
            generations: agents.iter().map(|(_, generation)| *generation).collect(),
            repeat,
        };
        self.say(GatewayBatch { offers: vec![offer], ..Default::default() }).await;
    }

    pub async fn body(&self, hash: ContentHash) {
        let remote_config = AgentRemoteConfig { config: None, config_hash: hash.to_bytes() }.encode_to_vec();
        let body = OfferBody { hash: hash.to_bytes(), body: remote_config.into(), ..Default::default() };
        self.say(GatewayBatch { bodies: vec![body], ..Default::default() }).await;
    }

    pub async fn report(&mut self) -> Report {
        tokio::time::timeout(PATIENCE, self.reports.recv()).await.expect("a report").expect("the bus lives")
    }

    pub async fn probe_result(&mut self) -> ProbeResult {
        tokio::time::timeout(PATIENCE, self.probe_results.recv()).await.expect("a probe result").expect("the bus lives")
    }

    pub async fn uid_question(&mut self) -> UidQuestion {
        tokio::time::timeout(PATIENCE, self.uid_questions.recv()).await.expect("a question").expect("the bus lives")
    }

    pub async fn wanted(&mut self) -> ContentHash {
        tokio::time::timeout(PATIENCE, self.wanted.recv()).await.expect("a question").expect("the bus lives")
    }
}

async fn say(bus: &InProcess, batch: GatewayBatch) {
    bus.publish(&Topic::Gateway(NODE.to_owned()), batch.encode_to_vec().into()).await.unwrap();
}

fn tokens(version: u64, texts: &[&str]) -> Bytes {
    let token = |text: &&str| AgentToken {
        id: (*text).to_owned(),
        sha256: token::digest(text).to_vec().into(),
        expires_unix_ms: 0,
    };
    let agent_tokens = Some(AgentTokens {
        version,
        tokens: texts.iter().map(token).collect(),
        package_key: PACKAGE_KEY.to_vec().into(),
        ..Default::default()
    });
    GatewayBatch { agent_tokens, ..Default::default() }.encode_to_vec().into()
}

pub fn acknowledgement(report: &Report) -> Verdict {
    Verdict {
        instance_uid: report.instance_uid.clone(),
        connection_generation: report.connection_generation,
        report_number: report.report_number,
        ..Default::default()
    }
}

/// One WebSocket of an agent, or of several.
pub struct Agent<S = MaybeTlsStream<TcpStream>> {
    pub socket: WebSocketStream<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Agent<S> {
    pub async fn send(&mut self, message: &AgentToServer) {
        let frame = [&[0][..], &message.encode_to_vec()].concat();
        self.send_frame(Message::Binary(frame.into())).await;
    }

    pub async fn send_frame(&mut self, frame: Message) {
        self.socket.send(frame).await.expect("the gateway takes it");
    }

    /// The next frame, whatever it is; `None` at the end.
    pub async fn frame(&mut self) -> Option<Message> {
        tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a frame").and_then(Result::ok)
    }

    /// The next message; pings are answered on the way.
    pub async fn receive(&mut self) -> ServerToAgent {
        loop {
            match self.frame().await.expect("the connection lives") {
                Message::Binary(frame) => {
                    assert_eq!(frame.first(), Some(&0), "the header is always sent");
                    return ServerToAgent::decode(&frame[1..]).expect("a ServerToAgent");
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Reads, and so answers pings, while `meanwhile` runs.
    pub async fn alive_while<T>(&mut self, meanwhile: impl Future<Output = T>) -> T {
        let reading = async { while self.frame().await.is_some() {} };
        tokio::select! {
            result = meanwhile => result,
            () = reading => panic!("the connection has ended"),
        }
    }

    pub async fn say(&mut self, message: &AgentToServer) -> ServerToAgent {
        self.send(message).await;
        self.receive().await
    }

    /// The code of the Close that comes next.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match self.frame().await.expect("a Close before the end") {
                Message::Close(frame) => return frame.expect("a Close with a code").code.into(),
                _ => continue,
            }
        }
    }
}

pub const UPGRADE: &str = "GET /v1/opamp HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A client's frame, not really masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

/// A socket past its handshake, without a client that would correct what is sent.
pub async fn raw_socket(bench: &Bench, early: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(bench.address).await.unwrap();
    socket.write_all(&[UPGRADE.as_bytes(), early].concat()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    socket
}

/// Everything until the end of the connection.
pub async fn rest(mut socket: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("it ends");
    rest
}

pub fn uid(n: u8) -> InstanceUid {
    InstanceUid::from_slice(&[n; 16]).unwrap()
}

pub fn capabilities() -> u64 {
    AgentCapabilities::ReportsStatus as u64
        | AgentCapabilities::AcceptsRemoteConfig as u64
        | AgentCapabilities::ReportsRemoteConfig as u64
}

/// A message with nothing in it.
pub fn heartbeat(n: u8, sequence_num: u64) -> AgentToServer {
    AgentToServer { instance_uid: uid(n).to_bytes(), sequence_num, capabilities: capabilities(), ..Default::default() }
}

/// A report in full.
pub fn full(n: u8, sequence_num: u64) -> AgentToServer {
    AgentToServer { agent_description: Some(AgentDescription::default()), ..heartbeat(n, sequence_num) }
}

/// A delta.
pub fn health(n: u8, sequence_num: u64, last_error: &str) -> AgentToServer {
    let health = ComponentHealth { healthy: false, last_error: last_error.to_owned(), ..Default::default() };
    AgentToServer { health: Some(health), ..heartbeat(n, sequence_num) }
}

pub fn message(report: &Report) -> AgentToServer {
    AgentToServer::decode(report.message.clone()).expect("an AgentToServer")
}
