//! What a report makes of its agent's record.

use bytes::Bytes;
use prost::Message;

use super::{Meaning, generations, note_reached, recompute};
use crate::{
    config_service::{
        certificates::Facts,
        convergence::{self, Answer},
        policies::{Pace, Snapshot},
        report::Report,
    },
    model::{
        AgentRecord, Attributes, ContentHash, InstanceUid, UnixMs,
        agent::{Forgotten, Lost, Observed, OfferStatus, Presence, Reported},
        effective::{self, Effective},
        health::{self, Transition},
        offer::{self, Convergence},
        packages,
        policy::PolicyKind,
        proof, quarantine,
    },
    proto::{
        bus,
        opamp::{AgentCapabilities, ComponentHealth, PackageStatuses, PackagesAvailable},
    },
    protocol::{
        message::tag,
        observe::{self, Components, Observation},
    },
};

/// What a decision depends on besides the report and the record.
pub struct Context<'a> {
    pub policies: &'a Snapshot,
    pub now: UnixMs,
    /// What is known of certificates; `None` if it was not looked up.
    pub certificates: Option<&'a Facts>,
    /// Whether a gateway is known to be gone, so that asking it is of no use.
    pub is_gateway_dead: &'a dyn Fn(&str) -> bool,
    /// Whether a change that may go out at this pace may go to one agent more now. Whoever is told so is counted.
    pub may_offer: &'a dyn Fn(Option<&Pace>) -> bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// There is nothing to store.
    Answer(bus::Verdict),
    Write(Box<Decided>),
    /// An older connection of this agent may be alive: whoever holds it is to be asked first. Until then nothing is
    /// acknowledged.
    Probe(Connection),
    /// Two live agents have this uid. The report is that of an agent with this other uid, and to be decided as such.
    StoreUnder(InstanceUid),
}

/// A record to be written, and what follows once it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    pub record: AgentRecord,
    pub contents: Option<(ContentHash, Bytes)>,
    pub meaning: Meaning,
    pub verdict: bus::Verdict,
    pub news: News,
    /// What the agent says of what it was offered.
    pub answers: Vec<Answer>,
    /// What the agent runs is to be compared with what it was offered.
    pub to_compare: bool,
    /// An operator can see a difference.
    pub is_visible: bool,
    /// The message could not be read, so only its arrival is stored.
    pub unreadable: Option<String>,
}

/// What a report says that is stored beside the record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    pub transitions: Vec<Transition>,
    /// An encoded `CustomCapabilities`.
    pub custom_capabilities: Option<Bytes>,
    pub components: Option<Components>,
}

/// One connection of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub gateway: String,
    pub generation: u64,
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    pub of: Connection,
    pub found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The agent is no longer there; the last sequence number that was seen, where it is known.
    Gone {
        last_sequence_num: Option<u64>,
    },
    /// Nobody has answered in time. The newcomer has the agent's record; whoever holds the older connection hears so, and what
    /// lives there speaks up.
    Silent,
    Alive,
}

/// Decides on `report`, given the stored record of the agent `uid`. That is the report's own uid, unless an earlier outcome was
/// [`Outcome::StoreUnder`].
pub fn decide(
    uid: InstanceUid,
    row: Option<AgentRecord>,
    report: &Report,
    resolution: Option<&Resolution>,
    context: &Context<'_>,
) -> Outcome {
    let Some(row) = row else {
        // A second agent with this uid has left before it got another.
        if uid != report.uid && report.is_ending {
            return Outcome::Answer(report.acknowledged());
        }
        return write(uid, AgentRecord::new(uid, context.now), report, Start::Unknown, context);
    };
    let known = &row.presence;
    if report.generation < known.connection_generation {
        return Outcome::Answer(superseded(known, report));
    }
    if report.generation == known.connection_generation {
        return same_connection(uid, row, report, context);
    }
    let old = Connection { gateway: known.gateway.clone(), generation: known.connection_generation };
    let mut probed_sequence_num = None;
    if known.connected && *report.gateway != *known.gateway {
        match resolution.filter(|resolution| resolution.of == old).map(|resolution| resolution.found) {
            Some(Found::Gone { last_sequence_num }) => probed_sequence_num = last_sequence_num,
            Some(Found::Silent) => {}
            Some(Found::Alive) => return Outcome::StoreUnder(uid.successor(report.generation)),
            None if (context.is_gateway_dead)(&known.gateway) => {}
            None => return Outcome::Probe(old),
        }
    }
    let start = match is_contiguous(&row, report, probed_sequence_num) {
        true => Start::Contiguous,
        false => Start::Unknown,
    };
    write(uid, row, report, start, context)
}

/// How a report relates to what is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// It goes on with a connection that is known.
    Established,
    /// It is the first of a connection, and nothing was missed before it.
    Contiguous,
    /// It is the first of a connection, and something may have been missed.
    Unknown,
}

/// The answer to a report of a connection that is older than the one stored.
fn superseded(known: &Presence, report: &Report) -> bus::Verdict {
    if report.is_ending {
        return report.acknowledged();
    }
    bus::Verdict { newer_connection_generation: known.connection_generation, ..report.unacknowledged() }
}

fn same_connection(uid: InstanceUid, row: AgentRecord, report: &Report, context: &Context<'_>) -> Outcome {
    // Two gateways that chose one number in the same microsecond: this one is to choose a larger.
    if *report.gateway != *row.presence.gateway {
        return Outcome::Answer(superseded(&row.presence, report));
    }
    if report.number > row.presence.report_number {
        return write(uid, row, report, Start::Established, context);
    }
    // A repeat of a report whose verdict was lost, and with it whatever else it said.
    let mut verdict = answer(uid, &row, report, context);
    if uid == report.uid && row.presence.connected {
        for kind in PolicyKind::ALL {
            let was_offered = row.desired.of(kind).offered_at.is_some();
            if was_offered && offer::convergence(&row, kind) == Convergence::Behind {
                put_offer(&mut verdict, &row, kind, false);
            }
        }
    }
    Outcome::Answer(verdict)
}

fn is_contiguous(row: &AgentRecord, report: &Report, probed: Option<u64>) -> bool {
    let Some(opening) = report.opening.as_ref().filter(|opening| !opening.follows_another) else {
        return false;
    };
    let previous = opening.previous_sequence_num.or(probed).unwrap_or(row.presence.sequence_num);
    // The same number is a retransmission of a message that was taken.
    opening.first_sequence_num == previous || Some(opening.first_sequence_num) == previous.checked_add(1)
}

/// Whether the agent's client was made for this connection: clients count from 0 or 1.
fn begins_anew(report: &Report) -> bool {
    report.opening.as_ref().is_some_and(|opening| opening.first_sequence_num <= 1)
}

/// Whether a program was started again, and says so with everything that it has: what it leaves out it has no more.
fn is_afresh(report: &Report, start: Start) -> bool {
    let follows_another = report.opening.as_ref().is_some_and(|opening| opening.follows_another);
    start != Start::Established && begins_anew(report) && report.carries_description() && !follows_another
}

/// Of an agent that starts afresh. Its configuration and packages may be on a disk that it has no more.
fn forget_unsaid(observed: &mut Observed, observation: &mut Observation, report: &Report) {
    if !report.carries_status(PolicyKind::Config) {
        observed.config = Reported::default();
    }
    if !report.carries_status(PolicyKind::Packages) {
        (observed.packages, observed.package_statuses) = (Reported::default(), Bytes::new());
    }
    observation.custom_capabilities.get_or_insert_default();
}

/// Whether an agent that connects anew says that it has other connection settings than it was sent: those were lost. One that says
/// nothing of them may have them all the same. (Its first report may be the first to tell that they were sent, before it.)
fn has_other_settings(observed: &Observed, report: &Report, start: Start) -> bool {
    let (reported, sent) = (&observed.connection_settings.hash, observed.sent_connection_settings);
    start != Start::Established
        && report.carries_status(PolicyKind::ConnectionSettings)
        && !reported.is_empty()
        && sent.is_some_and(|sent| reported[..] != sent.0)
}

/// Whether it is known that the agent has what it should have of this kind, whatever it made of that.
fn has_desired(record: &AgentRecord, kind: PolicyKind) -> bool {
    let hash = record.desired.of(kind).hash;
    hash.is_some_and(|hash| record.observed.reported(kind).hash[..] == hash.0)
}

/// Whether the agent tells on its connection of a configuration, having had one that it did not work on. Another than that it
/// should have it is to be offered that. (One that works on it, or refuses it, goes back by itself: see [`quarantine`].)
fn goes_back(before: &AgentRecord, report: &Report, start: Start) -> bool {
    let is_settled = matches!(before.observed.config.status, OfferStatus::Applied | OfferStatus::Unset);
    start == Start::Established && is_settled && report.carries_status(PolicyKind::Config)
}

/// Whether a report after a gap may not say all that was missed. A description alone does not: clients send that when it changes. But
/// what a new client says first is everything; and of an agent that was not known nothing is missing.
fn may_lack_some(before: &AgentRecord, observed: &Observed, report: &Report) -> bool {
    let lacks = |capability, field| observed.has(capability) && !report.carries(field);
    before.version > 0
        && !begins_anew(report)
        && (lacks(AgentCapabilities::ReportsHealth, tag::HEALTH)
            || lacks(AgentCapabilities::ReportsEffectiveConfig, tag::EFFECTIVE_CONFIG))
}

fn write(uid: InstanceUid, before: AgentRecord, report: &Report, start: Start, context: &Context<'_>) -> Outcome {
    if let Some(reason) = context.certificates.and_then(|facts| facts.is_refused) {
        let refusal = reason.to_owned();
        return Outcome::Answer(bus::Verdict { refuses_certificate: true, refusal, ..report.unacknowledged() });
    }
    let mut record = before.clone();
    record.presence = presence(&before.presence, report);
    let is_new_connection = start != Start::Established;
    if is_new_connection {
        record.desired.lost_packages = offer::lost_packages(&before);
        record.desired.reset_offers();
    }
    if start == Start::Unknown {
        record.observed.complete = false;
    }
    let (mut observation, unreadable) = match observe::observe(&mut record.observed, &report.message) {
        Ok(observation) => (observation, None),
        Err(error) => (Observation::default(), Some(error.to_string())),
    };
    if start == Start::Unknown && may_lack_some(&before, &record.observed, report) {
        record.observed.complete = false;
    }
    let is_afresh = is_afresh(report, start) && unreadable.is_none();
    if is_afresh && before.version > 0 {
        forget_unsaid(&mut record.observed, &mut observation, report);
    }
    let contents = record.observed.effective_config.zip(observation.effective_config.clone());
    let news = News {
        transitions: transitions(&before.observed, &record.observed, report.last_seen),
        custom_capabilities: observation.custom_capabilities,
        components: observation.components,
    };
    if report.sent_connection_settings.is_some() {
        record.observed.sent_connection_settings = report.sent_connection_settings;
        record.observed.sent_connection_settings_at = context.now;
    } else if begins_anew(report)
        && offer::is_forgotten(record.observed.sent_connection_settings_at, context.now)
        && !report.carries_status(PolicyKind::ConnectionSettings)
    {
        record.observed.sent_connection_settings = None;
        record.observed.connection_settings = Reported::default();
    }
    let has_other_settings = unreadable.is_none() && has_other_settings(&record.observed, report, start);
    if has_other_settings {
        record.observed.sent_connection_settings = None;
    }
    let has_new_certificate = take_certificate(&mut record, context);
    for kind in PolicyKind::ALL {
        if before.observed.accepts(kind) && !record.observed.accepts(kind) {
            // What was offered may not have been sent: once it accepts this kind again, it is offered it at once.
            record.desired.of_mut(kind).reset_offers();
        }
    }
    // A change of policies is brought to established connections by reconciliation, at its own pace.
    let (mut meaning, mut pace) = (Meaning::default(), None);
    let has_new_capabilities = before.observed.capabilities != record.observed.capabilities;
    let has_new_uid = report.former.is_some();
    // While rollouts go on, nothing is offered by policies that are no longer in force: one may have been paused since.
    let is_outdated = context.policies.is_divided() && record.desired.epoch < context.policies.epoch();
    if (is_new_connection
        || report.carries_description()
        || has_new_capabilities
        || has_new_certificate
        || has_new_uid
        || is_outdated)
        && let Some(computed) = recompute(&mut record, context.policies, context.now)
    {
        (meaning, pace) = (computed.0, Some(computed.1));
    }
    for kind in PolicyKind::ALL {
        let forgets = match kind {
            PolicyKind::Config => has_desired(&before, kind) && (is_afresh || goes_back(&before, report, start)),
            PolicyKind::Packages => has_desired(&before, kind) && is_afresh,
            PolicyKind::ConnectionSettings => has_other_settings,
        };
        if forgets && !has_desired(&record, kind) {
            offer::forget(before.desired.of(kind), record.desired.of_mut(kind), context.now);
        } else if is_new_connection && report.carries_status(kind) && has_desired(&record, kind) {
            record.desired.of_mut(kind).forgotten = Forgotten::default();
        }
    }
    if report.carries_status(PolicyKind::Packages) && unreadable.is_none() {
        see_beside_offer(&mut record, context.policies);
    }
    // After what it should have is known, so that an agent that is new here is not offered what it says it refused.
    for kind in PolicyKind::ALL {
        if report.carries_status(kind) && unreadable.is_none() {
            let (reported_before, reported) = (before.observed.reported(kind), record.observed.reported(kind));
            quarantine::take_status(reported_before, reported, record.desired.of_mut(kind), is_new_connection);
        }
    }
    if matches!(offer::convergence(&record, PolicyKind::Packages), Convergence::Converged | Convergence::Quarantined) {
        record.desired.lost_packages = Lost::default();
    }
    if report.carries_status(PolicyKind::Config) && record.desired.effective == Effective::Retried {
        // It was offered again, and this is what became of that.
        record.desired.effective = Effective::Drifted;
    }
    let to_compare = effective::follow(&before, &mut record);
    let mut verdict = answer(uid, &record, report, context);
    let mut offered = Vec::new();
    // A newcomer that is to take another uid is offered what it should have once its gateway knows it by that.
    if uid == report.uid {
        let is_held = is_held(&record, pace, context);
        for kind in PolicyKind::ALL {
            let waits = is_held && offer::replaces_something(&record, kind);
            if !waits && offer::offer_if_due(&mut record, kind, context.now) {
                let repeat = start == Start::Established && is_repeat(&before, &record, kind);
                put_offer(&mut verdict, &record, kind, repeat);
                offered.push(kind);
            }
        }
    }
    note_reached(&mut record, context.policies, meaning.rollouts.as_ref(), &offered, generations(&before));
    for kind in PolicyKind::ALL {
        proof::follow(&mut record, kind, is_new_connection, context.now);
    }
    // What is stored for the agent already is not collected as garbage, and need not be stored again.
    let contents = contents.filter(|(hash, _)| before.observed.effective_config != Some(*hash));
    let is_visible = is_visibly_different(&before, &record);
    let answers = convergence::answers(&before, &record);
    Outcome::Write(Box::new(Decided {
        record,
        contents,
        meaning,
        verdict,
        news,
        answers,
        to_compare,
        is_visible,
        unreadable,
    }))
}

/// Whether changes of what the agent has wait for the pace at which they go out; a sweep finds them. What an agent lacks it is
/// offered at once, also when others wait. `pace` as far as it was computed.
fn is_held(record: &AgentRecord, pace: Option<Option<Pace>>, context: &Context<'_>) -> bool {
    let is_change = |kind| offer::is_due(record, kind, context.now) && offer::replaces_something(record, kind);
    if !PolicyKind::ALL.into_iter().any(is_change) {
        return false;
    }
    let attributes = || Attributes::decode(&record.observed.description);
    let pace = pace.unwrap_or_else(|| context.policies.merged(record, &attributes()).pace);
    !(context.may_offer)(pace.as_ref())
}

/// What was said of packages is seen anew, beside what was offered, if that is known and may make a difference.
fn see_beside_offer(record: &mut AgentRecord, policies: &Snapshot) {
    let (desired, reported) = (record.desired.packages.hash, &record.observed.packages);
    let Some(hash) = desired.filter(|hash| reported.hash[..] == hash.0 && reported.status != OfferStatus::Applied)
    else {
        return;
    };
    let attributes = Attributes::decode(&record.observed.description);
    let merged = policies.merged(record, &attributes);
    let Some(offer) = merged.packages.filter(|offer| offer.hash == hash) else { return };
    let statuses = PackageStatuses::decode(record.observed.package_statuses.clone());
    if let (Ok(statuses), Ok(offer)) = (statuses, PackagesAvailable::decode(offer.body.clone())) {
        record.observed.packages = packages::reported_of(&statuses, &offer);
    }
}

/// Takes the certificate that the agent was issued, or has used; whether it is another than before.
fn take_certificate(record: &mut AgentRecord, context: &Context<'_>) -> bool {
    let Some(facts) = context.certificates else { return false };
    let own = &mut record.desired.certificate;
    if facts.is_used
        && let Some(own) = own
    {
        own.is_used = true;
    }
    let Some(issued) = &facts.issued else { return false };
    let is_another = own.as_ref().is_none_or(|own| own.serial != issued.serial);
    if is_another {
        *own = Some(issued.clone());
    }
    is_another
}

fn transitions(before: &Observed, after: &Observed, at: UnixMs) -> Vec<Transition> {
    if before.health == after.health {
        return Vec::new();
    }
    let decode = |health: &Bytes| ComponentHealth::decode(health.clone()).ok();
    let known = (!before.health.is_empty()).then(|| decode(&before.health)).flatten();
    decode(&after.health).map(|after| health::transitions(known.as_ref(), &after, at)).unwrap_or_default()
}

fn presence(before: &Presence, report: &Report) -> Presence {
    Presence {
        connected: !report.is_ending,
        transport: report.transport,
        gateway: report.gateway.to_string(),
        connection_generation: report.generation,
        report_number: report.number,
        sequence_num: report.sequence_num,
        last_seen: report.last_seen.max(before.last_seen),
    }
}

/// Acknowledges the report, and says what its gateway cannot know: at the start of a connection, whether state was missed
/// (on an established one the gateway sees gaps itself), and the uid that the agent is to take.
fn answer(uid: InstanceUid, record: &AgentRecord, report: &Report, context: &Context<'_>) -> bus::Verdict {
    let is_start = report.opening.is_some() || record.version == 0;
    let mut verdict = report.acknowledged();
    verdict.report_full_state = is_start && !record.observed.complete && !report.is_ending;
    verdict.refusal = context.certificates.and_then(|facts| facts.refusal.clone()).unwrap_or_default();
    if uid != report.uid {
        verdict.new_instance_uid = uid.to_bytes();
    }
    verdict
}

/// Whether the agent may have been sent what it should have on this connection, and is to be sent that all the same.
fn is_repeat(before: &AgentRecord, after: &AgentRecord, kind: PolicyKind) -> bool {
    let (before, desired) = (before.desired.of(kind), after.desired.of(kind));
    let is_forgotten = desired.forgotten.times > 0;
    let was_offered = before.hash == desired.hash && (before.offered_at.is_some() || is_forgotten);
    was_offered && (is_forgotten || offer::may_be_sent_again(after, kind))
}

fn put_offer(verdict: &mut bus::Verdict, record: &AgentRecord, kind: PolicyKind, repeat: bool) {
    let desired = record.desired.of(kind);
    if let Some(hash) = desired.hash {
        let offer = bus::Offer {
            hash: hash.to_bytes(),
            generation: desired.generation,
            kind: bus::OfferKind::from(kind) as i32,
            repeat,
        };
        verdict.offers.push(offer);
    }
}

fn is_visibly_different(before: &AgentRecord, after: &AgentRecord) -> bool {
    let place = |record: &AgentRecord| {
        let desired = PolicyKind::ALL.map(|kind| record.desired.of(kind));
        let desired = desired.map(|desired| (desired.hash, desired.quarantined));
        (record.presence.connected, record.presence.transport, desired)
    };
    before.version == 0
        || before.observed != after.observed
        || place(before) != place(after)
        || before.desired.unrendered != after.desired.unrendered
        || before.presence.gateway != after.presence.gateway
}
