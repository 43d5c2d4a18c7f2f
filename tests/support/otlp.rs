//! A collector that keeps what it is sent: OTLP over HTTP, in protobuf.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{HistogramDataPoint, NumberDataPoint, metric::Data, number_data_point},
    trace::v1::Status,
};
use parking_lot::Mutex;
use prost::Message;
use tokio::{net::TcpListener, task::AbortHandle};

use super::eventually;

/// One span, as it came.
#[derive(Clone, Debug)]
pub struct Span {
    pub resource: BTreeMap<String, String>,
    pub trace: String,
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    pub name: String,
    pub attributes: BTreeMap<String, String>,
    pub start: u64,
    pub end: u64,
    /// Spans that it refers to.
    pub links: Vec<String>,
    pub status: Option<Status>,
}

impl Span {
    pub fn service(&self) -> &str {
        &self.resource["service.name"]
    }

    pub fn is(&self, service: &str, name: &str) -> bool {
        self.service() == service && self.name == name
    }
}

/// One set of attributes of a metric.
#[derive(Clone, Debug)]
pub struct Point {
    pub service: String,
    pub name: String,
    pub kind: &'static str,
    pub attributes: BTreeMap<String, String>,
    /// Of a histogram, how many.
    pub value: f64,
}

#[derive(Default)]
struct Kept {
    spans: Vec<Span>,
    /// As each service sent them last.
    points: BTreeMap<String, Vec<Point>>,
    headers: Vec<HeaderMap>,
}

pub struct Collector {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    server: AbortHandle,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Arc::<Mutex<Kept>>::default();
        let router = Router::new()
            .route("/v1/traces", post(take_spans))
            .route("/v1/metrics", post(take_metrics))
            .with_state(kept.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }).abort_handle();
        Self { address, kept, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.kept.lock().spans.clone()
    }

    /// The last of each metric.
    pub fn points(&self) -> Vec<Point> {
        self.kept.lock().points.values().flatten().cloned().collect()
    }

    /// Those of the requests with metrics.
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.kept.lock().headers.clone()
    }

    /// Waits until this finds what it wants among the spans.
    pub async fn find<T>(&self, what: &str, look: impl Fn(&[Span]) -> Option<T>) -> T {
        let mut shown = usize::MAX;
        eventually(what, async || {
            let spans = self.spans();
            let found = look(&spans);
            if found.is_none() && shown != spans.len() {
                shown = spans.len();
                println!("{what}: not among {shown} spans:{}", drawn(&spans));
            }
            found
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The span's own parent, its parent's, and so on.
fn above<'a>(spans: &'a [Span], span: &'a Span) -> Vec<&'a Span> {
    let parent = |span: &&Span| spans.iter().find(|other| other.id == span.parent);
    std::iter::successors(parent(&span), parent).collect()
}

/// A span of this kind below another, with nothing but `between` in between.
pub fn find<'a>(spans: &'a [Span], service: &str, name: &str, root: &Span, between: &[&str]) -> Option<&'a Span> {
    spans.iter().filter(|span| span.is(service, name) && span.trace == root.trace).find(|span| {
        let above = above(spans, span);
        let names: Vec<&str> = above.iter().rev().map(|span| &*span.name).collect();
        above.last().is_some_and(|last| last.id == root.id) && names[1..] == *between
    })
}

/// Spans as trees, for people.
pub fn drawn(spans: &[Span]) -> String {
    let is_here = |id: &str| spans.iter().any(|span| span.id == id);
    let roots = spans.iter().filter(|span| !is_here(&span.parent));
    roots.map(|root| below(root, spans, 1)).collect()
}

fn below(span: &Span, spans: &[Span], depth: usize) -> String {
    let line = format!("\n{}{} {} {:?}", "  ".repeat(depth), span.service(), span.name, span.attributes);
    let children = spans.iter().filter(|child| child.parent == span.id);
    line + &children.map(|child| below(child, spans, depth + 1)).collect::<String>()
}

async fn take_spans(State(kept): State<Arc<Mutex<Kept>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    for group in request.resource_spans {
        let resource = texts(&group.resource.unwrap_or_default().attributes);
        for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            kept.lock().spans.push(Span {
                resource: resource.clone(),
                trace: hex::encode(&span.trace_id),
                id: hex::encode(&span.span_id),
                parent: hex::encode(&span.parent_span_id),
                attributes: texts(&span.attributes),
                name: span.name,
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                links: span.links.iter().map(|link| hex::encode(&link.span_id)).collect(),
                status: span.status,
            });
        }
    }
    StatusCode::OK
}

async fn take_metrics(State(kept): State<Arc<Mutex<Kept>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Ok(request) = ExportMetricsServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    kept.lock().headers.push(headers);
    for group in request.resource_metrics {
        let service = texts(&group.resource.unwrap_or_default().attributes)["service.name"].clone();
        let mut points = Vec::new();
        for metric in group.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            let (kind, values): (_, Vec<_>) = match metric.data.unwrap() {
                Data::Gauge(gauge) => ("gauge", gauge.data_points.into_iter().map(number).collect()),
                Data::Sum(sum) if sum.is_monotonic => ("counter", sum.data_points.into_iter().map(number).collect()),
                Data::Histogram(histogram) => {
                    let count = |point: HistogramDataPoint| {
                        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                        (point.attributes, point.count as f64)
                    };
                    ("histogram", histogram.data_points.into_iter().map(count).collect())
                }
                other => panic!("unexpected: {other:?}"),
            };
            points.extend(values.into_iter().map(|(attributes, value)| Point {
                service: service.clone(),
                name: metric.name.clone(),
                kind,
                attributes: texts(&attributes),
                value,
            }));
        }
        kept.lock().points.insert(service, points);
    }
    StatusCode::OK
}

fn number(point: NumberDataPoint) -> (Vec<KeyValue>, f64) {
    assert!(point.start_time_unix_nano > 0 && point.start_time_unix_nano < point.time_unix_nano);
    let Some(number_data_point::Value::AsDouble(value)) = point.value else { panic!("no number: {point:?}") };
    (point.attributes, value)
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(value) => Some(value.to_string()),
        other => Some(format!("{other:?}")),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute).unwrap_or_default())).collect()
}
