//! The agents of the benchmark.

use bytes::Bytes;
use muster::{
    model::{AgentRecord, InstanceUid, uid::stable_hash},
    proto::opamp::{
        AgentCapabilities, AgentDescription, AgentToServer, AnyValue, ComponentHealth, KeyValue, RemoteConfigStatus,
        RemoteConfigStatuses, any_value::Value,
    },
};
use prost::Message;

/// The gateway that they are connected to.
pub const GATEWAY: &str = "bench";
/// Of their only connection.
pub const GENERATION: u64 = 10;

pub fn uid(n: u64) -> InstanceUid {
    InstanceUid::from_slice(&[stable_hash(&n.to_be_bytes()).to_be_bytes(), n.to_be_bytes()].concat()).unwrap()
}

/// An agent as it is stored once it has said what a collector says: about 2 KB.
pub fn agent(n: u64) -> AgentRecord {
    let mut agent = AgentRecord::new(uid(n), 1);
    agent.observed.complete = true;
    agent.observed.capabilities =
        AgentCapabilities::AcceptsRemoteConfig as u64 | AgentCapabilities::ReportsRemoteConfig as u64;
    agent.observed.description = description(n).encode_to_vec().into();
    agent.observed.health = health(n, 0).encode_to_vec().into();
    agent.observed.healthy = Some(true);
    agent.presence.connected = true;
    agent.presence.gateway = GATEWAY.into();
    agent.presence.connection_generation = GENERATION;
    agent.presence.report_number = 1;
    agent.presence.sequence_num = 1;
    agent
}

fn description(n: u64) -> AgentDescription {
    let attribute = |key: &str, value: String| KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(Value::StringValue(value)) }),
    };
    AgentDescription {
        identifying_attributes: vec![
            attribute("service.name", "io.opentelemetry.collector".into()),
            attribute("service.version", "0.130.0".into()),
            attribute("service.instance.id", uid(n).to_string()),
        ],
        non_identifying_attributes: vec![
            attribute("os.type", "linux".into()),
            attribute("os.description", "Debian GNU/Linux 13 (trixie), kernel 6.12".into()),
            attribute("host.name", format!("node-{n}.eu-west-1.example.com")),
            attribute("host.arch", "amd64".into()),
            attribute("deployment.environment.name", "prod".into()),
        ],
    }
}

/// Health with a dozen components, `round` telling one from the next.
pub fn health(n: u64, round: u64) -> ComponentHealth {
    let component = |status: &str| ComponentHealth {
        healthy: true,
        start_time_unix_nano: n,
        status_time_unix_nano: round,
        status: status.into(),
        ..Default::default()
    };
    let components = (0..12).map(|k| (format!("pipeline:metrics/receiver:otlp/{k}"), component("StatusOK")));
    ComponentHealth { component_health_map: components.collect(), ..component("StatusOK") }
}

/// What an agent says when its health has changed.
pub fn health_message(n: u64, round: u64) -> Bytes {
    AgentToServer { health: Some(health(n, round)), ..Default::default() }.encode_to_vec().into()
}

/// What an agent says when it has taken the configuration `hash`.
pub fn applied_message(hash: &[u8]) -> Bytes {
    let status = RemoteConfigStatus {
        status: RemoteConfigStatuses::Applied as i32,
        last_remote_config_hash: hash.to_vec().into(),
        ..Default::default()
    };
    AgentToServer { remote_config_status: Some(status), ..Default::default() }.encode_to_vec().into()
}
