//! Connection settings: which of them an agent should have, and their hash.

use std::collections::BTreeSet;

use prost::Message;
use sha2::{Digest, Sha256};

use super::{
    ContentHash,
    agent::{Desired, Observed},
    desired::DesiredOffer,
    policy::PolicyKind,
};
use crate::proto::opamp::{
    AgentCapabilities, ConnectionSettingsOffers, OpAmpConnectionSettings, TelemetryConnectionSettings, TlsCertificate,
};

/// Offered to agents that send heartbeats where no policy gives an interval: the specification's own. Real clients stop their
/// heartbeats when they are offered none.
pub const DEFAULT_HEARTBEAT_S: u64 = 30;

/// Takes from `more` the parts that `settings` does not have.
pub fn add_missing(settings: &mut ConnectionSettingsOffers, more: &ConnectionSettingsOffers) {
    fn add<T: Clone>(part: &mut Option<T>, more: &Option<T>) {
        if part.is_none() {
            part.clone_from(more);
        }
    }
    add(&mut settings.opamp, &more.opamp);
    add(&mut settings.own_metrics, &more.own_metrics);
    add(&mut settings.own_traces, &more.own_traces);
    add(&mut settings.own_logs, &more.own_logs);
    for (name, other) in &more.other_connections {
        settings.other_connections.entry(name.clone()).or_insert_with(|| other.clone());
    }
}

/// Where each part goes, by its name.
pub fn endpoints(settings: &ConnectionSettingsOffers) -> Vec<(String, String)> {
    let telemetry = |settings: &Option<TelemetryConnectionSettings>| {
        settings.as_ref().map(|settings| settings.destination_endpoint.clone())
    };
    let named = [
        ("opamp", settings.opamp.as_ref().map(|settings| settings.destination_endpoint.clone())),
        ("own_metrics", telemetry(&settings.own_metrics)),
        ("own_traces", telemetry(&settings.own_traces)),
        ("own_logs", telemetry(&settings.own_logs)),
    ];
    let named = named.into_iter().filter_map(|(part, endpoint)| Some((part.to_owned(), endpoint?)));
    let others = settings.other_connections.iter();
    named.chain(others.map(|(name, other)| (format!("{OTHER}{name}"), other.destination_endpoint.clone()))).collect()
}

/// What an agent should have of the `merged` settings of its policies: the parts that it takes, each complete, and empty
/// endpoints for those that it was to have once (as `desired` remembers, and from now on also of these). `endpoint` is
/// where agents reach this deployment, for those that are to have a certificate and no policy says where it is for.
///
/// `None` if there is nothing to offer.
pub fn offer(
    merged: &ConnectionSettingsOffers,
    observed: &Observed,
    desired: &mut Desired,
    endpoint: &str,
) -> Option<DesiredOffer> {
    let has = |capability| observed.has(capability);
    let mut offers = ConnectionSettingsOffers::default();
    if has(AgentCapabilities::AcceptsOpAmpConnectionSettings) {
        offers.opamp = opamp(merged.opamp.as_ref(), observed, desired, endpoint);
    }
    let parts = &mut desired.connection_settings_parts;
    if has(AgentCapabilities::ReportsOwnMetrics) {
        offers.own_metrics = telemetry(merged.own_metrics.as_ref(), "own_metrics", parts);
    }
    if has(AgentCapabilities::ReportsOwnTraces) {
        offers.own_traces = telemetry(merged.own_traces.as_ref(), "own_traces", parts);
    }
    if has(AgentCapabilities::ReportsOwnLogs) {
        offers.own_logs = telemetry(merged.own_logs.as_ref(), "own_logs", parts);
    }
    if has(AgentCapabilities::AcceptsOtherConnectionSettings) {
        offers.other_connections.clone_from(&merged.other_connections);
        for name in merged.other_connections.keys() {
            parts.insert(format!("{OTHER}{name}"));
        }
        for name in parts.iter().filter_map(|part| part.strip_prefix(OTHER)) {
            offers.other_connections.entry(name.to_owned()).or_default();
        }
    }
    (offers != ConnectionSettingsOffers::default()).then(|| hashed(offers))
}

/// In front of the name of an other connection.
const OTHER: &str = "other_connections/";

fn opamp(
    policy: Option<&OpAmpConnectionSettings>,
    observed: &Observed,
    desired: &Desired,
    endpoint: &str,
) -> Option<OpAmpConnectionSettings> {
    let mut settings = match policy {
        Some(policy) => policy.clone(),
        None if desired.certificate.is_some() => {
            OpAmpConnectionSettings { destination_endpoint: endpoint.to_owned(), ..Default::default() }
        }
        None => return None,
    };
    match observed.has(AgentCapabilities::ReportsHeartbeat) {
        true if settings.heartbeat_interval_seconds == 0 => settings.heartbeat_interval_seconds = DEFAULT_HEARTBEAT_S,
        true => {}
        false => settings.heartbeat_interval_seconds = 0,
    }
    if let Some(own) = &desired.certificate {
        settings.certificate = Some(TlsCertificate {
            cert: own.certificate.clone(),
            private_key: Default::default(),
            ca_cert: own.issuer.clone(),
        });
    }
    Some(settings)
}

fn telemetry(
    policy: Option<&TelemetryConnectionSettings>,
    part: &str,
    parts: &mut BTreeSet<String>,
) -> Option<TelemetryConnectionSettings> {
    if policy.is_some() && !parts.contains(part) {
        parts.insert(part.to_owned());
    }
    match policy {
        Some(policy) => Some(policy.clone()),
        None => parts.contains(part).then(Default::default),
    }
}

/// The hash covers every field. An encoding is canonical: fields stand in the order of their numbers, and maps are sorted.
fn hashed(mut offers: ConnectionSettingsOffers) -> DesiredOffer {
    let mut hasher = Sha256::new();
    hasher.update(b"muster connection settings v1\0");
    hasher.update(offers.encode_to_vec());
    let hash = ContentHash(hasher.finalize().into());
    offers.hash = hash.to_bytes();
    DesiredOffer { kind: PolicyKind::ConnectionSettings, hash, body: offers.encode_to_vec().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::agent::Certificate, proto::opamp::OtherConnectionSettings};

    fn all() -> ConnectionSettingsOffers {
        let telemetry = |text: &str| {
            Some(TelemetryConnectionSettings { destination_endpoint: text.to_owned(), ..Default::default() })
        };
        let other = OtherConnectionSettings { destination_endpoint: "kafka:9092".into(), ..Default::default() };
        ConnectionSettingsOffers {
            opamp: Some(OpAmpConnectionSettings {
                destination_endpoint: "wss://muster/v1/opamp".into(),
                heartbeat_interval_seconds: 60,
                ..Default::default()
            }),
            own_metrics: telemetry("http://metrics"),
            own_traces: telemetry("http://traces"),
            own_logs: telemetry("http://logs"),
            other_connections: [("kafka".to_owned(), other)].into(),
            ..Default::default()
        }
    }

    fn decoded(offer: Option<DesiredOffer>) -> ConnectionSettingsOffers {
        ConnectionSettingsOffers::decode(offer.expect("an offer").body).expect("it was encoded just now")
    }

    fn agent(capabilities: &[AgentCapabilities]) -> Observed {
        let capabilities = capabilities.iter().fold(0, |bits, capability| bits | *capability as u64);
        Observed { capabilities, ..Observed::default() }
    }

    #[test]
    fn an_agent_gets_the_parts_that_it_takes() {
        use AgentCapabilities as Capability;
        type Has = fn(&ConnectionSettingsOffers) -> bool;
        let cases: [(&[Capability], Has); 5] = [
            (&[Capability::AcceptsOpAmpConnectionSettings], |offers| offers.opamp.is_some()),
            (&[Capability::ReportsOwnMetrics], |offers| offers.own_metrics.is_some()),
            (&[Capability::ReportsOwnTraces], |offers| offers.own_traces.is_some()),
            (&[Capability::ReportsOwnLogs], |offers| offers.own_logs.is_some()),
            (&[Capability::AcceptsOtherConnectionSettings], |offers| !offers.other_connections.is_empty()),
        ];
        for (capabilities, has) in &cases {
            let offers = decoded(offer(&all(), &agent(capabilities), &mut Desired::default(), ""));
            assert!(has(&offers), "{capabilities:?}");
            assert_eq!(cases.iter().filter(|(_, has)| has(&offers)).count(), 1, "{capabilities:?}");
        }
        let reports = &[Capability::ReportsRemoteConfig, Capability::ReportsHeartbeat];
        assert_eq!(offer(&all(), &agent(reports), &mut Desired::default(), ""), None);
    }

    #[test]
    fn heartbeats_go_on() {
        let accepts = AgentCapabilities::AcceptsOpAmpConnectionSettings;
        let mut without = all();
        if let Some(opamp) = &mut without.opamp {
            opamp.heartbeat_interval_seconds = 0;
        }
        for (settings, capabilities, seconds) in [
            (&all(), &[accepts, AgentCapabilities::ReportsHeartbeat][..], 60),
            (&without, &[accepts, AgentCapabilities::ReportsHeartbeat], DEFAULT_HEARTBEAT_S),
            (&all(), &[accepts], 0),
        ] {
            let offers = decoded(offer(settings, &agent(capabilities), &mut Desired::default(), ""));
            assert_eq!(offers.opamp.map(|opamp| opamp.heartbeat_interval_seconds), Some(seconds));
        }
    }

    #[test]
    fn what_is_no_longer_wanted_is_withdrawn() {
        let capabilities = [AgentCapabilities::ReportsOwnMetrics, AgentCapabilities::AcceptsOtherConnectionSettings];
        let (observed, mut desired) = (agent(&capabilities), Desired::default());
        let none = ConnectionSettingsOffers::default();
        assert_eq!(offer(&none, &observed, &mut desired, ""), None);
        let first = offer(&all(), &observed, &mut desired, "");
        let withdrawn = decoded(offer(&none, &observed, &mut desired, ""));
        assert_eq!(withdrawn.own_metrics, Some(TelemetryConnectionSettings::default()));
        assert_eq!(withdrawn.own_traces, None, "it never had that");
        assert_eq!(withdrawn.other_connections["kafka"], OtherConnectionSettings::default());
        assert_eq!(offer(&all(), &observed, &mut desired, ""), first);
    }

    #[test]
    fn a_certificate_makes_complete_settings() {
        let certificate = Certificate {
            certificate: "pem".into(),
            issuer: "ca".into(),
            serial: vec![1; 16].into(),
            not_after: 1,
            is_used: false,
        };
        let mut desired = Desired { certificate: Some(certificate), ..Desired::default() };
        let observed = agent(&[AgentCapabilities::AcceptsOpAmpConnectionSettings]);
        let none = ConnectionSettingsOffers::default();
        let own = decoded(offer(&none, &observed, &mut desired, "wss://here")).opamp.expect("its own settings");
        assert_eq!((&*own.destination_endpoint, own.certificate.is_some()), ("wss://here", true));
        let policys = decoded(offer(&all(), &observed, &mut desired, "wss://here")).opamp.expect("its own settings");
        assert_eq!((&*policys.destination_endpoint, policys.certificate.is_some()), ("wss://muster/v1/opamp", true));
    }
}
