//! A whole replica: how long a change takes to be offered to all, and how many reports it takes a second.

use std::{collections::BTreeMap, time::Instant};

use muster::{
    bus::{Bus, Topic, in_process::InProcess},
    config_service::{Config, ConfigService},
    model::{
        ContentHash,
        policy::{FileRef, PolicyKind, PolicyOffer, RevisionContent},
        rollout::Plan,
    },
    proto::bus,
    store::{Actor, ApplyPolicy, SharedStore},
};
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::{fleet, gateway::Gateway, rate, support::eventually, time};

const CONFIG_BYTES: usize = 4_096;

/// Expects `agents` agents in the store.
pub async fn measure(store: &SharedStore, agents: u64) {
    let bus = InProcess::new();
    let mut gateway = Gateway::start(bus.clone()).await;
    let service = ConfigService::new(Config::default(), "bench".into(), store.clone(), bus.clone());
    let (handle, stop) = (service.handle(), CancellationToken::new());
    let task = tokio::spawn(service.run(stop.clone()));
    eventually("the replica is ready", async || handle.is_ready().then_some(())).await;
    settled(store).await;

    for round in 0..2 {
        let hash = fan_out(store, &bus, &mut gateway, agents, round).await;
        let number = 2 + 2 * round;
        let applied = fleet::applied_message(&hash);
        let messages = (0..agents).map(|n| (fleet::uid(n), applied.clone())).collect();
        let started = Instant::now();
        gateway.report(number, messages).await;
        rate("ingest: APPLIED", agents, started.elapsed());
        let messages = (0..agents).map(|n| (fleet::uid(n), fleet::health_message(n, round + 1))).collect();
        let started = Instant::now();
        gateway.report(number + 1, messages).await;
        rate("ingest: health", agents, started.elapsed());
    }
    stop.cancel();
    task.await.unwrap().unwrap();
}

/// Changes the configuration of all agents; returns its hash.
async fn fan_out(store: &SharedStore, bus: &InProcess, gateway: &mut Gateway, agents: u64, round: u64) -> bytes::Bytes {
    let started = Instant::now();
    apply(store, round, None).await;
    let hint = bus::Hint { policies_epoch: store.policy_epoch().await.unwrap(), ..Default::default() };
    bus.publish(&Topic::ConfigService, hint.encode_to_vec().into()).await.unwrap();
    let agents = agents as usize;
    let (mut first, mut half) = (None, None);
    let hash = gateway
        .offers(agents, |seen| {
            first.get_or_insert_with(|| started.elapsed());
            if seen >= agents / 2 {
                half.get_or_insert_with(|| started.elapsed());
            }
        })
        .await;
    time("fan-out: first offers", first.unwrap());
    time("fan-out: half are offered", half.unwrap());
    rate("fan-out: all are offered", agents as u64, started.elapsed());
    settled(store).await;
    hash
}

/// Waits until nothing of a change is left to be done.
async fn settled(store: &SharedStore) {
    let epoch = store.policy_epoch().await.unwrap();
    eventually("all shards are done", async || {
        let progress = store.shard_progress().await.unwrap();
        (progress.len() == 64 && progress.iter().all(|(_, done)| *done == epoch)).then_some(())
    })
    .await;
}

/// Makes a revision for all agents.
pub async fn apply(store: &SharedStore, round: u64, plan: Option<Plan>) {
    let body = format!("{round:0CONFIG_BYTES$}");
    let content = ContentHash::of(body.as_bytes());
    let file = FileRef {
        content,
        content_type: "text/yaml".into(),
        role: String::new(),
        size: body.len() as u64,
        is_template: false,
    };
    let revision = RevisionContent {
        selector: "os.type = linux".parse().unwrap(),
        priority: 0,
        offer: PolicyOffer::Config(BTreeMap::from([("collector.yaml".to_owned(), file)])),
        allow_empty: false,
        max_per_second: 0,
        plan,
    };
    let apply = ApplyPolicy {
        name: "base".into(),
        kind: PolicyKind::Config,
        content: revision,
        message: String::new(),
        bodies: vec![(content, body.into())],
        etag: None,
        validate_only: false,
    };
    let actor = Actor { name: "bench".into(), token_id: String::new(), now: 1 };
    store.apply_policy(apply, &actor).await.unwrap();
}
