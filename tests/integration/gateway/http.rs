//! Plain HTTP.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use muster::{
    gateway::{AgentAuth, Config},
    model::ContentHash,
    proto::{
        bus::{GatewayBatch, Transport, Verdict, ending::Reason},
        opamp::{AgentToServer, ServerErrorResponseType, ServerToAgent},
    },
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::harness::*;

const PROTOBUF: &str = "Content-Type: application/x-protobuf\r\n";

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_poll_gets_everything_in_one_reply() {
    let mut bench = Bench::start(config()).await;
    bench.service.keep_silent();
    let hash = ContentHash::of(b"one");
    let offer = async {
        let report = bench.service.report().await;
        assert_eq!(report.transport(), Transport::Http);
        let verdict = Verdict {
            report_full_state: true,
            offers: vec![muster::proto::bus::Offer { hash: hash.to_bytes(), generation: 1, ..Default::default() }],
            ..acknowledgement(&report)
        };
        // The body comes on demand.
        let batch = GatewayBatch { verdicts: vec![verdict], ..Default::default() };
        let bus = bench.service.bus.clone();
        muster::bus::Bus::publish(&*bus, &muster::bus::Topic::Gateway(NODE.into()), batch.encode_to_vec().into())
            .await
            .unwrap();
        assert_eq!(bench.service.wanted().await, hash);
        bench.service.body(hash).await;
    };
    let address = bench.address;
    let poll = tokio::spawn(async move {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let body = heartbeat(1, 0).encode_to_vec();
        let head = format!("POST /v1/opamp HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{PROTOBUF}Content-Length: ");
        socket.write_all(format!("{head}{}\r\n\r\n", body.len()).as_bytes()).await.unwrap();
        socket.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        answer
    });
    offer.await;
    let (head, body) = split(&poll.await.unwrap());
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/x-protobuf\r\n"), "{head}");
    let reply = ServerToAgent::decode(&body[..]).unwrap();
    assert_eq!((reply.flags, reply.capabilities, &reply.instance_uid), (1, CAPABILITIES, &uid(1).to_bytes()));
    assert_eq!(reply.remote_config.expect("the offer").config_hash, hash.to_bytes());
}

#[tokio::test]
async fn what_comes_late_waits_for_the_next_poll() {
    let mut bench = Bench::start(Config { verdict_wait: Duration::from_millis(50), ..config() }).await;
    bench.service.keep_silent();
    let reply = bench.poll(&full(1, 0)).await;
    assert_eq!((reply.flags, reply.capabilities), (0, CAPABILITIES), "plain, for nobody has decided");
    let report = bench.service.report().await;
    let hash = ContentHash::of(b"one");
    bench.service.body(hash).await;
    let verdict = Verdict {
        offers: vec![muster::proto::bus::Offer { hash: hash.to_bytes(), generation: 1, ..Default::default() }],
        ..acknowledgement(&report)
    };
    bench.service.verdict(verdict).await;
    // What is not acknowledged is repeated, so this may take another report.
    let mut sequence_num = 0;
    loop {
        sequence_num += 1;
        if let Some(config) = bench.poll(&heartbeat(1, sequence_num)).await.remote_config {
            assert_eq!(config.config_hash, hash.to_bytes());
            break;
        }
        assert!(sequence_num < 1_000);
    }
    assert_eq!(bench.poll(&heartbeat(1, sequence_num + 1)).await.remote_config, None, "offered once");
}

#[tokio::test]
async fn polling_never_looks_like_a_duplicate_and_a_gap_is_asked_about() {
    let bench = Bench::start(config()).await;
    bench.poll(&full(1, 1)).await;
    for sequence_num in 2..6 {
        let reply = bench.poll(&heartbeat(1, sequence_num)).await;
        assert_eq!((reply.agent_identification, reply.flags), (None, 0));
    }
    assert_eq!(bench.poll(&heartbeat(1, 9)).await.flags, 1);
    assert_eq!(bench.poll(&full(1, 10)).await.flags, 0);
}

#[tokio::test]
async fn an_agent_that_stops_polling_is_let_go_of() {
    let mut bench = Bench::start(Config { http_interval: Duration::from_secs(1), ..config() }).await;
    bench.poll(&full(1, 4)).await;
    bench.service.report().await;
    let ending = bench.service.report().await;
    assert_eq!(ending.transport(), Transport::Http);
    assert_eq!((ending.sequence_num, ending.ending.unwrap().reason()), (4, Reason::ConnectionClosed));
    bench.until(|bench| bench.handle.agents() == 0).await;
}

#[tokio::test]
async fn requests_that_are_not_opamp_get_the_status_that_says_so() {
    let bench = Bench::start(config()).await;
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
    let cases = [
        (get("/v1/opamp", ""), "426"),
        (get("/", ""), "404"),
        (get("/v1/opamp/", ""), "426"),
        (get("/v1/opamp//", ""), "404"),
        (get("/v1/opamp/x", ""), "404"),
        (get("/v1/opamp", "").replacen("GET", "PUT", 1), "405"),
    ];
    for (request, status) in cases {
        let (head, _) = split(&bench.raw(request.as_bytes()).await);
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{request}: {head}");
    }
    let body = full(1, 0).encode_to_vec();
    for (headers, status) in [
        ("Content-Type: application/json\r\n", "415"),
        ("", "415"),
        ("Content-Type: Application/X-Protobuf; v=1\r\n", "200"),
        ("Content-Type: application/x-protobuf\r\nContent-Encoding: br\r\n", "415"),
        ("Content-Type: application/x-protobuf\r\nContent-Encoding: gzip\r\n", "400"),
        ("Content-Type: application/x-protobuf\r\nContent-Encoding: identity\r\n", "200"),
    ] {
        let (head, _) = bench.post(headers, &body).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{headers}: {head}");
    }
}

/// None of them asks for the connection to be closed, and none is left waiting for an answer.
#[tokio::test]
async fn too_many_or_too_long_headers_are_refused_with_the_status_that_says_so() {
    let bench = Bench::start(config()).await;
    let request = |method: &str, headers: &str, body: usize| {
        let mut request = format!("{method} /v1/opamp HTTP/1.1\r\nHost: x\r\nContent-Length: {body}\r\n{headers}\r\n");
        request.push_str(&"b".repeat(body));
        request
    };
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: v\r\n")).collect::<String>();
    let long = format!("X: {}\r\n", "v".repeat(20 << 10));
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let cases = [
        ("99 and what is needed", request("GET", &many(99), 0)),
        ("100 and what is needed", request("GET", &many(100), 0)),
        ("101 and what is needed", request("GET", &many(101), 0)),
        ("many", request("GET", &many(500), 0)),
        ("more than a buffer of them", request("GET", &many(5_000), 0)),
        ("with a body", request("POST", &many(150), 200_000)),
        ("with an upgrade", request("GET", &(upgrade.to_owned() + &many(150)), 0)),
        ("a long one", request("GET", &long, 0)),
        ("a long one with a body", request("POST", &long, 200_000)),
    ];
    for (what, request) in cases {
        let (head, _) = split(&bench.raw(request.as_bytes()).await);
        assert!(head.starts_with("http/1.1 431"), "{what}: {head}");
    }
    let (head, _) =
        bench.post(&format!("Content-Type: application/x-protobuf\r\n{}", many(90)), &full(1, 0).encode_to_vec()).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

/// A socket that is closed with bytes unread is reset, and its peer may learn of nothing else.
#[tokio::test]
async fn who_is_refused_for_headers_may_send_the_body_before_the_answer_is_read() {
    let bench = Bench::start(config()).await;
    let mut socket = TcpStream::connect(bench.address).await.unwrap();
    let many: String = (0..150).map(|n| format!("X-{n}: v\r\n")).collect();
    let head = format!("POST /v1/opamp HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n{many}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.peek(&mut [0]).await.unwrap();
    for _ in 0..10 {
        socket.write_all(&[b'b'; 10_000]).await.expect("it is still read");
    }
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn malformed_messages_are_answered_in_protobuf_with_the_best_known_uid() {
    let bench = Bench::start(config()).await;
    let (head, body) = bench.post(&format!("{PROTOBUF}OpAMP-Instance-UID: {}\r\n", uid(3)), &[0xff, 0xff]).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let reply = ServerToAgent::decode(&body[..]).unwrap();
    assert_eq!(reply.instance_uid, uid(3).to_bytes());
    assert_eq!(reply.error_response.expect("an error").r#type(), ServerErrorResponseType::BadRequest);
    assert!(bench.poll(&AgentToServer::default()).await.error_response.is_some());
    assert_eq!(bench.handle.agents(), 0);
}

#[tokio::test]
async fn bodies_are_gunzipped_and_replies_gzipped_only_if_asked() {
    let mut bench = Bench::start(config()).await;
    let (head, _) =
        bench.post(&format!("{PROTOBUF}Content-Encoding: gzip\r\n"), &gzip(&full(1, 0).encode_to_vec())).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    bench.service.report().await;
    let hash = ContentHash::of(b"one");
    let large = muster::proto::opamp::AgentRemoteConfig { config: None, config_hash: vec![7; 5_000].into() };
    let body = muster::proto::bus::OfferBody {
        hash: hash.to_bytes(),
        body: large.encode_to_vec().into(),
        ..Default::default()
    };
    bench.service.say(GatewayBatch { bodies: vec![body], ..Default::default() }).await;
    for (generation, header, is_gzip) in [(1, "", false), (2, "Accept-Encoding: deflate, gzip;q=0.5\r\n", true)] {
        bench.service.offer(hash, &[(uid(1), generation)], false).await;
        let mut sequence_num = generation * 1_000;
        let (head, body) = loop {
            let message = full(1, sequence_num).encode_to_vec();
            let answer = bench.post(&format!("{PROTOBUF}{header}"), &message).await;
            if answer.1.len() > 40 {
                break answer;
            }
            sequence_num += 1;
            assert!(sequence_num % 1_000 < 500, "the offer never came");
        };
        assert_eq!(head.contains("content-encoding: gzip"), is_gzip, "{head}");
        assert_eq!(body.len() > 5_000, !is_gzip);
    }
}

#[tokio::test]
async fn oversized_bodies_and_bombs_are_refused() {
    let bench = Bench::start(Config { max_received_bytes: 100_000, ..config() }).await;
    let (head, _) = bench.post(&format!("{PROTOBUF}Content-Encoding: gzip\r\n"), &gzip(&vec![0; 50_000_000])).await;
    assert!(head.starts_with("http/1.1 413"), "{head}");
    let declared = format!("POST /v1/opamp HTTP/1.1\r\nHost: x\r\n{PROTOBUF}Content-Length: 999999999\r\n\r\n");
    let (head, _) = split(&bench.raw(declared.as_bytes()).await);
    assert!(head.starts_with("http/1.1 413"), "{head}");
    let chunk = format!("186a1\r\n{}\r\n", "x".repeat(100_001));
    let chunked = format!("POST /v1/opamp HTTP/1.1\r\nHost: x\r\n{PROTOBUF}Transfer-Encoding: chunked\r\n\r\n{chunk}");
    let (head, _) = split(&bench.raw(chunked.as_bytes()).await);
    assert!(head.starts_with("http/1.1 413"), "{head}");
}

#[tokio::test]
async fn slow_headers_and_bodies_are_cut_off_and_sockets_outlive_that() {
    let timeout = Duration::from_millis(300);
    let bench = Bench::start(Config { header_timeout: timeout, body_timeout: timeout, ..config() }).await;
    let mut agent = bench.connect().await;
    let (head, _) = split(&bench.raw(b"GET /v1/opamp HTTP/1.1\r\nHost:").await);
    assert!(head.starts_with("http/1.1 408"), "{head}");
    assert!(bench.raw(b"").await.is_empty(), "who has not begun is not answered either");
    let slow = format!("POST /v1/opamp HTTP/1.1\r\nHost: x\r\n{PROTOBUF}Content-Length: 100\r\n\r\nabc");
    let (head, _) = split(&bench.raw(slow.as_bytes()).await);
    assert!(head.starts_with("http/1.1 408"), "{head}");
    assert_eq!(agent.say(&full(1, 0)).await.instance_uid, uid(1).to_bytes());
}

#[tokio::test]
async fn a_new_uid_is_given_over_http_too() {
    let mut bench = Bench::start(config()).await;
    let reply = bench.poll(&AgentToServer { flags: 1, ..full(1, 0) }).await;
    let given = reply.agent_identification.expect("a new uid").new_instance_uid;
    assert_eq!(bench.service.report().await.instance_uid, given);
    let next = bench.poll(&AgentToServer { instance_uid: given, ..heartbeat(1, 1) }).await;
    assert_eq!((next.flags, next.agent_identification), (0, None));
}

fn request(message: &AgentToServer) -> Vec<u8> {
    let body = message.encode_to_vec();
    let head = format!("POST /v1/opamp HTTP/1.1\r\nHost: x\r\n{PROTOBUF}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), &body].concat()
}

/// Reads one reply off a connection that is kept.
async fn reply(socket: &mut TcpStream) -> ServerToAgent {
    let mut answer = Vec::new();
    loop {
        assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0, "the connection is kept");
        if answer.windows(4).any(|window| window == b"\r\n\r\n") {
            let (head, body) = split(&answer);
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                return ServerToAgent::decode(&body[..]).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_connection_may_idle_between_polls_for_longer_than_headers_may_take() {
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(2));
    let bench = Bench::start(Config { header_timeout: short, http_idle_timeout: long, ..config() }).await;
    let mut socket = TcpStream::connect(bench.address).await.unwrap();
    socket.write_all(&request(&full(1, 0))).await.unwrap();
    reply(&mut socket).await;
    // Not for synchronisation: this time has to pass.
    tokio::time::sleep(short * 3).await;
    socket.write_all(&request(&heartbeat(1, 1))).await.unwrap();
    assert_eq!(reply(&mut socket).await.instance_uid, uid(1).to_bytes());
    // The next request's headers may take no longer for that.
    socket.write_all(b"POST /v1").await.unwrap();
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    assert!(rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    // And it is not kept for ever.
    let mut socket = TcpStream::connect(bench.address).await.unwrap();
    socket.write_all(&request(&heartbeat(1, 2))).await.unwrap();
    reply(&mut socket).await;
    let end = tokio::time::timeout(PATIENCE, socket.read(&mut [0; 9])).await.expect("an end");
    assert_eq!(end.unwrap(), 0);
}

/// A socket that is closed with bytes unread loses the answer on its way: clients would see a lost connection, not a 413.
#[tokio::test]
async fn a_refused_body_is_read_so_that_the_refusal_arrives() {
    let bench = Bench::start(Config { agent_auth: AgentAuth::Required, ..config() }).await;
    let (small, large) = (vec![0; 200 << 10], vec![0; 6 << 20]);
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    for (status, headers, body) in [
        ("413", format!("{PROTOBUF}{token}"), &large),
        ("415", format!("{PROTOBUF}{token}Content-Encoding: br\r\n"), &large),
        ("415", format!("Content-Type: text/plain\r\n{token}"), &large),
        ("401", PROTOBUF.to_owned(), &small),
    ] {
        let (head, _) = bench.post(&headers, body).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{status}: {head}");
    }
}

#[tokio::test]
async fn nobody_makes_the_gateway_read_a_long_body_without_a_token() {
    let bench = Bench::start(Config { agent_auth: AgentAuth::Required, ..config() }).await;
    let mut socket = TcpStream::connect(bench.address).await.unwrap();
    let head = format!("POST /v1/opamp HTTP/1.1\r\nHost: x\r\n{PROTOBUF}Transfer-Encoding: chunked\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let chunk = [&b"10000\r\n"[..], &[0; 0x10000], b"\r\n"].concat();
    let (mut reading, mut writing) = socket.into_split();
    let mut written = 0;
    // What the kernels of both sides hold comes on top; it is less than the rest of this.
    while written < 60 << 20 && writing.write_all(&chunk).await.is_ok() {
        written += chunk.len();
    }
    assert!(written < 60 << 20, "all of it was read");
    let _ = reading.read(&mut [0; 9]).await;
}

#[tokio::test]
async fn an_agent_that_starts_afresh_over_http_opens_a_new_connection() {
    let mut bench = Bench::start(config()).await;
    bench.poll(&full(1, 0)).await;
    let first = bench.service.report().await;
    bench.poll(&full(1, 1)).await;
    let second = bench.service.report().await;
    assert_eq!((second.connection_generation, second.opening), (first.connection_generation, None));
    for again in [1, 0] {
        let flags = bench.poll(&full(1, again)).await.flags;
        let report = bench.service.report().await;
        assert!(report.connection_generation > second.connection_generation, "number {again}");
        assert_eq!(report.opening.unwrap().first_sequence_num, again);
        assert_eq!(flags, 0);
    }
}

#[tokio::test]
async fn numbers_that_never_move_or_repeat_at_times_are_no_restarts() {
    let mut bench = Bench::start(config()).await;
    let mut openings = Vec::new();
    for sequence_num in [0, 0, 0, 0, 5, 5, 6, 6] {
        bench.poll(&full(1, sequence_num)).await;
        openings.push(bench.service.report().await.opening.is_some());
    }
    assert_eq!(openings, [true, true, false, false, false, false, false, false]);
}

#[tokio::test]
async fn an_http_agent_that_ignores_its_new_uid_gets_no_other_one() {
    let bench = Bench::start(config()).await;
    let ask = |sequence_num| AgentToServer { flags: 1, ..full(1, sequence_num) };
    let given = bench.poll(&ask(0)).await.agent_identification;
    assert!(given.is_some());
    // The same request again, and the next one.
    for sequence_num in [0, 1] {
        assert_eq!(bench.poll(&ask(sequence_num)).await.agent_identification, given);
    }
    let other = AgentToServer { health: health(1, 0, "another").health, ..ask(0) };
    let other = bench.poll(&other).await.agent_identification;
    assert!(other.is_some() && other != given, "another agent with the same temporary uid");
}

#[tokio::test]
async fn an_offer_is_not_made_to_an_agent_that_takes_none_any_more() {
    let mut bench = Bench::start(config()).await;
    bench.poll(&full(1, 0)).await;
    bench.service.report().await;
    let hash = ContentHash::of(b"one");
    bench.service.body(hash).await;
    bench.service.offer(hash, &[(uid(1), 1)], false).await;
    let without = |sequence_num| AgentToServer { capabilities: 1, ..heartbeat(1, sequence_num) };
    for sequence_num in 1..3 {
        assert_eq!(bench.poll(&without(sequence_num)).await.remote_config, None);
    }
    assert_eq!(bench.poll(&heartbeat(1, 3)).await.remote_config, None, "the config service decides whether it is due");
    bench.service.offer(hash, &[(uid(1), 1)], false).await;
    let mut sequence_num = 4;
    while bench.poll(&heartbeat(1, sequence_num)).await.remote_config.is_none() {
        assert!(sequence_num < 10_000, "it is never offered");
        sequence_num += 1;
    }
}
