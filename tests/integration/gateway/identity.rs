//! Agents that ask for another uid.

use std::time::Duration;

use muster::{
    gateway::Config,
    model::InstanceUid,
    proto::{
        bus::{Report, command_result::Outcome},
        opamp::{
            AgentToServer, AgentToServerFlags, ServerErrorResponseType, ServerToAgent, server_error_response::Details,
        },
    },
};
use prost::Message as _;

use super::{
    commands::{capable, id, outcome, restart},
    harness::*,
};

fn asking(message: AgentToServer) -> AgentToServer {
    AgentToServer { flags: AgentToServerFlags::RequestInstanceUid as u64, ..message }
}

fn by(uid: InstanceUid, message: AgentToServer) -> AgentToServer {
    AgentToServer { instance_uid: uid.to_bytes(), ..message }
}

fn given(reply: &ServerToAgent) -> Option<InstanceUid> {
    reply.agent_identification.as_ref().map(|it| InstanceUid::from_slice(&it.new_instance_uid).unwrap())
}

fn uids(report: &Report) -> (InstanceUid, Option<InstanceUid>) {
    let former = InstanceUid::from_slice(&report.former_instance_uid).ok();
    (InstanceUid::from_slice(&report.instance_uid).unwrap(), former)
}

/// Who ignores a uid is taken to do so at once.
fn impatient() -> Config {
    Config { uid_patience: Duration::ZERO, ..config() }
}

#[tokio::test]
async fn an_agent_hears_of_its_uid_when_that_is_stored() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    let first = bench.service.report().await;
    bench.service.keep_silent();
    agent.send(&asking(heartbeat(1, 1))).await;
    let report = bench.service.report().await;
    let (new, former) = uids(&report);
    assert_eq!(former, Some(uid(1)));
    assert_ne!(report.uid_request, 0);
    // The connection is the same, and goes on: nothing has to be found out.
    assert_eq!(report.connection_generation, first.connection_generation);
    assert!(report.report_number > first.report_number && report.opening.is_none());
    // What it says meanwhile is answered.
    agent.send(&heartbeat(1, 2)).await;
    assert_eq!(given(&agent.receive().await), None);
    bench.service.verdict(acknowledgement(&report)).await;
    let reply = agent.receive().await;
    assert_eq!((reply.instance_uid.clone(), given(&reply)), (uid(1).to_bytes(), Some(new)));
    let reply = agent.say(&by(new, heartbeat(1, 3))).await;
    assert_eq!((reply.instance_uid.clone(), given(&reply), reply.flags), (new.to_bytes(), None, 0));
    assert_eq!(bench.handle.agents(), 1);
    // Its end is reported once, and by that.
    drop(agent);
    let last = bench.service.report().await;
    assert_eq!((uids(&last), last.ending.is_some()), ((new, None), true));
}

/// It is as soon as it can be: by a message of its own, or with the next poll.
#[tokio::test]
async fn a_uid_that_is_not_stored_is_not_given() {
    let mut bench = Bench::start(Config { verdict_wait: Duration::from_millis(20), ..config() }).await;
    bench.service.keep_silent();
    let mut agent = bench.connect().await;
    let reply = agent.say(&asking(full(1, 0))).await;
    assert_eq!((reply.instance_uid.clone(), given(&reply)), (uid(1).to_bytes(), None));
    let report = bench.service.report().await;
    bench.service.verdict(acknowledgement(&report)).await;
    assert_eq!(given(&agent.receive().await), Some(uids(&report).0));

    assert_eq!(given(&bench.poll(&asking(full(2, 0))).await), None);
    let report = bench.service.report().await;
    bench.service.verdict(acknowledgement(&report)).await;
    let told = async {
        for sequence_num in 1.. {
            if let Some(new) = given(&bench.poll(&heartbeat(2, sequence_num)).await) {
                return Some(new);
            }
        }
        None
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap(), Some(uids(&report).0));
}

#[tokio::test]
async fn over_http_what_is_known_goes_along_too() {
    let mut bench = Bench::start(config()).await;
    bench.poll(&full(1, 0)).await;
    let first = bench.service.report().await;
    let new = given(&bench.poll(&asking(heartbeat(1, 1))).await).expect("a uid");
    let report = bench.service.report().await;
    assert_eq!(uids(&report), (new, Some(uid(1))));
    assert_eq!(report.connection_generation, first.connection_generation);
    let reply = bench.poll(&by(new, health(1, 2, "x"))).await;
    assert_eq!((reply.instance_uid.clone(), given(&reply), reply.flags), (new.to_bytes(), None, 0));
    assert_eq!(uids(&bench.service.report().await), (new, None));
    assert_eq!(bench.handle.agents(), 1);
}

#[tokio::test]
async fn who_ignores_its_uid_keeps_its_own() {
    let mut bench = Bench::start(impatient()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    bench.service.report().await;
    let new = given(&agent.say(&asking(heartbeat(1, 1))).await).expect("a uid");
    let first = bench.service.report().await;
    let reply = agent.say(&heartbeat(1, 2)).await;
    assert_eq!((reply.instance_uid.clone(), given(&reply)), (uid(1).to_bytes(), None));
    let back = bench.service.report().await;
    assert_eq!(uids(&back), (uid(1), Some(new)), "the store hears of it");
    assert_eq!((back.connection_generation, back.uid_request), (first.connection_generation, 0));
    assert_eq!(bench.handle.agents(), 1);
    // It may ask anew.
    let other = given(&agent.say(&asking(heartbeat(1, 3))).await).expect("a uid");
    assert_ne!(other, new);

    bench.poll(&full(2, 0)).await;
    let new = given(&bench.poll(&asking(heartbeat(2, 1))).await).expect("a uid");
    let reply = bench.poll(&health(2, 2, "x")).await;
    assert_eq!((reply.instance_uid.clone(), given(&reply)), (uid(2).to_bytes(), None));
    let told = async {
        loop {
            let report = bench.service.report().await;
            if uids(&report) == (uid(2), Some(new)) {
                return message(&report).health.unwrap().last_error;
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap(), "x");
}

/// Who has the uid that is another's does not get it by ignoring the one that it was given.
#[tokio::test]
async fn a_duplicate_that_ignores_its_uid_does_not_get_its_own() {
    let bench = Bench::start(impatient()).await;
    let (mut one, mut other) = (bench.connect().await, bench.connect().await);
    one.say(&full(1, 0)).await;
    let reply = one.alive_while(other.say(&full(1, 50))).await;
    given(&reply).expect("a uid");
    for sequence_num in 51..54 {
        assert_eq!(given(&other.say(&heartbeat(1, sequence_num)).await), None);
    }
    assert_eq!(given(&one.say(&heartbeat(1, 1)).await), None);
    assert_eq!(bench.handle.agents(), 2);
}

/// What the gateway was told under the uid before is known by that after.
#[tokio::test]
async fn a_command_is_not_sent_again_because_of_a_new_uid() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&capable(full(1, 0))).await;
    let report = bench.service.report().await;
    restart(&bench, id(1), &report).await;
    assert!(agent.receive().await.command.is_some());
    assert_eq!(outcome(&mut bench.service).await.1, Outcome::Sent);
    given(&agent.say(&asking(heartbeat(1, 1))).await).expect("a uid");
    let renamed = bench.service.report().await;
    restart(&bench, id(1), &renamed).await;
    assert_eq!(outcome(&mut bench.service).await, (uids(&renamed).0, Outcome::Sent));
    assert_eq!(agent.say(&heartbeat(1, 2)).await.command, None);
}

/// The config service asks about an agent on behalf of one that is known by another uid.
#[tokio::test]
async fn who_is_asked_about_is_answered_for_under_the_uid_of_the_newcomer() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    let report = bench.service.report().await;
    bench.service.probe_for(&report, uid(2)).await;
    bench.service.probe_for(&report, uid(3)).await;
    let mut answered = Vec::new();
    for _ in 0..2 {
        let result = agent.alive_while(bench.service.probe_result()).await;
        assert!(result.alive);
        answered.push(result.instance_uid);
    }
    answered.sort();
    assert_eq!(answered, [uid(2).to_bytes(), uid(3).to_bytes()]);
}

#[tokio::test]
async fn each_agent_of_a_socket_can_ask_for_a_uid() {
    let bench = Bench::start(config()).await;
    let mut forwarder = bench.connect().await;
    for n in 1..=100 {
        let reply = forwarder.say(&asking(full(n, 0))).await;
        assert!(given(&reply).is_some(), "agent {n}: {reply:?}");
    }
}

/// Not that its request is bad: clients give up then.
#[tokio::test]
async fn who_asks_for_one_uid_after_the_other_is_told_to_come_back() {
    let bench = Bench::start(config()).await;
    let (mut agent, mut own) = (bench.connect().await, uid(1));
    let error = loop {
        let reply = agent.say(&asking(by(own, full(1, 0)))).await;
        match given(&reply) {
            Some(new) => own = new,
            None => break reply.error_response.expect("an error"),
        }
    };
    assert_eq!(error.r#type(), ServerErrorResponseType::Unavailable);
    assert!(matches!(error.details, Some(Details::RetryInfo(retry)) if retry.retry_after_nanoseconds > 0));
    // It is not the only one there.
    assert!(given(&agent.say(&asking(full(2, 0))).await).is_some());

    own = uid(3);
    let head = loop {
        let message = asking(by(own, full(3, 0))).encode_to_vec();
        let (head, body) = bench.post("Content-Type: application/x-protobuf\r\n", &message).await;
        if !head.starts_with("http/1.1 200") {
            break head;
        }
        own = given(&ServerToAgent::decode(&body[..]).unwrap()).expect("a uid");
    };
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after:"), "{head}");
}
