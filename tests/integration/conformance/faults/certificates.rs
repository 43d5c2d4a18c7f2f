//! Faults of certificates that agents ask for.

use muster::proto::opamp::TlsCertificate;

use super::{
    offers::{no_settings, settings, settings_for_ever},
    *,
};

/// A certificate that has nothing to do with anything.
fn another_certificate() -> String {
    rcgen::generate_simple_self_signed(["another.example.com".to_owned()]).unwrap().cert.pem()
}

fn certificate(edit: impl Fn(&mut TlsCertificate) + Clone + Send + Sync + 'static) -> Fault {
    reply(move |it, _| {
        let opamp = it.connection_settings.as_mut().and_then(|settings| settings.opamp.as_mut());
        opamp.and_then(|opamp| opamp.certificate.as_mut()).into_iter().for_each(&edit);
    })
}

pub fn table() -> Vec<Broken> {
    let b = broken;
    let another = another_certificate();
    let with = |set: fn(&mut TlsCertificate, &str)| {
        let another = another.clone();
        certificate(move |it| set(it, &another))
    };
    let for_ever = another.clone();
    vec![
        b("CERT-01", "the certificate is for the key", with(|it, another| it.cert = another.to_owned().into())),
        b("CERT-02", "private_key is there", with(|it, another| it.private_key = another.to_owned().into())),
        b("CERT-03", "not signed by that in ca_cert", with(|it, another| it.ca_cert = another.to_owned().into())),
        b(
            "CERT-04",
            "destination_endpoint is",
            settings(|it, _| it.opamp.iter_mut().for_each(|opamp| opamp.destination_endpoint.clear())),
        ),
        b("CERT-05", "BAD_REQUEST: not within", reply(without_errors)),
        b("CERT-06", "BAD_REQUEST: not within", reply(without_errors)),
        b("CERT-07", "BAD_REQUEST: not within", reply(without_errors)),
        b(
            "CERT-08",
            "another certificate is offered",
            reply(move |it, link| {
                let was_there = it.connection_settings.is_some();
                settings_for_ever(it, link);
                let opamp = it.connection_settings.as_mut().and_then(|settings| settings.opamp.as_mut());
                if let Some(certificate) = opamp.and_then(|opamp| opamp.certificate.as_mut()).filter(|_| !was_there) {
                    certificate.cert = for_ever.clone().into();
                }
            }),
        ),
        b("CERT-09", "connection settings are offered", reply(settings_for_ever)),
        b("CERT-10", "no poll is answered with a certificate", reply(no_settings)),
    ]
}
