//! What one agent should run and what it says that it runs.

use std::collections::HashMap;

use bytes::Bytes;

use super::convert;
use crate::{
    model::{
        AgentRecord, Attributes, ContentHash,
        desired::{DesiredConfig, PolicySet},
        template::Subject,
    },
    proto::admin::{AgentConfig, DesiredFile},
    store::{Error, Result, Store},
};

/// Computes the desired configuration anew, for what is stored of it has no provenance. The two differ while a change is on
/// its way to the agent.
pub async fn get(store: &dyn Store, agent: &AgentRecord) -> Result<AgentConfig> {
    let policies = store.policy_set().await?;
    let attributes = Attributes::decode(&agent.observed.description);
    let merged = policies.merge(&policies.matching(agent, &attributes));
    let (mut desired, mut unrendered) = (merged, String::new());
    if let Some(merged) = desired.take_if(|desired| desired.has_templates) {
        let subject = Subject::new(agent.uid, &attributes, &agent.labels);
        match policies.render(&merged, &subject, None) {
            Ok(rendered) => desired = Some(rendered),
            Err(problem) => unrendered = problem.to_string(),
        }
    }
    let mut config = AgentConfig {
        instance_uid: agent.uid.to_string(),
        unrendered,
        assigned_config_hash: agent.desired.config.hash.map(ContentHash::to_bytes).unwrap_or_default(),
        ..Default::default()
    };
    if let Some(desired) = desired {
        config.desired_config_hash = desired.hash.to_bytes();
        config.desired = desired_files(store, &policies, agent, &desired).await?;
    }
    if let Some(hash) = agent.observed.effective_config {
        let body = bodies(store, &[hash]).await?.remove(&hash);
        config.has_effective = body.is_some();
        config.effective = convert::agent::effective_files(body.unwrap_or_default());
    }
    Ok(config)
}

async fn desired_files(
    store: &dyn Store,
    policies: &PolicySet,
    agent: &AgentRecord,
    desired: &DesiredConfig,
) -> Result<Vec<DesiredFile>> {
    let stored = desired.files.values().filter(|file| file.template.is_none());
    let mut bodies = bodies(store, &stored.map(|file| file.file.content).collect::<Vec<_>>()).await?;
    bodies.extend(desired.rendered.iter().cloned());
    let files = desired.files.iter().map(|(name, desired)| {
        let hash = desired.file.content;
        let body = bodies.get(&hash).ok_or_else(|| Error::Internal(format!("content {hash} is missing")))?;
        Ok(DesiredFile {
            name: name.clone(),
            content_type: desired.file.content_type.clone(),
            role: desired.file.role.clone(),
            body: body.clone(),
            content_hash: hash.to_bytes(),
            policy: desired.policy.clone(),
            revision: desired.revision,
            template: desired.template.is_some(),
            overridden: policies.override_of(agent.placement(), &desired.policy).is_some(),
        })
    });
    files.collect()
}

/// Stored bodies by hash.
pub async fn bodies(store: &dyn Store, hashes: &[ContentHash]) -> Result<HashMap<ContentHash, Bytes>> {
    if hashes.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(store.get_contents(hashes).await?.into_iter().collect())
}
