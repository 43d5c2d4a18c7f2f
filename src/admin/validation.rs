//! What a revision has to pass before it is applied, for whoever applies one: its form, its files' syntax, its templates, and
//! the deployment's validators.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use tonic::Status;

use super::{
    agent_config,
    context::Context,
    errors::from_store,
    policy_rules,
    scan::{self, Query},
    validator::{self, Candidate, File},
};
use crate::{
    model::{
        Attributes, ContentHash,
        desired::{DesiredConfig, DesiredFile, InForce, Part, PolicySet},
        policy::{Policy, PolicyOffer},
        template::Subject,
    },
    proto::admin::ApplyPolicyRequest,
    store::{Actor, Applied, ApplyOutcome, ApplyPolicy},
};

/// Agents whose files validators look at, each with other files.
const MAX_WRITTEN: usize = 3;
/// Matching agents among which those are looked for.
const MAX_LOOKED_AT: usize = 1_000;

/// The apply that a request asks for, or everything that is wrong with it.
pub async fn read(context: &Arc<Context>, request: ApplyPolicyRequest) -> Result<ApplyPolicy, Status> {
    let hosts = context.hosts_packages;
    // Megabytes of files take a while.
    let checked = tokio::task::spawn_blocking(move || policy_rules::check(request, hosts)).await;
    checked.map_err(|error| Status::internal(error.to_string()))?
}

/// Has the deployment's validators look at a revision, unless it is there already. Returns what they could not look at.
pub async fn validate(context: &Context, apply: &ApplyPolicy, actor: &Actor) -> Result<Vec<String>, Status> {
    let Some(validators) = context.validators.as_ref().filter(|validators| validators.has(apply.kind)) else {
        return Ok(Vec::new());
    };
    let dry = ApplyPolicy { validate_only: true, ..apply.clone() };
    let Applied { policy, outcome } = context.store.apply_policy(dry, actor).await.map_err(from_store)?;
    if outcome == ApplyOutcome::Unchanged {
        return Ok(Vec::new());
    }
    let candidates = match validator::as_file(&apply.name, &apply.content.offer) {
        Some(file) => vec![Candidate { of: None, files: vec![file] }],
        None => configurations(context, apply, policy).await?,
    };
    let unseen = candidates.is_empty().then(|| {
        "the validator has not seen it: its templates are filled in for agents, and for none that matches they can be"
            .to_owned()
    });
    validators.check(&apply.name, apply.kind, candidates).await?;
    Ok(unseen.into_iter().collect())
}

/// The policy's own files; with templates among them, as some agents that match would get them.
async fn configurations(context: &Context, apply: &ApplyPolicy, policy: Policy) -> Result<Vec<Candidate>, Status> {
    let PolicyOffer::Config(files) = &apply.content.offer else { return Ok(Vec::new()) };
    let mut bodies: HashMap<ContentHash, Bytes> = apply.bodies.iter().cloned().collect();
    let stored = files.values().map(|file| file.content).filter(|hash| !bodies.contains_key(hash));
    let stored: Vec<ContentHash> = stored.collect();
    bodies.extend(agent_config::bodies(&*context.store, &stored).await.map_err(from_store)?);

    let alone = InForce { name: policy.name, kind: policy.kind, revision: policy.revision, part: Part::Everybody };
    let set = PolicySet::new(0, vec![alone], Vec::new());
    let Some(merged) = set.merge(&[0]) else { return Ok(Vec::new()) };
    if !merged.has_templates {
        return Ok(vec![Candidate { of: None, files: self::files(&merged, &bodies) }]);
    }
    let templates = set.template_files();
    let texts = templates.keys().filter_map(|hash| Some((*hash, bodies.get(hash)?.clone())));
    let set = set.with_templates(texts.collect::<Vec<_>>());

    let query = Query { selector: apply.content.selector.clone(), connected: None, statuses: Vec::new() };
    let page = scan::page(&*context.store, &query, None, MAX_LOOKED_AT).await.map_err(from_store)?;
    let (mut seen, mut candidates) = (BTreeSet::new(), Vec::new());
    for agent in page.agents {
        let attributes = Attributes::decode(&agent.observed.description);
        // That some agents lack something is what the preview tells.
        let Ok(config) = set.render(&merged, &Subject::new(agent.uid, &attributes, &agent.labels), None) else {
            continue;
        };
        if seen.insert(config.hash) {
            candidates.push(Candidate { of: Some(agent.uid.to_string()), files: self::files(&config, &bodies) });
        }
        if candidates.len() == MAX_WRITTEN {
            break;
        }
    }
    Ok(candidates)
}

fn files(config: &DesiredConfig, bodies: &HashMap<ContentHash, Bytes>) -> Vec<File> {
    let written: HashMap<_, _> = config.rendered.iter().map(|(hash, body)| (*hash, body)).collect();
    let file = |(name, file): (&String, &DesiredFile)| {
        let content = file.file.content;
        let body = written.get(&content).copied().or(bodies.get(&content));
        let (name, content_type) = (name.clone(), file.file.content_type.clone());
        File { name, content_type, body: body.cloned().unwrap_or_default() }
    };
    config.files.iter().map(file).collect()
}
