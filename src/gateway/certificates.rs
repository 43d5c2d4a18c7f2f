//! What the gateway knows of agents' certificates.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    Shared,
    agents::Link,
    auth::Credential,
    exchange::Origin,
    pace,
    tls::{Believed, Presented, Tls, verifier},
    websocket::code,
};
use crate::{
    model::InstanceUid,
    pki::{Request, Serial},
    proto::{
        bus::{AgentTokens, RefusedCertificate},
        opamp,
    },
    protocol::Incoming,
};

/// Certificates that the config service has refused; beyond, all are forgotten and refused again when they come.
const MAX_REFUSED: usize = 10_000;
/// Agents over HTTP of which it is known by which certificate they speak: some 10 MB. Beyond, all are forgotten, and their
/// connections announced again.
const MAX_HTTP_AGENTS: usize = 131_072;

/// Connections that are looked at before others have a turn with their list.
const CONNECTIONS_AT_ONCE: usize = 1_000;

/// Certificates, and by which of them agents over HTTP speak. (A WebSocket has its own.)
#[derive(Debug, Default)]
pub struct Certificates {
    list: ArcSwap<List>,
    /// Why each is not believed any more.
    refused: Mutex<HashMap<Serial, Arc<str>>>,
    http: Mutex<HashMap<InstanceUid, Serial>>,
    /// Whether agents may ask for certificates. Each reply says so.
    are_issued: AtomicBool,
}

/// What the config service says.
#[derive(Debug, Default)]
struct List {
    /// Of the built-in authority, in DER.
    authorities: Vec<Vec<u8>>,
    believed: Believed,
    revoked: HashSet<Serial>,
}

/// What there is to say of a certificate that a client shows.
pub enum Check {
    Good(Arc<Credential>),
    /// For the client: why it is not believed.
    Bad(String),
}

impl Certificates {
    pub fn are_issued(&self) -> bool {
        self.are_issued.load(Ordering::Relaxed)
    }

    pub fn check(&self, presented: &Presented, tls: Option<&Tls>) -> Check {
        let list = self.list.load();
        let believed = Believed { given: tls.and_then(Tls::given_authorities), ..list.believed.clone() };
        let credential = match presented.credential(&believed, UnixTime::now()) {
            Ok(credential) => credential,
            Err(problem) => return Check::Bad(problem),
        };
        if let Some(serial) = credential.serial() {
            if list.revoked.contains(&serial) {
                return Check::Bad("the client certificate has been revoked".to_owned());
            }
            if let Some(reason) = self.refused.lock().get(&serial) {
                return Check::Bad(reason.to_string());
            }
        }
        match credential.is_valid(pace::unix_ms()) {
            true => Check::Good(credential),
            false => Check::Bad("the client certificate has expired".to_owned()),
        }
    }

    /// The certificate of the built-in authority by which an agent speaks.
    pub fn serial(&self, uid: &InstanceUid, link: &Link) -> Option<Serial> {
        match link {
            Link::WebSocket(connection) => connection.credential.as_ref()?.serial(),
            Link::Http => self.http.lock().get(uid).copied(),
            Link::Gone { .. } => None,
        }
    }

    /// Notes by which certificate an agent over HTTP speaks; whether that is another than before, so that its connection is
    /// to be announced again.
    pub fn is_another(&self, uid: InstanceUid, origin: Origin<'_>) -> bool {
        let Origin::Http(Some(credential)) = origin else { return false };
        let Some(serial) = credential.serial() else { return false };
        let mut http = self.http.lock();
        if http.len() >= MAX_HTTP_AGENTS && !http.contains_key(&uid) {
            http.clear();
        }
        http.insert(uid, serial) != Some(serial)
    }

    /// Forgets by which certificate an agent over HTTP speaks.
    pub fn forget(&self, uid: &InstanceUid) {
        self.http.lock().remove(uid);
    }

    /// An agent over HTTP goes on under another uid, by the same certificate.
    pub fn rename(&self, from: &InstanceUid, to: InstanceUid) {
        let mut http = self.http.lock();
        if let Some(serial) = http.remove(from) {
            http.insert(to, serial);
        }
    }

    fn refuse(&self, serial: Serial, reason: &str) {
        let mut refused = self.refused.lock();
        if refused.len() >= MAX_REFUSED {
            refused.clear();
        }
        refused.insert(serial, reason.into());
    }
}

/// Takes what the config service's list says of certificates.
pub fn replace(shared: &Shared, tokens: &AgentTokens) {
    let old = shared.certificates.list.load();
    let authorities: Vec<Vec<u8>> = tokens.authorities.iter().map(|der| der.to_vec()).collect();
    let believed = match authorities == old.authorities {
        true => old.believed.clone(),
        false => Believed { built_in: built_in(&authorities), given: None },
    };
    let revoked: HashSet<Serial> =
        tokens.revoked_certificates.iter().filter_map(|serial| Serial::from_slice(serial)).collect();
    let has_new = !revoked.is_subset(&old.revoked);
    let list = Arc::new(List { authorities, believed, revoked });
    shared.certificates.list.store(list.clone());
    shared.certificates.are_issued.store(tokens.issues_certificates, Ordering::Relaxed);
    if has_new {
        close_revoked(shared, &list.revoked);
    }
}

fn built_in(authorities: &[Vec<u8>]) -> Option<Arc<dyn rustls::server::danger::ClientCertVerifier>> {
    if authorities.is_empty() {
        return None;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authorities = authorities.iter().cloned().map(CertificateDer::from);
    verifier(&provider, authorities)
        .inspect_err(|error| tracing::error!(error, "the built-in certificate authority cannot be used"))
        .ok()
}

/// Has the sweeper close the connections that these certificates let in. (One that is let in just now is refused when it
/// opens.)
fn close_revoked(shared: &Shared, revoked: &HashSet<Serial>) {
    let mut start = 0;
    loop {
        let (connections, next) = shared.connections.slice(start, CONNECTIONS_AT_ONCE);
        for credential in connections.iter().filter_map(|connection| connection.credential.as_ref()) {
            if credential.serial().is_some_and(|serial| revoked.contains(&serial)) {
                credential.revoke();
            }
        }
        match next {
            0 => return,
            next => start = next,
        }
    }
}

/// The config service does not believe the certificate of an agent's connection any more.
pub fn refuse(shared: &Shared, uid: InstanceUid, generation: u64, reason: &str) {
    let agents = &mut *shared.registry.lock(&uid);
    let Some(entry) = agents.entries.get(&uid).filter(|entry| entry.generation == generation) else { return };
    if let Some(serial) = shared.certificates.serial(&uid, &entry.link) {
        tracing::info!(agent = %uid, %serial, reason, "client certificate refused");
        shared.certificates.refuse(serial, reason);
    }
    if let Link::WebSocket(connection) = &entry.link {
        connection.outbox.with_uids(|uids| uids.remove(&uid));
        connection.close(code::POLICY, reason, "revoked");
    }
    // Nothing that came by it is handed on.
    shared.registry.remove(agents, &uid);
}

/// Another gateway was shown a certificate that is not believed any more.
pub fn take_refused(shared: &Shared, refused: &RefusedCertificate) {
    if let Some(serial) = Serial::from_slice(&refused.serial) {
        shared.certificates.refuse(serial, &refused.reason);
    }
}

/// Checks a request for a certificate, where a message has one; an error is a text for the agent.
pub fn check_request(incoming: &Incoming, payload: &[u8]) -> Result<(), String> {
    use prost::Message;
    let Some(range) = incoming.connection_settings_request.clone() else { return Ok(()) };
    let request = opamp::ConnectionSettingsRequest::decode(&payload[range]).map_err(|error| error.to_string())?;
    let Some(request) = request.opamp.and_then(|opamp| opamp.certificate_request) else { return Ok(()) };
    Request::parse_from(&request.csr, incoming.uid).map(drop).map_err(|error| error.to_string())
}
