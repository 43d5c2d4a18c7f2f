//! Commands, and custom messages in both directions.

use muster::{
    bus::{Bus, Event, Subscription, Topic},
    gateway::Config,
    model::{InstanceUid, command::CommandId},
    proto::{
        bus::{
            AgentMessages, CommandGroup, CommandResult, ComponentAsk, GatewayBatch, Report, command_group,
            command_result::Outcome,
        },
        opamp::{
            AgentCapabilities, AgentToServer, AgentToServerFlags, CommandType, CustomCapabilities, CustomMessage,
            ServerToAgent, ServerToAgentCommand, ServerToAgentFlags,
        },
    },
};
use prost::Message as _;

use super::harness::{Agent, Bench, PATIENCE, Service, capabilities, config, full, health, heartbeat, uid};

const CAPABILITY: &str = "com.example.pause/v1";

pub fn id(n: u128) -> CommandId {
    CommandId(uuid::Uuid::from_u128(n))
}

/// Of an agent that may be restarted, and announces a custom capability.
pub fn capable(message: AgentToServer) -> AgentToServer {
    AgentToServer {
        capabilities: capabilities() | AgentCapabilities::AcceptsRestartCommand as u64,
        custom_capabilities: Some(CustomCapabilities { capabilities: vec![CAPABILITY.into()] }),
        ..message
    }
}

fn message(text: &str) -> CustomMessage {
    CustomMessage { capability: CAPABILITY.into(), r#type: "pause".into(), data: text.as_bytes().to_vec().into() }
}

async fn command(bench: &Bench, id: CommandId, action: command_group::Action, reports: &[&Report]) {
    let group = CommandGroup {
        command_id: id.to_bytes(),
        action: Some(action),
        instance_uids: reports.iter().flat_map(|it| it.instance_uid.to_vec()).collect::<Vec<_>>().into(),
        connection_generations: reports.iter().map(|it| it.connection_generation).collect(),
        ..Default::default()
    };
    bench.service.say(GatewayBatch { commands: vec![group], ..Default::default() }).await;
}

pub async fn restart(bench: &Bench, id: CommandId, report: &Report) {
    command(bench, id, command_group::Action::Restart(true), &[report]).await;
}

pub async fn outcome(service: &mut Service) -> (InstanceUid, Outcome) {
    let result: CommandResult =
        tokio::time::timeout(PATIENCE, service.command_results.recv()).await.expect("a result").expect("the bus lives");
    (InstanceUid::from_slice(&result.instance_uid).unwrap(), result.outcome())
}

fn is_restart(message: &ServerToAgent) -> bool {
    message.command == Some(ServerToAgentCommand { r#type: CommandType::Restart as i32 })
}

async fn connected(bench: &mut Bench, n: u8) -> (Agent, Report) {
    let mut agent = bench.connect().await;
    agent.say(&capable(full(n, 0))).await;
    let report = bench.service.report().await;
    (agent, report)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_alone_and_once_however_often_it_is_published() {
    let mut bench = Bench::start(config()).await;
    let (mut agent, report) = connected(&mut bench, 1).await;
    for _ in 0..3 {
        restart(&bench, id(1), &report).await;
        assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::Sent));
    }
    let message = agent.receive().await;
    let expected = ServerToAgent {
        instance_uid: uid(1).to_bytes(),
        command: Some(ServerToAgentCommand { r#type: CommandType::Restart as i32 }),
        ..Default::default()
    };
    assert_eq!(message, expected);
    let reply = agent.say(&capable(heartbeat(1, 1))).await;
    assert_eq!(reply.command, None, "there was one alone");
    restart(&bench, id(2), &report).await;
    assert!(is_restart(&agent.receive().await), "another command is another restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_for_one_connection() {
    let mut bench = Bench::start(config()).await;
    let (mut agent, report) = connected(&mut bench, 1).await;
    agent.socket.close(None).await.unwrap();
    while agent.frame().await.is_some() {}
    let mut again = bench.connect().await;
    again.say(&capable(full(1, 0))).await;
    // That the first has ended may be reported before.
    let newer = loop {
        let newer = bench.service.report().await;
        if newer.ending.is_none() && newer.connection_generation > report.connection_generation {
            break newer;
        }
    };
    restart(&bench, id(1), &report).await;
    assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::NotHere));
    let elsewhere = Report { instance_uid: uid(2).to_bytes(), ..report };
    restart(&bench, id(1), &elsewhere).await;
    assert_eq!(outcome(&mut bench.service).await, (uid(2), Outcome::NotHere));
    assert_eq!(again.say(&capable(heartbeat(1, 1))).await.command, None);
    restart(&bench, id(1), &newer).await;
    assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::Sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_accept_restarts_is_not_sent_one() {
    let mut bench = Bench::start(config()).await;
    let mut agent = bench.connect().await;
    agent.say(&full(1, 0)).await;
    let report = bench.service.report().await;
    restart(&bench, id(1), &report).await;
    assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::NotCapable));
    assert_eq!(agent.say(&heartbeat(1, 1)).await.command, None);
}

/// The first reply of a connection says what the server can do: nothing comes before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_for_the_first_reply() {
    let mut bench = Bench::start(config()).await;
    bench.service.keep_silent();
    let mut agent = bench.connect().await;
    agent.send(&capable(full(1, 0))).await;
    let report = bench.service.report().await;
    restart(&bench, id(1), &report).await;
    assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::Held));
    bench.service.verdict(super::harness::acknowledgement(&report)).await;
    let first = agent.receive().await;
    assert!(first.capabilities != 0 && first.command.is_none(), "{first:?}");
    assert!(is_restart(&agent.receive().await));
    assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::Sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_it_goes_with_the_next_poll() {
    let mut bench = Bench::start(config()).await;
    bench.poll(&capable(full(1, 0))).await;
    let report = bench.service.report().await;
    for _ in 0..2 {
        restart(&bench, id(1), &report).await;
        assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::Held));
    }
    // What else there is to say waits.
    let reply = bench.poll(&capable(heartbeat(1, 1))).await;
    assert!(is_restart(&reply) && reply.capabilities != 0 && reply.flags == 0, "{reply:?}");
    assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::Sent));
    assert_eq!(bench.poll(&capable(heartbeat(1, 2))).await.command, None);
    restart(&bench, id(1), &report).await;
    assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::Sent), "it is told again, not sent again");
    assert_eq!(bench.poll(&capable(heartbeat(1, 3))).await.command, None);
}

/// What was held for a connection is not for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_afresh_is_not_restarted_for_it() {
    let mut bench = Bench::start(config()).await;
    bench.poll(&capable(full(1, 7))).await;
    let report = bench.service.report().await;
    restart(&bench, id(1), &report).await;
    assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::Held));
    let reply = bench.poll(&capable(full(1, 0))).await;
    assert_eq!(reply.command, None);
    restart(&bench, id(1), &report).await;
    assert_eq!(outcome(&mut bench.service).await, (uid(1), Outcome::Dropped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_to_each_agent_that_it_is_for() {
    let mut bench = Bench::start(config()).await;
    let (mut one, first) = connected(&mut bench, 1).await;
    let (mut two, second) = connected(&mut bench, 2).await;
    let action = command_group::Action::CustomMessage(message("for both").encode_to_vec().into());
    command(&bench, id(1), action, &[&first, &second]).await;
    for (agent, n) in [(&mut one, 1), (&mut two, 2)] {
        let received = agent.receive().await;
        assert_eq!(received.custom_message, Some(message("for both")));
        assert_eq!(received.instance_uid, uid(n).to_bytes());
        assert_eq!(outcome(&mut bench.service).await, (uid(n), Outcome::Sent));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_agents_are_passed_on_as_they_come_and_are_no_state() {
    let mut bench = Bench::start(config()).await;
    let mut subscription = bench.service.bus.subscribe();
    subscription.set_topics(vec![Topic::AgentMessages]).await;
    let (mut agent, _) = connected(&mut bench, 1).await;
    agent.say(&AgentToServer { custom_message: Some(message("one")), ..capable(heartbeat(1, 1)) }).await;
    // With a status beside it: that is reported, and the message is not.
    agent.say(&AgentToServer { custom_message: Some(message("two")), ..health(1, 2, "disk") }).await;
    let mut received = Vec::new();
    while received.len() < 2 {
        let event = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("a message");
        let Event::Message { payload, .. } = event else { panic!("a gap") };
        received.extend(AgentMessages::decode(payload).unwrap().messages);
    }
    let texts: Vec<_> = received.iter().map(|it| CustomMessage::decode(it.custom_message.clone()).unwrap()).collect();
    assert_eq!(texts, [message("one"), message("two")]);
    assert!(received.iter().all(|it| it.instance_uid == uid(1).to_bytes()));
    let report = loop {
        let report = super::harness::message(&bench.service.report().await);
        if report.health.is_some() {
            break report;
        }
    };
    assert_eq!((report.custom_message, report.sequence_num), (None, 2));
}

/// The next custom messages of agents, as many as this.
async fn heard(subscription: &mut Box<dyn Subscription>, count: usize) -> Vec<CustomMessage> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let event = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("a message");
        let Event::Message { payload, .. } = event else { panic!("a gap") };
        let batch = AgentMessages::decode(payload).unwrap().messages;
        heard.extend(batch.into_iter().map(|it| CustomMessage::decode(it.custom_message).unwrap()));
    }
    heard
}

fn saying(text: &str, beside: AgentToServer) -> AgentToServer {
    AgentToServer { custom_message: Some(message(text)), ..beside }
}

/// A client that got no answer in time says the same again. One whose numbers do not move says something else by the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_http_is_taken_once() {
    let bench = Bench::start(config()).await;
    let mut subscription = bench.service.bus.subscribe();
    subscription.set_topics(vec![Topic::AgentMessages]).await;
    let first = || saying("first", full(1, 0));
    bench.poll(&first()).await;
    bench.poll(&first()).await;
    for (number, text) in [(1, "a"), (1, "a"), (1, "b"), (2, "b")] {
        bench.poll(&saying(text, heartbeat(1, number))).await;
    }
    // Its program was started again, and says what it said then.
    bench.poll(&first()).await;
    bench.poll(&saying("last", heartbeat(1, 1))).await;
    let expected = ["first", "a", "b", "b", "first", "last"].map(message);
    assert_eq!(heard(&mut subscription, 6).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_websocket_is_taken_once() {
    let bench = Bench::start(config()).await;
    let mut subscription = bench.service.bus.subscribe();
    subscription.set_topics(vec![Topic::AgentMessages]).await;
    let mut agent = bench.connect().await;
    agent.say(&saying("first", full(1, 0))).await;
    for (number, text) in [(1, "a"), (1, "a"), (1, "b"), (2, "b")] {
        agent.say(&saying(text, heartbeat(1, number))).await;
    }
    drop(agent);
    bench.until(|bench| bench.handle.connections() == 0).await;
    let mut agent = bench.connect().await;
    agent.say(&saying("b", heartbeat(1, 2))).await;
    agent.say(&saying("c", heartbeat(1, 3))).await;
    drop(agent);
    bench.until(|bench| bench.handle.connections() == 0).await;
    bench.connect().await.say(&saying("first", full(1, 0))).await;
    assert_eq!(heard(&mut subscription, 6).await, ["first", "a", "b", "b", "c", "first"].map(message));
}

fn with_capabilities() -> Config {
    Config { custom_capabilities: vec!["server.a".into(), "server.b".into()], ..config() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_custom_capabilities_are_in_the_first_reply_to_an_agent_that_has_any() {
    let mut bench = Bench::start(with_capabilities()).await;
    let servers = CustomCapabilities { capabilities: vec!["server.a".into(), "server.b".into()] };
    let mut agent = bench.connect().await;
    let first = agent.say(&capable(full(1, 0))).await;
    assert_eq!(first.custom_capabilities, Some(servers.clone()));
    assert_eq!(agent.say(&heartbeat(1, 1)).await.custom_capabilities, None, "once");
    bench.service.report().await;

    let mut without = bench.connect().await;
    assert_eq!(without.say(&full(2, 0)).await.custom_capabilities, None);
    let announces = AgentToServer {
        custom_capabilities: Some(CustomCapabilities { capabilities: vec![CAPABILITY.into()] }),
        ..heartbeat(2, 1)
    };
    assert_eq!(without.say(&announces).await.custom_capabilities, Some(servers.clone()));

    assert_eq!(bench.poll(&capable(full(3, 0))).await.custom_capabilities, Some(servers));
    assert_eq!(bench.poll(&heartbeat(3, 1)).await.custom_capabilities, None);
}

/// A command is not lost to the reply that assigns a uid, nor that to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_assigns_a_uid_carries_no_command() {
    let mut bench = Bench::start(config()).await;
    let flags = AgentToServerFlags::RequestInstanceUid as u64;
    let reply = bench.poll(&AgentToServer { flags, ..capable(full(1, 0)) }).await;
    let new_uid = reply.agent_identification.expect("a new uid").new_instance_uid;
    let report = bench.service.report().await;
    assert_eq!(report.instance_uid, new_uid);
    restart(&bench, id(1), &report).await;
    assert_eq!(outcome(&mut bench.service).await.1, Outcome::Held);
    let again = bench.poll(&AgentToServer { flags, ..capable(full(1, 0)) }).await;
    assert!(again.agent_identification.is_some() && again.command.is_none(), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn components_are_asked_for_by_a_push_or_with_the_next_poll() {
    let mut bench = Bench::start(config()).await;
    let flag = ServerToAgentFlags::ReportAvailableComponents as u64;
    let (mut agent, report) = connected(&mut bench, 1).await;
    let ask = |report: &Report| ComponentAsk {
        instance_uid: report.instance_uid.clone(),
        connection_generation: report.connection_generation,
    };
    let older = ComponentAsk { connection_generation: report.connection_generation - 1, ..ask(&report) };
    let component_asks = vec![older, ask(&report)];
    bench.service.say(GatewayBatch { component_asks, ..Default::default() }).await;
    assert_eq!(agent.receive().await.flags, flag);
    assert_eq!(agent.say(&capable(heartbeat(1, 1))).await.flags, 0, "once");
    bench.service.report().await;

    bench.poll(&full(2, 0)).await;
    let report = bench.service.report().await;
    bench.service.say(GatewayBatch { component_asks: vec![ask(&report)], ..Default::default() }).await;
    // The bus keeps the order: when this is answered, the other is noted.
    restart(&bench, id(1), &report).await;
    assert_eq!(outcome(&mut bench.service).await, (uid(2), Outcome::NotCapable));
    assert_eq!(bench.poll(&heartbeat(2, 1)).await.flags, flag);
    assert_eq!(bench.poll(&heartbeat(2, 2)).await.flags, 0);
}
