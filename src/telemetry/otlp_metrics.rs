//! The process's metrics by OTLP: every so often what a scrape would show, under the same names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use prost::Message;

use super::{
    exposition::{self, Family, Kind, Labels, Series},
    http::Client,
    metrics::Metrics,
};

/// Sends metrics to one collector.
pub struct Sender {
    pub client: Client,
    pub target: http::Uri,
    pub headers: HeaderMap,
    /// Who sends: keys and values.
    pub resource: Vec<(String, String)>,
    pub metrics: Metrics,
    pub interval: Duration,
}

impl Sender {
    /// Never ends.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first is at once, and there is nothing to tell.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.send().await;
        }
    }

    /// Failures are logged by the client; what was counted is sent again with the next.
    pub async fn send(&self) {
        let started = self.metrics.started_unix_nano();
        let metrics = metrics(&exposition::read(&self.metrics.render()), started, unix_nano());
        let scope =
            InstrumentationScope { name: "muster".to_owned(), version: version().to_owned(), ..Default::default() };
        let resource = self.resource.iter().map(|(key, value)| attribute(key, value)).collect();
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(Resource { attributes: resource, ..Default::default() }),
                scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, ..Default::default() }],
                ..Default::default()
            }],
        };
        let _ = self.post(request.encode_to_vec().into()).await;
    }

    async fn post(&self, body: Bytes) -> Result<(), HttpError> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        self.client.send_bytes(request).await.map(drop)
    }
}

/// `key=value` with commas in between, values encoded as in URLs.
pub fn headers(text: &str) -> HeaderMap {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((key.trim().parse::<HeaderName>().ok()?, HeaderValue::from_str(&value).ok()?))
    };
    text.split(',').filter_map(pair).collect()
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn unix_nano() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn metrics(families: &[Family], started: u64, now: u64) -> Vec<Metric> {
    let cumulative = AggregationTemporality::Cumulative as i32;
    let metric = |family: &Family| {
        let numbers = || family.series.iter().map(|series| number(series, started, now)).collect();
        let data = match family.kind {
            Kind::Gauge => Data::Gauge(Gauge { data_points: numbers() }),
            Kind::Counter => {
                Data::Sum(Sum { data_points: numbers(), aggregation_temporality: cumulative, is_monotonic: true })
            }
            Kind::Histogram => {
                let data_points = family.series.iter().map(|series| histogram(series, started, now)).collect();
                Data::Histogram(Histogram { data_points, aggregation_temporality: cumulative })
            }
        };
        let (name, description) = (family.name.clone(), family.help.clone());
        Metric { name, description, unit: unit(&family.name).to_owned(), data: Some(data), ..Default::default() }
    };
    families.iter().map(metric).collect()
}

/// By the name, which says it.
fn unit(name: &str) -> &'static str {
    match name.trim_end_matches("_total") {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") || name.ends_with("_bytes_per_agent") => "By",
        _ => "1",
    }
}

fn number(series: &Series, started: u64, now: u64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(&series.labels),
        start_time_unix_nano: started,
        time_unix_nano: now,
        value: Some(number_data_point::Value::AsDouble(series.value)),
        ..Default::default()
    }
}

/// Prometheus counts in each bucket what is in those below, too; OTLP does not.
fn histogram(series: &Series, started: u64, now: u64) -> HistogramDataPoint {
    let mut below = 0.0;
    let mut counts = Vec::with_capacity(series.buckets.len());
    for (_, up_to) in &series.buckets {
        counts.push((up_to - below).max(0.0) as u64);
        below = *up_to;
    }
    HistogramDataPoint {
        attributes: attributes(&series.labels),
        start_time_unix_nano: started,
        time_unix_nano: now,
        count: counts.iter().sum(),
        sum: Some(series.value),
        bucket_counts: counts,
        explicit_bounds: series.buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect(),
        ..Default::default()
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(key, value)| attribute(key, value)).collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_told_apart() {
        let text = "# TYPE a_seconds histogram\na_seconds_bucket{le=\"0.1\"} 1\na_seconds_bucket{le=\"1\"} 4\n\
                    a_seconds_bucket{le=\"+Inf\"} 5\na_seconds_sum 7.5\na_seconds_count 5\n";
        let metrics = metrics(&exposition::read(text), 1, 2);
        assert_eq!((metrics.len(), &*metrics[0].unit), (1, "s"));
        let Some(Data::Histogram(histogram)) = &metrics[0].data else { panic!("{metrics:?}") };
        let [point] = &histogram.data_points[..] else { panic!("{metrics:?}") };
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[1, 3, 1][..], &[0.1, 1.0][..]));
        assert_eq!((point.count, point.sum), (5, Some(7.5)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
    }

    #[test]
    fn headers_are_as_in_urls() {
        let headers = headers("authorization=Bearer%20abc, x-scope=a=b,nonsense,=c");
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["authorization"], "Bearer abc");
        assert_eq!(headers["x-scope"], "a=b");
    }
}
