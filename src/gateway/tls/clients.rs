//! Whether a client's certificate is to be believed.

use std::sync::{Arc, OnceLock};

use rustls::{CertificateError, ServerConnection, server::danger::ClientCertVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::{gateway::auth::Credential, pki::Identity};

/// The certificates that a client showed in its handshake, its own first.
#[derive(Debug)]
pub struct Presented {
    chain: Vec<CertificateDer<'static>>,
    credential: OnceLock<Arc<Credential>>,
}

/// Those whose word is taken.
#[derive(Clone, Debug, Default)]
pub struct Believed {
    /// What the built-in authority signed.
    pub built_in: Option<Arc<dyn ClientCertVerifier>>,
    /// What the authorities of the settings signed.
    pub given: Option<Arc<dyn ClientCertVerifier>>,
}

impl Presented {
    pub fn of(session: &ServerConnection) -> Option<Self> {
        let chain: Vec<_> = session.peer_certificates()?.iter().map(|one| one.clone().into_owned()).collect();
        (!chain.is_empty()).then(|| Self { chain, credential: OnceLock::new() })
    }

    /// The credential that the certificate is, if it is to be believed at `now`; otherwise why not, for the client.
    pub fn credential(&self, believed: &Believed, now: UnixTime) -> Result<Arc<Credential>, String> {
        if let Some(credential) = self.credential.get() {
            return Ok(credential.clone());
        }
        let Some((own, rest)) = self.chain.split_first() else { return Err("no client certificate".to_owned()) };
        let identity = Identity::of(own).map_err(|error| format!("client certificate: {error}"))?;
        let mut problem = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let built_in = believed.built_in.iter().map(|verifier| (verifier, true));
        for (verifier, is_built_in) in built_in.chain(believed.given.iter().map(|verifier| (verifier, false))) {
            match verifier.verify_client_cert(own, rest, now) {
                Ok(_) => {
                    let credential = Arc::new(Credential::certificate(identity, is_built_in));
                    return Ok(self.credential.get_or_init(|| credential).clone());
                }
                Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                Err(error) => problem = error,
            }
        }
        Err(match problem {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "the client certificate is of no authority that is known here".to_owned()
            }
            rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                "the client certificate has expired".to_owned()
            }
            other => format!("client certificate: {other}"),
        })
    }
}
