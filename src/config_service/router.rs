//! Hands what comes over the bus to those whom it concerns.
//!
//! Architecture invariant: nothing here waits for the store, so that a slow one cannot make the bus drop messages for
//! others.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    bodies,
    outbox::separated,
    report::Report,
    shared::{Owned, Shared},
    vouching::Question,
};
use crate::{
    bus::{Event, Topic},
    model::{ContentHash, InstanceUid, command::CommandId, uid::Shard},
    proto::bus,
    trace::Parent,
};

/// A gateway's name on the bus is no longer than this; others are not gateways.
const MAX_GATEWAY_NAME_BYTES: usize = 256;

pub async fn run(shared: Arc<Shared>, mut owned: watch::Receiver<Option<Owned>>, stop: CancellationToken) {
    let mut subscription = shared.bus.subscribe();
    owned.mark_changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = owned.changed() => {
                if changed.is_err() {
                    return;
                }
                let shards = owned.borrow_and_update().clone();
                subscription.set_topics(topics(shards.as_ref())).await;
                if shards.is_some() && shared.note_listening() {
                    // What this replica's settings say of certificates may be new to the gateways.
                    shared.request_tokens(None);
                }
            }
            event = subscription.next() => match event {
                Event::Message { topic: Topic::Shard(shard), payload } => batch(&shared, shard, payload),
                Event::Message { topic: Topic::ConfigService, payload } => hint(&shared, payload),
                Event::Message { .. } => {}
                Event::Gap => gap(&shared),
            },
        }
        // A full inbox never makes the loop wait: others on this thread are to have their turn all the same.
        tokio::task::consume_budget().await;
    }
}

fn topics(shards: Option<&Owned>) -> Vec<Topic> {
    shards
        .into_iter()
        .flat_map(|shards| shards.iter())
        .map(|shard| Topic::Shard(*shard))
        .chain([Topic::ConfigService])
        .collect()
}

fn batch(shared: &Shared, shard: Shard, payload: Bytes) {
    let batch = match bus::ShardBatch::decode(payload) {
        Ok(batch) if !batch.gateway.is_empty() && batch.gateway.len() <= MAX_GATEWAY_NAME_BYTES => batch,
        Ok(_) => return tracing::warn!(shard, "a batch without a gateway's name was dropped"),
        Err(error) => return tracing::warn!(shard, %error, "a batch could not be read"),
    };
    let bus::ShardBatch {
        gateway,
        reports,
        probe_results,
        wanted_hashes,
        wants_agent_tokens,
        command_results,
        uid_questions,
    } = batch;
    let questions = uid_questions.iter().filter_map(|question| Question::from_wire(&gateway, question));
    questions.for_each(|question| shared.ask_about_uid(question));
    command_results.into_iter().for_each(|result| shared.take_command_result(result));
    if !wanted_hashes.is_empty() {
        let hashes = wanted_hashes.iter().filter_map(|hash| ContentHash::from_slice(hash)).collect();
        shared.request_bodies(bodies::Request { gateway: gateway.clone(), hashes });
    }
    if wants_agent_tokens {
        shared.request_tokens(Some(gateway.clone()));
    }
    let gateway: Arc<str> = gateway.into();
    let count = reports.len();
    let reports: Vec<Report> = reports.into_iter().filter_map(|report| Report::from_wire(&gateway, report)).collect();
    if reports.len() < count {
        tracing::warn!(shard, %gateway, dropped = count - reports.len(), "reports without a uid or number were dropped");
    }
    let probe_results: Vec<_> = probe_results
        .into_iter()
        .filter_map(|result| Some((InstanceUid::from_slice(&result.instance_uid).ok()?, result)))
        .collect();
    if !reports.is_empty() || !probe_results.is_empty() {
        shared.worker(shard).send(reports, probe_results);
    }
}

fn hint(shared: &Shared, payload: Bytes) {
    let hint = match bus::Hint::decode(payload) {
        Ok(hint) => hint,
        Err(error) => return tracing::warn!(%error, "a hint could not be read"),
    };
    let trace = Parent::from_slice(&hint.trace);
    if hint.policies_epoch > 0 {
        shared.reconcile.policies_changed.hinted(hint.policies_epoch, trace);
        shared.reconcile.check_policies();
        if let Some(call) = trace {
            hint.policies.into_iter().for_each(|policy| shared.rollouts.causes.note(policy, call));
        }
        shared.rollouts.wake();
    }
    if hint.commands_changed {
        if let (Some(call), Some(id)) = (trace, CommandId::from_slice(&hint.command_id)) {
            shared.commands.causes.note(id, call);
        }
        shared.commands.wake();
    }
    if hint.agent_tokens_changed {
        shared.request_tokens(None);
    }
    let owned = shared.owned();
    if !hint.agents_to_reconcile.is_empty() {
        shared.reconcile.agents_changed.hinted(0, trace);
    }
    for uid in separated(&hint.agents_to_reconcile).into_iter().filter(|uid| owned.contains(&uid.shard())) {
        shared.reconcile.look_at(uid);
    }
}

/// Anything may have been missed. Reports come again by themselves, and so do requests.
fn gap(shared: &Shared) {
    shared.gateways.distrust(Instant::now());
    shared.reconcile.check_policies();
    shared.commands.wake();
    shared.request_tokens(None);
}
