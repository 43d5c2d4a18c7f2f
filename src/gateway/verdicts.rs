//! What the config service says to this gateway: verdicts on reports, offers, bodies, probes, agent tokens.

use std::sync::{Arc, atomic::Ordering};

use prost::Message;
use tokio::task::coop::consume_budget;

use super::{
    Shared,
    agents::{Entry, Link, Now, Offer, Probe},
    certificates, commands, duplicates, offers,
    registry::Agents,
    reply, spans, vouching, websocket,
};
use crate::{
    bus::{Event, Subscription, Topic},
    model::{ContentHash, InstanceUid},
    proto::bus::{GatewayBatch, OfferGroup, OfferKind, Verdict},
    trace::{self, Parent},
};

/// Who was heard within this time, in seconds, is taken to be here.
const LIVELY_S: u32 = 10;

/// Receives from the bus, for ever.
pub async fn run(shared: Arc<Shared>, mut subscription: Box<dyn Subscription>) {
    subscription.set_topics(vec![Topic::Gateway(shared.node.clone())]).await;
    shared.is_subscribed.store(true, Ordering::Relaxed);
    shared.outgoing.want_tokens();
    loop {
        match subscription.next().await {
            Event::Message { payload, .. } => match GatewayBatch::decode(payload) {
                Ok(batch) => take(&shared, batch).await,
                Err(error) => tracing::warn!(%error, "unreadable batch from the config service"),
            },
            Event::Gap => {
                tracing::info!("messages of the bus may have been missed: connections are announced again");
                shared.metrics.bus_gaps.increment(1);
                shared.reopen_all();
            }
        }
    }
}

/// Gives way to other tasks in between, as often as the runtime wishes: a batch may concern thousands of agents, and the
/// next one may be here already.
async fn take(shared: &Shared, batch: GatewayBatch) {
    consume_budget().await;
    for body in &batch.bodies {
        if let Some(hash) = ContentHash::from_slice(&body.hash) {
            offers::take_body(shared, body.kind().into(), hash, &body.body).await;
        }
    }
    if let Some(tokens) = batch.agent_tokens.filter(|tokens| shared.tokens.takes(tokens)) {
        // Once there are tokens, it is known as well whose certificates are believed.
        certificates::replace(shared, &tokens);
        shared.tokens.replace(&tokens);
    }
    for refused in &batch.refused_certificates {
        certificates::take_refused(shared, refused);
    }
    for verdict in &batch.verdicts {
        consume_budget().await;
        if let Ok(uid) = InstanceUid::from_slice(&verdict.instance_uid) {
            take_verdict(shared, uid, verdict);
        }
    }
    trace::within(Parent::from_slice(&batch.trace), async {
        for group in &batch.offers {
            take_offers(shared, group).await;
        }
    })
    .await;
    for ask in &batch.component_asks {
        consume_budget().await;
        if let Ok(uid) = InstanceUid::from_slice(&ask.instance_uid) {
            ask_components(shared, uid, ask.connection_generation);
        }
    }
    for group in batch.commands {
        commands::take(shared, group).await;
    }
    for probe in &batch.probes {
        consume_budget().await;
        if let Ok(uid) = InstanceUid::from_slice(&probe.instance_uid) {
            let newcomer = InstanceUid::from_slice(&probe.newcomer_uid).unwrap_or(uid);
            duplicates::probe(shared, uid, Probe { generation: probe.connection_generation, newcomer });
        }
    }
    batch.uid_answers.iter().for_each(|answer| vouching::take(shared, answer));
}

async fn take_offers(shared: &Shared, group: &OfferGroup) {
    let Some(hash) = ContentHash::from_slice(&group.hash) else { return };
    let span = spans::offers(group);
    let mut sent: i64 = 0;
    for (uid, generation) in group.instance_uids.chunks_exact(16).zip(&group.generations) {
        consume_budget().await;
        if let Ok(uid) = InstanceUid::from_slice(uid) {
            // Not across an await: what waits for the body goes on with the trace.
            let _entered = span.enter();
            let is_sent = offers::offer(shared, uid, offer_of(group.kind(), hash, *generation), group.repeat);
            sent += i64::from(is_sent);
        }
    }
    span.set("muster.offer.sent", || sent);
}

fn offer_of(kind: OfferKind, hash: ContentHash, generation: u64) -> Offer {
    Offer { kind: kind.into(), hash, generation: u32::try_from(generation).unwrap_or(u32::MAX) }
}

fn take_verdict(shared: &Shared, uid: InstanceUid, verdict: &Verdict) {
    let span = spans::verdict(uid, verdict);
    let _entered = span.enter();
    if verdict.refuses_certificate {
        return certificates::refuse(shared, uid, verdict.connection_generation, &verdict.refusal);
    }
    if let Ok(new_uid) = InstanceUid::from_slice(&verdict.new_instance_uid) {
        duplicates::rename(shared, uid, new_uid, verdict);
        take_verdict_of(shared, new_uid, verdict);
        return;
    }
    take_verdict_of(shared, uid, verdict);
}

fn take_verdict_of(shared: &Shared, uid: InstanceUid, verdict: &Verdict) {
    let now = shared.now();
    let agents = &mut *shared.registry.lock(&uid);
    let Some(entry) = agents.entries.get_mut(&uid) else { return };
    if entry.generation != verdict.connection_generation {
        return;
    }
    if verdict.newer_connection_generation > entry.generation {
        return superseded(shared, agents, uid, verdict.newer_connection_generation);
    }
    if entry.acknowledged(verdict.report_number) {
        shared.metrics.reports_acknowledged.increment(1);
        if !entry.is_live() && entry.rare.as_ref().is_none_or(|rare| rare.contender.is_none()) {
            shared.registry.remove(agents, &uid);
            return;
        }
    }
    let offering = spans::Offering::new(entry, verdict);
    note_wishes(shared, entry, verdict);
    reply::deliver(shared, uid, entry, true, now.ms);
    if let Some(offering) = offering {
        offering.done(shared, entry);
    }
    commands::deliver(shared, entry, now.ms);
    shared.want_body(uid, entry);
    entry.tidy(now.ms);
    shared.registry.set_active(agents, &uid);
}

/// The store knows of a later connection of the agent.
fn superseded(shared: &Shared, agents: &mut Agents, uid: InstanceUid, newer: u64) {
    let Some(entry) = agents.entries.get_mut(&uid) else { return };
    match &entry.link {
        // There is nothing to hand over.
        Link::Gone { .. } => drop(shared.registry.remove(agents, &uid)),
        _ if entry.pending().is_some() => {
            if !may_be_elsewhere(entry, shared.now()) {
                duplicates::claim(shared, uid, entry, newer);
            }
        }
        // With nothing to report, this is no answer: the config service asked whether the agent lives here, and heard nothing in time.
        Link::WebSocket(connection) => {
            connection.probe();
            entry.rare().superseded_by = Some(newer);
            agents.active.insert(uid);
        }
        // It is known again when it polls here.
        Link::Http => drop(shared.registry.remove(agents, &uid)),
    }
}

/// One that is lost, or no longer for this connection, is made of another agent.
fn ask_components(shared: &Shared, uid: InstanceUid, generation: u64) {
    let now_ms = shared.clock.now_ms();
    let agents = &mut *shared.registry.lock(&uid);
    let entry = agents.entries.get_mut(&uid).filter(|entry| entry.generation == generation && entry.is_live());
    let Some(entry) = entry else { return };
    entry.rare().asks_components = true;
    reply::deliver(shared, uid, entry, false, now_ms);
    entry.tidy(now_ms);
    shared.registry.set_active(agents, &uid);
}

/// Whether an agent of which the store knows a newer connection may have left this one unnoticed. If it has not, it is
/// heard before its report is repeated, and claimed then.
fn may_be_elsewhere(entry: &Entry, now: Now) -> bool {
    let heard_s = match &entry.link {
        Link::WebSocket(connection) => connection.heard_s.load(Ordering::Relaxed),
        Link::Http | Link::Gone { .. } => entry.heard_s,
    };
    let is_quiet = now.seconds().saturating_sub(heard_s) > LIVELY_S;
    if let Link::WebSocket(connection) = &entry.link
        && is_quiet
    {
        connection.outbox.send(websocket::ping(&[]).into(), None);
    }
    is_quiet
}

/// What the config service wants from the agent, or wants it to have.
fn note_wishes(shared: &Shared, entry: &mut Entry, verdict: &Verdict) {
    // What it missed may have come since, and even be stored: verdicts on repeats can be late.
    let is_on_its_way = entry.pending().is_some_and(|pending| pending.is_full)
        || verdict.report_number < u64::from(entry.full_report_number);
    if verdict.report_full_state && !is_on_its_way && entry.is_live() {
        entry.rare().full_state.wanted();
    }
    if !verdict.refusal.is_empty() && entry.is_live() {
        entry.rare().refusal = Some(verdict.refusal.as_str().into());
    }
    for offer in &verdict.offers {
        if let Some(hash) = ContentHash::from_slice(&offer.hash) {
            offers::note(shared, entry, offer_of(offer.kind(), hash, offer.generation), offer.repeat);
        }
    }
}
