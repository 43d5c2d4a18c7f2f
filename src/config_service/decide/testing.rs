//! Makers of agents, reports and policies for tests.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message;

use super::Context;
use crate::{
    config_service::{policies::Snapshot, report::Report},
    model::{
        ContentHash, InstanceUid, UnixMs,
        agent::Transport,
        desired::PolicySet,
        policy::{FileRef, Policy, PolicyOffer, Revision, RevisionContent},
    },
    proto::{
        bus,
        opamp::{
            AgentCapabilities, AgentDescription, AgentToServer, AnyValue, ConnectionSettingsOffers, KeyValue,
            OpAmpConnectionSettings, RemoteConfigStatus, any_value::Value,
        },
    },
};

pub const NOW: UnixMs = 1_700_000_000_000;

/// All gateways live, and everything may be offered at once.
pub fn context(policies: &Snapshot) -> Context<'_> {
    Context { policies, now: NOW, certificates: None, is_gateway_dead: &|_| false, may_offer: &|_| true }
}

pub fn uid(n: u8) -> InstanceUid {
    InstanceUid::from_slice(&[n; 16]).unwrap()
}

/// An empty report of agent `n`.
pub fn report(gateway: &str, n: u8, generation: u64, number: u64) -> Report {
    Report {
        gateway: Arc::from(gateway),
        uid: uid(n),
        generation,
        number,
        sequence_num: 0,
        message: Bytes::new(),
        transport: Transport::WebSocket,
        last_seen: 1,
        opening: None,
        is_ending: false,
        sent_connection_settings: None,
        former: None,
        uid_request: 0,
        certificate: None,
        trace: None,
    }
}

pub fn opening(first: u64, previous: Option<u64>) -> Option<bus::Opening> {
    Some(bus::Opening { first_sequence_num: first, previous_sequence_num: previous, ..Default::default() })
}

pub fn capabilities() -> u64 {
    AgentCapabilities::AcceptsRemoteConfig as u64 | AgentCapabilities::ReportsRemoteConfig as u64
}

/// A full message of an agent with the attribute `group`.
pub fn full(group: &str) -> AgentToServer {
    let value = Some(AnyValue { value: Some(Value::StringValue(group.into())) });
    AgentToServer {
        capabilities: capabilities(),
        agent_description: Some(AgentDescription {
            identifying_attributes: vec![KeyValue { key: "group".into(), value }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn status(status: i32, hash: &[u8]) -> AgentToServer {
    AgentToServer {
        remote_config_status: Some(RemoteConfigStatus {
            status,
            last_remote_config_hash: hash.to_vec().into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn encoded(message: &AgentToServer) -> Bytes {
    message.encode_to_vec().into()
}

pub fn policy(name: &str, selector: &str, priority: i32, files: &[(&str, &str)]) -> Policy {
    let files = files
        .iter()
        .map(|(file, body)| {
            let content = ContentHash::of(body.as_bytes());
            let file_ref = FileRef {
                content,
                content_type: "text/yaml".into(),
                role: String::new(),
                size: body.len() as u64,
                is_template: false,
            };
            (file.to_string(), file_ref)
        })
        .collect::<BTreeMap<_, _>>();
    policy_of(name, selector, priority, PolicyOffer::Config(files))
}

/// A policy that sends agents to this endpoint.
pub fn connection_settings_policy(name: &str, selector: &str, endpoint: &str) -> Policy {
    let opamp = OpAmpConnectionSettings { destination_endpoint: endpoint.into(), ..Default::default() };
    let settings = ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
    policy_of(name, selector, 0, PolicyOffer::ConnectionSettings(Box::new(settings)))
}

fn policy_of(name: &str, selector: &str, priority: i32, offer: PolicyOffer) -> Policy {
    let kind = offer.kind();
    let selector = selector.parse().unwrap();
    let content = RevisionContent { selector, priority, offer, allow_empty: false, max_per_second: 0, plan: None };
    Policy {
        name: name.into(),
        kind,
        etag: String::new(),
        created_at: 0,
        revision: Revision { number: 1, content, author: String::new(), message: String::new(), created_at: 0 },
        stable: 1,
    }
}

pub fn snapshot(epoch: u64, policies: Vec<Policy>) -> Snapshot {
    Snapshot::new(PolicySet::undivided(epoch, policies), "".into(), None)
}
