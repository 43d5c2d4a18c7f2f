//! Reads Prometheus's text format, as far as this process writes it: what is sent by OTLP is what a scrape shows, and costs nothing
//! where it is counted.

use std::collections::BTreeMap;

/// All of one name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Family {
    pub name: String,
    pub help: String,
    pub kind: Kind,
    /// In the order of the text, for each set of labels one.
    pub series: Vec<Series>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    Counter,
    #[default]
    Gauge,
    Histogram,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    pub labels: Labels,
    /// Of a counter or a gauge; of a histogram the sum of what was recorded.
    pub value: f64,
    /// Of a histogram: upper bounds, and how much was recorded up to each; the last bound is infinite.
    pub buckets: Vec<(f64, f64)>,
}

pub type Labels = BTreeMap<String, String>;

/// Lines that cannot be read are left out.
pub fn read(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(word), Some(name)) = (words.next(), words.next()) else { continue };
            let rest = words.next().unwrap_or_default();
            match word {
                "HELP" => family(&mut families, name).help = unescaped(rest),
                "TYPE" => {
                    family(&mut families, name).kind = match rest {
                        "counter" => Kind::Counter,
                        "histogram" => Kind::Histogram,
                        _ => Kind::Gauge,
                    }
                }
                _ => {}
            }
        } else if let Some((name, labels, value)) = sample(line)
            && let Some(family) = families.last_mut()
        {
            family.add(name, labels, value);
        }
    }
    families
}

/// The text has all of one name together.
fn family<'a>(families: &'a mut Vec<Family>, name: &str) -> &'a mut Family {
    if families.last().is_none_or(|last| last.name != name) {
        families.push(Family { name: name.to_owned(), ..Family::default() });
    }
    let last = families.len() - 1;
    &mut families[last]
}

impl Family {
    fn add(&mut self, name: &str, mut labels: Labels, value: f64) {
        let bound = labels.remove("le").and_then(|bound| number(&bound));
        let Some(suffix) = name.strip_prefix(&*self.name) else { return };
        let place = self.series.iter().position(|series| series.labels == labels).unwrap_or_else(|| {
            self.series.push(Series { labels, ..Series::default() });
            self.series.len() - 1
        });
        let series = &mut self.series[place];
        match (self.kind, suffix, bound) {
            (Kind::Histogram, "_bucket", Some(bound)) => series.buckets.push((bound, value)),
            (Kind::Histogram, "_sum", None) | (Kind::Counter | Kind::Gauge, "", None) => series.value = value,
            _ => {}
        }
    }
}

fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    Some((name, labels, number(rest.trim())?))
}

fn number(text: &str) -> Option<f64> {
    // `+Inf` and `NaN` are numbers to Rust, too.
    text.parse().ok()
}

/// Labels, from behind the brace that opens them, and what is behind the one that closes them.
fn labels(mut text: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let mut is_escaped = false;
        let end = rest.find(|c| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        })?;
        labels.insert(name.to_owned(), unescaped(&rest[..end]));
        text = &rest[end + 1..];
    }
}

fn unescaped(text: &str) -> String {
    let (mut plain, mut characters) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = characters.next() {
        match (c, c == '\\') {
            (_, true) => match characters.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => plain.push(c),
            },
            _ => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use metrics::{Label, with_local_recorder};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    proptest! {
        /// What the recorder writes is read as it was recorded, whatever is in a label. (It takes a backslash in front of a quote
        /// for an escape, so that one cannot be told from a quote alone.)
        #[test]
        fn what_was_recorded_is_read(value in r"[^\\]*", count in 1..1_000_u64, size in -1e9..1e9, durations: Vec<f32>) {
            let recorder = PrometheusBuilder::new().set_buckets(&[0.1, 1.0, 10.0]).unwrap().build_recorder();
            with_local_recorder(&recorder, || {
                metrics::describe_counter!("things_total", "Things, as they are.");
                metrics::counter!("things_total", vec![Label::new("kind", value.clone())]).increment(count);
                metrics::counter!("things_total", "kind" => "another one", "more" => "").increment(1);
                metrics::gauge!("size_bytes").set(size);
                metrics::histogram!("took_seconds", "what" => "all").record(0.5);
                for duration in &durations {
                    metrics::histogram!("took_seconds", "what" => "all").record(f64::from(duration.abs().min(1e6)));
                }
            });
            let families = read(&recorder.handle().render());
            let family = |name: &str| families.iter().find(|family| family.name == name).unwrap();
            let things = family("things_total");
            prop_assert_eq!((things.kind, &*things.help), (Kind::Counter, "Things, as they are."));
            let known = |series: &&Series| series.value == count as f64 && series.labels.len() == 1;
            let series = things.series.iter().find(known).unwrap();
            prop_assert_eq!(&series.labels["kind"], &value);
            prop_assert_eq!((family("size_bytes").kind, family("size_bytes").series[0].value), (Kind::Gauge, size));
            let took = family("took_seconds");
            prop_assert_eq!((took.kind, &took.series[0].labels), (Kind::Histogram, &labels(&[("what", "all")])));
            let buckets = &took.series[0].buckets;
            let bounds: Vec<f64> = buckets.iter().map(|(bound, _)| *bound).collect();
            prop_assert_eq!(bounds, vec![0.1, 1.0, 10.0, f64::INFINITY]);
            prop_assert_eq!(buckets[3].1, durations.len() as f64 + 1.0);
        }

        #[test]
        fn any_text_can_be_read(text: String) {
            read(&text);
        }
    }

    #[test]
    fn quotes_and_line_ends_are_part_of_a_label() {
        let text = "# TYPE a counter\na{b=\"\\\"c\\\\\\n,}\",d=\"\"} 3\nnonsense\na{b=\"open} 4\n";
        let [family] = &read(text)[..] else { panic!() };
        assert_eq!(family.series.len(), 1);
        assert_eq!(family.series[0].labels, labels(&[("b", "\"c\\\n,}"), ("d", "")]));
    }
}
