//! Simulated agents against a scripted OpAMP server that shares no code with ours.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use muster::{
    load::{Endpoint, Fleet, Plan, Summary, Transport},
    proto::opamp::{
        AgentConfigMap, AgentConfigObject, AgentRemoteConfig, AgentToServer, RemoteConfigStatuses, ServerToAgent,
        ServerToAgentFlags,
    },
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

use crate::support::eventually;

type Socket = WebSocketStream<TcpStream>;

struct Server {
    listener: TcpListener,
    endpoint: Endpoint,
}

impl Server {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("ws://{}", listener.local_addr().unwrap()).parse().unwrap();
        Self { listener, endpoint }
    }

    async fn stream(&self) -> TcpStream {
        tokio::time::timeout(Duration::from_secs(30), self.listener.accept())
            .await
            .expect("an agent connects")
            .unwrap()
            .0
    }

    async fn socket(&self) -> Socket {
        accept_async(self.stream().await).await.unwrap()
    }

    fn plan(&self) -> Plan {
        Plan {
            endpoints: vec![self.endpoint.clone()],
            transport: Transport::WebSocket,
            token: Some("secret".into()),
            agents: 1,
            connects_per_second: 1_000,
            heartbeat: Duration::from_secs(3_600),
            report_bytes: 1_000,
            attributes: vec![],
            fail_percent: 0.0,
            reconnect: None,
            duration: None,
            source_addresses: vec![],
            seed: 7,
        }
    }
}

/// The next message of an agent.
async fn received(socket: &mut Socket) -> AgentToServer {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(30), socket.next()).await.expect("a message in time");
        if let Message::Binary(bytes) = message.expect("an open connection").unwrap() {
            assert_eq!(bytes[0], 0, "OpAMP's header");
            return AgentToServer::decode(&bytes[1..]).unwrap();
        }
    }
}

async fn send(socket: &mut Socket, message: &ServerToAgent) {
    let bytes = [&[0], &message.encode_to_vec()[..]].concat();
    socket.send(Message::Binary(bytes.into())).await.unwrap();
}

fn offer(hash: &[u8], body: &str) -> ServerToAgent {
    let file = AgentConfigObject { body: body.to_owned().into(), ..Default::default() };
    let config = Some(AgentConfigMap { config_map: [("collector.yaml".to_owned(), file)].into() });
    let remote_config = Some(AgentRemoteConfig { config, config_hash: hash.to_vec().into() });
    ServerToAgent { remote_config, ..Default::default() }
}

fn status(message: &AgentToServer) -> (RemoteConfigStatuses, Vec<u8>) {
    let status = message.remote_config_status.as_ref().expect("a remote config status");
    (RemoteConfigStatuses::try_from(status.status).unwrap(), status.last_remote_config_hash.to_vec())
}

async fn stopped(fleet: Fleet, stop: CancellationToken) -> Summary {
    stop.cancel();
    fleet.finish().await
}

fn count(summary: &Summary, name: &str) -> u64 {
    summary.counts[name]
}

#[tokio::test]
async fn an_agent_reports_applies_and_says_goodbye() {
    let (server, stop) = (Server::new().await, CancellationToken::new());
    let fleet = Fleet::start(server.plan(), stop.clone());
    let mut socket = server.socket().await;

    let first = received(&mut socket).await;
    assert!(first.agent_description.is_some() && first.health.is_some() && first.effective_config.is_some());
    assert_eq!((first.sequence_num, status(&first).0), (0, RemoteConfigStatuses::Unset));
    send(&mut socket, &ServerToAgent::default()).await;

    // In two fragments, with a ping in between.
    let bytes = [&[0], &offer(b"h1", "a: 1").encode_to_vec()[..]].concat();
    fragments(&mut socket, &bytes).await;
    let pong = socket.next().await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("still there?".into()));
    let answer = received(&mut socket).await;
    assert_eq!((answer.sequence_num, status(&answer)), (1, (RemoteConfigStatuses::Applied, b"h1".to_vec())));
    assert!(answer.agent_description.is_none(), "a delta");

    let flags = ServerToAgentFlags::ReportFullState as u64;
    send(&mut socket, &ServerToAgent { flags, ..Default::default() }).await;
    let full = received(&mut socket).await;
    assert!(full.agent_description.is_some());
    assert_eq!(status(&full), (RemoteConfigStatuses::Applied, b"h1".to_vec()));

    stop.cancel();
    let (farewell, summary) = tokio::join!(
        async {
            let farewell = received(&mut socket).await;
            assert!(matches!(socket.next().await, Some(Ok(Message::Close(Some(_))))), "and a Close frame");
            drop(socket);
            farewell
        },
        fleet.finish()
    );
    assert!(farewell.agent_disconnect.is_some() && farewell.sequence_num == 3);
    let counts = ["connects", "offers", "applied", "full_state_asks", "disconnects"].map(|name| count(&summary, name));
    assert_eq!(counts, [1, 1, 1, 1, 0]);
    assert_eq!((summary.configs.len(), summary.configs[0].hash.as_str()), (1, "6831"));
    assert_eq!(summary.latency_ms.first_reply.count, 1);
}

async fn fragments(socket: &mut Socket, bytes: &[u8]) {
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    };
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    let part =
        |bytes: &[u8], data, is_final| Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(data), is_final));
    socket.send(part(head, Data::Binary, false)).await.unwrap();
    socket.send(Message::Ping("still there?".into())).await.unwrap();
    socket.send(part(tail, Data::Continue, true)).await.unwrap();
}

#[tokio::test]
async fn a_lost_connection_is_made_again_with_the_sequence_continued() {
    let (server, stop) = (Server::new().await, CancellationToken::new());
    let fleet = Fleet::start(server.plan(), stop.clone());
    let mut socket = server.socket().await;
    received(&mut socket).await;
    drop(socket);
    let mut socket = server.socket().await;
    let again = received(&mut socket).await;
    assert!(again.sequence_num == 1 && again.agent_description.is_none(), "an empty delta, as opamp-go sends it");
    drop(socket);
    let summary = stopped(fleet, stop).await;
    assert_eq!(count(&summary, "connects"), 2);
    assert!(count(&summary, "disconnects") >= 1);
}

#[tokio::test]
async fn a_refusal_is_counted_and_its_retry_after_obeyed() {
    let (server, stop) = (Server::new().await, CancellationToken::new());
    let fleet = Fleet::start(server.plan(), stop.clone());
    let mut stream = server.stream().await;
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await.unwrap();
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    assert!(request.contains("Authorization: Bearer secret\r\n"), "{request}");
    stream.write_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let refused_at = tokio::time::Instant::now();
    let socket = server.socket().await;
    assert!(refused_at.elapsed() >= Duration::from_millis(990), "came back after {:?}", refused_at.elapsed());
    let stats = fleet.stats();
    eventually("the connection is counted", async || {
        (stats.connected.load(std::sync::atomic::Ordering::Relaxed) == 1).then_some(())
    })
    .await;
    drop(socket);
    let summary = stopped(fleet, stop).await;
    assert_eq!((summary.refused[&503], count(&summary, "connects")), (1, 1));
}

#[tokio::test]
async fn the_asked_share_fails_and_arrival_is_timed_from_the_body() {
    const AGENTS: u32 = 40;
    let (server, stop) = (Server::new().await, CancellationToken::new());
    let plan = Plan { agents: AGENTS, fail_percent: 50.0, ..server.plan() };
    let fleet = Fleet::start(plan, stop.clone());
    let sent_at = jiff::Timestamp::now().as_millisecond() - 5_000;
    let body = format!("# muster-load-sent-unix-ms: {sent_at}\n");
    let statuses = Arc::new(Mutex::new(Vec::new()));
    let mut agents = tokio::task::JoinSet::new();
    for _ in 0..AGENTS {
        let mut socket = server.socket().await;
        let (body, statuses) = (body.clone(), statuses.clone());
        agents.spawn(async move {
            received(&mut socket).await;
            send(&mut socket, &offer(b"h", &body)).await;
            let answer = received(&mut socket).await;
            statuses.lock().push(status(&answer).0);
            socket
        });
    }
    // Connections that ended would be made again.
    drop(agents.join_all().await);
    let summary = stopped(fleet, stop).await;
    let failed = statuses.lock().iter().filter(|status| **status == RemoteConfigStatuses::Failed).count() as u64;
    assert!((10..=30).contains(&failed), "{failed} of {AGENTS}");
    assert_eq!((count(&summary, "failed"), count(&summary, "applied")), (failed, u64::from(AGENTS) - failed));
    let config = &summary.configs[0];
    assert_eq!((config.from, config.latency_ms.count), ("sent", u64::from(AGENTS)));
    assert!(config.latency_ms.p50 >= 5_000.0, "{config:?}");
}

#[tokio::test]
async fn http_agents_poll_and_send_again_what_was_not_answered() {
    let (server, stop) = (Server::new().await, CancellationToken::new());
    let plan = Plan { transport: Transport::Http, heartbeat: Duration::from_millis(50), ..server.plan() };
    let fleet = Fleet::start(plan, stop.clone());
    let mut stream = server.stream().await;
    let first = posted(&mut stream).await;
    assert!(first.agent_description.is_some());
    // Gone without an answer.
    drop(stream);
    let mut stream = server.stream().await;
    assert_eq!(posted(&mut stream).await, first, "the same message again");
    answer(&mut stream, &offer(b"h", "a: 1")).await;
    let applied = posted(&mut stream).await;
    assert_eq!((applied.sequence_num, status(&applied).0), (1, RemoteConfigStatuses::Applied));
    answer(&mut stream, &ServerToAgent::default()).await;
    let heartbeat = posted(&mut stream).await;
    assert!(heartbeat.sequence_num == 2 && heartbeat.remote_config_status.is_none());
    answer(&mut stream, &ServerToAgent::default()).await;
    stop.cancel();
    let (farewell, summary) = tokio::join!(
        async {
            loop {
                let message = posted(&mut stream).await;
                answer(&mut stream, &ServerToAgent::default()).await;
                if message.agent_disconnect.is_some() {
                    return message;
                }
            }
        },
        fleet.finish()
    );
    assert!(farewell.sequence_num >= 3);
    assert_eq!((count(&summary, "applied"), count(&summary, "connects")), (1, 2));
}

async fn posted(stream: &mut TcpStream) -> AgentToServer {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            assert!(text.starts_with("POST /v1/opamp HTTP/1.1\r\n"), "{text}");
            let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if request.len() == end + 4 + length.parse::<usize>().unwrap() {
                return AgentToServer::decode(&request[end + 4..]).unwrap();
            }
        }
        assert!(stream.read_buf(&mut request).await.unwrap() > 0, "an open connection");
    }
}

async fn answer(stream: &mut TcpStream, message: &ServerToAgent) {
    let body = message.encode_to_vec();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
}
