//! HTTP to the collector, in the process's own runtime: the SDK's threads have none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::runtime::Handle;

/// A collector that is away, or takes longer to answer, costs what waits for it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What a collector says to a request is a few bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// File of certificate authorities to believe beside the system's.
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{CERTIFICATE}: {0}")]
    Certificate(String),
    #[error("OTLP client: {0}")]
    Client(String),
}

#[derive(Clone, Debug)]
pub struct Client {
    runtime: Handle,
    client: reqwest::Client,
    is_failing: Arc<AtomicBool>,
}

impl Client {
    /// Sends by the runtime that this is called in. A request takes no longer than `timeout`, or a usual time.
    pub fn new(timeout: Option<Duration>) -> Result<Self, Error> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls()?)
            .timeout(timeout.unwrap_or(TIMEOUT))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::Client(error.to_string()))?;
        Ok(Self { runtime: Handle::current(), client, is_failing: Arc::default() })
    }

    /// Logs the first of a row of failures, and its end.
    fn note(&self, result: &Result<Response<Bytes>, HttpError>) {
        let problem = match result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(with_sources(&**error)),
        };
        let was_failing = self.is_failing.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(problem) if !was_failing => {
                tracing::warn!(problem, "the collector does not take what it is sent; that is lost until it does");
            }
            None if was_failing => tracing::info!("the collector takes what it is sent again"),
            _ => {}
        }
    }
}

fn tls() -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = std::env::var_os(CERTIFICATE).filter(|path| !path.is_empty()) {
        let error = |problem: String| Error::Certificate(format!("{}: {problem}", path.to_string_lossy()));
        for certificate in CertificateDer::pem_file_iter(&path).map_err(|e| error(e.to_string()))? {
            let certificate = certificate.map_err(|e| error(e.to_string()))?;
            roots.add(certificate).map_err(|e| error(e.to_string()))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Client(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let result = self.runtime.spawn(async move { send(client, request).await }).await?;
        self.note(&result);
        result
    }
}

async fn send(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let mut answer = client.execute(request.try_into()?).await?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err("the collector's answer is too long".into());
        }
        body.extend_from_slice(&chunk);
    }
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = answer.headers().clone();
    }
    Ok(response.body(body.into())?)
}

/// An error with what led to it: reqwest's own text only says that a request failed.
fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
