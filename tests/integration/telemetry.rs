//! What nodes send to a collector: processes of a gateway and of a config service, with Postgres and Redis between them.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    agent::{Agent, Fleet, fleet::Transport},
    cluster::Cluster,
    eventually,
    node::http_get,
    otlp::{Collector, Span, drawn, find},
    traces::{self, APPLY, GATEWAY, SERVICE},
};

async fn cluster(collector: &Collector, more: &[(&str, &str)]) -> Cluster {
    let url = collector.url();
    let environment = [("MUSTER_OTLP_ENDPOINT", &*url), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    Cluster::start_with(1, 1, &[&environment, more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_an_agents_message_to_the_database_and_back_with_an_offer() {
    let collector = Collector::start().await;
    let cluster = cluster(&collector, &[("MUSTER_TRACED_REPORTS", "100")]).await;
    cluster.ctl(0).apply("base", "service.name = web", "a.yaml", "one").await;
    // By then the policy is known to whoever decides, so that the offer is a part of the answer.
    cluster.ctl(0).run(&["rollout", "status", "base", "--wait", "--timeout", "1m"]).await;
    let fleet = Fleet::start_quiet(1, "web", cluster.opamp(), cluster.agent_token());
    fleet.all_run("a.yaml", "one").await;
    let uid = fleet.agents()[0].uid.to_string();

    let (spans, root) =
        collector.find("the trace of the agent's first report", |spans| traces::of_first_report(spans, &uid)).await;
    let trace: Vec<_> = spans.into_iter().filter(|span| span.trace == root.trace).collect();
    println!("{}", drawn(&trace));
    assert_eq!(root.parent, "", "the message begins the trace");
    assert!(trace.iter().all(|span| span.start >= root.start), "nothing is done for a message before it is here");
    assert_eq!(root.resource["service.version"], env!("CARGO_PKG_VERSION"));
    let instance = &root.resource["service.instance.id"];
    assert!(instance.starts_with("gateway-0-"), "{instance}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_an_operators_change_to_the_offers_that_it_leads_to() {
    let collector = Collector::start().await;
    // No report is traced, and every change is.
    let cluster = cluster(&collector, &[("MUSTER_TRACED_REPORTS", "0")]).await;
    let fleet = Fleet::start_quiet(3, "web", cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    cluster.ctl(0).all_agents(3, "known", |agent| agent["connected"] == true).await;
    cluster.ctl(0).apply("base", "service.name = web", "a.yaml", "one").await;
    fleet.all_run("a.yaml", "one").await;
    cluster.ctl(0).settled_agents(3).await;

    let (spans, root) = collector.find("the trace of the change", |spans| traces::of_change(spans, 3)).await;
    println!("{}", drawn(&spans.iter().filter(|span| span.trace == root.trace).cloned().collect::<Vec<_>>()));
    assert_eq!(root.parent, "");
    assert_eq!(root.attributes["rpc.response.status_code"], "0");
    let others = spans.iter().filter(|span| span.is(GATEWAY, "agent report") || span.is(SERVICE, "take report"));
    assert_eq!(others.count(), 0, "reports are not traced");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_an_operators_command_to_the_agents_that_are_sent_it() {
    let collector = Collector::start().await;
    let cluster = cluster(&collector, &[("MUSTER_TRACED_REPORTS", "0")]).await;
    let agents = (0..3).map(|index| Agent::new(index, "web").restarting()).collect();
    let day = Duration::from_secs(24 * 60 * 60);
    let fleet = Fleet::of(agents, Transport::WebSocket, day, cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    cluster.ctl(0).all_agents(3, "known", |agent| agent["connected"] == true).await;
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let ctl = cluster.ctl(0).env("TRACEPARENT", &format!("00-{trace}-{caller}-01"));
    let command = ctl.json(&["restart", "-l", "service.name = web"]).await;
    assert_eq!(command["sent"], 3, "{command}");
    assert_eq!(fleet.count(|seen| seen.restarts), 3);

    let (spans, root) = collector
        .find("the trace of the command", |spans| {
            let root = spans.iter().find(|span| span.is(SERVICE, "muster.admin.v1.Commands/Restart"))?;
            let brought = "bring command to agents";
            find(spans, SERVICE, brought, root, &[])?;
            find(spans, SERVICE, "claim_targets", root, &[brought])?;
            find(spans, SERVICE, "publish", root, &[brought])?;
            find(spans, GATEWAY, "send command", root, &[brought])?;
            let sends = spans.iter().filter(|span| span.is(GATEWAY, "send command") && span.trace == root.trace);
            let sent: u32 = sends.map(|span| span.attributes["muster.command.sent"].parse::<u32>().unwrap()).sum();
            (sent == 3).then(|| (spans.to_vec(), root.clone()))
        })
        .await;
    println!("{}", drawn(&spans));
    assert_eq!((&*root.trace, &*root.parent), (trace, caller), "it is part of the caller's trace");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_a_rollout_is_a_trace_that_refers_to_the_operators_change() {
    let collector = Collector::start().await;
    let cluster = cluster(&collector, &[("MUSTER_TRACED_REPORTS", "0")]).await;
    let fleet = Fleet::start_quiet(4, "web", cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    cluster.ctl(0).all_agents(4, "known", |agent| agent["connected"] == true).await;
    let manifest = "kind: Config\nname: base\nselector: service.name = web\nfiles: {a.yaml: {body: one}}\n\
                    rollout: {steps: [50%, 100%], bake: 0s, min_sample: 1}\n";
    cluster.ctl(0).apply_written(manifest).await;
    fleet.all_run("a.yaml", "one").await;
    cluster.ctl(0).run(&["rollout", "status", "base", "--wait", "--timeout", "1m"]).await;

    let (spans, steps) = collector
        .find("a trace of each step", |spans| {
            let root = traces::change(spans)?;
            let steps: Vec<_> = spans.iter().filter(|span| span.is(SERVICE, "rollout step")).cloned().collect();
            let brings = |step: &&Span| find(spans, GATEWAY, "send offers", step, &traces::TO_SHARD).is_some();
            assert!(steps.iter().all(|step| step.parent.is_empty() && step.links == [root.id.as_str()]), "{steps:?}");
            let is_done = steps.iter().any(|step| step.attributes["muster.rollout.state"] == "SUCCEEDED");
            (is_done && steps.iter().filter(brings).count() == 2).then(|| (spans.to_vec(), steps))
        })
        .await;
    println!("{}", drawn(&spans));
    for step in steps {
        assert_eq!((&*step.attributes["muster.policy"], &*step.attributes["muster.policy.revision"]), ("base", "1"));
        assert!(find(&spans, SERVICE, "write_rollout", &step, &[]).is_some(), "{step:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_decides_whether_and_as_part_of_what_it_is_traced() {
    let collector = Collector::start().await;
    let all = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url()), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let more = [("OTEL_SERVICE_NAME", "named"), ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")];
    let cluster = Cluster::start_with(1, 1, &[all, more].concat()).await;
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let apply = |flags: &str, name: &str| {
        let ctl = cluster.ctl(0).env("TRACEPARENT", &format!("00-{trace}-{caller}-{flags}"));
        let name = name.to_owned();
        async move { ctl.apply(&name, "service.name = web", "a.yaml", "one").await }
    };
    apply("00", "unseen").await;
    apply("01", "seen").await;
    let calls = collector
        .find("the change as a part of its caller's trace", |spans| {
            let calls: Vec<_> = spans.iter().filter(|span| span.name == APPLY).cloned().collect();
            (!calls.is_empty()).then_some(calls)
        })
        .await;
    assert_eq!(calls.len(), 1, "nothing of the trace that is not recorded: {calls:?}");
    for span in calls {
        assert_eq!((&*span.trace, &*span.parent), (trace, caller));
        assert_eq!(span.service(), "named");
        assert_eq!(span.resource["deployment.environment.name"], "test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_sent_under_the_names_that_a_scrape_shows() {
    let collector = Collector::start().await;
    let more = [
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-test"),
    ];
    let cluster = cluster(&collector, &more).await;
    let fleet = Fleet::start_quiet(3, "web", cluster.opamp(), cluster.agent_token());
    fleet.all_connected().await;
    cluster.ctl(0).all_agents(3, "known", |agent| agent["connected"] == true).await;
    cluster.ctl(0).apply("base", "service.name = web", "a.yaml", "one").await;
    fleet.all_run("a.yaml", "one").await;
    cluster.ctl(0).settled_agents(3).await;

    let applied = [("kind", "Config"), ("state", "applied")];
    let expected = [
        (GATEWAY, "muster_gateway_agents", "gauge", &[][..], 3.0),
        (SERVICE, "muster_config_offers_answered_total", "counter", &applied, 3.0),
        // Each agent took the change up, and none is left to do it.
        (SERVICE, "muster_config_convergence_seconds", "histogram", &[], 3.0),
        (SERVICE, "muster_config_agents_behind", "gauge", &[], 0.0),
    ];
    for (service, name, kind, attributes, value) in expected {
        eventually(&format!("{name} of the {service} is {value}"), async || {
            let points = collector.points();
            let found = points.iter().find(|point| {
                let has = |(key, value): &(&str, &str)| point.attributes.get(*key).is_some_and(|own| own == value);
                point.service == service && point.name == name && attributes.iter().all(has)
            })?;
            assert_eq!((found.kind, found.attributes.len()), (kind, attributes.len()));
            (found.value == value).then_some(())
        })
        .await;
    }

    for (node, service) in [(&cluster.gateways[0], GATEWAY), (&cluster.services[0], SERVICE)] {
        let scrape = http_get(node.metrics(), "/metrics").await.unwrap();
        let scraped = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let scraped: BTreeSet<String> = scraped.map(str::to_owned).collect();
        eventually(&format!("all that a scrape of the {service} shows is sent"), async || {
            let points = collector.points().into_iter().filter(|point| point.service == service);
            let sent: BTreeSet<String> = points.map(|point| point.name).collect();
            scraped.is_subset(&sent).then_some(())
        })
        .await;
    }
    let per_agent = cluster.gateways[0].metric("muster_gateway_resident_bytes_per_agent").await.unwrap();
    let resident = cluster.gateways[0].metric("process_resident_memory_bytes").await.unwrap();
    assert!(per_agent > 0.0 && per_agent < resident, "{per_agent} of {resident}");
    assert!(collector.headers().iter().all(|headers| headers["authorization"] == "Bearer of-the-test"));
    assert_eq!(collector.spans().len(), 0, "traces are off");
}
