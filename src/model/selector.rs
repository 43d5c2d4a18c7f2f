//! Selectors: the grammar of Kubernetes label selectors over an agent's attributes and labels.
//!
//! ```text
//! selector    = [ requirement { "," requirement } ]
//! requirement = key | "!" key | key ("=" | "==" | "!=") value | key ("in" | "notin") "(" value { "," value } ")"
//! ```
//!
//! Keys and values are bare words (anything but white space and `,()=!"`) or text in double quotes, where `\` takes
//! the next character as it is. A requirement that a key is not something also holds where there is no
//! such key, as in Kubernetes. A label hides an attribute of the same key. The empty selector matches every agent.

use std::{fmt, str::FromStr};

use super::{Attributes, Labels, attributes::scalar_equals};

/// Longest accepted selector, in bytes, both as it is given and in its canonical form, which is what is stored and read again.
pub const MAX_SELECTOR_BYTES: usize = 16 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Missing,
    /// One value is written `=`, several `in`.
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// What is wrong with a selector, and where: `position` counts characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selector, position {position}: {problem}")]
pub struct InvalidSelector {
    pub position: usize,
    pub problem: String,
}

impl Selector {
    pub fn matches(&self, attributes: &Attributes, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(attributes, labels))
    }

    pub fn matches_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Requirement {
    fn holds(&self, attributes: &Attributes, labels: &Labels) -> bool {
        let label = labels.get(&self.key);
        let attribute = attributes.get(&self.key);
        let is_one_of = |values: &[String]| match (label, attribute) {
            (Some(label), _) => values.contains(label),
            (None, Some(Some(attribute))) => values.iter().any(|value| scalar_equals(attribute, value)),
            (None, _) => false,
        };
        match &self.test {
            Test::Exists => label.is_some() || attribute.is_some(),
            Test::Missing => label.is_none() && attribute.is_none(),
            Test::In(values) => is_one_of(values),
            Test::NotIn(values) => !is_one_of(values),
        }
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        if text.len() > MAX_SELECTOR_BYTES {
            let problem = format!("longer than {MAX_SELECTOR_BYTES} bytes");
            return Err(InvalidSelector { position: 1, problem });
        }
        let selector = Parser::new(text).selector()?;
        if selector.to_string().len() > MAX_SELECTOR_BYTES {
            let problem = format!("longer than {MAX_SELECTOR_BYTES} bytes when written with a space at each side of =");
            return Err(InvalidSelector { position: 1, problem });
        }
        Ok(selector)
    }
}

/// The canonical text: parsing it gives the same selector.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            let key = Word(key);
            match test {
                Test::Exists => write!(f, "{key}")?,
                Test::Missing => write!(f, "!{key}")?,
                Test::In(values) if values.len() == 1 => write!(f, "{key} = {}", Word(&values[0]))?,
                Test::NotIn(values) if values.len() == 1 => write!(f, "{key} != {}", Word(&values[0]))?,
                Test::In(values) => write!(f, "{key} in ({})", Words(values))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", Words(values))?,
            }
        }
        Ok(())
    }
}

struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(is_bare) && !matches!(self.0, "in" | "notin") {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

struct Words<'a>(&'a [String]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            write!(f, "{}{}", if index > 0 { ", " } else { "" }, Word(word))?;
        }
        Ok(())
    }
}

fn is_bare(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !matches!(c, ',' | '(' | ')' | '=' | '!' | '"')
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A key or value, and whether it was quoted (a quoted `in` is never the operator).
    Word(String, bool),
    Comma,
    Open,
    Close,
    Equal,
    NotEqual,
    Not,
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word, _) => write!(f, "{word:?}"),
            Self::Comma => f.write_str("\",\""),
            Self::Open => f.write_str("\"(\""),
            Self::Close => f.write_str("\")\""),
            Self::Equal => f.write_str("\"=\""),
            Self::NotEqual => f.write_str("\"!=\""),
            Self::Not => f.write_str("\"!\""),
            Self::End => f.write_str("the end"),
        }
    }
}

struct Parser<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    /// Characters consumed.
    consumed: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.chars().peekable(), consumed: 0 }
    }

    fn selector(mut self) -> Result<Selector, InvalidSelector> {
        let mut requirements = Vec::new();
        let (mut position, mut token) = self.token()?;
        if token == Token::End {
            return Ok(Selector::default());
        }
        loop {
            let (requirement, after) = self.requirement(position, token)?;
            requirements.push(requirement);
            match after {
                (_, Token::End) => return Ok(Selector { requirements }),
                (_, Token::Comma) => (position, token) = self.token()?,
                (position, other) => return expected(position, "\",\" or the end", &other),
            }
        }
    }

    /// One requirement that starts with `token`, and the token after it.
    fn requirement(&mut self, position: usize, token: Token) -> Result<(Requirement, (usize, Token)), InvalidSelector> {
        let key = match token {
            Token::Not => {
                let key = self.key()?;
                return Ok((Requirement { key, test: Test::Missing }, self.token()?));
            }
            Token::Word(key, _) => non_empty_key(position, key)?,
            other => return expected(position, "a key", &other),
        };
        let (position, operator) = self.token()?;
        let test = match operator {
            Token::Equal => Test::In(vec![self.value()?]),
            Token::NotEqual => Test::NotIn(vec![self.value()?]),
            Token::Word(word, false) if word == "in" => Test::In(self.values()?),
            Token::Word(word, false) if word == "notin" => Test::NotIn(self.values()?),
            Token::Comma | Token::End => {
                return Ok((Requirement { key, test: Test::Exists }, (position, operator)));
            }
            other => return expected(position, "one of = == != in notin, \",\" or the end", &other),
        };
        Ok((Requirement { key, test }, self.token()?))
    }

    fn key(&mut self) -> Result<String, InvalidSelector> {
        match self.token()? {
            (position, Token::Word(key, _)) => non_empty_key(position, key),
            (position, other) => expected(position, "a key", &other),
        }
    }

    fn value(&mut self) -> Result<String, InvalidSelector> {
        match self.token()? {
            (_, Token::Word(value, _)) => Ok(value),
            (position, other) => expected(position, "a value", &other),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, InvalidSelector> {
        match self.token()? {
            (_, Token::Open) => {}
            (position, other) => return expected(position, "\"(\"", &other),
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            match self.token()? {
                (_, Token::Comma) => {}
                (_, Token::Close) => return Ok(values),
                (position, other) => return expected(position, "\",\" or \")\"", &other),
            }
        }
    }

    /// The next token, and its position.
    fn token(&mut self) -> Result<(usize, Token), InvalidSelector> {
        while self.rest.next_if(|c| c.is_whitespace()).is_some() {
            self.consumed += 1;
        }
        let position = self.consumed + 1;
        let token = match self.next() {
            None => Token::End,
            Some(',') => Token::Comma,
            Some('(') => Token::Open,
            Some(')') => Token::Close,
            Some('=') => {
                self.next_if('=');
                Token::Equal
            }
            Some('!') if self.next_if('=') => Token::NotEqual,
            Some('!') => Token::Not,
            Some('"') => Token::Word(self.quoted(position)?, true),
            Some(c) if is_bare(c) => {
                let mut word = String::from(c);
                while let Some(&c) = self.rest.peek().filter(|c| is_bare(**c)) {
                    word.push(c);
                    self.next();
                }
                Token::Word(word, false)
            }
            Some(c) => {
                let problem = format!("unexpected character {c:?}");
                return Err(InvalidSelector { position, problem });
            }
        };
        Ok((position, token))
    }

    /// U+0000 is refused: a selector is stored as text, which cannot hold it in Postgres.
    fn quoted(&mut self, opened_at: usize) -> Result<String, InvalidSelector> {
        let mut word = String::new();
        loop {
            let c = match self.next() {
                Some('"') => return Ok(word),
                Some('\\') => self.next(),
                other => other,
            };
            let Some(c) = c else {
                let problem = "this quote is not closed".to_owned();
                return Err(InvalidSelector { position: opened_at, problem });
            };
            if c == '\0' {
                let problem = "a text must not contain U+0000".to_owned();
                return Err(InvalidSelector { position: self.consumed, problem });
            }
            word.push(c);
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        self.consumed += usize::from(c.is_some());
        c
    }

    fn next_if(&mut self, wanted: char) -> bool {
        self.rest.peek() == Some(&wanted) && self.next().is_some()
    }
}

fn non_empty_key(position: usize, key: String) -> Result<String, InvalidSelector> {
    if key.is_empty() {
        return Err(InvalidSelector { position, problem: "a key must not be empty".to_owned() });
    }
    Ok(key)
}

fn expected<T>(position: usize, wanted: &str, found: &Token) -> Result<T, InvalidSelector> {
    Err(InvalidSelector { position, problem: format!("expected {wanted}, found {found}") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::opamp::{AgentDescription, AnyValue, KeyValue, any_value::Value};

    fn attributes(pairs: Vec<(&str, Value)>) -> Attributes {
        let identifying_attributes = pairs
            .into_iter()
            .map(|(key, value)| KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) })
            .collect();
        Attributes::from(AgentDescription { identifying_attributes, ..Default::default() })
    }

    fn matches(selector: &str) -> bool {
        let attributes = attributes(vec![
            ("os.type", Value::StringValue("linux".into())),
            ("cpus", Value::IntValue(8)),
            ("load", Value::DoubleValue(1.5)),
            ("spot", Value::BoolValue(true)),
            ("id", Value::BytesValue(vec![0xab, 1].into())),
            ("hidden", Value::StringValue("attribute".into())),
        ]);
        let labels = Labels::from([("env".into(), "prod".into()), ("hidden".into(), "label".into())]);
        selector.parse::<Selector>().expect(selector).matches(&attributes, &labels)
    }

    #[test]
    fn every_operator_and_scalar_type() {
        for selector in [
            "",
            " ",
            "os.type",
            "!legacy",
            "os.type = linux",
            "os.type==linux",
            "os.type != windows",
            "os.type in (a, linux)",
            "os.type notin (a,b)",
            "cpus = 8",
            "load=1.50",
            "spot = true",
            "id = ab01",
            "env = prod",
            "missing != x",
            "missing notin (x)",
            "hidden = label",
            "\"os.type\" = \"linux\"",
            "os.type = linux, env in (prod, staging), !legacy",
        ] {
            assert!(matches(selector), "{selector}");
        }
        for selector in [
            "legacy",
            "!env",
            "os.type = Linux",
            "cpus = 8.5",
            "spot = 1",
            "hidden = attribute",
            "env notin (prod)",
            "missing = x",
        ] {
            assert!(!matches(selector), "{selector}");
        }
    }

    #[test]
    fn errors_name_the_position() {
        for (selector, position, problem) in [
            ("a = ", 5, "expected a value, found the end"),
            ("a,,b", 3, "expected a key, found \",\""),
            ("a,", 3, "expected a key, found the end"),
            ("a in b", 6, "expected \"(\", found \"b\""),
            ("a in (b", 8, "expected \",\" or \")\", found the end"),
            ("a in ()", 7, "expected a value, found \")\""),
            ("ü = \"x", 5, "this quote is not closed"),
            ("a b", 3, "expected one of = == != in notin, \",\" or the end, found \"b\""),
            ("a = b c", 7, "expected \",\" or the end, found \"c\""),
            ("= b", 1, "expected a key, found \"=\""),
            ("!", 2, "expected a key, found the end"),
            ("\"\" = b", 1, "a key must not be empty"),
            ("a = \"b\0\"", 7, "a text must not contain U+0000"),
            ("\"\\\0\"", 3, "a text must not contain U+0000"),
        ] {
            let expected = InvalidSelector { position, problem: problem.into() };
            assert_eq!(selector.parse::<Selector>(), Err(expected), "{selector}");
        }
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let test = prop_oneof![
            Just(Test::Exists),
            Just(Test::Missing),
            prop::collection::vec("[^\0]*", 1..4).prop_map(Test::In),
            prop::collection::vec("[^\0]*", 1..4).prop_map(Test::NotIn),
        ];
        ("[^\0]+", test).prop_map(|(key, test)| Requirement { key, test })
    }

    proptest! {
        #[test]
        fn text_round_trips(requirements in prop::collection::vec(requirement(), 0..5)) {
            let selector = Selector { requirements };
            prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Selector>();
        }
    }
}
