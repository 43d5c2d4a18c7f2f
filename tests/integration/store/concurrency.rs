//! The contract: several writers at once.

use std::collections::{BTreeMap, BTreeSet};

use muster::{
    model::{AgentRecord, InstanceUid},
    store::{ApplyPolicy, Error, SharedStore},
};
use tokio::task::JoinSet;

use super::{actor, agent, apply, body, uid};

const WRITERS: u64 = 6;
const ROUNDS: u64 = 10;
const AGENTS: u128 = 40;
const GATEWAY: &str = "g1";

/// Every writer adds one to a number of every agent, in batches, and tries again what another was faster with. If a
/// write were ever lost or made twice, the sum would tell.
pub async fn of_two_writers_one_wins(store: &SharedStore) {
    let mut writers = JoinSet::new();
    // Another that writes all rows, in an order of its own.
    let disconnecting = store.clone();
    let disconnected = tokio::spawn(async move {
        let mut count = 0;
        for _ in 0..ROUNDS {
            count += disconnecting.disconnect_gateway(GATEWAY).await.unwrap();
        }
        count
    });
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for round in 0..ROUNDS {
                let mut todo: Vec<InstanceUid> = (1..=AGENTS).map(uid).collect();
                // Different orders, so that unsorted locks would deadlock.
                let turned = (writer * 7 + round) as usize % todo.len();
                todo.rotate_left(turned);
                while !todo.is_empty() {
                    todo = add_one(&store, &todo, writer).await;
                }
            }
        });
    }
    writers.join_all().await;
    let disconnected = disconnected.await.unwrap();
    let mut versions = 0;
    for n in 1..=AGENTS {
        let agent = super::read(&**store, uid(n)).await.unwrap();
        assert_eq!(agent.presence.report_number, WRITERS * ROUNDS);
        versions += agent.version as u64;
    }
    assert_eq!(versions, WRITERS * ROUNDS * AGENTS as u64 + disconnected);
}

/// Those that are still to be done.
async fn add_one(store: &SharedStore, uids: &[InstanceUid], writer: u64) -> Vec<InstanceUid> {
    let found = store.read_agents(uids).await.unwrap();
    let mut agents: BTreeMap<InstanceUid, AgentRecord> = found.into_iter().map(|agent| (agent.uid, agent)).collect();
    for uid in uids {
        let presence = &mut agents.entry(*uid).or_insert_with(|| AgentRecord::new(*uid, 0)).presence;
        presence.report_number += 1;
        presence.connected = true;
        presence.gateway = GATEWAY.into();
    }
    let batch: Vec<_> = uids.iter().map(|uid| agents[uid].clone()).collect();
    let bodies = ["shared".to_owned(), format!("of {writer}")].map(|text| body(&text));
    store.write_agents(&batch, &bodies).await.unwrap()
}

pub async fn of_two_applies_with_one_etag_one_wins(store: &SharedStore) {
    for etag in [String::new(), "present".into()] {
        let etag = if etag.is_empty() { etag } else { store.get_policy("p").await.unwrap().etag };
        let mut applies = JoinSet::new();
        for n in 0..WRITERS {
            let (store, etag) = (store.clone(), etag.clone());
            let apply = ApplyPolicy { etag: Some(etag.clone()), ..apply("p", &format!("{etag} {n}")) };
            applies.spawn(async move { store.apply_policy(apply, &actor()).await });
        }
        let (won, lost): (Vec<_>, Vec<_>) = applies.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for lost in lost {
            let error = lost.unwrap_err();
            assert!(matches!(error, Error::AlreadyExists { .. } | Error::EtagMismatch { .. }), "{error}");
        }
    }
}

pub async fn applies_take_turns(store: &SharedStore) {
    store.apply_policy(apply("other", "x"), &actor()).await.unwrap();
    let before = store.policy_epoch().await.unwrap();
    let mut applies = JoinSet::new();
    for n in 0..WRITERS {
        let store = store.clone();
        applies.spawn(async move { store.apply_policy(apply("p", &n.to_string()), &actor()).await.unwrap() });
    }
    // A reader that sees the policies of one epoch never sees others of the same epoch.
    let reader = tokio::spawn({
        let store = store.clone();
        async move {
            let mut seen = BTreeMap::new();
            for _ in 0..20 {
                let set = store.policy_set().await.unwrap();
                let revisions: Vec<_> = set.policies().iter().map(|policy| policy.revision.clone()).collect();
                assert_eq!(*seen.entry(set.epoch).or_insert(revisions.clone()), revisions);
            }
        }
    });
    let numbers: BTreeSet<u64> = applies.join_all().await.iter().map(|a| a.policy.revision.number).collect();
    assert_eq!(numbers, (1..=WRITERS).collect());
    assert_eq!(store.policy_epoch().await.unwrap(), before + WRITERS);
    reader.await.unwrap();
}

pub async fn a_check_finds_the_schema(store: &SharedStore) {
    store.check().await.unwrap();
    let mut migrations = JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        migrations.spawn(async move { store.migrate().await });
    }
    for result in migrations.join_all().await {
        result.unwrap();
    }
    store.check().await.unwrap();
    assert_eq!(store.write_agents(&[agent(1)], &[]).await.unwrap(), []);
}
