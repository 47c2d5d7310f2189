//! Cases of properties: which there are in which phase. What differs from run to run is asked for its status only.

use super::cases::{Case, Drive, case};

const GONE: &str = "request attributes stay readable after the request went on";

pub(crate) const PROPERTIES: &[Case] = &[
    case(
        "all-in-request-headers",
        Drive::Get,
        "request_headers:
           get_property 'request\\x00headers' 40 44
           get_property 'request\\x00time' 40 44
           get_property 'request\\x00total_size' 40 44
           get_property 'request\\x00headers_bytes' 40 44
           get_property 'request\\x00duration' 40 44
           get_property 'request\\x00size' 40 44
           get_property 'response\\x00code' 40 44
           get_property 'response\\x00total_size' 40 44
           get_property 'response\\x00headers_bytes' 40 44
           get_property 'response\\x00size' 40 44
           get_property 'response\\x00headers' 40 44
           get_property 'response\\x00trailers' 40 44
           get_property 'response\\x00backend_latency' 40 44
           get_property 'response\\x00flags' 40 44
           get_property 'response\\x00code_details' 40 44
           get_property 'response\\x00grpc_status' 40 44
           get_property 'source' 40 44
           get_property 'source\\x00address' 40 44
           get_property 'source\\x00port' 40 44
           get_property 'source\\x00nothing' 40 44
           get_property 'destination' 40 44
           get_property 'destination\\x00address' 40 44
           get_property 'destination\\x00port' 40 44
           get_property 'connection' 40 44
           get_property 'connection\\x00id' 40 44
           get_property 'connection\\x00mtls' 40 44
           get_property 'connection\\x00tls_version' 40 44
           get_property 'connection\\x00subject_local_certificate' 40 44
           get_property 'connection\\x00subject_peer_certificate' 40 44
           get_property 'connection\\x00dns_san_local_certificate' 40 44
           get_property 'connection\\x00dns_san_peer_certificate' 40 44
           get_property 'connection\\x00uri_san_local_certificate' 40 44
           get_property 'connection\\x00uri_san_peer_certificate' 40 44
           get_property 'connection\\x00sha256_peer_certificate_digest' 40 44
           get_property 'connection\\x00peer_certificate' 40 44
           get_property 'connection\\x00transport_failure_reason' 40 44
           get_property 'connection\\x00termination_details' 40 44
           get_property 'connection_id' 40 44
           get_property 'upstream' 40 44
           get_property 'upstream\\x00address' 40 44
           get_property 'upstream\\x00port' 40 44
           get_property 'upstream\\x00local_address' 40 44
           get_property 'upstream\\x00tls_version' 40 44
           get_property 'upstream\\x00subject_local_certificate' 40 44
           get_property 'upstream\\x00subject_peer_certificate' 40 44
           get_property 'upstream\\x00dns_san_local_certificate' 40 44
           get_property 'upstream\\x00dns_san_peer_certificate' 40 44
           get_property 'upstream\\x00uri_san_local_certificate' 40 44
           get_property 'upstream\\x00uri_san_peer_certificate' 40 44
           get_property 'upstream\\x00sha256_peer_certificate_digest' 40 44
           get_property 'upstream\\x00peer_certificate' 40 44
           get_property 'upstream\\x00transport_failure_reason' 40 44
           get_property 'upstream\\x00num_endpoints' 40 44
           get_property 'upstream\\x00request_attempt_count' 40 44
           get_property 'upstream\\x00cx_pool_ready_duration' 40 44
           get_property 'upstream\\x00locality' 40 44
           get_property 'upstream\\x00locality\\x00zone' 40 44
           get_property 'metadata' 40 44
           get_property 'metadata\\x00filter_metadata' 40 44
           get_property 'metadata\\x00typed_filter_metadata' 40 44
           get_property 'filter_state' 40 44
           get_property 'filter_state\\x00nothing' 40 44
           get_property 'upstream_filter_state' 40 44
           get_property 'upstream_filter_state\\x00nothing' 40 44
           get_property 'xds' 40 44
           get_property 'xds\\x00node' 40 44
           get_property 'xds\\x00node\\x00metadata' 40 44
           get_property 'xds\\x00node\\x00locality' 40 44
           get_property 'xds\\x00node\\x00locality\\x00region' 40 44
           get_property 'xds\\x00node\\x00user_agent_name' 40 44
           get_property 'xds\\x00node\\x00nothing' 40 44
           get_property 'xds\\x00cluster_name' 40 44
           get_property 'xds\\x00route_name' 40 44
           get_property 'xds\\x00virtual_host_name' 40 44
           get_property 'xds\\x00filter_chain_name' 40 44
           get_property 'xds\\x00listener_direction' 40 44
           get_property 'xds\\x00listener_metadata' 40 44
           get_property 'xds\\x00listener_metadata\\x00filter_metadata' 40 44
           get_property 'xds\\x00cluster_metadata' 40 44
           get_property 'xds\\x00route_metadata' 40 44
           get_property 'xds\\x00virtual_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_locality_metadata' 40 44
           get_property 'plugin_name' 40 44
           get_property 'plugin_root_id' 40 44
           get_property 'plugin_vm_id' 40 44",
    ),
    case(
        "all-in-response-headers",
        Drive::Get,
        "response_headers:
           get_property 'request\\x00headers' 40 44
           get_property 'request\\x00time' 40 44
           get_property 'request\\x00total_size' 40 44
           get_property 'request\\x00headers_bytes' 40 44
           get_property 'request\\x00duration' 40 44
           get_property 'request\\x00size' 40 44
           get_property 'response\\x00code' 40 44
           get_property 'response\\x00total_size' 40 44
           get_property 'response\\x00headers_bytes' 40 44
           get_property 'response\\x00size' 40 44
           get_property 'response\\x00headers' 40 44
           get_property 'response\\x00trailers' 40 44
           get_property 'response\\x00backend_latency' 40 44
           get_property 'response\\x00flags' 40 44
           get_property 'response\\x00code_details' 40 44
           get_property 'response\\x00grpc_status' 40 44
           get_property 'source' 40 44
           get_property 'source\\x00address' 40 44
           get_property 'source\\x00port' 40 44
           get_property 'source\\x00nothing' 40 44
           get_property 'destination' 40 44
           get_property 'destination\\x00address' 40 44
           get_property 'destination\\x00port' 40 44
           get_property 'connection' 40 44
           get_property 'connection\\x00id' 40 44
           get_property 'connection\\x00mtls' 40 44
           get_property 'connection\\x00tls_version' 40 44
           get_property 'connection\\x00subject_local_certificate' 40 44
           get_property 'connection\\x00subject_peer_certificate' 40 44
           get_property 'connection\\x00dns_san_local_certificate' 40 44
           get_property 'connection\\x00dns_san_peer_certificate' 40 44
           get_property 'connection\\x00uri_san_local_certificate' 40 44
           get_property 'connection\\x00uri_san_peer_certificate' 40 44
           get_property 'connection\\x00sha256_peer_certificate_digest' 40 44
           get_property 'connection\\x00peer_certificate' 40 44
           get_property 'connection\\x00transport_failure_reason' 40 44
           get_property 'connection\\x00termination_details' 40 44
           get_property 'connection_id' 40 44
           get_property 'upstream' 40 44
           get_property 'upstream\\x00address' 40 44
           get_property 'upstream\\x00port' 40 44
           get_property 'upstream\\x00local_address' 40 44
           get_property 'upstream\\x00tls_version' 40 44
           get_property 'upstream\\x00subject_local_certificate' 40 44
           get_property 'upstream\\x00subject_peer_certificate' 40 44
           get_property 'upstream\\x00dns_san_local_certificate' 40 44
           get_property 'upstream\\x00dns_san_peer_certificate' 40 44
           get_property 'upstream\\x00uri_san_local_certificate' 40 44
           get_property 'upstream\\x00uri_san_peer_certificate' 40 44
           get_property 'upstream\\x00sha256_peer_certificate_digest' 40 44
           get_property 'upstream\\x00peer_certificate' 40 44
           get_property 'upstream\\x00transport_failure_reason' 40 44
           get_property 'upstream\\x00num_endpoints' 40 44
           get_property 'upstream\\x00request_attempt_count' 40 44
           get_property 'upstream\\x00cx_pool_ready_duration' 40 44
           get_property 'upstream\\x00locality' 40 44
           get_property 'upstream\\x00locality\\x00zone' 40 44
           get_property 'metadata' 40 44
           get_property 'metadata\\x00filter_metadata' 40 44
           get_property 'metadata\\x00typed_filter_metadata' 40 44
           get_property 'filter_state' 40 44
           get_property 'filter_state\\x00nothing' 40 44
           get_property 'upstream_filter_state' 40 44
           get_property 'upstream_filter_state\\x00nothing' 40 44
           get_property 'xds' 40 44
           get_property 'xds\\x00node' 40 44
           get_property 'xds\\x00node\\x00metadata' 40 44
           get_property 'xds\\x00node\\x00locality' 40 44
           get_property 'xds\\x00node\\x00locality\\x00region' 40 44
           get_property 'xds\\x00node\\x00user_agent_name' 40 44
           get_property 'xds\\x00node\\x00nothing' 40 44
           get_property 'xds\\x00cluster_name' 40 44
           get_property 'xds\\x00route_name' 40 44
           get_property 'xds\\x00virtual_host_name' 40 44
           get_property 'xds\\x00filter_chain_name' 40 44
           get_property 'xds\\x00listener_direction' 40 44
           get_property 'xds\\x00listener_metadata' 40 44
           get_property 'xds\\x00listener_metadata\\x00filter_metadata' 40 44
           get_property 'xds\\x00cluster_metadata' 40 44
           get_property 'xds\\x00route_metadata' 40 44
           get_property 'xds\\x00virtual_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_locality_metadata' 40 44
           get_property 'plugin_name' 40 44
           get_property 'plugin_root_id' 40 44
           get_property 'plugin_vm_id' 40 44",
    ),
    case(
        "all-in-the-log",
        Drive::Get,
        "log:
           get_property 'request\\x00headers' 40 44
           get_property 'request\\x00time' 40 44
           get_property 'request\\x00total_size' 40 44
           get_property 'request\\x00headers_bytes' 40 44
           get_property 'request\\x00duration' 40 44
           get_property 'request\\x00size' 40 44
           get_property 'response\\x00code' 40 44
           get_property 'response\\x00total_size' 40 44
           get_property 'response\\x00headers_bytes' 40 44
           get_property 'response\\x00size' 40 44
           get_property 'response\\x00headers' 40 44
           get_property 'response\\x00trailers' 40 44
           get_property 'response\\x00backend_latency' 40 44
           get_property 'response\\x00flags' 40 44
           get_property 'response\\x00code_details' 40 44
           get_property 'response\\x00grpc_status' 40 44
           get_property 'source' 40 44
           get_property 'source\\x00address' 40 44
           get_property 'source\\x00port' 40 44
           get_property 'source\\x00nothing' 40 44
           get_property 'destination' 40 44
           get_property 'destination\\x00address' 40 44
           get_property 'destination\\x00port' 40 44
           get_property 'connection' 40 44
           get_property 'connection\\x00id' 40 44
           get_property 'connection\\x00mtls' 40 44
           get_property 'connection\\x00tls_version' 40 44
           get_property 'connection\\x00subject_local_certificate' 40 44
           get_property 'connection\\x00subject_peer_certificate' 40 44
           get_property 'connection\\x00dns_san_local_certificate' 40 44
           get_property 'connection\\x00dns_san_peer_certificate' 40 44
           get_property 'connection\\x00uri_san_local_certificate' 40 44
           get_property 'connection\\x00uri_san_peer_certificate' 40 44
           get_property 'connection\\x00sha256_peer_certificate_digest' 40 44
           get_property 'connection\\x00peer_certificate' 40 44
           get_property 'connection\\x00transport_failure_reason' 40 44
           get_property 'connection\\x00termination_details' 40 44
           get_property 'connection_id' 40 44
           get_property 'upstream' 40 44
           get_property 'upstream\\x00address' 40 44
           get_property 'upstream\\x00port' 40 44
           get_property 'upstream\\x00local_address' 40 44
           get_property 'upstream\\x00tls_version' 40 44
           get_property 'upstream\\x00subject_local_certificate' 40 44
           get_property 'upstream\\x00subject_peer_certificate' 40 44
           get_property 'upstream\\x00dns_san_local_certificate' 40 44
           get_property 'upstream\\x00dns_san_peer_certificate' 40 44
           get_property 'upstream\\x00uri_san_local_certificate' 40 44
           get_property 'upstream\\x00uri_san_peer_certificate' 40 44
           get_property 'upstream\\x00sha256_peer_certificate_digest' 40 44
           get_property 'upstream\\x00peer_certificate' 40 44
           get_property 'upstream\\x00transport_failure_reason' 40 44
           get_property 'upstream\\x00num_endpoints' 40 44
           get_property 'upstream\\x00request_attempt_count' 40 44
           get_property 'upstream\\x00cx_pool_ready_duration' 40 44
           get_property 'upstream\\x00locality' 40 44
           get_property 'upstream\\x00locality\\x00zone' 40 44
           get_property 'metadata' 40 44
           get_property 'metadata\\x00filter_metadata' 40 44
           get_property 'metadata\\x00typed_filter_metadata' 40 44
           get_property 'filter_state' 40 44
           get_property 'filter_state\\x00nothing' 40 44
           get_property 'upstream_filter_state' 40 44
           get_property 'upstream_filter_state\\x00nothing' 40 44
           get_property 'xds' 40 44
           get_property 'xds\\x00node' 40 44
           get_property 'xds\\x00node\\x00metadata' 40 44
           get_property 'xds\\x00node\\x00locality' 40 44
           get_property 'xds\\x00node\\x00locality\\x00region' 40 44
           get_property 'xds\\x00node\\x00user_agent_name' 40 44
           get_property 'xds\\x00node\\x00nothing' 40 44
           get_property 'xds\\x00cluster_name' 40 44
           get_property 'xds\\x00route_name' 40 44
           get_property 'xds\\x00virtual_host_name' 40 44
           get_property 'xds\\x00filter_chain_name' 40 44
           get_property 'xds\\x00listener_direction' 40 44
           get_property 'xds\\x00listener_metadata' 40 44
           get_property 'xds\\x00listener_metadata\\x00filter_metadata' 40 44
           get_property 'xds\\x00cluster_metadata' 40 44
           get_property 'xds\\x00route_metadata' 40 44
           get_property 'xds\\x00virtual_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_locality_metadata' 40 44
           get_property 'plugin_name' 40 44
           get_property 'plugin_root_id' 40 44
           get_property 'plugin_vm_id' 40 44",
    ),
    case(
        "all-of-a-new-connection",
        Drive::Tcp("hello"),
        "new_connection:
           get_property 'request\\x00headers' 40 44
           get_property 'request\\x00time' 40 44
           get_property 'request\\x00total_size' 40 44
           get_property 'request\\x00headers_bytes' 40 44
           get_property 'request\\x00duration' 40 44
           get_property 'request\\x00size' 40 44
           get_property 'response\\x00code' 40 44
           get_property 'response\\x00total_size' 40 44
           get_property 'response\\x00headers_bytes' 40 44
           get_property 'response\\x00size' 40 44
           get_property 'response\\x00headers' 40 44
           get_property 'response\\x00trailers' 40 44
           get_property 'response\\x00backend_latency' 40 44
           get_property 'response\\x00flags' 40 44
           get_property 'response\\x00code_details' 40 44
           get_property 'response\\x00grpc_status' 40 44
           get_property 'source' 40 44
           get_property 'source\\x00address' 40 44
           get_property 'source\\x00port' 40 44
           get_property 'source\\x00nothing' 40 44
           get_property 'destination' 40 44
           get_property 'destination\\x00address' 40 44
           get_property 'destination\\x00port' 40 44
           get_property 'connection' 40 44
           get_property 'connection\\x00id' 40 44
           get_property 'connection\\x00mtls' 40 44
           get_property 'connection\\x00tls_version' 40 44
           get_property 'connection\\x00subject_local_certificate' 40 44
           get_property 'connection\\x00subject_peer_certificate' 40 44
           get_property 'connection\\x00dns_san_local_certificate' 40 44
           get_property 'connection\\x00dns_san_peer_certificate' 40 44
           get_property 'connection\\x00uri_san_local_certificate' 40 44
           get_property 'connection\\x00uri_san_peer_certificate' 40 44
           get_property 'connection\\x00sha256_peer_certificate_digest' 40 44
           get_property 'connection\\x00peer_certificate' 40 44
           get_property 'connection\\x00transport_failure_reason' 40 44
           get_property 'connection\\x00termination_details' 40 44
           get_property 'connection_id' 40 44
           get_property 'upstream' 40 44
           get_property 'upstream\\x00address' 40 44
           get_property 'upstream\\x00port' 40 44
           get_property 'upstream\\x00local_address' 40 44
           get_property 'upstream\\x00tls_version' 40 44
           get_property 'upstream\\x00subject_local_certificate' 40 44
           get_property 'upstream\\x00subject_peer_certificate' 40 44
           get_property 'upstream\\x00dns_san_local_certificate' 40 44
           get_property 'upstream\\x00dns_san_peer_certificate' 40 44
           get_property 'upstream\\x00uri_san_local_certificate' 40 44
           get_property 'upstream\\x00uri_san_peer_certificate' 40 44
           get_property 'upstream\\x00sha256_peer_certificate_digest' 40 44
           get_property 'upstream\\x00peer_certificate' 40 44
           get_property 'upstream\\x00transport_failure_reason' 40 44
           get_property 'upstream\\x00num_endpoints' 40 44
           get_property 'upstream\\x00request_attempt_count' 40 44
           get_property 'upstream\\x00cx_pool_ready_duration' 40 44
           get_property 'upstream\\x00locality' 40 44
           get_property 'upstream\\x00locality\\x00zone' 40 44
           get_property 'metadata' 40 44
           get_property 'metadata\\x00filter_metadata' 40 44
           get_property 'metadata\\x00typed_filter_metadata' 40 44
           get_property 'filter_state' 40 44
           get_property 'filter_state\\x00nothing' 40 44
           get_property 'upstream_filter_state' 40 44
           get_property 'upstream_filter_state\\x00nothing' 40 44
           get_property 'xds' 40 44
           get_property 'xds\\x00node' 40 44
           get_property 'xds\\x00node\\x00metadata' 40 44
           get_property 'xds\\x00node\\x00locality' 40 44
           get_property 'xds\\x00node\\x00locality\\x00region' 40 44
           get_property 'xds\\x00node\\x00user_agent_name' 40 44
           get_property 'xds\\x00node\\x00nothing' 40 44
           get_property 'xds\\x00cluster_name' 40 44
           get_property 'xds\\x00route_name' 40 44
           get_property 'xds\\x00virtual_host_name' 40 44
           get_property 'xds\\x00filter_chain_name' 40 44
           get_property 'xds\\x00listener_direction' 40 44
           get_property 'xds\\x00listener_metadata' 40 44
           get_property 'xds\\x00listener_metadata\\x00filter_metadata' 40 44
           get_property 'xds\\x00cluster_metadata' 40 44
           get_property 'xds\\x00route_metadata' 40 44
           get_property 'xds\\x00virtual_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_locality_metadata' 40 44
           get_property 'plugin_name' 40 44
           get_property 'plugin_root_id' 40 44
           get_property 'plugin_vm_id' 40 44",
    ),
    case(
        "all-at-a-connections-end",
        Drive::Tcp("hello"),
        "log:
           get_property 'request\\x00headers' 40 44
           get_property 'request\\x00time' 40 44
           get_property 'request\\x00total_size' 40 44
           get_property 'request\\x00headers_bytes' 40 44
           get_property 'request\\x00duration' 40 44
           get_property 'request\\x00size' 40 44
           get_property 'response\\x00code' 40 44
           get_property 'response\\x00total_size' 40 44
           get_property 'response\\x00headers_bytes' 40 44
           get_property 'response\\x00size' 40 44
           get_property 'response\\x00headers' 40 44
           get_property 'response\\x00trailers' 40 44
           get_property 'response\\x00backend_latency' 40 44
           get_property 'response\\x00flags' 40 44
           get_property 'response\\x00code_details' 40 44
           get_property 'response\\x00grpc_status' 40 44
           get_property 'source' 40 44
           get_property 'source\\x00address' 40 44
           get_property 'source\\x00port' 40 44
           get_property 'source\\x00nothing' 40 44
           get_property 'destination' 40 44
           get_property 'destination\\x00address' 40 44
           get_property 'destination\\x00port' 40 44
           get_property 'connection' 40 44
           get_property 'connection\\x00id' 40 44
           get_property 'connection\\x00mtls' 40 44
           get_property 'connection\\x00tls_version' 40 44
           get_property 'connection\\x00subject_local_certificate' 40 44
           get_property 'connection\\x00subject_peer_certificate' 40 44
           get_property 'connection\\x00dns_san_local_certificate' 40 44
           get_property 'connection\\x00dns_san_peer_certificate' 40 44
           get_property 'connection\\x00uri_san_local_certificate' 40 44
           get_property 'connection\\x00uri_san_peer_certificate' 40 44
           get_property 'connection\\x00sha256_peer_certificate_digest' 40 44
           get_property 'connection\\x00peer_certificate' 40 44
           get_property 'connection\\x00transport_failure_reason' 40 44
           get_property 'connection\\x00termination_details' 40 44
           get_property 'connection_id' 40 44
           get_property 'upstream' 40 44
           get_property 'upstream\\x00address' 40 44
           get_property 'upstream\\x00port' 40 44
           get_property 'upstream\\x00local_address' 40 44
           get_property 'upstream\\x00tls_version' 40 44
           get_property 'upstream\\x00subject_local_certificate' 40 44
           get_property 'upstream\\x00subject_peer_certificate' 40 44
           get_property 'upstream\\x00dns_san_local_certificate' 40 44
           get_property 'upstream\\x00dns_san_peer_certificate' 40 44
           get_property 'upstream\\x00uri_san_local_certificate' 40 44
           get_property 'upstream\\x00uri_san_peer_certificate' 40 44
           get_property 'upstream\\x00sha256_peer_certificate_digest' 40 44
           get_property 'upstream\\x00peer_certificate' 40 44
           get_property 'upstream\\x00transport_failure_reason' 40 44
           get_property 'upstream\\x00num_endpoints' 40 44
           get_property 'upstream\\x00request_attempt_count' 40 44
           get_property 'upstream\\x00cx_pool_ready_duration' 40 44
           get_property 'upstream\\x00locality' 40 44
           get_property 'upstream\\x00locality\\x00zone' 40 44
           get_property 'metadata' 40 44
           get_property 'metadata\\x00filter_metadata' 40 44
           get_property 'metadata\\x00typed_filter_metadata' 40 44
           get_property 'filter_state' 40 44
           get_property 'filter_state\\x00nothing' 40 44
           get_property 'upstream_filter_state' 40 44
           get_property 'upstream_filter_state\\x00nothing' 40 44
           get_property 'xds' 40 44
           get_property 'xds\\x00node' 40 44
           get_property 'xds\\x00node\\x00metadata' 40 44
           get_property 'xds\\x00node\\x00locality' 40 44
           get_property 'xds\\x00node\\x00locality\\x00region' 40 44
           get_property 'xds\\x00node\\x00user_agent_name' 40 44
           get_property 'xds\\x00node\\x00nothing' 40 44
           get_property 'xds\\x00cluster_name' 40 44
           get_property 'xds\\x00route_name' 40 44
           get_property 'xds\\x00virtual_host_name' 40 44
           get_property 'xds\\x00filter_chain_name' 40 44
           get_property 'xds\\x00listener_direction' 40 44
           get_property 'xds\\x00listener_metadata' 40 44
           get_property 'xds\\x00listener_metadata\\x00filter_metadata' 40 44
           get_property 'xds\\x00cluster_metadata' 40 44
           get_property 'xds\\x00route_metadata' 40 44
           get_property 'xds\\x00virtual_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_locality_metadata' 40 44
           get_property 'plugin_name' 40 44
           get_property 'plugin_root_id' 40 44
           get_property 'plugin_vm_id' 40 44",
    ),
    case(
        "all-in-root",
        Drive::Root,
        "context_create:
           get_property 'request\\x00headers' 40 44
           get_property 'request\\x00time' 40 44
           get_property 'request\\x00total_size' 40 44
           get_property 'request\\x00headers_bytes' 40 44
           get_property 'request\\x00duration' 40 44
           get_property 'request\\x00size' 40 44
           get_property 'response\\x00code' 40 44
           get_property 'response\\x00total_size' 40 44
           get_property 'response\\x00headers_bytes' 40 44
           get_property 'response\\x00size' 40 44
           get_property 'response\\x00headers' 40 44
           get_property 'response\\x00trailers' 40 44
           get_property 'response\\x00backend_latency' 40 44
           get_property 'response\\x00flags' 40 44
           get_property 'response\\x00code_details' 40 44
           get_property 'response\\x00grpc_status' 40 44
           get_property 'source' 40 44
           get_property 'source\\x00address' 40 44
           get_property 'source\\x00port' 40 44
           get_property 'source\\x00nothing' 40 44
           get_property 'destination' 40 44
           get_property 'destination\\x00address' 40 44
           get_property 'destination\\x00port' 40 44
           get_property 'connection' 40 44
           get_property 'connection\\x00id' 40 44
           get_property 'connection\\x00mtls' 40 44
           get_property 'connection\\x00tls_version' 40 44
           get_property 'connection\\x00subject_local_certificate' 40 44
           get_property 'connection\\x00subject_peer_certificate' 40 44
           get_property 'connection\\x00dns_san_local_certificate' 40 44
           get_property 'connection\\x00dns_san_peer_certificate' 40 44
           get_property 'connection\\x00uri_san_local_certificate' 40 44
           get_property 'connection\\x00uri_san_peer_certificate' 40 44
           get_property 'connection\\x00sha256_peer_certificate_digest' 40 44
           get_property 'connection\\x00peer_certificate' 40 44
           get_property 'connection\\x00transport_failure_reason' 40 44
           get_property 'connection\\x00termination_details' 40 44
           get_property 'connection_id' 40 44
           get_property 'upstream' 40 44
           get_property 'upstream\\x00address' 40 44
           get_property 'upstream\\x00port' 40 44
           get_property 'upstream\\x00local_address' 40 44
           get_property 'upstream\\x00tls_version' 40 44
           get_property 'upstream\\x00subject_local_certificate' 40 44
           get_property 'upstream\\x00subject_peer_certificate' 40 44
           get_property 'upstream\\x00dns_san_local_certificate' 40 44
           get_property 'upstream\\x00dns_san_peer_certificate' 40 44
           get_property 'upstream\\x00uri_san_local_certificate' 40 44
           get_property 'upstream\\x00uri_san_peer_certificate' 40 44
           get_property 'upstream\\x00sha256_peer_certificate_digest' 40 44
           get_property 'upstream\\x00peer_certificate' 40 44
           get_property 'upstream\\x00transport_failure_reason' 40 44
           get_property 'upstream\\x00num_endpoints' 40 44
           get_property 'upstream\\x00request_attempt_count' 40 44
           get_property 'upstream\\x00cx_pool_ready_duration' 40 44
           get_property 'upstream\\x00locality' 40 44
           get_property 'upstream\\x00locality\\x00zone' 40 44
           get_property 'metadata' 40 44
           get_property 'metadata\\x00filter_metadata' 40 44
           get_property 'metadata\\x00typed_filter_metadata' 40 44
           get_property 'filter_state' 40 44
           get_property 'filter_state\\x00nothing' 40 44
           get_property 'upstream_filter_state' 40 44
           get_property 'upstream_filter_state\\x00nothing' 40 44
           get_property 'xds' 40 44
           get_property 'xds\\x00node' 40 44
           get_property 'xds\\x00node\\x00metadata' 40 44
           get_property 'xds\\x00node\\x00locality' 40 44
           get_property 'xds\\x00node\\x00locality\\x00region' 40 44
           get_property 'xds\\x00node\\x00user_agent_name' 40 44
           get_property 'xds\\x00node\\x00nothing' 40 44
           get_property 'xds\\x00cluster_name' 40 44
           get_property 'xds\\x00route_name' 40 44
           get_property 'xds\\x00virtual_host_name' 40 44
           get_property 'xds\\x00filter_chain_name' 40 44
           get_property 'xds\\x00listener_direction' 40 44
           get_property 'xds\\x00listener_metadata' 40 44
           get_property 'xds\\x00listener_metadata\\x00filter_metadata' 40 44
           get_property 'xds\\x00cluster_metadata' 40 44
           get_property 'xds\\x00route_metadata' 40 44
           get_property 'xds\\x00virtual_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_locality_metadata' 40 44
           get_property 'plugin_name' 40 44
           get_property 'plugin_root_id' 40 44
           get_property 'plugin_vm_id' 40 44
         vm_start:
           get_property 'request\\x00headers' 40 44
           get_property 'request\\x00time' 40 44
           get_property 'request\\x00total_size' 40 44
           get_property 'request\\x00headers_bytes' 40 44
           get_property 'request\\x00duration' 40 44
           get_property 'request\\x00size' 40 44
           get_property 'response\\x00code' 40 44
           get_property 'response\\x00total_size' 40 44
           get_property 'response\\x00headers_bytes' 40 44
           get_property 'response\\x00size' 40 44
           get_property 'response\\x00headers' 40 44
           get_property 'response\\x00trailers' 40 44
           get_property 'response\\x00backend_latency' 40 44
           get_property 'response\\x00flags' 40 44
           get_property 'response\\x00code_details' 40 44
           get_property 'response\\x00grpc_status' 40 44
           get_property 'source' 40 44
           get_property 'source\\x00address' 40 44
           get_property 'source\\x00port' 40 44
           get_property 'source\\x00nothing' 40 44
           get_property 'destination' 40 44
           get_property 'destination\\x00address' 40 44
           get_property 'destination\\x00port' 40 44
           get_property 'connection' 40 44
           get_property 'connection\\x00id' 40 44
           get_property 'connection\\x00mtls' 40 44
           get_property 'connection\\x00tls_version' 40 44
           get_property 'connection\\x00subject_local_certificate' 40 44
           get_property 'connection\\x00subject_peer_certificate' 40 44
           get_property 'connection\\x00dns_san_local_certificate' 40 44
           get_property 'connection\\x00dns_san_peer_certificate' 40 44
           get_property 'connection\\x00uri_san_local_certificate' 40 44
           get_property 'connection\\x00uri_san_peer_certificate' 40 44
           get_property 'connection\\x00sha256_peer_certificate_digest' 40 44
           get_property 'connection\\x00peer_certificate' 40 44
           get_property 'connection\\x00transport_failure_reason' 40 44
           get_property 'connection\\x00termination_details' 40 44
           get_property 'connection_id' 40 44
           get_property 'upstream' 40 44
           get_property 'upstream\\x00address' 40 44
           get_property 'upstream\\x00port' 40 44
           get_property 'upstream\\x00local_address' 40 44
           get_property 'upstream\\x00tls_version' 40 44
           get_property 'upstream\\x00subject_local_certificate' 40 44
           get_property 'upstream\\x00subject_peer_certificate' 40 44
           get_property 'upstream\\x00dns_san_local_certificate' 40 44
           get_property 'upstream\\x00dns_san_peer_certificate' 40 44
           get_property 'upstream\\x00uri_san_local_certificate' 40 44
           get_property 'upstream\\x00uri_san_peer_certificate' 40 44
           get_property 'upstream\\x00sha256_peer_certificate_digest' 40 44
           get_property 'upstream\\x00peer_certificate' 40 44
           get_property 'upstream\\x00transport_failure_reason' 40 44
           get_property 'upstream\\x00num_endpoints' 40 44
           get_property 'upstream\\x00request_attempt_count' 40 44
           get_property 'upstream\\x00cx_pool_ready_duration' 40 44
           get_property 'upstream\\x00locality' 40 44
           get_property 'upstream\\x00locality\\x00zone' 40 44
           get_property 'metadata' 40 44
           get_property 'metadata\\x00filter_metadata' 40 44
           get_property 'metadata\\x00typed_filter_metadata' 40 44
           get_property 'filter_state' 40 44
           get_property 'filter_state\\x00nothing' 40 44
           get_property 'upstream_filter_state' 40 44
           get_property 'upstream_filter_state\\x00nothing' 40 44
           get_property 'xds' 40 44
           get_property 'xds\\x00node' 40 44
           get_property 'xds\\x00node\\x00metadata' 40 44
           get_property 'xds\\x00node\\x00locality' 40 44
           get_property 'xds\\x00node\\x00locality\\x00region' 40 44
           get_property 'xds\\x00node\\x00user_agent_name' 40 44
           get_property 'xds\\x00node\\x00nothing' 40 44
           get_property 'xds\\x00cluster_name' 40 44
           get_property 'xds\\x00route_name' 40 44
           get_property 'xds\\x00virtual_host_name' 40 44
           get_property 'xds\\x00filter_chain_name' 40 44
           get_property 'xds\\x00listener_direction' 40 44
           get_property 'xds\\x00listener_metadata' 40 44
           get_property 'xds\\x00listener_metadata\\x00filter_metadata' 40 44
           get_property 'xds\\x00cluster_metadata' 40 44
           get_property 'xds\\x00route_metadata' 40 44
           get_property 'xds\\x00virtual_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_locality_metadata' 40 44
           get_property 'plugin_name' 40 44
           get_property 'plugin_root_id' 40 44
           get_property 'plugin_vm_id' 40 44
         configure:
           get_property 'request\\x00headers' 40 44
           get_property 'request\\x00time' 40 44
           get_property 'request\\x00total_size' 40 44
           get_property 'request\\x00headers_bytes' 40 44
           get_property 'request\\x00duration' 40 44
           get_property 'request\\x00size' 40 44
           get_property 'response\\x00code' 40 44
           get_property 'response\\x00total_size' 40 44
           get_property 'response\\x00headers_bytes' 40 44
           get_property 'response\\x00size' 40 44
           get_property 'response\\x00headers' 40 44
           get_property 'response\\x00trailers' 40 44
           get_property 'response\\x00backend_latency' 40 44
           get_property 'response\\x00flags' 40 44
           get_property 'response\\x00code_details' 40 44
           get_property 'response\\x00grpc_status' 40 44
           get_property 'source' 40 44
           get_property 'source\\x00address' 40 44
           get_property 'source\\x00port' 40 44
           get_property 'source\\x00nothing' 40 44
           get_property 'destination' 40 44
           get_property 'destination\\x00address' 40 44
           get_property 'destination\\x00port' 40 44
           get_property 'connection' 40 44
           get_property 'connection\\x00id' 40 44
           get_property 'connection\\x00mtls' 40 44
           get_property 'connection\\x00tls_version' 40 44
           get_property 'connection\\x00subject_local_certificate' 40 44
           get_property 'connection\\x00subject_peer_certificate' 40 44
           get_property 'connection\\x00dns_san_local_certificate' 40 44
           get_property 'connection\\x00dns_san_peer_certificate' 40 44
           get_property 'connection\\x00uri_san_local_certificate' 40 44
           get_property 'connection\\x00uri_san_peer_certificate' 40 44
           get_property 'connection\\x00sha256_peer_certificate_digest' 40 44
           get_property 'connection\\x00peer_certificate' 40 44
           get_property 'connection\\x00transport_failure_reason' 40 44
           get_property 'connection\\x00termination_details' 40 44
           get_property 'connection_id' 40 44
           get_property 'upstream' 40 44
           get_property 'upstream\\x00address' 40 44
           get_property 'upstream\\x00port' 40 44
           get_property 'upstream\\x00local_address' 40 44
           get_property 'upstream\\x00tls_version' 40 44
           get_property 'upstream\\x00subject_local_certificate' 40 44
           get_property 'upstream\\x00subject_peer_certificate' 40 44
           get_property 'upstream\\x00dns_san_local_certificate' 40 44
           get_property 'upstream\\x00dns_san_peer_certificate' 40 44
           get_property 'upstream\\x00uri_san_local_certificate' 40 44
           get_property 'upstream\\x00uri_san_peer_certificate' 40 44
           get_property 'upstream\\x00sha256_peer_certificate_digest' 40 44
           get_property 'upstream\\x00peer_certificate' 40 44
           get_property 'upstream\\x00transport_failure_reason' 40 44
           get_property 'upstream\\x00num_endpoints' 40 44
           get_property 'upstream\\x00request_attempt_count' 40 44
           get_property 'upstream\\x00cx_pool_ready_duration' 40 44
           get_property 'upstream\\x00locality' 40 44
           get_property 'upstream\\x00locality\\x00zone' 40 44
           get_property 'metadata' 40 44
           get_property 'metadata\\x00filter_metadata' 40 44
           get_property 'metadata\\x00typed_filter_metadata' 40 44
           get_property 'filter_state' 40 44
           get_property 'filter_state\\x00nothing' 40 44
           get_property 'upstream_filter_state' 40 44
           get_property 'upstream_filter_state\\x00nothing' 40 44
           get_property 'xds' 40 44
           get_property 'xds\\x00node' 40 44
           get_property 'xds\\x00node\\x00metadata' 40 44
           get_property 'xds\\x00node\\x00locality' 40 44
           get_property 'xds\\x00node\\x00locality\\x00region' 40 44
           get_property 'xds\\x00node\\x00user_agent_name' 40 44
           get_property 'xds\\x00node\\x00nothing' 40 44
           get_property 'xds\\x00cluster_name' 40 44
           get_property 'xds\\x00route_name' 40 44
           get_property 'xds\\x00virtual_host_name' 40 44
           get_property 'xds\\x00filter_chain_name' 40 44
           get_property 'xds\\x00listener_direction' 40 44
           get_property 'xds\\x00listener_metadata' 40 44
           get_property 'xds\\x00listener_metadata\\x00filter_metadata' 40 44
           get_property 'xds\\x00cluster_metadata' 40 44
           get_property 'xds\\x00route_metadata' 40 44
           get_property 'xds\\x00virtual_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_metadata' 40 44
           get_property 'xds\\x00upstream_host_locality_metadata' 40 44
           get_property 'plugin_name' 40 44
           get_property 'plugin_root_id' 40 44
           get_property 'plugin_vm_id' 40 44",
    ),
    Case {
        differs: &[
            ("response_headers.0 get_property", "0 %00%00%00%00%00%00%00%00", "0 %9d%00%00%00%00%00%00%00", GONE),
            ("response_headers.1 get_property", "0 %00%00%00%00%00%00%00%00", "0 %9d%00%00%00%00%00%00%00", GONE),
        ],
        ..case(
            "all-that-are-empty",
            Drive::Get,
            "request_headers:
           get_property 'response\\x00headers' *v
           get_property 'response\\x00trailers' *v
           get_property 'upstream\\x00num_endpoints' *v
           get_property 'metadata\\x00typed_filter_metadata' *v
           get_property 'request\\x00headers_bytes' *v
         response_headers:
           get_property 'request\\x00headers_bytes' *v
           get_property 'request\\x00total_size' *v
           get_property 'request\\x00size' *v
           get_property 'response\\x00headers_bytes' *v
           get_property 'response\\x00total_size' *v
           get_property 'response\\x00size' *v
           get_property 'response\\x00trailers' *v
           get_property 'upstream\\x00num_endpoints' *v
           get_property 'upstream_filter_state' *v
         log:
           get_property 'request\\x00headers_bytes' *v
           get_property 'request\\x00total_size' *v
           get_property 'request\\x00size' *v
           get_property 'response\\x00headers_bytes' *v
           get_property 'response\\x00total_size' *v
           get_property 'response\\x00size' *v",
        )
    },
    case(
        "all-that-are-empty-of-a-connection",
        Drive::Tcp("hello"),
        "new_connection:
           get_property 'request\\x00headers' *v
           get_property 'response\\x00headers' *v
           get_property 'response\\x00trailers' *v
           get_property 'request\\x00headers_bytes' *v
           get_property 'response\\x00headers_bytes' *v
           get_property 'upstream\\x00transport_failure_reason' *v
           get_property 'upstream\\x00num_endpoints' *v
           get_property 'upstream\\x00tls_version' *v
         log:
           get_property 'request\\x00headers' *v
           get_property 'response\\x00headers' *v
           get_property 'response\\x00trailers' *v
           get_property 'request\\x00headers_bytes' *v
           get_property 'response\\x00headers_bytes' *v
           get_property 'upstream\\x00transport_failure_reason' *v
           get_property 'upstream\\x00num_endpoints' *v
           get_property 'upstream\\x00tls_version' *v
           get_property 'request\\x00size' *v
           get_property 'request\\x00total_size' *v
           get_property 'response\\x00size' *v
           get_property 'response\\x00total_size' *v",
    ),
    case(
        "all-in-expressions",
        Drive::Get,
        "request_headers:
           call_foreign_function 'expr_create' 'xds.node.id' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'xds.node.cluster == \"cluster-of-test\"' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'xds.listener_metadata.filter_metadata[\"test\"][\"text\"]' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'xds.route_metadata.filter_metadata.test.number' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'has(xds.route_metadata.filter_metadata.nothing)' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'xds.listener_direction' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'metadata.filter_metadata' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'size(metadata.filter_metadata)' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'connection.mtls' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'xds.cluster_name + xds.virtual_host_name' *v
           call_foreign_function 'expr_evaluate' $v *v
         response_headers:
           call_foreign_function 'expr_create' 'upstream.locality.region' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'upstream.num_endpoints' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'xds.upstream_host_metadata.filter_metadata.test.text' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'xds.upstream_host_locality_metadata.filter_metadata.test.text' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'response.code' *v
           call_foreign_function 'expr_evaluate' $v *v",
    ),
];
