//! Encoding of ServerToAgent so that what many agents share is encoded once.
//!
//! A protobuf message is the concatenation of its fields, so a ServerToAgent is the receiver's uid followed by
//! fields that may have been encoded long before.

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::{model::InstanceUid, proto::opamp};

/// What this server does: statuses and effective configurations are taken, remote configurations offered.
pub const CAPABILITIES: u64 = opamp::ServerCapabilities::AcceptsStatus as u64
    | opamp::ServerCapabilities::OffersRemoteConfig as u64
    | opamp::ServerCapabilities::AcceptsEffectiveConfig as u64;

/// Length of [`uid_field`].
pub const UID_FIELD_BYTES: usize = 18;

/// `instance_uid`, encoded as the first field of a ServerToAgent.
pub fn uid_field(uid: &InstanceUid) -> [u8; UID_FIELD_BYTES] {
    let mut field = [0; UID_FIELD_BYTES];
    field[..2].copy_from_slice(&[0x0a, 16]);
    field[2..].copy_from_slice(uid.as_bytes());
    field
}

/// `remote_config` of a ServerToAgent, from an encoded AgentRemoteConfig.
pub fn remote_config_field(remote_config: &[u8]) -> Bytes {
    let mut field = BytesMut::with_capacity(remote_config.len() + 11);
    prost::encoding::encode_key(3, prost::encoding::WireType::LengthDelimited, &mut field);
    prost::encoding::encode_varint(remote_config.len() as u64, &mut field);
    field.extend_from_slice(remote_config);
    field.freeze()
}

/// Fields of a ServerToAgent without its uid.
pub fn fields(message: &opamp::ServerToAgent) -> Bytes {
    debug_assert!(message.instance_uid.is_empty(), "the uid is put in front of each copy");
    message.encode_to_vec().into()
}

/// An error response. It travels alone: no other field may stand beside it.
pub fn error(
    kind: opamp::ServerErrorResponseType,
    message: String,
    retry_after_ns: Option<u64>,
) -> opamp::ServerToAgent {
    use opamp::server_error_response::Details;
    let details =
        retry_after_ns.map(|retry_after_nanoseconds| Details::RetryInfo(opamp::RetryInfo { retry_after_nanoseconds }));
    let error_response = opamp::ServerErrorResponse { r#type: kind as i32, error_message: message, details };
    opamp::ServerToAgent { error_response: Some(error_response), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_the_whole() {
        let uid = InstanceUid::from_slice(&[9; 16]).unwrap();
        let remote_config = opamp::AgentRemoteConfig { config: None, config_hash: vec![5; 300].into() };
        let parts = [&uid_field(&uid)[..], &remote_config_field(&remote_config.encode_to_vec())].concat();
        let whole = opamp::ServerToAgent {
            instance_uid: uid.to_bytes(),
            remote_config: Some(remote_config),
            ..Default::default()
        };
        assert_eq!(parts, whole.encode_to_vec());
    }
}
