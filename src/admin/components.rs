//! What an agent is built from.

use prost::Message;
use tonic::Status;

use super::{context::Context, convert, errors::from_store};
use crate::{
    model::AgentRecord,
    proto::{admin::AgentComponents, opamp::AvailableComponents},
};

pub async fn get(context: &Context, record: &AgentRecord) -> Result<AgentComponents, Status> {
    let announced = context.store.read_announced(&[record.uid]).await.map_err(from_store)?;
    let hash = announced.into_iter().next().map(|(_, it)| it.components_hash).unwrap_or_default();
    let body = match hash.is_empty() {
        true => None,
        false => context.store.get_components(&hash).await.map_err(from_store)?,
    };
    let known = body.map(|body| AvailableComponents::decode(body).unwrap_or_default());
    Ok(AgentComponents {
        instance_uid: record.uid.to_string(),
        hash,
        is_known: known.is_some(),
        components: convert::agent::available(known.map(|it| it.components).unwrap_or_default()),
    })
}
