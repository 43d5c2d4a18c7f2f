//! Page sizes and page tokens.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::Status;

use super::errors;
use crate::model::ContentHash;

const DEFAULT_SIZE: i32 = 100;
/// An agent may have kilobytes of attributes; a page is to fit into a few megabytes.
const MAX_SIZE: i32 = 1000;
const FINGERPRINT_BYTES: usize = 8;

/// Items on a page, from a request's `page_size`. A larger one than allowed is taken as the largest.
pub fn size(requested: i32) -> Result<usize, Status> {
    match requested {
        ..0 => Err(errors::invalid("page_size", "must not be negative")),
        0 => Ok(DEFAULT_SIZE as usize),
        1.. => Ok(requested.min(MAX_SIZE) as usize),
    }
}

/// Makes and reads the page tokens of one list: `request` is everything that must stay the same from page to page. A token
/// is a fingerprint of that and the place where the last page ended.
pub struct Pages {
    fingerprint: [u8; FINGERPRINT_BYTES],
}

impl Pages {
    pub fn of(request: &[&str]) -> Self {
        let mut text = Vec::new();
        for part in request {
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let mut fingerprint = [0; FINGERPRINT_BYTES];
        fingerprint.copy_from_slice(&ContentHash::of(&text).0[..FINGERPRINT_BYTES]);
        Self { fingerprint }
    }

    pub fn token(&self, last: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode([&self.fingerprint, last].concat())
    }

    /// Where the page before ended; `None` for the first page.
    pub fn after(&self, token: &str) -> Result<Option<Vec<u8>>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
        match bytes.strip_prefix(&self.fingerprint) {
            Some(last) => Ok(Some(last.to_vec())),
            None => Err(invalid_token()),
        }
    }
}

pub fn invalid_token() -> Status {
    errors::invalid("page_token", "not a token of an earlier page of this very list")
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_token_belongs_to_its_list() {
        let pages = Pages::of(&["agents", "os = linux"]);
        let token = pages.token(b"last");
        assert_eq!(pages.after(&token).unwrap(), Some(b"last".to_vec()));
        assert_eq!(pages.after("").unwrap(), None);
        let other = Pages::of(&["agents", "os = windows"]);
        for (pages, token) in [(&other, token.as_str()), (&pages, "!"), (&pages, "AAAA")] {
            assert_eq!(pages.after(token).unwrap_err().code(), Code::InvalidArgument, "{token}");
        }
        assert_ne!(Pages::of(&["a", "bc"]).token(b""), Pages::of(&["ab", "c"]).token(b""));
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!((size(0).unwrap(), size(5).unwrap(), size(i32::MAX).unwrap()), (100, 5, 1000));
        assert_eq!(size(-1).unwrap_err().code(), Code::InvalidArgument);
    }
}
