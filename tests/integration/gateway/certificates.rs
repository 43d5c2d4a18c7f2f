//! The whole way of a certificate, over real TLS sockets: asked for, decided, offered, used, superseded and revoked.

use std::{net::SocketAddr, sync::Arc};

use muster::{
    auth::token,
    bus::{SharedBus, Topic, in_process::InProcess},
    config_service::{self, Approval, ConfigService},
    gateway::{AgentAuth, ClientCertificates, Gateway, Tls, TlsConfig},
    model::{
        InstanceUid, UnixMs,
        certificate::{Request, State},
    },
    pki::{Authority, Issuer},
    proto::{
        bus::{GatewayBatch, RefusedCertificate},
        opamp::{
            AgentCapabilities, AgentToServer, CertificateRequest, ConnectionSettingsRequest, OpAmpConnectionSettings,
            OpAmpConnectionSettingsRequest, ServerCapabilities, ServerErrorResponseType, ServerToAgent,
        },
    },
    store::{Actor, NewToken, SharedStore, TokenKind, sqlite::SqliteStore},
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{client_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

use super::{harness::*, tls::answer};
use crate::support::{
    eventually,
    standalone::Standalone,
    tls::{Ca, Identity, Key, connect, connector},
};

type TlsAgent = Agent<TlsStream<TcpStream>>;

const HERE: &str = "wss://muster.test/v1/opamp";

fn now() -> UnixMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

fn actor() -> Actor {
    Actor { name: "ada".into(), token_id: String::new(), now: now() }
}

/// A gateway over TLS and a config service that issues certificates.
struct World {
    server: Ca,
    issuer: Issuer,
    store: SharedStore,
    folder: TempDir,
    node: Node,
}

/// What can be stopped and started again.
struct Node {
    address: SocketAddr,
    bus: SharedBus,
    stop: CancellationToken,
    gateway: JoinHandle<Result<(), muster::gateway::Error>>,
    service: JoinHandle<Result<(), config_service::Error>>,
}

impl World {
    async fn start(certificates: ClientCertificates, approval: Approval) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(SqliteStore::open(&folder.path().join("muster.db")).await.unwrap());
        let new = NewToken {
            id: "t1".into(),
            kind: TokenKind::Agent,
            name: "agents".into(),
            sha256: token::digest(TOKEN),
            expires_at: None,
        };
        store.create_token(&new, &actor()).await.unwrap();
        let (certificate, key) = Authority::generate(now()).unwrap();
        let authority = Arc::new(Authority::load(&certificate, &key, now()).unwrap());
        let issuer = Issuer { authority, validity: std::time::Duration::from_secs(86_400) };
        let server = Ca::new("servers");
        let node = Node::start(&folder, &server, &store, &issuer, certificates, approval).await;
        Self { server, issuer, store, folder, node }
    }

    /// Everything that is not stored is gone.
    async fn restart(&mut self, certificates: ClientCertificates, approval: Approval) {
        self.node.stop.cancel();
        (&mut self.node.gateway).await.unwrap().unwrap();
        (&mut self.node.service).await.unwrap().unwrap();
        self.node = Node::start(&self.folder, &self.server, &self.store, &self.issuer, certificates, approval).await;
    }

    /// Sends the head of a request, and reads that of the answer with its body.
    async fn ask(&self, identity: Option<&Identity>, head: &str, body: &[u8]) -> (String, Vec<u8>) {
        let connector = connector(&self.server.pem, identity);
        let mut stream = connect(self.node.address, &connector).await.expect("a handshake");
        stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        answer(&mut stream).await
    }

    /// Why an agent with this certificate is not let in.
    async fn refusal(&self, identity: &Identity) -> String {
        let (head, body) = self.ask(Some(identity), UPGRADE, &[]).await;
        assert!(head.starts_with("http/1.1 401"), "{head}");
        String::from_utf8(body).unwrap()
    }

    async fn poll(&self, identity: Option<&Identity>, message: &AgentToServer) -> ServerToAgent {
        let body = message.encode_to_vec();
        let token = if identity.is_none() { format!("Authorization: Bearer {TOKEN}\r\n") } else { String::new() };
        let head = format!(
            "POST /v1/opamp HTTP/1.1\r\nHost: x\r\n{token}Content-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (head, body) = self.ask(identity, &head, &body).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        ServerToAgent::decode(&body[..]).unwrap()
    }

    /// With the certificate, or with the token if there is none.
    async fn agent(&self, identity: Option<&Identity>) -> TlsAgent {
        let connector = connector(&self.server.pem, identity);
        let stream = connect(self.node.address, &connector).await.expect("a handshake");
        let mut request = http::Request::builder()
            .uri(format!("wss://{}/v1/opamp", self.node.address))
            .header("Host", "x")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        if identity.is_none() {
            request = request.header("Authorization", format!("Bearer {TOKEN}"));
        }
        Agent { socket: client_async(request.body(()).unwrap(), stream).await.expect("it is let in").0 }
    }

    /// All requests of the agent, oldest first.
    async fn requests(&self, uid: InstanceUid) -> Vec<Request> {
        let mut requests = self.store.agent_certificates(uid).await.unwrap();
        requests.reverse();
        requests
    }

    async fn states(&self, uid: InstanceUid) -> Vec<State> {
        self.requests(uid).await.iter().map(|request| request.state).collect()
    }
}

impl Node {
    async fn start(
        folder: &TempDir,
        server: &Ca,
        store: &SharedStore,
        issuer: &Issuer,
        certificates: ClientCertificates,
        approval: Approval,
    ) -> Self {
        let (certificate_file, key_file) = server.server().write(folder.path(), "server");
        let asks_clients = certificates != ClientCertificates::Off;
        let tls = Tls::load(TlsConfig { certificate_file, key_file, client_ca_file: None, asks_clients }).unwrap();
        let bus: SharedBus = InProcess::new();
        let decides =
            config_service::Config { certificate_approval: approval, opamp_url: HERE.to_owned(), ..Default::default() };
        let service = ConfigService::new(decides, "service".into(), store.clone(), bus.clone());
        let service = service.with_issuer(Some(issuer.clone()));
        let stop = CancellationToken::new();
        let service = tokio::spawn(service.run(stop.clone()));
        let config =
            muster::gateway::Config { agent_auth: AgentAuth::Required, client_certificates: certificates, ..config() };
        let gateway = Gateway::with_tls(config, Some(tls), NODE.to_owned(), bus.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, handle) = (listener.local_addr().unwrap(), gateway.handle());
        let gateway = tokio::spawn(gateway.run(listener, stop.clone()));
        eventually("the gateway is ready", async || handle.is_ready().then_some(())).await;
        Self { address, bus, stop, gateway, service }
    }

    async fn hint(&self, hint: muster::proto::bus::Hint) {
        self.bus.publish(&Topic::ConfigService, hint.encode_to_vec().into()).await.unwrap();
    }
}

/// What the agent says that it can.
fn capabilities() -> u64 {
    AgentCapabilities::ReportsStatus as u64
        | AgentCapabilities::AcceptsOpAmpConnectionSettings as u64
        | AgentCapabilities::ReportsHeartbeat as u64
}

fn takes_settings(n: u8, sequence_num: u64) -> AgentToServer {
    AgentToServer { capabilities: capabilities(), ..full(n, sequence_num) }
}

/// A message that says nothing new.
fn nothing(n: u8, sequence_num: u64) -> AgentToServer {
    AgentToServer { capabilities: capabilities(), ..heartbeat(n, sequence_num) }
}

fn asks(n: u8, sequence_num: u64, csr: String) -> AgentToServer {
    let certificate_request = Some(CertificateRequest { csr: csr.into() });
    let opamp = Some(OpAmpConnectionSettingsRequest { certificate_request });
    AgentToServer { connection_settings_request: Some(ConnectionSettingsRequest { opamp }), ..nothing(n, sequence_num) }
}

/// Closes, as clients do before they connect anew.
async fn leave(mut agent: TlsAgent) {
    agent.send_frame(Message::Close(None)).await;
    while agent.frame().await.is_some() {}
}

/// The OpAMP settings that come with one of the next messages.
async fn offered(agent: &mut TlsAgent) -> OpAmpConnectionSettings {
    loop {
        let message = agent.receive().await;
        assert_eq!(message.error_response, None);
        if let Some(settings) = message.connection_settings {
            assert!(!settings.hash.is_empty());
            return settings.opamp.expect("settings of the OpAMP connection");
        }
    }
}

fn identity(key: &Key, settings: &OpAmpConnectionSettings) -> Identity {
    assert_eq!(settings.destination_endpoint, HERE);
    assert!(settings.heartbeat_interval_seconds > 0);
    let certificate = settings.certificate.as_ref().expect("a certificate");
    assert_eq!(certificate.private_key, "");
    key.with(&certificate.cert)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_asked_for_used_renewed_and_revoked() {
    let mut world = World::start(ClientCertificates::Optional, Approval::Automatic).await;
    let mut agent = world.agent(None).await;
    let first = agent.say(&takes_settings(1, 0)).await;
    assert_ne!(first.capabilities & ServerCapabilities::AcceptsConnectionSettingsRequest as u64, 0);
    let key = Key::new();
    agent.send(&asks(1, 1, key.request(&uid(1).to_string()))).await;
    let one = identity(&key, &offered(&mut agent).await);

    // It needs no token any more, and speaks for itself alone.
    leave(agent).await;
    let mut agent = world.agent(Some(&one)).await;
    let reply = agent.say(&takes_settings(1, 0)).await;
    assert_eq!((reply.error_response, reply.connection_settings), (None, None), "what it has is not offered again");
    let error = agent.say(&takes_settings(2, 0)).await.error_response.expect("a refusal");
    assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest);

    // The next one, for another key; the first works until then, and through a restart of everything.
    let next_key = Key::new();
    agent.send(&asks(1, 1, next_key.request("collector"))).await;
    let two = identity(&next_key, &offered(&mut agent).await);
    world.restart(ClientCertificates::Optional, Approval::Automatic).await;
    let mut old = world.agent(Some(&one)).await;
    assert_eq!(old.say(&takes_settings(1, 2)).await.error_response, None);
    leave(old).await;
    let mut agent = world.agent(Some(&two)).await;
    assert_eq!(agent.say(&takes_settings(1, 0)).await.error_response, None);
    assert_eq!(world.states(uid(1)).await, [State::Superseded, State::Issued]);

    // The old one is closed when it speaks for the first time, and not let in from then on.
    let mut old = world.agent(Some(&one)).await;
    old.send(&takes_settings(1, 9)).await;
    assert_eq!(agent.alive_while(old.close_code()).await, 1008);
    assert!(world.refusal(&one).await.contains("a later certificate"), "with a status, so that clients back off");
    assert_eq!(agent.say(&nothing(1, 1)).await.error_response, None, "the other connection is not touched");

    // Revoked: the live connection is closed, and nobody is let in by it.
    let id = world.requests(uid(1)).await[1].id;
    world.store.deny_certificate(id, &actor()).await.unwrap();
    world.node.hint(muster::proto::bus::Hint { agent_tokens_changed: true, ..Default::default() }).await;
    assert_eq!(agent.close_code().await, 1008);
    assert!(world.refusal(&two).await.contains("revoked"));
}

/// Agents are to ask where there is an answer, and only there.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_said_whether_there_are_certificates_to_ask_for() {
    let accepts = ServerCapabilities::AcceptsConnectionSettingsRequest as u64;
    let mut world = World::start(ClientCertificates::Optional, Approval::Off).await;
    for (n, approval) in [(1, Approval::Off), (2, Approval::Manual), (3, Approval::Off), (4, Approval::Automatic)] {
        if n > 1 {
            world.restart(ClientCertificates::Optional, approval).await;
        }
        let mut agent = world.agent(None).await;
        let first = agent.say(&takes_settings(n, 0)).await.capabilities;
        let says = first & accepts != 0;
        assert_eq!(says, approval != Approval::Off);
        assert_eq!(agent.say(&nothing(n, 1)).await.capabilities, first, "a heartbeat is answered alike");
        assert_eq!(world.poll(None, &takes_settings(n + 10, 0)).await.capabilities, first, "and a poll");
        agent.send(&asks(n, 2, Key::new().request("collector"))).await;
        if says {
            eventually("it is taken", async || world.requests(uid(n)).await.pop()).await;
            continue;
        }
        let error = loop {
            if let Some(error) = agent.receive().await.error_response {
                break error;
            }
        };
        assert_eq!(error.error_message, "this server issues no certificates");
    }
}

/// The config service tells every gateway, so that a client does not go from one to the next.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_gateway_was_shown_is_not_let_in() {
    let world = World::start(ClientCertificates::Optional, Approval::Automatic).await;
    let mut agent = world.agent(None).await;
    agent.say(&takes_settings(1, 0)).await;
    let key = Key::new();
    agent.send(&asks(1, 1, key.request("collector"))).await;
    let own = identity(&key, &offered(&mut agent).await);
    leave(agent).await;
    let mut agent = world.agent(Some(&own)).await;
    agent.say(&takes_settings(1, 0)).await;

    let serial = world.requests(uid(1)).await[0].issued.as_ref().expect("it is issued").serial;
    let refused = RefusedCertificate { serial: serial.to_vec().into(), reason: "shown elsewhere".into() };
    let batch = GatewayBatch { refused_certificates: vec![refused], ..Default::default() };
    world.node.bus.publish(&Topic::Gateway(NODE.to_owned()), batch.encode_to_vec().into()).await.unwrap();
    let answer = eventually("it is refused", async || {
        let (head, body) = world.ask(Some(&own), UPGRADE, &[]).await;
        head.starts_with("http/1.1 401").then_some(body)
    });
    assert!(String::from_utf8(answer.await).unwrap().contains("shown elsewhere"));
    assert_eq!(agent.say(&nothing(1, 1)).await.error_response, None, "a connection that is open is not touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_decides_and_the_agent_is_told() {
    let world = World::start(ClientCertificates::Optional, Approval::Manual).await;
    let mut agent = world.agent(None).await;
    agent.say(&takes_settings(1, 0)).await;
    let key = Key::new();
    assert_eq!(agent.say(&asks(1, 1, key.request("collector"))).await.error_response, None);
    let request = eventually("it is stored", async || world.requests(uid(1)).await.pop()).await;
    assert_eq!(request.state, State::Pending);
    let issued = world.issuer.issue(uid(1), &request.public_key, now()).unwrap();
    world.store.approve_certificate(request.id, &issued, &actor()).await.unwrap();
    let hint = muster::proto::bus::Hint { agents_to_reconcile: uid(1).to_bytes(), ..Default::default() };
    world.node.hint(hint).await;
    let own = identity(&key, &offered(&mut agent).await);
    leave(agent).await;
    world.agent(Some(&own)).await.say(&takes_settings(1, 0)).await;

    // Denied: the answer says so, alone, and the connection goes on.
    let (mut agent, key) = (world.agent(None).await, Key::new());
    agent.say(&takes_settings(2, 0)).await;
    agent.say(&asks(2, 1, key.request("collector"))).await;
    let request = eventually("it is stored", async || world.requests(uid(2)).await.pop()).await;
    world.store.deny_certificate(request.id, &actor()).await.unwrap();
    agent.send(&asks(2, 2, key.request("collector"))).await;
    let error = loop {
        let reply = agent.receive().await;
        if let Some(error) = reply.error_response.clone() {
            let alone = ServerToAgent {
                instance_uid: uid(2).to_bytes(),
                error_response: reply.error_response.clone(),
                ..Default::default()
            };
            assert_eq!(reply, alone);
            break error;
        }
    };
    assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest);
    assert_eq!(error.error_message, "the request for a certificate was denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_none_is_refused_at_once() {
    let world = World::start(ClientCertificates::Optional, Approval::Automatic).await;
    let mut agent = world.agent(None).await;
    agent.say(&takes_settings(1, 0)).await;
    let of_another = Key::new().request(&uid(2).to_string());
    for (csr, problem) in
        [(String::new(), "is missing"), ("hello".to_owned(), "not PEM"), (of_another, "but it comes from")]
    {
        let refused = agent.say(&asks(1, 1, csr)).await;
        let error = refused.error_response.expect("a refusal");
        assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest);
        assert!(error.error_message.contains(problem), "{}", error.error_message);
        assert_eq!(refused.instance_uid, uid(1).to_bytes());
    }
    assert_eq!(agent.say(&nothing(1, 1)).await.error_response, None);
    assert_eq!(world.requests(uid(1)).await, []);
}

/// A certificate that its own gateway does not take would only have the agent lose the connection that it has.
#[tokio::test(flavor = "multi_thread")]
async fn standalone_issues_none_while_it_takes_none() {
    let standalone = Standalone::start().await;
    let ask = async |message: AgentToServer| {
        let body = message.encode_to_vec();
        let head = format!(
            "POST /v1/opamp HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
            standalone.agent_token(),
            body.len()
        );
        let answer = raw(standalone.node.opamp(), &[head.as_bytes(), &body].concat()).await;
        ServerToAgent::decode(&split(&answer).1[..]).expect("a reply")
    };
    let first = ask(takes_settings(1, 0)).await;
    assert_eq!(first.capabilities & ServerCapabilities::AcceptsConnectionSettingsRequest as u64, 0);
    let mut reply = ask(asks(1, 1, Key::new().request(&uid(1).to_string()))).await;
    let error = loop {
        match reply.error_response {
            Some(error) => break error,
            None => reply = ask(nothing(1, 2)).await,
        }
    };
    assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest);
    assert!(error.error_message.contains("client-certificates is off"), "{}", error.error_message);
}

/// Over HTTP there is no connection that a certificate belongs to: each poll shows one.
#[tokio::test(flavor = "multi_thread")]
async fn over_http_each_poll_counts() {
    let world = World::start(ClientCertificates::Optional, Approval::Automatic).await;
    world.poll(None, &takes_settings(1, 0)).await;
    let (mut identities, mut sequence_num) = (Vec::new(), 0);
    for _ in 0..2 {
        let key = Key::new();
        sequence_num += 1;
        let mut reply = world.poll(None, &asks(1, sequence_num, key.request("collector"))).await;
        // The gateway may have to ask for what it is to offer.
        let settings = eventually("an offer", async || {
            if reply.connection_settings.is_none() {
                sequence_num += 1;
                reply = world.poll(None, &nothing(1, sequence_num)).await;
            }
            reply.connection_settings.take()
        });
        identities.push(identity(&key, &settings.await.opamp.unwrap()));
    }
    let [one, two] = &identities[..] else { panic!("two certificates") };
    world.poll(Some(one), &nothing(1, sequence_num + 1)).await;
    assert!(world.requests(uid(1)).await[0].used_at.is_some(), "the reply waits for that, too");
    world.poll(Some(two), &nothing(1, sequence_num + 2)).await;
    assert_eq!(world.states(uid(1)).await, [State::Superseded, State::Issued]);
    world.poll(Some(one), &nothing(1, sequence_num + 3)).await;
    assert!(world.refusal(one).await.contains("a later certificate"));
    assert_eq!(world.poll(Some(two), &nothing(1, sequence_num + 3)).await.error_response, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_certificate_is_required_a_token_is_not_enough() {
    let mut world = World::start(ClientCertificates::Optional, Approval::Automatic).await;
    let mut agent = world.agent(None).await;
    agent.say(&takes_settings(1, 0)).await;
    let key = Key::new();
    agent.send(&asks(1, 1, key.request("collector"))).await;
    let own = identity(&key, &offered(&mut agent).await);
    world.restart(ClientCertificates::Required, Approval::Off).await;
    let with_token = UPGRADE.replace("Host: x\r\n", &format!("Host: x\r\nAuthorization: Bearer {TOKEN}\r\n"));
    let (head, body) = world.ask(None, &with_token, &[]).await;
    assert!(head.starts_with("http/1.1 401") && body == b"a client certificate is required", "{head}");
    world.agent(Some(&own)).await.say(&takes_settings(1, 0)).await;
    let strangers = Ca::new("strangers").client("one", Some(&format!("urn:muster:agent:{}", uid(1))));
    assert!(world.refusal(&strangers).await.contains("of no authority that is known here"));
}
