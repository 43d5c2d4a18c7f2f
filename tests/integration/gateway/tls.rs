//! The listener over TLS, and who gets in by a certificate.

use std::{path::Path, time::Duration};

use futures_util::SinkExt;
use muster::{
    gateway::{ClientCertificates, Config, Tls, TlsConfig},
    model::ContentHash,
    proto::{
        bus::{GatewayBatch, OfferBody, UidAnswer, UidQuestion},
        opamp::{AgentConfigMap, AgentConfigObject, AgentRemoteConfig, AgentToServer, ServerErrorResponseType},
    },
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{client_async, tungstenite::Error as WsError, tungstenite::Message};

use super::harness::*;
use crate::support::tls::{Ca, Identity, connect, connector};

type TlsAgent = Agent<TlsStream<TcpStream>>;

/// A gateway over TLS; its certificate is of `server`, and it takes clients' certificates of `clients`.
struct World {
    bench: Bench,
    server: Ca,
    clients: Ca,
    folder: TempDir,
}

impl World {
    async fn start(certificates: ClientCertificates) -> Self {
        Self::start_with(certificates, config()).await
    }

    async fn start_with(certificates: ClientCertificates, config: Config) -> Self {
        let (server, clients) = (Ca::new("servers"), Ca::new("clients"));
        let folder = tempfile::tempdir().unwrap();
        let tls = tls(folder.path(), &server, &clients, certificates);
        let config = Config { client_certificates: certificates, ..config };
        let bench = Bench::start_with(config, Some(Tls::load(tls).unwrap())).await;
        Self { bench, server, clients, folder }
    }

    fn connector(&self, identity: Option<&Identity>) -> TlsConnector {
        connector(&self.server.pem, identity)
    }

    async fn agent(&self, identity: Option<&Identity>) -> Result<TlsAgent, Box<WsError>> {
        let stream = connect(self.bench.address, &self.connector(identity)).await.expect("a handshake");
        let url = format!("wss://{}/v1/opamp", self.bench.address);
        Ok(Agent { socket: client_async(url, stream).await?.0 })
    }

    /// The answer to a handshake.
    async fn answer(&self, identity: Option<&Identity>, headers: &str) -> (String, String) {
        let mut stream = connect(self.bench.address, &self.connector(identity)).await.expect("a handshake");
        let request = UPGRADE.replace("Host: x\r\n", &format!("Host: x\r\n{headers}"));
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, body) = answer(&mut stream).await;
        (head, String::from_utf8(body).unwrap())
    }
}

fn tls(folder: &Path, server: &Ca, clients: &Ca, certificates: ClientCertificates) -> TlsConfig {
    let (certificate_file, key_file) = server.server().write(folder, "server");
    let client_ca_file = folder.join("clients.pem");
    std::fs::write(&client_ca_file, &clients.pem).unwrap();
    TlsConfig {
        certificate_file,
        key_file,
        client_ca_file: Some(client_ca_file),
        asks_clients: certificates != ClientCertificates::Off,
    }
}

/// Status line and headers in lower case, and the body.
pub(super) async fn answer(stream: &mut TlsStream<TcpStream>) -> (String, Vec<u8>) {
    let read = async {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(answer).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        (head, body)
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer")
}

/// A body that no socket takes at once.
fn large_body(hash: ContentHash) -> AgentRemoteConfig {
    let body = (0..6_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<u8>>().into();
    let object = AgentConfigObject { body, ..Default::default() };
    let config_map = [("large".to_owned(), object)].into();
    AgentRemoteConfig { config: Some(AgentConfigMap { config_map }), config_hash: hash.to_bytes() }
}

#[tokio::test]
async fn an_agent_speaks_over_tls() {
    let mut world = World::start(ClientCertificates::Off).await;
    let mut agent = world.agent(None).await.unwrap();
    assert_eq!(agent.say(&full(1, 0)).await.instance_uid, uid(1).to_bytes());
    world.bench.service.report().await;

    // Larger than a record, and than what sockets hold.
    let text = "x".repeat(3_000_000);
    agent.say(&health(1, 1, &text)).await;
    let reported = message(&world.bench.service.report().await);
    assert_eq!(reported.health.unwrap().last_error, text);

    let hash = ContentHash([7; 32]);
    let body = large_body(hash);
    let sent = OfferBody { hash: hash.to_bytes(), body: body.encode_to_vec().into(), ..Default::default() };
    world.bench.service.say(GatewayBatch { bodies: vec![sent], ..Default::default() }).await;
    world.bench.service.offer(hash, &[(uid(1), 1)], false).await;
    // Pings wait behind it, and nothing gets mixed up.
    for _ in 0..50 {
        agent.socket.feed(Message::Ping("are you there".into())).await.unwrap();
    }
    agent.socket.flush().await.unwrap();
    assert_eq!(agent.receive().await.remote_config, Some(body));
    assert_eq!(agent.say(&heartbeat(1, 2)).await.error_response, None);
}

#[tokio::test]
async fn plain_http_works_over_tls_as_well() {
    let world = World::start(ClientCertificates::Off).await;
    let mut stream = connect(world.bench.address, &world.connector(None)).await.unwrap();
    // Two on one connection.
    for sequence_num in 0..2 {
        let body = full(1, sequence_num).encode_to_vec();
        let length = body.len();
        let head = format!(
            "POST /v1/opamp HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        let (head, body) = answer(&mut stream).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let reply = muster::proto::opamp::ServerToAgent::decode(&body[..]).unwrap();
        assert_eq!(reply.instance_uid, uid(1).to_bytes());
    }
}

#[tokio::test]
async fn a_certificate_lets_in_or_says_why_not() {
    let world = World::start(ClientCertificates::Required).await;
    let good = world.clients.client("collector", None);
    let mut agent = world.agent(Some(&good)).await.expect("it is let in");
    agent.say(&full(1, 0)).await;
    // It names no agent, so it may speak for any.
    assert_eq!(agent.say(&full(2, 0)).await.error_response, None);

    let (stranger, expired) = (Ca::new("strangers").client("collector", None), world.clients.expired_client("old"));
    for (identity, problem) in [
        (None, "a client certificate is required"),
        (Some(&stranger), "of no authority that is known here"),
        (Some(&expired), "has expired"),
    ] {
        let (head, body) = world.answer(identity, "").await;
        assert!(head.starts_with("http/1.1 401") && head.contains("www-authenticate"), "{head}");
        assert!(body.contains(problem), "{body}");
    }
}

#[tokio::test]
async fn a_certificate_may_stand_in_for_a_token() {
    let with_tokens = Config { agent_auth: muster::gateway::AgentAuth::Required, ..config() };
    let world = World::start_with(ClientCertificates::Optional, with_tokens).await;
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let (good, expired) = (world.clients.client("collector", None), world.clients.expired_client("old"));
    world.agent(Some(&good)).await.expect("no token is needed beside it");
    let status =
        async |identity: Option<&Identity>, headers: &str| world.answer(identity, headers).await.0[9..12].to_owned();
    assert_eq!(status(None, &token).await, "101", "a token alone");
    assert_eq!(status(None, "").await, "401", "neither");
    assert_eq!(status(Some(&expired), "").await, "401");
    assert_eq!(status(Some(&expired), &token).await, "101", "with the token it gets a new certificate");
}

#[tokio::test]
async fn who_has_a_certificate_of_its_own_speaks_for_itself_alone() {
    let mut world = World::start(ClientCertificates::Required).await;
    let own = world.clients.client("one", Some(&format!("urn:muster:agent:{}", uid(1))));
    let mut agent = world.agent(Some(&own)).await.unwrap();
    assert_eq!(agent.say(&full(1, 0)).await.error_response, None);
    agent.send(&full(2, 0)).await;
    let asked = world.bench.service.uid_question().await;
    world.bench.service.say(uid_answer(&asked, false)).await;
    let refused = agent.receive().await;
    let error = refused.error_response.expect("a refusal");
    assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest);
    assert!(error.error_message.contains(&uid(1).to_string()), "{}", error.error_message);
    assert_eq!(refused.instance_uid, uid(2).to_bytes());
    assert_eq!(world.bench.handle.agents(), 1, "nothing is known of the other");
    assert_eq!(agent.say(&heartbeat(1, 1)).await.error_response, None, "the connection is kept");

    // A uid that it was given is its own.
    let asks = AgentToServer { flags: 1, ..full(1, 2) };
    let given = agent.say(&asks).await.agent_identification.expect("a new uid").new_instance_uid;
    let renamed = AgentToServer { instance_uid: given.clone(), ..full(1, 3) };
    let reply = agent.say(&renamed).await;
    assert_eq!((reply.error_response, reply.instance_uid), (None, given));
}

fn uid_answer(asked: &UidQuestion, is_same_agent: bool) -> GatewayBatch {
    let UidQuestion { former_instance_uid, instance_uid } = asked.clone();
    let answer = UidAnswer { former_instance_uid, instance_uid, is_same_agent };
    GatewayBatch { uid_answers: vec![answer], ..Default::default() }
}

/// On another connection than the one on which it was given its uid, and at another gateway.
#[tokio::test]
async fn a_certificate_goes_on_being_good_for_an_agent_that_has_another_uid() {
    let mut world = World::start(ClientCertificates::Required).await;
    let own = world.clients.client("one", Some(&format!("urn:muster:agent:{}", uid(1))));
    // Nobody vouches for it.
    let mut agent = world.agent(Some(&own)).await.unwrap();
    agent.send(&full(2, 0)).await;
    let asked = world.bench.service.uid_question().await;
    assert_eq!((&asked.former_instance_uid, &asked.instance_uid), (&uid(1).to_bytes(), &uid(2).to_bytes()));
    world.bench.service.say(uid_answer(&asked, false)).await;
    let error = agent.receive().await.error_response.expect("a refusal");
    assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest);
    assert_eq!(world.bench.handle.agents(), 0);

    // The config service does; what the agent said meanwhile has waited.
    let world = World::start(ClientCertificates::Required).await;
    let mut bench = world.bench;
    let own = world.clients.client("one", Some(&format!("urn:muster:agent:{}", uid(1))));
    let stream = connect(bench.address, &connector(&world.server.pem, Some(&own))).await.unwrap();
    let url = format!("wss://{}/v1/opamp", bench.address);
    let mut agent = Agent { socket: client_async(url, stream).await.unwrap().0 };
    agent.send(&full(2, 0)).await;
    for number in 1..=20 {
        agent.send(&heartbeat(2, number)).await;
    }
    let asked = bench.service.uid_question().await;
    bench.service.say(uid_answer(&asked, true)).await;
    for number in 0..=20 {
        let reply = agent.receive().await;
        assert_eq!((reply.error_response, reply.instance_uid), (None, uid(2).to_bytes()));
        assert_eq!(reply.flags, 0, "in their order: there is no gap before {number}");
    }
    assert_eq!(bench.service.report().await.instance_uid, uid(2).to_bytes());
    assert_eq!(agent.say(&heartbeat(2, 21)).await.error_response, None);
    // That says nothing of others. No more waits for an answer than so many messages.
    agent.send(&full(3, 0)).await;
    assert_eq!(bench.service.uid_question().await.instance_uid, uid(3).to_bytes());
    for number in 1..=70 {
        agent.send(&heartbeat(3, number)).await;
    }
    let refused = agent.receive().await;
    assert_eq!(refused.instance_uid, uid(3).to_bytes());
    assert_eq!(refused.error_response.expect("a refusal").r#type(), ServerErrorResponseType::Unavailable);
}

#[tokio::test]
async fn certificates_are_read_again_when_they_change() {
    let world = World::start(ClientCertificates::Off).await;
    let mut before = world.agent(None).await.unwrap();
    before.say(&full(1, 0)).await;
    let next = Ca::new("next");
    // A file that cannot work changes nothing.
    std::fs::write(world.folder.path().join("server.key"), "oops").unwrap();
    next.server().write(world.folder.path(), "server");
    let taken = async {
        while connect(world.bench.address, &connector(&next.pem, None)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.expect("it is taken");
    assert!(connect(world.bench.address, &world.connector(None)).await.is_err(), "the old one is gone");
    before.say(&heartbeat(1, 1)).await;
}

#[tokio::test]
async fn who_does_not_shake_hands_is_dropped() {
    let config = Config { header_timeout: Duration::from_millis(200), ..config() };
    let world = World::start_with(ClientCertificates::Off, config).await;
    let silent = TcpStream::connect(world.bench.address).await.unwrap();
    assert_eq!(rest(silent).await, b"");
    let mut plain = TcpStream::connect(world.bench.address).await.unwrap();
    plain.write_all(UPGRADE.as_bytes()).await.unwrap();
    let answer = rest(plain).await;
    assert!(!answer.starts_with(b"HTTP"), "an alert, if anything");
    // Over TLS, and then silent.
    let mut slow = connect(world.bench.address, &world.connector(None)).await.unwrap();
    let mut answer = Vec::new();
    slow.write_all(b"GET /v1/op").await.unwrap();
    tokio::time::timeout(PATIENCE, slow.read_to_end(&mut answer)).await.expect("an end").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert!(world.bench.handle.is_ready());
}
