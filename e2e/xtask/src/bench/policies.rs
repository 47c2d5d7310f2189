//! What a sidecar does to each request before any Wasm: RBAC, a local rate limit, the access log and a span for every request,
//! all together, in Envoy and in our proxy with one configuration.

use std::path::Path;

use anyhow::Result;

use super::Bench;
use super::configs::{self, Filters};
use super::http1::{run_rounds, wrk};
use super::peers::{Kind, Origin, Running, Subject, start, start_origin, start_proxy, subject};
use super::report::Report;

const SUBJECTS: [Subject; 5] = [
    subject("nginx", Kind::Nginx, 0),
    subject("outrigger", Kind::Outrigger, 0),
    subject("outrigger +policies", Kind::Outrigger, 0),
    subject("envoy", Kind::Envoy, 0),
    subject("envoy +policies", Kind::Envoy, 0),
];

pub(crate) fn run(bench: &Bench) -> Result<Report> {
    let origin = start_origin(bench)?;
    let wanted: Vec<Subject> = SUBJECTS.into_iter().filter(|subject| bench.wants_row(subject)).collect();
    let start = |subject: Subject| match subject.name.ends_with("+policies") {
        true => start_with_policies(bench, subject, &origin),
        false => start(bench, subject, &origin, false),
    };
    let rows = run_rounds(bench, &wanted, start, |running, window| wrk(running, 32, window))?;
    let mut report = Report::new(rows);
    let ratio = report.ratio("outrigger +policies", "envoy +policies").map(|ratio| ratio.median);
    report.target_of(5, "RBAC, rate limit, access log and traces: ratio to Envoy", ratio, 0.5);
    for name in ["outrigger", "envoy"] {
        if let Some(added) = report.added(&format!("{name} +policies"), name) {
            report.words.push(format!("{name}: the policies add {:.2} us to a request", added.median));
            report.extra.insert(format!("{name} policies add us"), added.median);
        }
    }
    Ok(report)
}

fn start_with_policies(bench: &Bench, subject: Subject, origin: &Origin) -> Result<Running> {
    let none = Filters { count: 0, module: &bench.header_policy, job: None };
    let plain = configs::bootstrap(origin.h1, false, none);
    let log = bench.file(&subject.name.replace([' ', '+'], "-")).join("access.log");
    start_proxy(bench, subject, &with_policies(&plain, origin.h1, &log))
}

/// The bootstrap with everything. Spans go out in batches of 512, to the origin, which takes whatever comes.
fn with_policies(plain: &str, origin: u16, access_log: &Path) -> String {
    let manager = format!(
        "generate_request_id: true
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}
          tracing:
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                \"@type\": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                service_name: bench
                http_service: {{http_uri: {{uri: \"http://collector.test/v1/traces\", cluster: otlp, timeout: 2s}}}}",
        access_log.display()
    );
    let clusters = format!(
        "  clusters:
  - name: otlp
    type: STATIC
    connect_timeout: 2s
    load_assignment:
      cluster_name: otlp
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {origin}}}}}}}}}]}}]
"
    );
    plain
        .replacen("generate_request_id: false", &manager, 1)
        .replacen("          http_filters:\n", &format!("          http_filters:\n{FILTERS}"), 1)
        .replacen("  clusters:\n", &clusters, 1)
        + RUNTIME
}

/// Every request passes: by the last of three policies, with tokens for all.
const FILTERS: &str = "          - name: envoy.filters.http.rbac
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: ALLOW
                policies:
                  admins:
                    permissions: [{url_path: {path: {prefix: /admin/}}}]
                    principals: [{header: {name: x-role, string_match: {exact: admin}}}]
                  batch:
                    permissions: [{header: {name: \":method\", string_match: {exact: POST}}}]
                    principals: [{direct_remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]
                  readers:
                    permissions: [{and_rules: {rules: [{header: {name: \":method\", string_match: {exact: GET}}}, {url_path: {path: {prefix: /}}}]}}]
                    principals: [{direct_remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}]
          - name: envoy.filters.http.local_ratelimit
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: bench
              token_bucket: {max_tokens: 4000000000, tokens_per_fill: 4000000000, fill_interval: 1s}
              filter_enabled: {default_value: {numerator: 100, denominator: HUNDRED}}
              filter_enforced: {default_value: {numerator: 100, denominator: HUNDRED}}
";

const RUNTIME: &str = "layered_runtime:
  layers:
  - name: static
    static_layer: {tracing: {opentelemetry: {min_flush_spans: 512, flush_interval_ms: 1000}}}
";
