//! The tables of `docs/opamp.md`: what the runner says of Muster and of the reference server, and what real clients do.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

use muster::conformance::{self, Case, Report};
use parking_lot::Mutex;
use serde_json::Value;

/// What the ids of cases begin with.
const SUBJECTS: &[(&str, &str)] = &[
    ("HTTP", "plain HTTP"),
    ("BODY", "bodies over plain HTTP: compression, limits"),
    ("WS", "upgrades to WebSocket"),
    ("FRAME", "WebSocket frames"),
    ("MSG", "messages and replies, good and malformed"),
    ("STATE", "deltas, and ReportFullState"),
    ("UID", "instance uids: given, duplicate"),
    ("CFG", "remote configuration"),
    ("SEEN", "what an operator sees of agents"),
    ("SET", "connection settings"),
    ("CERT", "certificates that agents ask for"),
    ("PKG", "packages, and downloads of their files"),
    ("CMD", "the restart command"),
    ("CUST", "custom messages, both ways"),
    ("EXT", "optional parts, as an agent alone can see them"),
    ("NODE", "two nodes of one deployment"),
];

/// Two tests may write the page at once.
static PAGE: Mutex<()> = Mutex::new(());

fn docs(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(file)
}

fn page() -> String {
    fs::read_to_string(docs("opamp.md")).unwrap()
}

/// What comes before a table, the table, and what follows.
fn parts<'a>(page: &'a str, name: &str) -> [&'a str; 3] {
    let (begin, end) = (format!("<!-- table: {name} -->\n"), format!("<!-- end: {name} -->"));
    let (before, rest) = page.split_once(&begin).expect("docs/opamp.md says where the table begins");
    let (table, after) = rest.split_once(&end).expect("docs/opamp.md says where the table ends");
    [&page[..before.len() + begin.len()], table, &page[page.len() - after.len() - end.len()..]]
}

/// Compares a table of the page with what it should be, or, with UPDATE=1, writes it.
pub fn is_on_page(name: &str, expected: &str) {
    let _guard = PAGE.lock();
    let page = page();
    let [before, found, after] = parts(&page, name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(docs("opamp.md"), [before, expected, after].concat()).unwrap();
    } else {
        assert!(
            found == expected,
            "docs/opamp.md is out of date: its last section says how to make it. Now:\n{expected}"
        );
    }
}

/// Results by case.
type Results = BTreeMap<String, String>;

/// What the reference server did, which was run by hand; the page says how.
fn reference() -> Results {
    let file: Value = serde_json::from_str(&fs::read_to_string(docs("opamp-go-example.json")).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    file["cases"].as_array().unwrap().iter().map(|case| (text(&case["id"]), text(&case["result"]))).collect()
}

fn cases(ours: &Results) -> String {
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

fn subject(id: &str) -> &str {
    id.split_once('-').unwrap().0
}

/// `19 of 21, 2 skipped`
fn count(results: &Results, prefix: &str) -> String {
    let of = |result: &str| results.iter().filter(|(id, it)| subject(id) == prefix && *it == result).count();
    let (passed, failed, skipped) = (of("pass"), of("fail"), of("skip"));
    match (passed + failed, skipped) {
        (0, _) => "skipped".to_owned(),
        (judged, 0) => format!("{passed} of {judged}"),
        (judged, skipped) => format!("{passed} of {judged}, {skipped} skipped"),
    }
}

fn summary(ours: &Results) -> String {
    let reference = reference();
    let mut table = "| cases | about | Muster passes | opamp-go example |\n|---|---|---|---|\n".to_owned();
    for (prefix, about) in SUBJECTS {
        let (ours, theirs) = (count(ours, prefix), count(&reference, prefix));
        writeln!(table, "| `{prefix}-*` | {about} | {ours} | {theirs} |").unwrap();
    }
    table
}

/// Compares the page with a run.
pub fn has_results(report: &Report) {
    let ours = report.cases.iter().map(|case| (case.id.to_owned(), case.result.name().to_owned())).collect();
    is_on_page("summary", &summary(&ours));
    is_on_page("cases", &cases(&ours));
}

#[test]
fn the_page_lists_exactly_the_cases() {
    let page = page();
    let [_, found, _] = parts(&page, "cases");
    let without_results = |row: &str| row.split(" | ").take(5).collect::<Vec<_>>().join(" | ");
    let listed: Vec<String> = found.lines().skip(2).map(without_results).collect();
    let expected: Vec<String> = cases(&Results::new()).lines().skip(2).map(without_results).collect();
    assert_eq!(listed, expected, "docs/opamp.md is out of date: its last section says how to make it");
}

#[test]
fn each_case_has_a_subject() {
    let without: Vec<&str> = conformance::all()
        .iter()
        .map(|case| case.id)
        .filter(|id| !SUBJECTS.iter().any(|(prefix, _)| *prefix == subject(id)))
        .collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn the_reference_servers_result_is_about_cases_that_there_are() {
    let cases: Vec<&str> = conformance::all().iter().map(|case| case.id).collect();
    let results = reference();
    let unknown: Vec<&String> = results.keys().filter(|id| !cases.contains(&id.as_str())).collect();
    let missing: Vec<&&str> = cases.iter().filter(|id| !results.contains_key(**id)).collect();
    assert!(
        unknown.is_empty() && missing.is_empty(),
        "docs/opamp-go-example.json is older than the cases: {unknown:?} are not there any more, {missing:?} are new"
    );
}
