//! The built-in certificate authority.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{Serial, identity};
use crate::model::{InstanceUid, UnixMs};

/// How long an authority that is made here is good for.
const OWN_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks differ: a certificate is good from a little before it was made.
const BACKDATED_MS: i64 = 5 * 60_000;

/// Issues client certificates for agents.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The issuing certificate first; then older ones whose certificates are still taken.
    certificates: Vec<CertificateDer<'static>>,
    /// The issuing certificate.
    pem: String,
    not_after: UnixMs,
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    pub serial: Serial,
    pub pem: String,
    pub not_before: UnixMs,
    pub not_after: UnixMs,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthority {
    #[error("there is no certificate in PEM")]
    NoCertificate,
    #[error("a certificate cannot be read")]
    Certificate,
    #[error("the first certificate is not that of a certificate authority")]
    NotAnAuthority,
    #[error("the certificate has expired")]
    Expired,
    #[error("the key is not PKCS #8 in PEM (`-----BEGIN PRIVATE KEY-----`), of ECDSA P-256 or P-384, Ed25519 or RSA")]
    Key,
    #[error("the key is not the first certificate's")]
    OtherKey,
}

#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("the certificate authority has expired")]
    Expired,
    #[error("the certificate cannot be made: {0}")]
    Encoding(#[from] rcgen::Error),
}

impl Authority {
    /// Makes a new authority: its certificate and its key, both in PEM.
    pub fn generate(now: UnixMs) -> Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = format!("Muster agents {}", hex::encode(rand::random::<[u8; 4]>()));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&Serial::random().0));
        params.not_before = at(now - BACKDATED_MS);
        params.not_after = at(now + OWN_LIFETIME.as_millis() as i64);
        Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
    }

    /// Takes up an authority. `certificates` are PEM: first the one that is issued with, then others whose certificates are
    /// still to be taken, such as that of an authority which this one replaces.
    pub fn load(certificates: &str, key: &str, now: UnixMs) -> Result<Self, InvalidAuthority> {
        let ders = CertificateDer::pem_slice_iter(certificates.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| InvalidAuthority::Certificate)?;
        let issuing = ders.first().ok_or(InvalidAuthority::NoCertificate)?;
        let (_, certificate) = X509Certificate::from_der(issuing).map_err(|_| InvalidAuthority::Certificate)?;
        if !certificate.is_ca() {
            return Err(InvalidAuthority::NotAnAuthority);
        }
        let not_after = certificate.validity().not_after.timestamp().saturating_mul(1_000);
        if not_after <= now {
            return Err(InvalidAuthority::Expired);
        }
        let key = KeyPair::from_pem(key).map_err(|_| InvalidAuthority::Key)?;
        if key.subject_public_key_info() != certificate.public_key().raw {
            return Err(InvalidAuthority::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(issuing, key).map_err(|_| InvalidAuthority::Certificate)?;
        let pem = to_pem(issuing);
        Ok(Self { issuer, pem, not_after, certificates: ders })
    }

    /// The certificates, in DER, by which what this authority issues is believed.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The certificate that is issued with.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate for the agent `uid` and its public key (SubjectPublicKeyInfo in DER), good for `validity` but
    /// not for longer than the authority.
    pub fn issue(
        &self,
        uid: InstanceUid,
        public_key: &[u8],
        now: UnixMs,
        validity: Duration,
    ) -> Result<Issued, IssueError> {
        let until = now.saturating_add(i64::try_from(validity.as_millis()).unwrap_or(i64::MAX)).min(self.not_after);
        if until <= now {
            return Err(IssueError::Expired);
        }
        let public_key = SubjectPublicKeyInfo::from_der(public_key)?;
        let (serial, not_before, not_after) = (Serial::random(), at(now - BACKDATED_MS), at(until));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, uid.to_string());
        params.subject_alt_names = vec![SanType::URI(identity::uri(&uid).try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial.0));
        params.not_before = not_before;
        params.not_after = not_after;
        let certificate = params.signed_by(&public_key, &self.issuer)?;
        let ms = |time: OffsetDateTime| time.unix_timestamp() * 1_000;
        Ok(Issued { serial, pem: to_pem(certificate.der()), not_before: ms(not_before), not_after: ms(not_after) })
    }
}

/// To the second, which is all that a certificate can say.
fn at(unix_ms: UnixMs) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1_000)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// With line ends as everywhere else, whoever made the certificate.
fn to_pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Identity, Request};

    const NOW: UnixMs = 1_790_000_000_000;
    const DAY: Duration = Duration::from_secs(86_400);

    fn uid() -> InstanceUid {
        InstanceUid::from_slice(&[7; 16]).expect("not zero")
    }

    fn authority() -> Authority {
        let (certificate, key) = Authority::generate(NOW).expect("an authority");
        Authority::load(&certificate, &key, NOW).expect("what was made can be taken up")
    }

    fn request() -> Request {
        let key = KeyPair::generate().expect("a key");
        let mut asks = CertificateParams::default();
        asks.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        asks.distinguished_name.push(DnType::CommonName, "administrator");
        let pem = asks.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
        Request::parse_from(pem.as_bytes(), uid()).expect("a good request")
    }

    #[test]
    fn a_certificate_says_what_the_server_says() {
        let (authority, request) = (authority(), request());
        let issued = authority.issue(uid(), &request.public_key, NOW, DAY).expect("a certificate");
        let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).expect("PEM");
        let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
        assert!(!certificate.is_ca(), "whatever the request asks for");
        assert_eq!(certificate.subject().to_string(), format!("CN={}", uid()));
        assert_eq!(certificate.public_key().raw, request.public_key);
        let identity = Identity::of(&der).expect("an identity");
        assert_eq!((identity.uid, identity.serial), (Some(uid()), Some(issued.serial)));
        assert_eq!((issued.not_after, identity.not_after), (NOW + 86_400_000, NOW + 86_400_000));
        let (_, own) = X509Certificate::from_der(&authority.certificates()[0]).expect("a certificate");
        certificate.verify_signature(Some(own.public_key())).expect("signed by the authority");
    }

    #[test]
    fn no_certificate_outlives_its_authority() {
        let (authority, request) = (authority(), request());
        let century = DAY * 36_500;
        let issued = authority.issue(uid(), &request.public_key, NOW, century).expect("a certificate");
        assert_eq!(issued.not_after, authority.not_after);
        let later = authority.issue(uid(), &request.public_key, authority.not_after, DAY);
        assert!(matches!(later, Err(IssueError::Expired)));
    }

    #[test]
    fn an_authority_that_cannot_work_is_refused() {
        let refused = |certificate: &str, key: &str, now| Authority::load(certificate, key, now).err();
        let ((certificate, key), (other, other_key)) =
            (Authority::generate(NOW).expect("one"), Authority::generate(NOW).expect("another"));
        assert_eq!(refused("", &key, NOW), Some(InvalidAuthority::NoCertificate));
        assert_eq!(refused(&certificate, &certificate, NOW), Some(InvalidAuthority::Key));
        assert_eq!(refused(&certificate, &other_key, NOW), Some(InvalidAuthority::OtherKey));
        assert_eq!(refused(&certificate, &key, NOW + 4_000 * 86_400_000), Some(InvalidAuthority::Expired));
        let agent = authority().issue(uid(), &request().public_key, NOW, DAY).expect("a certificate");
        assert_eq!(refused(&agent.pem, &key, NOW), Some(InvalidAuthority::NotAnAuthority));
        let both = Authority::load(&format!("{certificate}{other}"), &key, NOW).expect("one and an older one");
        assert_eq!(both.certificates().len(), 2);
        assert_eq!(both.pem(), certificate);
    }
}
