//! The contract: commands, what agents announce, the history of their health.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use muster::{
    model::{
        InstanceUid,
        command::{Action, CommandId, TargetState},
        health::Transition,
    },
    proto::opamp,
    store::{
        Announced, Claim, Error, MAX_CANDIDATES, MAX_TRANSITIONS_KEPT, NewCommand, News, SharedStore, UnknownComponents,
    },
};
use prost::Message;

use super::{NOW, actor, agent, stored, uid};

fn id(n: u128) -> CommandId {
    CommandId(uuid::Uuid::from_u128(n))
}

fn restart(n: u128, targets: &[(u128, TargetState)]) -> NewCommand {
    NewCommand {
        id: id(n),
        action: Action::Restart,
        addressee: "os.type = linux".into(),
        per_second: 5,
        targets: targets.iter().map(|(n, state)| (uid(*n), *state)).collect(),
    }
}

fn claim(n: u128, state: TargetState) -> Claim {
    Claim { uid: uid(n), state, gateway: "gw".into(), connection_generation: u64::MAX }
}

const ALL_SHARDS: u64 = u64::MAX;

pub async fn a_command_is_made_once(store: &SharedStore) {
    let message = opamp::CustomMessage { capability: "c".into(), r#type: "t".into(), data: vec![0, 255].into() };
    let new = NewCommand { action: Action::Message(message.clone()), ..restart(1, &[(1, TargetState::Waiting)]) };
    assert!(store.create_command(&new, &actor()).await.unwrap());
    let other = restart(1, &[(2, TargetState::Waiting)]);
    assert!(!store.create_command(&other, &actor()).await.unwrap());
    let progress = store.get_command(id(1)).await.unwrap();
    assert_eq!(progress.command.action, Action::Message(message));
    assert_eq!((progress.command.per_second, progress.command.author.as_str()), (5, "ada"));
    assert_eq!((progress.command.created_at, progress.command.finished_at), (NOW, None));
    assert_eq!(progress.counts, BTreeMap::from([(TargetState::Waiting, 1)]));
    let error = store.get_command(id(2)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { kind: "command", .. }), "{error}");
    let audit = store.list_audit(None, 10).await.unwrap();
    assert_eq!((audit.len(), audit[0].action.as_str()), (1, "command.message"));
    assert_eq!((&audit[0].detail["bytes"], &audit[0].detail["agents"]), (&2.into(), &1.into()));
}

pub async fn a_target_is_claimed_once_and_settled_once(store: &SharedStore) {
    use TargetState::{NotCapable, NotConnected, Sent, UnderWay, Unknown, Waiting};
    let new = restart(1, &[(1, Waiting), (2, Waiting), (3, Waiting), (4, NotCapable)]);
    store.create_command(&new, &actor()).await.unwrap();
    assert_eq!(store.open_commands().await.unwrap().len(), 1);
    assert_eq!(store.waiting_targets(id(1), ALL_SHARDS, 2).await.unwrap(), [uid(1), uid(2)]);
    let of_one = 1 << uid(2).shard();
    let same: Vec<InstanceUid> = (1..=3).map(uid).filter(|it| it.shard() == uid(2).shard()).collect();
    assert_eq!(store.waiting_targets(id(1), of_one, 9).await.unwrap(), same);

    let claims = [claim(2, UnderWay), claim(1, NotConnected), claim(4, UnderWay)];
    let claimed: BTreeSet<_> = store.claim_targets(id(1), &claims, NOW + 1).await.unwrap().into_iter().collect();
    assert_eq!(claimed, BTreeSet::from([uid(1), uid(2)]), "what is settled is not taken");
    assert_eq!(store.claim_targets(id(1), &claims, NOW + 2).await.unwrap(), []);
    let under_way = store.targets_under_way(ALL_SHARDS, 9).await.unwrap();
    let seen: Vec<_> = under_way.iter().map(|it| (it.uid, it.gateway.as_str(), it.changed_at)).collect();
    assert_eq!(seen, [(uid(2), "gw", NOW + 1)]);
    assert_eq!(under_way[0].connection_generation, u64::MAX);
    assert_eq!(store.targets_under_way(!(1 << uid(2).shard()), 9).await.unwrap(), []);
    assert_eq!(store.finish_commands(NOW).await.unwrap(), 0);

    store.settle_targets(&[(id(1), uid(2), Sent), (id(1), uid(3), Sent)], NOW + 3).await.unwrap();
    store.settle_targets(&[(id(1), uid(2), Unknown)], NOW + 4).await.unwrap();
    let counts = store.get_command(id(1)).await.unwrap().counts;
    assert_eq!(counts, BTreeMap::from([(Waiting, 1), (Sent, 1), (NotConnected, 1), (NotCapable, 1)]));
    let targets = store.command_targets(id(1), &[Sent, NotCapable], None, 9).await.unwrap();
    assert_eq!(targets.iter().map(|it| (it.uid, it.state)).collect::<Vec<_>>(), [(uid(2), Sent), (uid(4), NotCapable)]);
    assert_eq!(store.command_targets(id(1), &[], Some(uid(2)), 1).await.unwrap()[0].uid, uid(3));

    store.claim_targets(id(1), &[claim(3, UnderWay)], NOW).await.unwrap();
    store.settle_targets(&[(id(1), uid(3), Waiting)], NOW).await.unwrap();
    assert_eq!(store.waiting_targets(id(1), ALL_SHARDS, 9).await.unwrap(), [uid(3)], "it may be tried again");
    store.claim_targets(id(1), &[claim(3, NotConnected)], NOW).await.unwrap();
    assert_eq!(store.finish_commands(NOW + 9).await.unwrap(), 1);
    assert_eq!(store.get_command(id(1)).await.unwrap().command.finished_at, Some(NOW + 9));
    assert_eq!(store.open_commands().await.unwrap(), []);

    assert_eq!(store.forget_commands(NOW + 9).await.unwrap(), 0);
    assert_eq!(store.forget_commands(NOW + 10).await.unwrap(), 1);
    store.get_command(id(1)).await.unwrap_err();
}

fn news(n: u128) -> News {
    News { uid: uid(n), custom_capabilities: None, components_hash: None, transitions: Vec::new() }
}

fn transition(at: i64, path: &[&str], healthy: Option<bool>) -> Transition {
    Transition {
        at,
        component: path.iter().map(|name| (*name).to_owned()).collect(),
        healthy,
        status: "\0odd".into(),
        last_error: "ünï".into(),
    }
}

pub async fn announcements_are_kept_field_by_field(store: &SharedStore) {
    let agents = stored(&**store, vec![agent(1), agent(2)]).await;
    let capabilities = opamp::CustomCapabilities { capabilities: vec!["a".into(), "b".into()] };
    let first = News { custom_capabilities: Some(capabilities.encode_to_vec().into()), ..news(1) };
    assert_eq!(store.write_reports(&agents, &[], &[first]).await.unwrap(), []);
    let again: Vec<_> =
        agents.iter().cloned().map(|it| muster::model::AgentRecord { version: it.version + 1, ..it }).collect();
    let second = News { components_hash: Some(vec![7; 32].into()), ..news(1) };
    assert_eq!(store.write_reports(&again, &[], std::slice::from_ref(&second)).await.unwrap(), []);
    let announced = store.read_announced(&[uid(1), uid(2), uid(3)]).await.unwrap();
    let expected =
        Announced { custom_capabilities: capabilities.encode_to_vec().into(), components_hash: vec![7; 32].into() };
    assert_eq!(expected.capabilities(), ["a", "b"]);
    assert_eq!(announced, [(uid(1), expected)]);

    // A writer that was not first has not written that either.
    let late = News { components_hash: Some(vec![8].into()), ..news(1) };
    assert_eq!(store.write_reports(&agents[..1], &[], &[late]).await.unwrap(), [uid(1)]);
    assert_eq!(store.read_announced(&[uid(1)]).await.unwrap()[0].1.components_hash, vec![7; 32]);

    store.forget_agent(uid(1), None, &actor()).await.unwrap();
    assert_eq!(store.read_announced(&[uid(1)]).await.unwrap(), []);
}

pub async fn the_history_of_health_is_bounded(store: &SharedStore) {
    let mut agents = stored(&**store, vec![agent(1), agent(2)]).await;
    let path = ["pipeline:traces", "exporter/otlp"];
    let some = vec![transition(1, &[], Some(true)), transition(2, &path, Some(false)), transition(3, &path, None)];
    let report = [News { transitions: some.clone(), ..news(1) }, News { transitions: some[..1].to_vec(), ..news(2) }];
    store.write_reports(&agents, &[], &report).await.unwrap();
    let history = store.health_history(uid(1), None, 9).await.unwrap();
    let newest_first: Vec<_> = some.iter().rev().cloned().collect();
    assert_eq!(history.iter().map(|(_, it)| it.clone()).collect::<Vec<_>>(), newest_first);
    let rest = store.health_history(uid(1), Some(history[0].0), 1).await.unwrap();
    assert_eq!(rest, history[1..2]);

    for agent in &mut agents {
        agent.version += 1;
    }
    let many = (0..i64::from(MAX_TRANSITIONS_KEPT)).map(|n| transition(100 + n, &[], Some(n % 2 == 0))).collect();
    store.write_reports(&agents, &[], &[News { transitions: many, ..news(1) }]).await.unwrap();
    let history = store.health_history(uid(1), None, u32::MAX).await.unwrap();
    assert_eq!(history.len(), MAX_TRANSITIONS_KEPT as usize);
    assert_eq!(history.last().unwrap().1.at, 100, "the oldest had to go");
    assert_eq!(store.health_history(uid(2), None, 9).await.unwrap().len(), 1, "and nobody else's");

    assert_eq!(store.forget_health(101).await.unwrap(), 2);
    store.forget_agent(uid(1), None, &actor()).await.unwrap();
    assert_eq!(store.health_history(uid(1), None, 9).await.unwrap(), []);
}

pub async fn components_are_asked_for_and_told_once(store: &SharedStore) {
    let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
    let said = |hash: &Bytes, uids: &[u128]| (hash.clone(), uids.iter().copied().map(uid).collect::<Vec<_>>());
    let note = async |said: &[(Bytes, Vec<InstanceUid>)], now| store.note_components(said, now).await.unwrap();
    let unknown = async || store.unknown_components(9).await.unwrap();
    assert_eq!(note(&[said(&two, &[7]), said(&one, &[1, 2])], NOW).await, Vec::<Bytes>::new());
    note(&[said(&one, &[2, 3])], NOW).await;
    let expected = |asked, asked_at| {
        let candidates = vec![uid(1), uid(2), uid(3)];
        UnknownComponents { hash: one.clone(), candidates, asked, asked_at }
    };
    assert_eq!(unknown().await[0], expected(0, 0));
    assert!(store.ask_components(&one, 0, NOW + 1).await.unwrap());
    assert!(!store.ask_components(&one, 0, NOW + 2).await.unwrap(), "another was first");
    assert_eq!(unknown().await[1], expected(1, NOW + 1), "those that wait longest come first");
    assert_eq!(store.get_components(&one).await.unwrap(), None);

    let body = Bytes::from_static(b"\0body");
    store.put_components(&[(one.clone(), body.clone())], NOW).await.unwrap();
    store.put_components(&[(one.clone(), Bytes::from_static(b"other"))], NOW).await.unwrap();
    assert_eq!(store.get_components(&one).await.unwrap(), Some(body));
    assert_eq!(note(&[said(&two, &[8]), said(&one, &[4])], NOW + 1).await, std::slice::from_ref(&one));
    assert!(!store.ask_components(&one, 1, NOW).await.unwrap(), "there is nothing to ask");
    assert_eq!(unknown().await.len(), 1);
    // Told unasked.
    store.put_components(&[(Bytes::from_static(b"three"), two.clone())], NOW).await.unwrap();
    assert!(store.get_components(b"three").await.unwrap().is_some());

    // Two candidates for the other one, asked in vain: there is nobody left to ask.
    for asked in 0..2 {
        assert!(store.ask_components(&two, asked, NOW).await.unwrap());
    }
    assert_eq!(unknown().await, []);
    assert_eq!(store.forget_components(0, NOW).await.unwrap(), 0);
    assert_eq!(store.forget_components(0, NOW + 1).await.unwrap(), 1);
    note(&[said(&two, &(0x100..0x100 + 2 * MAX_CANDIDATES as u128).collect::<Vec<_>>())], NOW).await;
    assert_eq!(unknown().await[0].candidates.len(), MAX_CANDIDATES);

    // What is said again is young again.
    let day = 86_400_000;
    assert_eq!(note(&[said(&one, &[1])], NOW + day).await, std::slice::from_ref(&one));
    assert_eq!(store.forget_components(NOW + day, 0).await.unwrap(), 2);
    assert!(store.get_components(&one).await.unwrap().is_some());
}
