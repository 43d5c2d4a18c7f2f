//! The Policies service.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    agent_config,
    authorized::Authorized,
    context::Context,
    convert,
    errors::{self, from_store},
    pages,
    pages::Pages,
    policy_sets,
    preview::{self, Proposal},
    revision_diff,
    scan::{self, Query},
    validation,
};
use crate::{
    model::ContentHash,
    proto::admin::{
        AgentCount, ApplyPoliciesRequest, ApplyPoliciesResponse, ApplyPolicyRequest, ApplyPolicyResponse,
        DeletePolicyRequest, DeletePolicyResponse, DiffRevisionsRequest, GetPolicyRequest, ListPoliciesRequest,
        ListPoliciesResponse, ListRevisionsRequest, ListRevisionsResponse, Policy, PolicyDiff, PolicyPreview,
        policies_server::Policies,
    },
    store::{Actor, Applied, ApplyOutcome, ApplyPolicy},
};

pub struct Service(pub Arc<Context>);

#[tonic::async_trait]
impl Policies for Service {
    async fn apply_policy(
        &self,
        request: Request<ApplyPolicyRequest>,
    ) -> Result<Response<ApplyPolicyResponse>, Status> {
        self.apply(Authorized::of(request)?).await.map(Response::new)
    }

    async fn apply_policies(
        &self,
        request: Request<ApplyPoliciesRequest>,
    ) -> Result<Response<ApplyPoliciesResponse>, Status> {
        policy_sets::apply(&self.0, Authorized::of(request)?).await.map(Response::new)
    }

    async fn get_policy(&self, request: Request<GetPolicyRequest>) -> Result<Response<Policy>, Status> {
        self.get(Authorized::of(request)?).await.map(Response::new)
    }

    async fn list_policies(
        &self,
        request: Request<ListPoliciesRequest>,
    ) -> Result<Response<ListPoliciesResponse>, Status> {
        self.list(Authorized::of(request)?).await.map(Response::new)
    }

    async fn list_revisions(
        &self,
        request: Request<ListRevisionsRequest>,
    ) -> Result<Response<ListRevisionsResponse>, Status> {
        self.history(Authorized::of(request)?).await.map(Response::new)
    }

    async fn diff_revisions(&self, request: Request<DiffRevisionsRequest>) -> Result<Response<PolicyDiff>, Status> {
        revision_diff::of_request(&*self.0.store, Authorized::of(request)?.message).await.map(Response::new)
    }

    async fn delete_policy(
        &self,
        request: Request<DeletePolicyRequest>,
    ) -> Result<Response<DeletePolicyResponse>, Status> {
        self.delete(Authorized::of(request)?).await.map(Response::new)
    }
}

impl Service {
    async fn apply(&self, request: Authorized<ApplyPolicyRequest>) -> Result<ApplyPolicyResponse, Status> {
        let actor = request.actor();
        let message = request.message;
        let (is_count, is_preview) = (message.count_agents, message.preview);
        let apply = validation::read(&self.0, message).await?;
        let warnings = validation::validate(&self.0, &apply, &actor).await?;
        let (is_dry, selector) = (apply.validate_only, apply.content.selector.clone());
        let bodies = apply.bodies.iter().cloned().collect();
        let before = match is_preview && !is_dry {
            // Once it is applied, there is nothing to compare with.
            true => Some(self.preview(ApplyPolicy { validate_only: true, ..apply.clone() }, &actor, &bodies).await?),
            false => None,
        };
        let applied = self.0.store.apply_policy(apply, &actor).await.map_err(from_store)?;
        if !is_dry && applied.outcome != ApplyOutcome::Unchanged {
            self.0.tell_policies_changed(&[&applied.policy.name]).await;
        }
        let agents = match is_count {
            true => Some(self.count(Query { selector, connected: None, statuses: Vec::new() }).await?),
            false => None,
        };
        let preview = match before {
            None if is_preview => Some(self.outlook(&applied, &bodies).await?),
            preview => preview,
        };
        Ok(ApplyPolicyResponse {
            warnings,
            preview,
            policy: Some(convert::policy::policy(applied.policy)),
            outcome: convert::policy::outcome(applied.outcome).into(),
            agents,
        })
    }

    async fn preview(
        &self,
        apply: ApplyPolicy,
        actor: &Actor,
        bodies: &preview::Bodies,
    ) -> Result<PolicyPreview, Status> {
        let applied = self.0.store.apply_policy(apply, actor).await.map_err(from_store)?;
        self.outlook(&applied, bodies).await
    }

    async fn outlook(&self, applied: &Applied, bodies: &preview::Bodies) -> Result<PolicyPreview, Status> {
        let Applied { policy, outcome } = applied;
        let policies = vec![(policy, *outcome != ApplyOutcome::Unchanged)];
        let proposal = Proposal { policies, removed: &[], bodies };
        let outlook = preview::of(&*self.0.store, &proposal).await.map_err(from_store)?;
        Ok(outlook.previews.into_values().next().unwrap_or_default())
    }

    async fn count(&self, query: Query) -> Result<AgentCount, Status> {
        let scan::Count { matching, connected, incomplete } =
            scan::count(&*self.0.store, &query).await.map_err(from_store)?;
        Ok(AgentCount { matching, connected, incomplete })
    }

    async fn get(&self, request: Authorized<GetPolicyRequest>) -> Result<Policy, Status> {
        let name = errors::name("name", &request.message.name)?;
        let mut policy = self.0.store.get_policy(name).await.map_err(from_store)?;
        if request.message.revision > 0 {
            let revision = self.0.store.get_revision(name, request.message.revision).await;
            policy.revision = revision.map_err(from_store)?;
        }
        let mut policy = convert::policy::policy(policy);
        if let Some(revision) = policy.revision.as_mut().filter(|_| request.message.include_bodies) {
            let hash = |content: &[u8]| ContentHash::from_slice(content);
            let hashes: Vec<_> = revision.files.iter().filter_map(|file| hash(&file.content_hash)).collect();
            let mut bodies = agent_config::bodies(&*self.0.store, &hashes).await.map_err(from_store)?;
            for file in &mut revision.files {
                let body = hash(&file.content_hash).and_then(|hash| bodies.get_mut(&hash).cloned());
                file.body = body.unwrap_or_default();
            }
        }
        Ok(policy)
    }

    async fn list(&self, request: Authorized<ListPoliciesRequest>) -> Result<ListPoliciesResponse, Status> {
        let size = pages::size(request.message.page_size)?;
        let pages = Pages::of(&["policies"]);
        let after = pages.after(&request.message.page_token)?.map(String::from_utf8).transpose();
        let after = after.ok().filter(|name| !name.as_ref().is_some_and(|name| name.contains('\0')));
        let after = after.ok_or_else(pages::invalid_token)?;
        let policies = self.0.store.list_policies(after.as_deref(), size as u32).await.map_err(from_store)?;
        let last = policies.last().filter(|_| policies.len() == size);
        Ok(ListPoliciesResponse {
            next_page_token: last.map(|policy| pages.token(policy.name.as_bytes())).unwrap_or_default(),
            policies: policies.into_iter().map(convert::policy::policy).collect(),
        })
    }

    async fn history(&self, request: Authorized<ListRevisionsRequest>) -> Result<ListRevisionsResponse, Status> {
        let message = request.message;
        let size = pages::size(message.page_size)?;
        let pages = Pages::of(&["revisions", &message.name]);
        let name = errors::name("name", &message.name)?;
        let before = pages.after(&message.page_token)?.map(<[u8; 8]>::try_from).transpose();
        let before = before.map_err(|_| pages::invalid_token())?.map(u64::from_be_bytes);
        let revisions = self.0.store.list_revisions(name, before, size as u32).await.map_err(from_store)?;
        let last = revisions.last().filter(|_| revisions.len() == size);
        Ok(ListRevisionsResponse {
            next_page_token: last.map(|last| pages.token(&last.number.to_be_bytes())).unwrap_or_default(),
            revisions: revisions.into_iter().map(convert::policy::revision).collect(),
        })
    }

    async fn delete(&self, request: Authorized<DeletePolicyRequest>) -> Result<DeletePolicyResponse, Status> {
        let actor = request.actor();
        let DeletePolicyRequest { name, etag } = request.message;
        let name = errors::name("name", &name)?;
        self.0.store.delete_policy(name, etag.as_deref(), &actor).await.map_err(from_store)?;
        self.0.tell_policies_changed(&[name]).await;
        Ok(DeletePolicyResponse {})
    }
}
