//! Commands: once to each agent, whatever goes away meanwhile. What agents announce, and the history of their health.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use muster::{
    model::{
        InstanceUid,
        command::{Action, CommandId, TargetState},
    },
    proto::{
        bus::{self, command_group, command_result::Outcome},
        opamp::{
            AgentCapabilities, AgentToServer, AvailableComponents, ComponentDetails, ComponentHealth,
            CustomCapabilities, CustomMessage,
        },
    },
    store::{CommandProgress, NewCommand},
};
use prost::Message;

use super::{
    cluster::{Backend, Cluster, actor, quick},
    gateway::{Gateway, Heard, SentCommand, ending, full, opening, report, uid},
};
use crate::support::eventually;

const CAPABILITY: &str = "com.example.pause/v1";

fn id(n: u128) -> CommandId {
    CommandId(uuid::Uuid::from_u128(n))
}

/// Of an agent that may be restarted, and announces a custom capability.
fn capable() -> AgentToServer {
    let message = full("a");
    AgentToServer {
        capabilities: message.capabilities | AgentCapabilities::AcceptsRestartCommand as u64,
        custom_capabilities: Some(CustomCapabilities { capabilities: vec![CAPABILITY.into()] }),
        ..message
    }
}

async fn make(cluster: &Cluster, n: u128, action: Action, per_second: u32, agents: &[u64]) {
    let targets = agents.iter().map(|agent| (uid(*agent), TargetState::Waiting)).collect();
    let new = NewCommand { id: id(n), action, addressee: "test".into(), per_second, targets };
    assert!(cluster.store.create_command(&new, &actor()).await.unwrap());
    cluster.hint(bus::Hint { commands_changed: true, ..Default::default() }).await;
}

async fn finished(cluster: &Cluster, n: u128) -> BTreeMap<TargetState, u64> {
    let progress = async || -> Option<CommandProgress> {
        let progress = cluster.store.get_command(id(n)).await.unwrap();
        progress.command.finished_at.is_some().then_some(progress)
    };
    eventually("the command is finished", progress).await.counts
}

async fn command_to(gateway: &mut Gateway, agent: InstanceUid) -> SentCommand {
    let pick = |heard: &Heard| match heard {
        Heard::Command(command) if command.uid == agent => Some(command.clone()),
        _ => None,
    };
    gateway.hear(pick).await
}

async fn answer(gateway: &Gateway, command: &SentCommand, outcome: Outcome) {
    let result = bus::CommandResult {
        command_id: command.id.clone().into(),
        instance_uid: command.uid.to_bytes(),
        outcome: outcome as i32,
    };
    gateway.send(command.uid, bus::ShardBatch { command_results: vec![result], ..Default::default() }).await;
}

pub async fn a_restart_goes_to_the_connection_of_each_agent_that_can(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("gw").await;
    gateway.tell(opening(uid(1), 10, 0, &capable())).await;
    gateway.tell(opening(uid(2), 20, 0, &full("a"))).await;
    gateway.tell(opening(uid(3), 30, 0, &capable())).await;
    gateway.tell(ending(uid(3), 30, 2, 1)).await;
    make(&cluster, 1, Action::Restart, 100, &[1, 2, 3, 4]).await;
    let command = command_to(&mut gateway, uid(1)).await;
    assert_eq!((command.generation, &command.action), (10, &command_group::Action::Restart(true)));
    assert_eq!(command.id, id(1).to_bytes());
    answer(&gateway, &command, Outcome::Sent).await;
    let expected = [(TargetState::Sent, 1), (TargetState::NotCapable, 1), (TargetState::NotConnected, 2)];
    assert_eq!(finished(&cluster, 1).await, BTreeMap::from(expected));
    let others: Vec<_> = gateway.rest().into_iter().filter(|it| matches!(it, Heard::Command(_))).collect();
    assert_eq!(others, [], "nobody else was sent one, and nobody twice");
}

pub async fn an_unanswered_command_is_published_again_for_the_same_connection(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("gw").await;
    gateway.tell(opening(uid(1), 10, 0, &capable())).await;
    make(&cluster, 1, Action::Restart, 100, &[1]).await;
    let first = command_to(&mut gateway, uid(1)).await;
    // Meanwhile the agent has come back: this is none of that connection's business.
    gateway.tell(opening(uid(1), 11, 1, &AgentToServer::default())).await;
    assert_eq!(command_to(&mut gateway, uid(1)).await, first);
    // An answer that does not know of it says nothing about the first copy.
    answer(&gateway, &first, Outcome::NotHere).await;
    assert_eq!(finished(&cluster, 1).await, BTreeMap::from([(TargetState::Unknown, 1)]));
}

pub async fn an_agent_that_has_moved_gets_it_where_it_is(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let (mut one, mut two) = (cluster.gateway("one").await, cluster.gateway("two").await);
    one.tell(opening(uid(1), 10, 0, &capable())).await;
    one.tell(ending(uid(1), 10, 2, 1)).await;
    one.tell(opening(uid(1), 11, 1, &AgentToServer::default())).await;
    make(&cluster, 1, Action::Restart, 100, &[1]).await;
    let command = command_to(&mut one, uid(1)).await;
    one.tell(ending(uid(1), 11, 2, 2)).await;
    two.tell(opening(uid(1), 12, 3, &AgentToServer::default())).await;
    answer(&one, &command, Outcome::NotHere).await;
    let command = command_to(&mut two, uid(1)).await;
    assert_eq!(command.generation, 12);
    answer(&two, &command, Outcome::Sent).await;
    assert_eq!(finished(&cluster, 1).await, BTreeMap::from([(TargetState::Sent, 1)]));
}

pub async fn what_is_held_for_a_connection_ends_with_it(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("gw").await;
    gateway.tell(opening(uid(1), 10, 0, &capable())).await;
    make(&cluster, 1, Action::Restart, 100, &[1]).await;
    let command = command_to(&mut gateway, uid(1)).await;
    answer(&gateway, &command, Outcome::Held).await;
    gateway.tell(opening(uid(1), 11, 1, &AgentToServer::default())).await;
    answer(&gateway, &command, Outcome::Dropped).await;
    assert_eq!(finished(&cluster, 1).await, BTreeMap::from([(TargetState::NotConnected, 1)]));
}

pub async fn another_replica_takes_up_what_is_under_way(backend: Backend) {
    let (cluster, replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("gw").await;
    for n in 1..=2 {
        gateway.tell(opening(uid(n), 10, 0, &capable())).await;
    }
    make(&cluster, 1, Action::Restart, 1, &[1, 2]).await;
    let pick = |heard: &Heard| match heard {
        Heard::Command(command) => Some(command.clone()),
        _ => None,
    };
    let first = gateway.hear(pick).await;
    replica.stop().await;
    let _other = cluster.replica("other", quick()).await;
    // The same one again, and the one whose turn had not come.
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let command = gateway.hear(pick).await;
        if !seen.contains(&command.uid) {
            answer(&gateway, &command, Outcome::Sent).await;
            seen.push(command.uid);
        }
        assert_eq!((&command.id, command.generation), (&first.id, 10));
    }
    assert_eq!(finished(&cluster, 1).await, BTreeMap::from([(TargetState::Sent, 2)]));
}

pub async fn a_gateway_that_dies_takes_the_fate_of_its_commands_along(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("gw").await;
    gateway.tell(opening(uid(1), 10, 0, &capable())).await;
    make(&cluster, 1, Action::Restart, 100, &[1]).await;
    command_to(&mut gateway, uid(1)).await;
    gateway.die().await;
    assert_eq!(finished(&cluster, 1).await, BTreeMap::from([(TargetState::Unknown, 1)]));
}

pub async fn a_command_keeps_to_its_rate(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("gw").await;
    for n in 1..=5 {
        gateway.tell(opening(uid(n), 10, 0, &capable())).await;
    }
    let started = Instant::now();
    make(&cluster, 1, Action::Restart, 4, &[1, 2, 3, 4, 5]).await;
    for _ in 0..5 {
        let pick = |heard: &Heard| match heard {
            Heard::Command(command) => Some(command.clone()),
            _ => None,
        };
        let command = gateway.hear(pick).await;
        answer(&gateway, &command, Outcome::Sent).await;
    }
    // The first at once, then four times a quarter of a second.
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(finished(&cluster, 1).await, BTreeMap::from([(TargetState::Sent, 5)]));
}

pub async fn a_message_goes_to_agents_that_announced_its_capability(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("gw").await;
    gateway.tell(opening(uid(1), 10, 0, &capable())).await;
    gateway.tell(opening(uid(2), 10, 0, &full("a"))).await;
    gateway.tell(opening(uid(3), 10, 0, &capable())).await;
    // A list replaces the one before.
    let none = AgentToServer { custom_capabilities: Some(CustomCapabilities::default()), ..Default::default() };
    gateway.tell(report(uid(3), 10, 2, &none)).await;
    let message = CustomMessage { capability: CAPABILITY.into(), r#type: "t".into(), data: vec![0, 255].into() };
    make(&cluster, 1, Action::Message(message.clone()), 100, &[1, 2, 3]).await;
    let command = command_to(&mut gateway, uid(1)).await;
    assert_eq!(command.action, command_group::Action::CustomMessage(message.encode_to_vec().into()));
    answer(&gateway, &command, Outcome::Sent).await;
    let expected = [(TargetState::Sent, 1), (TargetState::NotCapable, 2)];
    assert_eq!(finished(&cluster, 1).await, BTreeMap::from(expected));
}

pub async fn transitions_of_health_are_recorded_and_reports_are_not(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("gw").await;
    gateway.tell(opening(uid(1), 10, 0, &full("a"))).await;
    let with = |healthy, status: &str, otlp: bool, time| {
        let part = ComponentHealth { healthy: otlp, status_time_unix_nano: time, ..Default::default() };
        AgentToServer {
            health: Some(ComponentHealth {
                healthy,
                status: status.into(),
                status_time_unix_nano: time,
                component_health_map: [("otlp".to_owned(), part)].into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    };
    let said =
        [with(true, "ok", true, 1), with(true, "ok", true, 2), with(true, "ok", false, 3), with(false, "", false, 4)];
    for (number, message) in (2..).zip(&said) {
        gateway.tell(report(uid(1), 10, number, message)).await;
    }
    // A repeat is none, either.
    gateway.tell(report(uid(1), 10, 5, &said[3])).await;
    let history = cluster.store.health_history(uid(1), None, 10).await.unwrap();
    let seen: Vec<_> = history.iter().rev().map(|(_, it)| (it.component.join("/"), it.healthy)).collect();
    let expected = [("", Some(true)), ("otlp", Some(false)), ("", Some(false))];
    assert_eq!(seen, expected.map(|(component, healthy)| (component.to_owned(), healthy)));
}

/// Of an agent that is built from what `hash` stands for.
fn built(hash: &str, parts: &[&str]) -> AgentToServer {
    let message = full("a");
    let components = parts.iter().map(|name| ((*name).to_owned(), ComponentDetails::default())).collect();
    AgentToServer {
        capabilities: message.capabilities | AgentCapabilities::ReportsAvailableComponents as u64,
        available_components: Some(AvailableComponents { components, hash: hash.as_bytes().to_vec().into() }),
        ..message
    }
}

async fn asked(gateway: &mut Gateway) -> (InstanceUid, u64) {
    let pick = |heard: &Heard| match heard {
        Heard::ComponentAsk(ask) => {
            Some((InstanceUid::from_slice(&ask.instance_uid).unwrap(), ask.connection_generation))
        }
        _ => None,
    };
    gateway.hear(pick).await
}

fn asks(gateway: &mut Gateway) -> usize {
    gateway.rest().iter().filter(|heard| matches!(heard, Heard::ComponentAsk(_))).count()
}

pub async fn components_are_asked_of_one_agent_for_all(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let _other = cluster.replica("other", quick()).await;
    let mut gateway = cluster.gateway("gw").await;
    for n in 1..=50 {
        gateway.report(opening(uid(n), 10, 0, &built("h", &[]))).await;
    }
    let (one, generation) = asked(&mut gateway).await;
    assert_eq!(generation, 10);
    assert_eq!(cluster.store.get_components(b"h").await.unwrap(), None);
    gateway.report(report(one, 10, 2, &built("h", &["otlp", "batch"]))).await;
    let known = async || cluster.store.get_components(b"h").await.unwrap();
    let body = eventually("the components are known", known).await;
    assert_eq!(AvailableComponents::decode(body).unwrap().components.len(), 2);
    // Those that come later are not asked, neither after their replica is gone.
    gateway.tell(opening(uid(51), 10, 0, &built("h", &[]))).await;
    gateway.tell(report(uid(51), 10, 2, &built("h", &[]))).await;
    assert_eq!(asks(&mut gateway), 0);
    let announced = cluster.store.read_announced(&[uid(51)]).await.unwrap();
    assert_eq!(announced[0].1.components_hash, b"h"[..]);

    // An agent that does not tell its components is not asked, and one that tells them unasked need not be.
    let mute = AgentToServer { capabilities: full("a").capabilities, ..built("mute", &[]) };
    gateway.tell(opening(uid(60), 10, 0, &mute)).await;
    gateway.tell(opening(uid(61), 10, 0, &built("told", &["x"]))).await;
    gateway.tell(opening(uid(62), 10, 0, &built("told", &[]))).await;
    gateway.tell(opening(uid(63), 10, 0, &built("last", &[]))).await;
    assert_eq!(asked(&mut gateway).await.0, uid(63));
    assert_eq!(asks(&mut gateway), 0);
}

pub async fn an_agent_that_does_not_answer_holds_up_nobody(backend: Backend) {
    let (cluster, _replica) = Cluster::start(backend).await;
    let mut gateway = cluster.gateway("gw").await;
    gateway.tell(opening(uid(1), 10, 0, &built("h", &[]))).await;
    assert_eq!(asked(&mut gateway).await.0, uid(1));
    // Meanwhile another hash is asked for.
    gateway.tell(opening(uid(2), 10, 0, &built("other", &[]))).await;
    assert_eq!(asked(&mut gateway).await.0, uid(2));
    // It leaves without an answer, and another one is asked.
    gateway.tell(opening(uid(3), 10, 0, &built("h", &[]))).await;
    assert_eq!(asks(&mut gateway), 0, "one at a time");
    gateway.tell(ending(uid(1), 10, 2, 1)).await;
    assert_eq!(asked(&mut gateway).await.0, uid(3));
    // It stays, and does not answer either.
    gateway.tell(opening(uid(4), 10, 0, &built("h", &[]))).await;
    assert_eq!(asked(&mut gateway).await.0, uid(4));
}
