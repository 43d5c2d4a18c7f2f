//! Whoever issues certificates as the settings say.

use std::{sync::Arc, time::Duration};

use super::{Authority, IssueError};
use crate::model::{InstanceUid, UnixMs, certificate::Issued};

/// An authority, and how long what it issues is good.
#[derive(Clone)]
pub struct Issuer {
    pub authority: Arc<Authority>,
    pub validity: Duration,
}

impl Issuer {
    /// Issues a certificate for the agent `uid` and its public key (SubjectPublicKeyInfo in DER).
    pub fn issue(&self, uid: InstanceUid, public_key: &[u8], now: UnixMs) -> Result<Issued, IssueError> {
        let super::Issued { serial, pem, not_before, not_after } =
            self.authority.issue(uid, public_key, now, self.validity)?;
        let issuer = self.authority.pem().to_owned().into();
        Ok(Issued { serial: serial.0, certificate: pem.into(), issuer, not_before, not_after })
    }
}
