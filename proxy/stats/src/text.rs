//! The two text forms: Envoy's `/stats` and Prometheus' exposition format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::{Family, Kind, Sample, Value};

/// Envoy's bucket bounds for histograms in milliseconds.
const BOUNDS: &[u64] = &[
    1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000,
];
const QUANTILES: &[(f64, &str)] = &[
    (0.0, "P0"),
    (0.25, "P25"),
    (0.5, "P50"),
    (0.75, "P75"),
    (0.9, "P90"),
    (0.95, "P95"),
    (0.99, "P99"),
    (0.995, "P99.5"),
    (0.999, "P99.9"),
    (1.0, "P100"),
];

/// `name: value` lines, sorted by flat name, as Envoy's `/stats`. `keep` sees the flat name.
#[must_use]
pub fn render_text(samples: &[Sample], mut keep: impl FnMut(&str) -> bool) -> String {
    let mut lines = BTreeMap::new();
    for sample in samples {
        let name = sample.name.flat();
        if !keep(&name) {
            continue;
        }
        let value = match &sample.value {
            Value::Counter(value) => value.to_string(),
            Value::Gauge(value) => value.to_string(),
            Value::Histogram(snapshot) if snapshot.count() == 0 => "No recorded values".to_owned(),
            Value::Histogram(snapshot) => {
                let quantiles: Vec<String> =
                    QUANTILES.iter().map(|(q, label)| format!("{label}(nan,{})", snapshot.quantile(*q))).collect();
                quantiles.join(" ")
            }
        };
        lines.insert(name, value);
    }
    lines.iter().fold(String::new(), |mut out, (name, value)| {
        out.push_str(name);
        out.push_str(": ");
        out.push_str(value);
        out.push('\n');
        out
    })
}

/// Prometheus' text format: every family once, with its type.
#[must_use]
pub fn render_prometheus(samples: &[Sample], mut keep: impl FnMut(&str) -> bool) -> String {
    let mut out = String::new();
    for family in families(samples) {
        if !keep(&family.name) {
            continue;
        }
        render_family(&mut out, &family);
    }
    out
}

fn families(samples: &[Sample]) -> Vec<Family<'_>> {
    let mut families: BTreeMap<String, Family<'_>> = BTreeMap::new();
    for sample in samples {
        let kind = match sample.value {
            Value::Counter(_) => Kind::Counter,
            Value::Gauge(_) => Kind::Gauge,
            Value::Histogram(_) => Kind::Histogram,
        };
        let name = format!("envoy_{}", sanitize(&sample.name.family()));
        let family = families.entry(name.clone()).or_insert_with(|| Family { name, kind, samples: Vec::new() });
        // A family has one kind; a guest's metric that clashes is left out rather than making the page invalid.
        if family.kind == kind {
            family.samples.push(sample);
        }
    }
    families.into_values().collect()
}

fn render_family(out: &mut String, family: &Family<'_>) {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    push(out, format_args!("# TYPE {} {kind}\n", family.name));
    for sample in &family.samples {
        let labels = labels(sample.name.tags());
        match &sample.value {
            Value::Counter(value) => push(out, format_args!("{}{} {value}\n", family.name, braced(&labels))),
            Value::Gauge(value) => push(out, format_args!("{}{} {value}\n", family.name, braced(&labels))),
            Value::Histogram(snapshot) => {
                let separator = if labels.is_empty() { "" } else { "," };
                for bound in BOUNDS {
                    let count = snapshot.count_le(*bound);
                    push(out, format_args!("{}_bucket{{{labels}{separator}le=\"{bound}\"}} {count}\n", family.name));
                }
                let count = snapshot.count();
                push(out, format_args!("{}_bucket{{{labels}{separator}le=\"+Inf\"}} {count}\n", family.name));
                push(out, format_args!("{}_sum{} {}\n", family.name, braced(&labels), snapshot.sum()));
                push(out, format_args!("{}_count{} {count}\n", family.name, braced(&labels)));
            }
        }
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    _ = out.write_fmt(text);
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn labels(tags: &[(String, String)]) -> String {
    let label = |(key, value): &(String, String)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{}=\"{value}\"", sanitize(key))
    };
    tags.iter().map(label).collect::<Vec<_>>().join(",")
}

/// Only what Prometheus allows in a name.
fn sanitize(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Name, Registry};

    #[test]
    fn both_forms() {
        let registry = Registry::default();
        let total = registry.counter(&Name::new("cluster", "upstream_rq_total").tag("envoy_cluster_name", "a\"b"));
        total.add(7);
        let time = registry.histogram(&Name::new("http", "downstream_rq_time"));
        time.record(3);
        let samples = registry.samples();
        assert!(
            render_text(&samples, |_| true)
                .starts_with("cluster.a\"b.upstream_rq_total: 7\nhttp.downstream_rq_time: P0(")
        );
        let prometheus = render_prometheus(&samples, |_| true);
        assert!(prometheus.starts_with(
            "# TYPE envoy_cluster_upstream_rq_total counter\nenvoy_cluster_upstream_rq_total{envoy_cluster_name=\"a\\\"b\"} 7\n"
        ));
        assert!(prometheus.contains("envoy_http_downstream_rq_time_bucket{le=\"1\"} 0\n"));
        assert!(prometheus.contains("envoy_http_downstream_rq_time_bucket{le=\"5\"} 1\n"));
        assert!(prometheus.ends_with("envoy_http_downstream_rq_time_sum 3\nenvoy_http_downstream_rq_time_count 1\n"));
    }
}
