//! TLS on the listener: the gateway's certificate, which is read again when its files change, and clients' certificates.
//!
//! Architecture invariant: a connection in plain text carries nothing of this. In a TLS handshake a client proves only that it
//! holds its certificate's key; whether the certificate is to be believed is looked at with each request ([`clients`]), so that
//! whoever is refused learns why by a status, sessions that are resumed are looked at again, and clients back off.

mod clients;
mod server;
mod session;
mod stream;

pub use clients::{Believed, Presented};
pub use server::{Config, Error, Tls, serve, verifier};
pub use session::{Session, SessionReader, Socket};
pub use stream::Stream;
