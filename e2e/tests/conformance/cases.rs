//! The table of cases.

/// What sets a case going.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Drive {
    /// Nothing but the start of the plugin.
    Root,
    Get,
    Post(&'static str),
    /// Bodies both ways that are larger than what a filter may keep.
    Flood,
    /// Bodies that are larger than the listener's `per_connection_buffer_limit_bytes`.
    Bounded,
    /// A request that says it is gRPC.
    Grpc,
    /// A body and trailers both ways, over HTTP/2.
    Trailers,
    /// Bytes through the guest as a network filter.
    Tcp(&'static str),
    /// A request to a listener whose access logger the guest is.
    AccessLog,
}

/// One guest, and where the two proxies differ on purpose.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) abi: &'static str,
    pub(crate) drive: Drive,
    /// The line that comes last.
    pub(crate) until: &'static str,
    /// Changes of the plugin's configuration, as JSON.
    pub(crate) plugin: &'static str,
    pub(crate) script: &'static str,
    /// Line, Envoy's value, ours, and why. `-`: the line isn't there.
    pub(crate) differs: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

pub(crate) const RUST_PANICS: &str = "the Rust SDK panics on anything but Ok and NotFound";
const LEGACY: &str = "old filters still ask by the names before 1.33";

pub(crate) const fn case(name: &'static str, drive: Drive, script: &'static str) -> Case {
    let until = match drive {
        Drive::Root => "configure",
        _ => "delete",
    };
    Case { name, abi: "0_2_1", drive, until, plugin: "", script, differs: &[] }
}

pub(crate) const CASES: &[Case] = &[
    Case {
        differs: &[
            ("request_headers.6 get_header_map_value", "2", "1", RUST_PANICS),
            ("request_headers.7 get_header_map_value", "2", "1", RUST_PANICS),
            ("request_headers.8 get_header_map_value", "2", "1", RUST_PANICS),
            ("request_headers.9 get_header_map_value", "2", "1", RUST_PANICS),
            ("request_headers.10 get_header_map_value", "2", "1", RUST_PANICS),
            ("request_headers.11 get_header_map_value", "2", "1", RUST_PANICS),
        ],
        ..case(
            "maps-in-request-headers",
            Drive::Get,
            "request_headers:
           args
           get_header_map_value 0 ':path' *v
           get_header_map_value 0 'X-A' *v
           get_header_map_value 0 'user-agent' *v
           get_header_map_value 0 'nothing' *v
           get_header_map_value 0 '' *v
           get_header_map_value 1 'x' *v
           get_header_map_value 2 'x' *v
           get_header_map_value 6 'x' *v
           get_header_map_value 7 'x' *v
           get_header_map_value 4 'x' *v
           get_header_map_value 9 'x' *v
           get_header_map_pairs 1 *v
           get_header_map_pairs 2 *v
           get_header_map_pairs 6 *v
           get_header_map_size 2 *n
           add_header_map_value 2 'x' '1'
           replace_header_map_value 2 'x' '1'
           remove_header_map_value 2 'x'
           add_header_map_value 6 'x' '1'
           set_header_map_pairs 2 {x=1}
           set_header_map_pairs 3 {x=1}
           add_header_map_value 0 'x-new' '1'
           add_header_map_value 0 'x-new' '2'
           get_header_map_value 0 'x-new' *v
           replace_header_map_value 0 'X-New' '3'
           get_header_map_value 0 'x-new' *v
           remove_header_map_value 0 'x-new'
           remove_header_map_value 0 'x-new'
           get_header_map_value 0 'x-new' *v
           add_header_map_value 0 'accept' 'a'
           add_header_map_value 0 'accept' 'b'
           get_header_map_value 0 'accept' *v",
        )
    },
    Case {
        differs: &[("request_body.1 get_header_map_value", "2", "1", RUST_PANICS)],
        ..case(
            "maps-in-request-body",
            Drive::Post("hello"),
            "request_headers:
           args
         request_body:
           until_end
           get_header_map_value 0 ':path' *v
           add_header_map_value 0 'x' '1'
           get_header_map_pairs 0 *v
           add_header_map_value 1 'x' '1'
           get_header_map_value 1 'nothing' *v",
        )
    },
    Case {
        differs: &[
            ("response_headers.0 get_header_map_value", "2", "1", RUST_PANICS),
            ("response_headers.3 get_header_map_value", "2", "1", RUST_PANICS),
            ("response_headers.4 get_header_map_value", "2", "1", RUST_PANICS),
        ],
        ..case(
            "maps-in-response-headers",
            Drive::Get,
            "response_headers:
           get_header_map_value 0 ':path' *v
           get_header_map_value 2 ':status' *v
           get_header_map_value 2 'x-o' *v
           get_header_map_value 1 'x' *v
           get_header_map_value 3 'x' *v
           add_header_map_value 0 'x' '1'
           add_header_map_value 2 'x-t' '1'
           add_header_map_value 2 'x-t' '2'
           replace_header_map_value 2 ':status' '201'
           get_header_map_value 2 ':status' *v",
        )
    },
    case(
        "maps-in-log",
        Drive::Get,
        "log:
           get_header_map_value 0 ':path' *v
           get_header_map_value 0 'nothing' *v
           get_header_map_value 1 'x' *v
           get_header_map_value 2 ':status' *v
           get_header_map_value 3 'x' *v
           get_header_map_pairs 3 *v
           add_header_map_value 0 'x' '1'
           replace_header_map_value 2 'x' '1'
           remove_header_map_value 2 'x'
           get_buffer_bytes 0 0 99 *v
           set_property 'x' '1'
           get_property 'request\\x00path' *v
           get_property 'response\\x00code' *v",
    ),
    Case {
        differs: &[("request_headers.9 get_buffer_bytes", "2", "1", RUST_PANICS)],
        ..case(
            "buffers-in-request-headers",
            Drive::Get,
            "request_headers:
           get_buffer_bytes 0 0 99 *v
           get_buffer_bytes 1 0 99 *v
           get_buffer_bytes 2 0 99 *v
           get_buffer_bytes 3 0 99 *v
           get_buffer_bytes 4 0 99 *v
           get_buffer_bytes 5 0 99 *v
           get_buffer_bytes 6 0 99 *v
           get_buffer_bytes 7 0 99 *v
           get_buffer_bytes 8 0 99 *v
           get_buffer_bytes 99 0 99 *v
           set_buffer_bytes 0 0 0 'x'
           set_buffer_bytes 4 0 0 'x'
           set_buffer_bytes 7 0 0 'x'",
        )
    },
    case(
        "request-body",
        Drive::Post("hello world"),
        "request_headers:
           remove_header_map_value 0 'content-length'
         request_body:
           until_end
           get_buffer_bytes 0 0 99 *v
           get_buffer_bytes 0 6 3 *v
           get_buffer_bytes 0 99 3 *v
           get_buffer_bytes 0 2 -1 *v
           get_buffer_bytes 1 0 9 *v
           get_buffer_status 0 *n *w
           set_buffer_bytes 0 3 2 'x'
           set_buffer_bytes 0 0 0 '<'
           set_buffer_bytes 0 99 0 '>'
           get_buffer_bytes 0 0 99 *v
           set_buffer_bytes 0 0 6 ''
           get_buffer_bytes 0 0 99 *v
           set_buffer_bytes 0 0 99 'new'
           get_buffer_bytes 0 0 99 *v",
    ),
    Case {
        differs: &[("configure.12 get_header_map_value", "2", "1", RUST_PANICS)],
        ..case(
            "configuration-buffers",
            Drive::Root,
            "vm_start:
           args
           get_buffer_bytes 6 0 99 *v
           get_buffer_bytes 7 0 99 *v
         configure:
           args
           get_buffer_bytes 7 0 99 *v
           get_buffer_bytes 7 2 2 *v
           get_buffer_status 7 *n *w
           get_buffer_bytes 6 0 99 *v
           get_property 'plugin_name' *v
           get_property 'plugin_root_id' *v
           get_property 'plugin_vm_id' *v
           get_property 'xds\\x00node\\x00id' *v
           get_property 'xds\\x00node\\x00cluster' *v
           get_property 'request\\x00path' *v
           set_property 'x' '1'
           get_header_map_value 0 'x' *v
           get_header_map_pairs 0 *v
           add_header_map_value 0 'x' '1'
           send_local_response 200 '' '' '' -1
           done",
        )
    },
    Case {
        differs: &[
            ("request_headers.40 get_property", "1", "0 node-of-test", LEGACY),
            ("request_headers.41 get_property", "1", "0 %00%00%00%00%00%00%00%00", LEGACY),
            ("request_headers.42 get_property", "1", "0 o", LEGACY),
            ("request_headers.43 get_property", "1", "0", LEGACY),
            ("request_headers.48 get_property", "1", "0 b", "what was set can be read, whatever its path"),
        ],
        ..case(
            "properties-in-request-headers",
            Drive::Get,
            "request_headers:
           get_property 'request\\x00path' *v
           get_property 'request\\x00path\\x00' *v
           get_property 'request\\x00url_path' *v
           get_property 'request\\x00query' *v
           get_property 'request\\x00host' *v
           get_property 'request\\x00scheme' *v
           get_property 'request\\x00method' *v
           get_property 'request\\x00useragent' *v
           get_property 'request\\x00referer' *v
           get_property 'request\\x00id' *v
           get_property 'request\\x00protocol' *v
           get_property 'request\\x00headers\\x00x-a' *v
           get_property 'request\\x00headers\\x00nothing' *v
           get_property 'request\\x00duration' *v
           get_property 'request\\x00size' *v
           get_property 'request\\x00nothing' *v
           get_property 'request' *v
           get_property '' *v
           get_property 'response\\x00code' *v
           get_property 'response\\x00flags' *v
           get_property 'response\\x00size' *v
           get_property 'response\\x00code_details' *v
           get_property 'connection\\x00mtls' *v
           get_property 'connection\\x00requested_server_name' *v
           get_property 'connection\\x00tls_version' *v
           get_property 'connection\\x00nothing' *v
           get_property 'upstream\\x00address' *v
           get_property 'upstream\\x00port' *v
           get_property 'xds\\x00cluster_name' *v
           get_property 'xds\\x00route_name' *v
           get_property 'xds\\x00filter_chain_name' *v
           get_property 'xds\\x00listener_direction' *v
           get_property 'xds\\x00listener_metadata' *v
           get_property 'xds\\x00nothing' *v
           get_property 'xds\\x00node\\x00id' *v
           get_property 'metadata' *v
           get_property 'metadata\\x00filter_metadata\\x00nothing' *v
           get_property 'filter_state\\x00nothing' *v
           get_property 'nothing' *v
           get_property 'plugin_name' *v
           get_property 'node\\x00id' *v
           get_property 'listener_direction' *v
           get_property 'cluster_name' *v
           get_property 'route_name' *v
           set_property 'one' 'a'
           get_property 'one' *v
           get_property 'filter_state\\x00wasm.one' *v
           set_property 'two\\x00parts' 'b'
           get_property 'two\\x00parts' *v",
        )
    },
    Case {
        differs: &[
            ("request_headers.10 get_property", "1", "0 of-the-route", LEGACY),
            ("request_headers.11 get_property", "1", "0 of-the-cluster", LEGACY),
            ("request_headers.12 get_property", "1", "0 of-the-listener", LEGACY),
        ],
        ..case(
            "metadata-of-what-was-configured",
            Drive::Get,
            "request_headers:
           get_property 'xds\\x00listener_metadata' *v
           get_property 'xds\\x00listener_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'xds\\x00virtual_host_metadata' *v
           get_property 'xds\\x00virtual_host_metadata\\x00filter_metadata\\x00test' *v
           get_property 'xds\\x00route_metadata\\x00filter_metadata\\x00test\\x00number' *v
           get_property 'xds\\x00route_metadata\\x00filter_metadata\\x00test\\x00flag' *v
           get_property 'xds\\x00route_metadata\\x00filter_metadata\\x00test\\x00list' *v
           get_property 'xds\\x00route_metadata\\x00filter_metadata\\x00test\\x00inner\\x00text' *v
           get_property 'xds\\x00route_metadata\\x00filter_metadata\\x00nothing' *v
           get_property 'xds\\x00cluster_metadata' *v
           get_property 'route_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'cluster_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'listener_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'xds\\x00upstream_host_metadata' *v
         response_headers:
           get_property 'xds\\x00route_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'xds\\x00upstream_host_metadata' *v
           get_property 'xds\\x00upstream_host_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'xds\\x00upstream_host_locality_metadata' *v
         log:
           get_property 'xds\\x00listener_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'xds\\x00cluster_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'xds\\x00virtual_host_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'xds\\x00upstream_host_locality_metadata\\x00filter_metadata\\x00test\\x00text' *v",
        )
    },
    case(
        "request-trailers-wait",
        Drive::Trailers,
        "request_headers:
           args
         request_trailers:
           args
           get_header_map_value 1 'x-t-end' *v
           get_header_map_pairs 1 *v
           add_header_map_value 1 'x-t-more' '1'
           http_call 'o' {:method=GET;:path=/called;:authority=a} '' '' 5000 *w
           return 1
         http_call_response:
           set_effective_context $context
           get_header_map_value 1 'x-t-more' *v
           replace_header_map_value 1 'x-t-more' '2'
           get_header_map_value 1 'x-t-more' *v
           continue_stream 0
         response_trailers:
           args",
    ),
    Case {
        differs: &[
            ("response_trailers.2 get_header_map_value", "2", "1", RUST_PANICS),
            ("log.1 get_header_map_value", "1", "0 yes", "the log sees all of the request"),
        ],
        ..case(
            "response-trailers-wait",
            Drive::Trailers,
            "response_trailers:
           args
           get_header_map_value 3 'x-trailer' *v
           get_header_map_value 2 ':status' *v
           add_header_map_value 3 'x-t-more' '1'
           http_call 'o' {:method=GET;:path=/called;:authority=a} '' '' 5000 *w
           return 1
         http_call_response:
           set_effective_context $context
           get_header_map_value 3 'x-t-more' *v
           remove_header_map_value 3 'x-trailer'
           continue_stream 1
         log:
           get_header_map_value 3 'x-t-more' *v
           get_header_map_value 1 'x-t-end' *v",
        )
    },
    Case {
        differs: &[("downstream_data.6 get_header_map_value", "2", "1", RUST_PANICS)],
        ..case(
            "network-filter",
            Drive::Tcp("hello"),
            "new_connection:
           get_property 'request\\x00path' *v
           get_property 'connection\\x00mtls' *v
           get_property 'xds\\x00cluster_name' *v
           get_property 'xds\\x00listener_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_buffer_bytes 2 0 9 *v
         downstream_data:
           if_data
           get_buffer_bytes 2 0 99 *v
           get_buffer_bytes 0 0 99 *v
           set_buffer_bytes 2 0 1 'J'
           set_buffer_bytes 2 99 0 '!'
           get_buffer_bytes 2 0 99 *v
           get_header_map_value 0 ':path' *v
           get_header_map_pairs 0 *v
         upstream_data:
           if_data
           get_buffer_bytes 3 0 1 *v
           get_buffer_bytes 2 0 99 *v
         downstream_connection_close:
           args
         done:
           get_property 'xds\\x00cluster_name' *v
         log:
           get_property 'connection\\x00termination_details' *v",
        )
    },
    Case {
        until: "log.9",
        ..case(
            "access-logger",
            Drive::AccessLog,
            "log:
           get_header_map_value 0 ':path' *v
           get_header_map_value 0 'x-a' *v
           get_header_map_value 2 ':status' *v
           get_header_map_value 2 'x-o' *v
           get_header_map_pairs 3 *v
           add_header_map_value 2 'x' '1'
           get_property 'response\\x00code' *v
           get_property 'request\\x00method' *v
           get_property 'xds\\x00route_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'plugin_name' *v",
        )
    },
    case(
        "properties-at-the-end",
        Drive::Get,
        "log:
           get_property 'request\\x00method' *v
           get_property 'request\\x00headers\\x00x-a' *v
           get_property 'response\\x00code' *v
           get_property 'response\\x00flags' *v
           get_property 'response\\x00code_details' *v
           get_property 'response\\x00grpc_status' *v
           get_property 'response\\x00headers\\x00x-o' *v
           get_property 'response\\x00trailers\\x00x' *v
           get_property 'xds\\x00cluster_name' *v
           get_property 'xds\\x00cluster_metadata' *v
           get_property 'xds\\x00route_metadata\\x00filter_metadata\\x00test\\x00text' *v
           get_property 'xds\\x00virtual_host_name' *v
           get_property 'xds\\x00upstream_host_metadata' *v
           get_property 'upstream\\x00request_attempt_count' *v
           get_property 'upstream\\x00transport_failure_reason' *v
           get_property 'upstream\\x00tls_version' *v
           get_property 'upstream\\x00num_endpoints' *v
           get_property 'upstream\\x00locality' *v
           get_property 'upstream\\x00locality\\x00region' *v
           get_property 'connection\\x00transport_failure_reason' *v
           get_property 'connection\\x00termination_details' *v
           get_property 'upstream\\x00nothing' *v
           get_property 'request\\x00protocol' *v
           get_property 'response\\x00nothing' *v",
    ),
    Case {
        differs: &[("log.1 get_property", "0", "0 why_not", "the details are told to the log, too")],
        ..case(
            "local-reply",
            Drive::Get,
            "request_headers:
           send_local_response 403 'why not' 'go away' {x-t=1} -1
           send_local_response 500 '' '' '' -1
           return 1
         response_headers:
           args
           get_header_map_value 2 ':status' *v
           add_header_map_value 2 'x-t-own' '1'
         response_body:
           args
           get_buffer_bytes 1 0 99 *v
         log:
           get_property 'response\\x00code' *v
           get_property 'response\\x00code_details' *v",
        )
    },
    case(
        "local-reply-to-the-response",
        Drive::Get,
        "response_headers:
           get_header_map_value 2 ':status' *v
           send_local_response 418 '' 'tea' {x-t=2} -1
           return 1
         response_body:
           args",
    ),
    case(
        "local-reply-twice",
        Drive::Get,
        "request_headers:
           send_local_response 403 '' 'first' {x-t=1} -1
           return 1
         response_headers:
           get_header_map_value 2 ':status' *v
           send_local_response 404 '' 'second' {x-t=2} -1
           return 1",
    ),
    case(
        "local-reply-to-grpc",
        Drive::Grpc,
        "request_headers:
           send_local_response 403 '' 'denied' {x-t=1} -1
           return 1",
    ),
    case(
        "local-reply-to-grpc-with-status",
        Drive::Grpc,
        "request_headers:
           send_local_response 200 '' 'denied' '' 9
           return 1",
    ),
    case(
        "stop-iteration-holds-everything",
        Drive::Post("hello"),
        "request_headers:
           http_call 'o' {:method=GET;:path=/call;:authority=a} '' '' 5000 *w
           return 1
         request_body:
           until_end
           get_buffer_bytes 0 0 99 *v
         http_call_response:
           set_effective_context $context
           get_header_map_value 0 ':path' *v
           continue_stream 0",
    ),
    Case {
        plugin: r#"{"allow_on_headers_stop_iteration": true}"#,
        ..case(
            "stop-iteration-lets-the-body-come",
            Drive::Post("hello"),
            "request_headers:
               args
               return 1
             request_body:
               replace_header_map_value 0 ':path' '/changed'
               get_header_map_value 0 ':path' *v",
        )
    },
    case(
        "body-is-kept-until-its-end",
        Drive::Post("hello"),
        "request_headers:
           remove_header_map_value 0 'content-length'
         request_body:
           until_end
           get_buffer_bytes 0 0 99 *v
           set_buffer_bytes 0 0 99 'HELLO WORLD'
         response_headers:
           remove_header_map_value 2 'content-length'
         response_body:
           until_end
           set_buffer_bytes 1 0 9999 'replaced'",
    ),
    case(
        "metrics",
        Drive::Root,
        "configure:
           define_metric 0 'conformance_counter' *w
           increment_metric $w 5L
           increment_metric $w -1L
           increment_metric $w 0L
           record_metric $w 2L
           define_metric 1 'conformance_gauge' *w
           increment_metric $w 3L
           increment_metric $w -5L
           record_metric $w 9L
           define_metric 2 'conformance_histogram' *w
           increment_metric $w 1L
           record_metric $w 7L
           get_metric $w *n
           define_metric 3 'bad' *n
           increment_metric 999999 1L
           record_metric 999999 1L
           get_metric 999999 *w",
    ),
    case(
        "shared-data",
        Drive::Get,
        "request_headers:
           get_shared_data 'key' *v *n
           set_shared_data 'key' 'value' 0
           get_shared_data 'key' *v *n
           set_shared_data 'key' 'other' $n
           set_shared_data 'key' 'late' $n
           get_shared_data 'key' *v *w
           set_shared_data 'absent' 'x' 77
           get_shared_data '' *v *n",
    ),
    case(
        "queues",
        Drive::Get,
        "configure:
           resolve_shared_queue 'queues' 'nothing' *w
           register_shared_queue 'q' *w
         request_headers:
           resolve_shared_queue 'queues' 'q' *w
           resolve_shared_queue 'other' 'q' *w
           dequeue_shared_queue 999999 *v
           enqueue_shared_queue 999999 'x'",
    ),
    Case {
        until: "queue_ready.0",
        ..case(
            "queue-ready",
            Drive::Get,
            "configure:
               register_shared_queue 'q' *w
             request_headers:
               enqueue_shared_queue $w 'message'
             queue_ready:
               dequeue_shared_queue $1 *v
               dequeue_shared_queue $1 *v",
        )
    },
    case(
        "http-call",
        Drive::Get,
        "request_headers:
           http_call 'o' {:method=POST;:path=/call;:authority=a;x-origin=header=x-o\\x3a2} 'body' '' 5000 *w
           return 1
         http_call_response:
           get_header_map_value 6 ':status' *v
           get_header_map_value 6 'x-o' *v
           get_header_map_value 6 'nothing' *v
           get_header_map_pairs 7 *v
           get_buffer_bytes 4 0 20 *v
           add_header_map_value 6 'x' '1'
           get_status *n *v
           set_effective_context $context
           get_header_map_value 0 ':path' *v
           add_header_map_value 0 'x-gen-call' '1'
           continue_stream 0
         response_headers:
           get_header_map_value 2 'x-seen-gen-call' *v",
    ),
    case(
        "http-call-with-trailers",
        Drive::Get,
        "request_headers:
           http_call 'grpc' {:method=POST;:path=/call;:authority=a;x-origin=trailers\\x3bbody=5} 'body' {x-t=1} 5000 *w
           return 1
         http_call_response:
           get_header_map_value 6 ':status' *v
           get_header_map_value 7 'x-trailer' *v
           get_header_map_pairs 7 *v
           add_header_map_value 7 'x' '1'
           get_buffer_bytes 4 0 99 *v
           set_effective_context $context
           continue_stream 0",
    ),
    case(
        "http-call-that-cannot-be",
        Drive::Get,
        "request_headers:
           http_call 'nothing' {:method=GET;:path=/;:authority=a} '' '' 1000 *w
           http_call 'o' {:method=GET;:path=/} '' '' 1000 *w
           http_call 'o' {:method=GET;:authority=a} '' '' 1000 *w
           http_call 'o' {:path=/;:authority=a} '' '' 1000 *w
           http_call 'o' '' '' '' 1000 *w
           http_call '' {:method=GET;:path=/;:authority=a} '' '' 1000 *w",
    ),
    case(
        "http-call-to-nobody",
        Drive::Get,
        "request_headers:
           http_call 'nobody' {:method=GET;:path=/;:authority=a} '' '' 5000 *w
           return 1
         http_call_response:
           get_header_map_value 6 ':status' *v
           get_header_map_value 6 'content-type' *v
           get_status *n *v
           set_effective_context $context
           continue_stream 0",
    ),
    Case {
        differs: &[(
            "request_headers.0 http_call",
            "10",
            "0",
            "answered like every other call that fails: by a 503, later",
        )],
        ..case(
            "http-call-to-an-empty-cluster",
            Drive::Get,
            "request_headers:
           http_call 'empty' {:method=GET;:path=/;:authority=a} '' '' 5000 *w",
        )
    },
    case(
        "http-call-that-takes-too-long",
        Drive::Get,
        "request_headers:
           http_call 'o' {:method=GET;:path=/;:authority=a;x-origin=silent} '' '' 50 *w
           return 1
         http_call_response:
           get_header_map_value 6 ':status' *v
           get_buffer_bytes 4 0 99 *v
           get_status *n *v
           set_effective_context $context
           continue_stream 0",
    ),
    case(
        "grpc-call",
        Drive::Get,
        "request_headers:
           grpc_call 'grpc' 'pkg.Service' 'Method' {x-m=1} 'question' 5000 *w
           return 1
         grpc_receive_initial_metadata:
           args
         grpc_receive:
           get_buffer_bytes 5 0 99 *v
           get_header_map_pairs 4 *v
           get_header_map_pairs 5 *v
           get_buffer_status 5 *n *w
           set_effective_context $context
           continue_stream 0
         grpc_close:
           get_status *n *v",
    ),
    case(
        "grpc-call-to-nobody",
        Drive::Get,
        "request_headers:
           grpc_call 'nobody' 's' 'm' '' '' 5000 *w
           return 1
         grpc_receive:
           args
         grpc_close:
           get_buffer_bytes 5 0 99 *v
           set_effective_context $context
           continue_stream 0",
    ),
    Case {
        differs: &[("grpc_close.0 get_status", "0 0 via_upstream", "0 0", "the message is what the server sent")],
        ..case(
            "grpc-stream",
            Drive::Get,
            "request_headers:
           grpc_stream 'grpc' 'pkg.Service' 'Method' {x-m=1} *w
           grpc_send $w 'one' 0
           grpc_send $w '' 0
           grpc_close $w
           grpc_send 999998 'x' 0
           grpc_close 999998
           grpc_cancel 999998
           return 1
         grpc_receive:
           get_buffer_bytes 5 0 99 *v
         grpc_receive_trailing_metadata:
           get_header_map_value 5 'grpc-status' *v
         grpc_close:
           get_status *n *v
           set_effective_context $context
           continue_stream 0",
        )
    },
    Case {
        differs: &[("request_headers.2 get_header_map_value", "2", "1", RUST_PANICS)],
        ..case(
            "contexts",
            Drive::Get,
            "request_headers:
           set_effective_context 999999
           set_effective_context 1
           get_header_map_value 0 ':path' *v
           set_effective_context $context
           get_header_map_value 0 ':path' *v
           done
           continue_stream 7
           close_stream 7
           get_status *n *v
           log 9 'x'
           log 0 'x'
           get_log_level *n
           get_current_time_nanoseconds *w
           set_tick_period_milliseconds 0",
        )
    },
    Case {
        until: "tick.0",
        ..case(
            "ticks",
            Drive::Root,
            "configure:
               set_tick_period_milliseconds 20
             tick:
               set_tick_period_milliseconds 0
               get_property 'plugin_root_id' *v
               get_property 'request\\x00path' *v",
        )
    },
    case(
        "foreign-functions",
        Drive::Get,
        "request_headers:
           call_foreign_function 'nothing' '' *v
           call_foreign_function 'clear_route_cache' '' *v
           call_foreign_function 'uncompress' 'rubbish' *v
           call_foreign_function 'uncompress' '\\x78\\x9c\\x4b\\x04\\x00\\x00\\x62\\x00\\x62' *v
           call_foreign_function 'verify_signature' 'rubbish' *v
           call_foreign_function 'verify_signature' '' *v
           call_foreign_function 'sign' '' *v
           call_foreign_function 'set_envoy_filter_state' '\\x0a\\x05other\\x12\\x01v' *v
           call_foreign_function 'expr_create' 'request.path' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' '1 +' *v
           call_foreign_function 'expr_delete' 'x' *v
           call_foreign_function 'declare_property' '\\x0a\\x04once\\x10\\x01' *v
           call_foreign_function 'declare_property' '\\x0a\\x04once\\x10\\x01' *v",
    ),
    case(
        "expressions",
        Drive::Get,
        "request_headers:
           call_foreign_function 'expr_create' 'request.path.startsWith(\"/path\")' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'request.headers[\"user-agent\"]' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'size(request.method) + 2' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'request.nothing == \"x\"' *v
           call_foreign_function 'expr_evaluate' $v *v
           call_foreign_function 'expr_create' 'plugin_name' *v
           call_foreign_function 'expr_evaluate' $v *v",
    ),
    Case {
        abi: "0_1_0",
        ..case(
            "abi-0-1-0",
            Drive::Get,
            "configure:
               get_configuration *v
             request_headers:
               args
               get_header_map_value 0 ':path' *v
               get_header_map_value 0 'nothing' *v
               get_configuration *v
               clear_route_cache
             response_headers:
               args",
        )
    },
    Case {
        plugin: r#"{"capability_restriction_config": {"allowed_capabilities": {
            "proxy_log": {}, "proxy_on_configure": {}, "proxy_on_request_headers": {}, "proxy_on_delete": {},
            "proxy_on_context_create": {}}}}"#,
        ..case(
            "capabilities",
            Drive::Get,
            "configure:
               get_property 'plugin_name' *v
             request_headers:
               get_header_map_value 0 ':path' *v
               add_header_map_value 0 'x' '1'
               wasi.environ_sizes_get *n *w
               wasi.random_get *n 0
             response_headers:
               args",
        )
    },
    Case {
        plugin: r#"{"vm_config": {"environment_variables": {"key_values": {"A": "1", "LONG": "value"}}}}"#,
        ..case(
            "environment-and-wasi",
            Drive::Root,
            "configure:
               wasi.environ_sizes_get *n *w
               wasi.args_sizes_get *n *w
               wasi.clock_time_get 0 0L *w
               wasi.clock_time_get 1 0L *w
               wasi.clock_time_get 7 0L *w
               wasi.random_get *w 8
               wasi.random_get *w 99999
               wasi.fd_prestat_get 3 *w
               wasi.fd_prestat_dir_name 3 *w 8
               wasi.fd_read 0 *v *w
               wasi.fd_close 1
               wasi.fd_filestat_get 1 *w
               wasi.sched_yield
               wasi.path_unlink_file 3 *v",
        )
    },
    case(
        "added-twice",
        Drive::Get,
        "request_headers:
           add_header_map_value 0 'accept' 'a'
           add_header_map_value 0 'accept' 'b'
           get_header_map_value 0 'accept' *v
           add_header_map_value 0 'accept-encoding' 'a'
           add_header_map_value 0 'accept-encoding' 'b'
           get_header_map_value 0 'accept-encoding' *v
           add_header_map_value 0 'authorization' 'a'
           add_header_map_value 0 'authorization' 'b'
           get_header_map_value 0 'authorization' *v
           add_header_map_value 0 'cache-control' 'a'
           add_header_map_value 0 'cache-control' 'b'
           get_header_map_value 0 'cache-control' *v
           add_header_map_value 0 'content-type' 'a'
           add_header_map_value 0 'content-type' 'b'
           get_header_map_value 0 'content-type' *v
           add_header_map_value 0 'via' 'a'
           add_header_map_value 0 'via' 'b'
           get_header_map_value 0 'via' *v
           add_header_map_value 0 'x-forwarded-for' 'a'
           add_header_map_value 0 'x-forwarded-for' 'b'
           get_header_map_value 0 'x-forwarded-for' *v
           add_header_map_value 0 'x-forwarded-proto' 'a'
           add_header_map_value 0 'x-forwarded-proto' 'b'
           get_header_map_value 0 'x-forwarded-proto' *v
           add_header_map_value 0 'user-agent' 'a'
           add_header_map_value 0 'user-agent' 'b'
           get_header_map_value 0 'user-agent' *v
           add_header_map_value 0 'te' 'a'
           add_header_map_value 0 'te' 'b'
           get_header_map_value 0 'te' *v
           add_header_map_value 0 'origin' 'a'
           add_header_map_value 0 'origin' 'b'
           get_header_map_value 0 'origin' *v
           add_header_map_value 0 'referer' 'a'
           add_header_map_value 0 'referer' 'b'
           get_header_map_value 0 'referer' *v
           add_header_map_value 0 'cookie' 'a'
           add_header_map_value 0 'cookie' 'b'
           get_header_map_value 0 'cookie' *v
           add_header_map_value 0 'set-cookie' 'a'
           add_header_map_value 0 'set-cookie' 'b'
           get_header_map_value 0 'set-cookie' *v
           add_header_map_value 0 'if-none-match' 'a'
           add_header_map_value 0 'if-none-match' 'b'
           get_header_map_value 0 'if-none-match' *v
           add_header_map_value 0 'grpc-timeout' 'a'
           add_header_map_value 0 'grpc-timeout' 'b'
           get_header_map_value 0 'grpc-timeout' *v
           add_header_map_value 0 'x-request-id' 'a'
           add_header_map_value 0 'x-request-id' 'b'
           get_header_map_value 0 'x-request-id' *v
           add_header_map_value 0 'forwarded' 'a'
           add_header_map_value 0 'forwarded' 'b'
           get_header_map_value 0 'forwarded' *v
           add_header_map_value 0 'accept-language' 'a'
           add_header_map_value 0 'accept-language' 'b'
           get_header_map_value 0 'accept-language' *v
           add_header_map_value 0 'vary' 'a'
           add_header_map_value 0 'vary' 'b'
           get_header_map_value 0 'vary' *v
           add_header_map_value 0 'expect' 'a'
           add_header_map_value 0 'expect' 'b'
           get_header_map_value 0 'expect' *v",
    ),
    Case {
        differs: &[
            ("client", "404 content-length:0 x-t-split:1 x-t:a x-t:a\0b", "200", "no guest splits a message"),
            ("request_headers.0 add_header_map_value", "0", "2", "no name has a space"),
            ("request_headers.1 add_header_map_value", "0", "2", "no name is empty"),
            ("request_headers.2 replace_header_map_value", "0", "2", "no path is empty"),
            ("response_headers.0 add_header_map_value", "0", "2", "no guest splits a message"),
            ("response_headers.1 add_header_map_value", "0", "2", "no value has a NUL"),
        ],
        ..case(
            "bad-headers",
            Drive::Get,
            "request_headers:
           add_header_map_value 0 'x y' '1'
           add_header_map_value 0 '' '1'
           replace_header_map_value 0 ':path' ''
         response_headers:
           add_header_map_value 2 'x-t' 'a\\x0d\\x0ax-t-split\\x3a 1'
           add_header_map_value 2 'x-t' 'a\\x00b'",
        )
    },
    case(
        "pointers-at-the-edges",
        Drive::Get,
        "request_headers:
           log 2 1048570 10
           log 2 1048576 0
           log 2 -1 1
           get_header_map_value 0 -1 1 *v
           get_header_map_value 0 1048570 10 *v
           get_header_map_pairs 0 -1 36
           get_header_map_size 0 -1
           add_header_map_value 0 'x' -1 5
           add_header_map_value 0 -5 10 'x'
           set_header_map_pairs 0 -1 4
           get_property -1 4 *v
           set_property 'x' -1 4
           get_buffer_bytes 0 0 9 -1 36
           set_buffer_bytes 0 0 0 -1 9
           send_local_response 200 -1 5 '' '' -1
           set_shared_data 'k' -1 5 0
           get_shared_data -1 5 *v *n
           register_shared_queue -1 5 *n
           define_metric 0 -1 5 *n
           define_metric 0 'edge' -1
           get_current_time_nanoseconds -4
           http_call 'o' -1 5 '' '' 1000 *w
           call_foreign_function -1 5 '' *v
           wasi.random_get 1048570 10
           wasi.fd_write 1 -1 1 *n",
    ),
];
