//! The Overrides service.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};

use super::{
    authorized::Authorized,
    context::Context,
    convert,
    errors::{self, Violations, from_store},
    pages::{self, Pages},
    policy_rules,
    scan::{self, Query},
    tokens::expiry,
};
use crate::{
    model::{AgentRecord, Attributes, InstanceUid, UnixMs, overrides::MAX_OVERRIDES},
    proto::admin::{
        ClearOverridesRequest, ClearOverridesResponse, ListOverridesRequest, ListOverridesResponse,
        SetOverridesRequest, SetOverridesResponse, clear_overrides_request,
        overrides_server::Overrides,
        set_overrides_request::{To, What},
    },
    store::{self, Actor, NewOverride, NewOverrides, OverrideFilter},
};

/// Policies may change between finding out what agents have and holding them on it.
const MAX_ATTEMPTS: usize = 5;
/// Agents read at once.
const PAGE: usize = 1_000;

pub struct Service(pub Arc<Context>);

#[tonic::async_trait]
impl Overrides for Service {
    async fn set_overrides(
        &self,
        request: Request<SetOverridesRequest>,
    ) -> Result<Response<SetOverridesResponse>, Status> {
        self.set(Authorized::of(request)?).await.map(Response::new)
    }

    async fn clear_overrides(
        &self,
        request: Request<ClearOverridesRequest>,
    ) -> Result<Response<ClearOverridesResponse>, Status> {
        self.clear(Authorized::of(request)?).await.map(Response::new)
    }

    async fn list_overrides(
        &self,
        request: Request<ListOverridesRequest>,
    ) -> Result<Response<ListOverridesResponse>, Status> {
        self.list(Authorized::of(request)?.message).await.map(Response::new)
    }
}

impl Service {
    async fn set(&self, request: Authorized<SetOverridesRequest>) -> Result<SetOverridesResponse, Status> {
        let actor = request.actor();
        let (to, what, new) = check(request.message, actor.now)?;
        let agents = match to {
            To::InstanceUid(uid) => vec![self.read(errors::uid(&uid)?).await?],
            To::Selector(selector) => self.matching(&selector).await?,
        };
        let changed = match what {
            What::Revision(number) => self.pin(new, &agents, number, &actor).await?,
            What::Hold(_) => self.hold(new, &agents, &actor).await?,
        };
        Ok(SetOverridesResponse { agents: agents.len() as u64, changed })
    }

    async fn pin(
        &self,
        new: NewOverrides,
        agents: &[AgentRecord],
        revision: u64,
        actor: &Actor,
    ) -> Result<u64, Status> {
        let agents = agents.iter().map(|agent| NewOverride { uid: agent.uid, placement: agent.placement(), revision });
        let new = NewOverrides { agents: agents.collect(), ..new };
        let changed = self.0.store.set_overrides(&new, actor).await.map_err(from_store)?.unwrap_or_default();
        self.tell(&new.policy, new.validate_only, changed).await;
        Ok(changed)
    }

    /// Each agent on what the policies give it, as long as they do.
    async fn hold(&self, mut new: NewOverrides, agents: &[AgentRecord], actor: &Actor) -> Result<u64, Status> {
        for _ in 0..MAX_ATTEMPTS {
            let policies = self.0.store.policy_set().await.map_err(from_store)?;
            let held = agents.iter().map(|agent| {
                let attributes = Attributes::decode(&agent.observed.description);
                let revision = policies.revision_of(&new.policy, agent, &attributes);
                NewOverride { uid: agent.uid, placement: agent.placement(), revision }
            });
            new.agents = held.collect();
            new.epoch = Some(policies.epoch);
            if let Some(changed) = self.0.store.set_overrides(&new, actor).await.map_err(from_store)? {
                self.tell(&new.policy, new.validate_only, changed).await;
                return Ok(changed);
            }
        }
        let problem = "the policies change all the time; try again";
        Err(errors::status(Code::Aborted, "CONFLICT", problem, &[("policy", &new.policy)]))
    }

    async fn tell(&self, policy: &str, validate_only: bool, changed: u64) {
        if changed > 0 && !validate_only {
            self.0.tell_policies_changed(&[policy]).await;
        }
    }

    async fn clear(&self, request: Authorized<ClearOverridesRequest>) -> Result<ClearOverridesResponse, Status> {
        use clear_overrides_request::Of;
        let actor = request.actor();
        let ClearOverridesRequest { policy, of } = request.message;
        let policy = errors::name("policy", &policy)?;
        let agents = match of {
            Some(Of::InstanceUid(uid)) => vec![self.read(errors::uid(&uid)?).await?.uid],
            Some(Of::Selector(selector)) => self.overridden(policy, &selector).await?,
            None => return Err(errors::invalid("of", "an instance_uid or a selector must be given")),
        };
        let cleared = self.0.store.clear_overrides(policy, &agents, &actor).await.map_err(from_store)?;
        self.tell(policy, false, cleared).await;
        Ok(ClearOverridesResponse { cleared })
    }

    async fn list(&self, message: ListOverridesRequest) -> Result<ListOverridesResponse, Status> {
        let size = pages::size(message.page_size)?;
        let uid = match message.instance_uid.as_str() {
            "" => None,
            uid => Some(errors::uid(uid)?),
        };
        let policy = match message.policy.as_str() {
            "" => None,
            policy => Some(errors::name("policy", policy)?),
        };
        let pages = Pages::of(&["overrides", &message.policy, &message.instance_uid]);
        let after = pages.after(&message.page_token)?.map(|last| place(&last).ok_or_else(pages::invalid_token));
        let after = after.transpose()?;
        let filter = OverrideFilter { policy, uid };
        let after = after.as_ref().map(|(policy, uid)| (policy.as_str(), *uid));
        let overrides = self.0.store.list_overrides(filter, after, size as u32).await.map_err(from_store)?;
        let last = overrides.last().filter(|_| overrides.len() == size);
        let token = last.map(|last| pages.token(&[last.uid.as_bytes(), last.policy.as_bytes()].concat()));
        Ok(ListOverridesResponse {
            next_page_token: token.unwrap_or_default(),
            overrides: overrides.into_iter().map(convert::overrides::one).collect(),
        })
    }

    async fn read(&self, uid: InstanceUid) -> Result<AgentRecord, Status> {
        let records = self.0.store.read_agents(&[uid]).await.map_err(from_store)?;
        records.into_iter().next().ok_or_else(|| errors::agent_not_found(&uid))
    }

    /// No more than can have an override.
    async fn matching(&self, selector: &str) -> Result<Vec<AgentRecord>, Status> {
        let query = Query { selector: errors::selector(selector)?, connected: None, statuses: Default::default() };
        let (mut agents, mut after) = (Vec::new(), None);
        loop {
            let page = scan::page(&*self.0.store, &query, after, PAGE).await.map_err(from_store)?;
            agents.extend(page.agents);
            if agents.len() > MAX_OVERRIDES {
                let problem = format!("more than {MAX_OVERRIDES} agents match: use narrower selectors");
                return Err(errors::status(Code::ResourceExhausted, "TOO_MANY_AGENTS", problem, &[]));
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        match agents.is_empty() {
            true => Err(errors::status(Code::NotFound, "NO_AGENT_MATCHES", "no agent matches the selector", &[])),
            false => Ok(agents),
        }
    }

    /// Agents that match and have an override of the policy.
    async fn overridden(&self, policy: &str, selector: &str) -> Result<Vec<InstanceUid>, Status> {
        let query = Query { selector: errors::selector(selector)?, connected: None, statuses: Default::default() };
        let filter = OverrideFilter { policy: Some(policy), uid: None };
        let all = self.0.store.list_overrides(filter, None, MAX_OVERRIDES as u32).await.map_err(from_store)?;
        let uids: Vec<InstanceUid> = all.into_iter().map(|one| one.uid).collect();
        let mut agents = Vec::new();
        for chunk in uids.chunks(store::MAX_BATCH) {
            let records = self.0.store.read_agents(chunk).await.map_err(from_store)?;
            agents.extend(records.iter().filter(|agent| query.matches(agent)).map(|agent| agent.uid));
        }
        Ok(agents)
    }
}

/// What a request asks for, or everything that is wrong with it; who it is about is still to be found.
fn check(request: SetOverridesRequest, now: UnixMs) -> Result<(To, What, NewOverrides), Status> {
    let SetOverridesRequest { policy, message, expires_in, validate_only, to, what } = request;
    let mut violations = Violations::default();
    if policy.is_empty() || policy.contains('\0') {
        violations.add("policy", "must be given, and without U+0000");
    }
    if to.is_none() {
        violations.add("to", "an instance_uid or a selector must be given");
    }
    match &what {
        None => violations.add("what", "a revision or hold must be given"),
        Some(What::Revision(0)) => violations.add("revision", "revisions are numbered from 1"),
        Some(What::Hold(false)) => violations.add("hold", "must be true if it is given"),
        Some(What::Revision(_) | What::Hold(true)) => {}
    }
    violations.take("message", policy_rules::check_message(&message));
    let expires_at = expires_in.and_then(|after| violations.take("expires_in", expiry(&after, now)));
    violations.check()?;
    let (Some(to), Some(what)) = (to, what) else { return Err(Status::internal("a field was not checked")) };
    let is_hold = matches!(what, What::Hold(_));
    let new = NewOverrides { policy, agents: Vec::new(), is_hold, message, expires_at, epoch: None, validate_only };
    Ok((to, what, new))
}

/// Where a page ended.
fn place(last: &[u8]) -> Option<(String, InstanceUid)> {
    let (uid, policy) = last.split_at_checked(size_of::<u128>())?;
    let policy = String::from_utf8(policy.to_vec()).ok().filter(|policy| !policy.contains('\0'))?;
    Some((policy, InstanceUid::from_slice(uid).ok()?))
}
