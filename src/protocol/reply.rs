//! Encoding of ServerToAgent so that what many agents share is encoded once.
//!
//! A protobuf message is the concatenation of its fields, so a ServerToAgent is the receiver's uid followed by
//! fields that may have been encoded long before.

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::{
    model::{InstanceUid, policy::PolicyKind},
    proto::opamp,
};

/// What this server always does: statuses and effective configurations are taken; configurations, packages and connection
/// settings offered.
const CAPABILITIES: u64 = opamp::ServerCapabilities::AcceptsStatus as u64
    | opamp::ServerCapabilities::OffersRemoteConfig as u64
    | opamp::ServerCapabilities::AcceptsEffectiveConfig as u64
    | opamp::ServerCapabilities::OffersPackages as u64
    | opamp::ServerCapabilities::AcceptsPackagesStatus as u64
    | opamp::ServerCapabilities::OffersConnectionSettings as u64;

/// What this server does; requests for certificates it takes only where there is somebody to issue them.
pub fn capabilities(issues_certificates: bool) -> u64 {
    let requests = opamp::ServerCapabilities::AcceptsConnectionSettingsRequest as u64;
    CAPABILITIES | if issues_certificates { requests } else { 0 }
}

/// Length of [`uid_field`].
pub const UID_FIELD_BYTES: usize = 18;

/// `instance_uid`, encoded as the first field of a ServerToAgent.
pub fn uid_field(uid: &InstanceUid) -> [u8; UID_FIELD_BYTES] {
    let mut field = [0; UID_FIELD_BYTES];
    field[..2].copy_from_slice(&[0x0a, 16]);
    field[2..].copy_from_slice(uid.as_bytes());
    field
}

/// `remote_config`, `packages_available` or `connection_settings` of a ServerToAgent, from the encoded body of an offer.
pub fn offer_field(kind: PolicyKind, body: &[u8]) -> Bytes {
    let tag = match kind {
        PolicyKind::Config => 3,
        PolicyKind::ConnectionSettings => 4,
        PolicyKind::Packages => 5,
    };
    let mut field = BytesMut::with_capacity(body.len() + 11);
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut field);
    prost::encoding::encode_varint(body.len() as u64, &mut field);
    field.extend_from_slice(body);
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
        let settings = opamp::ConnectionSettingsOffers { hash: vec![6; 32].into(), ..Default::default() };
        let packages = opamp::PackagesAvailable { all_packages_hash: vec![7; 32].into(), ..Default::default() };
        let parts = [
            &uid_field(&uid)[..],
            &offer_field(PolicyKind::Config, &remote_config.encode_to_vec()),
            &offer_field(PolicyKind::ConnectionSettings, &settings.encode_to_vec()),
            &offer_field(PolicyKind::Packages, &packages.encode_to_vec()),
        ]
        .concat();
        let whole = opamp::ServerToAgent {
            instance_uid: uid.to_bytes(),
            remote_config: Some(remote_config),
            connection_settings: Some(settings),
            packages_available: Some(packages),
            ..Default::default()
        };
        assert_eq!(parts, whole.encode_to_vec());
    }
}
