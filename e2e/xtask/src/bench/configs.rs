//! The configurations of the peers, each doing the same job: two added request headers, one added response header by the
//! filter rows only, no access log, keep-alive on both sides.

use std::path::Path;

/// What origins answer: 40 bytes.
pub(crate) const ORIGIN_BODY: &str = "forty bytes of body for every request..";
pub(crate) const OTHER_ORIGIN_BODY: &str = "other bytes of body for every request..";

/// nginx as the origin: a small fixed answer, over HTTP/1 and HTTP/2 by prior knowledge, and the files in `bytes`.
pub(crate) fn nginx_origin(dir: &Path, h1: u16, h2: u16, body: &str) -> String {
    let server = |port: u16, http2: &str| {
        format!(
            "server {{ listen 127.0.0.1:{port}{http2} backlog=4096; location / {{ return 200 '{body}'; }}
               location /bytes/ {{ root {dir}; }} }}",
            dir = dir.display(),
        )
    };
    nginx(dir, &format!("{}\n{}", server(h1, ""), server(h2, " http2")))
}

/// nginx as a proxy over HTTP/1 to the origin; `http2`: towards the client HTTP/2.
pub(crate) fn nginx_proxy(dir: &Path, port: u16, origin: u16, http2: bool) -> String {
    let http2 = if http2 { " http2" } else { "" };
    let body = format!(
        "upstream origin {{ server 127.0.0.1:{origin}; keepalive 512; keepalive_requests 1000000000; }}
         server {{ listen 127.0.0.1:{port}{http2} backlog=4096;
           location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection '';
             proxy_set_header Host $host; proxy_set_header X-Forwarded-Proto http;
             proxy_set_header X-Forwarded-For $remote_addr; }} }}"
    );
    nginx(dir, &body)
}

fn nginx(dir: &Path, servers: &str) -> String {
    let dir = dir.display();
    format!(
        "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log error;
         events {{ worker_connections 24576; }}
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s;
           client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
           uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
           {servers} }}"
    )
}

/// HAProxy as a proxy.
pub(crate) fn haproxy(port: u16, origin: u16, http2: bool) -> String {
    let proto = if http2 { " proto h2" } else { "" };
    format!(
        "global\n  nbthread 1\n  maxconn 8192\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n  \
         option http-keep-alive\n  http-reuse always\nfrontend f\n  bind 127.0.0.1:{port}{proto}\n  \
         http-request set-header X-Forwarded-Proto http\n  http-request set-header X-Forwarded-For %[src]\n  default_backend b\n\
         backend b\n  server s 127.0.0.1:{origin}{proto}\n"
    )
}

/// How many filters, and where the module is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filters<'a> {
    pub(crate) count: usize,
    pub(crate) module: &'a Path,
    /// The bench guest's word; else the filters are header-policy.
    pub(crate) job: Option<&'a str>,
}

/// A bootstrap for Envoy and for our proxy.
pub(crate) fn bootstrap(origin: u16, http2: bool, filters: Filters<'_>) -> String {
    let filters: String = (0..filters.count).map(|index| wasm_filter(index, filters)).collect();
    let codec = if http2 { "HTTP2" } else { "HTTP1" };
    let options = if http2 { HTTP2_UPSTREAM } else { "" };
    format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          codec_type: {codec}
          generate_request_id: false
          use_remote_address: true
          route_config:
            name: main
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: origin}}}}]
          http_filters:
{filters}          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 2s
{options}    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {origin}}}}}}}
"
    )
}

const HTTP2_UPSTREAM: &str = "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";

/// The configuration of a header filter: sets a request header, adds a response header.
pub(crate) fn header_policy(index: usize, value: &str) -> String {
    format!(
        r#"{{"request": {{"set": [{{"name": "x-filter-{index}", "value": "request"}}]}}, "response": {{"add": [{{"name": "x-filter-{index}", "value": "{value}"}}]}}}}"#
    )
}

/// One filter. All of a chain share one VM.
fn wasm_filter(index: usize, filters: Filters<'_>) -> String {
    let config = filters.job.map_or_else(|| header_policy(index, "response"), str::to_owned);
    let module = filters.module.display();
    format!(
        "          - name: header-policy-{index}
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: header-policy-{index}
                root_id: header-policy
                vm_config: {{vm_id: bench, runtime: envoy.wasm.runtime.v8, code: {{local: {{filename: \"{module}\"}}}}}}
                configuration:
                  \"@type\": type.googleapis.com/google.protobuf.StringValue
                  value: '{config}'
"
    )
}

/// A bootstrap with `count` static clusters, each with a virtual host and a route of its own.
pub(crate) fn many_clusters(count: usize) -> String {
    let mut hosts = String::new();
    let mut clusters = String::new();
    for i in 0..count {
        hosts.push_str(&format!(
            "            - {{name: h{i}, domains: [h{i}.example], routes: [{{match: {{prefix: /}}, route: {{cluster: c{i}}}}}]}}\n"
        ));
        clusters.push_str(&format!(
            "  - {{name: c{i}, type: STATIC, connect_timeout: 2s, load_assignment: {{cluster_name: c{i}, endpoints: [{{lb_endpoints: \
             [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 9}}}}}}}}]}}]}}}}\n"
        ));
    }
    format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          route_config:
            name: main
            virtual_hosts:
{hosts}          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
{clusters}"
    )
}
