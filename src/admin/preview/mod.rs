//! What a revision would change, and for whom, before it is applied.

mod items;
mod shown;
mod side;
mod warnings;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    model::{
        AgentRecord, Attributes, ContentHash, InstanceUid,
        desired::{InForce, Part, PolicySet},
        policy::Policy,
    },
    proto::admin::PolicyPreview,
    store::{AgentFilter, Result, Store},
};
use items::Items;
use side::{Given, Side};
use warnings::Warnings;

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

/// `policy` with the revision that would be applied, whose file bodies are `given`.
pub async fn of(store: &dyn Store, policy: &Policy, given: &Bodies) -> Result<PolicyPreview> {
    let before = store.policy_set().await?;
    let after = after(&before, policy, given);
    let (mut old, mut new) = (Side::new(&before, policy), Side::new(&after, policy));
    let mut survey = Survey { warnings: Warnings::new(policy), ..Survey::default() };
    let mut preview = PolicyPreview::default();
    let (mut cursor, mut looked_at) = (None, 0);
    loop {
        let page = store.page_agents(AgentFilter::default(), cursor, PAGE).await?;
        for agent in &page {
            survey.see(agent, policy, (&mut old, &mut new), &mut preview);
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
    preview.warnings = survey.warnings.texts();
    let changes = survey.changes.into_values().collect();
    preview.changes = shown::changes(store, changes, (&old, &new), given).await?;
    Ok(preview)
}

/// The policies once every agent that the revision is for has it.
fn after(before: &PolicySet, policy: &Policy, given: &Bodies) -> PolicySet {
    let after = before.with(InForce {
        name: policy.name.clone(),
        kind: policy.kind,
        revision: policy.revision.clone(),
        part: Part::Everybody,
    });
    let templates = policy.revision.content.offer.files().filter(|(_, file)| file.is_template);
    let texts = templates.filter_map(|(_, file)| Some((file.content, given.get(&file.content)?.clone())));
    let texts: Vec<_> = texts.collect();
    after.with_templates(texts)
}

#[derive(Default)]
struct Survey {
    /// By what was, and what will be.
    changes: BTreeMap<(ContentHash, ContentHash), Change>,
    warnings: Warnings,
}

impl Survey {
    fn see(
        &mut self,
        agent: &AgentRecord,
        policy: &Policy,
        (old, new): (&mut Side<'_>, &mut Side<'_>),
        preview: &mut PolicyPreview,
    ) {
        let attributes = Attributes::decode(&agent.observed.description);
        if policy.revision.content.selector.matches(&attributes, &agent.labels) {
            self.warnings.matching();
        }
        let new = new.of(agent, &attributes);
        let items = match new.items {
            Ok(items) => items,
            Err(unrendered) => {
                preview.unrenderable += 1;
                self.warnings.unrenderable(agent.uid, &unrendered);
                return;
            }
        };
        let Given { items: before, .. } = old.of(agent, &attributes);
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
        let is_capable = agent.observed.accepts(policy.kind);
        preview.not_capable += u64::from(!is_capable);
        self.warnings.changed(&items, &new.conflicts, &attributes, is_capable);
        let change = self.changes.entry((before.digest, items.digest)).or_insert_with(|| Change {
            old: before,
            new: items,
            agents: 0,
            example: agent.uid,
        });
        change.agents += 1;
    }
}
