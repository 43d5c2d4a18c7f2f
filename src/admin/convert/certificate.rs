//! Certificates.

use super::timestamp;
use crate::{
    model::{
        ContentHash,
        certificate::{Request, State},
    },
    proto::admin::{self, CertificateState},
};

pub fn certificate(request: Request) -> admin::Certificate {
    let issued = request.issued.as_ref();
    admin::Certificate {
        id: request.id.to_string(),
        instance_uid: request.uid.to_string(),
        state: state(request.state).into(),
        request_time: Some(timestamp(request.requested_at)),
        decision_time: request.decided_at.map(timestamp),
        decided_by: request.decided_by,
        key_sha256: ContentHash::of(&request.public_key).to_string(),
        serial: issued.map(|issued| hex::encode(issued.serial)).unwrap_or_default(),
        expire_time: issued.map(|issued| timestamp(issued.not_after)),
        use_time: request.used_at.map(timestamp),
        certificate: issued.map(|issued| String::from_utf8_lossy(&issued.certificate).into_owned()).unwrap_or_default(),
    }
}

fn state(state: State) -> CertificateState {
    match state {
        State::Pending => CertificateState::Pending,
        State::Denied => CertificateState::Denied,
        State::Issued => CertificateState::Issued,
        State::Superseded => CertificateState::Superseded,
        State::Revoked => CertificateState::Revoked,
    }
}

/// `None` for all states.
pub fn state_of(state: CertificateState) -> Option<State> {
    match state {
        CertificateState::Unspecified => None,
        CertificateState::Pending => Some(State::Pending),
        CertificateState::Denied => Some(State::Denied),
        CertificateState::Issued => Some(State::Issued),
        CertificateState::Superseded => Some(State::Superseded),
        CertificateState::Revoked => Some(State::Revoked),
    }
}
