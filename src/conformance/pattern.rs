//! Which cases are asked for.

use std::{convert::Infallible, fmt, str::FromStr};

use super::case::Case;

/// An id, with `*` for any text, or a part of a title. Case does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl FromStr for Pattern {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.trim().to_lowercase()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    fn matches(&self, id: &str, title: &str) -> bool {
        glob(self.0.as_bytes(), id.to_lowercase().as_bytes())
            || !self.0.contains('*') && !is_id(&self.0) && title.to_lowercase().contains(&self.0)
    }
}

/// Looks like an id: not to be searched for in titles.
fn is_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(_, number)| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}

pub fn matches_any(patterns: &[Pattern], case: &Case) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(case.id, case.title))
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => glob(rest, text) || !text.is_empty() && glob(pattern, &text[1..]),
        ([p, rest @ ..], [t, text @ ..]) => p == t && glob(rest, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_globs_and_parts_of_titles() {
        let matches = |pattern: &str| pattern.parse::<Pattern>().unwrap().matches("WS-12", "A ping is answered");
        for yes in ["ws-12", "WS-*", "*", "*-12", "ping", " PING is "] {
            assert!(matches(yes), "{yes}");
        }
        for no in ["WS-1", "HTTP-*", "pong", "WS", "", "ping*"] {
            assert_eq!(matches(no), no.is_empty(), "{no}");
        }
    }
}
