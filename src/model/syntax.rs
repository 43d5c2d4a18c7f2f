//! Whether a file is what its content type says, as far as that is known here: YAML and JSON.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Nested deeper than any configuration; a parser's stack is finite.
const MAX_DEPTH: usize = 100;
/// Of one YAML file, with what its aliases stand for: a few bytes each, of the largest file there may be.
const MAX_NODES: usize = 4_000_000;
/// What aliases may stand for, altogether.
const MAX_ALIASED_EVENTS: usize = 1_000_000;
/// The parser's words, cut: some repeat what they are about.
const MAX_WORDS: usize = 300;

/// A language that a file may be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Yaml,
    Json,
}

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 if it is not known.
    pub line: u64,
    /// From 1, in characters; 0 if it is not known.
    pub column: u64,
    pub words: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (0, _) => {}
            (line, 0) => write!(f, "line {line}: ")?,
            (line, column) => write!(f, "line {line}, column {column}: ")?,
        }
        f.write_str(&self.words)
    }
}

impl Problem {
    pub fn new(line: u64, column: u64, words: &str) -> Self {
        let words = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect();
        Self { line, column, words }
    }

    /// At a byte of `text`.
    pub fn at(text: &str, offset: usize, words: &str) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() as u64 + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() as u64 + 1;
        Self::new(line, column, words)
    }
}

impl Language {
    /// What a content type stands for, in any case and whatever its parameters; `None` for all that is not looked at.
    pub fn of(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "text/yaml" | "text/x-yaml" | "application/yaml" | "application/x-yaml" => Some(Self::Yaml),
            "text/json" | "application/json" => Some(Self::Json),
            other if other.ends_with("+yaml") => Some(Self::Yaml),
            other if other.ends_with("+json") => Some(Self::Json),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Yaml => "YAML",
            Self::Json => "JSON",
        }
    }

    /// Reads all of `body`. Keys that are given twice are an error: parsers differ in which of them counts.
    pub fn check(self, body: &[u8]) -> Result<(), Problem> {
        let text = std::str::from_utf8(body).map_err(|error| {
            let good = String::from_utf8_lossy(&body[..error.valid_up_to()]);
            Problem::at(&good, good.len(), "is not UTF-8")
        })?;
        match self {
            Self::Yaml => yaml(text),
            Self::Json => json(text),
        }
    }
}

fn yaml(text: &str) -> Result<(), Problem> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            // What aliases stand for is bounded; how many there are need not be.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED_EVENTS },
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    let documents = serde_saphyr::from_str_multiple_with_options::<Anything, Count>(text, options);
    documents.map(drop).map_err(|error| {
        let location = error.location();
        let (line, column) = location.map_or((0, 0), |location| (location.line(), location.column()));
        Problem::new(line, column, &words(&error))
    })
}

/// The parser's words without its own way to say where.
pub fn words(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    text.strip_suffix(',').unwrap_or(text).to_owned()
}

fn json(text: &str) -> Result<(), Problem> {
    serde_json::from_str::<Anything>(text).map(drop).map_err(|error| {
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        Problem::new(error.line() as u64, error.column() as u64, words)
    })
}

/// Documents that are read and not kept.
#[derive(Default)]
struct Count;

impl Extend<Anything> for Count {
    fn extend<I: IntoIterator<Item = Anything>>(&mut self, documents: I) {
        documents.into_iter().for_each(drop);
    }
}

/// Any value, in which no key of a map is there twice.
struct Anything;

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnythingVisitor)
    }
}

struct AnythingVisitor;

/// Values of one type that say nothing more here.
macro_rules! taken_as {
    ($value:expr; $($visit:ident($type:ty)),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok($value)
        })*
    };
}

impl<'de> Visitor<'de> for AnythingVisitor {
    type Value = Anything;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    taken_as!(
        Anything;
        visit_bool(bool),
        visit_i64(i64),
        visit_i128(i128),
        visit_u64(u64),
        visit_u128(u128),
        visit_f64(f64),
        visit_str(&str),
        visit_bytes(&[u8])
    );

    fn visit_unit<E>(self) -> Result<Anything, E> {
        Ok(Anything)
    }

    fn visit_none<E>(self) -> Result<Anything, E> {
        Ok(Anything)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Anything, D::Error> {
        Anything::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Anything, D::Error> {
        Anything::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Anything, A::Error> {
        while items.next_element::<Anything>()?.is_some() {}
        Ok(Anything)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Anything, A::Error> {
        let mut keys = HashSet::new();
        while let Some(Key(key)) = entries.next_key()? {
            if let Some(key) = key
                && let Some(key) = keys.replace(key)
            {
                return Err(A::Error::custom(format_args!("the key {key:?} is there twice")));
            }
            entries.next_value::<Anything>()?;
        }
        Ok(Anything)
    }
}

/// A key that is a text; others are compared by the parser, if they are possible at all.
struct Key(Option<String>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(Key(Some(key.to_owned())))
    }

    taken_as!(
        Key(None);
        visit_bool(bool),
        visit_i64(i64),
        visit_i128(i128),
        visit_u64(u64),
        visit_u128(u128),
        visit_f64(f64),
        visit_bytes(&[u8])
    );

    fn visit_unit<E>(self) -> Result<Key, E> {
        Ok(Key(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Key, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Key(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Key, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Key(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> String {
        Language::Yaml.check(text.as_bytes()).err().map(|problem| problem.to_string()).unwrap_or_default()
    }

    fn json(text: &str) -> String {
        Language::Json.check(text.as_bytes()).err().map(|problem| problem.to_string()).unwrap_or_default()
    }

    #[test]
    fn content_types_in_any_writing() {
        for text in
            ["text/yaml", "TEXT/X-YAML", "application/yaml; charset=utf-8", " application/x-yaml ;a=b", "a/b+yaml"]
        {
            assert_eq!(Language::of(text), Some(Language::Yaml), "{text}");
        }
        for text in ["text/json", "Application/JSON;v=1", "application/vnd.example+JSON"] {
            assert_eq!(Language::of(text), Some(Language::Json), "{text}");
        }
        for text in ["", "text/plain", "yaml", "application/toml", "text/yamlx", "application/json5"] {
            assert_eq!(Language::of(text), None, "{text}");
        }
    }

    #[test]
    fn what_real_configurations_have_is_taken() {
        for text in [
            "",
            "# a comment\n",
            "a: 1\n---\nb: 2\n...\n---\n- c\n",
            "receivers:\n  otlp:\n    protocols:\n      grpc: {endpoint: \"${env:HOST:-0.0.0.0}:4317\"}\n",
            "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2\n",
            "a: .nan\nb: -.inf\nc: 0x1F\nd: 123456789012345678901234567890\ne: 2001-01-01\nf: !custom text\ng: ~\n",
            "text: |\n  indented\n   more\nfolded: >-\n  a\n  b\n",
            "? [1, 2]\n: complex\n1: number\ntrue: yes\n",
            "\u{feff}a: ä\n",
        ] {
            assert_eq!(yaml(text), "", "{text}");
        }
        for text in ["{}", " [1, 2.5e3, null, true, \"\\u00e4\", {\"a\": {\"a\": 1}}] ", "3"] {
            assert_eq!(json(text), "", "{text}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        let cases = [
            ("a: 1\nb: [1, 2\nc: 3\n", "line "),
            ("a: 1\n  b: 2\n", "line 2"),
            ("a:\n\t- b\n", "line 2"),
            ("a: 1\nb: 2\na: 3\n", "line 3, column 1: duplicate mapping key"),
            ("ok: 1\n---\nbad: *nobody\n", "line 3"),
            ("a: \"open\n", "line "),
        ];
        for (text, expected) in cases {
            assert!(yaml(text).starts_with(expected), "{text:?}: {:?}", yaml(text));
        }
        assert!(json("{\"a\": 1,}").starts_with("line 1, column 9: trailing comma"), "{}", json("{\"a\": 1,}"));
        assert!(json("").starts_with("line 1, column 0: EOF") || json("").starts_with("line 1: EOF"), "{}", json(""));
        assert!(json("{\"a\": 1,\n \"a\": 2}").starts_with("line 2, column"), "{}", json("{\"a\": 1,\n \"a\": 2}"));
        assert!(json("{\"a\": 1,\n \"a\": 2}").contains("the key \"a\" is there twice"));
        assert_eq!(Language::Yaml.check(b"a: b\nc: \xff").unwrap_err().to_string(), "line 2, column 4: is not UTF-8");
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let aliases = format!("*a{}, ", n - 1).repeat(10);
            bomb += &format!("a{n}: &a{n} [{}]\n", aliases.trim_end_matches(", "));
        }
        assert!(!yaml(&bomb).is_empty());
        for deep in [10_000, 1_000_000] {
            assert!(!yaml(&"[".repeat(deep)).is_empty());
            assert!(!yaml(&format!("{}x", "- ".repeat(deep))).is_empty());
            assert!(!json(&"[".repeat(deep)).is_empty());
        }
        let large = (0..300_000).map(|n| format!("- k{n}: v\n")).collect::<String>();
        assert_eq!(yaml(&large), "", "many nodes are no bomb");
    }
}
