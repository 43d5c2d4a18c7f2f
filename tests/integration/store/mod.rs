//! The two stores.
#![allow(clippy::unwrap_used)]

mod agents;
mod certificates;
mod commands;
mod concurrency;
mod contents;
mod contract;
mod migrations;
mod model;
mod moves;
mod overrides;
mod package_files;
mod policies;
mod postgres;
mod rollouts;
mod sets;
mod tls;
mod tokens;

use std::sync::Arc;

use bytes::Bytes;
use muster::{
    model::{
        AgentRecord, ContentHash, InstanceUid, UnixMs,
        policy::{FileRef, PolicyKind, PolicyOffer, RevisionContent},
    },
    proto::opamp,
    store::{
        Actor, ApplyPolicy, ConfigFiles, SharedStore, Store,
        postgres::{Config, PostgresStore},
        sqlite::SqliteStore,
    },
};
use prost::Message;
use tempfile::TempDir;

use crate::support::postgres::Server;

/// A store with an empty, migrated database, and what must live as long.
struct Fixture {
    store: SharedStore,
    _folder: Option<TempDir>,
}

async fn sqlite() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("muster.db")).await.unwrap();
    Fixture { store: Arc::new(store), _folder: Some(folder) }
}

async fn postgres() -> Fixture {
    let store = PostgresStore::connect(&Server::shared().new_database().await, Config::default()).unwrap();
    store.migrate().await.unwrap();
    Fixture { store: Arc::new(store), _folder: None }
}

/// Any time.
const NOW: UnixMs = 1_800_000_000_000;

fn actor() -> Actor {
    Actor { name: "ada".into(), token_id: "t1".into(), now: NOW }
}

fn uid(n: u128) -> InstanceUid {
    InstanceUid::from_slice(&n.to_be_bytes()).unwrap()
}

/// An agent that was not stored yet.
fn agent(n: u128) -> AgentRecord {
    AgentRecord::new(uid(n), NOW)
}

fn body(text: &str) -> (ContentHash, Bytes) {
    (ContentHash::of(text.as_bytes()), Bytes::copy_from_slice(text.as_bytes()))
}

fn file(text: &str) -> FileRef {
    FileRef {
        content: ContentHash::of(text.as_bytes()),
        content_type: "text/yaml".into(),
        role: String::new(),
        size: text.len() as u64,
        is_template: false,
    }
}

fn files(texts: &[(&str, &str)]) -> ConfigFiles {
    texts.iter().map(|(name, text)| ((*name).to_owned(), file(text))).collect()
}

fn content(texts: &[(&str, &str)]) -> RevisionContent {
    RevisionContent {
        selector: "os.type = linux, !legacy".parse().unwrap(),
        priority: -3,
        offer: PolicyOffer::Config(files(texts)),
        allow_empty: false,
        max_per_second: u32::MAX,
        plan: None,
    }
}

/// Applies one file, `a.yaml`, with this body.
fn apply(name: &str, text: &str) -> ApplyPolicy {
    ApplyPolicy {
        name: name.into(),
        kind: PolicyKind::Config,
        content: content(&[("a.yaml", text)]),
        message: String::new(),
        bodies: vec![body(text)],
        etag: None,
        validate_only: false,
    }
}

fn description(name: &str, version: &str) -> Bytes {
    let pair = |key: &str, text: &str| opamp::KeyValue {
        key: key.into(),
        value: Some(opamp::AnyValue { value: Some(opamp::any_value::Value::StringValue(text.into())) }),
    };
    let identifying_attributes = vec![pair("service.name", name), pair("service.version", version)];
    opamp::AgentDescription { identifying_attributes, ..Default::default() }.encode_to_vec().into()
}

async fn read(store: &dyn Store, uid: InstanceUid) -> Option<AgentRecord> {
    store.read_agents(&[uid]).await.unwrap().pop()
}

/// Stores new agents; the records as they are stored then.
async fn stored(store: &dyn Store, agents: Vec<AgentRecord>) -> Vec<AgentRecord> {
    assert_eq!(store.write_agents(&agents, &[]).await.unwrap(), []);
    agents.into_iter().map(|agent| AgentRecord { version: agent.version + 1, ..agent }).collect()
}
