//! The most frequent words of agents that failed, out of any number of different ones, in bounded memory.

use std::collections::{BTreeMap, HashMap};

use crate::model::InstanceUid;

/// Texts that are counted at a time. Of a text said by more than one in so many of the failures, some are always counted.
const MAX_COUNTED: usize = 256;
/// Texts that are kept in the end, how long they may be, and agents that are named with each.
const MAX_KEPT: usize = 10;
const MAX_CHARS: usize = 300;
const MAX_EXAMPLES: usize = 3;

/// Counts texts that are alike but for numbers, hashes and uids as one (by the Space-Saving algorithm: when there is no room, a
/// new text takes the place of the rarest, and its count begins there, which is subtracted again in the end).
#[derive(Clone, Debug, Default)]
pub struct Errors(HashMap<String, Group>);

#[derive(Clone, Debug)]
struct Group {
    /// As said by the first.
    text: String,
    /// All said the same.
    is_uniform: bool,
    agents: u64,
    /// Of those, how many may have said something else.
    uncertain: u64,
    examples: Vec<InstanceUid>,
}

/// The most frequent texts, with how many agents said each at least, and some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MostFrequent {
    pub agents: BTreeMap<String, u64>,
    /// Uids in their canonical text.
    pub examples: BTreeMap<String, Vec<String>>,
}

impl Errors {
    pub fn add(&mut self, uid: InstanceUid, said: &str) {
        let text: String = said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_CHARS).collect();
        let key = without_variables(&text);
        let mut inherited = 0;
        if !self.0.contains_key(&key) && self.0.len() >= MAX_COUNTED {
            // Of several the same one each time, so that equal fleets give equal counts.
            let rarest = self.0.iter().min_by_key(|(key, group)| (group.agents, *key)).map(|(key, _)| key.clone());
            inherited = rarest.and_then(|key| self.0.remove(&key)).map_or(0, |group| group.agents);
        }
        let group = self.0.entry(key).or_insert_with(|| Group {
            text: text.clone(),
            is_uniform: true,
            agents: inherited,
            uncertain: inherited,
            examples: Vec::new(),
        });
        group.agents += 1;
        group.is_uniform &= group.text == text;
        // The smallest, in whatever order agents come.
        let place = group.examples.partition_point(|known| *known < uid);
        group.examples.insert(place, uid);
        group.examples.truncate(MAX_EXAMPLES);
    }

    pub fn most_frequent(self) -> MostFrequent {
        let mut groups: Vec<_> =
            self.0.into_iter().map(|(key, group)| (group.agents - group.uncertain, key, group)).collect();
        groups.sort_by(|a, b| (b.0, &a.1).cmp(&(a.0, &b.1)));
        let mut found = MostFrequent::default();
        for (agents, key, group) in groups.into_iter().take(MAX_KEPT) {
            let text = if group.is_uniform { group.text } else { key };
            *found.agents.entry(text.clone()).or_default() += agents;
            found.examples.entry(text).or_default().extend(group.examples.iter().map(InstanceUid::to_string));
        }
        found
    }
}

/// Words with digits in them, which differ from agent to agent, as `#`: numbers, addresses, times, hashes, uids.
fn without_variables(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let end = |word: &mut String, out: &mut String| {
        let is_hexadecimal = word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let is_variable = digits > 0 && (is_hexadecimal || word.bytes().all(|byte| !byte.is_ascii_alphabetic()));
        match is_variable {
            true if !out.ends_with('#') => out.push('#'),
            true => {}
            false => {
                // Names with numbers in them, such as host-17.
                let mut in_number = false;
                for c in word.chars() {
                    if !c.is_ascii_digit() {
                        out.push(c);
                    } else if !in_number {
                        out.push('#');
                    }
                    in_number = c.is_ascii_digit();
                }
            }
        }
        word.clear();
    };
    for c in text.chars() {
        if c.is_alphanumeric() || matches!(c, '-' | '.' | '_') {
            word.push(c);
        } else {
            end(&mut word, &mut out);
            out.push(c);
        }
    }
    end(&mut word, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn counted<'a>(texts: impl IntoIterator<Item = &'a str>) -> MostFrequent {
        let mut errors = Errors::default();
        for (n, text) in (1..).zip(texts) {
            errors.add(InstanceUid::from_uuid(Uuid::from_u128(n)), text);
        }
        errors.most_frequent()
    }

    #[test]
    fn texts_that_differ_in_numbers_are_one() {
        let found = counted([
            "listen tcp 10.0.0.1:4317: address in use",
            "listen tcp 10.0.0.22:4317: address in use",
            "pod web-7f9c4d5b6-x2x1 of host17 at 2026-11-29T08:30:00Z",
            "pod web-7f9c4d5b6-x2x1 of host17 at 2026-11-29T08:30:00Z",
            "no file 0192f3a0-7c1e-7abc-8def-001122334455",
            "no file 0192f3a1-7c1e-7abc-8def-00112233dead",
            "no such receiver",
        ]);
        let agents: Vec<_> = found.agents.iter().map(|(text, agents)| (text.as_str(), *agents)).collect();
        assert_eq!(
            agents,
            [
                ("listen tcp #:#: address in use", 2),
                ("no file #", 2),
                ("no such receiver", 1),
                // What all said in the same words is shown in those.
                ("pod web-7f9c4d5b6-x2x1 of host17 at 2026-11-29T08:30:00Z", 2),
            ]
        );
        assert_eq!(found.examples["no file #"].len(), 2);
    }

    #[test]
    fn a_frequent_text_that_comes_late_is_found_among_thousands() {
        let letters =
            |n: u32| -> String { n.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect() };
        let rare: Vec<String> = (0..5_000).map(|n| format!("rare {}", letters(n))).collect();
        let late = (0..2_000).map(|_| "frequent");
        let found = counted(rare.iter().map(String::as_str).chain(late));
        assert_eq!(found.agents.len(), MAX_KEPT);
        let (text, agents) = found.agents.iter().max_by_key(|(_, agents)| **agents).unwrap();
        assert_eq!((text.as_str(), *agents), ("frequent", 2_000));
    }

    proptest! {
        #[test]
        fn never_more_are_counted_than_there_are(texts in prop::collection::vec("[a-e]{1,6}", 0..2_000)) {
            let found = counted(texts.iter().map(String::as_str));
            for (text, agents) in &found.agents {
                let exact = texts.iter().filter(|it| *it == text).count() as u64;
                prop_assert!(*agents <= exact, "{} of {}", agents, exact);
            }
            let distinct: std::collections::HashSet<_> = texts.iter().collect();
            if distinct.len() <= MAX_COUNTED {
                let exact = |text: &String| texts.iter().filter(|it| *it == text).count() as u64;
                prop_assert!(found.agents.iter().all(|(text, agents)| *agents == exact(text)));
            }
        }
    }
}
