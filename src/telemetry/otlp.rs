//! Sending spans and metrics to a collector: OTLP over HTTP, in protobuf. Besides the settings, OpenTelemetry's own variables
//! (`OTEL_…`) count, as the SDK documents them.

use std::{sync::Arc, time::Duration};

use opentelemetry::{KeyValue, global::BoxedTracer, trace::TracerProvider};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};

use tokio::task::AbortHandle;

use super::{
    http::{self, Client},
    metrics::Metrics,
    otlp_metrics::{self, Sender},
};

/// How long the end of the process waits for what is not sent yet.
const LAST_SENDING: Duration = Duration::from_secs(3);

/// How often metrics are sent.
const METRICS_INTERVAL: Duration = Duration::from_secs(60);

/// What is sent, and where to.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The collector's address without a path, such as `http://collector:4318`; `None` for that of the environment.
    pub endpoint: Option<String>,
    pub sends_traces: bool,
    pub sends_metrics: bool,
    /// Which part of agents' reports is traced, from 0 to 1.
    pub traced_reports: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{name}={value}: only {supported} is supported")]
    Unsupported { name: &'static str, value: String, supported: &'static str },
    #[error("OTLP endpoint: {0}")]
    Endpoint(String),
    #[error("{name}={value} is not a number of milliseconds")]
    Milliseconds { name: &'static str, value: String },
    #[error(transparent)]
    Client(#[from] http::Error),
}

/// Sends what is recorded until [`Self::finish`].
#[derive(Default)]
pub struct Otlp {
    tracers: Option<SdkTracerProvider>,
    metrics: Option<(Arc<Sender>, AbortHandle)>,
}

/// Starts sending, if there is somewhere to send to. `service` names the process's role, `node` the process. To be called in
/// the runtime that is to send.
pub fn start(config: &Config, service: &'static str, node: &str, metrics: &Metrics) -> Result<Otlp, Error> {
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(Otlp::default());
    }
    let target = |signal, is_wanted: bool| {
        let target = target(config.endpoint.as_deref(), signal, variable).filter(|_| is_wanted);
        target.is_some().then(|| check_protocol(signal, variable)).transpose()?;
        Ok::<_, Error>(target)
    };
    let (traces, numbers) = (target(TRACES, config.sends_traces)?, target(METRICS, config.sends_metrics)?);
    if traces.is_none() && numbers.is_none() {
        return Ok(Otlp::default());
    }
    let client = Client::new(milliseconds("OTEL_EXPORTER_OTLP_TIMEOUT", variable)?)?;
    let resource = resource(service, node);
    let mut otlp = Otlp::default();
    if let Some(target) = numbers {
        let sender = Arc::new(sender(client.clone(), &target, &resource, metrics)?);
        let running = sender.clone();
        let task = tokio::spawn(async move { running.run().await }).abort_handle();
        tracing::info!(endpoint = target, "metrics are sent");
        otlp.metrics = Some((sender, task));
    }
    if let Some(target) = traces {
        let tracers = tracers(client, &target, resource)?;
        let tracer = BoxedTracer::new(Box::new(tracers.tracer("muster")));
        crate::trace::install(tracer, reports(config, variable));
        tracing::info!(endpoint = target, "traces are sent");
        otlp.tracers = Some(tracers);
    }
    Ok(otlp)
}

fn tracers(client: Client, target: &str, resource: Resource) -> Result<SdkTracerProvider, Error> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(target)
        .build()
        .map_err(|error| Error::Endpoint(error.to_string()))?;
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

fn sender(client: Client, target: &str, resource: &Resource, metrics: &Metrics) -> Result<Sender, Error> {
    let mut headers = otlp_metrics::headers(&variable("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default());
    headers.extend(otlp_metrics::headers(&variable("OTEL_EXPORTER_OTLP_METRICS_HEADERS").unwrap_or_default()));
    Ok(Sender {
        client,
        target: target.parse().map_err(|error| Error::Endpoint(format!("{target}: {error}")))?,
        headers,
        resource: resource.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        metrics: metrics.clone(),
        interval: milliseconds("OTEL_METRIC_EXPORT_INTERVAL", variable)?.unwrap_or(METRICS_INTERVAL),
    })
}

impl Otlp {
    /// Sends what is left.
    pub async fn finish(self) {
        if let Some((sender, task)) = self.metrics {
            task.abort();
            let _ = tokio::time::timeout(LAST_SENDING, sender.send()).await;
        }
        let Some(tracers) = self.tracers else { return };
        let sent = tokio::task::spawn_blocking(move || tracers.shutdown_with_timeout(LAST_SENDING)).await;
        if let Ok(Err(error)) = sent {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

/// What can be sent, by the names that it has in variables and in the path.
#[derive(Clone, Copy, Debug)]
struct Signal {
    endpoint_variable: &'static str,
    exporter_variable: &'static str,
    protocol_variable: &'static str,
    path: &'static str,
}

const TRACES: Signal = Signal {
    endpoint_variable: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    exporter_variable: "OTEL_TRACES_EXPORTER",
    protocol_variable: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    path: "v1/traces",
};
const METRICS: Signal = Signal {
    endpoint_variable: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    exporter_variable: "OTEL_METRICS_EXPORTER",
    protocol_variable: "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
    path: "v1/metrics",
};

fn milliseconds(name: &'static str, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Duration>, Error> {
    let read = |value: String| match value.parse() {
        Ok(number @ 1..) => Ok(Duration::from_millis(number)),
        _ => Err(Error::Milliseconds { name, value }),
    };
    variable(name).map(read).transpose()
}

/// A variable that is not empty: OpenTelemetry takes an empty one as none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where a signal is sent to, if anywhere: the setting wins over the signal's variable, that over the one for all.
fn target(endpoint: Option<&str>, signal: Signal, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    if variable(signal.exporter_variable).is_some_and(|value| value == "none") {
        return None;
    }
    let whole = |base: &str| format!("{}/{}", base.trim_end_matches('/'), signal.path);
    endpoint
        .map(whole)
        .or_else(|| variable(signal.endpoint_variable))
        .or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| whole(&base)))
}

fn check_protocol(signal: Signal, variable: impl Fn(&str) -> Option<String>) -> Result<(), Error> {
    for name in [signal.protocol_variable, "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        match variable(name) {
            Some(value) if value == "http/protobuf" => return Ok(()),
            Some(value) => return Err(Error::Unsupported { name, value, supported: "http/protobuf" }),
            None => {}
        }
    }
    Ok(())
}

/// Which part of agents' reports is traced. Who says `OTEL_TRACES_SAMPLER` has the SDK decide, of all traces alike.
fn reports(config: &Config, variable: impl Fn(&str) -> Option<String>) -> f64 {
    if variable("OTEL_TRACES_SAMPLER").is_some() { 1.0 } else { config.traced_reports }
}

/// Who sends. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win.
fn resource(service: &'static str, node: &str) -> Resource {
    let own = Resource::builder_empty().with_attributes([
        KeyValue::new("service.name", service),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", node.to_owned()),
    ]);
    let given = Resource::builder().build();
    let is_named = |key: &str| key != "service.name" || is_service_named(variable);
    let given = given.iter().filter(|(key, _)| is_named(key.as_str()));
    own.with_attributes(given.map(|(key, value)| KeyValue::new(key.clone(), value.clone()))).build()
}

fn is_service_named(variable: impl Fn(&str) -> Option<String>) -> bool {
    let attributes = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let names_it = |pair: &str| pair.trim_start().starts_with("service.name=");
    variable("OTEL_SERVICE_NAME").is_some() || attributes.split(',').any(names_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
    }

    #[test]
    fn the_setting_wins_over_the_signals_variable_and_that_over_the_one_for_all() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:4318/as/it/is");
        let off = ("OTEL_TRACES_EXPORTER", "none");
        let target = |endpoint, variables: &[(&str, &str)]| target(endpoint, TRACES, environment(variables));
        assert_eq!(target(None, &[]), None);
        assert_eq!(target(None, &[all]).unwrap(), "http://all:4318/v1/traces");
        assert_eq!(target(None, &[all, own]).unwrap(), "http://own:4318/as/it/is");
        assert_eq!(target(Some("http://set:1"), &[all, own]).unwrap(), "http://set:1/v1/traces");
        assert_eq!(target(Some("http://set:1"), &[off]), None);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let check = |variables: &[(&str, &str)]| check_protocol(TRACES, environment(variables));
        assert!(check(&[]).is_ok() && check(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).is_ok());
        let error = check(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap_err().to_string();
        assert_eq!(error, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: only http/protobuf is supported");
    }

    #[test]
    fn times_are_milliseconds() {
        let read = |value: &'static str| milliseconds("A", move |_| Some(value.to_owned()));
        assert_eq!(read("250").unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(milliseconds("A", |_| None).unwrap(), None);
        for bad in ["0", "1s", "-1"] {
            let error = read(bad).unwrap_err().to_string();
            assert_eq!(error, format!("A={bad} is not a number of milliseconds"));
        }
    }

    #[test]
    fn who_names_a_sampler_has_it_decide() {
        let config = Config { endpoint: None, sends_traces: true, sends_metrics: true, traced_reports: 0.25 };
        assert_eq!(reports(&config, environment(&[])), 0.25);
        assert_eq!(reports(&config, environment(&[("OTEL_TRACES_SAMPLER", "traceidratio")])), 1.0);
    }

    #[test]
    fn the_service_is_named_by_whoever_says_so() {
        assert!(!is_service_named(environment(&[("OTEL_RESOURCE_ATTRIBUTES", "host.name=a")])));
        assert!(is_service_named(environment(&[("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=c")])));
        assert!(is_service_named(environment(&[("OTEL_SERVICE_NAME", "c")])));
    }
}
