//! Random operations on a store and on a model of it in memory: both must answer the same, and hold the same.

use std::collections::BTreeMap;

use muster::{
    model::{
        AgentRecord, ContentHash, InstanceUid,
        agent::OfferStatus,
        offer::{self, Convergence},
        policy::{Policy, PolicyKind, Revision},
        status::status,
    },
    store::{AgentFilter, ApplyOutcome, ApplyPolicy, Error, LabelChanges, SharedStore, apply_label_changes},
};
use proptest::prelude::*;

use super::{Fixture, actor, agent, apply, uid};

/// Which etag an operation gives.
#[derive(Clone, Copy, Debug)]
enum Etag {
    None,
    Present,
    Wrong,
    /// Of policies: there must be none.
    Empty,
}

#[derive(Clone, Debug)]
enum Op {
    /// Agents, each with a deviation of the version from the stored one, and a value to write.
    Write(Vec<(u8, bool, u8)>),
    SetLabels(u8, LabelChanges, Etag),
    Lift(u8),
    Forget(u8, Etag),
    Disconnect(u8),
    Apply {
        name: u8,
        content: u8,
        etag: Etag,
        validate_only: bool,
    },
    Delete(u8, Etag),
    Progress(u16, u64),
}

fn op() -> impl Strategy<Value = Op> {
    let etag =
        || prop_oneof![4 => Just(Etag::None), 4 => Just(Etag::Present), 1 => Just(Etag::Wrong), 1 => Just(Etag::Empty)];
    let agent = || 0u8..6;
    let write = (agent(), prop::bool::weighted(0.2), 0u8..12);
    let labels = prop::collection::btree_map("[ab]", prop::option::of("[xy]"), 0..3);
    prop_oneof![
        6 => prop::collection::vec(write, 0..6).prop_map(Op::Write),
        2 => (agent(), labels, etag()).prop_map(|(agent, labels, etag)| Op::SetLabels(agent, labels, etag)),
        1 => agent().prop_map(Op::Lift),
        1 => (agent(), etag()).prop_map(|(agent, etag)| Op::Forget(agent, etag)),
        1 => (0u8..3).prop_map(Op::Disconnect),
        4 => (0u8..3, 0u8..3, etag(), prop::bool::weighted(0.2))
            .prop_map(|(name, content, etag, validate_only)| Op::Apply { name, content, etag, validate_only }),
        1 => (0u8..3, etag()).prop_map(|(name, etag)| Op::Delete(name, etag)),
        1 => (0u16..3, 0u64..9).prop_map(|(shard, epoch)| Op::Progress(shard, epoch)),
    ]
}

#[derive(Default)]
struct Model {
    agents: BTreeMap<InstanceUid, AgentRecord>,
    /// Newest last.
    policies: BTreeMap<String, Vec<Revision>>,
    /// How far the epoch has moved.
    changes: u64,
    /// Actions and their targets.
    audit: Vec<(&'static str, String)>,
    progress: BTreeMap<u16, u64>,
}

/// What became of an operation.
#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    Refused(&'static str),
    NotWritten(Vec<InstanceUid>),
    Agent(Box<AgentRecord>),
    Count(u64),
    Applied(ApplyOutcome, u64),
}

fn outcome<T>(result: Result<T, Error>, done: impl FnOnce(T) -> Outcome) -> Outcome {
    match result {
        Ok(value) => done(value),
        Err(Error::NotFound { .. }) => Outcome::Refused("not found"),
        Err(Error::AlreadyExists { .. }) => Outcome::Refused("exists"),
        Err(Error::EtagMismatch { .. }) => Outcome::Refused("etag"),
        Err(other) => panic!("{other}"),
    }
}

/// Hashes of the model, few enough to meet.
fn hash(value: u8) -> Option<ContentHash> {
    (!value.is_multiple_of(4)).then_some(ContentHash([value % 4; 32]))
}

fn with_value(agent: &mut AgentRecord, value: u8) {
    agent.presence.connected = !value.is_multiple_of(3);
    agent.presence.gateway = format!("g{}", value % 3);
    agent.desired.config.hash = hash(value);
    agent.desired.config.quarantined = hash(value / 2);
    agent.desired.config.offered_at = value.is_multiple_of(2).then_some(5);
    agent.desired.config.offer_attempts = value.into();
    agent.observed.config.hash = hash(value / 3).map(|hash| hash.to_bytes()).unwrap_or_default();
    agent.observed.capabilities = value.into();
    agent.observed.config.status = OfferStatus::from_number(i32::from(value) % 4);
    agent.observed.config.error = "e".repeat(value.into());
}

impl Model {
    /// The batch that an operation writes.
    fn batch(&self, writes: &[(u8, bool, u8)]) -> Vec<AgentRecord> {
        let record = |(n, stale, value): &(u8, bool, u8)| {
            let mut record = agent(u128::from(*n) + 1);
            record.version = self.agents.get(&record.uid).map_or(0, |agent| agent.version) + i64::from(*stale);
            if let Some(known) = self.agents.get(&record.uid) {
                record.first_seen = known.first_seen;
            }
            with_value(&mut record, *value);
            record
        };
        writes.iter().map(record).collect()
    }

    fn write(&mut self, batch: Vec<AgentRecord>) -> Outcome {
        let mut taken = Vec::new();
        let mut not_written = Vec::new();
        for record in batch {
            let stored = self.agents.get(&record.uid).map_or(0, |agent| agent.version);
            // Of several records of one agent only the first is looked at.
            if taken.contains(&record.uid) || record.version != stored {
                not_written.push(record.uid);
            } else {
                let labels = self.agents.get(&record.uid).map(|agent| agent.labels.clone()).unwrap_or_default();
                self.agents.insert(record.uid, AgentRecord { version: stored + 1, labels, ..record.clone() });
            }
            taken.push(record.uid);
        }
        not_written.sort();
        not_written.dedup();
        Outcome::NotWritten(not_written)
    }

    fn edit(
        &mut self,
        uid: InstanceUid,
        etag: Option<&str>,
        action: &'static str,
        change: impl Fn(&mut AgentRecord),
    ) -> Outcome {
        let Some(agent) = self.agents.get_mut(&uid) else {
            return Outcome::Refused("not found");
        };
        if etag.is_some_and(|etag| etag != agent.etag()) {
            return Outcome::Refused("etag");
        }
        let before = agent.clone();
        change(agent);
        if *agent != before {
            agent.version += 1;
            self.audit.push((action, uid.to_string()));
        }
        Outcome::Agent(Box::new(agent.clone()))
    }

    fn forget(&mut self, uid: InstanceUid, etag: Option<&str>) -> Outcome {
        let done = self.edit(uid, etag, "", |_| {});
        if !matches!(done, Outcome::Agent(_)) {
            return done;
        }
        self.agents.remove(&uid);
        self.audit.push(("agent.forget", uid.to_string()));
        Outcome::Done
    }

    fn disconnect(&mut self, gateway: &str) -> Outcome {
        let on_it = |agent: &&mut AgentRecord| agent.presence.connected && agent.presence.gateway == gateway;
        let mut count = 0;
        for agent in self.agents.values_mut().filter(on_it) {
            agent.presence.connected = false;
            agent.version += 1;
            count += 1;
        }
        Outcome::Count(count)
    }

    fn apply(&mut self, apply: &ApplyPolicy, etag: Etag) -> Outcome {
        let newest = self.policies.get(&apply.name).and_then(|revisions| revisions.last());
        match (newest, etag) {
            (Some(_), Etag::Wrong) => return Outcome::Refused("etag"),
            (Some(_), Etag::Empty) => return Outcome::Refused("exists"),
            (None, Etag::Wrong | Etag::Present) => return Outcome::Refused("not found"),
            _ => {}
        }
        let number = newest.map_or(0, |newest| newest.number);
        if newest.is_some_and(|newest| newest.content == apply.content) {
            return Outcome::Applied(ApplyOutcome::Unchanged, number);
        }
        if !apply.validate_only {
            let (content, author) = (apply.content.clone(), actor().name);
            let (message, created_at) = (apply.message.clone(), actor().now);
            let revision = Revision { number: number + 1, content, author, message, created_at };
            self.policies.entry(apply.name.clone()).or_default().push(revision);
            self.changes += 1;
            self.audit.push(("policy.apply", apply.name.clone()));
        }
        let outcome = if number == 0 { ApplyOutcome::Created } else { ApplyOutcome::Configured };
        Outcome::Applied(outcome, number + 1)
    }

    fn delete(&mut self, name: &str, etag: Etag) -> Outcome {
        match (self.policies.contains_key(name), etag) {
            (false, _) => return Outcome::Refused("not found"),
            (true, Etag::Wrong | Etag::Empty) => return Outcome::Refused("etag"),
            (true, _) => {}
        }
        self.policies.remove(name);
        self.changes += 1;
        self.audit.push(("policy.delete", name.to_owned()));
        Outcome::Done
    }
}

/// The etag to give for something whose present one is `present`.
fn given(etag: Etag, present: Option<String>) -> Option<String> {
    match etag {
        Etag::None => None,
        Etag::Present => Some(present.unwrap_or_else(|| "of nothing".into())),
        Etag::Wrong => Some("wrong".into()),
        Etag::Empty => Some(String::new()),
    }
}

/// What the store and what the model make of one operation.
async fn both(store: &SharedStore, model: &mut Model, op: Op) -> (Outcome, Outcome) {
    let done = |()| Outcome::Done;
    let record = |agent| Outcome::Agent(Box::new(agent));
    let actor = actor();
    match op {
        Op::Write(writes) => {
            let batch = model.batch(&writes);
            let mut not_written = store.write_agents(&batch, &[]).await.unwrap();
            not_written.sort();
            (Outcome::NotWritten(not_written), model.write(batch))
        }
        Op::SetLabels(n, changes, etag) => {
            let uid = uid(u128::from(n) + 1);
            let etag = given(etag, model.agents.get(&uid).map(AgentRecord::etag));
            let real = store.set_labels(uid, &changes, etag.as_deref(), &actor).await;
            let change = |agent: &mut AgentRecord| apply_label_changes(&mut agent.labels, &changes);
            (outcome(real, record), model.edit(uid, etag.as_deref(), "agent.label", change))
        }
        Op::Lift(n) => {
            let uid = uid(u128::from(n) + 1);
            let real = store.lift_quarantine(uid, &actor).await;
            let lift = |agent: &mut AgentRecord| {
                if agent.desired.config.quarantined.take().is_some() {
                    (agent.desired.config.offered_at, agent.desired.config.offer_attempts) = (None, 0);
                }
            };
            (outcome(real, record), model.edit(uid, None, "agent.lift_quarantine", lift))
        }
        Op::Forget(n, etag) => {
            let uid = uid(u128::from(n) + 1);
            let etag = given(etag, model.agents.get(&uid).map(AgentRecord::etag));
            let real = store.forget_agent(uid, etag.as_deref(), &actor).await;
            (outcome(real, done), model.forget(uid, etag.as_deref()))
        }
        Op::Disconnect(gateway) => {
            let gateway = format!("g{gateway}");
            let real = store.disconnect_gateway(&gateway).await;
            (outcome(real, Outcome::Count), model.disconnect(&gateway))
        }
        Op::Apply { name, content, etag, validate_only } => {
            let mut apply = apply(&format!("p{name}"), &format!("c{content}"));
            let present = store.get_policy(&apply.name).await.ok().map(|policy| policy.etag);
            (apply.etag, apply.validate_only) = (given(etag, present), validate_only);
            let real = store.apply_policy(apply.clone(), &actor).await;
            let applied =
                |applied: muster::store::Applied| Outcome::Applied(applied.outcome, applied.policy.revision.number);
            (outcome(real, applied), model.apply(&apply, etag))
        }
        Op::Delete(name, etag) => {
            let name = format!("p{name}");
            let present = store.get_policy(&name).await.ok().map(|policy| policy.etag);
            let real = store.delete_policy(&name, given(etag, present).as_deref(), &actor).await;
            (outcome(real, done), model.delete(&name, etag))
        }
        Op::Progress(shard, epoch) => {
            let real = store.set_shard_progress(shard, epoch).await;
            let progress = model.progress.entry(shard).or_default();
            *progress = epoch.max(*progress);
            (outcome(real, done), Outcome::Done)
        }
    }
}

/// Everything that can be read.
async fn compare(store: &SharedStore, model: &Model, epoch: u64) {
    let agents: Vec<_> = model.agents.values().cloned().collect();
    assert_eq!(store.page_agents(AgentFilter::default(), None, 100).await.unwrap(), agents);
    let behind = AgentFilter { only_behind: true, connected: Some(true), shard: None };
    let expected: Vec<_> = agents
        .iter()
        .filter(|agent| agent.presence.connected)
        .filter(|agent| PolicyKind::ALL.iter().any(|kind| offer::convergence(agent, *kind) == Convergence::Behind))
        .cloned()
        .collect();
    assert_eq!(store.page_agents(behind, None, 100).await.unwrap(), expected);
    let summary = store.fleet_summary().await.unwrap();
    let count = |test: fn(&AgentRecord) -> bool| agents.iter().filter(|agent| test(agent)).count() as u64;
    assert_eq!(
        (summary.agents, summary.connected, summary.desired),
        (count(|_| true), count(|agent| agent.presence.connected), count(|agent| agent.desired.config.hash.is_some()))
    );
    let mut statuses = BTreeMap::new();
    for (agent, kind) in agents.iter().flat_map(|agent| PolicyKind::ALL.map(|kind| (agent, kind))) {
        *statuses.entry((kind, status(agent, kind))).or_default() += 1;
    }
    assert_eq!(summary.statuses, statuses);

    let policies = store.list_policies(None, 100).await.unwrap();
    let newest = |policy: &Policy| (policy.name.clone(), policy.revision.clone());
    let expected: Vec<_> =
        model.policies.iter().map(|(name, revisions)| (name.clone(), revisions[revisions.len() - 1].clone())).collect();
    assert_eq!(policies.iter().map(newest).collect::<Vec<_>>(), expected);
    for (name, revisions) in &model.policies {
        let mut history = store.list_revisions(name, None, 100).await.unwrap();
        history.reverse();
        assert_eq!(&history, revisions);
    }
    let set = store.policy_set().await.unwrap();
    assert_eq!((set.epoch, set.policies().len()), (epoch + model.changes, policies.len()));

    let mut audit = store.list_audit(None, 1_000).await.unwrap();
    audit.reverse();
    let told: Vec<_> = audit.into_iter().map(|entry| (entry.action, entry.target)).collect();
    let expected: Vec<_> = model.audit.iter().map(|(action, target)| ((*action).to_owned(), target.clone())).collect();
    assert_eq!(told, expected);
    let mut progress = store.shard_progress().await.unwrap();
    progress.retain(|(_, epoch)| *epoch > 0);
    let expected: Vec<_> = model.progress.iter().map(|(s, e)| (*s, *e)).filter(|(_, epoch)| *epoch > 0).collect();
    assert_eq!(progress, expected);
}

fn check(cases: u32, fixture: impl AsyncFn() -> Fixture) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ops in prop::collection::vec(op(), 1..40))| {
        runtime.block_on(async {
            let fixture = fixture().await;
            let store = &fixture.store;
            let epoch = store.policy_epoch().await.unwrap();
            let mut model = Model::default();
            for op in ops {
                let text = format!("{op:?}");
                let (real, expected) = both(store, &mut model, op).await;
                assert_eq!(real, expected, "{text}");
            }
            compare(store, &model, epoch).await;
        });
    });
}

/// A new database for each case takes most of the time.
const CASES: u32 = 30;

#[test]
fn sqlite_does_as_the_model() {
    check(CASES, super::sqlite);
}

#[test]
fn postgres_does_as_the_model() {
    check(CASES, super::postgres);
}
