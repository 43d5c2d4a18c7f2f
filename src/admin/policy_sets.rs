//! Policies that are applied together.

use std::{collections::HashMap, sync::Arc};

use tonic::Status;
use tonic_types::StatusExt;

use super::{
    authorized::Authorized,
    context::Context,
    convert,
    errors::{self, Violations, from_store},
    preview::{self, Bodies, Outlook, Proposal},
    revision_diff, validation,
};
use crate::{
    proto::admin::{
        ApplyPoliciesRequest, ApplyPoliciesResponse, ApplyPolicyRequest, ApplyPolicyResponse, KindPreview, PolicyDiff,
    },
    store::{Actor, AppliedSet, ApplyOutcome, ApplyPolicy, ApplySet},
};

/// Policies of one set: all of them are changed in one transaction, for which others wait.
const MAX_POLICIES: usize = 1_000;

pub async fn apply(
    context: &Arc<Context>,
    request: Authorized<ApplyPoliciesRequest>,
) -> Result<ApplyPoliciesResponse, Status> {
    let actor = request.actor();
    let ApplyPoliciesRequest { policies, prune, validate_only, preview, diff } = request.message;
    let set = ApplySet { policies: check(context, policies, prune).await?, prune, validate_only };
    let warnings = validate(context, &set, &actor).await?;
    // Once it is applied, there is nothing to compare with.
    let comparison = match preview || diff {
        true => compare(context, set.clone(), preview, diff, &actor).await?,
        false => Comparison::default(),
    };
    let applied = context.store.apply_policies(set, &actor).await.map_err(from_store)?;
    let changed = changed(&applied);
    if !validate_only && !changed.is_empty() {
        context.tell_policies_changed(&changed).await;
    }
    Ok(answer(applied, comparison, warnings))
}

/// The names of the policies that are others than before.
fn changed(applied: &AppliedSet) -> Vec<&str> {
    let changed = applied.applied.iter().filter(|one| one.outcome != ApplyOutcome::Unchanged).map(|one| &one.policy);
    changed.chain(&applied.pruned).map(|policy| policy.name.as_str()).collect()
}

/// The applies that a request asks for, or everything that is wrong with them.
async fn check(
    context: &Arc<Context>,
    requests: Vec<ApplyPolicyRequest>,
    prune: bool,
) -> Result<Vec<ApplyPolicy>, Status> {
    let mut violations = Violations::default();
    if requests.is_empty() && prune {
        violations.add("policies", "there are none: prune would delete every policy");
    } else if requests.is_empty() {
        violations.add("policies", "there are none");
    }
    if requests.len() > MAX_POLICIES {
        let problem = format!("at most {MAX_POLICIES} policies can be applied together, not {}", requests.len());
        return Err(errors::invalid("policies", problem));
    }
    let mut places = HashMap::<String, usize>::new();
    let mut applies = Vec::with_capacity(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        let place = format!("policies[{index}]");
        if let Some(first) = places.insert(request.name.clone(), index) {
            let problem = format!("{:?} is the name of policies[{first}], too", request.name);
            violations.add(format!("{place}.name"), problem);
        }
        for (field, is_given) in [
            ("validate_only", request.validate_only),
            ("count_agents", request.count_agents),
            ("preview", request.preview),
        ] {
            if is_given {
                violations.add(format!("{place}.{field}"), "is said of the whole set, not of one policy");
            }
        }
        match validation::read(context, request).await {
            Ok(apply) => applies.push(apply),
            Err(status) => add(&mut violations, &place, status)?,
        }
    }
    violations.check()?;
    Ok(applies)
}

/// Has the deployment's validators look at each policy, once it is known that nothing else is in the way. Returns what they could not
/// look at.
async fn validate(context: &Context, set: &ApplySet, actor: &Actor) -> Result<Vec<Vec<String>>, Status> {
    if context.validators.is_none() {
        return Ok(vec![Vec::new(); set.policies.len()]);
    }
    let dry = ApplySet { validate_only: true, ..set.clone() };
    context.store.apply_policies(dry, actor).await.map_err(from_store)?;
    let mut violations = Violations::default();
    let mut warnings = Vec::with_capacity(set.policies.len());
    for (index, apply) in set.policies.iter().enumerate() {
        match validation::validate(context, apply, actor).await {
            Ok(unseen) => warnings.push(unseen),
            Err(status) => add(&mut violations, &format!("policies[{index}]"), status)?,
        }
    }
    violations.check()?;
    Ok(warnings)
}

/// What one policy is refused for; another trouble ends it all.
fn add(violations: &mut Violations, place: &str, status: Status) -> Result<(), Status> {
    let Some(details) = status.get_details_bad_request() else { return Err(status) };
    for violation in details.field_violations {
        violations.add(format!("{place}.{}", violation.field), violation.description);
    }
    Ok(())
}

#[derive(Default)]
struct Comparison {
    outlook: Option<Outlook>,
    diffs: Vec<PolicyDiff>,
}

async fn compare(
    context: &Context,
    set: ApplySet,
    preview: bool,
    diff: bool,
    actor: &Actor,
) -> Result<Comparison, Status> {
    let store = &*context.store;
    let bodies: Bodies = set.policies.iter().flat_map(|apply| apply.bodies.iter().cloned()).collect();
    let would = store.apply_policies(ApplySet { validate_only: true, ..set }, actor).await.map_err(from_store)?;
    let mut comparison = Comparison::default();
    if preview {
        let policies = would.applied.iter().map(|one| (&one.policy, one.outcome != ApplyOutcome::Unchanged)).collect();
        let proposal = Proposal { policies, removed: &would.pruned, bodies: &bodies };
        comparison.outlook = Some(preview::of(store, &proposal).await.map_err(from_store)?);
    }
    if diff {
        comparison.diffs = revision_diff::of_set(store, &would, &bodies).await.map_err(from_store)?;
    }
    Ok(comparison)
}

fn answer(applied: AppliedSet, comparison: Comparison, warnings: Vec<Vec<String>>) -> ApplyPoliciesResponse {
    let Comparison { outlook, diffs } = comparison;
    let (previews, counts) = match outlook {
        Some(Outlook { previews, counts }) => (previews, counts.into_iter().map(Some).collect()),
        None => (Default::default(), vec![None; applied.applied.len()]),
    };
    let applied_policies = applied.applied.into_iter().zip(counts).zip(warnings);
    let policies = applied_policies.map(|((one, agents), warnings)| ApplyPolicyResponse {
        warnings,
        policy: Some(convert::policy::policy(one.policy)),
        outcome: convert::policy::outcome(one.outcome).into(),
        agents,
        preview: None,
    });
    let previews = previews
        .into_iter()
        .map(|(kind, preview)| KindPreview { kind: convert::policy::kind(kind).into(), preview: Some(preview) });
    ApplyPoliciesResponse {
        policies: policies.collect(),
        pruned: applied.pruned.into_iter().map(convert::policy::policy).collect(),
        previews: previews.collect(),
        diffs,
    }
}
