//! What policies without files offer, as a file of JSON. Values of headers and keys are not in it: what a validator says goes
//! to whoever applies.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::File;
use crate::{
    model::policy::{PolicyKind, PolicyOffer},
    proto::opamp::{
        ConnectionSettingsOffers, DownloadableFile, Headers, PackageAvailable, PackageType, ProxyConnectionSettings,
        TlsCertificate, TlsConnectionSettings,
    },
};

/// `None` for a configuration, which has files.
pub fn as_file(policy: &str, offer: &PolicyOffer) -> Option<File> {
    let (kind, field, content) = match offer {
        PolicyOffer::Config(_) => return None,
        PolicyOffer::Packages(packages) => (PolicyKind::Packages, "packages", self::packages(packages)),
        PolicyOffer::ConnectionSettings(settings) => {
            (PolicyKind::ConnectionSettings, "connections", connections(settings))
        }
    };
    let whole = json!({ "kind": kind.name(), "name": policy, field: content });
    let body = Bytes::from(format!("{whole:#}\n"));
    Some(File { name: "policy.json".to_owned(), content_type: "application/json".to_owned(), body })
}

fn packages(packages: &BTreeMap<String, PackageAvailable>) -> Value {
    let one = |package: &PackageAvailable| {
        let file = package.file.clone().unwrap_or_default();
        let DownloadableFile { download_url, content_hash, signature, headers } = file;
        json!({
            "type": match package.r#type() {
                PackageType::TopLevel => "top_level",
                PackageType::Addon => "addon",
            },
            "version": package.version,
            "url": download_url,
            "sha256": hex::encode(content_hash),
            "signature": hex::encode(signature),
            "headers": names(headers.as_ref()),
        })
    };
    packages.iter().map(|(name, package)| (name.clone(), one(package))).collect()
}

/// By part; other connections as `other/NAME`.
fn connections(offers: &ConnectionSettingsOffers) -> Value {
    let mut parts = serde_json::Map::new();
    if let Some(opamp) = &offers.opamp {
        let mut one =
            connection(&opamp.destination_endpoint, &opamp.headers, &opamp.certificate, &opamp.tls, &opamp.proxy);
        one["heartbeat_interval_seconds"] = opamp.heartbeat_interval_seconds.into();
        parts.insert("opamp".to_owned(), one);
    }
    let telemetry =
        [("own_metrics", &offers.own_metrics), ("own_traces", &offers.own_traces), ("own_logs", &offers.own_logs)];
    for (part, own) in telemetry {
        if let Some(own) = own {
            let one = connection(&own.destination_endpoint, &own.headers, &own.certificate, &own.tls, &own.proxy);
            parts.insert(part.to_owned(), one);
        }
    }
    for (name, other) in &offers.other_connections {
        let mut one =
            connection(&other.destination_endpoint, &other.headers, &other.certificate, &other.tls, &other.proxy);
        one["settings"] = json!(other.other_settings);
        parts.insert(format!("other/{name}"), one);
    }
    parts.into()
}

fn connection(
    endpoint: &str,
    headers: &Option<Headers>,
    certificate: &Option<TlsCertificate>,
    tls: &Option<TlsConnectionSettings>,
    proxy: &Option<ProxyConnectionSettings>,
) -> Value {
    json!({
        "endpoint": endpoint,
        "headers": names(headers.as_ref()),
        "certificate": certificate.as_ref().map(|own| String::from_utf8_lossy(&own.cert).into_owned()),
        "tls": tls.as_ref().map(|tls| json!({
            "ca_pem": tls.ca_pem_contents,
            "include_system_ca_certs_pool": tls.include_system_ca_certs_pool,
            "insecure_skip_verify": tls.insecure_skip_verify,
            "min_version": tls.min_version,
            "max_version": tls.max_version,
            "cipher_suites": tls.cipher_suites,
        })),
        "proxy": proxy.as_ref().map(|proxy| json!({
            "url": proxy.url,
            "headers": names(proxy.connect_headers.as_ref()),
        })),
    })
}

fn names(headers: Option<&Headers>) -> Vec<&str> {
    headers.map(|headers| headers.headers.iter().map(|header| header.key.as_str()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::opamp::{Header, OpAmpConnectionSettings};

    #[test]
    fn secrets_stay_here() {
        let header = Header { key: "Authorization".into(), value: "Bearer secret".into() };
        let opamp = OpAmpConnectionSettings {
            destination_endpoint: "wss://example.com".into(),
            headers: Some(Headers { headers: vec![header] }),
            certificate: Some(TlsCertificate {
                cert: "cert".into(),
                private_key: "secret".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let settings = ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
        let file = as_file("base", &PolicyOffer::ConnectionSettings(Box::new(settings))).unwrap();
        let text = String::from_utf8(file.body.to_vec()).unwrap();
        assert!(!text.contains("secret"), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["kind"], "ConnectionSettings");
        assert_eq!(value["connections"]["opamp"]["headers"], json!(["Authorization"]));
        assert_eq!(value["connections"]["opamp"]["certificate"], "cert");
    }
}
