//! Requests for client certificates, and the certificates that were issued.

use async_trait::async_trait;
use uuid::Uuid;

use super::{Actor, Result};
use crate::model::{
    InstanceUid, UnixMs,
    certificate::{Issued, Request, State},
};

/// Which requests to list; `None` does not restrict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CertificateFilter {
    pub uid: Option<InstanceUid>,
    pub state: Option<State>,
}

/// Requests of one agent that are looked at: the newest.
pub const MAX_REQUESTS_READ: u32 = 100;

/// Part of [`super::Store`].
#[async_trait]
pub trait CertificateStore {
    /// The newest requests of an agent, newest first; at most [`MAX_REQUESTS_READ`].
    async fn agent_certificates(&self, uid: InstanceUid) -> Result<Vec<Request>>;
    /// Stores a request, decided already or not, unless there is one of this agent for the same key and generation; returns
    /// the one that is stored.
    async fn request_certificate(&self, request: &Request, actor: &Actor) -> Result<Request>;
    async fn get_certificate(&self, id: Uuid) -> Result<Request>;
    /// In the order in which they were made, after `after`.
    async fn list_certificates(
        &self,
        filter: CertificateFilter,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Request>>;
    /// Issues a certificate to a request that waits or was denied, and makes it what its agent is to be offered, if that is
    /// stored. `WrongState` if one was issued before.
    async fn approve_certificate(&self, id: Uuid, issued: &Issued, actor: &Actor) -> Result<Request>;
    /// Denies a request that waits, or revokes a certificate, which its agent is not offered any more. Again changes
    /// nothing.
    async fn deny_certificate(&self, id: Uuid, actor: &Actor) -> Result<Request>;
    /// An agent has connected with this certificate: if it is good, it counts as used, and those that were issued before it as
    /// superseded. Returns the state that it has then; `None` for one that is not known.
    async fn use_certificate(&self, serial: [u8; 16], now: UnixMs) -> Result<Option<State>>;
    /// Serial numbers of certificates that were revoked and have not expired at `now`.
    async fn revoked_certificates(&self, now: UnixMs) -> Result<Vec<[u8; 16]>>;
    /// Deletes requests whose certificate expired before `before`, and those for which none was issued that were made before
    /// then; returns how many.
    async fn forget_certificates(&self, before: UnixMs) -> Result<u64>;
}
