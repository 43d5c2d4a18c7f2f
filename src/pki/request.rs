//! What an agent asks for: a PKCS #10 request in PEM.

use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    oid_registry as oid,
    prelude::FromDer,
    public_key::PublicKey,
};

use super::identity;
use crate::model::InstanceUid;

/// Larger than any request with an RSA key of 8192 bits.
const MAX_BYTES: usize = 16 << 10;
const MIN_RSA_BITS: usize = 2048;

/// A request whose signature has been checked: whoever made it holds the private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The public key as SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
}

/// Why a request is refused. The text goes to the agent in a BAD_REQUEST.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    #[error("certificate_request is missing")]
    Missing,
    #[error("the certificate request is {0} bytes long, the limit is {MAX_BYTES}")]
    Size(usize),
    #[error("the certificate request is not PEM of a CERTIFICATE REQUEST")]
    Pem,
    #[error("the certificate request is not PKCS #10")]
    Encoding,
    #[error("the signature of the certificate request is not that of its key")]
    Signature,
    #[error(
        "the certificate request is signed with an algorithm that is not taken: SHA-256 or better with RSA, ECDSA on P-256 or P-384, or Ed25519"
    )]
    Algorithm,
    #[error("the RSA key of the certificate request has {0} bits, the least is {MIN_RSA_BITS}")]
    ShortKey(usize),
    #[error("the certificate request names the agent {named}, but it comes from {sender}")]
    OtherAgent { named: InstanceUid, sender: InstanceUid },
}

impl Request {
    /// Reads and checks a request that came from the agent `sender`: the only one that it may name.
    pub fn parse_from(pem: &[u8], sender: InstanceUid) -> Result<Self, InvalidRequest> {
        Self::read(pem, Some(sender))
    }

    /// Reads and checks a request of which it was checked before whom it names.
    pub fn parse(pem: &[u8]) -> Result<Self, InvalidRequest> {
        Self::read(pem, None)
    }

    fn read(pem: &[u8], sender: Option<InstanceUid>) -> Result<Self, InvalidRequest> {
        if pem.is_empty() {
            return Err(InvalidRequest::Missing);
        }
        if pem.len() > MAX_BYTES {
            return Err(InvalidRequest::Size(pem.len()));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| InvalidRequest::Pem)?;
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| InvalidRequest::Encoding)?;
        if !rest.is_empty() {
            return Err(InvalidRequest::Encoding);
        }
        check_signature(&request)?;
        if let Some(sender) = sender
            && let Some(named) = claimed_uids(&request).into_iter().find(|named| *named != sender)
        {
            return Err(InvalidRequest::OtherAgent { named, sender });
        }
        let key = &request.certification_request_info.subject_pki;
        // What the authority cannot certify is refused here already.
        rcgen::SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| InvalidRequest::Algorithm)?;
        Ok(Self { public_key: key.raw.to_vec() })
    }
}

fn check_signature(request: &X509CertificationRequest<'_>) -> Result<(), InvalidRequest> {
    let algorithm = &request.signature_algorithm.algorithm;
    if [oid::OID_PKCS1_SHA1WITHRSA, oid::OID_SHA1_WITH_RSA].contains(algorithm) {
        return Err(InvalidRequest::Algorithm);
    }
    let key = &request.certification_request_info.subject_pki;
    if let PublicKey::RSA(rsa) = key.parsed().map_err(|_| InvalidRequest::Encoding)?
        && rsa.key_size() < MIN_RSA_BITS
    {
        return Err(InvalidRequest::ShortKey(rsa.key_size()));
    }
    request.verify_signature().map_err(|error| match error {
        x509_parser::error::X509Error::SignatureUnsupportedAlgorithm => InvalidRequest::Algorithm,
        _ => InvalidRequest::Signature,
    })
}

/// The agents that the request says it is about.
fn claimed_uids(request: &X509CertificationRequest<'_>) -> Vec<InstanceUid> {
    let mut uids: Vec<InstanceUid> =
        identity::subject_texts(&request.certification_request_info.subject).filter_map(identity::claimed).collect();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        uids.extend(names.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(text) | GeneralName::DNSName(text) => identity::claimed(text),
            _ => None,
        }));
    }
    uids
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn uid(byte: u8) -> InstanceUid {
        InstanceUid::from_slice(&[byte; 16]).expect("not zero")
    }

    fn params(common_name: &str, uri: Option<&str>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().expect("ASCII"))));
        params
    }

    fn pem(params: &CertificateParams) -> String {
        let key = KeyPair::generate().expect("a key");
        params.serialize_request(&key).and_then(|request| request.pem()).expect("a request")
    }

    #[test]
    fn an_agent_asks_for_itself_alone() {
        let (own, other) = (uid(7), uid(8));
        let urn = |uid: &InstanceUid| format!("urn:uuid:{uid}");
        for request in [
            params("OpAMP Example Client", None),
            params(&own.to_string(), None),
            params("collector", Some(&urn(&own))),
            params("collector", Some("https://example.org/what-it-is")),
        ] {
            let request = pem(&request);
            let parsed = Request::parse_from(request.as_bytes(), own).expect("a good request");
            assert_eq!(
                Request::parse_from(request.as_bytes(), own).map(|again| again.public_key),
                Ok(parsed.public_key)
            );
        }
        let wrong = InvalidRequest::OtherAgent { named: other, sender: own };
        for request in [params(&other.to_string(), None), params(&own.to_string(), Some(&urn(&other)))] {
            assert_eq!(Request::parse_from(pem(&request).as_bytes(), own), Err(wrong.clone()));
        }
    }

    #[test]
    fn what_is_no_request_is_refused_by_what_is_wrong() {
        let good = pem(&params("x", None));
        assert_eq!(Request::parse_from(b"", uid(1)), Err(InvalidRequest::Missing));
        assert_eq!(Request::parse_from(b"hello", uid(1)), Err(InvalidRequest::Pem));
        assert_eq!(Request::parse_from(&[b'x'; MAX_BYTES + 1], uid(1)), Err(InvalidRequest::Size(MAX_BYTES + 1)));
        let certificate = good.replace("CERTIFICATE REQUEST", "CERTIFICATE");
        assert_eq!(Request::parse_from(certificate.as_bytes(), uid(1)), Err(InvalidRequest::Pem));
        let garbage = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
        assert_eq!(Request::parse_from(garbage.as_bytes(), uid(1)), Err(InvalidRequest::Encoding));
    }

    #[test]
    fn the_signature_must_be_the_keys() {
        let der = CertificateSigningRequestDer::from_pem_slice(pem(&params("one", None)).as_bytes()).expect("PEM");
        let mut forged = der.to_vec();
        let at = forged.windows(3).position(|window| window == b"one").expect("the common name");
        forged[at..at + 3].copy_from_slice(b"two");
        let forged = {
            use base64::Engine;
            let text = base64::engine::general_purpose::STANDARD.encode(forged);
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
        };
        assert_eq!(Request::parse_from(forged.as_bytes(), uid(1)), Err(InvalidRequest::Signature));
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), at in 0usize..400) {
            let _ = Request::parse_from(&bytes, uid(1));
            let mut request = pem(&params("x", None)).into_bytes();
            let at = at % request.len();
            request.truncate(at);
            let _ = Request::parse_from(&request, uid(1));
        }
    }
}
