//! The fields of `kind: ConnectionSettings`. Names of TLS settings are those of the OpenTelemetry Collector.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{MAX_BODY_BYTES, read_file};
use crate::proto::opamp::{
    ConnectionSettingsOffers, Header, Headers, OpAmpConnectionSettings, OtherConnectionSettings,
    ProxyConnectionSettings, TelemetryConnectionSettings, TlsCertificate, TlsConnectionSettings,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpAmp {
    endpoint: String,
    #[serde(default)]
    heartbeat_interval: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    #[serde(default)]
    certificate: Option<Certificate>,
    #[serde(default)]
    tls: Option<Tls>,
    #[serde(default)]
    proxy: Option<Proxy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    endpoint: String,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    #[serde(default)]
    certificate: Option<Certificate>,
    #[serde(default)]
    tls: Option<Tls>,
    #[serde(default)]
    proxy: Option<Proxy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    endpoint: String,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    #[serde(default)]
    certificate: Option<Certificate>,
    #[serde(default)]
    tls: Option<Tls>,
    #[serde(default)]
    proxy: Option<Proxy>,
}

/// Of a header that may be given more than once.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Values {
    One(String),
    Many(Vec<String>),
}

/// Each part from a file or as text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    #[serde(default)]
    cert_file: Option<PathBuf>,
    #[serde(default)]
    cert_pem: Option<String>,
    #[serde(default)]
    key_file: Option<PathBuf>,
    #[serde(default)]
    key_pem: Option<String>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    ca_pem: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    ca_pem: Option<String>,
    #[serde(default)]
    include_system_ca_certs_pool: bool,
    #[serde(default)]
    insecure_skip_verify: bool,
    #[serde(default)]
    min_version: String,
    #[serde(default)]
    max_version: String,
    #[serde(default)]
    cipher_suites: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Proxy {
    url: String,
    #[serde(default)]
    connect_headers: BTreeMap<String, Values>,
}

/// The connections of a manifest, by part.
#[derive(Default)]
pub struct Connections {
    pub opamp: Option<Spanned<OpAmp>>,
    pub own_metrics: Option<Spanned<Telemetry>>,
    pub own_traces: Option<Spanned<Telemetry>>,
    pub own_logs: Option<Spanned<Telemetry>>,
    pub other: BTreeMap<String, Spanned<Other>>,
}

impl Connections {
    /// The offers; `refuse` takes what is wrong, with its line, and `note` the line of each part by the server's name for it.
    pub fn into_offers(
        self,
        folder: &Path,
        refuse: &mut impl FnMut(u64, String),
        note: &mut impl FnMut(String, u64),
    ) -> ConnectionSettingsOffers {
        let mut offers = ConnectionSettingsOffers::default();
        if let Some(opamp) = self.opamp {
            let line = opamp.referenced.line();
            note("connection_settings.opamp".to_owned(), line);
            offers.opamp = said(self::opamp(folder, opamp.value), "opamp", line, refuse);
        }
        for (part, given, into) in [
            ("own_metrics", self.own_metrics, &mut offers.own_metrics),
            ("own_traces", self.own_traces, &mut offers.own_traces),
            ("own_logs", self.own_logs, &mut offers.own_logs),
        ] {
            if let Some(given) = given {
                let line = given.referenced.line();
                note(format!("connection_settings.{part}"), line);
                *into = said(telemetry(folder, given.value), part, line, refuse);
            }
        }
        for (name, given) in self.other {
            let line = given.referenced.line();
            note(format!("connection_settings.other_connections[{name:?}]"), line);
            if let Some(other) = said(other(folder, given.value), &format!("other: {name:?}"), line, refuse) {
                offers.other_connections.insert(name, other);
            }
        }
        offers
    }
}

fn said<T>(result: Result<T, String>, part: &str, line: u64, refuse: &mut impl FnMut(u64, String)) -> Option<T> {
    result.map_err(|problem| refuse(line, format!("{part}: {problem}"))).ok()
}

fn opamp(folder: &Path, given: OpAmp) -> Result<OpAmpConnectionSettings, String> {
    Ok(OpAmpConnectionSettings {
        destination_endpoint: given.endpoint,
        headers: headers(given.headers),
        certificate: given.certificate.map(|given| certificate(folder, given)).transpose()?,
        heartbeat_interval_seconds: given.heartbeat_interval.map_or(Ok(0), |text| heartbeat_s(&text))?,
        tls: given.tls.map(|given| tls(folder, given)).transpose()?,
        proxy: given.proxy.map(proxy),
    })
}

fn telemetry(folder: &Path, given: Telemetry) -> Result<TelemetryConnectionSettings, String> {
    Ok(TelemetryConnectionSettings {
        destination_endpoint: given.endpoint,
        headers: headers(given.headers),
        certificate: given.certificate.map(|given| certificate(folder, given)).transpose()?,
        tls: given.tls.map(|given| tls(folder, given)).transpose()?,
        proxy: given.proxy.map(proxy),
    })
}

fn other(folder: &Path, given: Other) -> Result<OtherConnectionSettings, String> {
    Ok(OtherConnectionSettings {
        destination_endpoint: given.endpoint,
        headers: headers(given.headers),
        certificate: given.certificate.map(|given| certificate(folder, given)).transpose()?,
        other_settings: given.settings,
        tls: given.tls.map(|given| tls(folder, given)).transpose()?,
        proxy: given.proxy.map(proxy),
    })
}

fn heartbeat_s(text: &str) -> Result<u64, String> {
    let interval = humantime::parse_duration(text)
        .map_err(|error| format!("heartbeat_interval: {error}; write it like 30s or 5m"))?;
    if interval.is_zero() || interval.subsec_nanos() != 0 {
        return Err(format!("heartbeat_interval: {text:?} must be whole seconds, at least 1s"));
    }
    Ok(interval.as_secs())
}

pub fn headers(given: BTreeMap<String, Values>) -> Option<Headers> {
    let mut headers = Vec::new();
    for (key, values) in given {
        let values = match values {
            Values::One(value) => vec![value],
            Values::Many(values) => values,
        };
        headers.extend(values.into_iter().map(|value| Header { key: key.clone(), value }));
    }
    (!headers.is_empty()).then_some(Headers { headers })
}

fn certificate(folder: &Path, given: Certificate) -> Result<TlsCertificate, String> {
    Ok(TlsCertificate {
        cert: pem(folder, given.cert_file, given.cert_pem, "certificate: cert")?.into(),
        private_key: pem(folder, given.key_file, given.key_pem, "certificate: key")?.into(),
        ca_cert: pem(folder, given.ca_file, given.ca_pem, "certificate: ca")?.into(),
    })
}

fn tls(folder: &Path, given: Tls) -> Result<TlsConnectionSettings, String> {
    Ok(TlsConnectionSettings {
        ca_pem_contents: pem(folder, given.ca_file, given.ca_pem, "tls: ca")?,
        include_system_ca_certs_pool: given.include_system_ca_certs_pool,
        insecure_skip_verify: given.insecure_skip_verify,
        min_version: given.min_version,
        max_version: given.max_version,
        cipher_suites: given.cipher_suites,
    })
}

fn proxy(given: Proxy) -> ProxyConnectionSettings {
    ProxyConnectionSettings { url: given.url, connect_headers: headers(given.connect_headers) }
}

/// `part` is what stands before `_file` and `_pem`.
fn pem(folder: &Path, file: Option<PathBuf>, text: Option<String>, part: &str) -> Result<String, String> {
    match (file, text) {
        (Some(_), Some(_)) => Err(format!("{part}_file and {part}_pem exclude each other")),
        (None, text) => Ok(text.unwrap_or_default()),
        (Some(file), None) => {
            let bytes =
                read_file(&folder.join(file), MAX_BODY_BYTES).map_err(|problem| format!("{part}_file: {problem}"))?;
            String::from_utf8(bytes).map_err(|_| format!("{part}_file: not in PEM form"))
        }
    }
}
