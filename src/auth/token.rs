//! Bearer tokens: `muster_agent_…` and `muster_operator_…`, 256 random bits each. Only their SHA-256 is stored.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::Rng;
use sha2::{Digest, Sha256};

use crate::store::TokenKind;

/// A new token's text. It is shown once and never stored.
pub fn generate(kind: TokenKind) -> String {
    let mut secret = [0u8; 32];
    rand::rng().fill_bytes(&mut secret);
    format!("muster_{}_{}", kind.name(), URL_SAFE_NO_PAD.encode(secret))
}

/// What is stored and compared instead of the text. The text has 256 random bits, so a plain hash does.
pub fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// The token of an `Authorization` header's value, whose scheme must be `Bearer` in any case.
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_name_their_kind() {
        let token = generate(TokenKind::Agent);
        assert!(token.starts_with("muster_agent_") && token.len() == 13 + 43, "{token}");
        assert_ne!(token, generate(TokenKind::Agent));
    }

    #[test]
    fn bearer_scheme_has_any_case() {
        assert_eq!(bearer("bEARER  abc "), Some("abc"));
        for value in ["", "abc", "Basic abc", "Bearer ", "Bearer"] {
            assert_eq!(bearer(value), None, "{value:?}");
        }
    }
}
