//! Clients that ignore what an overloaded or leaving gateway tells them. None of them makes it do more than answer.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use muster::{
    gateway::Config,
    proto::{
        bus::ending::Reason,
        opamp::{AgentToServer, ServerErrorResponseType, ServerToAgent, server_error_response::Details},
    },
};
use prost::Message as _;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::harness::*;

/// Times to come back, in seconds.
const RETRY_S: std::ops::RangeInclusive<u64> = 5..=30;

/// How long a client is told to wait by an UNAVAILABLE, in seconds.
fn retry_info(reply: &ServerToAgent) -> u64 {
    let error = reply.error_response.as_ref().expect("an error");
    assert_eq!(error.r#type(), ServerErrorResponseType::Unavailable);
    assert_eq!((reply.flags, reply.capabilities), (0, 0), "an error travels alone");
    let Some(Details::RetryInfo(retry)) = &error.details else { panic!("no time to come back: {error:?}") };
    retry.retry_after_nanoseconds / 1_000_000_000
}

fn retry_after(head: &str) -> u64 {
    let value = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("a time to come back");
    value.parse().expect("seconds")
}

/// As the Python client, which ignores Retry-After, and a WebSocket client without any back-off.
#[tokio::test]
async fn who_ignores_retry_after_is_refused_each_time_and_not_in_step_with_others() {
    const ATTEMPTS: usize = 60;
    let bench = Bench::start(Config { max_connections: 1, ..config() }).await;
    let mut only = bench.connect().await;
    only.say(&full(1, 0)).await;
    let mut times = BTreeSet::new();
    for attempt in 0..ATTEMPTS {
        if attempt % 2 == 0 {
            let Err(error) = bench.try_connect(None).await else { panic!("let in at attempt {attempt}") };
            let WsError::Http(answer) = *error else { panic!("not refused but ended: {error}") };
            assert_eq!(answer.status().as_u16(), 503);
            times.insert(answer.headers()["retry-after"].to_str().unwrap().parse().unwrap());
        } else {
            let (head, _) = bench.post("Content-Type: application/x-protobuf\r\n", &full(2, 0).encode_to_vec()).await;
            assert!(head.starts_with("http/1.1 503"), "{head}");
            times.insert(retry_after(&head));
        }
    }
    assert!(times.iter().all(|seconds| RETRY_S.contains(seconds)), "{times:?}");
    assert!(times.len() > 5, "all come back at the same times: {times:?}");
    assert_eq!(bench.handle.agents(), 1, "nothing is kept of who is refused");
    assert_eq!(only.say(&heartbeat(1, 1)).await.error_response, None);
    drop(only);
    bench.until(|bench| bench.handle.connections() == 0).await;
    bench.connect().await.say(&full(2, 0)).await;
}

/// As opamp-go over WebSocket, which ignores UNAVAILABLE and stays.
#[tokio::test]
async fn who_ignores_unavailable_is_told_again_and_kept_until_there_is_room() {
    let mut bench = Bench::start(Config { max_agents: 1, ..config() }).await;
    let mut first = bench.connect().await;
    first.say(&full(1, 0)).await;
    bench.service.report().await;
    let mut deaf = bench.connect().await;
    let mut times = BTreeSet::new();
    for sequence_num in 0..40 {
        let reply = deaf.say(&heartbeat(2, sequence_num)).await;
        assert_eq!(reply.instance_uid, uid(2).to_bytes());
        times.insert(retry_info(&reply));
    }
    assert!(times.iter().all(|seconds| RETRY_S.contains(seconds)), "{times:?}");
    assert!(times.len() > 5, "{times:?}");
    assert_eq!(bench.handle.agents(), 1);
    drop(first);
    assert!(bench.service.report().await.ending.is_some());
    bench.until(|bench| bench.handle.agents() == 0).await;
    assert_eq!(deaf.say(&full(2, 40)).await.error_response, None, "the same connection is taken as it is");
}

/// Over HTTP the status says so: all clients but one obey that, and hardly any obeys the message.
#[tokio::test]
async fn over_http_unavailable_is_a_status() {
    let bench = Bench::start(Config { max_agents: 1, ..config() }).await;
    let mut first = bench.connect().await;
    first.say(&full(1, 0)).await;
    let post = async || bench.post("Content-Type: application/x-protobuf\r\n", &full(2, 0).encode_to_vec()).await.0;
    for _ in 0..20 {
        let head = post().await;
        assert!(head.starts_with("http/1.1 503"), "{head}");
        assert!(RETRY_S.contains(&retry_after(&head)), "{head}");
    }
    drop(first);
    bench.until(|bench| bench.handle.agents() == 0).await;
    assert_eq!(bench.poll(&full(2, 0)).await.error_response, None);
}

/// As a client in one of the known loops. It is answered, in order, as fast as is allowed; others notice nothing.
#[tokio::test]
async fn a_flood_is_slowed_by_not_reading_it_and_never_closed() {
    const PER_SECOND: u64 = 40;
    const MESSAGES: u64 = 5 * PER_SECOND;
    let bench = Bench::start(Config { messages_per_second: PER_SECOND as u32, ..config() }).await;
    let mut flood = bench.connect().await;
    let mut other = bench.connect().await;
    flood.say(&full(1, 0)).await;
    other.say(&full(2, 0)).await;
    let started = Instant::now();
    for sequence_num in 1..=MESSAGES {
        // One by one, so that they do not come as one read.
        flood.send(&heartbeat(1, sequence_num)).await;
        if sequence_num.is_multiple_of(10) {
            other.say(&heartbeat(2, sequence_num / 10)).await;
        }
    }
    for _ in 1..=MESSAGES {
        assert_eq!(flood.receive().await.error_response, None);
    }
    assert_eq!(flood.say(&heartbeat(1, MESSAGES + 1)).await.flags, 0, "it is still here, and nothing was lost");
    // What came in one read was taken at once, but the next waits until it is worked off, however the seconds fall.
    let least = Duration::from_secs(MESSAGES / PER_SECOND - 2);
    assert!(started.elapsed() >= least, "{MESSAGES} messages were read in {:?}", started.elapsed());
}

/// As the Python client in one of the known loops, which ignores Retry-After. Of a status that is refused nothing is lost: whoever
/// says it again, as opamp-go does, is heard; of whoever does not, the next number shows it.
#[tokio::test]
async fn who_polls_too_often_is_refused_and_others_are_not() {
    const PER_SECOND: u32 = 3;
    const POLLS: u64 = 60;
    let mut bench = Bench::start(Config { messages_per_second: PER_SECOND, ..config() }).await;
    let (mut taken, mut times) = (0, BTreeSet::new());
    let started = Instant::now();
    for sequence_num in 0..POLLS {
        let (head, _) = poll(&bench, &full(1, sequence_num)).await;
        if head.starts_with("http/1.1 200") {
            taken += 1;
        } else {
            assert!(head.starts_with("http/1.1 429"), "{head}");
            assert!(RETRY_S.contains(&retry_after(&head)), "{head}");
            times.insert(retry_after(&head));
        }
        if sequence_num % 20 == 10 {
            bench.poll(&heartbeat(2, sequence_num / 20)).await;
        }
    }
    let seconds = started.elapsed().as_secs() + 2;
    assert!(taken <= u64::from(PER_SECOND) * seconds, "{taken} polls were taken in at most {seconds} seconds");
    assert!(!times.is_empty(), "all were taken: this shows nothing");

    let insists = async { while !poll(&bench, &health(1, POLLS, "important")).await.0.starts_with("http/1.1 200") {} };
    tokio::time::timeout(PATIENCE, insists).await.expect("it is heard when the second is over");
    while message(&bench.service.report().await).health.is_none_or(|health| health.last_error != "important") {}
}

async fn poll(bench: &Bench, message: &AgentToServer) -> (String, Vec<u8>) {
    bench.post("Content-Type: application/x-protobuf\r\n", &message.encode_to_vec()).await
}

/// Each agent on a forwarder's socket adds to what it may send.
#[tokio::test]
async fn a_forwarder_of_many_agents_is_not_a_flood() {
    const AGENTS: u8 = 200;
    let bench = Bench::start(Config { messages_per_second: 1, ..config() }).await;
    let mut forwarder = bench.connect().await;
    for n in 1..=AGENTS {
        forwarder.send(&full(n, 0)).await;
    }
    // Had it the allowance of one agent, this would take minutes, and the harness gives up sooner.
    for _ in 1..=AGENTS {
        forwarder.receive().await;
    }
}

/// What established agents say while there is no memory for it is read later, or asked for: nobody is sent away.
#[tokio::test]
async fn while_memory_is_scarce_established_agents_are_slowed_and_kept() {
    let config = Config { verdict_wait: Duration::ZERO, max_pending_bytes: 2_000, ..config() };
    let mut bench = Bench::start(config).await;
    let mut socket = bench.connect().await;
    socket.say(&full(1, 0)).await;
    bench.service.report().await;
    bench.service.keep_silent();
    socket.say(&health(1, 1, &"x".repeat(1_950))).await;
    let full_up = bench.service.report().await;
    let started = Instant::now();
    for sequence_num in 2..=7 {
        socket.say(&heartbeat(1, sequence_num)).await;
    }
    assert!(started.elapsed() >= Duration::from_secs(3), "six messages were read in {:?}", started.elapsed());
    bench.service.verdict(acknowledgement(&full_up)).await;
    for sequence_num in 8..=60 {
        assert_eq!(socket.say(&heartbeat(1, sequence_num)).await.error_response, None);
    }
}

/// What agents do when they are told that the gateway leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// As Java: leaves when it reads UNAVAILABLE.
    Obeys,
    /// As opamp-go: ignores UNAVAILABLE, answers Close.
    IgnoresUnavailable,
    /// Goes on sending, whatever it is sent, and never answers Close.
    IgnoresAll,
    /// Reads nothing and says nothing.
    ReadsNothing,
}

#[tokio::test]
async fn the_drain_ends_whatever_clients_ignore() {
    use Manner::*;
    let mut bench = Bench::start(config()).await;
    let manners = [Obeys, IgnoresUnavailable, IgnoresAll, ReadsNothing];
    let (mut polite, mut rude) = (Vec::new(), Vec::new());
    for (n, manner) in (1..).zip(manners) {
        let message = [&[0][..], &full(n, 0).encode_to_vec()].concat();
        match manner {
            Obeys | IgnoresUnavailable => {
                let mut agent = bench.connect().await;
                agent.send_frame(Message::Binary(message.into())).await;
                agent.receive().await;
                polite.push((n, manner, agent));
            }
            IgnoresAll | ReadsNothing => {
                let socket = raw_socket(&bench, &frame(0x82, &message)).await;
                rude.push((n, manner, socket));
            }
        }
        bench.service.report().await;
    }
    bench.shutdown.cancel();
    bench.until(|bench| !bench.handle.is_ready()).await;

    // Pollers and reconnecting clients try all the time, and are refused each time.
    let (address, mut refused) = (bench.address, 0);
    for _ in 0..10 {
        let Err(error) = bench.try_connect(None).await else { panic!("let in while draining") };
        if let WsError::Http(answer) = *error {
            assert_eq!(answer.status().as_u16(), 503);
            refused += 1;
        }
    }
    assert!(refused > 0, "it was gone before anybody came to {address}");

    for (n, manner, agent) in &mut polite {
        let reply = agent.receive().await;
        assert_eq!(reply.instance_uid, uid(*n).to_bytes());
        assert!((1..10).contains(&retry_info(&reply)));
        if *manner == Obeys {
            agent.socket.close(None).await.unwrap();
        } else {
            assert_eq!(agent.close_code().await, 1001);
        }
        // The library answers a Close by itself, and reads on to the end.
        while agent.frame().await.is_some() {}
    }
    for (n, manner, mut socket) in rude {
        if manner == IgnoresAll {
            let mut sequence_num = 1;
            while socket.write_all(&frame(0x82, &heartbeat(n, sequence_num).encode_to_vec())).await.is_ok() {
                sequence_num += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        } else {
            bench.until(|bench| bench.task.is_finished()).await;
        }
    }
    let mut service = bench.stop().await;
    let mut ended = BTreeSet::new();
    while ended.len() < manners.len() {
        let report = service.report().await;
        if let Some(ending) = report.ending {
            assert_eq!(ending.reason(), Reason::Drain);
            ended.insert(report.instance_uid);
        }
    }
}
