//! Faults of connection settings, commands and custom messages.

use muster::proto::opamp::{ConnectionSettingsOffers, CustomCapabilities, CustomMessage};

use super::*;

fn settings(edit: fn(&mut ConnectionSettingsOffers, &Link)) -> Fault {
    reply(move |it, link| {
        if let Some(settings) = &mut it.connection_settings {
            edit(settings, link);
        }
    })
}

fn no_settings(it: &mut ServerToAgent, _: &Link) {
    it.connection_settings = None;
}

/// What was sent to anybody is sent to everybody, again and again.
fn settings_for_ever(it: &mut ServerToAgent, link: &Link) {
    let mut sent = link.world.sent.lock();
    match &it.connection_settings {
        Some(settings) => sent.connection_settings = Some(settings.clone()),
        None => it.connection_settings.clone_from(&sent.connection_settings),
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
    ]
}

pub fn table() -> Vec<Broken> {
    [connection_settings(), commands(), custom_messages()].into_iter().flatten().collect()
}
