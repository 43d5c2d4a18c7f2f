//! Faults in messages: of replies, of the memory of agents, of uids.

use std::time::Duration;

use muster::proto::opamp::{
    AgentRemoteConfig, ConnectionSettingsOffers, CustomCapabilities, CustomMessage, PackagesAvailable,
    ServerErrorResponse, ServerToAgentCommand,
};
use prost::Message as _;

use super::{super::proxy::*, *};

fn exchange() -> Vec<Broken> {
    let b = broken;
    let error_text = "instead of BAD_REQUEST";
    vec![
        b(
            "MSG-01",
            "instance_uid is",
            reply(|it, link| {
                if link.count("replies") > 0 {
                    it.instance_uid = other(&it.instance_uid);
                }
            }),
        ),
        b("MSG-02", "capabilities are 0x0", reply(|it, _| it.capabilities = 0)),
        b("MSG-03", "unknown bits", reply(|it, _| it.capabilities |= 1 << 40)),
        b(
            "MSG-04",
            "replies to 100 messages",
            down(|_, link| if link.count("replies") == 50 { Act::Drop } else { Act::Pass }),
        ),
        b(
            "MSG-05",
            "1 replies to a message",
            up_if(
                |_, link| {
                    let said = link.last();
                    link.world.count(format!("{:?} {}", said.instance_uid, said.sequence_num)) > 0
                },
                || Act::Drop,
            ),
        ),
        b(
            "MSG-06",
            "a reply is for",
            reply(|it, link| {
                if link.count("replies") >= 4 {
                    it.instance_uid = other(&it.instance_uid);
                }
            }),
        ),
        b("MSG-07", "no message within", up_if(|frame, _| frame.payload == [0], || Act::Drop)),
        b("MSG-08", "no message within", up_if(|frame, _| !frame.payload.starts_with(&[0]), || Act::Drop)),
        b("MSG-09", "no message within", up_if(|frame, _| frame.payload.starts_with(&[0x80, 0]), || Act::Drop)),
        b("MSG-10", error_text, reply(without_errors)),
        b("MSG-11", error_text, reply(without_errors)),
        b("MSG-12", error_text, reply(without_errors)),
        b("MSG-13", error_text, reply(without_errors)),
        b(
            "MSG-14",
            "no error_message",
            reply(|it, _| {
                if let Some(error) = &mut it.error_response {
                    error.error_message.clear();
                }
            }),
        ),
        b(
            "MSG-15",
            "beside the error stand",
            reply(|it, _| {
                it.flags |= u64::from(it.error_response.is_some());
            }),
        ),
        b(
            "MSG-16",
            "a Close with code 1002",
            down(|frame, _| {
                if read(frame).is_some_and(|message| message.error_response.is_some()) {
                    Act::Also(Frame::new(CLOSE, 1002u16.to_be_bytes()).encoded())
                } else {
                    Act::Pass
                }
            }),
        ),
        b("MSG-17", error_text, reply(without_errors)),
        b("MSG-18", error_text, reply(without_errors)),
        b("MSG-19", error_text, reply(without_errors)),
        b("MSG-20", error_text, reply(without_errors)),
        b("MSG-21", "answered with error", refuse(|said, frame| frame.payload.len() > 1 + said.encoded_len())),
        b(
            "MSG-22",
            "answered with error",
            refuse(|said, _| said.remote_config_status.as_ref().is_some_and(|status| status.status > 3)),
        ),
        b("MSG-23", "answered with error", refuse(|said, _| said.capabilities >> 40 != 0)),
        b("MSG-24", "took", Fault { delay: Duration::from_millis(1_100), ..Fault::default() }),
        b("MSG-25", "connection", up_if(|_, link| link.count("frames") > 100, || Act::End)),
        b(
            "MSG-26",
            "a new instance_uid",
            reply(|it, link| {
                if link.number >= 2 {
                    rekeys(it, link);
                }
            }),
        ),
        b(
            "MSG-27",
            "no message within",
            up_if(
                |_, link| {
                    link.last().agent_disconnect.is_none() && link.world.has("gone")
                        || link.last().agent_disconnect.is_some() && link.world.count("gone") > 0
                },
                || Act::Drop,
            ),
        ),
        b("MSG-28", "instead of an error", reply(without_errors)),
        b("MSG-29", "instead of an error", reply(without_errors)),
        b("MSG-30", "status 400", status(400, |it, link| it.body.len() > link.last().encoded_len())),
        b("MSG-31", "error 0", reply(|it, _| it.error_response = Some(ServerErrorResponse::default()))),
        b(
            "MSG-32",
            "answered with error",
            refuse(|said, _| said.agent_description.as_ref().is_some_and(|it| it.non_identifying_attributes.len() > 3)),
        ),
        b(
            "MSG-33",
            "answered with error",
            refuse(|said, _| said.health.as_ref().is_some_and(|it| !it.component_health_map.is_empty())),
        ),
    ]
}

fn state() -> Vec<Broken> {
    let b = broken;
    let set = "ReportFullState is set in";
    vec![
        b("STATE-01", "no reply has ReportFullState", reply(never_asks)),
        b("STATE-02", "no reply has ReportFullState", reply(never_asks)),
        b("STATE-03", set, reply(always_asks)),
        b("STATE-04", set, reply(always_asks)),
        b("STATE-05", set, reply(always_asks)),
        b("STATE-06", "times within one second", reply(always_asks)),
        b("STATE-07", "asked 40 times", reply(always_asks)),
        b("STATE-08", set, reply(always_asks)),
        b("STATE-09", set, reply(always_asks)),
        b("STATE-10", set, reply(always_asks)),
        b("STATE-11", "no reply has ReportFullState", reply(never_asks)),
        b("STATE-12", "answered with error", refuse(|said, _| said.sequence_num > u64::MAX - 9)),
        b("STATE-13", "no answer has ReportFullState", reply(never_asks)),
        b("STATE-14", "no answer has ReportFullState", reply(never_asks)),
        b("STATE-15", "has ReportFullState", reply(always_asks)),
        b("STATE-16", "times for one gap", reply(always_asks)),
        b("STATE-17", set, reply(always_asks)),
        b("STATE-18", "over plain HTTP it is asked", reply(always_asks)),
        b("STATE-19", "without capabilities is answered", reply(always_asks)),
    ]
}

fn identity() -> Vec<Broken> {
    let b = broken;
    let none = "no agent_identification";
    let of_uid = |edit: fn(&mut Vec<u8>)| {
        reply(move |it, _| {
            if let Some(identification) = &mut it.agent_identification {
                let mut uid = identification.new_instance_uid.to_vec();
                edit(&mut uid);
                identification.new_instance_uid = uid.into();
            }
        })
    };
    vec![
        b("UID-01", none, reply(never_rekeys)),
        b("UID-02", "the version is 0", of_uid(|uid| uid[6] &= 0x0f)),
        b("UID-03", none, reply(never_rekeys)),
        b(
            "UID-04",
            "instance_uid is",
            reply(|it, _| {
                if let Some(identification) = &it.agent_identification {
                    it.instance_uid = identification.new_instance_uid.clone();
                }
            }),
        ),
        b("UID-05", "both are given", of_uid(|uid| *uid = vec![7; 16])),
        b("UID-06", "asked for its full state", reply(always_asks)),
        b("UID-07", "another uid", reply(rekeys)),
        b("UID-08", "uids for 30 requests", of_uid(|uid| *uid = rand::random::<[u8; 16]>().to_vec())),
        b("UID-09", "the first is given 0 new uids, the second 0", reply(never_rekeys)),
        b("UID-10", "more uids", reply(rekeys)),
        b("UID-11", "a reply is for", reply(|it, _| it.instance_uid = other(&it.instance_uid))),
        b("UID-12", "the agent is given a new uid", reply(rekeys)),
        b("UID-13", "an agent that did not ask", reply(rekeys)),
        b("UID-14", "the agent with the socket is given", reply(rekeys)),
        b("UID-15", "asked for its full state", of_uid(|uid| uid[15] ^= 1)),
        b("UID-16", "asked for its full state", reply(always_asks)),
    ]
}

fn extensions() -> Vec<Broken> {
    let b = broken;
    let asks_components = || reply(|it, _| it.flags |= REPORT_COMPONENTS);
    vec![
        b("EXT-01", "answered with error", refuse(|said, _| said.custom_message.is_some())),
        b("EXT-02", "a custom message comes", reply(|it, _| it.custom_message = Some(CustomMessage::default()))),
        b("EXT-03", "connection", up_if(|_, link| link.last().custom_message.is_some(), || Act::End)),
        b(
            "EXT-04",
            "they are",
            reply(|it, _| {
                it.custom_capabilities = Some(CustomCapabilities { capabilities: vec!["a".into(), "a".into()] });
            }),
        ),
        b("EXT-05", "no reply has", reply(|it, _| it.flags &= !REPORT_COMPONENTS)),
        b("EXT-06", "replies have ReportAvailableComponents", asks_components()),
        b("EXT-07", "a reply has ReportAvailableComponents", asks_components()),
        b("EXT-08", "another agent with the same hash is asked", asks_components()),
        b("EXT-09", "replies have ReportAvailableComponents", asks_components()),
        b(
            "EXT-10",
            "BAD_REQUEST",
            reply(|it, _| {
                it.capabilities |= 0x40;
                it.error_response = None;
            }),
        ),
        b(
            "EXT-11",
            "connection settings are offered",
            reply(|it, _| {
                it.capabilities &= !0x40;
                it.connection_settings = Some(ConnectionSettingsOffers::default());
            }),
        ),
        b(
            "EXT-12",
            "it is offered a remote_config",
            reply(|it, _| {
                it.remote_config = Some(AgentRemoteConfig::default());
            }),
        ),
        b(
            "EXT-13",
            "the offer's hash is empty",
            reply(|it, _| {
                it.connection_settings = Some(ConnectionSettingsOffers::default());
            }),
        ),
        b(
            "EXT-14",
            "all_packages_hash is empty",
            reply(|it, _| {
                it.packages_available = Some(PackagesAvailable::default());
            }),
        ),
        b("EXT-15", "a command comes", reply(|it, _| it.command = Some(ServerToAgentCommand::default()))),
        b(
            "EXT-16",
            "packages_available comes from a server",
            reply(|it, _| {
                it.capabilities &= !0x08;
                it.packages_available = Some(PackagesAvailable::default());
            }),
        ),
        b("EXT-17", "answered with error", refuse(|said, _| said.package_statuses.is_some())),
        b("EXT-18", "answered with error", refuse(|said, _| said.connection_settings_status.is_some())),
    ]
}

pub fn table() -> Vec<Broken> {
    [exchange(), state(), identity(), extensions()].into_iter().flatten().collect()
}
