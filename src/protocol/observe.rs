//! Taking an agent's message into what is known of it.

use bytes::Bytes;
use prost::Message;

use super::{
    InvalidMessage,
    fields::{self, Value},
    message::tag,
};
use crate::{
    model::{
        ContentHash,
        agent::{Observed, OfferStatus, Reported},
        packages,
    },
    proto::opamp,
};

/// What a message changed besides [`Observed`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// An encoded `EffectiveConfig` that is to be stored under the hash that `Observed::effective_config`
    /// now has.
    pub effective_config: Option<Bytes>,
    /// An encoded `CustomCapabilities`.
    pub custom_capabilities: Option<Bytes>,
    pub components: Option<Components>,
}

/// What an agent says of the components that it is built from.
#[derive(Clone, Debug, PartialEq)]
pub struct Components {
    pub hash: Bytes,
    /// An encoded `AvailableComponents`, if it has more than the hash.
    pub body: Option<Bytes>,
}

/// Applies `message`, an encoded AgentToServer that may be a merge of several, to `observed`. What it leaves out stays;
/// what it carries replaces, byte for byte. A message with the agent's description makes the state complete; it drops
/// nothing, for clients send a description alone when only that has changed.
pub fn observe(observed: &mut Observed, message: &Bytes) -> Result<Observation, InvalidMessage> {
    let mut observation = Observation::default();
    let mut next = observed.clone();
    for field in fields::fields(message) {
        let field = field?;
        match (field.number, field.value) {
            (tag::CAPABILITIES, Value::Varint(bits)) if bits != 0 => next.capabilities = bits,
            (tag::AGENT_DESCRIPTION, Value::Bytes(range)) => {
                next.description = message.slice(range);
                next.complete = true;
            }
            (tag::HEALTH, Value::Bytes(range)) => {
                next.health = message.slice(range);
                let health = decode::<opamp::ComponentHealth>(&next.health)?;
                next.healthy = Some(health.healthy);
            }
            (tag::EFFECTIVE_CONFIG, Value::Bytes(range)) => {
                let body = message.slice(range);
                next.effective_config = Some(ContentHash::of(&body));
                observation.effective_config = Some(body);
            }
            (tag::REMOTE_CONFIG_STATUS, Value::Bytes(range)) => {
                let status = decode::<opamp::RemoteConfigStatus>(&message.slice(range))?;
                next.config = Reported {
                    status: OfferStatus::from_number(status.status),
                    hash: status.last_remote_config_hash,
                    error: status.error_message,
                };
            }
            (tag::PACKAGE_STATUSES, Value::Bytes(range)) => {
                next.package_statuses = message.slice(range);
                next.packages = packages::reported(&decode(&next.package_statuses)?);
            }
            (tag::CONNECTION_SETTINGS_STATUS, Value::Bytes(range)) => {
                let status = decode::<opamp::ConnectionSettingsStatus>(&message.slice(range))?;
                next.connection_settings = Reported {
                    status: OfferStatus::from_number(status.status),
                    hash: status.last_connection_settings_hash,
                    error: status.error_message,
                };
            }
            (tag::CUSTOM_CAPABILITIES, Value::Bytes(range)) => {
                let body = message.slice(range);
                decode::<opamp::CustomCapabilities>(&body)?;
                observation.custom_capabilities = Some(body);
            }
            (tag::AVAILABLE_COMPONENTS, Value::Bytes(range)) => {
                let body = message.slice(range);
                let components = decode::<opamp::AvailableComponents>(&body)?;
                let body = (!components.components.is_empty()).then_some(body);
                observation.components = Some(Components { hash: components.hash, body });
            }
            _ => {}
        }
    }
    *observed = next;
    Ok(observation)
}

fn decode<T: Message + Default>(bytes: &Bytes) -> Result<T, InvalidMessage> {
    T::decode(bytes.clone()).map_err(|error| InvalidMessage::Undecodable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::opamp::{AgentDescription, AgentToServer, ComponentHealth, EffectiveConfig, RemoteConfigStatus};

    fn full() -> AgentToServer {
        AgentToServer {
            capabilities: 0x1807,
            agent_description: Some(AgentDescription::default()),
            health: Some(ComponentHealth { healthy: true, ..Default::default() }),
            effective_config: Some(EffectiveConfig::default()),
            remote_config_status: Some(RemoteConfigStatus {
                status: 1,
                last_remote_config_hash: vec![1, 2].into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn taken(observed: &mut Observed, message: &AgentToServer) -> Observation {
        observe(observed, &message.encode_to_vec().into()).expect("a valid message")
    }

    #[test]
    fn a_delta_changes_what_it_carries_only() {
        let mut observed = Observed::default();
        assert!(taken(&mut observed, &full()).effective_config.is_some());
        assert!(observed.complete);
        let before = observed.clone();
        let health = ComponentHealth { healthy: false, last_error: "disk".into(), ..Default::default() };
        let delta = AgentToServer { health: Some(health), ..Default::default() };
        assert_eq!(taken(&mut observed, &delta).effective_config, None);
        assert_eq!(observed.healthy, Some(false));
        let restored = Observed { health: before.health.clone(), healthy: before.healthy, ..observed };
        assert_eq!(restored, before);
    }

    #[test]
    fn an_empty_message_and_zero_capabilities_change_nothing() {
        let mut observed = Observed::default();
        taken(&mut observed, &full());
        let before = observed.clone();
        taken(&mut observed, &AgentToServer::default());
        assert_eq!(observed, before);
    }
}
