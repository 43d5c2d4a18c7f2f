//! Policies: list, show, history, delete.

use std::collections::BTreeMap;

use super::{PAGE_SIZE, rollouts};
use crate::{
    cli::{
        connection::Client,
        error::Result,
        output::{self, Format},
        view::policy::{Policy, Revision},
    },
    proto::admin::{DeletePolicyRequest, GetPolicyRequest, ListPoliciesRequest, ListRevisionsRequest},
};

pub async fn list(client: &Client, format: Format) -> Result<()> {
    let mut policies: Vec<Policy> = Vec::new();
    let mut request = ListPoliciesRequest { page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = client.policies().list_policies(client.request(request.clone())).await?.into_inner();
        policies.extend(page.policies.into_iter().map(Policy::from));
        if page.next_page_token.is_empty() {
            return output::list(format, &policies);
        }
        request.page_token = page.next_page_token;
    }
}

pub async fn get(client: &Client, name: String, revision: Option<u64>, format: Format) -> Result<()> {
    let include_bodies = matches!(format, Format::Json | Format::Yaml);
    let request = client.request(GetPolicyRequest { name, include_bodies, revision: revision.unwrap_or(0) });
    let policy = client.policies().get_policy(request).await?.into_inner();
    output::one(format, &Policy::from(policy))
}

pub async fn history(client: &Client, name: String, format: Format) -> Result<()> {
    let mut revisions: Vec<Revision> = Vec::new();
    // Oldest first, so that the newest of each revision stays.
    let rollouts = rollouts::all(client, name.clone()).await?.into_iter().rev();
    let outcomes: BTreeMap<u64, &str> = rollouts.map(|rollout| (rollout.revision, rollout.state)).collect();
    let mut request = ListRevisionsRequest { name, page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = client.policies().list_revisions(client.request(request.clone())).await?.into_inner();
        revisions.extend(page.revisions.into_iter().map(Revision::from));
        if page.next_page_token.is_empty() {
            for revision in &mut revisions {
                revision.outcome = outcomes.get(&revision.revision).copied();
            }
            return output::list(format, &revisions);
        }
        request.page_token = page.next_page_token;
    }
}

pub async fn delete(client: &Client, name: String, etag: Option<String>) -> Result<()> {
    client.policies().delete_policy(client.request(DeletePolicyRequest { name: name.clone(), etag })).await?;
    output::write(&format!("policy/{name} deleted\n"))
}
