//! What an agent's row keeps encoded in one column: see `muster.store.v1.AgentMore`.

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use super::{Error, Result};
use crate::{
    model::{
        AgentRecord, ContentHash, InstanceUid,
        agent::{Certificate, Desired, Forgotten, Lost, Observed, OfferStatus, Reported, Wanted},
        effective::{self, Effective},
        offer::{Convergence, convergence},
        policy::PolicyKind,
        proof::Unproven,
    },
    proto::store,
};

/// The kinds of offer that are in it.
const KINDS: [PolicyKind; 2] = [PolicyKind::Packages, PolicyKind::ConnectionSettings];

/// Whether the agent is behind with something that is in it.
pub(super) fn is_behind(agent: &AgentRecord) -> bool {
    let is_retried = effective::is_retried(agent) && convergence(agent, PolicyKind::Config) == Convergence::Behind;
    is_retried || KINDS.into_iter().any(|kind| convergence(agent, kind) == Convergence::Behind)
}

/// Nothing for an agent that has nothing of it.
pub(super) fn encode(observed: &Observed, desired: &Desired) -> Vec<u8> {
    let more = store::AgentMore {
        packages: wanted(&desired.packages),
        connection_settings: wanted(&desired.connection_settings),
        package_statuses: observed.package_statuses.clone(),
        packages_status: status(&observed.packages),
        config_unproven: unproven(desired.config.unproven),
        config_forgotten: forgotten(desired.config.forgotten),
        connection_settings_status: status(&observed.connection_settings),
        sent_connection_settings: bytes(observed.sent_connection_settings),
        effective: desired.effective as i32,
        config_refusal: desired.config.refusal.clone(),
        sent_connection_settings_unix_ms: observed.sent_connection_settings_at,
        connection_settings_parts: desired.connection_settings_parts.iter().cloned().collect(),
        certificate: desired.certificate.as_ref().map(|own| store::Certificate {
            certificate: own.certificate.clone(),
            issuer: own.issuer.clone(),
            serial: own.serial.clone(),
            not_after_unix_ms: own.not_after,
            is_used: own.is_used,
        }),
        unrendered: desired.unrendered.clone(),
        placement: desired.placement.map(InstanceUid::to_bytes).unwrap_or_default(),
        lost_packages: desired.lost_packages.connections.into(),
        lost_packages_unix_ms: desired.lost_packages.offered_at,
        reached: desired.reached.iter().flat_map(|id| *id.as_bytes()).collect(),
    };
    more.encode_to_vec()
}

pub(super) fn decode(more: Vec<u8>, observed: &mut Observed, desired: &mut Desired) -> Result<()> {
    if more.is_empty() {
        return Ok(());
    }
    let damaged = |error: prost::DecodeError| Error::damaged("agent", error);
    let more = store::AgentMore::decode(Bytes::from(more)).map_err(damaged)?;
    observed.package_statuses = more.package_statuses;
    observed.packages = reported(more.packages_status);
    observed.connection_settings = reported(more.connection_settings_status);
    observed.sent_connection_settings = hash(&more.sent_connection_settings)?;
    observed.sent_connection_settings_at = more.sent_connection_settings_unix_ms;
    desired.config.unproven = unproven_of(more.config_unproven);
    desired.config.forgotten = forgotten_of(more.config_forgotten);
    desired.packages = desired_of(more.packages)?;
    desired.connection_settings = desired_of(more.connection_settings)?;
    desired.effective = Effective::from_number(more.effective);
    desired.config.refusal = more.config_refusal;
    desired.connection_settings_parts = more.connection_settings_parts.into_iter().collect();
    desired.certificate = more.certificate.map(|own| Certificate {
        certificate: own.certificate,
        issuer: own.issuer,
        serial: own.serial,
        not_after: own.not_after_unix_ms,
        is_used: own.is_used,
    });
    desired.unrendered = more.unrendered;
    desired.lost_packages =
        Lost { connections: more.lost_packages.min(u16::MAX.into()) as u16, offered_at: more.lost_packages_unix_ms };
    desired.placement = InstanceUid::from_slice(&more.placement).ok();
    desired.reached = more.reached.chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok()).collect();
    Ok(())
}

fn wanted(wanted: &Wanted) -> Option<store::Desired> {
    (*wanted != Wanted::default()).then(|| store::Desired {
        hash: bytes(wanted.hash),
        generation: wanted.generation,
        quarantined: bytes(wanted.quarantined),
        offered_at_unix_ms: wanted.offered_at,
        offer_attempts: wanted.offer_attempts.into(),
        unproven: unproven(wanted.unproven),
        forgotten: forgotten(wanted.forgotten),
        refusal: wanted.refusal.clone(),
    })
}

fn desired_of(desired: Option<store::Desired>) -> Result<Wanted> {
    let Some(desired) = desired else { return Ok(Wanted::default()) };
    Ok(Wanted {
        hash: hash(&desired.hash)?,
        generation: desired.generation,
        quarantined: hash(&desired.quarantined)?,
        offered_at: desired.offered_at_unix_ms,
        offer_attempts: desired.offer_attempts.min(u16::MAX.into()) as u16,
        unproven: unproven_of(desired.unproven),
        forgotten: forgotten_of(desired.forgotten),
        refusal: desired.refusal,
    })
}

fn unproven(unproven: Option<Unproven>) -> Option<store::Unproven> {
    unproven.map(|Unproven { since, returns }| store::Unproven { since_unix_ms: since, returns: returns.into() })
}

fn unproven_of(unproven: Option<store::Unproven>) -> Option<Unproven> {
    unproven.map(|store::Unproven { since_unix_ms, returns }| Unproven {
        since: since_unix_ms,
        returns: returns.min(u16::MAX.into()) as u16,
    })
}

fn forgotten(forgotten: Forgotten) -> Option<store::Forgotten> {
    let Forgotten { times, offered_at } = forgotten;
    (times > 0).then(|| store::Forgotten { times: times.into(), offered_at_unix_ms: offered_at })
}

fn forgotten_of(forgotten: Option<store::Forgotten>) -> Forgotten {
    let store::Forgotten { times, offered_at_unix_ms: offered_at } = forgotten.unwrap_or_default();
    Forgotten { times: times.min(u16::MAX.into()) as u16, offered_at }
}

fn reported(reported: Option<store::Reported>) -> Reported {
    let store::Reported { status, hash, error } = reported.unwrap_or_default();
    Reported { status: OfferStatus::from_number(status), hash, error }
}

fn status(reported: &Reported) -> Option<store::Reported> {
    (*reported != Reported::default()).then(|| store::Reported {
        status: reported.status as i32,
        hash: reported.hash.clone(),
        error: reported.error.clone(),
    })
}

fn bytes(hash: Option<ContentHash>) -> Bytes {
    hash.map(ContentHash::to_bytes).unwrap_or_default()
}

fn hash(bytes: &Bytes) -> Result<Option<ContentHash>> {
    (!bytes.is_empty()).then(|| super::row::hash(bytes.to_vec())).transpose()
}
