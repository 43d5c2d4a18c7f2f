//! A report, as it came from a gateway.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::{
    model::{ContentHash, InstanceUid, UnixMs, agent::Transport, policy::PolicyKind},
    proto::{bus, opamp},
    protocol::{
        fields::{self, Value},
        message::tag,
    },
    trace::Parent,
};

/// What one agent said since its last acknowledged report; see `muster.bus.v1.Report`.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub gateway: Arc<str>,
    pub uid: InstanceUid,
    pub generation: u64,
    pub number: u64,
    pub sequence_num: u64,
    /// An encoded AgentToServer.
    pub message: Bytes,
    pub transport: Transport,
    pub last_seen: UnixMs,
    pub opening: Option<bus::Opening>,
    pub is_ending: bool,
    /// The connection settings that were put on the agent's connection.
    pub sent_connection_settings: Option<ContentHash>,
    /// The uid that the agent had until now, on this connection.
    pub former: Option<InstanceUid>,
    /// A digest of the message with which it asked for another; 0 if it did not ask.
    pub uid_request: u64,
    /// The certificate of the built-in authority that its connection was let in by.
    pub certificate: Option<[u8; 16]>,
    /// Of the report's span, if it is traced.
    pub trace: Option<Parent>,
}

impl Report {
    /// `None` for what no gateway sends: a bad uid, or numbers that do not start from 1.
    pub fn from_wire(gateway: &Arc<str>, report: bus::Report) -> Option<Self> {
        let transport = match report.transport() {
            bus::Transport::Websocket => Transport::WebSocket,
            bus::Transport::Http => Transport::Http,
            bus::Transport::Unspecified => Transport::Unknown,
        };
        let uid = InstanceUid::from_slice(&report.instance_uid).ok()?;
        if report.connection_generation == 0 || report.report_number == 0 {
            return None;
        }
        Some(Self {
            gateway: gateway.clone(),
            uid,
            generation: report.connection_generation,
            number: report.report_number,
            sequence_num: report.sequence_num,
            message: report.message,
            transport,
            last_seen: UnixMs::try_from(report.last_seen_unix_ms).unwrap_or(UnixMs::MAX),
            opening: report.opening,
            is_ending: report.ending.is_some(),
            sent_connection_settings: ContentHash::from_slice(&report.sent_connection_settings),
            former: InstanceUid::from_slice(&report.former_instance_uid).ok().filter(|former| *former != uid),
            uid_request: report.uid_request,
            certificate: report.certificate_serial[..].try_into().ok(),
            trace: Parent::from_slice(&report.trace),
        })
    }

    /// Which top-level fields of the message count.
    pub fn carries(&self, field: u32) -> bool {
        fields::fields(&self.message).map_while(Result::ok).any(|found| found.number == field)
    }

    /// Whether it says what became of an offer of this kind.
    pub fn carries_status(&self, kind: PolicyKind) -> bool {
        self.carries(match kind {
            PolicyKind::Config => tag::REMOTE_CONFIG_STATUS,
            PolicyKind::Packages => tag::PACKAGE_STATUSES,
            PolicyKind::ConnectionSettings => tag::CONNECTION_SETTINGS_STATUS,
        })
    }

    pub fn carries_description(&self) -> bool {
        self.carries(tag::AGENT_DESCRIPTION)
    }

    /// The request for a certificate that it makes, if it makes one.
    pub fn certificate_request(&self) -> Option<Bytes> {
        let range = fields::fields(&self.message).map_while(Result::ok).find_map(|field| match field.value {
            Value::Bytes(range) if field.number == tag::CONNECTION_SETTINGS_REQUEST => Some(range),
            _ => None,
        })?;
        let request = opamp::ConnectionSettingsRequest::decode(self.message.slice(range)).ok()?;
        Some(request.opamp?.certificate_request?.csr)
    }

    /// A verdict that acknowledges this report and says nothing else.
    pub fn acknowledged(&self) -> bus::Verdict {
        bus::Verdict { report_number: self.number, ..self.unacknowledged() }
    }

    /// A verdict on this report that acknowledges nothing.
    pub fn unacknowledged(&self) -> bus::Verdict {
        bus::Verdict {
            instance_uid: self.uid.to_bytes(),
            connection_generation: self.generation,
            ..bus::Verdict::default()
        }
    }
}
