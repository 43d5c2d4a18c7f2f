//! What connection settings must look like.

use http::{HeaderName, HeaderValue, Uri};

use super::MAX_TEXT_BYTES;
use crate::{
    admin::errors::Violations,
    model::policy::PolicyOffer,
    proto::opamp::{
        ConnectionSettingsOffers, Headers, ProxyConnectionSettings, TelemetryConnectionSettings, TlsCertificate,
        TlsConnectionSettings,
    },
};

/// Of other connections.
const MAX_OTHERS: usize = 64;
/// Of all settings together, encoded.
const MAX_SETTINGS_BYTES: usize = 256 * 1024;
/// A heart that beats more seldom is as good as none.
const MAX_HEARTBEAT_S: u64 = 86_400;

/// Whole URLs: clients take an offered endpoint as it is.
const OPAMP_SCHEMES: &[&str] = &["ws", "wss", "http", "https"];
const TELEMETRY_SCHEMES: &[&str] = &["http", "https"];

pub fn check(settings: Option<ConnectionSettingsOffers>, violations: &mut Violations) -> PolicyOffer {
    let settings = settings.unwrap_or_default();
    check_size(&settings, violations);
    if let Some(opamp) = &settings.opamp {
        let field = "connection_settings.opamp";
        check_endpoint(&opamp.destination_endpoint, OPAMP_SCHEMES, field, violations);
        if opamp.heartbeat_interval_seconds > MAX_HEARTBEAT_S {
            let problem = format!("must be at most {MAX_HEARTBEAT_S}");
            violations.add(format!("{field}.heartbeat_interval_seconds"), problem);
        }
        check_common(&opamp.headers, &opamp.certificate, &opamp.tls, &opamp.proxy, field, violations);
    }
    for (part, telemetry) in
        [("own_metrics", &settings.own_metrics), ("own_traces", &settings.own_traces), ("own_logs", &settings.own_logs)]
    {
        if let Some(telemetry) = telemetry {
            check_telemetry(telemetry, &format!("connection_settings.{part}"), violations);
        }
    }
    for (name, other) in &settings.other_connections {
        let field = format!("connection_settings.other_connections[{name:?}]");
        check_text(name, &field, violations);
        if other.destination_endpoint.is_empty() {
            violations.add(format!("{field}.destination_endpoint"), "must be given");
        }
        check_text(&other.destination_endpoint, &format!("{field}.destination_endpoint"), violations);
        check_common(&other.headers, &other.certificate, &other.tls, &other.proxy, &field, violations);
    }
    PolicyOffer::ConnectionSettings(Box::new(settings))
}

fn check_size(settings: &ConnectionSettingsOffers, violations: &mut Violations) {
    use prost::Message;
    let field = "connection_settings";
    if !settings.hash.is_empty() {
        violations.add(format!("{field}.hash"), "is made by the server");
    }
    let bytes = settings.encoded_len();
    if bytes == 0 {
        violations.add(field, "must have at least one connection");
    }
    if bytes > MAX_SETTINGS_BYTES {
        violations.add(field, format!("has {bytes} bytes; at most {MAX_SETTINGS_BYTES} are possible"));
    }
    let others = settings.other_connections.len();
    if others > MAX_OTHERS {
        let problem = format!("at most {MAX_OTHERS} other connections are possible, not {others}");
        violations.add(format!("{field}.other_connections"), problem);
    }
}

fn check_telemetry(settings: &TelemetryConnectionSettings, field: &str, violations: &mut Violations) {
    check_endpoint(&settings.destination_endpoint, TELEMETRY_SCHEMES, field, violations);
    check_common(&settings.headers, &settings.certificate, &settings.tls, &settings.proxy, field, violations);
}

fn check_endpoint(endpoint: &str, schemes: &[&str], field: &str, violations: &mut Violations) {
    let field = format!("{field}.destination_endpoint");
    let is_whole = |uri: &Uri| {
        let has_scheme = uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme));
        has_scheme && uri.host().is_some_and(|host| !host.is_empty())
    };
    if !endpoint.parse().is_ok_and(|uri| is_whole(&uri)) {
        let schemes = schemes.join(", ");
        violations.add(field, format!("{endpoint:?} is not a whole URL with one of the schemes {schemes}"));
    }
}

fn check_common(
    headers: &Option<Headers>,
    certificate: &Option<TlsCertificate>,
    tls: &Option<TlsConnectionSettings>,
    proxy: &Option<ProxyConnectionSettings>,
    field: &str,
    violations: &mut Violations,
) {
    check_headers(headers, &format!("{field}.headers"), violations);
    if let Some(certificate) = certificate {
        for (part, pem, is_needed) in [
            ("cert", &certificate.cert, true),
            ("private_key", &certificate.private_key, true),
            ("ca_cert", &certificate.ca_cert, false),
        ] {
            if pem.is_empty() && is_needed || !pem.is_empty() && !is_pem(pem) {
                violations.add(format!("{field}.certificate.{part}"), "must be in PEM form");
            }
        }
    }
    if let Some(tls) = tls {
        if !tls.ca_pem_contents.is_empty() && !is_pem(tls.ca_pem_contents.as_bytes()) {
            violations.add(format!("{field}.tls.ca_pem_contents"), "must be in PEM form");
        }
        for (part, version) in [("min_version", &tls.min_version), ("max_version", &tls.max_version)] {
            let number = version.strip_prefix("TLSv").unwrap_or(version);
            if !["", "1.0", "1.1", "1.2", "1.3"].contains(&number) {
                violations.add(format!("{field}.tls.{part}"), format!("{version:?} is not a version, such as 1.2"));
            }
        }
    }
    if let Some(proxy) = proxy {
        if proxy.url.is_empty() {
            violations.add(format!("{field}.proxy.url"), "must be given");
        }
        check_text(&proxy.url, &format!("{field}.proxy.url"), violations);
        check_headers(&proxy.connect_headers, &format!("{field}.proxy.connect_headers"), violations);
    }
}

/// Also of other kinds of policy.
pub fn check_headers(headers: &Option<Headers>, field: &str, violations: &mut Violations) {
    for header in headers.iter().flat_map(|headers| &headers.headers) {
        let field = format!("{field}[{:?}]", header.key);
        if HeaderName::from_bytes(header.key.as_bytes()).is_err() {
            violations.add(field, "is not the name of a header");
        } else if HeaderValue::from_str(&header.value).is_err() {
            // Not with the value: it may be a secret.
            violations.add(field, "has a value that no header can have");
        }
    }
}

fn is_pem(bytes: &[u8]) -> bool {
    let begin = b"-----BEGIN ";
    bytes.windows(begin.len()).any(|window| window == begin)
}

fn check_text(text: &str, field: &str, violations: &mut Violations) {
    if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        violations.add(field, format!("must have at most {MAX_TEXT_BYTES} bytes and no control characters"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::opamp::{Header, OpAmpConnectionSettings, OtherConnectionSettings};

    fn violated(settings: ConnectionSettingsOffers) -> Vec<String> {
        let mut violations = Violations::default();
        check(Some(settings), &mut violations);
        violations.fields().map(str::to_owned).collect()
    }

    fn opamp(endpoint: &str) -> OpAmpConnectionSettings {
        OpAmpConnectionSettings { destination_endpoint: endpoint.into(), ..Default::default() }
    }

    #[test]
    fn endpoints_are_whole_urls() {
        let field = "connection_settings.opamp.destination_endpoint";
        for (endpoint, is_good) in [
            ("wss://muster.example:4320/v1/opamp", true),
            ("http://10.0.0.1:4320/v1/opamp", true),
            ("https://[::1]/v1/opamp", true),
            ("", false),
            ("muster:4320", false),
            ("/v1/opamp", false),
            ("ftp://muster/v1/opamp", false),
            ("wss://", false),
        ] {
            let settings = ConnectionSettingsOffers { opamp: Some(opamp(endpoint)), ..Default::default() };
            assert_eq!(violated(settings).contains(&field.to_owned()), !is_good, "{endpoint}");
        }
    }

    #[test]
    fn everything_wrong_is_named() {
        let headers = Headers { headers: vec![Header { key: "a b".into(), value: "c".into() }] };
        let secret = Headers { headers: vec![Header { key: "token".into(), value: "a\nb".into() }] };
        let settings = ConnectionSettingsOffers {
            hash: vec![1].into(),
            opamp: Some(OpAmpConnectionSettings {
                headers: Some(headers),
                certificate: Some(TlsCertificate { cert: "no".into(), ..Default::default() }),
                heartbeat_interval_seconds: 100_000,
                tls: Some(TlsConnectionSettings { min_version: "2".into(), ..Default::default() }),
                ..opamp("wss://muster/v1/opamp")
            }),
            other_connections: [(
                "kafka".to_owned(),
                OtherConnectionSettings {
                    proxy: Some(ProxyConnectionSettings { url: String::new(), connect_headers: Some(secret) }),
                    ..Default::default()
                },
            )]
            .into(),
            ..Default::default()
        };
        let expected = [
            "hash",
            "opamp.heartbeat_interval_seconds",
            "opamp.headers[\"a b\"]",
            "opamp.certificate.cert",
            "opamp.certificate.private_key",
            "opamp.tls.min_version",
            "other_connections[\"kafka\"].destination_endpoint",
            "other_connections[\"kafka\"].proxy.url",
            "other_connections[\"kafka\"].proxy.connect_headers[\"token\"]",
        ];
        assert_eq!(violated(settings), expected.map(|field| format!("connection_settings.{field}")));
        assert_eq!(violated(ConnectionSettingsOffers::default()), ["connection_settings"]);
    }
}
