//! What revisions would change, and for whom, before they are applied.

mod items;
mod shown;
mod side;
mod warnings;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    model::{
        AgentRecord, Attributes, ContentHash, InstanceUid,
        desired::{InForce, Part, PolicySet},
        policy::{Policy, PolicyKind},
    },
    proto::admin::{AgentCount, PolicyPreview},
    store::{AgentFilter, Result, Store},
};
use items::Items;
use side::{Given, Side};
use warnings::{Rings, Warnings};

const PAGE: u32 = 1_000;
/// Agents that are looked at, at most; of those for whom files are written, so many.
const MAX_LOOKED_AT: usize = 200_000;
const MAX_WRITTEN: usize = 20_000;

/// The agents that are affected alike.
struct Change {
    old: Arc<Items>,
    new: Arc<Items>,
    agents: u64,
    example: InstanceUid,
}

/// Bodies that need not be stored yet.
pub type Bodies = HashMap<ContentHash, Bytes>;

/// What is about to change.
pub struct Proposal<'a> {
    /// Policies with the revisions that would be applied, and whether each is another than now.
    pub policies: Vec<(&'a Policy, bool)>,
    /// Policies that would be deleted.
    pub removed: &'a [Policy],
    pub bodies: &'a Bodies,
}

/// What it comes to, all changes together.
pub struct Outlook {
    /// Of each kind of policy that is concerned.
    pub previews: BTreeMap<PolicyKind, PolicyPreview>,
    /// Agents that each policy matches, in their order.
    pub counts: Vec<AgentCount>,
}

/// Compares what the policies in force give each agent with what they would give once every agent has what is proposed.
pub async fn of(store: &dyn Store, proposal: &Proposal<'_>) -> Result<Outlook> {
    let before = store.policy_set().await?;
    let after = after(&before, proposal);
    let mut outlook =
        Outlook { previews: BTreeMap::new(), counts: vec![AgentCount::default(); proposal.policies.len()] };
    let kinds = proposal.policies.iter().map(|(policy, _)| policy.kind);
    let kinds: BTreeSet<PolicyKind> = kinds.chain(proposal.removed.iter().map(|policy| policy.kind)).collect();
    for kind in kinds {
        let preview = of_kind(store, proposal, kind, (&before, &after), &mut outlook.counts).await?;
        outlook.previews.insert(kind, preview);
    }
    Ok(outlook)
}

async fn of_kind(
    store: &dyn Store,
    proposal: &Proposal<'_>,
    kind: PolicyKind,
    (before, after): (&PolicySet, &PolicySet),
    counts: &mut [AgentCount],
) -> Result<PolicyPreview> {
    let changed = proposal.policies.iter().filter(|(policy, is_change)| *is_change && policy.kind == kind);
    let changed: Vec<&Policy> = changed.map(|(policy, _)| *policy).collect();
    let (mut old, mut new) = (Side::new(before, kind, &changed), Side::new(after, kind, &changed));
    let mut survey = Survey { kind, changes: BTreeMap::new(), warnings: Warnings::new(kind, &changed) };
    let (mut preview, mut rings) = (PolicyPreview::default(), Rings::new(&changed));
    let (mut cursor, mut looked_at) = (None, 0);
    loop {
        let page = store.page_agents(AgentFilter::default(), cursor, PAGE).await?;
        for agent in &page {
            let attributes = Attributes::decode(&agent.observed.description);
            for ((policy, _), count) in proposal.policies.iter().zip(&mut *counts) {
                if policy.kind == kind && policy.revision.content.selector.matches(&attributes, &agent.labels) {
                    count.matching += 1;
                    count.connected += u64::from(agent.presence.connected);
                }
            }
            rings.see(agent, &attributes);
            survey.see(agent, &attributes, (&mut old, &mut new), &mut preview);
        }
        cursor = page.last().map(|agent| agent.uid);
        looked_at += page.len();
        if page.len() < PAGE as usize {
            break;
        }
        if looked_at >= MAX_LOOKED_AT || old.written.max(new.written) >= MAX_WRITTEN {
            preview.incomplete = true;
            break;
        }
    }
    for ((policy, _), count) in proposal.policies.iter().zip(counts).filter(|((policy, _), _)| policy.kind == kind) {
        count.incomplete = preview.incomplete;
        if count.matching == 0 {
            survey.warnings.unmatched(&policy.revision.content.selector);
        }
    }
    if !preview.incomplete {
        survey.warnings.rings(&rings);
    }
    preview.warnings = survey.warnings.texts();
    let changes = survey.changes.into_values().collect();
    preview.changes = shown::changes(store, changes, (&old, &new), proposal.bodies).await?;
    Ok(preview)
}

/// The policies once every agent that the revisions are for has them.
fn after(before: &PolicySet, proposal: &Proposal<'_>) -> PolicySet {
    let changed: Vec<&Policy> =
        proposal.policies.iter().filter(|(_, is_change)| *is_change).map(|(policy, _)| *policy).collect();
    let in_force = changed.iter().map(|policy| InForce {
        name: policy.name.clone(),
        kind: policy.kind,
        revision: policy.revision.clone(),
        part: Part::Everybody,
    });
    let after = before.with(in_force.collect(), proposal.removed.iter().map(|policy| policy.name.as_str()));
    let files = changed.iter().flat_map(|policy| policy.revision.content.offer.files());
    let templates = files.filter(|(_, file)| file.is_template);
    let texts = templates.filter_map(|(_, file)| Some((file.content, proposal.bodies.get(&file.content)?.clone())));
    let texts: Vec<_> = texts.collect();
    after.with_templates(texts)
}

struct Survey {
    kind: PolicyKind,
    /// By what was, and what will be.
    changes: BTreeMap<(ContentHash, ContentHash), Change>,
    warnings: Warnings,
}

impl Survey {
    fn see(
        &mut self,
        agent: &AgentRecord,
        attributes: &Attributes,
        (old, new): (&mut Side<'_>, &mut Side<'_>),
        preview: &mut PolicyPreview,
    ) {
        let new = new.of(agent, attributes);
        let items = match new.items {
            Ok(items) => items,
            Err(unrendered) => {
                preview.unrenderable += 1;
                self.warnings.unrenderable(agent.uid, &unrendered);
                return;
            }
        };
        let Given { items: before, .. } = old.of(agent, attributes);
        let before = before.unwrap_or_default();
        if before.digest == items.digest {
            preview.unchanged += 1;
            return;
        }
        let counter = match (before.is_empty(), items.is_empty()) {
            (true, _) => &mut preview.gaining,
            (false, true) => &mut preview.losing,
            (false, false) => &mut preview.changing,
        };
        *counter += 1;
        let is_capable = agent.observed.accepts(self.kind);
        preview.not_capable += u64::from(!is_capable);
        self.warnings.changed(&items, &new.conflicts, attributes, is_capable);
        let change = self.changes.entry((before.digest, items.digest)).or_insert_with(|| Change {
            old: before,
            new: items,
            agents: 0,
            example: agent.uid,
        });
        change.agents += 1;
    }
}
