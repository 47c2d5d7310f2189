//! Further cases: hostcalls in the wrong phase, arguments that are none, what the older ABI has of its own, every action.

use crate::cases::{Case, Drive, RUST_PANICS, case};

const UNREAD: &str = "a list that cannot be read takes no header away";

pub(crate) const EDGES: &[Case] = &[
    Case {
        differs: &[
            ("vm_start.0 get_header_map_value", "2", "1", RUST_PANICS),
            ("configure.0 get_header_map_value", "2", "1", RUST_PANICS),
        ],
        ..case(
            "root-has-no-stream",
            Drive::Root,
            "vm_start:
           get_header_map_value 0 ':path' *v
           get_header_map_pairs 0 *v
           get_header_map_size 2 *n
           add_header_map_value 0 'x' '1'
           set_header_map_pairs 2 {x=1}
           remove_header_map_value 0 'x'
           get_buffer_bytes 0 0 9 *v
           get_buffer_bytes 2 0 9 *v
           get_buffer_bytes 4 0 9 *v
           get_buffer_status 0 *n *w
           set_buffer_bytes 0 0 0 'x'
           get_property 'request\\x00path' *v
           set_property 'x' '1'
           send_local_response 200 '' '' '' -1
           get_status *n *v
           done
         configure:
           get_header_map_value 0 ':path' *v
           set_buffer_bytes 1 0 0 'x'
           get_property 'response\\x00code' *v
           send_local_response 200 '' '' '' -1
           done",
        )
    },
    Case {
        differs: &[("request_headers.9 get_buffer_status", "2", "1", RUST_PANICS)],
        ..case(
            "buffers-have-a-size",
            Drive::Get,
            "request_headers:
           get_buffer_status 0 *n *w
           get_buffer_status 1 *n *w
           get_buffer_status 2 *n *w
           get_buffer_status 3 *n *w
           get_buffer_status 4 *n *w
           get_buffer_status 5 *n *w
           get_buffer_status 6 *n *w
           get_buffer_status 7 *n *w
           get_buffer_status 8 *n *w
           get_buffer_status 99 *n *w
         log:
           get_buffer_status 0 *n *w",
        )
    },
    Case {
        differs: &[
            ("request_headers.0 set_header_map_pairs", "0", "2", UNREAD),
            ("request_headers.2 set_header_map_pairs", "0", "2", UNREAD),
            ("request_headers.4 set_header_map_pairs", "0", "2", UNREAD),
            ("request_headers.1 get_header_map_value", "1", "0 1", UNREAD),
            ("request_headers.3 get_header_map_value", "1", "0 1", UNREAD),
            ("request_headers.5 get_header_map_value", "1", "0 1", UNREAD),
            ("client", "404 content-length:0", "200", UNREAD),
        ],
        ..case(
            "lists-that-are-none",
            Drive::Get,
            "request_headers:
           set_header_map_pairs 0 '\\x02\\x00\\x00\\x00\\x01\\x00\\x00\\x00\\x01\\x00\\x00\\x00x\\x001\\x00'
           get_header_map_value 0 'x-a' *v
           set_header_map_pairs 0 '\\xff\\xff\\xff\\xff'
           get_header_map_value 0 'x-a' *v
           set_header_map_pairs 0 '\\x01'
           get_header_map_value 0 'x-a' *v",
        )
    },
    case(
        "lists-of-a-call",
        Drive::Get,
        "request_headers:
           http_call 'o' '\\xff\\xff\\xff\\xff' '' '' 1000 *w
           http_call 'o' '\\x01' '' '' 1000 *w
           http_call 'o' '' '' '\\xff\\xff\\xff\\xff' 1000 *w
           http_call 'o' {:method=GET;:path=/;:authority=a} '' '' -1 *w",
    ),
    Case {
        abi: "0_1_0",
        ..case(
            "abi-0-1-0-goes-on",
            Drive::Get,
            "request_headers:
               http_call 'o' {:method=GET;:path=/call;:authority=a} '' '' 5000 *w
               return 1
             http_call_response:
               set_effective_context $context
               add_header_map_value 0 'x-gen-call' '1'
               continue_request
             response_headers:
               get_header_map_value 2 'x-seen-gen-call' *v",
        )
    },
    Case {
        abi: "0_1_0",
        ..case(
            "abi-0-1-0-goes-on-with-the-response",
            Drive::Get,
            "response_headers:
               http_call 'o' {:method=GET;:path=/call;:authority=a} '' '' 5000 *w
               return 1
             http_call_response:
               set_effective_context $context
               add_header_map_value 2 'x-t' 'late'
               continue_response",
        )
    },
    Case {
        abi: "0_2_0",
        ..case(
            "abi-0-2-0",
            Drive::Post("hello"),
            "configure:
               get_buffer_bytes 7 0 99 *v
             request_headers:
               args
               get_header_map_value 0 'nothing' *v
               set_property 'kept' 'v'
               get_property 'kept' *v
             request_body:
               until_end
               get_buffer_bytes 0 0 99 *v
             response_headers:
               get_header_map_value 2 ':status' *v",
        )
    },
    case(
        "response-waits-for-a-call",
        Drive::Get,
        "response_headers:
           http_call 'o' {:method=GET;:path=/call;:authority=a;x-origin=status=204} '' '' 5000 *w
           return 1
         http_call_response:
           get_header_map_value 6 ':status' *v
           get_buffer_bytes 4 0 99 *v
           set_effective_context $context
           get_header_map_value 2 ':status' *v
           add_header_map_value 2 'x-t' 'late'
           continue_stream 1",
    ),
    case(
        "reply-in-an-answer",
        Drive::Get,
        "request_headers:
           http_call 'o' {:method=GET;:path=/call;:authority=a} '' '' 5000 *w
           return 1
         http_call_response:
           set_effective_context $context
           send_local_response 403 'not allowed' 'no' {x-t=1;x-t=2} -1
         response_headers:
           get_header_map_value 2 ':status' *v
           get_header_map_pairs 3 *v",
    ),
    case(
        "action-continue-and-end",
        Drive::Post("hello"),
        "request_headers:\n return 2\nrequest_body:\n get_buffer_bytes 0 0 99 *v",
    ),
    case(
        "action-stop-all-and-buffer",
        Drive::Post("hello"),
        "request_headers:
           http_call 'o' {:method=GET;:path=/call;:authority=a} '' '' 5000 *w
           return 3
         http_call_response:
           set_effective_context $context
           continue_stream 0
         request_body:
           args",
    ),
    case(
        "action-stop-all-and-watermark",
        Drive::Post("hello"),
        "request_headers:
           http_call 'o' {:method=GET;:path=/call;:authority=a} '' '' 5000 *w
           return 4
         http_call_response:
           set_effective_context $context
           continue_stream 0
         request_body:
           args",
    ),
    case(
        "action-that-is-none-of-trailers",
        Drive::Trailers,
        "request_trailers:\n return 0\nresponse_trailers:\n return 0",
    ),
    case(
        "compression",
        Drive::Root,
        "configure:
           call_foreign_function 'compress' 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' 32 36
           call_foreign_function 'uncompress' $v *v
           call_foreign_function 'compress' '' 32 36
           call_foreign_function 'uncompress' $v *v
           call_foreign_function 'uncompress' '' *v",
    ),
    case(
        "grpc-cancelled",
        Drive::Get,
        "request_headers:
           grpc_stream 'grpc' 'pkg.Service' 'Method' '' *w
           grpc_cancel $w
           grpc_cancel $w
           grpc_send $w 'x' 0
           grpc_call 'grpc' 'pkg.Service' 'Method' '' 'x' 5000 *w
           grpc_send $w 'x' 0
           grpc_close $w
           grpc_close $w
         grpc_receive:
           args
         grpc_close:
           args",
    ),
    case(
        "effective-context-of-the-stream",
        Drive::Get,
        "request_headers:
           set_effective_context 1
           set_property 'of-root' '1'
           get_property 'plugin_name' *v
           set_tick_period_milliseconds 0
           set_effective_context $context
           set_property 'of-stream' '1'
           get_property 'of-stream' *v
         response_headers:
           get_property 'of-stream' *v
         log:
           get_property 'of-stream' *v",
    ),
    case(
        "nothing-is-for-nothing",
        Drive::Get,
        "request_headers:
           set_property '' ''
           get_property '' *v
           set_shared_data '' '' 0
           set_property 'empty' ''
           get_property 'empty' *v
           add_header_map_value 0 'x-empty' ''
           get_header_map_value 0 'x-empty' *v
           log 2 ''
           call_foreign_function '' '' *v
           resolve_shared_queue '' '' *w
           get_buffer_bytes 0 0 0 *v
           http_call '' '' '' '' 0 *w",
    ),
    case(
        "calls-in-the-log",
        Drive::Get,
        "log:
           http_call 'o' {:method=GET;:path=/log;:authority=a} '' '' 5000 *w
           get_buffer_bytes 0 0 9 *v
           get_buffer_bytes 1 0 9 *v
           set_buffer_bytes 1 0 0 'x'
           set_property 'late' '1'
           get_property 'late' *v
           get_property 'response\\x00code' *v
           set_header_map_pairs 2 {x=1}
           remove_header_map_value 0 'x'",
    ),
    Case {
        differs: &[(
            "http_call_response.4 get_buffer_bytes",
            "0 Jello",
            "0",
            "what was let go is out of reach, as a body is",
        )],
        ..case(
            "network-goes-on",
            Drive::Tcp("hello"),
            "new_connection:
           get_buffer_status 2 *n *w
         downstream_data:
           if_data
           http_call 'o' {:method=GET;:path=/call;:authority=a} '' '' 5000 *w
           return 1
         http_call_response:
           set_effective_context $context
           get_buffer_bytes 2 0 9 *v
           set_buffer_bytes 2 0 1 'J'
           continue_stream 2
           get_buffer_bytes 2 0 9 *v
         upstream_connection_close:
           args",
        )
    },
    case(
        "network-is-closed",
        Drive::Tcp("hello"),
        "downstream_data:
           if_data
           close_stream 2
           return 1",
    ),
    Case {
        plugin: r#"{"vm_config": {"environment_variables": {"host_env_keys": ["PATH", "NOBODY_HAS_THIS"]}}}"#,
        ..case("environment-of-the-host", Drive::Root, "configure:\n wasi.environ_sizes_get *n *w")
    },
    case("end-of-a-stream", Drive::Get, "response_headers:\n args\nlog:\n args\ndone:\n args\ndelete:\n args"),
    Case {
        until: "http_call_response.2",
        ..case(
            "answer-after-the-stream",
            Drive::Get,
            "request_headers:
               http_call 'o' {:method=GET;:path=/;:authority=a;x-origin=silent} '' '' 500 *w
             http_call_response:
               get_header_map_value 6 ':status' *v
               set_effective_context $context
               continue_stream 0",
        )
    },
    case(
        "reply-when-a-context-is-made",
        Drive::Get,
        "context_create:
           send_local_response 403 '' 'no' {x-t=1} -1
         request_headers:
           args
         response_headers:
           get_header_map_value 2 ':status' *v",
    ),
    case(
        "request-that-is-kept-too-long",
        Drive::Flood,
        "request_body:
           return 1
         response_headers:
           get_header_map_value 2 ':status' *v
         response_body:
           get_buffer_bytes 1 0 99 *v
         log:
           get_property 'response\\x00code' *v
           get_property 'response\\x00code_details' *v",
    ),
    case(
        "response-that-is-kept-too-long",
        Drive::Flood,
        "response_body:
           return 1
         log:
           get_property 'response\\x00code' *v
           get_property 'response\\x00code_details' *v",
    ),
    case(
        "request-beyond-the-listeners-limit",
        Drive::Bounded,
        "request_body:
           return 1
         response_headers:
           get_header_map_value 2 ':status' *v
         response_body:
           get_buffer_bytes 1 0 99 *v
         log:
           get_property 'response\\x00code' *v
           get_property 'response\\x00code_details' *v",
    ),
    case(
        "response-beyond-the-listeners-limit",
        Drive::Bounded,
        "response_body:
           return 1
         log:
           get_property 'response\\x00code' *v
           get_property 'response\\x00code_details' *v",
    ),
    case(
        "bodies-that-the-guest-keeps-itself",
        Drive::Flood,
        "request_headers:
           remove_header_map_value 0 'content-length'
         response_headers:
           remove_header_map_value 2 'content-length'
         request_body:
           set_buffer_bytes 0 0 999999 ''
         response_body:
           set_buffer_bytes 1 0 999999 ''
         log:
           get_property 'response\\x00code' *v",
    ),
];
