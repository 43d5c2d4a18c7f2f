//! Ten thousand random and mutated inputs: each gets a clear answer or a clean close, memory stays bounded, and everybody else is
//! served meanwhile.

mod inputs;
mod peer;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, SinkExt, StreamExt};
use http::header;
use muster::proto::opamp::ServerToAgent;
use prost::Message as _;
use tokio::task::JoinSet;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use self::{inputs::Input, peer::Peer};
use crate::support::{PATIENCE, node::http_get, standalone::Standalone};

/// Another seed is tried with `MUSTER_TEST_SEED`.
const SEED: u64 = 20_260_823;
const INPUTS: usize = 10_000;
/// As many at a time.
const WORKERS: usize = 16;
/// Connections that are slow to say what they want.
const SLOW: usize = 20;
/// What the process may take at its peak. A debug build that serves a small fleet takes some 100 MB.
const MAX_RSS_KB: u64 = 400_000;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hostile_inputs_do_no_harm() {
    let mut server = Standalone::start().await;
    let seed = std::env::var("MUSTER_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(SEED);
    let peer = Peer { address: server.node.opamp(), token: server.agent_token().into() };
    let is_over = Arc::new(AtomicBool::new(false));
    let good = tokio::spawn(well_behaved(peer.clone(), is_over.clone()));
    let ready = tokio::spawn(always_ready(server.node.metrics(), is_over.clone()));

    let mut tasks = JoinSet::new();
    for slow in 0..SLOW {
        let peer = peer.clone();
        tasks.spawn(async move { peer.slow_headers(slow).await });
    }
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..WORKERS {
        tasks.spawn(work(peer.clone(), seed, next.clone()));
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    assert!(next.load(Ordering::SeqCst) >= INPUTS);

    is_over.store(true, Ordering::SeqCst);
    assert!(good.await.unwrap() > 0);
    ready.await.unwrap();
    assert!(server.node.is_running());
    let peak_kb = peak_rss_kb(server.node.pid());
    assert!(peak_kb < MAX_RSS_KB, "{peak_kb} KB with seed {seed}");
}

/// Takes one input after the other.
async fn work(peer: Peer, seed: u64, next: Arc<AtomicUsize>) {
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        if number >= INPUTS {
            return;
        }
        let input = Input::new(seed, number);
        let what = format!("input {number} of MUSTER_TEST_SEED={seed}: {}", input.name());
        let outcome = tokio::time::timeout(PATIENCE, std::panic::AssertUnwindSafe(peer.try_on(input)).catch_unwind());
        match outcome.await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(problem))) => panic!("{what}: {problem}"),
            Ok(Err(_)) => panic!("{what}: the test's own fault"),
            Err(_) => panic!("{what}: no answer"),
        }
    }
}

/// An agent that does nothing wrong is answered throughout. Returns how often.
async fn well_behaved(peer: Peer, is_over: Arc<AtomicBool>) -> usize {
    let mut request = format!("ws://{}/v1/opamp", peer.address).into_client_request().unwrap();
    request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {}", peer.token).parse().unwrap());
    let mut socket = connect_async(request).await.unwrap().0;
    let uid = uuid::Uuid::now_v7();
    let mut answered = 0;
    while !is_over.load(Ordering::SeqCst) {
        let message = inputs::report(uid, answered as u64, "well-behaved");
        socket.send(Message::Binary([&[0][..], &message.encode_to_vec()].concat().into())).await.unwrap();
        loop {
            let frame = tokio::time::timeout(PATIENCE, socket.next()).await.expect("an answer").unwrap().unwrap();
            if let Message::Binary(frame) = frame {
                let reply = ServerToAgent::decode(&frame[1..]).unwrap();
                assert_eq!((&reply.instance_uid[..], reply.error_response), (&uid.as_bytes()[..], None));
                break;
            }
        }
        answered += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answered
}

async fn always_ready(address: SocketAddr, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::SeqCst) {
        let answer = http_get(address, "/readyz").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn peak_rss_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
