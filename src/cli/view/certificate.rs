//! Certificates of agents.

use serde::Serialize;

use super::{age, or_dash, rfc3339, short, until};
use crate::{
    cli::output::View,
    proto::admin::{self, CertificateState},
};

#[derive(Serialize)]
pub struct Certificate {
    pub id: String,
    pub instance_uid: String,
    pub state: &'static str,
    pub requested_at: Option<String>,
    /// Null: it is pending.
    pub decided_at: Option<String>,
    pub decided_by: String,
    /// Of the public key.
    pub key_sha256: String,
    /// Empty: none was issued.
    pub serial: String,
    pub expires_at: Option<String>,
    /// Null: the agent has not connected with it.
    pub used_at: Option<String>,
    /// PEM.
    pub certificate: String,
    #[serde(skip)]
    requested_age: String,
    #[serde(skip)]
    expiry: String,
}

impl From<admin::Certificate> for Certificate {
    fn from(certificate: admin::Certificate) -> Self {
        let state = match certificate.state() {
            CertificateState::Unspecified => "",
            CertificateState::Pending => "pending",
            CertificateState::Denied => "denied",
            CertificateState::Issued => "issued",
            CertificateState::Superseded => "superseded",
            CertificateState::Revoked => "revoked",
        };
        Self {
            state,
            requested_at: rfc3339(certificate.request_time),
            decided_at: rfc3339(certificate.decision_time),
            expires_at: rfc3339(certificate.expire_time),
            used_at: rfc3339(certificate.use_time),
            requested_age: age(certificate.request_time),
            expiry: certificate.expire_time.map_or_else(|| "-".to_owned(), |at| until(Some(at))),
            id: certificate.id,
            instance_uid: certificate.instance_uid,
            decided_by: certificate.decided_by,
            key_sha256: certificate.key_sha256,
            serial: certificate.serial,
            certificate: certificate.certificate,
        }
    }
}

impl View for Certificate {
    const COLUMNS: &'static [&'static str] = &["ID", "AGENT", "STATE", "REQUESTED", "EXPIRES"];
    const WIDE_COLUMNS: &'static [&'static str] = &["USED", "DECIDED BY", "KEY", "SERIAL"];

    fn cells(&self) -> Vec<String> {
        let Self { id, instance_uid, state, requested_age, expiry, .. } = self;
        vec![id.clone(), instance_uid.clone(), (*state).to_owned(), requested_age.clone(), expiry.clone()]
    }

    fn wide_cells(&self) -> Vec<String> {
        let used = if self.used_at.is_some() { "yes" } else { "no" };
        vec![used.to_owned(), or_dash(&self.decided_by), short(&self.key_sha256), or_dash(&self.serial)]
    }

    fn name(&self) -> String {
        format!("certificate/{}", self.id)
    }
}
