//! Bootstraps that Envoy and our proxy both take, written as YAML.
//!
//! The text `@DIR@` stands for the folder of the proxy that is started with it (see [`crate::data_plane`]), where its access
//! log lies too.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::yaml::to_yaml;

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const FILE_LOG: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
const HTTP_OPTIONS: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A bootstrap under construction.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    value: Value,
}

impl Default for Bootstrap {
    fn default() -> Bootstrap {
        Bootstrap::new()
    }
}

impl Bootstrap {
    /// An admin interface on a free port, and nothing else.
    pub fn new() -> Bootstrap {
        let value = json!({
            "admin": {"address": address(SocketAddr::from(([127, 0, 0, 1], 0)))},
            "node": {"id": "test-id", "cluster": "test-cluster"},
            "static_resources": {"listeners": [], "clusters": []},
        });
        Bootstrap { value }
    }

    pub fn node(mut self, id: &str, cluster: &str) -> Bootstrap {
        self.value["node"] = json!({"id": id, "cluster": cluster});
        self
    }

    pub fn cluster(mut self, cluster: Value) -> Bootstrap {
        push(&mut self.value["static_resources"]["clusters"], cluster);
        self
    }

    pub fn listener(mut self, listener: impl Into<Value>) -> Bootstrap {
        push(&mut self.value["static_resources"]["listeners"], listener.into());
        self
    }

    /// Takes listeners and clusters from an ADS server; `api_type` is `DELTA_GRPC` or `GRPC`.
    pub fn ads(mut self, server: SocketAddr, api_type: &str) -> Bootstrap {
        self.value["dynamic_resources"] = json!({
            "ads_config": {
                "api_type": api_type, "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds_cluster"}}],
            },
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        });
        self.cluster(http2(cluster("xds_cluster", &[server])))
    }

    /// Sets any field of the bootstrap, for example `dynamic_resources`.
    pub fn set(mut self, field: &str, value: Value) -> Bootstrap {
        self.value[field] = value;
        self
    }

    pub fn value(&self) -> &Value {
        &self.value
    }

    pub fn yaml(&self) -> String {
        to_yaml(&self.value)
    }
}

fn push(list: &mut Value, item: Value) {
    if let Value::Array(items) = list {
        items.push(item);
    }
}

/// An address as the configuration writes it.
pub fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A STATIC cluster.
pub fn cluster(name: &str, endpoints: &[SocketAddr]) -> Value {
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": assignment(name, endpoints),
    })
}

/// A load assignment with one locality.
pub fn assignment(name: &str, endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|e| json!({"endpoint": {"address": address(*e)}})).collect();
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]})
}

/// The cluster with HTTP/2 by prior knowledge.
pub fn http2(mut cluster: Value) -> Value {
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}},
        }
    });
    cluster
}

/// The value with some fields replaced or added; objects are merged, everything else is replaced.
pub fn with(mut base: Value, changes: Value) -> Value {
    merge(&mut base, changes);
    base
}

fn merge(base: &mut Value, changes: Value) {
    match (base, changes) {
        (Value::Object(base), Value::Object(changes)) => {
            for (name, change) in changes {
                merge(base.entry(name).or_insert(Value::Null), change);
            }
        }
        (base, change) => *base = change,
    }
}

/// A route: everything under `prefix` goes to `cluster`.
pub fn route(prefix: &str, cluster: &str) -> Value {
    json!({"match": {"prefix": prefix}, "route": {"cluster": cluster}})
}

/// A listener with the HTTP connection manager, on a free port, with an access log of JSON lines.
#[derive(Debug, Clone)]
pub struct HttpListener {
    name: String,
    manager: Value,
    filters: Vec<Value>,
}

impl HttpListener {
    /// One virtual host `*` with these routes.
    pub fn new(name: &str, routes: &Value) -> HttpListener {
        HttpListener::hosts(name, &json!([{"name": "all", "domains": ["*"], "routes": routes}]))
    }

    pub fn hosts(name: &str, virtual_hosts: &Value) -> HttpListener {
        let format = json!({
            "test": "%REQ(X-TEST)%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
            "protocol": "%PROTOCOL%", "status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%",
            "sent": "%BYTES_SENT%", "received": "%BYTES_RECEIVED%", "upstream": "%UPSTREAM_HOST%",
            "type": "%RESP(CONTENT-TYPE)%",
        });
        let manager = json!({
            "@type": HCM,
            "stat_prefix": name,
            "codec_type": "AUTO",
            "generate_request_id": false,
            "route_config": {"name": name, "virtual_hosts": virtual_hosts},
            "access_log": [{
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": FILE_LOG, "path": "@DIR@/access.log",
                    "log_format": {"json_format": format},
                },
            }],
        });
        HttpListener { name: name.to_owned(), manager, filters: Vec::new() }
    }

    /// Changes fields of the connection manager.
    pub fn manager(mut self, changes: Value) -> HttpListener {
        merge(&mut self.manager, changes);
        self
    }

    /// Adds an HTTP filter before the router.
    pub fn filter(mut self, filter: Value) -> HttpListener {
        self.filters.push(filter);
        self
    }

    /// Lets WebSocket upgrades through.
    pub fn websocket(self) -> HttpListener {
        self.manager(json!({"upgrade_configs": [{"upgrade_type": "websocket"}]}))
    }
}

impl From<HttpListener> for Value {
    fn from(listener: HttpListener) -> Value {
        let HttpListener { name, mut manager, mut filters } = listener;
        filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}));
        manager["http_filters"] = Value::Array(filters);
        network_listener(&name, "envoy.filters.network.http_connection_manager", &manager)
    }
}

/// A listener that passes bytes to a cluster.
pub fn tcp_listener(name: &str, cluster: &str) -> Value {
    let config = json!({"@type": TCP_PROXY, "stat_prefix": name, "cluster": cluster});
    network_listener(name, "envoy.filters.network.tcp_proxy", &config)
}

fn network_listener(name: &str, filter: &str, config: &Value) -> Value {
    json!({
        "name": name,
        "address": address(SocketAddr::from(([127, 0, 0, 1], 0))),
        "filter_chains": [{"filters": [{"name": filter, "typed_config": config}]}],
    })
}

/// A Wasm filter from a local file, as Envoy configures it; `config` is given to the plugin as JSON.
pub fn wasm_filter(name: &str, module: &std::path::Path, config: &Value) -> Value {
    json!({
        "name": name,
        "typed_config": {
            "@type": WASM,
            "config": {
                "name": name,
                "root_id": name,
                "vm_config": {
                    "vm_id": name, "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": module}},
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": config.to_string(),
                },
            },
        },
    })
}
