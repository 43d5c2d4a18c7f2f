//! Traces and metrics as the OpenTelemetry Collector takes them, and passes them on.

use std::collections::BTreeSet;

use crate::support::{
    agent::Fleet,
    cluster::Cluster,
    collector::{Collector, Port},
    eventually,
    otlp::{self, drawn},
    traces::{self, GATEWAY, SERVICE},
};

const AGENTS: u32 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_takes_traces_over_all_processes_and_their_metrics() {
    let sink = otlp::Collector::start().await;
    let port = Port::free();
    let Some(mut collector) = Collector::start(&port.otlp_relay(&sink.url())) else { return };
    eventually("the collector takes what comes", async || port.listens().await.then_some(())).await;
    let environment = [
        ("MUSTER_OTLP_ENDPOINT", &*format!("http://{port}")),
        ("MUSTER_TRACED_REPORTS", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
    ];
    let cluster = Cluster::start_with(1, 2, &environment).await;
    let fleet = Fleet::start_quiet(AGENTS as usize, "web", cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    let ctl = cluster.ctl(0);
    ctl.all_agents(fleet.len(), "known", |agent| agent["connected"] == true).await;
    ctl.apply("base", "service.name = web", "a.yaml", "one").await;
    fleet.all_run("a.yaml", "one").await;

    let (spans, change) = sink.find("the trace of the change", |spans| traces::of_change(spans, AGENTS)).await;
    let trace: Vec<_> = spans.into_iter().filter(|span| span.trace == change.trace).collect();
    println!("{}", drawn(&trace));
    let nodes: BTreeSet<_> = trace.iter().map(|span| &span.resource["service.instance.id"]).collect();
    assert_eq!(nodes.len(), 3, "both replicas bring it to their agents: {nodes:?}");

    let late = Fleet::start_quiet(1, "web", cluster.opamp(), cluster.agent_token());
    late.all_run("a.yaml", "one").await;
    let uid = late.agents()[0].uid.to_string();
    let (spans, report) =
        sink.find("the trace of a newcomer's report", |spans| traces::of_first_report(spans, &uid)).await;
    println!("{}", drawn(&spans.into_iter().filter(|span| span.trace == report.trace).collect::<Vec<_>>()));

    let expected = [(GATEWAY, "muster_gateway_agents"), (SERVICE, "muster_config_convergence_seconds")];
    for (service, name) in expected {
        eventually(&format!("{name} of a {service}"), async || {
            let points = sink.points();
            points.iter().any(|point| point.service == service && point.name == name && point.value > 0.0).then_some(())
        })
        .await;
    }
    collector.stop().await;
}
