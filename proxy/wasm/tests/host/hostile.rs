//! A hostile guest: every hostcall with every kind of bad argument in every phase. Nothing panics, nothing is reached that
//! isn't the guest's, and no status is answered that the SDKs don't survive.

use std::fmt::Write as _;
use std::time::Duration;

use outrigger_wasm::{CallFailure, CallResponse, Effect, GrpcEvent, Limits, Vm};

use crate::fixture::{Fixture, connection, on, raw, stream, with_limits};

/// Statuses as a set of bits.
const fn set(statuses: &[u32]) -> u32 {
    let (mut bits, mut at) = (0, 0);
    while at < statuses.len() {
        bits |= 1 << statuses[at];
        at += 1;
    }
    bits
}

/// What a bad pointer answers, whatever is asked: only a broken guest sees it.
const BAD_POINTER: u32 = 6;

/// Hostcalls, their parameters (`l` is an i64), and what they may answer besides [`BAD_POINTER`]. Where the Rust SDK takes a
/// status, it is one of its (proxy-wasm-host.md §2.2, column R), but for `BadArgument` to arguments that it never gives.
const HOSTCALLS: &[(&str, &str, u32)] = &[
    ("log", "iii", set(&[0, 2])),
    ("get_log_level", "i", set(&[0])),
    ("get_current_time_nanoseconds", "i", set(&[0])),
    ("get_configuration", "ii", set(&[0])),
    ("get_property", "iiii", set(&[0, 1, 3])),
    ("set_property", "iiii", set(&[0, 1, 2])),
    ("get_status", "iii", set(&[0])),
    ("send_local_response", "iiiiiiii", set(&[0, 2])),
    ("continue_request", "", set(&[0])),
    ("continue_response", "", set(&[0])),
    ("continue_stream", "i", set(&[0, 2])),
    ("close_stream", "i", set(&[0, 2])),
    ("clear_route_cache", "", set(&[0])),
    ("done", "", set(&[0, 1])),
    ("set_effective_context", "i", set(&[0, 2])),
    ("get_shared_data", "iiiii", set(&[0, 1])),
    ("set_shared_data", "iiiii", set(&[0, 8])),
    ("register_shared_queue", "iii", set(&[0, 10])),
    ("resolve_shared_queue", "iiiii", set(&[0, 1])),
    ("dequeue_shared_queue", "iii", set(&[0, 1, 7])),
    ("enqueue_shared_queue", "iii", set(&[0, 1])),
    ("get_header_map_size", "ii", set(&[0, 2])),
    ("get_header_map_pairs", "iii", set(&[0, 2])),
    ("set_header_map_pairs", "iii", set(&[0, 2])),
    ("get_header_map_value", "iiiii", set(&[0, 1])),
    ("add_header_map_value", "iiiii", set(&[0, 2])),
    ("replace_header_map_value", "iiiii", set(&[0, 2])),
    ("remove_header_map_value", "iii", set(&[0, 2])),
    ("get_buffer_bytes", "iiiii", set(&[0, 1])),
    ("get_buffer_status", "iii", set(&[0, 1])),
    ("set_buffer_bytes", "iiiii", set(&[0, 1, 2])),
    ("http_call", "iiiiiiiiii", set(&[0, 2, 10])),
    ("grpc_call", "iiiiiiiiiiii", set(&[0, 4, 10])),
    ("grpc_stream", "iiiiiiiii", set(&[0, 4, 10])),
    ("grpc_send", "iiii", set(&[0, 1, 2])),
    ("grpc_cancel", "i", set(&[0, 1])),
    ("grpc_close", "i", set(&[0, 1])),
    ("define_metric", "iiii", set(&[0, 2, 10])),
    ("increment_metric", "il", set(&[0, 1, 2])),
    ("record_metric", "il", set(&[0, 1])),
    ("get_metric", "ii", set(&[0, 1, 2])),
    ("call_foreign_function", "iiiiii", set(&[0, 1, 2, 3, 10])),
];

/// Numbers at which arithmetic, memory and enumerations end. The guest has four pages.
const EDGES: [u32; 16] =
    [0, 1, 2, 3, 7, 8, 32, 64, 1000, 0x3_fff0, 0x3_fffc, 0x3_ffff, 0x4_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX];
const ROUNDS: usize = 24;

/// Small, seeded, good enough to mix arguments.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits")
    }
}

/// Calls everything; traps with the call's number in gauge `x` and its status in `y` if that isn't one of the allowed.
fn attack(random: &mut Random) -> String {
    let mut calls = String::new();
    for round in 0..ROUNDS {
        for (index, (name, params, allowed)) in HOSTCALLS.iter().enumerate() {
            let arguments: String = params
                .chars()
                .map(|param| {
                    let value = EDGES[random.next() % EDGES.len()];
                    if param == 'l' { format!("(i64.const {value})") } else { format!("(i32.const {value})") }
                })
                .collect();
            let number = round * 1000 + index;
            let allowed = allowed | 1 << BAD_POINTER;
            let _ =
                writeln!(calls, "(call $check (i32.const {number}) (i32.const {allowed}) (call $f{name} {arguments}))");
        }
    }
    calls
}

fn guest(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let imports: String = HOSTCALLS
        .iter()
        .map(|(name, params, _)| {
            let params: Vec<&str> = params.chars().map(|param| if param == 'l' { "i64" } else { "i32" }).collect();
            format!(r#"(import "env" "proxy_{name}" (func $f{name} (param {}) (result i32)))"#, params.join(" "))
        })
        .collect();
    let callbacks: String = [
        "configure",
        "request_headers",
        "request_body",
        "response_headers",
        "response_body",
        "response_trailers",
        "log",
        "done",
        "delete",
        "tick",
        "http_call_response",
        "grpc_receive",
        "grpc_close",
        "queue_ready",
        "downstream_data",
        "downstream_connection_close",
    ]
    .map(|callback| on(callback, "(call $attack)"))
    .concat();
    let data =
        r#"(data (i32.const 0) "\01\00\00\00\01\00\00\00\01\00\00\00a\00b\00known\00:path\00request\00path\00")"#;
    raw(&format!(
        r#"{imports}
           (import "env" "proxy_set_tick_period_milliseconds" (func $tick_period (param i32) (result i32)))
           (memory (export "memory") 4) {data}
           (global $heap (mut i32) (i32.const 131072))
           (func (export "malloc") (param $n i32) (result i32)
             (if (i32.gt_u (i32.add (global.get $heap) (local.get $n)) (i32.const 250000))
               (then (global.set $heap (i32.const 131072))))
             (global.get $heap)
             (global.set $heap (i32.add (global.get $heap) (local.get $n))))
           (func (export "proxy_abi_version_0_2_1"))
           (func $report (param $letter i32) (param $value i32)
             (i32.store8 (i32.const 16) (local.get $letter))
             (drop (call $fdefine_metric (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))
             (drop (call $frecord_metric (i32.load (i32.const 24)) (i64.extend_i32_u (local.get $value)))))
           (func $check (param $number i32) (param $allowed i32) (param $status i32)
             (if (i32.or (i32.gt_u (local.get $status) (i32.const 12))
                   (i32.eqz (i32.and (local.get $allowed) (i32.shl (i32.const 1) (local.get $status)))))
               (then (call $report (i32.const 120) (local.get $number)) (call $report (i32.const 121) (local.get $status))
                 (unreachable))))
           (func $attack {}
             (drop (call $tick_period (i32.const 1000))))
           {callbacks}"#,
        attack(&mut random)
    ))
}

/// What the guest asked for, answered as a data plane would.
fn answer(vm: &mut Vm) -> usize {
    let effects = vm.take_effects();
    let count = effects.len();
    for effect in effects.into_iter().take(20) {
        match effect {
            Effect::HttpCall(call) => {
                let failure = CallResponse { failure: Some(CallFailure::Reset), ..CallResponse::default() };
                vm.on_http_call_response(call.token, failure).expect("no trap");
            }
            Effect::GrpcOpen(open) => {
                vm.on_grpc(open.token, GrpcEvent::Message(bytes::Bytes::from_static(b"x"))).expect("no trap");
                vm.on_grpc(open.token, GrpcEvent::Close { status: 1, message: String::new() }).expect("no trap");
            }
            _ => {}
        }
    }
    count
}

#[test]
fn every_hostcall_survives_every_argument_in_every_phase() {
    let limits = Limits {
        callback_timeout: Duration::from_secs(20),
        hostcalls_per_callback: 100_000,
        log_bytes_per_second: 0,
        ..Limits::default()
    };
    for seed in 1..=6u64 {
        let fixture = Fixture::new();
        let mut vm = fixture
            .start(&guest(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)), &with_limits(limits.clone()))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}: call {}", fixture.statuses()));
        let blame = |outcome: Result<(), outrigger_wasm::Trap>| {
            outcome.unwrap_or_else(|trap| panic!("seed {seed}: {trap}: call {}", fixture.statuses()));
        };
        let root = vm.roots().map(|(root, _)| root).next().expect("a plugin");
        let http = stream(&mut vm);
        blame(vm.on_request_headers(http.id, false).map(|_| ()));
        http.receive("body");
        blame(vm.on_request_body(http.id, true).map(|_| ()));
        http.respond(200);
        blame(vm.on_response_headers(http.id, false).map(|_| ()));
        http.state.borrow_mut().response_body.push(bytes::Bytes::from_static(b"answer"));
        blame(vm.on_response_body(http.id, true).map(|_| ()));
        blame(vm.on_response_trailers(http.id).map(|_| ()));
        assert!(answer(&mut vm) < 2000, "what a guest asks for is bounded");
        blame(vm.on_tick());
        let tcp = connection(&mut vm);
        tcp.receive("bytes");
        blame(vm.on_downstream_data(tcp.id, false).map(|_| ()));
        blame(vm.on_downstream_connection_close(tcp.id, outrigger_wasm::CloseType::Remote));
        blame(vm.delete_connection(tcp.id));
        blame(vm.on_queue_ready(root, 1));
        blame(vm.on_log(http.id));
        blame(vm.delete_stream(http.id));
        answer(&mut vm);
        assert_eq!(vm.contexts(), 0);
        let head = &http.state.borrow().request;
        let sendable = |byte: &u8| !matches!(byte, b'\r' | b'\n' | 0);
        assert!(
            head.headers.iter().all(|(_, value)| value.iter().all(sendable)),
            "whatever it did, a head can be sent"
        );
    }
}

const WASI: &[(&str, &str)] = &[
    ("args_get", "ii"),
    ("args_sizes_get", "ii"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("clock_res_get", "ii"),
    ("clock_time_get", "ili"),
    ("random_get", "ii"),
    ("sched_yield", ""),
    ("poll_oneoff", "iiii"),
    ("fd_write", "iiii"),
    ("fd_fdstat_get", "ii"),
    ("fd_close", "i"),
    ("fd_seek", "ilii"),
    ("fd_prestat_get", "ii"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_read", "iiii"),
    ("path_open", "iiiiillii"),
    ("path_readlink", "iiiiii"),
    ("sock_recv", "iiiiii"),
];

#[test]
fn wasi_survives_every_argument() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut imports, mut calls) = (String::new(), String::new());
    for (name, params) in WASI {
        let types: Vec<&str> = params.chars().map(|param| if param == 'l' { "i64" } else { "i32" }).collect();
        let _ = write!(
            imports,
            r#"(import "wasi_snapshot_preview1" "{name}" (func $f{name} (param {}) (result i32)))"#,
            types.join(" ")
        );
        for _ in 0..ROUNDS {
            let arguments: String = params
                .chars()
                .map(|param| {
                    let value = EDGES[random.next() % EDGES.len()];
                    if param == 'l' { format!("(i64.const {value})") } else { format!("(i32.const {value})") }
                })
                .collect();
            // 76 is the largest error number.
            let _ = write!(calls, "(if (i32.gt_u (call $f{name} {arguments}) (i32.const 76)) (then (unreachable)))");
        }
    }
    let wasm = raw(&format!(
        r#"{imports} (memory (export "memory") 4) (func (export "malloc") (param i32) (result i32) (i32.const 4096))
           (func (export "proxy_abi_version_0_2_1"))
           (func (export "proxy_on_configure") (param i32 i32) (result i32) {calls} (i32.const 1))"#
    ));
    let limits = Limits { log_bytes_per_second: 0, ..Limits::default() };
    Fixture::new().start(&wasm, &with_limits(limits)).unwrap_or_else(|error| panic!("{error}"));
}
