//! Agents.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::{status, timestamp};
use crate::{
    admin::gateways::Live,
    model::{
        self, AgentRecord, Attributes, ContentHash, UnixMs,
        agent::{Reported, Transport},
        health::Transition,
        offer::{self, Convergence},
        policy::PolicyKind,
        status::overall,
    },
    proto::{admin, opamp},
};

/// Values and components nested deeper are left out: a client's decoder has its own bound.
const MAX_DEPTH: u32 = 16;

/// An agent as lists show it: without its components.
pub fn summary(record: &AgentRecord, live: &Live) -> admin::Agent {
    let health = health(record);
    admin::Agent { health_status: health.status, health_error: health.last_error, ..without_health(record, live) }
}

/// An agent with all that is known of it.
pub fn full(record: &AgentRecord, live: &Live) -> admin::Agent {
    let health = health(record);
    admin::Agent {
        components: components(health.component_health_map, MAX_DEPTH),
        health_status: health.status,
        health_error: health.last_error,
        ..without_health(record, live)
    }
}

fn without_health(record: &AgentRecord, live: &Live) -> admin::Agent {
    let (observed, presence, desired) = (&record.observed, &record.presence, &record.desired);
    let attributes = Attributes::decode(&observed.description);
    admin::Agent {
        instance_uid: record.uid.to_string(),
        etag: record.etag(),
        connected: presence.connected,
        transport: transport(presence.transport).into(),
        gateway: presence.gateway.clone(),
        healthy: observed.healthy,
        attributes: attributes.iter().map(|(key, value)| (key.to_owned(), attribute(value, MAX_DEPTH))).collect(),
        labels: record.labels.clone(),
        desired_config_hash: desired.config.hash.map(ContentHash::to_bytes).unwrap_or_default(),
        reported_config_hash: observed.config.hash.clone(),
        config_status: observed.config.status as i32,
        config_error: observed.config.error.clone(),
        first_seen: Some(timestamp(record.first_seen)),
        last_seen: Some(timestamp(last_seen(record, live))),
        convergence: convergence(record, PolicyKind::Config).into(),
        capabilities: capabilities(observed.capabilities),
        desired_generation: desired.config.generation,
        offers: PolicyKind::ALL.into_iter().filter_map(|kind| offered(record, kind)).collect(),
        status: status::word(overall(record)).into(),
        effective_config: status::effective(desired.effective).into(),
        ..Default::default()
    }
}

/// Heartbeats are not stored, so of a connected agent the stored time says little; that its gateway is alive and has not
/// said that the agent left says more.
fn last_seen(record: &AgentRecord, live: &Live) -> UnixMs {
    let presence = &record.presence;
    match presence.connected && live.ids.contains(&presence.gateway) {
        true => presence.last_seen.max(live.at),
        false => presence.last_seen,
    }
}

fn health(record: &AgentRecord) -> opamp::ComponentHealth {
    opamp::ComponentHealth::decode(record.observed.health.clone()).unwrap_or_default()
}

/// The whole tree; `None` when the agent reports no health.
pub fn health_tree(record: &AgentRecord) -> Option<admin::ComponentHealth> {
    (!record.observed.health.is_empty() || record.observed.healthy.is_some())
        .then(|| component(health(record), MAX_DEPTH))
}

pub fn transition(transition: Transition) -> admin::HealthTransition {
    let Transition { at, component, healthy, status, last_error } = transition;
    admin::HealthTransition { time: Some(timestamp(at)), component, healthy, status, last_error }
}

/// What agents are built from.
pub fn available(map: BTreeMap<String, opamp::ComponentDetails>) -> BTreeMap<String, admin::AvailableComponent> {
    available_parts(map, MAX_DEPTH)
}

fn available_parts(
    map: BTreeMap<String, opamp::ComponentDetails>,
    depth: u32,
) -> BTreeMap<String, admin::AvailableComponent> {
    if depth == 0 {
        return BTreeMap::new();
    }
    let value = |value: Option<opamp::AnyValue>| attribute(value.as_ref().and_then(|it| it.value.as_ref()), MAX_DEPTH);
    let one = |details: opamp::ComponentDetails| admin::AvailableComponent {
        metadata: details.metadata.into_iter().map(|pair| (pair.key, value(pair.value))).collect(),
        components: available_parts(details.sub_component_map, depth - 1),
    };
    map.into_iter().map(|(name, details)| (name, one(details))).collect()
}

fn component(health: opamp::ComponentHealth, depth: u32) -> admin::ComponentHealth {
    let time = |nanos: u64| (nanos > 0).then(|| timestamp(UnixMs::try_from(nanos / 1_000_000).unwrap_or(0)));
    admin::ComponentHealth {
        healthy: health.healthy,
        status: health.status,
        last_error: health.last_error,
        start_time: time(health.start_time_unix_nano),
        status_time: time(health.status_time_unix_nano),
        components: components(health.component_health_map, depth - 1),
    }
}

fn components(map: BTreeMap<String, opamp::ComponentHealth>, depth: u32) -> BTreeMap<String, admin::ComponentHealth> {
    if depth == 0 {
        return BTreeMap::new();
    }
    map.into_iter().map(|(name, health)| (name, component(health, depth))).collect()
}

fn attribute(value: Option<&opamp::any_value::Value>, depth: u32) -> admin::AttributeValue {
    use admin::attribute_value::Value as To;
    use opamp::any_value::Value as From;
    let nested =
        |value: &Option<opamp::AnyValue>| attribute(value.as_ref().and_then(|value| value.value.as_ref()), depth - 1);
    let value = value.filter(|_| depth > 0).map(|value| match value {
        From::StringValue(text) => To::StringValue(text.clone()),
        From::BoolValue(value) => To::BoolValue(*value),
        From::IntValue(value) => To::IntValue(*value),
        From::DoubleValue(value) => To::DoubleValue(*value),
        From::BytesValue(bytes) => To::BytesValue(bytes.clone()),
        From::ArrayValue(array) => {
            let values = array.values.iter().map(|value| attribute(value.value.as_ref(), depth - 1)).collect();
            To::ListValue(admin::AttributeList { values })
        }
        From::KvlistValue(list) => {
            let values = list.values.iter().map(|pair| (pair.key.clone(), nested(&pair.value))).collect();
            To::MapValue(admin::AttributeMap { values })
        }
    });
    admin::AttributeValue { value }
}

fn transport(transport: Transport) -> admin::Transport {
    match transport {
        Transport::Unknown => admin::Transport::Unspecified,
        Transport::WebSocket => admin::Transport::Websocket,
        Transport::Http => admin::Transport::Http,
    }
}

/// `None` for a kind that neither a policy nor the agent has said anything of.
pub fn offered(record: &AgentRecord, kind: PolicyKind) -> Option<admin::AgentOffer> {
    let (desired, reported) = (record.desired.of(kind), record.observed.reported(kind));
    let unrendered = if kind == PolicyKind::Config { record.desired.unrendered.clone() } else { String::new() };
    let is_concerned = desired.hash.is_some() || *reported != Reported::default() || !unrendered.is_empty();
    is_concerned.then(|| admin::AgentOffer {
        kind: super::policy::kind(kind).into(),
        desired_hash: desired.hash.map(ContentHash::to_bytes).unwrap_or_default(),
        desired_generation: desired.generation,
        reported_hash: reported.hash.clone(),
        reported_status: reported.status as i32,
        error: if reported.error.is_empty() { desired.refusal.clone() } else { reported.error.clone() },
        convergence: convergence(record, kind).into(),
        unrendered,
        status: status::word(model::status::status(record, kind)).into(),
        offer_time: desired.offered_at.map(timestamp),
        offer_attempts: desired.offer_attempts.into(),
    })
}

fn convergence(record: &AgentRecord, kind: PolicyKind) -> admin::Convergence {
    match offer::convergence(record, kind) {
        Convergence::NothingDesired => admin::Convergence::NothingDesired,
        Convergence::Unrenderable => admin::Convergence::Unrenderable,
        Convergence::NotCapable => admin::Convergence::NotCapable,
        Convergence::Converged => admin::Convergence::Converged,
        Convergence::Applying => admin::Convergence::Applying,
        Convergence::Quarantined => admin::Convergence::Quarantined,
        Convergence::Behind => admin::Convergence::Behind,
    }
}

/// Names of the bits that this version of the protocol knows.
fn capabilities(bits: u64) -> Vec<String> {
    let name = |bit: u32| {
        let capability = opamp::AgentCapabilities::try_from(1i32.checked_shl(bit)?).ok()?;
        let name = capability.as_str_name();
        Some(name.strip_prefix("AgentCapabilities_").unwrap_or(name).to_owned())
    };
    (0..31).filter(|bit| bits & (1 << bit) != 0).filter_map(name).collect()
}

/// The files of an encoded EffectiveConfig. One that does not decode reads as empty: the gateway has refused such already.
pub fn effective_files(effective_config: Bytes) -> Vec<admin::EffectiveFile> {
    let config = opamp::EffectiveConfig::decode(effective_config).unwrap_or_default();
    let files = config.config_map.unwrap_or_default().config_map;
    files
        .into_iter()
        .map(|(name, file)| admin::EffectiveFile { name, content_type: file.content_type, body: file.body })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceUid, agent::Presence};

    #[test]
    fn a_live_gateway_says_when_its_agent_was_last_there() {
        let mut record = AgentRecord::new(InstanceUid::from_slice(&[1; 16]).unwrap(), 5);
        record.presence = Presence { connected: true, gateway: "a".into(), last_seen: 10, ..Default::default() };
        let live = |ids: &[&str]| Live { ids: ids.iter().map(|id| (*id).to_owned()).collect(), at: 70 };
        assert_eq!(last_seen(&record, &live(&["a", "b"])), 70);
        assert_eq!(last_seen(&record, &live(&["b"])), 10);
        record.presence.connected = false;
        assert_eq!(last_seen(&record, &live(&["a"])), 10);
    }

    #[test]
    fn capabilities_have_names() {
        assert_eq!(capabilities(3 | 1 << 30 | 1 << 63), ["ReportsStatus", "AcceptsRemoteConfig"]);
    }

    #[test]
    fn deep_values_are_cut() {
        let mut value = opamp::AnyValue { value: Some(opamp::any_value::Value::BoolValue(true)) };
        for _ in 0..90 {
            let values = vec![value];
            value = opamp::AnyValue { value: Some(opamp::any_value::Value::ArrayValue(opamp::ArrayValue { values })) };
        }
        let cut = attribute(value.value.as_ref(), MAX_DEPTH);
        assert!(admin::AttributeValue::decode(&cut.encode_to_vec()[..]).is_ok());
        let mut depth = 0;
        let mut inner = Some(&cut);
        while let Some(admin::AttributeValue { value: Some(value) }) = inner {
            depth += 1;
            inner = match value {
                admin::attribute_value::Value::ListValue(list) => list.values.first(),
                _ => None,
            };
        }
        assert_eq!(depth, MAX_DEPTH);
    }
}
