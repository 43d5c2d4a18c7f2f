//! Merging of an agent's messages that have not been stored yet.

use std::collections::BTreeMap;

use super::{
    fields::{self, Value},
    message::tag,
};

/// One message that says what `older` and then `newer` said: of each top-level field the newest occurrence, as it came.
/// (A field left out means unchanged; one that is present replaces, even if it is empty.) A
/// capabilities field of zero is left out, since it means unchanged too; and so is a custom message, which is an event.
///
/// Both must have passed [`super::Incoming::parse`]; bytes that are not fields are dropped.
pub fn merge(older: &[u8], newer: &[u8]) -> Vec<u8> {
    let mut newest: BTreeMap<u32, &[u8]> = BTreeMap::new();
    for message in [older, newer] {
        for field in fields::fields(message).map_while(Result::ok) {
            let is_unchanged = field.number == tag::CAPABILITIES && field.value == Value::Varint(0);
            if is_unchanged || field.number == tag::CUSTOM_MESSAGE {
                continue;
            }
            newest.insert(field.number, &message[field.whole]);
        }
    }
    newest.values().copied().collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::opamp::{AgentToServer, ComponentHealth, RemoteConfigStatus};

    prop_compose! {
        fn message()(
            sequence_num in any::<u64>(),
            capabilities in prop_oneof![Just(0), any::<u64>()],
            health in prop::option::of(("[a-z]{0,4}", any::<bool>())),
            status in prop::option::of("[a-z]{0,4}"),
        ) -> AgentToServer {
            AgentToServer {
                instance_uid: vec![7; 16].into(),
                sequence_num,
                capabilities,
                health: health.map(|(last_error, healthy)| ComponentHealth { last_error, healthy, ..Default::default() }),
                remote_config_status: status.map(|error_message| RemoteConfigStatus { error_message, ..Default::default() }),
                ..Default::default()
            }
        }
    }

    fn merge_decoded(older: &AgentToServer, newer: &AgentToServer) -> AgentToServer {
        let bytes = merge(&older.encode_to_vec(), &newer.encode_to_vec());
        AgentToServer::decode(&bytes[..]).expect("a merge of messages is a message")
    }

    proptest! {
        #[test]
        fn newer_fields_replace_and_missing_ones_stay(older in message(), newer in message()) {
            let merged = merge_decoded(&older, &newer);
            // A sequence number of 0 is not encoded, so it cannot replace; reports carry it apart.
            let expected = AgentToServer {
                sequence_num: if newer.sequence_num == 0 { older.sequence_num } else { newer.sequence_num },
                capabilities: if newer.capabilities == 0 { older.capabilities } else { newer.capabilities },
                health: newer.health.clone().or_else(|| older.health.clone()),
                remote_config_status: newer.remote_config_status.clone().or_else(|| older.remote_config_status.clone()),
                ..older.clone()
            };
            prop_assert_eq!(merged, expected);
        }

        #[test]
        fn merging_is_associative(a in message(), b in message(), c in message()) {
            let (a, b, c) = (a.encode_to_vec(), b.encode_to_vec(), c.encode_to_vec());
            prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
        }

        #[test]
        fn no_input_panics(a in any::<Vec<u8>>(), b in any::<Vec<u8>>()) {
            merge(&a, &b);
        }
    }

    #[test]
    fn unknown_fields_and_empty_messages_are_kept() {
        // Field 99, varint 5; then an empty health.
        let merged = merge(&[0x98, 0x06, 5, 0x2a, 2, 8, 1], &[0x2a, 0]);
        assert_eq!(merged, [0x2a, 0, 0x98, 0x06, 5]);
    }
}
