//! The gateway's own certificate, and handshakes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Presented, Stream};
use crate::gateway::{Shared, http, metrics, registry::Ticket};

/// How often the files are looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// Larger than any chain of certificates that a handshake should carry.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where the gateway's certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// PEM, the gateway's own certificate first.
    pub certificate_file: PathBuf,
    /// PEM.
    pub key_file: PathBuf,
    /// PEM: certificate authorities, beside the built-in one, whose client certificates are taken.
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients are asked for a certificate.
    pub asks_clients: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct Error {
    path: PathBuf,
    problem: String,
}

/// What the listener needs for TLS.
#[derive(Debug)]
pub struct Tls {
    config: Config,
    now: ArcSwap<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    files: Files,
    server: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

/// The files' contents.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// Reads the files. Fails, naming the file, if they cannot work.
    pub fn load(config: Config) -> Result<Self, Error> {
        let loaded = Loaded::new(&config, read_all(&config)?)?;
        Ok(Self { config, now: ArcSwap::from_pointee(loaded) })
    }

    /// Who believes certificates of the given authorities, if any are given.
    pub fn given_authorities(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.now.load().clients.clone()
    }

    /// Reads the files again whenever they change, for ever. What cannot work is logged and not taken.
    pub async fn watch(&self) {
        let mut refused = None;
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            let config = self.config.clone();
            let Ok(files) = tokio::task::spawn_blocking(move || read_all(&config)).await else { continue };
            if files.as_ref().is_ok_and(|files| *files == self.now.load().files) {
                refused = None;
                continue;
            }
            match files.and_then(|files| Loaded::new(&self.config, files)) {
                Ok(loaded) => {
                    tracing::info!(file = %self.config.certificate_file.display(), "took a new TLS certificate");
                    self.now.store(Arc::new(loaded));
                    refused = None;
                }
                Err(error) => {
                    let text = error.to_string();
                    if refused.as_ref() != Some(&text) {
                        tracing::warn!(%error, "new TLS files are not taken; the ones before stay in use");
                    }
                    refused = Some(text);
                }
            }
        }
    }
}

fn read_all(config: &Config) -> Result<Files, Error> {
    Ok(Files {
        certificate: read(&config.certificate_file)?,
        key: read(&config.key_file)?,
        client_ca: config.client_ca_file.as_deref().map(read).transpose()?,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let refuse = |problem: String| Error { path: path.to_owned(), problem };
    let size = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?.len();
    if size > MAX_FILE_BYTES {
        return Err(refuse(format!("longer than {MAX_FILE_BYTES} bytes")));
    }
    std::fs::read(path).map_err(|error| refuse(error.to_string()))
}

impl Loaded {
    fn new(config: &Config, files: Files) -> Result<Self, Error> {
        let at = |path: &Path, problem: String| Error { path: path.to_owned(), problem };
        let chain = certificates(&config.certificate_file, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|error| at(&config.key_file, format!("no private key in PEM: {error}")))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| at(&config.certificate_file, error.to_string()))?;
        let builder = match config.asks_clients {
            true => builder.with_client_cert_verifier(Arc::new(Possession(provider.signature_verification_algorithms))),
            false => builder.with_no_client_auth(),
        };
        let mut server = builder
            .with_single_cert(chain, key)
            .map_err(|error| at(&config.key_file, format!("not the key of the certificate: {error}")))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let clients = match (&config.client_ca_file, &files.client_ca) {
            (Some(path), Some(pem)) => {
                let authorities = certificates(path, pem)?;
                Some(verifier(&provider, authorities).map_err(|problem| at(path, problem))?)
            }
            _ => None,
        };
        Ok(Self { files, server: Arc::new(server), clients })
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let refuse = |problem: String| Error { path: path.to_owned(), problem };
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| refuse(format!("not PEM: {error}")))?;
    if all.is_empty() { Err(refuse("no certificate in PEM".to_owned())) } else { Ok(all) }
}

/// One that believes what these authorities have signed.
pub fn verifier(
    provider: &Arc<CryptoProvider>,
    authorities: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| error.to_string())?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| error.to_string())
}

/// Has a client prove that it holds the key of the certificate that it shows, and asks no more.
#[derive(Debug)]
struct Possession(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: some clients show none of their certificates unless its own issuer is hinted at.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Shakes hands over TLS, and then serves HTTP. The handshake's time is that of a request's headers.
pub async fn serve(shared: Arc<Shared>, tls: Arc<Tls>, socket: TcpStream, ticket: Ticket, is_surplus: bool) {
    let acceptor = TlsAcceptor::from(tls.now.load().server.clone());
    let handshake = Box::pin(acceptor.accept(socket));
    let stream = match tokio::time::timeout(shared.config.header_timeout, handshake).await {
        Ok(Ok(stream)) => Box::new(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return metrics::refused("tls_handshake");
        }
        Err(_) => return metrics::refused("tls_handshake_timeout"),
    };
    let presented = Presented::of(stream.get_ref().1);
    Box::pin(http::serve(shared, Stream::Tls(stream), presented, ticket, is_surplus)).await;
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    #[test]
    fn files_that_cannot_work_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (key, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let certificate = write(folder.path(), "cert.pem", &params.self_signed(&key).expect("a certificate").pem());
        let good = Config {
            certificate_file: certificate.clone(),
            key_file: write(folder.path(), "key.pem", &key.serialize_pem()),
            client_ca_file: Some(certificate),
            asks_clients: true,
        };
        Tls::load(good.clone()).expect("files that work");
        let other = write(folder.path(), "other.pem", &other.serialize_pem());
        let empty = write(folder.path(), "empty.pem", "");
        let at = |path: &PathBuf| Some(path.clone());
        let cases = [
            (Config { certificate_file: empty.clone(), ..good.clone() }, "empty.pem: no certificate"),
            (Config { key_file: empty.clone(), ..good.clone() }, "empty.pem: no private key"),
            (Config { key_file: other, ..good.clone() }, "other.pem: not the key of the certificate"),
            (Config { client_ca_file: at(&empty), ..good.clone() }, "empty.pem: no certificate"),
            (Config { key_file: folder.path().join("gone.pem"), ..good }, "gone.pem: No such file"),
        ];
        for (config, problem) in cases {
            let error = Tls::load(config).expect_err(problem).to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
