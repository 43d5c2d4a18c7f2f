//! Who may fetch a file: whoever has its own token, beside those who have an agent token.
//!
//! Agents fetch a package with the headers that stand in its offer and nothing else. What is offered to many agents, and must not
//! change, cannot hold a token of any one of them; so it holds one that opens a single file, and that follows from the file's
//! hash and a key which config service and gateways share.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::model::ContentHash;

/// What makes tokens: random, the same for the whole deployment, and for all time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The token that opens this file.
    pub fn token(&self, file: &ContentHash) -> String {
        format!("{TOKEN_PREFIX}{}", hex::encode(self.mac(file).finalize().into_bytes()))
    }

    /// Whether `token` opens this file.
    pub fn opens(&self, token: &str, file: &ContentHash) -> bool {
        let given = token.strip_prefix(TOKEN_PREFIX).and_then(|digits| hex::decode(digits).ok());
        given.is_some_and(|given| self.mac(file).verify_slice(&given).is_ok())
    }

    fn mac(&self, file: &ContentHash) -> Hmac<Sha256> {
        // HMAC fills a key up to a block.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
        mac.update(b"muster package file v1\0");
        mac.update(&file.0);
        mac
    }
}

const TOKEN_PREFIX: &str = "muster_file_";

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_one_file_of_one_deployment() {
        let (key, other) = (Key([1; 32]), Key([2; 32]));
        let (file, other_file) = (ContentHash([3; 32]), ContentHash([4; 32]));
        let token = key.token(&file);
        assert!(key.opens(&token, &file));
        assert!(!key.opens(&token, &other_file) && !other.opens(&token, &file));
        for bad in ["", "muster_file_", &token[1..], &token[..token.len() - 2], &format!("{token}00")] {
            assert!(!key.opens(bad, &file), "{bad:?}");
        }
        assert_eq!(format!("{key:?}"), "(secret)");
    }

    /// Offers hold these: another token is another offer, to every agent of every fleet.
    #[test]
    fn tokens_never_change() {
        let token = Key([1; 32]).token(&ContentHash([3; 32]));
        let expected = "176c425d617e61f707a66910c6627f9592e40734869ce39fcf08b2f3e56247cf";
        assert_eq!(token, format!("muster_file_{expected}"));
    }
}
