//! Every metric is documented, and nothing else is.

use std::{collections::BTreeSet, fs, path::Path};

use crate::support::{node::http_get, standalone::Standalone};

/// The first column of the metrics' table.
fn documented() -> BTreeSet<String> {
    let page = fs::read_to_string("docs/operations.md").unwrap();
    let name = |line: &str| Some(line.strip_prefix("| `muster_")?.split('`').next()?.to_owned());
    page.lines().filter_map(name).map(|name| format!("muster_{name}")).collect()
}

/// Names of metrics in files called `metrics.rs`.
fn defined(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            defined(&entry, names);
        } else if entry.file_name().is_some_and(|name| name == "metrics.rs") {
            let text = fs::read_to_string(&entry).unwrap();
            names.extend(text.split('"').filter(|part| part.starts_with("muster_")).map(str::to_owned));
        }
    }
}

#[test]
fn the_documented_metrics_are_those_that_there_are() {
    let mut names = BTreeSet::new();
    defined(Path::new("src"), &mut names);
    assert!(names.len() > 40, "{names:?}");
    assert_eq!(names, documented());
}

#[tokio::test]
async fn every_metric_of_a_scrape_is_documented_and_says_what_it_is() {
    let standalone = Standalone::start().await;
    let scrape = http_get(standalone.node.metrics(), "/metrics").await.unwrap();
    let words = |keyword: &str| -> BTreeSet<String> {
        let lines = scrape.lines().filter_map(|line| line.strip_prefix(keyword));
        lines.map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    };
    let (typed, described) = (words("# TYPE "), words("# HELP "));
    assert_eq!(typed, described);
    let ours: BTreeSet<_> = typed.into_iter().filter(|name| name.starts_with("muster_")).collect();
    assert!(ours.len() > 30, "{ours:?}");
    let unknown: Vec<_> = ours.difference(&documented()).cloned().collect();
    assert_eq!(unknown, [""; 0]);
}
