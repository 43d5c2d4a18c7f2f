//! Whom a certificate is about.

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, x509::X509Name};

use super::Serial;
use crate::model::{InstanceUid, UnixMs};

/// In front of an agent's uid, as the URI of a certificate's subject.
const URI_PREFIX: &str = "urn:muster:agent:";

/// What a certificate says of its holder. It says nothing of whether it is to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// If it is one that the built-in authority can have made.
    pub serial: Option<Serial>,
    /// The one agent that it is for; `None` for one that does not say.
    pub uid: Option<InstanceUid>,
    pub not_after: UnixMs,
    /// For people: its subject and serial number.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    #[error("not an X.509 certificate")]
    Encoding,
    #[error("{0:?} does not name an agent")]
    Uri(String),
    #[error("it names more than one agent")]
    Ambiguous,
}

impl Identity {
    /// Of a certificate in DER.
    pub fn of(der: &[u8]) -> Result<Self, InvalidCertificate> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| InvalidCertificate::Encoding)?;
        let names = certificate.subject_alternative_name().map_err(|_| InvalidCertificate::Encoding)?;
        let mut uid = None;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            let GeneralName::URI(uri) = name else { continue };
            let Some(text) = uri.strip_prefix(URI_PREFIX) else { continue };
            let named = text.parse().map_err(|_| InvalidCertificate::Uri((*uri).to_owned()))?;
            if uid.replace(named).is_some_and(|other| other != named) {
                return Err(InvalidCertificate::Ambiguous);
            }
        }
        Ok(Self {
            serial: Serial::from_slice(certificate.raw_serial()),
            uid,
            not_after: certificate.validity().not_after.timestamp().saturating_mul(1_000),
            name: format!("{} ({})", certificate.subject(), certificate.raw_serial_as_string()),
        })
    }
}

/// The URI by which a certificate names its agent.
pub(super) fn uri(uid: &InstanceUid) -> String {
    format!("{URI_PREFIX}{uid}")
}

/// The agent that a name claims to be: one whose whole text, or what stands after its last `:` or `/`, is a UUID.
pub(super) fn claimed(text: &str) -> Option<InstanceUid> {
    let last = text.rsplit([':', '/']).next().unwrap_or(text);
    last.trim().parse().ok()
}

/// The texts of a subject in which clients put their uid: common names, serial numbers, user ids.
pub(super) fn subject_texts<'a>(subject: &'a X509Name<'_>) -> impl Iterator<Item = &'a str> {
    use x509_parser::oid_registry as oid;
    let is_name = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let kind = attribute.attr_type();
        [oid::OID_X509_COMMON_NAME, oid::OID_X509_SERIALNUMBER, oid::OID_USERID].contains(kind)
    };
    subject.iter_attributes().filter(move |it| is_name(it)).filter_map(|it| it.as_str().ok())
}
