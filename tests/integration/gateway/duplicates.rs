//! Reconnects, takeovers and two agents with one uid.

use std::time::Duration;

use muster::{
    bus::{Bus, Event, Topic},
    gateway::Config,
    model::ContentHash,
    proto::{
        bus::{AgentMessages, Verdict},
        opamp::{AgentToServer, CustomMessage},
    },
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::harness::*;

#[tokio::test]
async fn a_reconnect_goes_on_where_the_agent_left() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    let first = bench.service.report().await;
    agent.say(&heartbeat(1, 1)).await;
    bench.service.keep_silent();
    drop(agent);
    let ending = bench.service.report().await;
    assert!(ending.ending.is_some() && ending.sequence_num == 1);

    // Before the ending is acknowledged.
    let mut agent = bench.connect().await;
    agent.send(&heartbeat(1, 2)).await;
    let opening = loop {
        let report = bench.service.report().await;
        if report.connection_generation > first.connection_generation {
            break report;
        }
    };
    assert_eq!(opening.opening.unwrap().previous_sequence_num, Some(1));
    assert_eq!(opening.ending, None);
    bench.service.verdict(acknowledgement(&ending)).await;
    bench.service.verdict(acknowledgement(&opening)).await;
    assert_eq!(agent.receive().await.flags, 0);
    assert_eq!(bench.handle.agents(), 1, "the old ending has removed nothing");
}

#[tokio::test]
async fn of_two_live_sockets_the_newcomer_gets_a_new_uid() {
    let mut bench = Bench::start(config()).await;
    let mut original = bench.connect().await;
    original.say(&full(1, 0)).await;
    bench.service.report().await;
    let mut newcomer = bench.connect().await;
    let reply = original.alive_while(newcomer.say(&health(1, 5, "clone"))).await;
    assert_eq!(reply.instance_uid, uid(1).to_bytes());
    let given = reply.agent_identification.expect("a new uid").new_instance_uid;
    let report = bench.service.report().await;
    assert_eq!(report.instance_uid, given, "its state goes to the new uid");
    assert_eq!(message(&report).health.unwrap().last_error, "clone");

    // One that ignores it is not given another, and is not mixed up with the original.
    let again = newcomer.say(&health(1, 6, "still")).await;
    assert_eq!(again.agent_identification, None);
    assert_eq!(bench.service.report().await.instance_uid, given);
    assert_eq!(newcomer.say(&AgentToServer { instance_uid: given, ..heartbeat(1, 7) }).await.flags, 0);
    assert_eq!(original.say(&heartbeat(1, 1)).await.agent_identification, None);
    assert_eq!(bench.handle.agents(), 2);
}

/// Custom messages are no state, and belong to whoever the sender turns out to be.
#[tokio::test]
async fn what_a_newcomer_says_before_it_is_known_who_it_is_is_heard_under_its_new_uid() {
    let mut bench = Bench::start(config()).await;
    let mut subscription = bench.service.bus.subscribe();
    subscription.set_topics(vec![Topic::AgentMessages]).await;
    let mut original = bench.connect().await;
    original.say(&full(1, 0)).await;
    bench.service.report().await;
    let mut newcomer = bench.connect().await;
    let custom_message = Some(CustomMessage { capability: "org.example".into(), ..Default::default() });
    let reply = original.alive_while(newcomer.say(&AgentToServer { custom_message, ..full(1, 5) })).await;
    let given = reply.agent_identification.expect("a new uid").new_instance_uid;
    let event = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("the message is passed on");
    let Event::Message { payload, .. } = event else { panic!("a gap") };
    let heard = AgentMessages::decode(payload).unwrap().messages;
    assert_eq!(heard.iter().map(|message| &message.instance_uid).collect::<Vec<_>>(), [&given]);
}

#[tokio::test]
async fn a_half_open_socket_is_taken_over() {
    let mut bench = Bench::start(config()).await;
    let mut dead = TcpStream::connect(bench.address).await.unwrap();
    let upgrade = "GET /v1/opamp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    dead.write_all(upgrade.as_bytes()).await.unwrap();
    let message = [&[0][..], &full(1, 0).encode_to_vec()].concat();
    dead.write_all(&[&[0x82, 0x80 | message.len() as u8, 0, 0, 0, 0], &message[..]].concat()).await.unwrap();
    bench.service.report().await;

    // It answers no ping.
    let mut agent = bench.connect().await;
    let reply = agent.say(&heartbeat(1, 1)).await;
    assert_eq!((reply.agent_identification, reply.flags), (None, 0));
    let report = bench.service.report().await;
    assert_eq!(report.instance_uid, uid(1).to_bytes());
    assert_eq!(report.opening.unwrap().previous_sequence_num, Some(0));
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, dead.read_to_end(&mut rest)).await.expect("the dead one is dropped").unwrap();
    assert_eq!(bench.handle.agents(), 1);
}

#[tokio::test]
async fn the_config_services_probe_tells_the_living_from_the_dead() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 3)).await;
    let report = bench.service.report().await;
    bench.service.probe(&report).await;
    let result = agent.alive_while(bench.service.probe_result()).await;
    assert!(result.alive && result.connection_generation == report.connection_generation);

    // Nobody answers any more.
    bench.service.probe(&report).await;
    let result = bench.service.probe_result().await;
    assert_eq!((result.alive, result.last_sequence_num), (false, Some(3)));
    bench.until(|bench| bench.handle.agents() == 0).await;

    // Nobody knows this one; an HTTP agent is let go of at once.
    bench.service.probe(&report).await;
    assert_eq!(bench.service.probe_result().await.last_sequence_num, None);
    bench.poll(&full(2, 9)).await;
    let report = bench.service.report().await;
    bench.until(|bench| bench.handle.agents() == 1).await;
    bench.poll(&heartbeat(2, 10)).await;
    bench.service.probe(&report).await;
    let result = bench.service.probe_result().await;
    assert_eq!((result.alive, result.last_sequence_num), (false, Some(10)));
}

#[tokio::test]
async fn the_config_service_can_give_a_new_uid() {
    let mut bench = Bench::start(config()).await;
    bench.service.keep_silent();
    let mut agent = bench.connect().await;
    agent.send(&full(1, 0)).await;
    let report = bench.service.report().await;
    let given = uid(77);
    let verdict = Verdict { new_instance_uid: given.to_bytes(), ..acknowledgement(&report) };
    bench.service.verdict(verdict).await;
    let reply = agent.receive().await;
    assert_eq!(reply.instance_uid, uid(1).to_bytes());
    assert_eq!(reply.agent_identification.unwrap().new_instance_uid, given.to_bytes());
    let hash = ContentHash::of(b"one");
    bench.service.body(hash).await;
    bench.service.offer(hash, &[(given, 1)], false).await;
    assert_eq!(agent.receive().await.instance_uid, given.to_bytes(), "it is known by the new one");
    agent.say(&AgentToServer { instance_uid: given.to_bytes(), ..health(1, 1, "x") }).await;
    let next = bench.service.report().await;
    assert_eq!(next.instance_uid, given.to_bytes());
    assert_eq!((next.connection_generation, next.report_number), (report.connection_generation, 2));
}

#[tokio::test]
async fn a_newer_connection_in_the_store_is_answered_with_a_still_newer_one() {
    let mut bench = Bench::start(config()).await;
    bench.service.keep_silent();
    let mut agent = bench.connect().await;
    agent.send(&full(1, 0)).await;
    let report = bench.service.report().await;
    let newer = report.connection_generation + 1_000_000_000;
    let verdict = Verdict { newer_connection_generation: newer, report_number: 0, ..acknowledgement(&report) };
    bench.service.verdict(verdict).await;
    let again = loop {
        let again = bench.service.report().await;
        if again.connection_generation > newer {
            break again;
        }
    };
    assert!(message(&again).agent_description.is_some(), "nothing of what was said is lost");
    assert_eq!(again.opening.unwrap().first_sequence_num, 0);
    bench.service.verdict(acknowledgement(&again)).await;
    assert_eq!(agent.receive().await.flags, 0);
}

/// The config service asked whether it lives, and did not hear it in time.
#[tokio::test]
async fn a_connection_that_is_superseded_though_it_lives_is_announced_anew() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    let report = bench.service.report().await;
    let newer = report.connection_generation + 1_000_000_000;
    let verdict = Verdict { newer_connection_generation: newer, report_number: 0, ..acknowledgement(&report) };
    bench.service.verdict(verdict).await;
    let again = agent.alive_while(bench.service.report()).await;
    assert!(again.connection_generation > newer);
    assert_eq!(again.opening.map(|opening| opening.first_sequence_num), Some(0));
}

/// Its own deadline names the generation that it was held back under.
#[tokio::test]
async fn a_reply_that_is_held_back_is_sent_though_the_connection_was_announced_anew_meanwhile() {
    let mut bench = Bench::start(Config { verdict_wait: Duration::from_millis(500), ..config() }).await;
    bench.service.keep_silent();
    let mut agent = bench.connect().await;
    agent.send(&full(1, 0)).await;
    let report = bench.service.report().await;
    let newer = report.connection_generation + 1_000_000_000;
    let verdict = Verdict { newer_connection_generation: newer, report_number: 0, ..acknowledgement(&report) };
    bench.service.verdict(verdict).await;
    while bench.service.report().await.connection_generation <= newer {}
    assert_eq!(agent.receive().await.instance_uid, uid(1).to_bytes());
}

/// A forwarder's socket says nothing about the agents behind it.
#[tokio::test]
async fn an_agent_that_moves_from_one_forwarder_to_another_keeps_its_uid() {
    let mut bench = Bench::start(config()).await;
    let (mut one, mut two) = (bench.connect().await, bench.connect().await);
    for n in 1..=2 {
        one.say(&full(n, 0)).await;
        bench.service.report().await;
    }
    let reply = one.alive_while(two.say(&heartbeat(1, 1))).await;
    assert_eq!((reply.agent_identification, reply.flags), (None, 0));
    assert_eq!(bench.service.report().await.instance_uid, uid(1).to_bytes());
    assert_eq!(one.say(&heartbeat(2, 1)).await.error_response, None, "the forwarder's socket is kept");

    // But of two that speak at the same time the newcomer gets another.
    two.send(&full(2, 0)).await;
    one.say(&heartbeat(2, 2)).await;
    let mut sequence_num = 3;
    let given = loop {
        let ask = async {
            loop {
                one.say(&heartbeat(2, sequence_num)).await;
                sequence_num += 1;
            }
        };
        tokio::select! {
            reply = two.receive() => break reply.agent_identification,
            () = ask => {}
        }
    };
    assert!(given.is_some());
}

#[tokio::test]
async fn an_agent_may_change_its_transport() {
    let mut bench = Bench::start(config()).await;
    bench.poll(&full(1, 1)).await;
    bench.service.report().await;
    let mut agent = bench.connect().await;
    assert_eq!(agent.say(&heartbeat(1, 2)).await.flags, 0);
    assert_eq!(bench.service.report().await.opening.unwrap().previous_sequence_num, Some(1));
    // While the socket lives, whoever polls under its uid is another.
    let poll = agent.alive_while(bench.poll(&heartbeat(1, 3))).await;
    let given = poll.agent_identification.expect("a new uid").new_instance_uid;
    assert_eq!(bench.service.report().await.instance_uid, given);
    let poll = bench.poll(&heartbeat(1, 4)).await;
    assert_eq!((poll.agent_identification, poll.flags), (None, 0), "told once");
    assert_eq!(bench.handle.agents(), 2);
    drop(agent);
    assert!(bench.service.report().await.ending.is_some());
    bench.until(|bench| bench.handle.agents() == 1).await;
}

#[tokio::test]
async fn a_contender_that_gives_up_leaves_no_trace() {
    let mut bench = Bench::start(config()).await;
    let mut original = bench.connect().await;
    original.say(&full(1, 0)).await;
    bench.service.report().await;
    let mut contender = bench.connect().await;
    contender.send(&heartbeat(1, 5)).await;
    bench.until(|bench| bench.handle.connections() == 2).await;
    drop(contender);
    bench.until(|bench| bench.handle.connections() == 1).await;
    assert_eq!(original.say(&heartbeat(1, 1)).await.agent_identification, None);
    original.say(&health(1, 2, "still here")).await;
    assert_eq!(bench.service.report().await.report_number, 2);
    assert_eq!(bench.handle.agents(), 1);
}

/// Whoever asks waits for the last number of the connection, which only its last report has.
#[tokio::test]
async fn an_agent_that_has_left_already_is_reported_again_when_it_is_asked_about() {
    let mut bench = Bench::start(config()).await;
    let (mut agent, mut other) = (bench.connect().await, bench.connect().await);
    agent.say(&full(1, 0)).await;
    let first = bench.service.report().await;
    other.say(&full(2, 0)).await;
    bench.service.report().await;
    bench.service.keep_silent();
    drop(agent);
    let ending = bench.service.report().await;
    assert!(ending.ending.is_some());

    bench.service.probe(&first).await;
    let result = bench.service.probe_result().await;
    assert_eq!((result.alive, result.last_sequence_num), (false, None));
    other.say(&health(2, 1, "later")).await;
    let again = bench.service.report().await;
    assert_eq!((again.instance_uid, again.report_number), (ending.instance_uid, ending.report_number));
}
