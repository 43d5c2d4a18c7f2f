//! What the gateway knows of agents' certificates.

use std::sync::Arc;

use rustls_pki_types::UnixTime;

use super::{
    auth::Credential,
    pace,
    tls::{Believed, Presented, Tls},
};
#[derive(Debug, Default)]
pub struct Certificates {}

/// What there is to say of a certificate that a client shows.
pub enum Check {
    Good(Arc<Credential>),
    /// For the client: why it is not believed.
    Bad(String),
}

impl Certificates {
    pub fn check(&self, presented: &Presented, tls: Option<&Tls>) -> Check {
        let believed = Believed { given: tls.and_then(Tls::given_authorities) };
        match presented.credential(&believed, UnixTime::now()) {
            Ok(credential) if credential.is_valid(pace::unix_ms()) => Check::Good(credential),
            Ok(_) => Check::Bad("the client certificate has expired".to_owned()),
            Err(problem) => Check::Bad(problem),
        }
    }
}
