//! What came out, as a table, JSON or JUnit's XML.

use std::fmt::Write;

use serde::Serialize;

use super::case::{Level, Transport};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Result {
    Pass,
    Fail,
    Skip,
}

impl Result {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    pub id: &'static str,
    pub title: &'static str,
    pub level: Level,
    pub section: &'static str,
    pub transport: Transport,
    pub result: Result,
    /// Why it failed or was skipped; empty when it passed.
    pub detail: String,
    pub duration_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub url: String,
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    pub cases: Vec<CaseReport>,
}

impl Report {
    pub fn new(url: String, cases: Vec<CaseReport>) -> Self {
        let count = |result| cases.iter().filter(|case| case.result == result).count();
        let (passed, failed, skipped) = (count(Result::Pass), count(Result::Fail), count(Result::Skip));
        Self { url, passed, failed, skipped, cases }
    }

    /// Whether the server did all that it must; with `is_strict`, also what it should.
    pub fn is_good(&self, is_strict: bool) -> bool {
        let counts = |level| level == Level::Must || is_strict && level == Level::Should;
        !self.cases.iter().any(|case| case.result == Result::Fail && counts(case.level))
    }

    pub fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["ID", "RESULT", "LEVEL", "TRANSPORT", "TITLE"]);
        for case in &self.cases {
            let title = if case.detail.is_empty() {
                case.title.to_owned()
            } else {
                format!("{}\n  {}", case.title, case.detail)
            };
            table.add_row([
                case.id.to_owned(),
                case.result.name().to_owned(),
                case.level.to_string(),
                case.transport.to_string(),
                title,
            ]);
        }
        let lines = table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
        let mut counts = String::new();
        for level in [Level::Must, Level::Should, Level::Field] {
            let count = |result| self.cases.iter().filter(|case| (case.level, case.result) == (level, result)).count();
            let [passed, failed, skipped] = [Result::Pass, Result::Fail, Result::Skip].map(count);
            // Writing to a String cannot fail.
            let _ = writeln!(counts, "{level:<6} {passed} passed, {failed} failed, {skipped} skipped");
        }
        let all = format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        format!("{lines}\n\n{counts}{}: {all}", self.url)
    }

    pub fn junit(&self) -> String {
        let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
        let total: u64 = self.cases.iter().map(|case| case.duration_ms).sum();
        let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
        // Writing to a String cannot fail.
        let _ = writeln!(
            xml,
            "<testsuite name=\"opamp-conformance\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{}\">",
            self.cases.len(),
            self.failed,
            self.skipped,
            seconds(total)
        );
        for case in &self.cases {
            let class = format!("opamp.{}.{}", case.transport, case.level);
            let name = escaped(&format!("{} {}", case.id, case.title));
            let head =
                format!("  <testcase classname=\"{class}\" name=\"{name}\" time=\"{}\"", seconds(case.duration_ms));
            let _ = match case.result {
                Result::Pass => writeln!(xml, "{head}/>"),
                Result::Skip => writeln!(xml, "{head}><skipped message=\"{}\"/></testcase>", escaped(&case.detail)),
                Result::Fail => writeln!(xml, "{head}><failure message=\"{}\"/></testcase>", escaped(&case.detail)),
            };
        }
        xml + "</testsuite>"
    }
}

/// Text for an attribute of XML. What XML cannot hold becomes a question mark.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' => out += "&#10;",
            c if (c < ' ' && c != '\t') || ['\u{fffe}', '\u{ffff}'].contains(&c) => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(level: Level, result: Result, detail: &str) -> CaseReport {
        CaseReport {
            id: "X-01",
            title: "does <this> & \"that\"",
            level,
            section: "Section",
            transport: Transport::WebSocket,
            result,
            detail: detail.to_owned(),
            duration_ms: 1_234,
        }
    }

    #[test]
    fn a_must_counts_always_a_should_when_strict_and_field_practice_never() {
        let good =
            |level, is_strict| Report::new(String::new(), vec![case(level, Result::Fail, "no")]).is_good(is_strict);
        assert!(!good(Level::Must, false) && !good(Level::Must, true));
        assert!(good(Level::Should, false) && !good(Level::Should, true));
        assert!(good(Level::Field, false) && good(Level::Field, true));
        assert!(Report::new(String::new(), vec![case(Level::Must, Result::Skip, "no")]).is_good(true));
    }

    #[test]
    fn json_has_the_fields_that_are_promised() {
        let report = Report::new("http://x".into(), vec![case(Level::Must, Result::Fail, "why")]);
        let json = serde_json::to_value(&report).unwrap();
        let case = &json["cases"][0];
        assert_eq!(
            (&case["level"], &case["transport"], &case["result"]),
            (&"MUST".into(), &"websocket".into(), &"fail".into())
        );
        assert_eq!(
            (&case["id"], &case["section"], &case["detail"]),
            (&"X-01".into(), &"Section".into(), &"why".into())
        );
    }

    #[test]
    fn junit_is_well_formed() {
        let cases = vec![case(Level::Must, Result::Fail, "a\u{1}<b>\n"), case(Level::Must, Result::Skip, "s")];
        let xml = Report::new(String::new(), cases).junit();
        assert!(xml.contains("name=\"X-01 does &lt;this&gt; &amp; &quot;that&quot;\" time=\"1.234\""), "{xml}");
        assert!(xml.contains("<failure message=\"a?&lt;b&gt;&#10;\"/>") && xml.contains("<skipped message=\"s\"/>"));
        assert!(xml.contains("tests=\"2\" failures=\"1\" skipped=\"1\" time=\"2.468\""));
    }
}
