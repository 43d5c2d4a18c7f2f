//! Where the server is, and connections to it.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::{
            WantsClientCert,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{CryptoProvider, ring},
        pki_types::{
            CertificateDer, PrivateKeyDer, ServerName, UnixTime,
            pem::{self, PemObject},
        },
    },
};

/// A URL of an OpAMP server. The scheme says whether TLS is used; every server is spoken to over both transports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub is_tls: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidUrl {
    #[error("the URL must start with http://, https://, ws:// or wss://")]
    Scheme,
    #[error("the URL has no host")]
    NoHost,
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
}

/// The specification's, for URLs that name none.
const DEFAULT_PORT: u16 = 4320;
const DEFAULT_PATH: &str = "/v1/opamp";

impl FromStr for Url {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidUrl::Scheme)?;
        let is_tls = match scheme {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return Err(InvalidUrl::Scheme),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().ok().filter(|port| *port > 0).ok_or(InvalidUrl::Port)?)
            }
            _ => (authority, if is_tls { 443 } else { DEFAULT_PORT }),
        };
        if host.is_empty() {
            return Err(InvalidUrl::NoHost);
        }
        let path = if path.is_empty() || path == "/" { DEFAULT_PATH } else { path };
        Ok(Self { is_tls, host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.is_tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

impl Url {
    /// As it stands in a Host header.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Whom to trust over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Certificates in PEM to trust besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// Trust any certificate.
    pub is_insecure: bool,
    /// Files in PEM with a certificate and its key to show to the server.
    pub identity: Option<(PathBuf, PathBuf)>,
}

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
/// A connection, encrypted or not.
pub type Stream = Box<dyn Duplex>;

/// Makes connections to one server.
#[derive(Clone)]
pub struct Target {
    pub url: Url,
    tls: Option<TlsConnector>,
}

impl Target {
    /// An error is about `trust`.
    pub fn new(url: Url, trust: &Trust) -> Result<Self, String> {
        let tls = if url.is_tls { Some(connector(trust)?) } else { None };
        Ok(Self { url, tls })
    }

    pub async fn connect(&self, patience: Duration) -> Result<Stream, String> {
        let url = &self.url;
        let attempt = async {
            let host = url.host.trim_matches(['[', ']']);
            let socket = TcpStream::connect((host, url.port)).await.map_err(|error| error.to_string())?;
            socket.set_nodelay(true).map_err(|error| error.to_string())?;
            let Some(tls) = &self.tls else { return Ok(Box::new(socket) as Stream) };
            let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
            let stream = tls.connect(name, socket).await.map_err(|error| format!("TLS: {error}"))?;
            Ok(Box::new(stream) as Stream)
        };
        let result: Result<Stream, String> =
            tokio::time::timeout(patience, attempt).await.unwrap_or_else(|_| Err(format!("not within {patience:?}")));
        result.map_err(|error| format!("no connection to {}: {error}", url.authority()))
    }
}

fn connector(trust: &Trust) -> Result<TlsConnector, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    if trust.is_insecure {
        let verifier = Arc::new(TrustAnybody(provider));
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        return showing(builder, trust);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &trust.ca_file {
        let error = |error: String| format!("{}: {error}", path.display());
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| error(e.to_string()))? {
            roots.add(certificate.map_err(|e| error(e.to_string()))?).map_err(|e| error(e.to_string()))?;
        }
        if roots.len() == before {
            return Err(error("there is no certificate in it".to_owned()));
        }
    }
    showing(builder.with_root_certificates(roots), trust)
}

/// With the certificate that the server is to see, if there is one.
fn showing(builder: ConfigBuilder<ClientConfig, WantsClientCert>, trust: &Trust) -> Result<TlsConnector, String> {
    let Some((certificate, key)) = &trust.identity else { return Ok(Arc::new(builder.with_no_client_auth()).into()) };
    let in_certificate = |error: pem::Error| format!("{}: {error}", certificate.display());
    let in_key = |error: pem::Error| format!("{}: {error}", key.display());
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(in_certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(in_key)?;
    let config = builder.with_client_auth_cert(chain, private);
    Ok(Arc::new(config.map_err(|error| format!("{}, {}: {error}", certificate.display(), key.display()))?).into())
}

/// For servers with certificates of their own making, where whoever runs the cases says so.
#[derive(Debug)]
struct TrustAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, tokio_rustls::rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        let parse = |text: &str| text.parse::<Url>().map(|url| url.to_string());
        assert_eq!(parse("ws://127.0.0.1:4000/x").as_deref(), Ok("http://127.0.0.1:4000/x"));
        assert_eq!(parse("http://gateway").as_deref(), Ok("http://gateway:4320/v1/opamp"));
        assert_eq!(parse("wss://gateway/").as_deref(), Ok("https://gateway:443/v1/opamp"));
        assert_eq!(parse("https://[::1]:1/a/b").as_deref(), Ok("https://[::1]:1/a/b"));
        assert_eq!(parse("http://[::1]").as_deref(), Ok("http://[::1]:4320/v1/opamp"));
        assert_eq!(parse("gateway:4320"), Err(InvalidUrl::Scheme));
        assert_eq!(parse("ftp://gateway"), Err(InvalidUrl::Scheme));
        assert_eq!(parse("ws:///v1/opamp"), Err(InvalidUrl::NoHost));
        assert_eq!(parse("ws://a:0/"), Err(InvalidUrl::Port));
        assert_eq!(parse("ws://a:x/"), Err(InvalidUrl::Port));
    }
}
