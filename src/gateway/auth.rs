//! What agents identify themselves with. Tokens are checked without a database: the config service sends the list of what is
//! valid.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::pace;
use crate::{
    auth::token,
    model::{ContentHash, InstanceUid},
    packages::access::Key,
    pki::{Identity, Serial},
    proto::bus::AgentTokens,
};

/// A token or certificate with which somebody may be connected. A token's is shared by the connections that were opened with
/// it.
#[derive(Debug)]
pub struct Credential {
    pub id: String,
    /// 0 if it does not expire.
    expires_unix_ms: u64,
    is_revoked: AtomicBool,
    certificate: Option<Certificate>,
}

#[derive(Debug)]
struct Certificate {
    /// The agent that alone may speak by it.
    uid: Option<InstanceUid>,
    /// If the built-in authority issued it.
    serial: Option<Serial>,
}

impl Credential {
    /// A certificate that is believed, because the built-in authority signed it or another one did.
    pub fn certificate(identity: Identity, is_built_in: bool) -> Self {
        Self {
            id: identity.name,
            expires_unix_ms: u64::try_from(identity.not_after).unwrap_or(0).max(1),
            is_revoked: AtomicBool::new(false),
            certificate: Some(Certificate { uid: identity.uid, serial: identity.serial.filter(|_| is_built_in) }),
        }
    }

    /// The agent that alone may speak by it, if it is for one.
    pub fn uid(&self) -> Option<InstanceUid> {
        self.certificate.as_ref()?.uid
    }

    /// The serial number of a certificate that the built-in authority issued.
    pub fn serial(&self) -> Option<Serial> {
        self.certificate.as_ref()?.serial
    }

    /// Nobody is let in by it any more; the sweeper closes the connections that were.
    pub fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Relaxed);
    }

    pub fn is_valid(&self, now_unix_ms: u64) -> bool {
        !self.is_revoked.load(Ordering::Relaxed) && (self.expires_unix_ms == 0 || now_unix_ms < self.expires_unix_ms)
    }
}

#[derive(Debug, Default)]
pub struct Tokens {
    list: ArcSwapOption<List>,
    /// When a list came that was older than the one here, none as new having come since.
    older_since: Mutex<Option<Instant>>,
}

/// Lists that were under way when they were overtaken are older for as long as a message may take. The list is asked for every minute:
/// if what comes is still older after this time, the store has gone back, as after restoring a backup, and is right.
const OVERTAKEN: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct List {
    version: u64,
    by_digest: HashMap<[u8; 32], Arc<Credential>>,
    /// What the tokens of package files are made with.
    package_key: Option<Key>,
}

impl Tokens {
    /// Whether the list has come; until then nobody can be let in.
    pub fn are_known(&self) -> bool {
        self.list.load().is_some()
    }

    /// Whether to take a list: unless a newer one is here.
    pub fn takes(&self, tokens: &AgentTokens) -> bool {
        self.takes_at(tokens, Instant::now())
    }

    fn takes_at(&self, tokens: &AgentTokens, now: Instant) -> bool {
        let old = self.list.load_full();
        let mut older_since = self.older_since.lock();
        if let Some(old) = old.as_ref().filter(|old| tokens.version < old.version) {
            if now < *older_since.get_or_insert(now) + OVERTAKEN {
                return false;
            }
            tracing::warn!(from = old.version, to = tokens.version, "the list of agent tokens has gone back");
        }
        *older_since = None;
        true
    }

    /// Takes a list. Credentials that are not on it are revoked.
    pub fn replace(&self, tokens: &AgentTokens) {
        let old = self.list.load_full();
        let known = |digest: &[u8; 32]| old.as_ref().and_then(|old| old.by_digest.get(digest));
        let by_digest: HashMap<[u8; 32], Arc<Credential>> = tokens
            .tokens
            .iter()
            .filter_map(|token| {
                let digest: [u8; 32] = token.sha256.as_ref().try_into().ok()?;
                let same = known(&digest).filter(|known| known.expires_unix_ms == token.expires_unix_ms);
                Some((digest, same.cloned().unwrap_or_else(|| Arc::new(credential(token)))))
            })
            .collect();
        for (digest, credential) in old.iter().flat_map(|old| &old.by_digest) {
            if !by_digest.contains_key(digest) {
                credential.revoke();
                tracing::info!(token = %credential.id, "agent token revoked");
            }
        }
        let package_key = Key::from_slice(&tokens.package_key);
        self.list.store(Some(Arc::new(List { version: tokens.version, by_digest, package_key })));
    }

    /// Whether this is the token of this package file.
    pub fn opens(&self, token: &str, file: &ContentHash) -> bool {
        let list = self.list.load();
        let key = list.as_ref().and_then(|list| list.package_key);
        key.is_some_and(|key| key.opens(token, file))
    }

    /// The credential of an `Authorization` header's value.
    pub fn check(&self, authorization: &str) -> Option<Arc<Credential>> {
        let list = self.list.load();
        let credential = list.as_ref()?.by_digest.get(&token::digest(token::bearer(authorization)?))?;
        credential.is_valid(pace::unix_ms()).then(|| credential.clone())
    }
}

fn credential(token: &crate::proto::bus::AgentToken) -> Credential {
    Credential {
        id: token.id.clone(),
        expires_unix_ms: token.expires_unix_ms,
        is_revoked: AtomicBool::new(false),
        certificate: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::bus::AgentToken;

    fn list(version: u64, tokens: &[(&str, u64)]) -> AgentTokens {
        let token = |(text, expires_unix_ms): &(&str, u64)| AgentToken {
            id: (*text).to_owned(),
            sha256: token::digest(text).to_vec().into(),
            expires_unix_ms: *expires_unix_ms,
        };
        AgentTokens { version, tokens: tokens.iter().map(token).collect(), ..Default::default() }
    }

    #[test]
    fn revocation_reaches_those_who_are_connected() {
        let tokens = Tokens::default();
        assert!(!tokens.are_known() && tokens.check("Bearer one").is_none());
        tokens.replace(&list(2, &[("one", 0), ("two", 0), ("old", 1)]));
        let (one, two) = (tokens.check("Bearer one").unwrap(), tokens.check("bearer two").unwrap());
        assert!(tokens.check("Bearer old").is_none(), "expired");
        assert!(tokens.check("Bearer three").is_none());
        tokens.replace(&list(3, &[("two", 0)]));
        assert!(!one.is_valid(5) && two.is_valid(5));
        assert!(tokens.check("Bearer one").is_none());
        assert!(!tokens.takes(&list(2, &[("one", 0)])), "an older list is dropped");
    }

    #[test]
    fn a_list_that_stays_older_is_taken_for_the_store_has_gone_back() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let take = |list: &AgentTokens, now| {
            if tokens.takes_at(list, now) {
                tokens.replace(list);
            }
        };
        take(&list(5, &[("new", 0)]), now);
        let older = list(2, &[("old", 0)]);
        let overtaken = now + OVERTAKEN;
        take(&older, now);
        take(&list(5, &[("new", 0)]), now);
        take(&older, overtaken);
        assert!(tokens.check("Bearer old").is_none(), "what came in between was newer");
        take(&older, overtaken + OVERTAKEN);
        assert!(tokens.check("Bearer old").is_some() && tokens.check("Bearer new").is_none());
        take(&list(3, &[]), overtaken + OVERTAKEN);
        assert!(tokens.check("Bearer old").is_none(), "from there it goes on");
    }
}
