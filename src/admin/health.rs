//! An agent's health, and its history.

use tonic::Status;

use super::{
    context::Context,
    convert,
    errors::from_store,
    pages::{self, Pages},
};
use crate::{
    model::{AgentRecord, InstanceUid},
    proto::admin::{AgentHealth, ListHealthTransitionsRequest, ListHealthTransitionsResponse},
};

pub fn get(record: &AgentRecord) -> AgentHealth {
    AgentHealth { instance_uid: record.uid.to_string(), health: convert::agent::health_tree(record) }
}

pub async fn history(
    context: &Context,
    uid: InstanceUid,
    request: ListHealthTransitionsRequest,
) -> Result<ListHealthTransitionsResponse, Status> {
    let size = pages::size(request.page_size)?;
    let pages = Pages::of(&["health", &uid.to_string()]);
    let before = pages.after(&request.page_token)?.map(|last| last.try_into().map(i64::from_be_bytes)).transpose();
    let before = before.map_err(|_| pages::invalid_token())?;
    let found = context.store.health_history(uid, before, size as u32).await.map_err(from_store)?;
    let last = found.last().filter(|_| found.len() == size).map(|(number, _)| number.to_be_bytes());
    Ok(ListHealthTransitionsResponse {
        next_page_token: last.map(|last| pages.token(&last)).unwrap_or_default(),
        transitions: found.into_iter().map(|(_, it)| convert::agent::transition(it)).collect(),
    })
}
