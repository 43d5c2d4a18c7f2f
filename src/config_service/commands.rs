//! Commands: each goes once to each agent that it is for.
//!
//! A target is claimed in the store, for the connection that its agent has then, before anything is published; whoever
//! claims it is the one that sends it. It is published again, for that same connection, until its gateway says what became
//! of it: gateways remember, so that does no harm. What was claimed by a replica that is gone is taken up by the shard's new
//! owner in the same way. A connection that is lost meanwhile leaves the target's fate unknown; it is not sent again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use prost::Message;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    metrics,
    outbox::Letters,
    pace::Pacer,
    shared::{Outage, Shared, isolated, unix_ms},
    spans::{self, Causes},
};
use crate::{
    model::{
        AgentRecord, InstanceUid, UnixMs,
        command::{self, Action, Command, CommandId, Target, TargetState},
    },
    proto::{
        bus::{self, command_group, command_result::Outcome},
        opamp,
    },
    store::{self, Claim},
    trace::{self, Parent, Span},
};

/// While commands are under way, they are looked at this often.
const TICK: Duration = Duration::from_millis(100);
/// What was not answered is published again after so long, and given up after
const REPEAT: Duration = Duration::from_secs(2);
/// this long.
const PATIENCE: Duration = Duration::from_secs(20);
/// A connection that is not where the store says may have just moved: the store is asked again so often.
const MAX_RETRIES: u8 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Targets under way at a time, on one replica.
const MAX_FLIGHTS: usize = 5_000;
/// Results waiting to be taken.
pub const WAITING_RESULTS: usize = 20_000;

/// Wakes the task that sees to commands.
#[derive(Default)]
pub struct Wake {
    notify: Notify,
    /// The calls that made them.
    pub causes: Causes<CommandId>,
}

impl Wake {
    pub fn wake(&self) {
        self.notify.notify_one();
    }
}

/// One target that is under way.
struct Flight {
    gateway: String,
    generation: u64,
    first: Instant,
    next: Instant,
    /// Claimed here, and published once so far: that the gateway knows nothing of it means that it was not sent.
    is_first: bool,
    /// The gateway holds it until the agent polls or reads.
    is_held: bool,
}

#[derive(Default)]
struct Commands {
    open: HashMap<CommandId, Command>,
    flights: HashMap<(CommandId, InstanceUid), Flight>,
    /// How often a target was found to have moved, and when it may be looked at again.
    retries: HashMap<(CommandId, InstanceUid), (u8, Instant)>,
    pacer: Pacer,
    /// When some of a command's targets may be sent next.
    turns: HashMap<CommandId, Instant>,
}

pub async fn run(shared: Arc<Shared>, mut results: mpsc::Receiver<bus::CommandResult>, stop: CancellationToken) {
    let mut outage = Outage::new("commands");
    let mut commands = Commands::default();
    let mut next = Instant::now();
    loop {
        let mut settled = Vec::new();
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.commands.notify.notified() => {}
            () = sleep_until(next) => {}
            count = results.recv_many(&mut settled, WAITING_RESULTS) => {
                if count == 0 {
                    return;
                }
            }
        }
        let work = stop.run_until_cancelled(commands.look(&shared, settled));
        let Some(Some(result)) = isolated("commands", Box::pin(work)).await else { continue };
        let is_done = outage.note(result).is_some();
        let is_idle = commands.open.is_empty() || !is_done;
        next = Instant::now() + if is_idle { shared.config.policy_poll_interval } else { TICK };
    }
}

impl Commands {
    async fn look(&mut self, shared: &Shared, results: Vec<bus::CommandResult>) -> store::Result<()> {
        self.take_results(shared, results).await?;
        let open = shared.store.open_commands().await?;
        self.open = open.into_iter().map(|command| (command.id, command)).collect();
        if self.open.is_empty() {
            (self.flights, self.retries, self.turns) = Default::default();
            return Ok(());
        }
        let shards = shared.owned().iter().fold(0_u64, |bits, shard| bits | 1 << *shard);
        let mut letters = Letters::default();
        self.take_up(shared, shards).await?;
        self.repeat(shared, &mut letters).await?;
        let commands: Vec<Command> = self.open.values().cloned().collect();
        let mut spans = Vec::new();
        for command in commands {
            spans.extend(self.send_some(shared, &command, shards, &mut letters).await?);
        }
        // All commands go together: that is shown in the first one's trace.
        let first = spans.iter().find(|span| span.is_recorded());
        trace::within(first.and_then(Span::parent), letters.send(&shared.outbox)).await;
        drop(spans);
        shared.store.finish_commands(unix_ms()).await?;
        self.turns.retain(|id, _| self.open.contains_key(id));
        self.retries.retain(|(id, _), _| self.open.contains_key(id));
        Ok(())
    }

    /// Claims the targets of a command whose turn it is, and adds them to what is published; the span ends after that.
    async fn send_some(
        &mut self,
        shared: &Shared,
        command: &Command,
        shards: u64,
        letters: &mut Letters,
    ) -> store::Result<Option<Span>> {
        let now = Instant::now();
        if shards == 0 || self.flights.len() >= MAX_FLIGHTS || self.turns.get(&command.id).is_some_and(|at| now < *at) {
            return Ok(None);
        }
        let per_second = f64::from(command.per_second) * shared.share();
        let limit = Pacer::chunk(per_second).min(store::MAX_BATCH);
        // Those that wait for another attempt are among them, so that there may be more.
        let waiting = shared.store.waiting_targets(command.id, shards, (limit + self.retries.len()) as u32).await?;
        let is_due = |uid: &InstanceUid| self.retries.get(&(command.id, *uid)).is_none_or(|(_, at)| now >= *at);
        let uids: Vec<InstanceUid> = waiting.into_iter().filter(is_due).take(limit).collect();
        if uids.is_empty() {
            return Ok(None);
        }
        let span = spans::command(command, uids.len(), &shared.commands.causes);
        let claims = span.run(claims(shared, command, &uids)).await?;
        let claimed = span.run(shared.store.claim_targets(command.id, &claims, unix_ms())).await?;
        let mut published = 0;
        for claim in claims.into_iter().filter(|claim| claimed.contains(&claim.uid)) {
            ::metrics::counter!(metrics::COMMAND_TARGETS, "state" => state_name(claim.state)).increment(1);
            if claim.state != TargetState::UnderWay {
                continue;
            }
            published += 1;
            let group = publish(letters, command, claim.uid, &claim.gateway, claim.connection_generation);
            group.trace = span.parent().map(Parent::to_bytes).unwrap_or_default();
            let flight = Flight {
                gateway: claim.gateway,
                generation: claim.connection_generation,
                first: now,
                next: now + REPEAT,
                is_first: true,
                is_held: false,
            };
            self.flights.insert((command.id, claim.uid), flight);
        }
        if published > 0 {
            let start = self.pacer.reserve(&command.id.to_string(), per_second, published, now);
            self.turns.insert(command.id, start.max(now) + Duration::from_secs_f64(published as f64 / per_second));
        }
        Ok(Some(span))
    }

    /// Takes up what other replicas have claimed and not settled.
    async fn take_up(&mut self, shared: &Shared, shards: u64) -> store::Result<()> {
        let now = Instant::now();
        let mut settled = Vec::new();
        let under_way = shared.store.targets_under_way(shards, MAX_FLIGHTS as u32).await?;
        // What is settled, or has gone to another replica, is no concern of this one any more.
        let known: std::collections::HashSet<_> = under_way.iter().map(|target| (target.command, target.uid)).collect();
        self.flights.retain(|key, _| known.contains(key));
        for Target { command, uid, gateway, connection_generation, changed_at, .. } in under_way {
            if self.flights.contains_key(&(command, uid)) {
                continue;
            }
            // Gateways may have forgotten it.
            let age = unix_ms().saturating_sub(changed_at);
            if age > UnixMs::try_from(command::REPEATED_FOR.as_millis()).unwrap_or(UnixMs::MAX) {
                settled.push((command, uid, TargetState::Unknown));
                continue;
            }
            let generation = connection_generation;
            let flight = Flight { gateway, generation, first: now, next: now, is_first: false, is_held: false };
            self.flights.insert((command, uid), flight);
        }
        self.settle(shared, settled).await
    }

    /// Publishes again what was not answered, and gives up what cannot be any more.
    async fn repeat(&mut self, shared: &Shared, letters: &mut Letters) -> store::Result<()> {
        let now = Instant::now();
        let mut settled = Vec::new();
        for ((id, uid), flight) in &mut self.flights {
            let patience = if flight.is_held { command::HELD_FOR + PATIENCE } else { PATIENCE };
            let is_lost = now >= flight.first + patience || shared.gateways.is_dead(&flight.gateway);
            if is_lost {
                settled.push((*id, *uid, TargetState::Unknown));
            } else if now >= flight.next
                && let Some(command) = self.open.get(id)
            {
                publish(letters, command, *uid, &flight.gateway, flight.generation);
                flight.is_first = false;
                flight.next = now + if flight.is_held { PATIENCE } else { REPEAT };
            }
        }
        self.settle(shared, settled).await
    }

    async fn take_results(&mut self, shared: &Shared, results: Vec<bus::CommandResult>) -> store::Result<()> {
        let now = Instant::now();
        let mut settled = Vec::new();
        for result in results {
            let ids = (CommandId::from_slice(&result.command_id), InstanceUid::from_slice(&result.instance_uid));
            let (Some(id), Ok(uid)) = ids else { continue };
            let flight = self.flights.get_mut(&(id, uid));
            let state = match result.outcome() {
                Outcome::Sent => TargetState::Sent,
                Outcome::NotCapable => TargetState::NotCapable,
                Outcome::Expired => TargetState::Expired,
                Outcome::Dropped => TargetState::NotConnected,
                Outcome::Held => {
                    if let Some(flight) = flight {
                        flight.is_held = true;
                        flight.next = now + PATIENCE;
                    }
                    continue;
                }
                Outcome::NotHere => match flight {
                    Some(flight) if flight.is_first => self.retry(id, uid, now),
                    Some(_) => TargetState::Unknown,
                    // Settled by an earlier answer, or another replica's.
                    None => continue,
                },
                Outcome::Unspecified => continue,
            };
            settled.push((id, uid, state));
        }
        self.settle(shared, settled).await
    }

    /// The target was not sent, for its agent is not where the store said.
    fn retry(&mut self, id: CommandId, uid: InstanceUid, now: Instant) -> TargetState {
        let (retries, at) = self.retries.entry((id, uid)).or_insert((0, now));
        *retries += 1;
        *at = now + RETRY_PAUSE;
        if *retries > MAX_RETRIES { TargetState::NotConnected } else { TargetState::Waiting }
    }

    async fn settle(
        &mut self,
        shared: &Shared,
        settled: Vec<(CommandId, InstanceUid, TargetState)>,
    ) -> store::Result<()> {
        if settled.is_empty() {
            return Ok(());
        }
        shared.store.settle_targets(&settled, unix_ms()).await?;
        for (id, uid, state) in settled {
            if self.flights.remove(&(id, uid)).is_some() {
                ::metrics::counter!(metrics::COMMAND_TARGETS, "state" => state_name(state)).increment(1);
            }
        }
        Ok(())
    }
}

/// What is to become of each: it is sent to the connection that its agent has now, or cannot be.
async fn claims(shared: &Shared, command: &Command, uids: &[InstanceUid]) -> store::Result<Vec<Claim>> {
    let rows: HashMap<InstanceUid, AgentRecord> =
        shared.store.read_agents(uids).await?.into_iter().map(|row| (row.uid, row)).collect();
    let announced: HashMap<InstanceUid, store::Announced> = match command.action {
        Action::Restart => HashMap::new(),
        Action::Message(_) => shared.store.read_announced(uids).await?.into_iter().collect(),
    };
    let claim = |uid: &InstanceUid| {
        let not = |state| Claim { uid: *uid, state, gateway: String::new(), connection_generation: 0 };
        let Some(row) = rows.get(uid) else { return not(TargetState::NotConnected) };
        let capabilities = announced.get(uid).map(|it| it.capabilities()).unwrap_or_default();
        if !command.action.is_for(&row.observed, &capabilities) {
            return not(TargetState::NotCapable);
        }
        if !row.presence.connected || shared.gateways.is_dead(&row.presence.gateway) {
            return not(TargetState::NotConnected);
        }
        Claim {
            uid: *uid,
            state: TargetState::UnderWay,
            gateway: row.presence.gateway.clone(),
            connection_generation: row.presence.connection_generation,
        }
    };
    Ok(uids.iter().map(claim).collect())
}

/// Adds the agent to what goes to its gateway.
fn publish<'a>(
    letters: &'a mut Letters,
    command: &Command,
    uid: InstanceUid,
    gateway: &str,
    generation: u64,
) -> &'a mut bus::CommandGroup {
    let groups = &mut letters.to(gateway).commands;
    let id = command.id.to_bytes();
    let index = groups.iter().position(|group| group.command_id == id).unwrap_or_else(|| {
        groups.push(bus::CommandGroup { command_id: id, action: Some(action(command)), ..Default::default() });
        groups.len() - 1
    });
    let group = &mut groups[index];
    group.instance_uids = [&group.instance_uids[..], uid.as_bytes()].concat().into();
    group.connection_generations.push(generation);
    group
}

fn action(command: &Command) -> command_group::Action {
    match &command.action {
        Action::Restart => command_group::Action::Restart(true),
        Action::Message(message) => {
            let message: &opamp::CustomMessage = message;
            command_group::Action::CustomMessage(message.encode_to_vec().into())
        }
    }
}

fn state_name(state: TargetState) -> &'static str {
    match state {
        TargetState::Waiting => "waiting",
        TargetState::UnderWay => "under_way",
        TargetState::Sent => "sent",
        TargetState::NotConnected => "not_connected",
        TargetState::NotCapable => "not_capable",
        TargetState::Unknown => "unknown",
        TargetState::Expired => "expired",
    }
}
