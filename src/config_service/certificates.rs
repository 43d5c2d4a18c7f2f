//! Client certificates: what is to be known of them to decide on a report, and requests for new ones.
//!
//! What a report says of certificates is taken before it is decided on, each step by itself, so that it does no harm to take it
//! again: the report comes again until its agent's record is written.

use super::{
    report::Report,
    shared::{Shared, unix_ms},
};
use crate::{
    model::{
        AgentRecord, InstanceUid, agent,
        certificate::{self, Answer, Issued, State},
    },
    pki,
    store::{self, Actor},
};

/// Whether agents get certificates, and by whose word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Nobody gets one.
    Off,
    /// An operator decides; but an agent that speaks by a good certificate of its own gets its next one at once.
    Manual,
    /// Each agent gets one for its own uid.
    Automatic,
}

/// Whoever decides on behalf of Muster itself.
const SYSTEM: &str = "system";

/// What the store and the authority say beside an agent's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The certificate that the agent asked for.
    pub issued: Option<agent::Certificate>,
    /// Why it is not to have the one that it asked for.
    pub refusal: Option<String>,
    /// Why the one that it has connected with is not believed any more.
    pub is_refused: Option<&'static str>,
    /// It has connected with the one that its record names.
    pub is_used: bool,
}

/// What there is to find out; `None` for most reports, which have nothing to do with certificates.
pub async fn facts(
    shared: &Shared,
    uid: InstanceUid,
    row: Option<&AgentRecord>,
    report: &Report,
) -> store::Result<Option<Facts>> {
    let request = report.certificate_request();
    let own = row.and_then(|row| row.desired.certificate.as_ref());
    let unsure_of = report.certificate.filter(|serial| {
        let is_known = own.is_some_and(|own| own.is_used && own.serial == serial[..]);
        report.opening.is_some() && !report.is_ending && !is_known
    });
    if request.is_none() && unsure_of.is_none() {
        return Ok(None);
    }
    let mut facts = Facts::default();
    if let Some(serial) = unsure_of {
        // One that is not known is believed: the authority has signed it.
        match shared.store.use_certificate(serial, unix_ms()).await? {
            Some(State::Superseded) => facts.is_refused = Some("a later certificate of this agent has been used"),
            Some(State::Revoked) => facts.is_refused = Some("the client certificate has been revoked"),
            _ => facts.is_used = own.is_some_and(|own| own.serial == serial[..]),
        }
    }
    if let Some(csr) = request
        && facts.is_refused.is_none()
    {
        match decide(shared, uid, report, &csr).await? {
            Ok(issued) => facts.issued = issued.map(|issued| issued.for_agent()),
            Err(refusal) => facts.refusal = Some(refusal),
        }
    }
    if let (Some(issued), Some(own)) = (&mut facts.issued, own) {
        issued.is_used = own.is_used && own.serial == issued.serial;
    }
    Ok(Some(facts))
}

/// The certificate that the agent is to have for its request, none yet while an operator is to decide, or why not.
async fn decide(
    shared: &Shared,
    uid: InstanceUid,
    report: &Report,
    csr: &[u8],
) -> store::Result<Result<Option<Issued>, String>> {
    let Some(issuer) = shared.issuer() else {
        return Ok(Err(shared.config.no_certificates.to_owned()));
    };
    let request = match pki::Request::parse(csr) {
        Ok(request) => request,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let now = unix_ms();
    let known = shared.store.agent_certificates(uid).await?;
    let generation = match certificate::answer(&known, &request.public_key, now) {
        Answer::Has(issued) => return Ok(Ok(Some(issued.clone()))),
        Answer::Waits => return Ok(Ok(None)),
        Answer::Refused(State::Revoked) => {
            return Ok(Err("the certificate for this key has been revoked: make another key".to_owned()));
        }
        Answer::Refused(_) => return Ok(Err(certificate::DENIED.to_owned())),
        Answer::TooOften => return Ok(Err("too many requests for certificates: come back in an hour".to_owned())),
        Answer::New(generation) => generation,
    };
    let is_renewal = known.iter().any(|other| {
        let serial = other.issued.as_ref().map(|issued| issued.serial);
        other.state == State::Issued && serial.is_some() && serial == report.certificate
    });
    let is_approved = shared.config.certificate_approval == Approval::Automatic || is_renewal;
    let issued = match is_approved {
        false => None,
        true => match issuer.issue(uid, &request.public_key, now) {
            Ok(issued) => Some(issued),
            Err(error) => {
                tracing::error!(agent = %uid, %error, "a certificate cannot be issued");
                return Ok(Err(format!("a certificate cannot be issued: {error}")));
            }
        },
    };
    let new = certificate::Request {
        id: uuid::Uuid::now_v7(),
        uid,
        public_key: request.public_key.into(),
        generation,
        state: if is_approved { State::Issued } else { State::Pending },
        requested_at: now,
        decided_at: is_approved.then_some(now),
        decided_by: if is_approved { SYSTEM.to_owned() } else { String::new() },
        issued,
        used_at: None,
    };
    let actor = Actor { name: SYSTEM.to_owned(), token_id: String::new(), now };
    // Another replica may have been first: what is stored counts.
    let stored = shared.store.request_certificate(&new, &actor).await?;
    tracing::info!(agent = %uid, id = %stored.id, state = stored.state.name(), "certificate requested");
    Ok(Ok(stored.issued.filter(|_| stored.state == State::Issued)))
}
