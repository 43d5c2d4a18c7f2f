//! The head of an HTTP/1.1 response, as far as an OpAMP client looks at it.

use std::time::Duration;

/// Longest head taken.
pub const MAX_HEAD_BYTES: usize = 16 << 10;

#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub content_length: Option<usize>,
    pub is_chunked: bool,
    /// The server closes after this response.
    pub closes: bool,
    pub retry_after: Option<Duration>,
    pub accept_key: Option<String>,
}

impl Head {
    /// The head at the start of `bytes` and its length, once it is complete; an error if it is none.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, &'static str> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if bytes.len() > MAX_HEAD_BYTES { Err("response head too large") } else { Ok(None) };
        };
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "response head is not text")?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).and_then(|line| line.get(2..5));
        let status = status.and_then(|status| status.parse().ok()).ok_or("not an HTTP response")?;
        let mut head = Self {
            status,
            content_length: None,
            is_chunked: false,
            closes: false,
            retry_after: None,
            accept_key: None,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            head.take(&name.to_ascii_lowercase(), value.trim());
        }
        Ok(Some((head, end + 4)))
    }

    fn take(&mut self, name: &str, value: &str) {
        match name {
            "content-length" => self.content_length = value.parse().ok(),
            "transfer-encoding" => self.is_chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => self.closes = value.eq_ignore_ascii_case("close"),
            "retry-after" => self.retry_after = value.parse().ok().map(Duration::from_secs),
            "sec-websocket-accept" => self.accept_key = Some(value.to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_head_once_it_is_complete() {
        let text =
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\ncontent-length: 3\r\nConnection: Close\r\n\r\nabc";
        let (head, length) = Head::parse(text).unwrap().unwrap();
        assert_eq!(&text[length..], b"abc");
        assert_eq!((head.status, head.content_length, head.closes), (503, Some(3), true));
        assert_eq!(head.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(Head::parse(&text[..40]), Ok(None));
        assert!(Head::parse(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
        assert!(Head::parse(&[b'a'; MAX_HEAD_BYTES + 1]).is_err());
    }
}
