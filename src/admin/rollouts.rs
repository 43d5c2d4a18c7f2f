//! The Rollouts service.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use super::{
    authorized::Authorized,
    context::Context,
    convert::rollout::rollout as shown,
    errors::{self, from_store},
    pages::{self, Pages},
    policy_rules,
    watch::{CONFIRM, MAX_WATCHES},
};
use crate::{
    auth::Operator,
    model::{
        AgentRecord, Attributes, Selector, UnixMs,
        policy::Revision,
        rollout::{Candidates, Control, Refused, Rollout, Seen, control},
    },
    proto::admin::{
        self, ControlRolloutRequest, GetRolloutRequest, ListRolloutsRequest, ListRolloutsResponse, UndoRolloutRequest,
        control_rollout_request::Action, rollouts_server::Rollouts,
    },
    store::{self, Actor, AgentFilter, ApplyPolicy},
};

/// How often a watch looks.
const LOOK: Duration = Duration::from_secs(1);
/// States that wait for a slow client.
const BUFFERED: usize = 4;
/// Others may change a rollout between reading and writing it.
const MAX_ATTEMPTS: usize = 5;
const PAGE: u32 = 1_000;

pub struct Service(pub Arc<Context>);

#[tonic::async_trait]
impl Rollouts for Service {
    async fn get_rollout(&self, request: Request<GetRolloutRequest>) -> Result<Response<admin::Rollout>, Status> {
        let Authorized { message, .. } = Authorized::of(request)?;
        self.one(&message).await.map(shown).map(Response::new)
    }

    async fn list_rollouts(
        &self,
        request: Request<ListRolloutsRequest>,
    ) -> Result<Response<ListRolloutsResponse>, Status> {
        self.list(Authorized::of(request)?).await.map(Response::new)
    }

    async fn control_rollout(
        &self,
        request: Request<ControlRolloutRequest>,
    ) -> Result<Response<admin::Rollout>, Status> {
        self.control(Authorized::of(request)?).await.map(shown).map(Response::new)
    }

    type WatchRolloutStream = ReceiverStream<Result<admin::Rollout, Status>>;

    async fn watch_rollout(
        &self,
        request: Request<GetRolloutRequest>,
    ) -> Result<Response<Self::WatchRolloutStream>, Status> {
        let Authorized { operator, message } = Authorized::of(request)?;
        let permit = self.0.watches.clone().try_acquire_owned().map_err(|_| {
            let problem = format!("{MAX_WATCHES} watches are open, which is as many as this server takes");
            errors::status(Code::ResourceExhausted, "TOO_MANY_WATCHES", problem, &[])
        })?;
        let first = self.one(&message).await?;
        let (states, receiver) = mpsc::channel(BUFFERED);
        let watch = Service(self.0.clone());
        tokio::spawn(async move {
            if let Err(status) = watch.follow(first, &operator, &states).await {
                let _ = states.send(Err(status)).await;
            }
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn undo_rollout(&self, request: Request<UndoRolloutRequest>) -> Result<Response<admin::Rollout>, Status> {
        self.undo(Authorized::of(request)?).await.map(shown).map(Response::new)
    }
}

impl Service {
    /// Of the revision that is asked for.
    async fn one(&self, request: &GetRolloutRequest) -> Result<Rollout, Status> {
        let newest = self.newest(&request.policy).await?;
        match request.revision {
            0 => Ok(newest),
            revision => self.of_revision(newest, revision).await,
        }
    }

    /// The `newest` rollout of a policy, or the former one of this revision.
    async fn of_revision(&self, newest: Rollout, revision: u64) -> Result<Rollout, Status> {
        let mut rollout = newest;
        while rollout.revision != revision {
            let policy = rollout.policy.clone();
            let page = self.0.store.list_rollouts(Some(&policy), Some(rollout.id), PAGE).await.map_err(from_store)?;
            let last = page.last().map(|last| last.id);
            let found = page.into_iter().find(|older| older.revision == revision || Some(older.id) == last);
            rollout = found.ok_or_else(|| {
                let problem = format!("policy {policy:?} has no rollout of revision {revision}");
                errors::status(Code::NotFound, "ROLLOUT_NOT_FOUND", problem, &[("policy", &policy)])
            })?;
        }
        Ok(rollout)
    }

    async fn newest(&self, policy: &str) -> Result<Rollout, Status> {
        let policy = errors::name("policy", policy)?;
        self.0.store.get_rollout(policy).await.map_err(from_store)
    }

    async fn list(&self, request: Authorized<ListRolloutsRequest>) -> Result<ListRolloutsResponse, Status> {
        let message = request.message;
        let size = pages::size(message.page_size)?;
        let policy = match message.policy.as_str() {
            "" => None,
            policy => Some(errors::name("policy", policy)?),
        };
        if message.in_flight {
            let open = self.0.store.open_rollouts().await.map_err(from_store)?;
            let open = open.into_iter().filter(|rollout| policy.is_none_or(|policy| rollout.policy == policy));
            return Ok(ListRolloutsResponse { rollouts: open.rev().map(shown).collect(), ..Default::default() });
        }
        let pages = Pages::of(&["rollouts", &message.policy]);
        let before = pages.after(&message.page_token)?;
        let before = before.map(|last| Uuid::from_slice(&last).map_err(|_| pages::invalid_token())).transpose()?;
        let rollouts = self.0.store.list_rollouts(policy, before, size as u32).await.map_err(from_store)?;
        if let Some(policy) = policy.filter(|_| rollouts.is_empty() && before.is_none()) {
            // There may be none of it, but it is to be there.
            self.0.store.get_policy(policy).await.map_err(from_store)?;
        }
        let last = rollouts.last().filter(|_| rollouts.len() == size);
        Ok(ListRolloutsResponse {
            next_page_token: last.map(|last| pages.token(last.id.as_bytes())).unwrap_or_default(),
            rollouts: rollouts.into_iter().map(shown).collect(),
        })
    }

    async fn control(&self, request: Authorized<ControlRolloutRequest>) -> Result<Rollout, Status> {
        let actor = request.actor();
        let message = request.message;
        let action = match message.action() {
            Action::Pause => Control::Pause,
            Action::Resume => Control::Resume,
            Action::Promote => Control::Promote,
            Action::PromoteFully => Control::PromoteFully,
            Action::Abort => Control::Abort,
            Action::Unspecified => return Err(errors::invalid("action", "must be given")),
        };
        self.act(&message.policy, message.revision, action, &actor).await
    }

    async fn act(&self, policy: &str, revision: u64, action: Control, actor: &Actor) -> Result<Rollout, Status> {
        for _ in 0..MAX_ATTEMPTS {
            let rollout = self.newest(policy).await?;
            if revision != 0 && rollout.revision != revision {
                let problem = format!("the newest rollout is of revision {}, not {revision}", rollout.revision);
                return Err(errors::status(
                    Code::FailedPrecondition,
                    "ANOTHER_REVISION",
                    problem,
                    &[("policy", policy)],
                ));
            }
            let seen = match action {
                Control::Promote => self.candidates(&rollout, actor.now).await.map_err(from_store)?,
                _ => Seen::default(),
            };
            let next = control(&rollout, action, &seen, &actor.name, actor.now);
            let next = next.map_err(|Refused(problem)| {
                let metadata = [("policy", policy), ("state", rollout.state.name())];
                errors::status(Code::FailedPrecondition, "ROLLOUT_WRONG_STATE", problem, &metadata)
            })?;
            if self.0.store.write_rollout(&next, None, actor).await.map_err(from_store)? {
                self.0.tell_policies_changed(&[policy]).await;
                return Ok(next);
            }
        }
        Err(errors::status(
            Code::Aborted,
            "CONFLICT",
            "the rollout changes all the time; try again",
            &[("policy", policy)],
        ))
    }

    /// Whom the next step may reach, for its size.
    async fn candidates(&self, rollout: &Rollout, now: UnixMs) -> store::Result<Seen> {
        let mut selectors = Vec::<Selector>::new();
        for number in [rollout.revision, rollout.stable].into_iter().filter(|number| *number > 0) {
            let found = self.0.store.list_revisions(&rollout.policy, Some(number + 1), 1).await?;
            selectors.extend(found.into_iter().map(|revision| revision.content.selector));
        }
        let (mut candidates, mut after) = (Candidates::new(rollout, rollout.step, now), None);
        let policies = self.0.store.policy_set().await?;
        loop {
            let page = self.0.store.page_agents(AgentFilter::default(), after, PAGE).await?;
            let takes_part = |agent: &&AgentRecord| {
                agent.observed.accepts(rollout.kind)
                    && agent.observed.has_attributes()
                    && policies.override_of(agent.placement(), &rollout.policy).is_none()
            };
            for agent in page.iter().filter(takes_part) {
                let attributes = Attributes::decode(&agent.observed.description);
                if selectors.iter().any(|selector| selector.matches(&attributes, &agent.labels)) {
                    candidates.add(agent, &attributes);
                }
            }
            after = page.last().map(|agent| agent.uid);
            if page.len() < PAGE as usize {
                return Ok(Seen { candidates: Some(candidates), ..Seen::default() });
            }
        }
    }

    async fn undo(&self, request: Authorized<UndoRolloutRequest>) -> Result<Rollout, Status> {
        let actor = request.actor();
        let UndoRolloutRequest { policy: name, to_revision, message } = request.message;
        policy_rules::check_message(&message).map_err(|problem| errors::invalid("message", problem))?;
        let newest = self.newest(&name).await?;
        let goes_out = !newest.at_once && !newest.state.is_ended();
        if goes_out && (to_revision == 0 || to_revision == newest.stable) {
            return self.act(&name, newest.revision, Control::RollBack, &actor).await;
        }
        let to = match to_revision {
            0 => self.before(&newest).await?,
            number => number,
        };
        let policy = self.0.store.get_policy(&name).await.map_err(from_store)?;
        let Revision { content, .. } = self.0.store.get_revision(&name, to).await.map_err(from_store)?;
        if policy.revision.content == content {
            let problem = format!("revision {} of policy {name:?} has this content already", policy.revision.number);
            return Err(errors::status(Code::FailedPrecondition, "NOTHING_TO_UNDO", problem, &[("policy", &name)]));
        }
        let apply = ApplyPolicy {
            name: name.clone(),
            kind: policy.kind,
            content,
            message: if message.is_empty() { format!("back to revision {to}") } else { message },
            bodies: Vec::new(),
            etag: Some(policy.etag),
            validate_only: false,
        };
        self.0.store.apply_policy(apply, &actor).await.map_err(from_store)?;
        self.0.tell_policies_changed(&[&name]).await;
        self.newest(&name).await
    }

    /// What agents had before the newest rollout.
    async fn before(&self, newest: &Rollout) -> Result<u64, Status> {
        if newest.stable > 0 {
            return Ok(newest.stable);
        }
        let problem = format!("policy {:?} had no revision before", newest.policy);
        Err(errors::status(Code::FailedPrecondition, "NOTHING_TO_UNDO", problem, &[("policy", &newest.policy)]))
    }

    /// Sends what is new until the rollout has ended, also if that is because another took its place.
    async fn follow(
        &self,
        first: Rollout,
        operator: &Operator,
        states: &mpsc::Sender<Result<admin::Rollout, Status>>,
    ) -> Result<(), Status> {
        let mut current = first;
        let mut confirmed = tokio::time::Instant::now();
        loop {
            let is_ended = current.state.is_ended();
            if states.send(Ok(shown(current.clone()))).await.is_err() || is_ended {
                return Ok(());
            }
            loop {
                tokio::select! {
                    () = states.closed() => return Ok(()),
                    () = tokio::time::sleep(LOOK) => {}
                }
                if confirmed.elapsed() >= CONFIRM {
                    self.0.confirm(operator).await?;
                    confirmed = tokio::time::Instant::now();
                }
                let newest = self.newest(&current.policy).await?;
                let next = self.of_revision(newest, current.revision).await?;
                let state = |rollout: &Rollout| (rollout.id, rollout.version, rollout.seen_at);
                let is_same = state(&next) == state(&current) && next.counts == current.counts;
                if !is_same {
                    current = next;
                    break;
                }
            }
        }
    }
}
