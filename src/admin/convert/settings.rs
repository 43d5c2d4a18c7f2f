//! Connection settings, as operators may see them: without credentials.

use crate::proto::opamp::{ConnectionSettingsOffers, Headers, ProxyConnectionSettings, TlsCertificate};

/// Values of headers and private keys are left out.
pub fn without_secrets(mut settings: ConnectionSettingsOffers) -> ConnectionSettingsOffers {
    if let Some(opamp) = &mut settings.opamp {
        hide(&mut opamp.headers, &mut opamp.certificate, &mut opamp.proxy);
    }
    let telemetry = [&mut settings.own_metrics, &mut settings.own_traces, &mut settings.own_logs];
    for telemetry in telemetry.into_iter().flatten() {
        hide(&mut telemetry.headers, &mut telemetry.certificate, &mut telemetry.proxy);
    }
    for other in settings.other_connections.values_mut() {
        hide(&mut other.headers, &mut other.certificate, &mut other.proxy);
    }
    settings
}

fn hide(
    headers: &mut Option<Headers>,
    certificate: &mut Option<TlsCertificate>,
    proxy: &mut Option<ProxyConnectionSettings>,
) {
    hide_values(headers);
    if let Some(certificate) = certificate {
        certificate.private_key.clear();
    }
    if let Some(proxy) = proxy {
        hide_values(&mut proxy.connect_headers);
    }
}

pub fn hide_values(headers: &mut Option<Headers>) {
    for header in headers.iter_mut().flat_map(|headers| &mut headers.headers) {
        header.value.clear();
    }
}
