//! Whom to connect to, by which protocol, and what to say when that does not work.

use std::{error::Error as _, io, sync::Arc};

use redis::{Client, ConnectionAddr, RedisError, TlsCertificates};
use rustls::crypto::ring;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{bus::Error, tls};

/// A client for `url`. Over TLS it believes the certificates of `authorities` (PEM) if there are any, and otherwise those of the
/// machine.
pub(super) fn client(url: &str, authorities: Option<&[u8]>) -> Result<Client, Error> {
    // Without the error's own text: it can quote the URL, and with it the password.
    let unusable = |error: RedisError| Error::Settings(format!("the Redis URL cannot be used ({})", error.category()));
    let client = Client::open(url).map_err(unusable)?;
    match (client.get_connection_info().addr(), authorities) {
        (ConnectionAddr::TcpTls { insecure: true, .. }, _) => Err(Error::Settings(
            "the Redis URL ends with #insecure: a certificate that nobody looks at protects nothing".to_owned(),
        )),
        (ConnectionAddr::TcpTls { .. }, authorities) => {
            // The client takes the process's; if that is there already, so much the better.
            let _ = ring::default_provider().install_default();
            let Some(authorities) = authorities else { return Ok(client) };
            check(authorities)?;
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(authorities.to_vec()) };
            Client::build_with_tls(url, certificates).map_err(unusable)
        }
        (_, Some(_)) => Err(Error::Settings(
            "there are certificate authorities for Redis, but its URL is without TLS: it has to begin with rediss://"
                .to_owned(),
        )),
        (_, None) => Ok(client),
    }
}

fn check(authorities: &[u8]) -> Result<(), Error> {
    let problem = |problem: String| Error::Settings(format!("the certificate authorities for Redis: {problem}"));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate = certificate.map_err(|error| problem(error.to_string()))?;
        roots.add(certificate).map_err(|error| problem(error.to_string()))?;
    }
    if roots.is_empty() { Err(problem("no certificate".to_owned())) } else { Ok(()) }
}

/// What has been said of an outage of a link: its beginning once, and once that it will not end by itself.
#[derive(Default)]
pub(super) struct Outage {
    is_logged: bool,
    is_refusal_logged: bool,
}

impl Outage {
    pub(super) fn lost(&mut self, link: &str, error: &str) {
        tracing::warn!(link, error, "lost Redis, reconnecting");
        *self = Self { is_logged: true, is_refusal_logged: false };
    }

    pub(super) fn goes_on(&mut self, link: &str, attempt: &Failed) {
        let is_known = if attempt.is_refusal { self.is_refusal_logged } else { self.is_logged };
        self.is_logged = true;
        self.is_refusal_logged |= attempt.is_refusal;
        if is_known {
            tracing::debug!(link, error = attempt.error, "Redis is still not reachable");
        } else {
            tracing::warn!(link, error = attempt.error, "Redis is not reachable, trying on");
        }
    }
}

/// An attempt to connect.
pub(super) struct Failed {
    error: String,
    /// Somebody has to mend it, rather than wait.
    is_refusal: bool,
}

impl From<RedisError> for Failed {
    fn from(error: RedisError) -> Self {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>());
        match cause.and_then(|cause| cause.downcast_ref::<io::Error>()).and_then(tls::refusal) {
            Some(refusal) => Self { error: refusal, is_refusal: true },
            None => error.to_string().into(),
        }
    }
}

impl From<String> for Failed {
    fn from(error: String) -> Self {
        Self { error, is_refusal: false }
    }
}
