//! Differences between texts, for people.

use similar::TextDiff;

use super::output;
use crate::proto::admin::PreviewItem;

/// Unchanged lines around a difference.
const CONTEXT_LINES: usize = 3;

/// From one text to the other, each with what goes before `name` in its header; `None`: there is none.
pub fn unified(name: &str, before: (&str, Option<&str>), after: (&str, Option<&str>)) -> String {
    let header = |(prefix, text): (&str, Option<&str>)| match text {
        Some(_) => format!("{prefix}/{name}"),
        None => "/dev/null".to_owned(),
    };
    let diff = TextDiff::from_lines(before.1.unwrap_or_default(), after.1.unwrap_or_default());
    let mut unified = diff.unified_diff();
    unified.context_radius(CONTEXT_LINES).header(&header(before), &header(after));
    let text = unified.to_string();
    // Of one that comes or goes empty there are no lines.
    match text.is_empty() && before.1.is_some() != after.1.is_some() {
        true => format!("--- {}\n+++ {}\n", header(before), header(after)),
        false => text,
    }
}

/// As [`unified`], of what the server says differs. Nothing in it steers the terminal.
pub fn of_item(item: &PreviewItem, before: &str, after: &str) -> String {
    let text = |body: &Option<bytes::Bytes>| body.as_deref().map(|body| String::from_utf8_lossy(body).into_owned());
    let (old, new) = (text(&item.before), text(&item.after));
    output::plain_lines(&unified(&item.name, (before, old.as_deref()), (after, new.as_deref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_or_goes_empty_is_seen() {
        assert_eq!(unified("x", ("a", None), ("b", Some(""))), "--- /dev/null\n+++ b/x\n");
        assert_eq!(unified("x", ("a", Some("")), ("b", Some(""))), "");
        assert_eq!(unified("x", ("a", Some("1\n")), ("b", Some("2\n"))), "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+2\n");
    }
}
