//! Certificates of agents: the built-in certificate authority, what agents ask of it, and whom a certificate is about.
//!
//! Architecture invariants: no I/O, and time comes in as a parameter. Of a request for a certificate its public key counts and
//! nothing else: whom the certificate is for is said by the server.

mod authority;
mod identity;
mod issuer;
mod request;

pub use authority::{Authority, InvalidAuthority, IssueError, Issued};
pub use identity::{Identity, InvalidCertificate};
pub use issuer::Issuer;
pub use request::{InvalidRequest, Request};

use std::fmt;

/// A certificate's serial number, as this authority makes them: 16 bytes of which the first is neither zero nor negative, so
/// that they are the same bytes wherever they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(pub [u8; 16]);

impl Serial {
    /// `None` for one that this authority does not make.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        (0x40..0x80).contains(&bytes[0]).then_some(Self(bytes))
    }

    pub fn to_bytes(self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(&self.0)
    }

    fn random() -> Self {
        let mut bytes: [u8; 16] = rand::random();
        bytes[0] = 0x40 | bytes[0] & 0x3f;
        Self(bytes)
    }
}

/// In hex.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
