//! `/stats`: Envoy's text and JSON, and Prometheus' form.

use outrigger_stats::{Sample, Value, render_prometheus, render_text};
use regex::Regex;
use serde_json::json;

use super::reply::{PROMETHEUS, Reply};
use super::request::Asked;

/// A filter's compiled size; a regular expression of an operator is no attack, but may be a mistake.
const REGEX_BYTES_MAX: usize = 1 << 20;
const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// What of the metrics is asked for, and in which form.
pub(crate) fn answer(asked: &Asked, mut samples: Vec<Sample>) -> Reply {
    let filter = match asked.value("filter").map(compile).transpose() {
        Ok(filter) => filter,
        Err(error) => return Reply::text(400, format!("Invalid regex: \"{error}\"\n")),
    };
    if asked.has("usedonly") {
        samples.retain(is_used);
    }
    let keep = |name: &str| filter.as_ref().is_none_or(|filter| filter.is_match(name));
    let format = if asked.path == "/stats/prometheus" { Some("prometheus") } else { asked.value("format") };
    match format {
        Some("prometheus") => {
            samples.retain(|sample| keep(&sample.name.flat()));
            Reply::typed(200, PROMETHEUS, render_prometheus(&samples, |_| true))
        }
        Some("json") => {
            samples.retain(|sample| keep(&sample.name.flat()));
            Reply::json(&to_json(&samples))
        }
        Some("text") | None => Reply::text(200, render_text(&samples, keep)),
        Some(other) => Reply::text(400, format!("usage: /stats?format=json|prometheus|text, not {other:?}\n")),
    }
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build()
}

/// A metric exists once somebody asked for it; gauges count as used then, since zero says something of them.
fn is_used(sample: &Sample) -> bool {
    match &sample.value {
        Value::Counter(value) => *value > 0,
        Value::Gauge(_) => true,
        Value::Histogram(snapshot) => snapshot.count() > 0,
    }
}

fn to_json(samples: &[Sample]) -> serde_json::Value {
    let mut sorted: Vec<(String, &Sample)> = samples.iter().map(|sample| (sample.name.flat(), sample)).collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut stats = Vec::new();
    let mut histograms = Vec::new();
    for (name, sample) in sorted {
        match &sample.value {
            Value::Counter(value) => stats.push(json!({"name": name, "value": value})),
            Value::Gauge(value) => stats.push(json!({"name": name, "value": value})),
            Value::Histogram(snapshot) => {
                let value = |quantile: &f64| {
                    let value = (snapshot.count() > 0).then(|| snapshot.quantile(quantile / 100.0));
                    json!({"interval": null, "cumulative": value})
                };
                histograms.push(json!({"name": name, "values": QUANTILES.iter().map(value).collect::<Vec<_>>()}));
            }
        }
    }
    if !histograms.is_empty() {
        stats.push(json!({"histograms": {"supported_quantiles": QUANTILES, "computed_quantiles": histograms}}));
    }
    json!({ "stats": stats })
}

#[cfg(test)]
mod tests {
    use http::Method;
    use outrigger_stats::{Name, Registry};

    use super::*;

    fn ask(query: &str) -> (u16, String) {
        let registry = Registry::default();
        registry.counter(&Name::new("", "a.used")).inc();
        let _unused = registry.counter(&Name::new("", "a.unused"));
        let _state = registry.gauge(&Name::new("", "server.state"));
        let time = registry.histogram(&Name::new("", "b.time"));
        time.record(4);
        let reply = answer(&Asked::new(Method::GET, "/stats", query), registry.samples());
        let (status, text) = reply.parts();
        (status, text.to_owned())
    }

    #[test]
    fn text_json_and_prometheus() {
        assert_eq!(ask("filter=^a"), (200, "a.unused: 0\na.used: 1\n".to_owned()));
        // What Istio's agent asks for readiness.
        assert_eq!(ask("usedonly&filter=^(server.state|a.)"), (200, "a.used: 1\nserver.state: 0\n".to_owned()));
        let (_, text) = ask("format=json&filter=used|time");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["stats"][1], json!({"name": "a.used", "value": 1}));
        let histograms = &json["stats"][2]["histograms"];
        assert_eq!(histograms["computed_quantiles"][0]["name"], "b.time");
        assert_eq!(histograms["computed_quantiles"][0]["values"].as_array().unwrap().len(), QUANTILES.len());
        let (_, text) = ask("format=prometheus&usedonly&filter=used");
        assert_eq!(text, "# TYPE envoy_a_used counter\nenvoy_a_used{} 1\n".replace("{}", ""));
    }

    #[test]
    fn wrong_questions_are_told() {
        assert_eq!(ask("filter=(").0, 400);
        assert_eq!(ask("format=xml").0, 400);
    }
}
