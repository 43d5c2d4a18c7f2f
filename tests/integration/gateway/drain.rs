//! Leaving in good order.

use std::time::{Duration, Instant};

use muster::{
    bus::{Bus, Role},
    gateway::Config,
    proto::{
        bus::ending::Reason,
        opamp::{ServerErrorResponseType, server_error_response::Details},
    },
};
use tokio::io::AsyncReadExt;
use tokio_tungstenite::{MaybeTlsStream, tungstenite::Error as WsError};

use super::harness::*;

#[tokio::test]
async fn everybody_is_sent_away_and_handed_over() {
    let mut bench = Bench::start(config()).await;
    bench.until(|_| true).await;
    let mut agents = Vec::new();
    for n in 1..=10 {
        let mut agent = bench.connect().await;
        agent.say(&full(n, 0)).await;
        agent.say(&heartbeat(n, 1)).await;
        bench.service.report().await;
        agents.push(agent);
    }
    bench.poll(&full(11, 1)).await;
    bench.service.report().await;
    assert_eq!(bench.service.bus.members(Role::Gateway).await.unwrap(), [NODE]);

    bench.shutdown.cancel();
    bench.until(|bench| !bench.handle.is_ready()).await;
    assert_eq!(bench.handle.reason(), "draining");
    let Err(error) = bench.try_connect(None).await else { panic!("let in while draining") };
    let WsError::Http(answer) = *error else { panic!("{error}") };
    assert_eq!(answer.status().as_u16(), 503);
    assert!(answer.headers().contains_key("retry-after"));

    for (n, agent) in (1..).zip(&mut agents) {
        let reply = agent.receive().await;
        assert_eq!(reply.instance_uid, uid(n).to_bytes());
        let error = reply.error_response.expect("it is told to leave");
        assert_eq!(error.r#type(), ServerErrorResponseType::Unavailable);
        let Some(Details::RetryInfo(retry)) = error.details else { panic!("no retry_info") };
        assert!(retry.retry_after_nanoseconds >= 1_000_000_000);
        assert_eq!(agent.close_code().await, 1001);
    }
    let mut service = bench.stop().await;
    let mut endings = Vec::new();
    while endings.len() < 11 {
        let report = service.report().await;
        assert_eq!(report.ending.expect("an ending").reason(), Reason::Drain);
        assert_eq!(report.sequence_num, 1);
        endings.push(report.instance_uid);
    }
    assert_eq!(service.bus.members(Role::Gateway).await.unwrap(), [""; 0]);
}

/// Whoever sends agents here has to see that it should not, and sends some meanwhile.
#[tokio::test]
async fn newcomers_are_taken_until_the_delay_is_over() {
    let bench = Bench::start(Config { drain_delay: Duration::from_secs(3_600), ..config() }).await;
    bench.shutdown.cancel();
    bench.until(|bench| !bench.handle.is_ready()).await;
    assert_eq!(bench.handle.reason(), "about to drain");
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    assert_eq!(bench.poll(&full(2, 0)).await.instance_uid, uid(2).to_bytes());
    bench.task.abort();

    let bench = Bench::start(Config { drain_delay: Duration::from_millis(50), ..config() }).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    bench.shutdown.cancel();
    assert!(agent.receive().await.error_response.is_some(), "it is told to leave");
    assert_eq!(agent.close_code().await, 1001);
    bench.stop().await;
}

/// What an agent says before it has read the Close counts: the next gateway would find it missing.
#[tokio::test]
async fn what_comes_after_the_close_was_sent_is_handed_over() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    bench.service.report().await;
    bench.shutdown.cancel();
    // The library's client would say nothing after it has read the Close: it is seen underneath.
    let socket = match agent.socket.get_mut() {
        MaybeTlsStream::Plain(socket) => socket,
        _ => panic!("no TLS here"),
    };
    let mut came = Vec::new();
    while !came.windows(2).any(|window| window == 1001u16.to_be_bytes()) {
        assert_ne!(socket.read_buf(&mut came).await.unwrap(), 0, "a Close before the end");
    }
    agent.send(&health(1, 1, "late")).await;
    agent.socket.close(None).await.unwrap();
    let ending = loop {
        let report = bench.service.report().await;
        if report.ending.is_some() {
            break report;
        }
        assert_eq!(message(&report).health.unwrap().last_error, "late");
    };
    assert_eq!((ending.ending.unwrap().reason(), ending.sequence_num), (Reason::Drain, 1));
    assert!(ending.report_number >= 3, "its report came before, or along with the ending");
    bench.stop().await;
}

/// Agents that ignore UNAVAILABLE, as most do, come back at once when they are closed: not all at the same time.
#[tokio::test]
async fn agents_are_sent_away_one_after_another() {
    const AGENTS: u8 = 15;
    let slow = Config { drain_per_second: 20, drain_window: Duration::from_secs(60), ..config() };
    let bench = Bench::start(slow).await;
    let mut agents = Vec::new();
    for n in 1..=AGENTS {
        let mut agent = bench.connect().await;
        agent.say(&full(n, 0)).await;
        agents.push(agent);
    }
    let started = Instant::now();
    bench.shutdown.cancel();
    let mut closes = Vec::new();
    for agent in &mut agents {
        assert_eq!(agent.close_code().await, 1001);
        closes.push(started.elapsed());
        while agent.frame().await.is_some() {}
    }
    // Once for UNAVAILABLE and once for the Close; the last of them waits longest.
    let least = Duration::from_secs(1) / 20 * 2 * u32::from(AGENTS - 1);
    assert!(closes.last().is_some_and(|last| *last >= least), "{closes:?}");
    bench.stop().await;
}

#[tokio::test]
async fn it_waits_for_the_handover_to_be_acknowledged() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    bench.service.report().await;
    bench.service.keep_silent();
    bench.shutdown.cancel();
    let ending = bench.service.report().await;
    let repeated = bench.service.report().await;
    assert_eq!(repeated, ending);
    assert!(!bench.task.is_finished());
    bench.service.verdict(acknowledgement(&ending)).await;
    drop(agent);
    bench.stop().await;
}
