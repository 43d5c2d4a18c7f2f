//! Programs that revisions have to pass: a collector.

use crate::support::{client::installed, standalone::Standalone};

const GOOD: &str = "receivers: {otlp: {protocols: {grpc: {endpoint: \"127.0.0.1:0\"}}}}\nexporters: {debug: {}}\n\
    service: {pipelines: {traces: {receivers: [otlp], exporters: [debug]}}}\n";
const BAD: &str = "receivers: {unheard-of: {}}\nexporters: {debug: {}}\n\
    service: {pipelines: {traces: {receivers: [unheard-of], exporters: [debug]}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_refuses_what_it_could_not_run() {
    let Some(collector) = installed("collector", "collector/collector") else { return };
    let command = format!("{} validate --config={{yaml}}", collector.display());
    let server = Standalone::start_with(&["--validate-config", &command]).await;
    let ctl = server.ctl();
    let refused = ctl.try_apply("base", "service.name = web", "collector.yaml", BAD).await;
    assert!(!refused.succeeded);
    assert!(refused.stderr.contains("policy base: the validator refused it (exit code 1)"), "{}", refused.stderr);
    assert!(refused.stderr.contains("unheard-of"), "{}", refused.stderr);
    assert!(!ctl.try_run(&["get", "policy", "base"]).await.succeeded, "nothing is written");
    ctl.apply("base", "service.name = web", "collector.yaml", GOOD).await;
    // Two files are put together, as a supervisor does.
    ctl.write("a.yaml", GOOD);
    ctl.write("b.yaml", "receivers: {otlp: {protocols: {http: {endpoint: \"127.0.0.1:0\"}}}}\n");
    let manifest = "kind: Config\nname: two\nselector: service.name = db\nfiles:\n  \
        a.yaml: {content_type: text/yaml, path: ./a.yaml}\n  b.yaml: {content_type: text/yaml, path: ./b.yaml}\n";
    ctl.apply_written(manifest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_there_stops_the_start() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_muster"));
    let folder = tempfile::tempdir().unwrap();
    let output = command
        .args(["standalone", "--opamp-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--metrics-listen", "127.0.0.1:0", "--validate-config", "no-such-validator {file}", "--data-dir"])
        .arg(folder.path().join("data"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("\"no-such-validator\" is not there"), "{said}");
}
