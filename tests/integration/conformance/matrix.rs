//! The table of `docs/opamp.md`: what the runner says of Muster and of the reference server.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

use muster::conformance::{self, Case, Report};
use serde_json::Value;

use super::NOT_YET;

const BEGIN: &str =
    "<!-- The table is made by a test: UPDATE=1 cargo test --test integration conformance::two_gateways -->\n";
const END: &str = "<!-- The end of the table. -->";

fn docs(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(file)
}

/// Results by case.
type Results = BTreeMap<String, String>;

/// What the reference server did, which was run by hand; the page says how.
fn reference() -> Results {
    let file: Value = serde_json::from_str(&fs::read_to_string(docs("opamp-go-example.json")).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    file["cases"].as_array().unwrap().iter().map(|case| (text(&case["id"]), text(&case["result"]))).collect()
}

fn table(ours: &Results) -> String {
    let reference = reference();
    let mut table = "| case | what a good server does | level | section | transport | Muster | opamp-go example |\n\
         |---|---|---|---|---|---|---|\n"
        .to_owned();
    for Case { id, title, level, section, transport, .. } in conformance::all() {
        let result = |results: &Results| results.get(id).map_or("–", String::as_str).to_owned();
        let (ours, theirs) = (result(ours), result(&reference));
        writeln!(table, "| {id} | {title} | {level} | {section} | {transport} | {ours} | {theirs} |").unwrap();
    }
    table
}

/// What comes before the table, the table, and what follows.
fn parts(page: &str) -> [&str; 3] {
    let (before, rest) = page.split_once(BEGIN).expect("docs/opamp.md says where its table begins");
    let (table, after) = rest.split_once(END).expect("docs/opamp.md says where its table ends");
    [before, table, after]
}

/// Compares the page with a run, or, with UPDATE=1, makes it from that.
pub fn has_results(report: &Report) {
    let page = fs::read_to_string(docs("opamp.md")).unwrap();
    let [before, found, after] = parts(&page);
    let mut ours: Results =
        report.cases.iter().map(|case| (case.id.to_owned(), case.result.name().to_owned())).collect();
    for id in NOT_YET {
        let row = found.lines().find(|row| row.starts_with(&format!("| {id} |")));
        let listed = row.and_then(|row| row.split(" | ").nth(5)).map(str::to_owned);
        ours.extend(listed.map(|result| ((*id).to_owned(), result)));
    }
    let expected = table(&ours);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(docs("opamp.md"), [before, BEGIN, &expected, END, after].concat()).unwrap();
    } else {
        assert!(found == expected, "docs/opamp.md is out of date: the comment above its table says how to make it");
    }
}

#[test]
fn the_page_lists_exactly_the_cases() {
    let page = fs::read_to_string(docs("opamp.md")).unwrap();
    let [_, found, _] = parts(&page);
    let without_results = |row: &str| row.split(" | ").take(5).collect::<Vec<_>>().join(" | ");
    let listed: Vec<String> = found.lines().skip(2).map(without_results).collect();
    let expected: Vec<String> = table(&Results::new()).lines().skip(2).map(without_results).collect();
    assert_eq!(listed, expected, "docs/opamp.md is out of date: the comment above its table says how to make it");
}

#[test]
fn the_reference_servers_result_is_about_cases_that_there_are() {
    let cases: Vec<&str> = conformance::all().iter().map(|case| case.id).collect();
    let unknown: Vec<String> = reference().into_keys().filter(|id| !cases.contains(&id.as_str())).collect();
    assert!(unknown.is_empty(), "docs/opamp-go-example.json is older than the cases: {unknown:?}");
}
