//! Transitions of an agent's health.

use std::collections::BTreeMap;

use super::UnixMs;
use crate::proto::opamp::ComponentHealth;

/// Components nested deeper count as none.
const MAX_DEPTH: usize = 16;
/// Transitions that one report makes, at most. Beyond, only the agent's own and the first of its components are kept.
pub const MAX_TRANSITIONS: usize = 64;
/// Texts are cut after this many characters: agents choose them.
const MAX_TEXT_CHARS: usize = 1_024;

/// The health of a component, or of the agent itself, has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub at: UnixMs,
    /// Names from the outermost on; empty for the agent itself.
    pub component: Vec<String>,
    /// `None`: the component is there no more.
    pub healthy: Option<bool>,
    pub status: String,
    pub last_error: String,
}

/// What has changed of `healthy`, `status` and `last_error` from `before` to `after`, outer components first. That a healthy
/// component appears, or goes, is none; times are none.
pub fn transitions(before: Option<&ComponentHealth>, after: &ComponentHealth, at: UnixMs) -> Vec<Transition> {
    let mut found = Vec::new();
    if before.is_none_or(|before| !is_same(before, after)) {
        found.push(transition(&[], Some(after), at));
    }
    let none = BTreeMap::new();
    let before = before.map_or(&none, |before| &before.component_health_map);
    compare(before, &after.component_health_map, &mut Vec::new(), at, &mut found);
    found.truncate(MAX_TRANSITIONS);
    found
}

fn compare(
    before: &BTreeMap<String, ComponentHealth>,
    after: &BTreeMap<String, ComponentHealth>,
    path: &mut Vec<String>,
    at: UnixMs,
    found: &mut Vec<Transition>,
) {
    if path.len() >= MAX_DEPTH || found.len() >= MAX_TRANSITIONS {
        return;
    }
    let none = BTreeMap::new();
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        path.push(cut(name));
        let is_transition = match (old, new) {
            (Some(old), Some(new)) => !is_same(old, new),
            (Some(one), None) | (None, Some(one)) => !one.healthy,
            (None, None) => false,
        };
        if is_transition {
            found.push(transition(path, new, at));
        }
        let inner =
            |health: Option<&ComponentHealth>| health.map_or(none.clone(), |it| it.component_health_map.clone());
        match (old, new) {
            (Some(old), Some(new)) => {
                compare(&old.component_health_map, &new.component_health_map, path, at, found);
            }
            _ => compare(&inner(old), &inner(new), path, at, found),
        }
        path.pop();
    }
}

fn is_same(before: &ComponentHealth, after: &ComponentHealth) -> bool {
    (before.healthy, &before.status, &before.last_error) == (after.healthy, &after.status, &after.last_error)
}

fn transition(path: &[String], health: Option<&ComponentHealth>, at: UnixMs) -> Transition {
    Transition {
        at,
        component: path.to_vec(),
        healthy: health.map(|health| health.healthy),
        status: health.map(|health| cut(&health.status)).unwrap_or_default(),
        last_error: health.map(|health| cut(&health.last_error)).unwrap_or_default(),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn health(healthy: bool, status: &str, components: &[(&str, ComponentHealth)]) -> ComponentHealth {
        let component_health_map = components.iter().map(|(name, it)| ((*name).to_owned(), it.clone())).collect();
        ComponentHealth { healthy, status: status.into(), component_health_map, ..Default::default() }
    }

    fn paths(found: &[Transition]) -> Vec<(String, Option<bool>)> {
        found.iter().map(|it| (it.component.join("/"), it.healthy)).collect()
    }

    #[test]
    fn only_what_has_changed_is_a_transition() {
        let before = health(true, "ok", &[("traces", health(true, "ok", &[("otlp", health(true, "ok", &[]))]))]);
        assert_eq!(paths(&transitions(None, &before, 1)), [("".to_owned(), Some(true))]);
        let later = ComponentHealth { status_time_unix_nano: 9, start_time_unix_nano: 8, ..before.clone() };
        assert_eq!(transitions(Some(&before), &later, 1), []);
        let broken = health(false, "bad", &[("traces", health(true, "ok", &[("otlp", health(false, "down", &[]))]))]);
        let found = transitions(Some(&before), &broken, 7);
        assert_eq!(paths(&found), [("".to_owned(), Some(false)), ("traces/otlp".to_owned(), Some(false))]);
        assert_eq!((found[1].at, found[1].status.as_str()), (7, "down"));
    }

    #[test]
    fn components_that_come_or_go_count_only_if_they_are_ill() {
        let with = |healthy| health(true, "", &[("a", health(healthy, "", &[("b", health(healthy, "", &[]))]))]);
        let without = health(true, "", &[]);
        assert_eq!(transitions(Some(&without), &with(true), 1), []);
        assert_eq!(transitions(Some(&with(true)), &without, 1), []);
        let ill = |healthy| [("a".to_owned(), healthy), ("a/b".to_owned(), healthy)];
        assert_eq!(paths(&transitions(Some(&without), &with(false), 1)), ill(Some(false)));
        assert_eq!(paths(&transitions(Some(&with(false)), &without, 1)), ill(None));
    }

    fn tree() -> impl Strategy<Value = ComponentHealth> {
        let leaf = (any::<bool>(), "[ab]{0,1}", "[ab]{0,1}").prop_map(|(healthy, status, last_error)| {
            ComponentHealth { healthy, status, last_error, ..Default::default() }
        });
        leaf.prop_recursive(4, 40, 6, |inner| {
            (any::<bool>(), prop::collection::btree_map("[a-c]", inner, 0..4))
                .prop_map(|(healthy, map)| ComponentHealth { healthy, component_health_map: map, ..Default::default() })
        })
    }

    proptest! {
        #[test]
        fn nothing_changes_without_a_change(tree in tree()) {
            prop_assert_eq!(transitions(Some(&tree), &tree, 1), []);
        }

        #[test]
        fn transitions_are_bounded_and_each_component_has_one(before in tree(), after in tree()) {
            let found = transitions(Some(&before), &after, 1);
            prop_assert!(found.len() <= MAX_TRANSITIONS);
            let mut paths: Vec<_> = found.iter().map(|it| it.component.clone()).collect();
            paths.sort();
            paths.dedup();
            prop_assert_eq!(paths.len(), found.len());
        }
    }
}
