//! What whoever applies a revision should know first.

use std::collections::BTreeMap;

use super::{items::Items, side::Conflict};
use crate::model::{
    AgentRecord, Attributes, InstanceUid, Selector,
    policy::{Policy, PolicyKind, PolicyOffer},
    rendering::Unrendered,
    rollout::Step,
    settings,
};

/// Frames that real clients take by default.
const CLIENT_LIMIT: u64 = 64 * 1024 * 1024;
/// Frames that the .NET client takes.
const DOTNET_LIMIT: u64 = 128 * 1024;
/// Different problems with templates that are told.
const MAX_UNRENDERABLE: usize = 5;

/// The selectors of rollouts' steps, of the policies that change.
pub struct Rings<'a>(Vec<Ring<'a>>);

struct Ring<'a> {
    policy: &'a Policy,
    /// From 1.
    step: usize,
    selector: &'a Selector,
    /// The policy matches an agent.
    is_policy_matched: bool,
    /// So does the selector, besides.
    is_matched: bool,
}

impl<'a> Rings<'a> {
    pub fn new(changed: &[&'a Policy]) -> Self {
        let steps = changed.iter().flat_map(|policy| {
            let plan = policy.revision.content.plan.as_ref();
            (1..).zip(plan.into_iter().flat_map(|plan| &plan.steps)).map(move |(step, of)| (*policy, step, of))
        });
        let rings = steps.filter_map(|(policy, step, of)| match of {
            Step::Ring(selector) => Some(Ring { policy, step, selector, is_policy_matched: false, is_matched: false }),
            _ => None,
        });
        Self(rings.collect())
    }

    pub fn see(&mut self, agent: &AgentRecord, attributes: &Attributes) {
        for ring in self.0.iter_mut().filter(|ring| !ring.is_matched) {
            if ring.policy.revision.content.selector.matches(attributes, &agent.labels) {
                ring.is_policy_matched = true;
                ring.is_matched = ring.selector.matches(attributes, &agent.labels);
            }
        }
    }
}

#[derive(Default)]
pub struct Warnings {
    kind: &'static str,
    allow_empty: bool,
    /// Selectors that match nobody.
    unmatched: Vec<String>,
    /// Likewise of rollouts' steps, as text.
    unmatched_steps: Vec<String>,
    is_of_one: bool,
    not_capable: u64,
    emptied: u64,
    conflicts: BTreeMap<Conflict, u64>,
    /// Agents, and the largest that one would be sent.
    too_large: (u64, u64),
    too_large_for_dotnet: (u64, u64),
    /// By the problem: agents, and one of them.
    unrenderable: BTreeMap<String, (u64, InstanceUid)>,
    unrenderable_besides: u64,
}

impl Warnings {
    /// Of what changes.
    pub fn new(kind: PolicyKind, changed: &[&Policy]) -> Self {
        Self {
            kind: kind.name(),
            allow_empty: changed.iter().any(|policy| policy.revision.content.allow_empty),
            is_of_one: changed.len() == 1,
            ..Self::default()
        }
    }

    pub fn unmatched(&mut self, selector: &Selector) {
        self.unmatched.push(selector.to_string());
    }

    /// After all agents have been seen.
    pub fn rings(&mut self, rings: &Rings<'_>) {
        for Ring { policy, step, selector, .. } in
            rings.0.iter().filter(|ring| ring.is_policy_matched && !ring.is_matched)
        {
            let of = if self.is_of_one { String::new() } else { format!(" of policy {:?}", policy.name) };
            self.unmatched_steps.push(format!("step {step} ({selector}){of} selects no agent"));
        }
    }

    pub fn unrenderable(&mut self, uid: InstanceUid, unrendered: &Unrendered) {
        let text = unrendered.to_string();
        if self.unrenderable.len() < MAX_UNRENDERABLE || self.unrenderable.contains_key(&text) {
            self.unrenderable.entry(text).or_insert((0, uid)).0 += 1;
        } else {
            self.unrenderable_besides += 1;
        }
    }

    /// An agent whose `items` are others than before.
    pub fn changed(&mut self, items: &Items, conflicts: &[Conflict], attributes: &Attributes, is_capable: bool) {
        if !is_capable {
            self.not_capable += 1;
        }
        self.emptied += u64::from(items.is_empty());
        for conflict in conflicts {
            *self.conflicts.entry(conflict.clone()).or_default() += 1;
        }
        let counter = if items.size > CLIENT_LIMIT {
            &mut self.too_large
        } else if items.size > DOTNET_LIMIT && is_dotnet(attributes) {
            &mut self.too_large_for_dotnet
        } else {
            return;
        };
        *counter = (counter.0 + 1, counter.1.max(items.size));
    }

    pub fn texts(self) -> Vec<String> {
        let mut texts = Vec::new();
        for selector in self.unmatched {
            texts.push(format!("no agent matches the selector {selector:?}"));
        }
        texts.extend(self.unmatched_steps);
        if self.emptied > 0 {
            texts.push(match self.allow_empty {
                true => format!("{} agents are left with nothing of this kind", self.emptied),
                false => format!(
                    "{} agents keep what they have: nothing is left to offer, and the policy has no allow_empty",
                    self.emptied
                ),
            });
        }
        for (Conflict { of, name, policies }, agents) in self.conflicts {
            let (this, one) = match self.is_of_one {
                true => ("this policy".to_owned(), "this one".to_owned()),
                false => (format!("policy {of:?}"), format!("policy {of:?}")),
            };
            let first = policies.first().cloned().unwrap_or_default();
            let others: Vec<_> = policies.iter().filter(|other| **other != of).cloned().collect();
            let others = others.join(", ");
            texts.push(match first == of {
                true => format!("{name:?} of {agents} agents is in {others} too: {this} goes before"),
                false => format!("{name:?} of {agents} agents comes from policy {first:?}, which goes before {one}"),
            });
        }
        if self.not_capable > 0 {
            texts.push(format!("{} of the agents do not accept offers of kind {}", self.not_capable, self.kind));
        }
        for (problem, (agents, uid)) in self.unrenderable {
            texts.push(format!("{agents} agents keep what they have, such as {uid}: {problem}"));
        }
        if self.unrenderable_besides > 0 {
            let agents = self.unrenderable_besides;
            texts.push(format!(
                "{agents} further agents keep what they have, as templates cannot be filled in for them"
            ));
        }
        if let (agents @ 1.., size) = self.too_large {
            texts.push(format!("{agents} agents would be sent up to {size} bytes, more than clients take"));
        }
        if let (agents @ 1.., size) = self.too_large_for_dotnet {
            texts.push(format!(
                "{agents} agents are .NET's and would be sent up to {size} bytes: their client takes {DOTNET_LIMIT}"
            ));
        }
        texts
    }
}

/// As OpenTelemetry's SDK describes itself.
fn is_dotnet(attributes: &Attributes) -> bool {
    attributes.text("telemetry.sdk.language").is_some_and(|language| language == "dotnet")
}

/// What a policy offers, by name.
pub fn own_names(offer: &PolicyOffer) -> Vec<String> {
    match offer {
        PolicyOffer::Config(files) => files.keys().cloned().collect(),
        PolicyOffer::Packages(packages) => packages.keys().cloned().collect(),
        PolicyOffer::ConnectionSettings(offers) => {
            settings::endpoints(offers).into_iter().map(|(part, _)| part).collect()
        }
    }
}
