//! The Agents service.

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{
    agent_config, agent_packages,
    authorized::Authorized,
    components,
    context::Context,
    convert,
    errors::{self, from_store},
    health, labels, pages,
    pages::Pages,
    scan::{self, Query},
    watch,
};
use crate::{
    model::{AgentRecord, InstanceUid, overrides::MAX_OVERRIDES},
    proto::admin::{
        self, AgentComponents, AgentConfig, AgentHealth, AgentPackages, ForgetAgentRequest, ForgetAgentResponse,
        GetAgentComponentsRequest, GetAgentConfigRequest, GetAgentHealthRequest, GetAgentPackagesRequest,
        GetAgentRequest, ListAgentsRequest, ListAgentsResponse, ListHealthTransitionsRequest,
        ListHealthTransitionsResponse, RetryConfigRequest, SetLabelsRequest, WatchAgentsRequest, WatchAgentsResponse,
        agents_server::Agents,
    },
    store::OverrideFilter,
};

pub struct Service(pub Arc<Context>);

#[tonic::async_trait]
impl Agents for Service {
    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        self.list(Authorized::of(request)?).await.map(Response::new)
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<admin::Agent>, Status> {
        self.get(Authorized::of(request)?).await.map(Response::new)
    }

    type WatchAgentsStream = ReceiverStream<Result<WatchAgentsResponse, Status>>;

    async fn watch_agents(
        &self,
        request: Request<WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        let Authorized { operator, message } = Authorized::of(request)?;
        let query = query(&message.selector, message.connected, &message.statuses)?;
        watch::start(self.0.clone(), query, operator).map(Response::new)
    }

    async fn set_labels(&self, request: Request<SetLabelsRequest>) -> Result<Response<admin::Agent>, Status> {
        let record = labels::set(&self.0, Authorized::of(request)?).await?;
        Ok(Response::new(self.full(&record).await))
    }

    async fn forget_agent(
        &self,
        request: Request<ForgetAgentRequest>,
    ) -> Result<Response<ForgetAgentResponse>, Status> {
        self.forget(Authorized::of(request)?).await.map(Response::new)
    }

    async fn get_agent_config(&self, request: Request<GetAgentConfigRequest>) -> Result<Response<AgentConfig>, Status> {
        let Authorized { message, .. } = Authorized::of(request)?;
        let record = self.read(errors::uid(&message.instance_uid)?).await?;
        agent_config::get(&*self.0.store, &record).await.map(Response::new).map_err(from_store)
    }

    async fn get_agent_health(&self, request: Request<GetAgentHealthRequest>) -> Result<Response<AgentHealth>, Status> {
        let Authorized { message, .. } = Authorized::of(request)?;
        let record = self.read(errors::uid(&message.instance_uid)?).await?;
        Ok(Response::new(health::get(&record)))
    }

    async fn get_agent_components(
        &self,
        request: Request<GetAgentComponentsRequest>,
    ) -> Result<Response<AgentComponents>, Status> {
        let Authorized { message, .. } = Authorized::of(request)?;
        let record = self.read(errors::uid(&message.instance_uid)?).await?;
        components::get(&self.0, &record).await.map(Response::new)
    }

    async fn list_health_transitions(
        &self,
        request: Request<ListHealthTransitionsRequest>,
    ) -> Result<Response<ListHealthTransitionsResponse>, Status> {
        let Authorized { message, .. } = Authorized::of(request)?;
        let record = self.read(errors::uid(&message.instance_uid)?).await?;
        health::history(&self.0, record.uid, message).await.map(Response::new)
    }

    async fn get_agent_packages(
        &self,
        request: Request<GetAgentPackagesRequest>,
    ) -> Result<Response<AgentPackages>, Status> {
        let Authorized { message, .. } = Authorized::of(request)?;
        let record = self.read(errors::uid(&message.instance_uid)?).await?;
        agent_packages::get(&*self.0.store, &record).await.map(Response::new).map_err(from_store)
    }

    async fn retry_config(&self, request: Request<RetryConfigRequest>) -> Result<Response<admin::Agent>, Status> {
        self.retry(Authorized::of(request)?).await.map(Response::new)
    }
}

fn query(selector: &str, connected: Option<bool>, statuses: &[i32]) -> Result<Query, Status> {
    Ok(Query { selector: errors::selector(selector)?, connected, statuses: convert::status::asked(statuses)? })
}

impl Service {
    async fn list(&self, request: Authorized<ListAgentsRequest>) -> Result<ListAgentsResponse, Status> {
        let message = request.message;
        let size = pages::size(message.page_size)?;
        let query = query(&message.selector, message.connected, &message.statuses)?;
        let others = format!("{:?} {:?}", query.connected, query.statuses);
        let pages = Pages::of(&["agents", &query.selector.to_string(), &others]);
        let after = pages.after(&message.page_token)?.map(|last| InstanceUid::from_slice(&last)).transpose();
        let after = after.map_err(|_| pages::invalid_token())?;
        let page = scan::page(&*self.0.store, &query, after, size).await.map_err(from_store)?;
        let live = self.0.gateways.live().await;
        Ok(ListAgentsResponse {
            agents: page.agents.iter().map(|record| convert::agent::summary(record, &live)).collect(),
            next_page_token: page.next.map(|last| pages.token(last.as_bytes())).unwrap_or_default(),
        })
    }

    async fn get(&self, request: Authorized<GetAgentRequest>) -> Result<admin::Agent, Status> {
        let record = self.read(errors::uid(&request.message.instance_uid)?).await?;
        let filter = OverrideFilter { uid: Some(record.uid), policy: None };
        let overrides = self.0.store.list_overrides(filter, None, MAX_OVERRIDES as u32).await.map_err(from_store)?;
        let overrides = overrides.into_iter().map(convert::overrides::one).collect();
        Ok(admin::Agent { overrides, ..self.full(&record).await })
    }

    async fn forget(&self, request: Authorized<ForgetAgentRequest>) -> Result<ForgetAgentResponse, Status> {
        let actor = request.actor();
        let message = request.message;
        let uid = errors::uid(&message.instance_uid)?;
        if !message.force && self.read(uid).await?.presence.connected {
            let problem = format!("agent {uid} is connected; it would be unknown until it next reports");
            return Err(errors::status(Code::FailedPrecondition, "AGENT_CONNECTED", problem, &[]));
        }
        self.0.store.forget_agent(uid, message.etag.as_deref(), &actor).await.map_err(from_store)?;
        self.0.publisher.agent_changed(uid).await;
        Ok(ForgetAgentResponse {})
    }

    async fn retry(&self, request: Authorized<RetryConfigRequest>) -> Result<admin::Agent, Status> {
        let uid = errors::uid(&request.message.instance_uid)?;
        let record = self.0.store.lift_quarantine(uid, &request.actor()).await.map_err(from_store)?;
        self.0.publisher.agent_to_reconcile(uid).await;
        Ok(self.full(&record).await)
    }

    async fn read(&self, uid: InstanceUid) -> Result<AgentRecord, Status> {
        let records = self.0.store.read_agents(&[uid]).await.map_err(from_store)?;
        if let Some(record) = records.into_iter().next() {
            return Ok(record);
        }
        let former = self.0.store.former_uids(&[uid]).await.map_err(from_store)?;
        let moved = former.into_iter().find(|it| !it.is_temporary);
        Err(moved.map_or_else(|| errors::agent_not_found(&uid), |it| errors::agent_moved(&uid, &it.uid)))
    }

    async fn full(&self, record: &AgentRecord) -> admin::Agent {
        convert::agent::full(record, &*self.0.gateways.live().await)
    }
}
