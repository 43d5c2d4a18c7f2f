//! The changes that are shown, with what was and what will be.

use std::collections::BTreeSet;

use super::{
    Bodies, Change,
    items::{Item, Items},
    side::Side,
};
use crate::{
    admin::agent_config,
    model::{ContentHash, InstanceUid},
    proto::admin::{PreviewChange, PreviewItem},
    store::{Result, Store},
};

/// Different changes that are shown.
const MAX_CHANGES: usize = 10;
/// Of all bodies in an answer; larger ones are left out.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Those of most agents first.
pub async fn changes(
    store: &dyn Store,
    mut changes: Vec<Change>,
    (old, new): (&Side<'_>, &Side<'_>),
    given: &Bodies,
) -> Result<Vec<PreviewChange>> {
    changes.sort_by_key(|change| (std::cmp::Reverse(change.agents), change.example));
    changes.truncate(MAX_CHANGES);
    let mut bodies = given.clone();
    if old.written + new.written > 0 {
        let examples: Vec<InstanceUid> = changes.iter().map(|change| change.example).collect();
        for agent in store.read_agents(&examples).await? {
            bodies.extend(old.bodies(&agent).into_iter().chain(new.bodies(&agent)));
        }
    }
    let all = changes.iter().flat_map(|change| change.old.by_name.values().chain(change.new.by_name.values()));
    let small = all.filter(|item| item.size <= MAX_BODY_BYTES as u64);
    let hashes: BTreeSet<ContentHash> = small.filter_map(|item| item.content).collect();
    let missing: Vec<ContentHash> = hashes.into_iter().filter(|hash| !bodies.contains_key(hash)).collect();
    bodies.extend(agent_config::bodies(store, &missing).await?);
    let mut room = MAX_BODY_BYTES;
    Ok(changes.iter().map(|change| shown(change, &bodies, &mut room)).collect())
}

fn shown(change: &Change, bodies: &Bodies, room: &mut usize) -> PreviewChange {
    let text_of = |items: &Items, name: &str| items.by_name.get(name).map(|item| item.text.clone());
    let mut text = |item: Option<&Item>| {
        let item = item?;
        let body = match item.content {
            None => Some(item.text.clone().into()),
            Some(hash) => bodies.get(&hash).cloned().filter(|body| body.len() <= *room),
        };
        let body = body.unwrap_or_else(|| format!("(a body of {} bytes)\n", item.size).into());
        *room = room.saturating_sub(body.len());
        Some(body)
    };
    let names: BTreeSet<&String> = change.old.by_name.keys().chain(change.new.by_name.keys()).collect();
    let differ = names.into_iter().filter(|name| text_of(&change.old, name) != text_of(&change.new, name));
    let items = differ.map(|name| PreviewItem {
        name: name.clone(),
        before: text(change.old.by_name.get(name)),
        after: text(change.new.by_name.get(name)),
    });
    PreviewChange { agents: change.agents, example_instance_uid: change.example.to_string(), items: items.collect() }
}
