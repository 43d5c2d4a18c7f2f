//! Where agents fetch a file that is hosted here, and with what.

use std::sync::Arc;

use http::Uri;

use super::{URL_PATH, access::Key};
use crate::{
    model::ContentHash,
    proto::opamp::{DownloadableFile, Header},
};

const AUTHORIZATION: &str = "Authorization";

/// Completes offers of files that are hosted here.
#[derive(Clone, Debug)]
pub struct Locator {
    base_url: Arc<str>,
    key: Key,
}

impl Locator {
    /// `base_url` stands in front of a file's hash.
    pub fn new(base_url: Arc<str>, key: Key) -> Self {
        Self { base_url, key }
    }

    /// Adds the URL, and the token that opens the file, unless the policy has its own. False if the file has no hash.
    pub fn locate(&self, file: &mut DownloadableFile) -> bool {
        let Some(hash) = ContentHash::from_slice(&file.content_hash) else { return false };
        file.download_url = format!("{}{hash}", self.base_url);
        let headers = &mut file.headers.get_or_insert_default().headers;
        if !headers.iter().any(|header| header.key.eq_ignore_ascii_case(AUTHORIZATION)) {
            let value = format!("Bearer {}", self.key.token(&hash));
            headers.push(Header { key: AUTHORIZATION.to_owned(), value });
        }
        true
    }
}

/// What stands in front of a file's hash where agents reach a deployment at this URL: its gateways serve both.
pub fn base_url(opamp_url: &str) -> Option<String> {
    let url: Uri = opamp_url.parse().ok()?;
    let scheme = match url.scheme_str()? {
        "ws" | "http" => "http",
        "wss" | "https" => "https",
        _ => return None,
    };
    Some(format!("{scheme}://{}{URL_PATH}", url.authority()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::opamp::Headers;

    #[test]
    fn packages_are_where_agents_connect() {
        for (opamp, packages) in [
            ("wss://opamp.example.com/v1/opamp", Some("https://opamp.example.com/v1/packages/")),
            ("ws://127.0.0.1:4320/v1/opamp", Some("http://127.0.0.1:4320/v1/packages/")),
            ("https://[::1]:1/", Some("https://[::1]:1/v1/packages/")),
            ("", None),
            ("/v1/opamp", None),
            ("ftp://x/", None),
        ] {
            assert_eq!(base_url(opamp).as_deref(), packages, "{opamp}");
        }
    }

    #[test]
    fn a_file_gets_its_url_and_its_token() {
        let (locator, hash) = (Locator::new("http://x/v1/packages/".into(), Key::new([1; 32])), ContentHash([3; 32]));
        let mut file = DownloadableFile { content_hash: hash.to_bytes(), ..Default::default() };
        assert!(locator.locate(&mut file));
        assert_eq!(file.download_url, format!("http://x/v1/packages/{hash}"));
        let token = format!("Bearer {}", Key::new([1; 32]).token(&hash));
        let header = |key: &str, value: &str| Header { key: key.to_owned(), value: value.to_owned() };
        assert_eq!(file.headers.unwrap().headers, [header("Authorization", &token)]);

        let own = [header("X-Site", "a"), header("authorization", "Basic x")];
        let headers = Some(Headers { headers: own.to_vec() });
        let mut file = DownloadableFile { content_hash: hash.to_bytes(), headers, ..Default::default() };
        assert!(locator.locate(&mut file));
        assert_eq!(file.headers.unwrap().headers, own, "the policy's own goes first");
        assert!(!locator.locate(&mut DownloadableFile::default()));
    }
}
