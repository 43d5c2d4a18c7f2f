//! The Certificates service.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use super::{
    authorized::Authorized,
    context::Context,
    convert::certificate::{certificate as shown, state_of},
    errors::{self, from_store},
    pages::{self, Pages},
};
use crate::{
    model::certificate,
    proto::admin::{
        self, ApproveCertificateRequest, DenyCertificateRequest, ListCertificatesRequest, ListCertificatesResponse,
        certificates_server::Certificates,
    },
    store::CertificateFilter,
};

pub struct Service(pub Arc<Context>);

#[tonic::async_trait]
impl Certificates for Service {
    async fn list_certificates(
        &self,
        request: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        self.list(Authorized::of(request)?).await.map(Response::new)
    }

    async fn approve_certificate(
        &self,
        request: Request<ApproveCertificateRequest>,
    ) -> Result<Response<admin::Certificate>, Status> {
        self.approve(Authorized::of(request)?).await.map(Response::new)
    }

    async fn deny_certificate(
        &self,
        request: Request<DenyCertificateRequest>,
    ) -> Result<Response<admin::Certificate>, Status> {
        self.deny(Authorized::of(request)?).await.map(Response::new)
    }
}

impl Service {
    async fn list(&self, request: Authorized<ListCertificatesRequest>) -> Result<ListCertificatesResponse, Status> {
        let message = &request.message;
        let size = pages::size(message.page_size)?;
        let uid = (!message.instance_uid.is_empty()).then(|| errors::uid(&message.instance_uid)).transpose()?;
        let filter = CertificateFilter { uid, state: state_of(message.state()) };
        let pages = Pages::of(&["certificates", &message.instance_uid, &message.state.to_string()]);
        let after = pages.after(&message.page_token)?;
        let after = after.map(|last| Uuid::from_slice(&last).map_err(|_| pages::invalid_token())).transpose()?;
        // One more than is shown tells whether there is another page.
        let found = self.0.store.list_certificates(filter, after, size as u32 + 1).await.map_err(from_store)?;
        let has_more = found.len() > size;
        let page: Vec<_> = found.into_iter().take(size).collect();
        let last = page.last().filter(|_| has_more);
        Ok(ListCertificatesResponse {
            next_page_token: last.map(|last| pages.token(last.id.as_bytes())).unwrap_or_default(),
            certificates: page.into_iter().map(shown).collect(),
        })
    }

    async fn approve(&self, request: Authorized<ApproveCertificateRequest>) -> Result<admin::Certificate, Status> {
        let (id, actor) = (id(&request.message.id)?, request.actor());
        let Some(issuer) = &self.0.issuer else {
            let text = "there is no certificate authority: this server issues no certificates";
            return Err(errors::status(Code::FailedPrecondition, "NO_AUTHORITY", text, &[]));
        };
        let asked = self.0.store.get_certificate(id).await.map_err(from_store)?;
        let issued = issuer.issue(asked.uid, &asked.public_key, actor.now).map_err(|error| {
            errors::status(Code::FailedPrecondition, "NOT_ISSUED", format!("it cannot be issued: {error}"), &[])
        })?;
        let approved = self.0.store.approve_certificate(id, &issued, &actor).await.map_err(from_store)?;
        self.0.publisher.agent_to_reconcile(approved.uid).await;
        Ok(shown(approved))
    }

    async fn deny(&self, request: Authorized<DenyCertificateRequest>) -> Result<admin::Certificate, Status> {
        let (id, actor) = (id(&request.message.id)?, request.actor());
        let denied = self.0.store.deny_certificate(id, &actor).await.map_err(from_store)?;
        if denied.issued.is_some() {
            self.0.publisher.agent_tokens_changed().await;
            self.0.publisher.agent_to_reconcile(denied.uid).await;
        } else if let Some(agent) = self.0.store.read_agents(&[denied.uid]).await.map_err(from_store)?.pop()
            && agent.presence.connected
        {
            self.0.publisher.agent_refused(&agent, certificate::DENIED).await;
        }
        Ok(shown(denied))
    }
}

fn id(text: &str) -> Result<Uuid, Status> {
    text.parse().map_err(|_| errors::invalid("id", "must be the id of a certificate, a UUID"))
}
