//! Connection settings. Values of headers are not shown: the server leaves them out.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::proto::opamp::{
    ConnectionSettingsOffers, Headers, ProxyConnectionSettings, TlsCertificate, TlsConnectionSettings,
};

#[derive(Serialize)]
pub struct Connection {
    pub endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_interval_seconds: Option<u64>,
    /// Names only.
    pub headers: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    pub has_certificate: bool,
    pub has_tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
}

/// By part; other connections as `other/NAME`.
pub fn connections(settings: ConnectionSettingsOffers) -> BTreeMap<String, Connection> {
    let mut connections = BTreeMap::new();
    if let Some(opamp) = settings.opamp {
        let heartbeat = opamp.heartbeat_interval_seconds;
        let one = connection(opamp.destination_endpoint, opamp.headers, opamp.certificate, opamp.tls, opamp.proxy);
        let heartbeat_interval_seconds = (heartbeat > 0).then_some(heartbeat);
        connections.insert("opamp".to_owned(), Connection { heartbeat_interval_seconds, ..one });
    }
    for (part, telemetry) in
        [("own_metrics", settings.own_metrics), ("own_traces", settings.own_traces), ("own_logs", settings.own_logs)]
    {
        if let Some(own) = telemetry {
            let one = connection(own.destination_endpoint, own.headers, own.certificate, own.tls, own.proxy);
            connections.insert(part.to_owned(), one);
        }
    }
    for (name, other) in settings.other_connections {
        let one = connection(other.destination_endpoint, other.headers, other.certificate, other.tls, other.proxy);
        connections.insert(format!("other/{name}"), Connection { settings: other.other_settings, ..one });
    }
    connections
}

fn connection(
    endpoint: String,
    headers: Option<Headers>,
    certificate: Option<TlsCertificate>,
    tls: Option<TlsConnectionSettings>,
    proxy: Option<ProxyConnectionSettings>,
) -> Connection {
    Connection {
        endpoint,
        heartbeat_interval_seconds: None,
        headers: header_names(headers),
        settings: BTreeMap::new(),
        has_certificate: certificate.is_some(),
        has_tls: tls.is_some(),
        proxy: proxy.map(|proxy| proxy.url),
    }
}

pub fn header_names(headers: Option<Headers>) -> Vec<String> {
    headers.map(|headers| headers.headers.into_iter().map(|header| header.key).collect()).unwrap_or_default()
}
