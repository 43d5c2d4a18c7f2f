//! Faults that show when there is an operator, or a second node.

use muster::proto::opamp::{
    AgentConfigObject, AgentDescription, AgentRemoteConfig, ComponentHealth, RemoteConfigStatuses,
};

use super::{super::proxy::*, *};

/// Spoils the files of offers.
fn files(edit: fn(&mut AgentConfigObject)) -> Fault {
    reply(move |it, _| {
        let config = it.remote_config.as_mut().and_then(|offer| offer.config.as_mut());
        config.into_iter().flat_map(|config| config.config_map.values_mut()).for_each(edit);
    })
}

/// Spoils the hash of offers.
fn hashes(edit: fn(&Bytes, &Link) -> Bytes) -> Fault {
    reply(move |it, link| {
        if let Some(offer) = &mut it.remote_config {
            offer.config_hash = edit(&offer.config_hash, link);
        }
    })
}

fn cut(file: &mut AgentConfigObject) {
    file.body.truncate(file.body.len() / 2);
}

fn config() -> Vec<Broken> {
    let b = broken;
    let accepts = || message(|it| it.capabilities |= 0x02);
    vec![
        b("CFG-01", "an offer: not within", reply(never_offers)),
        b("CFG-02", "offered", accepts()),
        b("CFG-03", "config_hash is empty", hashes(|_, _| Bytes::new())),
        b("CFG-04", "role \"\" instead of", files(|file| file.role.clear())),
        b("CFG-05", "arrive as", files(cut)),
        b("CFG-06", "offered", reply(offers_for_ever)),
        b("CFG-07", "an offer: not within", reply(never_offers)),
        b("CFG-08", "offered", reply(offers_for_ever)),
        b("CFG-09", "offered", reply(offers_for_ever)),
        b("CFG-10", "offered", reply(offers_for_ever)),
        b("CFG-11", "an offer to a silent agent", reply(never_offers)),
        b("CFG-12", "no remote_config is offered", reply(never_offers)),
        b("CFG-13", "an agent that has it is offered it", reply(offers_for_ever)),
        b("CFG-14", " and ", hashes(|hash, link| [&hash[..], &[link.number as u8]].concat().into())),
        b("CFG-15", "both have the hash", hashes(|_, _| Bytes::from_static(b"always"))),
        b("CFG-16", "both have the hash", hashes(|_, _| Bytes::from_static(b"always"))),
        b(
            "CFG-17",
            "an empty configuration",
            reply(|it, _| {
                let empty = AgentRemoteConfig { config: None, config_hash: Bytes::from_static(b"empty") };
                it.remote_config.get_or_insert(empty);
            }),
        ),
        b(
            "CFG-18",
            "an offer: not within",
            reply(|it, link| {
                if link.number >= 2 {
                    never_offers(it, link);
                }
            }),
        ),
        b("CFG-19", "offered", reply(offers_for_ever)),
        b("CFG-20", "an offer after a heartbeat", reply(never_offers)),
        b("CFG-21", "it accepts no configuration", accepts()),
        b("CFG-22", "an offer: not within", reply(never_offers)),
        b(
            "CFG-23",
            "the offer is for",
            reply(|it, _| {
                if it.remote_config.is_some() {
                    it.instance_uid = other(&it.instance_uid);
                }
            }),
        ),
        b(
            "CFG-24",
            "the message's header is 9",
            down(|frame, _| {
                let is_offer = read(frame).is_some_and(|message| message.remote_config.is_some());
                if is_offer {
                    // A ping has found its way into it.
                    frame.payload = [&Frame::new(PING, []).encoded(), &frame.payload[..]].concat();
                }
                Act::Pass
            }),
        ),
        b("CFG-25", "capabilities are", reply(|it, _| it.capabilities &= !0x02)),
        b("CFG-26", "bytes arrive", files(cut)),
        b(
            "CFG-27",
            "an offer: not within",
            reply(|it, link| {
                if link.number >= 2 {
                    never_offers(it, link);
                }
            }),
        ),
        b(
            "CFG-28",
            "an offer: not within",
            reply(|it, link| {
                if it.remote_config.is_some() && link.count("offers") > 0 {
                    never_offers(it, link);
                }
            }),
        ),
    ]
}

fn observed() -> Vec<Broken> {
    let b = broken;
    let status = |from: RemoteConfigStatuses, to: RemoteConfigStatuses| {
        message(move |it| {
            if let Some(status) = &mut it.remote_config_status
                && status.status == from as i32
            {
                status.status = to as i32;
            }
        })
    };
    let forgets_goodbyes = || message(|it| it.agent_disconnect = None);
    vec![
        b("SEEN-01", "does not see that it is connected", message(|it| it.agent_description = None)),
        b(
            "SEEN-02",
            "t.bytes is None",
            message(|it| {
                if let Some(description) = &mut it.agent_description {
                    description.non_identifying_attributes.retain(|attribute| attribute.key != "t.bytes");
                }
            }),
        ),
        b(
            "SEEN-03",
            "the components are",
            message(|it| {
                if let Some(health) = &mut it.health {
                    health.component_health_map.values_mut().for_each(|inner| inner.component_health_map.clear());
                }
            }),
        ),
        b(
            "SEEN-04",
            "the effective configuration is",
            message(|it| {
                let config = it.effective_config.as_mut().and_then(|config| config.config_map.as_mut());
                config.into_iter().flat_map(|config| config.config_map.values_mut()).for_each(cut);
            }),
        ),
        b(
            "SEEN-05",
            "the attributes are",
            message(|it| {
                it.agent_description.get_or_insert(AgentDescription::default());
            }),
        ),
        b(
            "SEEN-06",
            "does not see that its health is empty",
            message(|it| {
                it.health.take_if(|health| *health == ComponentHealth::default());
            }),
        ),
        b("SEEN-07", "does not see that it has left", forgets_goodbyes()),
        b("SEEN-08", "does not see that it has left", forgets_goodbyes()),
        b("SEEN-09", "does not see that its connection is gone", Fault { keeps_server: true, ..Fault::default() }),
        b(
            "SEEN-10",
            "the agent is known",
            up(|frame, _| {
                if AgentToServer::decode(&frame.payload[1..]).is_err() {
                    // Takes what can be read of it for a message: the uid.
                    frame.payload.truncate(19);
                }
                Act::Pass
            }),
        ),
        b(
            "SEEN-11",
            "and why",
            message(|it| {
                if let Some(status) = &mut it.remote_config_status {
                    status.error_message.clear();
                }
            }),
        ),
        b("SEEN-12", "it is APPLYING", status(RemoteConfigStatuses::Applying, RemoteConfigStatuses::Applied)),
        b("SEEN-13", "see that FAILED", status(RemoteConfigStatuses::Failed, RemoteConfigStatuses::Applied)),
        b("SEEN-14", "does not see that it runs", message(|it| it.health = None)),
        b("SEEN-15", "does not see that it accepts restarts", message(|it| it.capabilities &= !0x400)),
        b(
            "SEEN-16",
            "does not see that it runs",
            reply(|it, _| {
                if let Some(identification) = &mut it.agent_identification {
                    identification.new_instance_uid = other(&identification.new_instance_uid);
                }
            }),
        ),
        b(
            "SEEN-17",
            "a revoked token is answered with status 403",
            response(|_, it| {
                it.status = if it.status == 401 { 403 } else { it.status };
            }),
        ),
        b(
            "SEEN-18",
            "nothing within",
            Fault { keeps_tcp: true, ..down(|frame, _| if frame.opcode() == CLOSE { Act::Drop } else { Act::Pass }) },
        ),
    ]
}

fn nodes() -> Vec<Broken> {
    let b = broken;
    vec![
        b("NODE-01", "asks for its full state", at_second(always_asks)),
        b("NODE-02", "asks for its full state", at_second(always_asks)),
        b("NODE-03", "no reply has ReportFullState", at_second(never_asks)),
        b("NODE-04", "the other 0x1", at_second(|it, _| it.capabilities = 1)),
        b("NODE-05", "is answered with ReportFullState", at_second(always_asks)),
        b("NODE-06", "0 new uids are given", reply(never_rekeys)),
        b("NODE-07", "the other node gives it a new uid", at_second(rekeys)),
        b("NODE-08", "an offer at the second node", at_second(never_offers)),
        b("NODE-09", " and ", hashes(|hash, link| [&hash[..], &[link.node as u8]].concat().into())),
        b("NODE-10", "it is offered to an agent", reply(offers_for_ever)),
        b("NODE-11", "is offered by the other node", reply(offers_for_ever)),
        b("NODE-12", "an offer: not within", at_second(never_offers)),
        b("NODE-13", "asks for its full state", at_second(always_asks)),
    ]
}

pub fn table() -> Vec<Broken> {
    [config(), observed(), nodes()].into_iter().flatten().collect()
}
