//! Whether an agent runs what it was offered, as its effective configuration tells.
//!
//! Agents report more than they were offered: what they add of their own, and all files merged into one. So it is asked whether
//! what was offered is contained in what is reported.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    AgentRecord, ContentHash,
    agent::OfferStatus,
    offer::{Convergence, convergence},
    policy::PolicyKind,
};
use crate::proto::opamp::AgentConfigObject;

/// What came of comparing, since the agent applied what it should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum Effective {
    /// It has not applied it, has not said what it runs, or the two have not been compared yet.
    #[default]
    Unknown = 0,
    Matches = 1,
    /// It never was what was offered: perhaps the agent replaces variables in it.
    Differs = 2,
    /// It was, and is no longer.
    Drifted = 3,
    /// As `Drifted`, and an operator has it offered again: until the agent says what became of that.
    Retried = 4,
}

impl Effective {
    /// Numbers of later versions read as `Unknown`.
    pub fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Matches,
            2 => Self::Differs,
            3 => Self::Drifted,
            4 => Self::Retried,
            _ => Self::Unknown,
        }
    }

    /// After another comparison.
    pub fn then(self, matches: bool) -> Self {
        match (matches, self) {
            (true, _) => Self::Matches,
            (false, Self::Retried) => Self::Retried,
            (false, Self::Matches | Self::Drifted) => Self::Drifted,
            (false, Self::Unknown | Self::Differs) => Self::Differs,
        }
    }
}

/// What was offered and is applied, and what the agent says that it runs, if there is both.
pub fn pair(agent: &AgentRecord) -> Option<(ContentHash, ContentHash)> {
    let is_applied = match convergence(agent, PolicyKind::Config) {
        Convergence::Converged => true,
        Convergence::Behind => is_retried(agent),
        _ => false,
    };
    agent.desired.config.hash.zip(agent.observed.effective_config).filter(|_| is_applied)
}

/// Whether an agent that has what it should is to be offered it again, because it has drifted from it.
pub fn is_retried(agent: &AgentRecord) -> bool {
    let (desired, reported) = (agent.desired.config.hash, &agent.observed.config);
    agent.desired.effective == Effective::Retried
        && desired.is_some_and(|hash| reported.hash[..] == hash.0)
        && matches!(reported.status, OfferStatus::Applied | OfferStatus::Unset)
}

/// Of an agent that is another than it was: forgets what came of comparing when it is about something else, and says whether
/// there is something new to compare.
pub fn follow(before: &AgentRecord, after: &mut AgentRecord) -> bool {
    let Some((offered, effective)) = pair(after) else {
        after.desired.effective = Effective::Unknown;
        return false;
    };
    let before = pair(before);
    if before.is_none_or(|(before, _)| before != offered) {
        after.desired.effective = Effective::Unknown;
    }
    before != Some((offered, effective)) || after.desired.effective == Effective::Unknown
}

/// Files by name.
pub type Files = BTreeMap<String, AgentConfigObject>;

/// Whether what was offered is in what is effective: each file in that of its name or, if there is but one effective file, all of
/// them merged in that. A file is in another if their bytes are equal or, of YAML and JSON mappings, if each key has the same in
/// the other, which may have more keys. Lists are equal; but of `service.extensions` the other may have more, as the Supervisor
/// adds its own there.
pub fn is_contained(offered: &Files, effective: &Files) -> bool {
    let is_in = |other: &AgentConfigObject, file: &AgentConfigObject| {
        other.body == file.body
            || parsed(other).zip(parsed(file)).is_some_and(|(other, file)| map_has(&other, &file, &[]))
    };
    if offered.iter().all(|(name, file)| effective.get(name).is_some_and(|other| is_in(other, file))) {
        return true;
    }
    let mut others = effective.values();
    let (Some(only), None) = (others.next(), others.next()) else { return false };
    if offered.len() == 1 {
        return offered.values().all(|file| is_in(only, file));
    }
    // In the order in which the Supervisor merges: that without a name comes last.
    let mut files: Vec<_> = offered.iter().collect();
    files.sort_by_key(|(name, _)| (name.is_empty(), *name));
    let mut all = Map::new();
    for (_, file) in files {
        let Some(file) = parsed(file) else { return false };
        merge(&mut all, file, &[]);
    }
    parsed(only).is_some_and(|only| map_has(&only, &all, &[]))
}

/// Larger files are compared by their bytes alone.
const MAX_PARSED_BYTES: usize = 1 << 20;

/// JSON is YAML, too.
fn parsed(file: &AgentConfigObject) -> Option<Map<String, Value>> {
    let text = std::str::from_utf8(&file.body).ok().filter(|text| text.len() <= MAX_PARSED_BYTES)?;
    if text.trim().is_empty() {
        return Some(Map::new());
    }
    match serde_saphyr::from_str(text).ok()? {
        Value::Object(map) => Some(map),
        // Nothing but comments.
        Value::Null => Some(Map::new()),
        _ => None,
    }
}

/// The list of this path is one to which is added.
fn is_added_to(path: &[&str]) -> bool {
    path == ["service", "extensions"]
}

fn map_has(map: &Map<String, Value>, part: &Map<String, Value>, path: &[&str]) -> bool {
    part.iter().all(|(key, part)| map.get(key).is_some_and(|value| has(value, part, &[path, &[key]].concat())))
}

fn has(value: &Value, part: &Value, path: &[&str]) -> bool {
    match (value, part) {
        (Value::Object(map), Value::Object(part)) => map_has(map, part, path),
        // A component without settings is written in either way.
        (Value::Object(_) | Value::Null, Value::Null) => true,
        (Value::Null, Value::Object(part)) => part.is_empty(),
        (Value::Array(values), Value::Null) => values.is_empty(),
        (Value::Array(values), Value::Array(parts)) if is_added_to(path) => {
            parts.iter().all(|part| values.contains(part))
        }
        (Value::Array(values), Value::Array(parts)) => {
            values.len() == parts.len() && values.iter().zip(parts).all(|(value, part)| has(value, part, path))
        }
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => false,
        (Value::Number(number), Value::Number(part)) => number == part || number.as_f64() == part.as_f64(),
        _ => {
            let (value, part) = (scalar(value), scalar(part));
            value == part || duration_ns(&value).is_some_and(|value| duration_ns(&part) == Some(value))
        }
    }
}

/// A time as Go writes and reads it, such as `1m30s` or `1.5h`. Collectors tell theirs in another form than they were given it.
fn duration_ns(text: &str) -> Option<i128> {
    const UNITS: [(&str, f64); 8] =
        [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3_600e9)];
    let (sign, mut rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    let mut all = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, next) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let (_, ns) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        all += (number.parse::<f64>().ok()? * ns).round() as i128;
        rest = next;
    }
    Some(sign * all)
}

/// Programs differ in what they write in quotes.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>, path: &[&str]) {
    for (key, value) in from {
        let path = [path, &[&key]].concat();
        match (into.get_mut(&key), value) {
            (Some(Value::Object(into)), Value::Object(value)) => merge(into, value, &path),
            (Some(Value::Object(_)), Value::Null) => {}
            (Some(Value::Array(into)), Value::Array(values)) if is_added_to(&path) => {
                let new: Vec<_> = values.into_iter().filter(|value| !into.contains(value)).collect();
                into.extend(new);
            }
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::status::testing::agents;

    fn files(files: &[(&str, &str)]) -> Files {
        let file = |body: &str| AgentConfigObject { body: body.as_bytes().to_vec().into(), ..Default::default() };
        files.iter().map(|(name, body)| ((*name).to_owned(), file(body))).collect()
    }

    fn contained(offered: &[(&str, &str)], effective: &[(&str, &str)]) -> bool {
        is_contained(&files(offered), &files(effective))
    }

    const COLLECTOR: &str = "
receivers: {otlp: {protocols: {grpc: {endpoint: 0.0.0.0:4317}}}}
exporters: {debug: }
extensions: {health_check: {endpoint: 127.0.0.1:1}}
service:
  extensions: [health_check]
  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}
";

    /// As the Supervisor has it: with its own extension, telemetry and resource.
    const EFFECTIVE: &str = "
exporters:
    debug: null
extensions:
    health_check:
        endpoint: 127.0.0.1:1
    opamp:
        server: {ws: {endpoint: ws://127.0.0.1:2/v1/opamp, tls: {insecure: true}}}
receivers:
    otlp:
        protocols:
            grpc:
                endpoint: 0.0.0.0:4317
                transport: tcp
service:
    extensions:
        - opamp
        - health_check
    pipelines:
        traces:
            exporters:
                - debug
            receivers:
                - otlp
    telemetry:
        resource: {service.name: shop}
";

    #[test]
    fn what_an_agent_adds_is_no_difference() {
        assert!(contained(&[("collector.yaml", COLLECTOR)], &[("", EFFECTIVE)]));
        assert!(contained(&[("collector.yaml", COLLECTOR)], &[("other", COLLECTOR)]), "one file has any name");
        assert!(contained(&[], &[("", EFFECTIVE)]));
        for (from, to) in [
            ("127.0.0.1:1", "127.0.0.1:9"),
            ("- debug", "- debug\n                - otlp"),
            ("        - health_check\n", ""),
            ("    debug: null", "    file: null"),
        ] {
            let other = EFFECTIVE.replace(from, to);
            assert_ne!(other, EFFECTIVE);
            assert!(!contained(&[("collector.yaml", COLLECTOR)], &[("", &other)]), "{from} is {to}");
        }
    }

    #[test]
    fn several_files_are_in_those_of_their_names_or_merged_in_one() {
        let offered = [("a.yaml", "a: {x: 1, y: [1, 2]}\nservice: {extensions: [one]}"), ("b.yaml", "a: {x: 2}\nb: t")];
        assert!(contained(&offered, &[("b.yaml", "a: {x: 2}\nb: t"), ("a.yaml", offered[0].1), ("c", "")]));
        assert!(!contained(&offered, &[("b.yaml", offered[0].1), ("a.yaml", offered[1].1)]));
        assert!(contained(&offered, &[("", "a: {x: 2, y: [1, 2], z: 3}\nb: t\nservice: {extensions: [two, one]}")]));
        assert!(!contained(&offered, &[("", "a: {x: 1, y: [1, 2]}\nb: t\nservice: {extensions: [one]}")]));
        // That without a name is merged last.
        let offered = [("", "a: 1\nservice: {extensions: [x]}"), ("b", "a: 2\nservice: {extensions: [y]}")];
        assert!(contained(&offered, &[("merged", "a: 1\nservice: {extensions: [y, x]}")]));
        assert!(!contained(&offered, &[]));
    }

    #[test]
    fn other_texts_are_compared_by_their_bytes() {
        assert!(contained(&[("a", "one")], &[("a", "one")]));
        assert!(!contained(&[("a", "one")], &[("a", "one ")]));
        assert!(!contained(&[("a", "{ unclosed")], &[("a", "{ unclosed: 1")]));
        assert!(contained(&[("a", "{\"n\": 1.0, \"on\": \"true\"}")], &[("a", "on: true\nn: 1\nmore: 2")]), "JSON");
        assert!(contained(&[("a", "# nothing")], &[("a", "x: 1")]));
    }

    #[test]
    fn times_are_the_same_however_they_are_written() {
        for (offered, effective) in
            [("90s", "1m30s"), ("300s", "5m0s"), ("1.5h", "1h30m"), ("1000ms", "1s"), ("0s", "0s")]
        {
            assert!(contained(&[("a", &format!("t: {offered}"))], &[("b", &format!("t: {effective}"))]), "{offered}");
        }
        for (offered, effective) in
            [("90s", "1m31s"), ("5m", "5"), ("1s", "1x"), ("s", "m"), ("1s", "-1s"), ("10.0.0.1", "10.0.0.2")]
        {
            assert!(!contained(&[("a", &format!("t: {offered}"))], &[("b", &format!("t: {effective}"))]), "{offered}");
        }
    }

    fn trees() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn maps() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[a-c]", trees(), 0..4).prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_is_merged_in_last_is_contained(first in maps(), second in maps()) {
            let mut all = first.clone();
            merge(&mut all, second.clone(), &[]);
            prop_assert!(map_has(&all, &second, &[]));
            prop_assert!(map_has(&first, &first, &[]));
            // Also through YAML.
            let yaml = |map: &Map<String, Value>| serde_saphyr::to_string(map).unwrap();
            prop_assert!(contained(&[("a", &yaml(&second))], &[("b", &yaml(&all))]));
        }

        /// What is known of the comparison is about what is applied, and drift comes after a match.
        #[test]
        fn drift_is_of_what_once_matched(before in agents(), after in agents(), matches in any::<[bool; 4]>()) {
            let mut after = after;
            after.observed.effective_config = Some(ContentHash([9; 32]));
            after.desired.effective = before.desired.effective;
            prop_assert!(!is_retried(&after) || pair(&after).is_some() || convergence(&after, PolicyKind::Config) != Convergence::Behind);
            let is_new = follow(&before, &mut after);
            if pair(&after).is_none() {
                prop_assert_eq!((after.desired.effective, is_new), (Effective::Unknown, false));
            }
            prop_assert_eq!(Effective::Retried.then(matches[0]) == Effective::Matches, matches[0]);
            let mut has_matched = false;
            let mut effective = Effective::Unknown;
            for matches in matches {
                effective = effective.then(matches);
                has_matched |= matches;
                prop_assert_eq!(effective == Effective::Matches, matches);
                prop_assert_eq!(effective == Effective::Drifted, !matches && has_matched);
            }
        }
    }
}
