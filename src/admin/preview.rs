//! What a revision would change, and for whom, before it is applied.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message;

use super::agent_config;
use crate::{
    model::{
        Attributes, ContentHash, InstanceUid,
        desired::{InForce, Part, PolicySet},
        policy::{Policy, PolicyKind, PolicyOffer},
        settings,
    },
    proto::admin::{PolicyPreview, PreviewChange, PreviewItem},
    store::{AgentFilter, Result, Store},
};

const PAGE: u32 = 1_000;
/// Agents that are looked at, at most.
const MAX_LOOKED_AT: usize = 200_000;
/// Different changes that are shown.
const MAX_CHANGES: usize = 10;
/// Of all bodies in an answer; larger ones are left out.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Frames that real clients take by default.
const CLIENT_LIMIT: u64 = 64 * 1024 * 1024;

/// The agents that are affected alike.
#[derive(Default)]
struct Group {
    agents: u64,
    not_capable: u64,
    example: Option<InstanceUid>,
}

/// One file, package or connection, as far as a change of it is concerned.
#[derive(Clone, PartialEq)]
struct Item {
    text: String,
    /// Of a file.
    content: Option<ContentHash>,
    policy: String,
    size: u64,
}

type Items = BTreeMap<String, Item>;

/// `policy` with the revision that would be applied, whose file bodies are `given`.
pub async fn of(
    store: &dyn Store,
    policy: &Policy,
    given: &HashMap<ContentHash, bytes::Bytes>,
) -> Result<PolicyPreview> {
    let before = store.policy_set().await?;
    let after = before.with(InForce {
        name: policy.name.clone(),
        kind: policy.kind,
        revision: policy.revision.clone(),
        part: Part::Everybody,
    });
    let selector = &policy.revision.content.selector;
    let mut groups = HashMap::<(Vec<u32>, Vec<u32>), Group>::new();
    let mut preview = PolicyPreview::default();
    let (mut cursor, mut looked_at, mut matching) = (None, 0, 0_u64);
    loop {
        let page = store.page_agents(AgentFilter::default(), cursor, PAGE).await?;
        for agent in &page {
            let attributes = Attributes::decode(&agent.observed.description);
            let keys = (
                before.matching(agent.uid, &attributes, &agent.labels),
                after.matching(agent.uid, &attributes, &agent.labels),
            );
            matching += u64::from(selector.matches(&attributes, &agent.labels));
            let group = groups.entry(keys).or_default();
            group.agents += 1;
            group.not_capable += u64::from(!agent.observed.accepts(policy.kind));
            group.example.get_or_insert(agent.uid);
        }
        cursor = page.last().map(|agent| agent.uid);
        looked_at += page.len();
        if page.len() < PAGE as usize {
            break;
        }
        if looked_at >= MAX_LOOKED_AT {
            preview.incomplete = true;
            break;
        }
    }
    let mut warnings = BTreeSet::new();
    if matching == 0 {
        warnings.insert(format!("no agent matches the selector {selector:?}", selector = selector.to_string()));
    }
    // Different sets of policies may come to the same change.
    let mut changes: Vec<(Items, Items, Group)> = Vec::new();
    for ((old, new), group) in groups {
        let (old, new) = (items(&before, &old, policy.kind), items(&after, &new, policy.kind));
        if same(&old, &new) {
            preview.unchanged += group.agents;
            continue;
        }
        let counter = match (old.is_empty(), new.is_empty()) {
            (true, _) => &mut preview.gaining,
            (false, true) => &mut preview.losing,
            (false, false) => &mut preview.changing,
        };
        *counter += group.agents;
        preview.not_capable += group.not_capable;
        match changes.iter_mut().find(|(from, to, _)| same(from, &old) && same(to, &new)) {
            Some((_, _, known)) => {
                known.agents += group.agents;
                known.not_capable += group.not_capable;
            }
            None => changes.push((old, new, group)),
        }
    }
    if preview.not_capable > 0 {
        let kind = policy.kind.name();
        warnings.insert(format!("{} of the agents do not accept offers of kind {kind}", preview.not_capable));
    }
    for (_, new, group) in &changes {
        warn(policy, new, group, &mut warnings);
    }
    preview.warnings = warnings.into_iter().collect();
    changes.sort_by_key(|(_, _, group)| (std::cmp::Reverse(group.agents), group.example));
    changes.truncate(MAX_CHANGES);
    let stored = bodies(store, &changes, given).await?;
    let mut room = MAX_BODY_BYTES;
    preview.changes = changes.iter().map(|(old, new, group)| change(old, new, group, &stored, &mut room)).collect();
    Ok(preview)
}

fn same(one: &Items, other: &Items) -> bool {
    let texts = |items: &Items| items.iter().map(|(name, item)| (name.clone(), item.text.clone())).collect::<Vec<_>>();
    one.len() == other.len() && texts(one) == texts(other)
}

fn warn(policy: &Policy, new: &Items, group: &Group, warnings: &mut BTreeSet<String>) {
    let agents = group.agents;
    if new.is_empty() {
        let text = match policy.revision.content.allow_empty {
            true => format!("{agents} agents are left with nothing of this kind"),
            false => format!(
                "{agents} agents keep what they have: nothing is left to offer, and the policy has no allow_empty"
            ),
        };
        warnings.insert(text);
    }
    for name in own_names(policy) {
        let another = new.get(&name).filter(|item| !item.policy.is_empty() && item.policy != policy.name);
        if let Some(item) = another {
            warnings.insert(format!(
                "{name:?} of {agents} agents comes from policy {:?}, which goes before this one",
                item.policy
            ));
        }
    }
    let size: u64 = new.values().map(|item| item.size).sum();
    if size > CLIENT_LIMIT {
        warnings.insert(format!("{agents} agents would be sent {size} bytes, more than clients take"));
    }
}

fn own_names(policy: &Policy) -> Vec<String> {
    match &policy.revision.content.offer {
        PolicyOffer::Config(files) => files.keys().cloned().collect(),
        PolicyOffer::Packages(packages) => packages.keys().cloned().collect(),
        PolicyOffer::ConnectionSettings(offers) => {
            settings::endpoints(offers).into_iter().map(|(part, _)| part).collect()
        }
    }
}

/// What agents for whom these policies hold should have of one kind.
fn items(set: &PolicySet, matching: &[u32], kind: PolicyKind) -> Items {
    let nothing = |text: String, policy: &str| Item { text, content: None, policy: policy.to_owned(), size: 0 };
    match kind {
        PolicyKind::Config => {
            let files = set.merge(matching).map(|config| config.files).unwrap_or_default();
            let item = |file: crate::model::desired::DesiredFile| Item {
                text: format!("{} {} {}", file.file.content, file.file.content_type, file.file.role),
                content: Some(file.file.content),
                policy: file.policy,
                size: file.file.size,
            };
            files.into_iter().map(|(name, file)| (name, item(file))).collect()
        }
        PolicyKind::Packages => {
            let item = |package: crate::model::desired::DesiredPackage| {
                // Values of headers may be secrets: that they differ is seen, not how.
                let shown = super::convert::policy::without_secrets(package.package.clone());
                let file = shown.file.unwrap_or_default();
                let hash = ContentHash::of(&package.package.encode_to_vec());
                let text = format!(
                    "version {}\nurl {}\nsha256 {}\npackage {hash}\n",
                    shown.version,
                    file.download_url,
                    hex::encode(&file.content_hash)
                );
                nothing(text, &package.policy)
            };
            set.packages(matching).into_iter().map(|(name, package)| (name, item(package))).collect()
        }
        PolicyKind::ConnectionSettings => {
            let merged = set.merge_settings(matching);
            let whole = ContentHash::of(&merged.encode_to_vec());
            let item = |(part, endpoint): (String, String)| (part, nothing(format!("endpoint {endpoint}\n"), ""));
            let mut items: Items = settings::endpoints(&merged).into_iter().map(item).collect();
            if !items.is_empty() {
                items.insert("settings as a whole".to_owned(), nothing(format!("{whole}\n"), ""));
            }
            items
        }
    }
}

type Bodies = HashMap<ContentHash, bytes::Bytes>;

async fn bodies(store: &dyn Store, changes: &[(Items, Items, Group)], given: &Bodies) -> Result<Bodies> {
    let all = changes.iter().flat_map(|(old, new, _)| old.values().chain(new.values()));
    let small = all.filter(|item| item.size <= MAX_BODY_BYTES as u64);
    let hashes: BTreeSet<ContentHash> = small.filter_map(|item| item.content).collect();
    let missing: Vec<ContentHash> = hashes.into_iter().filter(|hash| !given.contains_key(hash)).collect();
    let mut found = agent_config::bodies(store, &missing).await?;
    found.extend(given.iter().map(|(hash, body)| (*hash, body.clone())));
    Ok(found)
}

fn change(old: &Items, new: &Items, group: &Group, bodies: &Bodies, room: &mut usize) -> PreviewChange {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differs = |name: &&String| old.get(*name).map(|item| &item.text) != new.get(*name).map(|item| &item.text);
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
    let items = names.into_iter().filter(differs).map(|name| PreviewItem {
        name: name.clone(),
        before: text(old.get(name)),
        after: text(new.get(name)),
    });
    PreviewChange {
        agents: group.agents,
        example_instance_uid: group.example.map(|uid| uid.to_string()).unwrap_or_default(),
        items: items.collect(),
    }
}
