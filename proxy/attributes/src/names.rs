//! The names of attributes, as far as somebody has to know them beforehand: an expression sees groups and messages whole.

/// Attributes of the group `xds` that are metadata of an object.
pub(crate) const XDS_METADATA: [&str; 6] = [
    "listener_metadata",
    "virtual_host_metadata",
    "route_metadata",
    "cluster_metadata",
    "upstream_host_metadata",
    "upstream_host_locality_metadata",
];

/// The groups of attributes with their members: what an expression can name.
pub const ROOTS: &[(&str, &[&str])] = &[
    (
        "request",
        &[
            "path",
            "url_path",
            "host",
            "scheme",
            "method",
            "headers",
            "referer",
            "useragent",
            "time",
            "id",
            "protocol",
            "query",
            "duration",
            "size",
            "total_size",
            "headers_bytes",
        ],
    ),
    (
        "response",
        &[
            "code",
            "code_details",
            "flags",
            "grpc_status",
            "headers",
            "trailers",
            "size",
            "total_size",
            "headers_bytes",
            "backend_latency",
        ],
    ),
    ("source", &["address", "port"]),
    ("destination", &["address", "port"]),
    (
        "connection",
        &[
            "id",
            "mtls",
            "requested_server_name",
            "tls_version",
            "subject_local_certificate",
            "subject_peer_certificate",
            "dns_san_local_certificate",
            "dns_san_peer_certificate",
            "uri_san_local_certificate",
            "uri_san_peer_certificate",
            "sha256_peer_certificate_digest",
            "peer_certificate",
            "transport_failure_reason",
            "termination_details",
        ],
    ),
    (
        "upstream",
        &[
            "address",
            "port",
            "tls_version",
            "subject_local_certificate",
            "subject_peer_certificate",
            "dns_san_local_certificate",
            "dns_san_peer_certificate",
            "uri_san_local_certificate",
            "uri_san_peer_certificate",
            "sha256_peer_certificate_digest",
            "peer_certificate",
            "local_address",
            "transport_failure_reason",
            "request_attempt_count",
            "cx_pool_ready_duration",
            "num_endpoints",
            "locality",
        ],
    ),
    (
        "xds",
        &[
            "node",
            "cluster_name",
            "cluster_metadata",
            "route_name",
            "route_metadata",
            "virtual_host_name",
            "virtual_host_metadata",
            "filter_chain_name",
            "listener_direction",
            "listener_metadata",
            "upstream_host_metadata",
            "upstream_host_locality_metadata",
        ],
    ),
];

/// The fields that an expression can name of a property that is a message.
#[must_use]
pub fn fields_of(path: &[&str]) -> Option<&'static [&'static str]> {
    match path {
        ["node"] | ["xds", "node"] => {
            Some(&["id", "cluster", "metadata", "locality", "user_agent_name", "user_agent_version"])
        }
        [.., "locality"] => Some(&["region", "zone", "sub_zone"]),
        ["metadata"] => Some(&["filter_metadata"]),
        ["xds", name] | [name] if XDS_METADATA.contains(name) => Some(&["filter_metadata"]),
        _ => None,
    }
}
