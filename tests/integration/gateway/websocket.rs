//! Handshakes, frames, limits.

use std::time::Duration;

use muster::{gateway::Config, model::ContentHash, proto::opamp::AgentToServer};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{
    Error as WsError, Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::harness::*;

#[tokio::test]
async fn bytes_that_came_with_the_handshake_are_not_lost() {
    let bench = Bench::start(config()).await;
    let message = [&[0][..], &full(1, 0).encode_to_vec()].concat();
    let mut socket = raw_socket(&bench, &frame(0x82, &message)).await;
    assert_eq!(socket.read_u8().await.unwrap(), 0x82, "a binary frame, not masked");
}

/// Each byte of it shows that the peer lives; only the message's own time ends it.
#[tokio::test]
async fn a_message_in_drips_is_given_up() {
    let bench = Bench::start(Config { body_timeout: Duration::from_secs(1), ..config() }).await;
    let socket = raw_socket(&bench, &[0x82, 0xff, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]).await;
    let (mut reading, mut writing) = socket.into_split();
    let drips = async {
        // The peer is slow: it is what is tested.
        while writing.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut close = [0; 4];
    tokio::select! {
        read = tokio::time::timeout(PATIENCE, reading.read_exact(&mut close)) => { read.expect("a Close").unwrap(); }
        () = drips => {}
    }
    assert_eq!((close[0], u16::from_be_bytes([close[2], close[3]])), (0x88, 1008));
}

#[tokio::test]
async fn fragments_interleaved_pings_and_a_missing_header_are_understood() {
    let bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    let message = full(1, 0).encode_to_vec();
    let (one, two) = message.split_at(9);
    let fragment = |part: &[u8], opcode, fin| Message::Frame(Frame::message(part.to_vec(), OpCode::Data(opcode), fin));
    agent.send_frame(fragment(one, Data::Binary, false)).await;
    agent.send_frame(Message::Ping("are you there".into())).await;
    assert_eq!(agent.frame().await, Some(Message::Pong("are you there".into())));
    agent.send_frame(fragment(two, Data::Continue, true)).await;
    assert_eq!(agent.receive().await.instance_uid, uid(1).to_bytes());
}

#[tokio::test]
async fn a_close_is_echoed_and_the_connection_ends() {
    let bench = Bench::start(config()).await;
    for payload in [&[][..], &[0x03, 0xe8], &[0x03, 0xe9, b'b', b'y', b'e']] {
        let mut socket = raw_socket(&bench, &[]).await;
        socket.write_all(&frame(0x88, payload)).await.unwrap();
        let code = &payload[..payload.len().min(2)];
        assert_eq!(rest(socket).await, [&[0x88, code.len() as u8], code].concat());
    }
    bench.until(|bench| bench.handle.connections() == 0).await;
}

#[tokio::test]
async fn violations_end_with_the_right_code() {
    let bench = Bench::start(Config { max_received_bytes: 1_000, ..config() }).await;
    let too_big = [&[0x82, 0xfe, 0x03, 0xe9][..], &[0; 4]].concat();
    let absurd = [&[0x82, 0xff][..], &[0x7f; 8], &[0; 4]].concat();
    let fragments = [frame(0x02, &[0; 100]).as_slice(), &[0x80, 0xfe, 0x03, 0x85, 0, 0, 0, 0]].concat();
    let cases: [(&str, Vec<u8>, u16); 6] = [
        ("too big, by its header", too_big, 1009),
        ("absurdly big", absurd, 1009),
        ("too big in fragments", fragments, 1009),
        ("not masked", vec![0x82, 1, 7], 1002),
        ("reserved bit", frame(0xc2, b"x"), 1002),
        ("unknown opcode", frame(0x85, b"x"), 1002),
    ];
    for (what, bytes, code) in cases {
        let mut socket = raw_socket(&bench, &[]).await;
        socket.write_all(&bytes).await.unwrap();
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[0], 0x88, "{what}: {answer:?}");
        assert_eq!(answer[2..4], code.to_be_bytes(), "{what}");
    }
}

#[tokio::test]
async fn a_large_message_is_taken_and_one_at_the_limit_too() {
    let mut bench = Bench::start(Config { max_received_bytes: 1 << 20, ..config() }).await;
    let mut agent = bench.connect().await;
    let mut large = full(1, 0);
    large.remote_config_status = Some(muster::proto::opamp::RemoteConfigStatus::default());
    let padding = (1 << 20) - 1 - large.encoded_len() - 16;
    large.remote_config_status.as_mut().unwrap().last_remote_config_hash = vec![5; padding].into();
    let reply = agent.say(&large).await;
    assert_eq!(reply.error_response, None);
    assert_eq!(message(&bench.service.report().await), large);
}

#[tokio::test]
async fn nothing_over_the_limit_is_sent() {
    let mut bench = Bench::start(Config { max_sent_bytes: 1_000, ..config() }).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    bench.service.report().await;
    let hash = ContentHash::of(b"large");
    bench.service.offer(hash, &[(uid(1), 1)], false).await;
    bench.service.wanted().await;
    let remote_config = muster::proto::opamp::AgentRemoteConfig { config: None, config_hash: vec![7; 1_000].into() };
    let body = muster::proto::bus::OfferBody {
        hash: hash.to_bytes(),
        body: remote_config.encode_to_vec().into(),
        ..Default::default()
    };
    bench.service.say(muster::proto::bus::GatewayBatch { bodies: vec![body], ..Default::default() }).await;
    let small = ContentHash::of(b"small");
    bench.service.body(small).await;
    bench.service.offer(small, &[(uid(1), 2)], false).await;
    assert_eq!(agent.receive().await.remote_config.unwrap().config_hash, small.to_bytes());
}

#[tokio::test]
async fn refusals_come_before_the_upgrade() {
    let bench = Bench::start(Config { agent_auth: muster::gateway::AgentAuth::Required, ..config() }).await;
    for token in [None, Some("muster_agent_wrong")] {
        let Err(error) = bench.try_connect(token).await else { panic!("let in with {token:?}") };
        let WsError::Http(answer) = *error else { panic!("{error}") };
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["www-authenticate"]),
            (401, &"Bearer".parse().unwrap())
        );
    }
    let mut agent = bench.try_connect(Some(TOKEN)).await.expect("its token is good");
    agent.say(&full(1, 0)).await;

    // Revocation reaches the live socket.
    bench.service.tokens(2, &[]).await;
    assert_eq!(agent.close_code().await, 1008);
    assert!(bench.try_connect(Some(TOKEN)).await.is_err());
}

#[tokio::test]
async fn overload_is_answered_with_a_time_to_come_back() {
    let two = Config { max_connections: 2, ..config() };
    let slow = Config { admission_per_second: 0, admission_burst: 2, ..config() };
    for config in [two, slow] {
        let bench = Bench::start(config).await;
        let _kept = (bench.connect().await, bench.connect().await);
        let Err(error) = bench.try_connect(None).await else { panic!("one too many") };
        let WsError::Http(answer) = *error else { panic!("{error}") };
        assert_eq!(answer.status().as_u16(), 503);
        let seconds: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((5..=30).contains(&seconds), "{seconds}");
    }
}

#[tokio::test]
async fn a_silent_peer_is_pinged_and_then_dropped() {
    let ping_after = Duration::from_secs(1);
    let mut bench = Bench::start(Config { ping_after, idle_timeout: Duration::from_secs(3), ..config() }).await;
    let mut lively = bench.connect().await;
    lively.say(&full(1, 0)).await;
    bench.service.report().await;
    let mut dead = raw_socket(&bench, &[]).await;
    dead.write_all(&frame(0x82, &[&[0][..], &full(2, 0).encode_to_vec()].concat())).await.unwrap();
    assert_eq!(bench.service.report().await.instance_uid, uid(2).to_bytes());
    let pinged = tokio::spawn(async move {
        let mut pings = 0;
        while pings < 5 {
            // The client answers by itself.
            pings += u32::from(matches!(lively.frame().await, Some(Message::Ping(_))));
        }
        lively
    });
    let ending = bench.service.report().await;
    assert_eq!(ending.instance_uid, uid(2).to_bytes());
    assert!(ending.ending.is_some());
    let told = rest(dead).await;
    let close = [&[0x88, 6][..], &1001u16.to_be_bytes(), b"idle"].concat();
    assert!(told.ends_with(&close), "a Close is the last that it is sent: {told:02x?}");
    let mut lively = pinged.await.expect("the one that answers is kept");
    lively.say(&heartbeat(1, 1)).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_dropped_and_holds_up_nobody() {
    let write_timeout = Duration::from_secs(1);
    let mut bench = Bench::start(Config { write_timeout, ..config() }).await;
    let mut stuck = bench.connect().await;
    stuck.say(&full(1, 0)).await;
    let mut other = bench.connect().await;
    other.say(&full(2, 0)).await;
    bench.service.report().await;
    bench.service.report().await;
    let hash = ContentHash::of(b"large");
    let large = muster::proto::opamp::AgentRemoteConfig { config: None, config_hash: vec![7; 1 << 20].into() };
    let body = muster::proto::bus::OfferBody {
        hash: hash.to_bytes(),
        body: large.encode_to_vec().into(),
        ..Default::default()
    };
    bench.service.say(muster::proto::bus::GatewayBatch { bodies: vec![body], ..Default::default() }).await;
    for generation in 1..=30 {
        bench.service.offer(hash, &[(uid(1), generation)], false).await;
    }
    bench.service.offer(hash, &[(uid(2), 1)], false).await;
    assert!(other.receive().await.remote_config.is_some(), "the other gets its offer");
    let ending = bench.service.report().await;
    assert_eq!(ending.instance_uid, uid(1).to_bytes());
    assert!(ending.ending.is_some());
    other.say(&AgentToServer { ..heartbeat(2, 1) }).await;
}

/// What has no room in a slow peer's queue is still wanted.
#[tokio::test]
async fn an_offer_that_a_slow_peer_had_no_room_for_is_made_when_there_is() {
    const OFFERS: u8 = 16;
    let bench = Bench::start(Config { max_sent_bytes: 4 << 20, ..config() }).await;
    let mut slow = bench.connect().await;
    slow.say(&full(1, 0)).await;
    // More than the kernel and the queue take while the agent does not read.
    for number in 1..=OFFERS {
        let hash = ContentHash::of(&[number]);
        let large = muster::proto::opamp::AgentRemoteConfig { config: None, config_hash: vec![number; 3 << 20].into() };
        let remote_config = large.encode_to_vec().into();
        let body = muster::proto::bus::OfferBody { hash: hash.to_bytes(), body: remote_config, ..Default::default() };
        bench.service.say(muster::proto::bus::GatewayBatch { bodies: vec![body], ..Default::default() }).await;
        bench.service.offer(hash, &[(uid(1), number.into())], false).await;
    }
    let mut offers = 1;
    while slow.receive().await.remote_config.expect("an offer").config_hash.first() != Some(&OFFERS) {
        offers += 1;
    }
    assert!(offers < OFFERS, "there was room for each offer: this shows nothing");
}

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    for seed in 0..200u64 {
        let mut socket = raw_socket(&bench, &[]).await;
        let length = 1 + rand::random::<u64>() % 300;
        let bytes: Vec<u8> = (0..length).map(|_| rand::random()).collect();
        let _ = socket.write_all(&bytes).await;
        // As payload of a proper frame, too.
        let _ = agent.send_frame(Message::Binary(bytes.clone().into())).await;
        agent.receive().await;
        assert_eq!(agent.say(&heartbeat(1, seed + 1)).await.error_response, None, "after {bytes:?}");
    }
}
