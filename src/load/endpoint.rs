//! Where a gateway is.

use std::{fmt, str::FromStr};

use super::Transport;

/// An OpAMP endpoint: `ws://`, `http://` or bare `host:port`, and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`, with an IPv6 address in brackets.
    pub authority: String,
    pub path: String,
    /// What the scheme says.
    pub transport: Transport,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEndpoint {
    #[error("TLS ({0}://) is not supported, use ws:// or http://")]
    Tls(String),
    #[error("unknown scheme {0:?}, use ws:// or http://")]
    Scheme(String),
    #[error("there is no host")]
    NoHost,
}

const DEFAULT_PORT: u16 = 4320;
const DEFAULT_PATH: &str = "/v1/opamp";

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("ws", text));
        let transport = match scheme {
            "ws" => Transport::WebSocket,
            "http" => Transport::Http,
            "wss" | "https" => return Err(InvalidEndpoint::Tls(scheme.to_owned())),
            other => return Err(InvalidEndpoint::Scheme(other.to_owned())),
        };
        let (host, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, DEFAULT_PATH),
        };
        if host.is_empty() || host.starts_with(':') {
            return Err(InvalidEndpoint::NoHost);
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { host.to_owned() } else { format!("{host}:{DEFAULT_PORT}") };
        let path = if path == "/" { DEFAULT_PATH } else { path };
        Ok(Self { authority, path: path.to_owned(), transport })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.transport.name(), self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        let parse = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string());
        assert_eq!(parse("ws://127.0.0.1:4000/v1/opamp").as_deref(), Ok("ws://127.0.0.1:4000/v1/opamp"));
        assert_eq!(parse("http://gateway/x").as_deref(), Ok("http://gateway:4320/x"));
        assert_eq!(parse("[::1]:4320").as_deref(), Ok("ws://[::1]:4320/v1/opamp"));
        assert_eq!(parse("wss://a"), Err(InvalidEndpoint::Tls("wss".into())));
        assert_eq!(parse("redis://a"), Err(InvalidEndpoint::Scheme("redis".into())));
        assert_eq!(parse("ws:///v1/opamp"), Err(InvalidEndpoint::NoHost));
    }
}
