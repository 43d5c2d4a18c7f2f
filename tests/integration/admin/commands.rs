//! Commands: who is addressed, what is refused; custom messages of agents, also for those who read slowly.

use std::time::Duration;

use muster::{
    bus::Topic,
    model::{
        AgentRecord,
        command::{CommandId, TargetState},
    },
    proto::{
        admin::{
            self, CommandOutcome, GetCommandRequest, ListCommandTargetsRequest, RestartRequest, SendMessageRequest,
            WatchCommandRequest, WatchMessagesRequest, WatchMessagesResponse, restart_request::To,
            send_message_request, watch_messages_response::Event,
        },
        bus::{AgentMessage, AgentMessages},
        opamp::{AgentCapabilities, CustomCapabilities, CustomMessage},
    },
    store::{Claim, News},
};
use prost::Message;
use tonic::{Code, Status, Streaming};

use super::world::{World, agent, reason, uid, violated};
use crate::support::PATIENCE;

const CAPABILITY: &str = "com.example.pause/v1";

fn restartable(n: u128, os: &str) -> AgentRecord {
    let mut record = agent(n, &[("os", os)]);
    record.observed.capabilities |= AgentCapabilities::AcceptsRestartCommand as u64;
    record
}

async fn restart(world: &World, id: &str, to: To) -> Result<admin::Command, Status> {
    let request = RestartRequest { command_id: id.into(), to: Some(to), per_second: 7 };
    Ok(world.commands().restart(world.request(request)).await?.into_inner())
}

fn named(command: &admin::Command) -> Vec<(String, CommandOutcome)> {
    command.not_sent.iter().map(|it| (it.instance_uid.clone(), it.outcome())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_cannot_be_restarted_are_named() {
    let world = World::start().await;
    let mut gone = restartable(3, "linux");
    gone.presence.connected = false;
    world.put(&[restartable(1, "linux"), agent(2, &[("os", "linux")]), gone, restartable(4, "windows")]).await;
    let mut hints = world.hints().await;
    let command = restart(&world, "", To::Selector("os = linux".into())).await.unwrap();
    assert!(hints.next().await.commands_changed);
    assert_eq!((command.waiting, command.not_capable, command.not_connected, command.sent), (1, 1, 1, 0));
    let (two, three) = (uid(2).to_string(), uid(3).to_string());
    assert_eq!(named(&command), [(two, CommandOutcome::NotCapable), (three, CommandOutcome::NotConnected)]);
    assert_eq!((command.per_second, command.addressee.as_str(), command.finish_time), (7, "os = linux", None));

    let alone = restart(&world, "", To::InstanceUid(uid(2).to_string())).await.unwrap();
    assert!(alone.finish_time.is_some(), "there is nothing to wait for");
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_makes_no_second_command() {
    let world = World::start().await;
    world.put(&[restartable(1, "linux")]).await;
    let id = uuid::Uuid::now_v7().to_string();
    let first = restart(&world, &id, To::Selector(String::new())).await.unwrap();
    world.put(&[restartable(2, "linux")]).await;
    let second = restart(&world, &id, To::Selector(String::new())).await.unwrap();
    assert_eq!(first, second);
    let message = SendMessageRequest {
        command_id: id.clone(),
        to: Some(send_message_request::To::Selector(String::new())),
        capability: "c".into(),
        ..Default::default()
    };
    let status = world.commands().send_message(world.request(message)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "COMMAND_ALREADY_EXISTS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_refused() {
    let world = World::start().await;
    world.put(&[restartable(1, "linux")]).await;
    let status = restart(&world, "", To::Selector("os = beos".into())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "NO_AGENT_MATCHES"));
    let status = restart(&world, "", To::InstanceUid(uid(9).to_string())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "AGENT_NOT_FOUND"));
    for (id, to, field) in [
        ("no uuid", To::Selector(String::new()), "command_id"),
        ("", To::Selector("os in (".into()), "selector"),
        ("", To::InstanceUid("x".into()), "instance_uid"),
    ] {
        let status = restart(&world, id, to).await.unwrap_err();
        assert_eq!(violated(&status), [field.to_owned()].into());
    }
    let nobody = RestartRequest::default();
    let status = world.commands().restart(world.request(nobody)).await.unwrap_err();
    assert_eq!(violated(&status), ["to".to_owned()].into());
    let large = SendMessageRequest {
        to: Some(send_message_request::To::Selector(String::new())),
        r#type: "a\nb".into(),
        data: vec![0; (512 << 10) + 1].into(),
        ..Default::default()
    };
    let status = world.commands().send_message(world.request(large)).await.unwrap_err();
    assert_eq!(violated(&status), ["capability".into(), "type".into(), "data".into()].into());
    let unknown = GetCommandRequest { command_id: uuid::Uuid::now_v7().to_string() };
    let status = world.commands().get_command(world.request(unknown)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "COMMAND_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_for_those_who_announced_its_capability() {
    let world = World::start().await;
    let agents = [agent(1, &[]), agent(2, &[])];
    let capabilities = CustomCapabilities { capabilities: vec!["other".into(), CAPABILITY.into()] };
    let news = News {
        uid: uid(1),
        custom_capabilities: Some(capabilities.encode_to_vec().into()),
        components_hash: None,
        transitions: Vec::new(),
    };
    assert_eq!(world.store.write_reports(&agents, &[], &[news]).await.unwrap(), []);
    let request = SendMessageRequest {
        to: Some(send_message_request::To::Selector(String::new())),
        capability: CAPABILITY.into(),
        r#type: "pause".into(),
        data: b"now".to_vec().into(),
        ..Default::default()
    };
    let command = world.commands().send_message(world.request(request)).await.unwrap().into_inner();
    assert_eq!((command.waiting, command.per_second), (1, 1_000));
    assert_eq!(named(&command), [(uid(2).to_string(), CommandOutcome::NotCapable)]);
    assert_eq!((command.capability.as_str(), command.r#type.as_str()), (CAPABILITY, "pause"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_followed_to_its_end() {
    let world = World::start().await;
    world.put(&[restartable(1, "linux"), restartable(2, "linux")]).await;
    let command = restart(&world, "", To::Selector(String::new())).await.unwrap();
    let request = world.request(WatchCommandRequest { command_id: command.id.clone() });
    let mut changes = world.commands().watch_command(request).await.unwrap().into_inner();
    let next = async |changes: &mut Streaming<admin::Command>| {
        tokio::time::timeout(PATIENCE, changes.message()).await.expect("a change in time").unwrap()
    };
    assert_eq!(next(&mut changes).await.unwrap().waiting, 2);
    let id = CommandId(command.id.parse().unwrap());
    let claim = |n| Claim { uid: uid(n), state: TargetState::UnderWay, gateway: "gw".into(), connection_generation: 1 };
    world.store.claim_targets(id, &[claim(1), claim(2)], 1).await.unwrap();
    assert_eq!(next(&mut changes).await.unwrap().under_way, 2);
    world
        .store
        .settle_targets(&[(id, uid(1), TargetState::Sent), (id, uid(2), TargetState::Unknown)], 2)
        .await
        .unwrap();
    world.store.finish_commands(3).await.unwrap();
    let last = loop {
        let change = next(&mut changes).await.unwrap();
        if change.finish_time.is_some() {
            break change;
        }
    };
    assert_eq!((last.sent, last.unknown), (1, 1));
    assert!(next(&mut changes).await.is_none(), "it ends there");

    let request = ListCommandTargetsRequest { command_id: command.id.clone(), page_size: 1, ..Default::default() };
    let page = world.commands().list_command_targets(world.request(request.clone())).await.unwrap().into_inner();
    assert_eq!(page.targets[0].outcome(), CommandOutcome::Sent);
    let request = ListCommandTargetsRequest { page_token: page.next_page_token, ..request };
    let page = world.commands().list_command_targets(world.request(request)).await.unwrap().into_inner();
    assert_eq!(page.targets[0].instance_uid, uid(2).to_string());
}

async fn watch(world: &World, capability: &str, selector: &str) -> Streaming<WatchMessagesResponse> {
    let request = WatchMessagesRequest { capability: capability.into(), selector: selector.into() };
    world.commands().watch_messages(world.request(request)).await.unwrap().into_inner()
}

fn message(n: u128, capability: &str, data: &[u8]) -> AgentMessage {
    let message = CustomMessage { capability: capability.into(), r#type: "t".into(), data: data.to_vec().into() };
    AgentMessage { instance_uid: uid(n).to_bytes(), custom_message: message.encode_to_vec().into() }
}

async fn publish(world: &World, messages: Vec<AgentMessage>, lost: u64) {
    let payload = AgentMessages { messages, lost }.encode_to_vec().into();
    world.bus.publish(&Topic::AgentMessages, payload).await.unwrap();
}

async fn event(events: &mut Streaming<WatchMessagesResponse>) -> Event {
    let event = tokio::time::timeout(PATIENCE, events.message()).await.expect("an event in time");
    event.unwrap().expect("the stream goes on").event.expect("an event")
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_filtered_by_capability_and_by_agent() {
    let world = World::start().await;
    world.put(&[agent(1, &[("os", "linux")]), agent(2, &[("os", "windows")])]).await;
    let mut all = watch(&world, "", "").await;
    let mut some = watch(&world, "a", "os = linux").await;
    let sent = vec![message(2, "a", b"1"), message(1, "b", b"2"), message(1, "a", b"\x00\xff"), message(7, "a", b"4")];
    publish(&world, sent, 3).await;
    assert!(matches!(event(&mut all).await, Event::Lost(lost) if lost.count == 3));
    for expected in [b"1" as &[u8], b"2", b"\x00\xff", b"4"] {
        assert!(matches!(event(&mut all).await, Event::Message(message) if message.data == expected));
    }
    assert!(matches!(event(&mut some).await, Event::Lost(_)));
    let Event::Message(only) = event(&mut some).await else { panic!("a message") };
    assert_eq!(
        (only.instance_uid, only.capability, only.data.to_vec()),
        (uid(1).to_string(), "a".into(), vec![0, 255])
    );
}

/// Reports are stored in batches, and messages are not: a new agent's first message may be here before it is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_here_before_its_agent_is_known_waits_for_that() {
    let world = World::start().await;
    world.put(&[agent(1, &[("os", "linux")])]).await;
    let mut events = watch(&world, "", "os = linux").await;
    publish(&world, vec![message(5, "a", b"early"), message(1, "a", b"known")], 0).await;
    assert!(matches!(event(&mut events).await, Event::Message(message) if message.data == b"known"[..]));
    world.put(&[agent(5, &[("os", "linux")])]).await;
    publish(&world, vec![message(5, "a", b"late")], 0).await;
    for expected in [&b"early"[..], b"late"] {
        assert!(matches!(event(&mut events).await, Event::Message(message) if message.data == expected));
    }
}

/// What a slow client does not read in time is dropped, and counted where it is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_up_nobody_and_is_told_what_it_missed() {
    const SENT: u64 = 40;
    let world = World::start().await;
    let mut slow = watch(&world, "", "").await;
    let mut quick = watch(&world, "", "").await;
    // Far more than a watch and its connection hold.
    let large = vec![7; 1 << 20];
    for n in 0..SENT {
        publish(&world, vec![message(1, "a", &[&n.to_be_bytes()[..], &large].concat())], 0).await;
        assert!(matches!(event(&mut quick).await, Event::Message(_)), "another is not held up");
    }
    let (mut received, mut lost) = (0, 0);
    while received + lost < SENT {
        match event(&mut slow).await {
            Event::Message(_) => received += 1,
            Event::Lost(gap) => {
                assert!(gap.count > 0, "the number is known");
                lost += gap.count;
            }
        }
    }
    assert!(lost > 0 && received > 0, "{received} received, {lost} lost");
    publish(&world, vec![message(1, "a", b"after")], 0).await;
    assert!(matches!(event(&mut slow).await, Event::Message(message) if message.data == b"after"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_end_at_shutdown() {
    let world = World::start().await;
    let mut events = watch(&world, "", "").await;
    world.shutdown.cancel();
    let end = tokio::time::timeout(PATIENCE + Duration::from_secs(1), events.message()).await.expect("an end");
    assert_eq!(reason(&end.unwrap_err()), "SHUTTING_DOWN");
}
