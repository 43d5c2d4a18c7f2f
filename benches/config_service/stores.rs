//! Rates of the store's own operations.

use std::time::Instant;

use futures_util::{StreamExt, stream};
use muster::{
    model::{AgentRecord, ContentHash, InstanceUid},
    store::{AgentFilter, DesiredWrite, SharedStore},
};

use super::{fleet, rate};

/// As ingest does.
const BATCH: u64 = 1_000;
const WRITERS: usize = 2;

/// Leaves `agents` agents stored.
pub async fn measure(store: &SharedStore, agents: u64) {
    batches(store, agents, "store: insert", |store, uids| async move {
        let records: Vec<AgentRecord> = uids.map(fleet::agent).collect();
        write(&store, &records).await;
    })
    .await;
    batches(store, agents, "store: read", |store, uids| async move {
        read(&store, uids).await;
    })
    .await;
    batches(store, agents, "store: read and write whole rows", |store, uids| async move {
        let mut records = read(&store, uids).await;
        for record in &mut records {
            record.desired.config.hash = Some(ContentHash::of(b"one"));
            record.desired.config.generation += 1;
        }
        write(&store, &records).await;
    })
    .await;
    batches(store, agents, "store: read and write what is desired", |store, uids| async move {
        let mut records = read(&store, uids).await;
        for record in &mut records {
            record.desired.config.generation += 1;
        }
        let desired: Vec<DesiredWrite> = records.iter().map(DesiredWrite::of).collect();
        assert!(store.write_desired(&desired).await.unwrap().is_empty());
    })
    .await;
    page(store, agents).await;
}

/// Does `work` on all agents, a batch at a time, some side by side.
async fn batches<F: Future<Output = ()>>(
    store: &SharedStore,
    agents: u64,
    what: &str,
    work: impl Fn(SharedStore, std::ops::Range<u64>) -> F,
) {
    let started = Instant::now();
    let starts = (0..agents).step_by(BATCH as usize);
    stream::iter(starts)
        .for_each_concurrent(WRITERS, |start| work(store.clone(), start..agents.min(start + BATCH)))
        .await;
    rate(what, agents, started.elapsed());
}

async fn read(store: &SharedStore, uids: std::ops::Range<u64>) -> Vec<AgentRecord> {
    store.read_agents(&uids.map(fleet::uid).collect::<Vec<InstanceUid>>()).await.unwrap()
}

async fn write(store: &SharedStore, records: &[AgentRecord]) {
    assert!(store.write_agents(records, &[]).await.unwrap().is_empty());
}

async fn page(store: &SharedStore, agents: u64) {
    let (started, mut after, mut count) = (Instant::now(), None, 0);
    loop {
        let page = store.page_agents(AgentFilter::default(), after, 2_000).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.uid);
        count += page.len() as u64;
    }
    assert_eq!(count, agents);
    rate("store: page through", agents, started.elapsed());
}
