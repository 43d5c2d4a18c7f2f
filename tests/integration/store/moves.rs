//! The contract: agents that go on under another uid.

use std::collections::BTreeMap;

use muster::{
    model::{
        AgentRecord, InstanceUid,
        command::{Action, CommandId, TargetState},
        health::Transition,
    },
    store::{Claim, FormerUid, MAX_FORMER_UIDS, Move, NewCommand, News, SharedStore},
};

use super::{NOW, actor, agents::extreme, certificates::pending, read, stored, uid};

fn step(from: u128, version: i64, to: u128) -> Move {
    Move { from: uid(from), version, to: uid(to), request: u64::MAX, now: NOW }
}

fn former(former: u128, of: u128, is_temporary: bool) -> FormerUid {
    FormerUid { former: uid(former), uid: uid(of), request: u64::MAX, is_temporary, made_at: NOW }
}

async fn known(store: &SharedStore, numbers: &[u128]) -> Vec<FormerUid> {
    let uids: Vec<InstanceUid> = numbers.iter().map(|n| uid(*n)).collect();
    let mut known = store.former_uids(&uids).await.unwrap();
    known.sort_by_key(|it| it.former);
    known
}

fn restart(n: u128, targets: &[(u128, TargetState)]) -> NewCommand {
    NewCommand {
        id: CommandId(uuid::Uuid::from_u128(n)),
        action: Action::Restart,
        addressee: String::new(),
        per_second: 1,
        targets: targets.iter().map(|(n, state)| (uid(*n), *state)).collect(),
    }
}

pub async fn an_agent_moves_with_all_that_is_kept_of_it(store: &SharedStore) {
    use TargetState::{Sent, UnderWay, Waiting};
    stored(&**store, vec![extreme(1), extreme(2)]).await;
    let labels = BTreeMap::from([("env".to_owned(), Some("prod".to_owned()))]);
    let before = store.set_labels(uid(1), &labels, None, &actor()).await.unwrap();
    let transition = Transition {
        at: NOW,
        component: vec!["otlp".into()],
        healthy: Some(false),
        status: String::new(),
        last_error: "gone".into(),
    };
    let news = News {
        uid: uid(1),
        custom_capabilities: Some(vec![1].into()),
        components_hash: Some(vec![8; 32].into()),
        transitions: vec![transition.clone()],
    };
    assert_eq!(store.write_reports(std::slice::from_ref(&before), &[], &[news]).await.unwrap(), []);
    let before = AgentRecord { version: before.version + 1, ..before };
    store.note_components(&[(vec![8; 32].into(), vec![uid(2), uid(1)])], NOW).await.unwrap();
    store.request_certificate(&pending(9, uid(1), 7), &actor()).await.unwrap();
    let finished = restart(1, &[(1, Sent)]);
    store.create_command(&finished, &actor()).await.unwrap();
    store.finish_commands(NOW).await.unwrap();
    let (waiting, under_way) = (restart(2, &[(1, Waiting), (2, Waiting)]), restart(3, &[(1, Waiting)]));
    for command in [&waiting, &under_way] {
        store.create_command(command, &actor()).await.unwrap();
    }
    let claim = Claim { uid: uid(1), state: UnderWay, gateway: "gw".into(), connection_generation: 7 };
    store.claim_targets(under_way.id, &[claim], NOW).await.unwrap();

    let moved = store.move_agent(step(1, before.version, 5)).await.unwrap().expect("it is moved");
    let mut expected = AgentRecord { uid: uid(5), version: before.version + 1, ..before };
    assert_eq!(expected.desired.placement, Some(uid(77)), "that of an earlier move stays");
    assert_eq!(moved, expected);
    assert_eq!(read(&**store, uid(5)).await.as_ref(), Some(&moved));
    assert_eq!(read(&**store, uid(1)).await, None, "no trace is left");
    let page = muster::store::AgentFilter { shard: Some(uid(5).shard()), ..Default::default() };
    assert!(store.page_agents(page, None, 9).await.unwrap().contains(&moved), "it is found by its shard");

    let announced = store.read_announced(&[uid(1), uid(5)]).await.unwrap();
    assert_eq!(announced.iter().map(|(uid, _)| *uid).collect::<Vec<_>>(), [uid(5)]);
    assert_eq!(store.health_history(uid(5), None, 9).await.unwrap()[0].1, transition);
    assert_eq!(store.unknown_components(9).await.unwrap()[0].candidates, [uid(2), uid(5)]);
    assert_eq!(store.agent_certificates(uid(1)).await.unwrap(), []);
    assert_eq!(store.agent_certificates(uid(5)).await.unwrap()[0].id, pending(9, uid(5), 7).id);
    assert_eq!(store.waiting_targets(waiting.id, u64::MAX, 9).await.unwrap(), [uid(2), uid(5)]);
    let flying = store.targets_under_way(1 << uid(5).shard(), 9).await.unwrap();
    assert_eq!((flying.len(), flying[0].uid, flying[0].connection_generation), (1, uid(5), 7));
    assert_eq!(store.command_targets(finished.id, &[], None, 9).await.unwrap()[0].uid, uid(1), "history stays");
    let audit = store.list_audit(None, 1).await.unwrap().remove(0);
    assert_eq!((audit.action.as_str(), audit.target), ("agent.move", uid(5).to_string()));
    assert_eq!(audit.detail["former"], uid(1).to_string());

    // The labels and the rest are written and changed as ever.
    expected.observed.capabilities = 3;
    assert_eq!(store.write_agents(std::slice::from_ref(&expected), &[]).await.unwrap(), []);
    store.forget_agent(uid(5), None, &actor()).await.unwrap();
    assert_eq!(known(store, &[1]).await, [], "nobody has had a uid who is forgotten");
}

pub async fn only_the_agent_that_was_read_is_moved_and_to_a_free_uid(store: &SharedStore) {
    let agents = stored(&**store, vec![super::agent(1), super::agent(2)]).await;
    for (from, version, to) in [(1, 2, 5), (1, 1, 2), (3, 1, 5)] {
        assert_eq!(store.move_agent(step(from, version, to)).await.unwrap(), None);
    }
    assert_eq!(read(&**store, uid(1)).await.as_ref(), Some(&agents[0]));
    assert_eq!((read(&**store, uid(5)).await, known(store, &[1, 2, 3, 5]).await), (None, vec![]));
    // Of two who move it, one does.
    let (one, other) = tokio::join!(store.move_agent(step(1, 1, 5)), store.move_agent(step(1, 1, 6)));
    let moved: Vec<_> = [one, other].into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0].desired.placement, Some(uid(1)));
}

pub async fn all_former_uids_lead_to_the_present_one(store: &SharedStore) {
    stored(&**store, vec![super::agent(1)]).await;
    for (version, (from, to)) in (1..).zip([(1, 2), (2, 3), (3, 4)]) {
        store.move_agent(step(from, version, to)).await.unwrap().unwrap();
    }
    let all = [former(1, 4, false), former(2, 4, false), former(3, 4, false)];
    assert_eq!(known(store, &[1, 2, 3, 4]).await, all);
    // Back: the uid that it has is no former one.
    store.move_agent(step(4, 4, 2)).await.unwrap().unwrap();
    assert_eq!(known(store, &[1, 2, 3, 4]).await, [former(1, 2, false), former(3, 2, false), former(4, 2, false)]);
    let last = u128::from(MAX_FORMER_UIDS) + 100;
    let mut from = 2;
    for (version, to) in (5..).zip(100..last) {
        let move_ = Move { now: NOW + version, ..step(from, version, to) };
        store.move_agent(move_).await.unwrap().unwrap();
        from = to;
    }
    let numbers: Vec<u128> = [1, 2, 3, 4].into_iter().chain(100..last).collect();
    let kept = known(store, &numbers).await;
    assert_eq!(kept.len(), MAX_FORMER_UIDS as usize);
    assert!(kept.iter().all(|it| it.uid == uid(last - 1)), "{kept:?}");
    assert_eq!(kept[0].former, uid(2), "the oldest are forgotten");
}

pub async fn temporary_uids_are_forgotten(store: &SharedStore) {
    stored(&**store, vec![super::agent(1), super::agent(2), super::agent(3)]).await;
    store.move_agent(step(3, 1, 4)).await.unwrap().unwrap();
    // The last who used it counts; who is not stored and who had a record under it are left alone.
    let notes = [former(9, 1, true), former(8, 77, true), former(3, 1, true)];
    store.note_former_uids(&notes).await.unwrap();
    let later = FormerUid { request: 5, made_at: NOW + 1, ..former(9, 2, true) };
    store.note_former_uids(std::slice::from_ref(&later)).await.unwrap();
    assert_eq!(known(store, &[3, 8, 9]).await, [former(3, 4, false), later]);
    assert_eq!(store.forget_former_uids(NOW + 1).await.unwrap(), 0);
    assert_eq!(store.forget_former_uids(NOW + 2).await.unwrap(), 1);
    assert_eq!(known(store, &[3, 9]).await, [former(3, 4, false)]);
}
