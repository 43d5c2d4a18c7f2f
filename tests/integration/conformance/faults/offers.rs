//! Faults of connection settings, packages, commands and custom messages.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use muster::proto::opamp::{ConnectionSettingsOffers, CustomCapabilities, CustomMessage, PackagesAvailable};

use super::*;

pub(super) fn settings(edit: fn(&mut ConnectionSettingsOffers, &Link)) -> Fault {
    reply(move |it, link| {
        if let Some(settings) = &mut it.connection_settings {
            edit(settings, link);
        }
    })
}

fn packages(edit: fn(&mut PackagesAvailable, &Link)) -> Fault {
    reply(move |it, link| {
        if let Some(packages) = &mut it.packages_available {
            edit(packages, link);
        }
    })
}

pub(super) fn no_settings(it: &mut ServerToAgent, _: &Link) {
    it.connection_settings = None;
}

fn no_packages(it: &mut ServerToAgent, _: &Link) {
    it.packages_available = None;
}

/// What was sent to anybody is sent to everybody, again and again.
pub(super) fn settings_for_ever(it: &mut ServerToAgent, link: &Link) {
    let mut sent = link.world.sent.lock();
    match &it.connection_settings {
        Some(settings) => sent.connection_settings = Some(settings.clone()),
        None => it.connection_settings.clone_from(&sent.connection_settings),
    }
}

fn packages_for_ever(it: &mut ServerToAgent, link: &Link) {
    let mut sent = link.world.sent.lock();
    match &it.packages_available {
        Some(packages) => sent.packages_available = Some(packages.clone()),
        None => it.packages_available.clone_from(&sent.packages_available),
    }
}

fn commands_for_ever(it: &mut ServerToAgent, link: &Link) {
    let mut sent = link.world.sent.lock();
    match &it.command {
        Some(command) => sent.command = Some(*command),
        None => it.command.clone_from(&sent.command),
    }
}

fn messages_for_ever(it: &mut ServerToAgent, link: &Link) {
    let mut sent = link.world.sent.lock();
    match &it.custom_message {
        Some(message) => sent.custom_message = Some(message.clone()),
        None => it.custom_message.clone_from(&sent.custom_message),
    }
}

/// Says that it accepts more than it does.
fn accepting(bits: u64) -> Fault {
    message(move |it| it.capabilities |= bits)
}

fn with_number(hash: &Bytes, link: &Link) -> Bytes {
    [&hash[..], &[link.number as u8]].concat().into()
}

fn connection_settings() -> Vec<Broken> {
    let b = broken;
    let lost = "connection settings: not within";
    vec![
        b("SET-01", lost, reply(no_settings)),
        b("SET-02", "the hash is empty", settings(|it, _| it.hash.clear())),
        b("SET-03", "connection settings are offered", accepting(0x100)),
        b(
            "SET-04",
            "the header Authorization is not there",
            settings(|it, _| {
                it.opamp.iter_mut().for_each(|opamp| opamp.headers = None);
            }),
        ),
        b(
            "SET-05",
            "heartbeat_interval_seconds is 0",
            settings(|it, _| {
                it.opamp.iter_mut().for_each(|opamp| opamp.heartbeat_interval_seconds = 0);
            }),
        ),
        b("SET-06", "the offer has no field 3", settings(|it, _| it.own_metrics = None)),
        b("SET-07", "the offer has own_metrics", accepting(0x40)),
        b("SET-08", "connection settings are offered", reply(settings_for_ever)),
        b("SET-09", "connection settings are offered", reply(settings_for_ever)),
        b("SET-10", "connection settings are offered", reply(settings_for_ever)),
        b("SET-11", " and ", settings(|it, link| it.hash = with_number(&it.hash, link))),
        b("SET-12", "both have the hash", settings(|it, _| it.hash = Bytes::from_static(b"always"))),
        b(
            "SET-13",
            "other_settings are not there",
            settings(|it, _| {
                it.other_connections.values_mut().for_each(|other| other.other_settings.clear());
            }),
        ),
        b(
            "SET-14",
            lost,
            reply(|it, _| {
                it.connection_settings.take_if(|settings| {
                    settings.own_metrics.as_ref().is_some_and(|metrics| metrics.destination_endpoint.is_empty())
                });
            }),
        ),
        b("SET-15", "no poll is answered with connection settings", reply(no_settings)),
        b(
            "SET-16",
            lost,
            reply(|it, link| {
                if link.number >= 2 {
                    no_settings(it, link);
                }
            }),
        ),
    ]
}

fn packages_available() -> Vec<Broken> {
    let b = broken;
    let same = || {
        packages(|it, _| {
            it.all_packages_hash = Bytes::from_static(b"always");
            it.packages.values_mut().for_each(|package| package.hash = Bytes::from_static(b"always"));
        })
    };
    vec![
        b("PKG-01", "packages: not within", reply(no_packages)),
        b("PKG-02", "packages are offered", accepting(0x08)),
        b(
            "PKG-03",
            "the package's hash is empty",
            packages(|it, _| {
                it.packages.values_mut().for_each(|package| package.hash.clear());
            }),
        ),
        b(
            "PKG-04",
            "content_hash is",
            packages(|it, _| {
                it.packages
                    .values_mut()
                    .flat_map(|package| &mut package.file)
                    .for_each(|file| file.content_hash.clear());
            }),
        ),
        b(
            "PKG-05",
            "the signature is",
            packages(|it, _| {
                it.packages.values_mut().flat_map(|package| &mut package.file).for_each(|file| file.signature.clear());
            }),
        ),
        b("PKG-06", "packages are offered", reply(packages_for_ever)),
        b("PKG-07", "packages are offered", reply(packages_for_ever)),
        b("PKG-08", "both have the all_packages_hash", same()),
        b(
            "PKG-09",
            "both have the package hash",
            packages(|it, _| {
                it.packages.values_mut().for_each(|package| package.hash = Bytes::from_static(b"always"));
            }),
        ),
        b("PKG-10", " and ", packages(|it, link| it.all_packages_hash = with_number(&it.all_packages_hash, link))),
        b("PKG-11", "no poll is answered with packages", reply(no_packages)),
    ]
}

fn commands() -> Vec<Broken> {
    let b = broken;
    let none = |it: &mut ServerToAgent, _: &Link| it.command = None;
    vec![
        b("CMD-01", "a command: not within", reply(none)),
        b("CMD-02", "beside the command stand", reply(|it, _| it.flags |= u64::from(it.command.is_some()))),
        b("CMD-03", "answered with the command", reply(commands_for_ever)),
        b("CMD-04", "the first reply has the command", reply(commands_for_ever)),
        b("CMD-05", "a command comes", accepting(0x400)),
        b("CMD-06", "no poll is answered with the command", reply(none)),
    ]
}

fn custom_messages() -> Vec<Broken> {
    let b = broken;
    let numbers = Arc::new(AtomicU64::new(0));
    let none = |it: &mut ServerToAgent, _: &Link| it.custom_message = None;
    let spoil = |message: &mut CustomMessage| message.data = Bytes::from_static(b"another");
    let deaf = || message(|it| it.custom_message = None);
    vec![
        b("CUST-01", "it arrives as", reply(move |it, _| it.custom_message.iter_mut().for_each(spoil))),
        b(
            "CUST-02",
            "the custom message comes",
            message(|it| {
                if let Some(custom) = &mut it.custom_capabilities {
                    custom.capabilities.push("org.example.conformance".into());
                }
            }),
        ),
        b("CUST-03", "no poll is answered with the custom message", reply(none)),
        b("CUST-04", "answered with it again", reply(messages_for_ever)),
        b(
            "CUST-05",
            "a custom message: not within|the operator: send a message",
            message(|it| {
                // What is left out is taken for empty.
                it.custom_capabilities.get_or_insert(CustomCapabilities::default());
            }),
        ),
        b(
            "CUST-06",
            "the custom message comes",
            message(|it| {
                it.custom_capabilities.take_if(|custom| custom.capabilities.is_empty());
            }),
        ),
        b("CUST-07", "the operator hears nothing", deaf()),
        b("CUST-08", "the operator hears nothing", deaf()),
        b(
            "CUST-09",
            "the second is not heard",
            message(|it| {
                it.custom_message.take_if(|message| &message.data[..] == b"second");
            }),
        ),
        b(
            "CUST-10",
            "heard twice",
            message(move |it| {
                if it.custom_message.is_some() {
                    // Each looks like another.
                    it.sequence_num = 1_000 + numbers.fetch_add(1, Ordering::Relaxed);
                }
            }),
        ),
    ]
}

/// Files of packages come through the proxy, which spoils the answers.
fn downloads(edit: impl Fn(&mut Response) + Send + Sync + 'static) -> Fault {
    let fault = packages(|it, link| {
        for file in it.packages.values_mut().flat_map(|package| &mut package.file) {
            if let Some((_, path)) = file.download_url.split_once("/v1/packages/") {
                file.download_url = format!("http://{}/v1/packages/{path}", link.proxy);
            }
        }
    });
    let offers = fault.response;
    let response = move |request: &Request, response: &mut Response, link: &Link| {
        if request.path.starts_with("/v1/packages/") {
            edit(response);
        } else if let Some(offers) = &offers {
            offers(request, response, link);
        }
    };
    Fault { response: Some(Box::new(response)), ..fault }
}

fn package_files() -> Vec<Broken> {
    let b = broken;
    let instead =
        |of: u16, status: u16| downloads(move |it| it.status = if it.status == of { status } else { it.status });
    vec![
        b("PKG-12", "whose SHA-256 is", downloads(|it| it.body.truncate(10))),
        b("PKG-13", "the status is 206", instead(200, 206)),
        b("PKG-14", "is answered with status 200", instead(206, 200)),
        b("PKG-15", "the status is 200", instead(401, 200)),
        b("PKG-16", "the status is 200", instead(416, 200)),
        b("PKG-17", "there is no ETag", downloads(|it| it.remove("etag"))),
    ]
}

pub fn table() -> Vec<Broken> {
    [connection_settings(), packages_available(), package_files(), commands(), custom_messages()]
        .into_iter()
        .flatten()
        .collect()
}
