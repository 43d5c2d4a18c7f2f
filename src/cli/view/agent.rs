//! Agents.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{age, or_dash, overrides::Override, policy::kind_name, rfc3339, short, status};
use crate::{
    cli::output::View,
    model::agent::{OfferStatus, Transport},
    proto::admin,
};

#[derive(Serialize)]
pub struct Agent {
    pub instance_uid: String,
    pub connected: bool,
    pub transport: &'static str,
    pub gateway: String,
    /// Null when the agent reports no health.
    pub healthy: Option<bool>,
    pub health_status: String,
    pub health_error: String,
    pub attributes: BTreeMap<String, Value>,
    pub labels: BTreeMap<String, String>,
    /// Hex; empty when no policy matches.
    pub desired_config_hash: String,
    /// Hex; empty when the agent reports none.
    pub reported_config_hash: String,
    pub config_status: &'static str,
    pub config_error: String,
    pub convergence: String,
    /// Of all kinds that of most concern.
    pub status: String,
    /// What it says that it runs, beside what it was offered: MATCHES, DIFFERS, DRIFTED or UNKNOWN.
    pub effective_config: String,
    pub desired_generation: u64,
    /// By kind of policy.
    pub offers: BTreeMap<&'static str, Offer>,
    pub capabilities: Vec<String>,
    pub first_seen: Option<String>,
    pub last_seen: Option<String>,
    pub etag: String,
    /// Revisions of policies that the agent has whatever rollouts do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, Component>,
    #[serde(skip)]
    pub last_seen_age: String,
}

/// How the agent stands to what it should have of one kind.
#[derive(Serialize)]
pub struct Offer {
    /// Hex; empty when there is nothing that it should have.
    pub desired_hash: String,
    pub desired_generation: u64,
    /// Hex; empty when the agent reports none.
    pub reported_hash: String,
    /// How it stands, in one word.
    pub state: String,
    /// What the agent says.
    pub status: &'static str,
    pub error: String,
    pub convergence: String,
    /// Why it is UNRENDERABLE.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unrendered: String,
    /// When it was last offered on the present connection.
    pub offered_at: Option<String>,
    pub offer_attempts: u32,
}

impl From<admin::AgentOffer> for Offer {
    fn from(offer: admin::AgentOffer) -> Self {
        Self {
            state: status::name(offer.status()),
            convergence: offer.convergence().as_str_name().trim_start_matches("CONVERGENCE_").to_owned(),
            desired_hash: hex::encode(offer.desired_hash),
            desired_generation: offer.desired_generation,
            reported_hash: hex::encode(offer.reported_hash),
            status: OfferStatus::from_number(offer.reported_status).name(),
            error: offer.error,
            unrendered: offer.unrendered,
            offered_at: rfc3339(offer.offer_time),
            offer_attempts: offer.offer_attempts,
        }
    }
}

#[derive(Serialize)]
pub struct Component {
    pub healthy: bool,
    pub status: String,
    pub last_error: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, Component>,
}

impl From<admin::Agent> for Agent {
    fn from(agent: admin::Agent) -> Self {
        let convergence = agent.convergence().as_str_name().trim_start_matches("CONVERGENCE_").to_owned();
        let status = status::name(agent.status());
        let effective_config = agent.effective_config().as_str_name();
        let effective_config = effective_config.trim_start_matches("EFFECTIVE_CONFIG_STATE_").to_owned();
        Self {
            connected: agent.connected,
            transport: Transport::from_number(agent.transport).name(),
            gateway: agent.gateway,
            healthy: agent.healthy,
            health_status: agent.health_status,
            health_error: agent.health_error,
            attributes: agent.attributes.into_iter().map(|(key, value)| (key, json(value))).collect(),
            labels: agent.labels,
            desired_config_hash: hex::encode(agent.desired_config_hash),
            reported_config_hash: hex::encode(agent.reported_config_hash),
            config_status: OfferStatus::from_number(agent.config_status).name(),
            config_error: agent.config_error,
            convergence,
            status,
            effective_config,
            offers: agent.offers.into_iter().map(|offer| (kind_name(offer.kind()), offer.into())).collect(),
            desired_generation: agent.desired_generation,
            capabilities: agent.capabilities,
            first_seen: rfc3339(agent.first_seen),
            last_seen: rfc3339(agent.last_seen),
            etag: agent.etag,
            overrides: agent.overrides.into_iter().map(Override::from).collect(),
            components: components(agent.components),
            last_seen_age: age(agent.last_seen),
            instance_uid: agent.instance_uid,
        }
    }
}

fn components(map: BTreeMap<String, admin::ComponentHealth>) -> BTreeMap<String, Component> {
    let one = |health: admin::ComponentHealth| Component {
        healthy: health.healthy,
        status: health.status,
        last_error: health.last_error,
        components: components(health.components),
    };
    map.into_iter().map(|(name, health)| (name, one(health))).collect()
}

/// Typed; bytes as hex, which is how selectors write them, and numbers that JSON has not as text.
pub fn json(value: admin::AttributeValue) -> Value {
    use admin::attribute_value::Value as From;
    match value.value {
        None => Value::Null,
        Some(From::StringValue(text)) => Value::String(text),
        Some(From::BoolValue(value)) => Value::Bool(value),
        Some(From::IntValue(value)) => value.into(),
        Some(From::DoubleValue(value)) => {
            serde_json::Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number)
        }
        Some(From::BytesValue(bytes)) => Value::String(hex::encode(bytes)),
        Some(From::ListValue(list)) => list.values.into_iter().map(json).collect(),
        Some(From::MapValue(map)) => map.values.into_iter().map(|(key, value)| (key, json(value))).collect(),
    }
}

/// An attribute as tables show it: text without quotes.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Agent {
    fn attribute(&self, key: &str) -> String {
        self.attributes.get(key).map_or_else(|| "-".to_owned(), text)
    }

    /// What is wrong with it, in the words of whoever says so.
    fn error(&self) -> &str {
        let unrendered = self.offers.get("Config").map_or("", |offer| &offer.unrendered);
        [unrendered, &self.config_error, &self.health_error].into_iter().find(|error| !error.is_empty()).unwrap_or("")
    }

    pub fn health(&self) -> &'static str {
        match self.healthy {
            None => "unknown",
            Some(true) => "yes",
            Some(false) => "no",
        }
    }
}

impl View for Agent {
    const COLUMNS: &'static [&'static str] =
        &["INSTANCE UID", "SERVICE", "VERSION", "CONNECTED", "HEALTHY", "CONFIG", "STATUS", "LAST SEEN"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["HOST", "OS", "TRANSPORT", "GATEWAY", "DESIRED", "REPORTED", "LABELS", "ERROR"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.instance_uid.clone(),
            self.attribute("service.name"),
            self.attribute("service.version"),
            if self.connected { "yes" } else { "no" }.to_owned(),
            self.health().to_owned(),
            self.config_status.to_owned(),
            self.status.clone(),
            self.last_seen_age.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let labels: Vec<_> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            self.attribute("host.name"),
            self.attribute("os.type"),
            self.transport.to_owned(),
            or_dash(&self.gateway),
            short(&self.desired_config_hash),
            short(&self.reported_config_hash),
            or_dash(&labels.join(",")),
            or_dash(self.error()),
        ]
    }

    fn name(&self) -> String {
        format!("agent/{}", self.instance_uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_keep_their_types() {
        use admin::attribute_value::Value as From;
        let of = |value| json(admin::AttributeValue { value: Some(value) });
        assert_eq!(of(From::IntValue(i64::MAX)).to_string(), "9223372036854775807");
        assert_eq!(of(From::DoubleValue(1.0)).to_string(), "1.0");
        assert_eq!(of(From::DoubleValue(f64::NAN)), "NaN");
        assert_eq!(of(From::BoolValue(true)), true);
        assert_eq!(of(From::BytesValue(vec![1, 0xab].into())), "01ab");
        assert_eq!(json(admin::AttributeValue::default()), Value::Null);
    }
}
