//! The Wasm host: the codec of pairs, the arguments of every hostcall, the bytes of a module.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_http::{HeaderName, ResponseHead, StreamState};
use outrigger_stats::Registry;
use outrigger_wasm::{
    Code, CompiledModule, Engine, Limits, Node, Objects, Plugin, Services, StartMode, Vm, VmConfig, WorkerHost,
    fuzzing, start,
};

use crate::{Run, Target, fingerprint};

pub(super) const PAIRS: Target = Target {
    name: "pairs",
    about: "a list of pairs is read to the byte or not at all, and what was read is written the same",
    seeds: || vec![vec![0; 4], one_pair(b"name", b"value"), [one_pair(b"a", b""), vec![0]].concat()],
    words: &[b"\x01\0\0\0", b"\x02\0\0\0", b"\0\0\0\0", b"\0"],
    prepare: || Box::new(|input| fingerprint(&fuzzing::pairs(input))),
    short: 200_000,
};

fn one_pair(name: &[u8], value: &[u8]) -> Vec<u8> {
    let number = |n: usize| u32::try_from(n).unwrap_or_default().to_le_bytes();
    [&number(1)[..], &number(name.len()), &number(value.len()), name, &[0], value, &[0]].concat()
}

pub(super) const HOSTCALLS: Target = Target {
    name: "hostcalls",
    about: "no arguments of any hostcall, in any callback, harm the host, split a message or pass a limit",
    seeds: programs,
    words: &[
        b":path\0\0\0",
        b"request\0",
        b"host",
        b"x-a\0",
        b"\x0d\x0a\0\0",
        b"plugin_name",
        b"compress",
        b"expr_create",
    ],
    prepare: hostcalls,
    short: 1_500,
};

pub(super) const MODULE: Target = Target {
    name: "module",
    about: "the bytes of a module are compiled or refused, and what is loaded starts or says why not",
    seeds: || [GUESTS[0], GUESTS[1], &guest()].iter().filter_map(|text| wat::parse_str(text).ok()).collect(),
    words: &[
        b"\0asm\x01\0\0\0",
        b"\x60",
        b"\x7f",
        b"\x00\x61\x73\x6d",
        b"proxy_abi_version_0_2_1",
        b"malloc",
        b"memory",
        b"env",
    ],
    prepare: modules,
    short: 300,
};

const GUESTS: [&str; 2] = [
    r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
      (func (export "malloc") (param i32) (result i32) i32.const 1024))"#,
    r#"(module (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (func (export "proxy_abi_version_0_1_0"))
      (func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const 1024)
      (func (export "proxy_on_request_headers") (param i32 i32) (result i32)
        (call $log (i32.const 2) (i32.const 0) (i32.const 9))))"#,
];

/// Hostcalls and the types of their parameters: `i` for 32 bits, `l` for 64.
const CALLS: [(&str, &str); 49] = [
    ("proxy_log", "iii"),
    ("proxy_get_log_level", "i"),
    ("proxy_get_current_time_nanoseconds", "i"),
    ("proxy_set_tick_period_milliseconds", "i"),
    ("proxy_get_configuration", "ii"),
    ("proxy_get_property", "iiii"),
    ("proxy_set_property", "iiii"),
    ("proxy_get_status", "iii"),
    ("proxy_send_local_response", "iiiiiiii"),
    ("proxy_continue_request", ""),
    ("proxy_continue_response", ""),
    ("proxy_continue_stream", "i"),
    ("proxy_close_stream", "i"),
    ("proxy_clear_route_cache", ""),
    ("proxy_done", ""),
    ("proxy_set_effective_context", "i"),
    ("proxy_get_shared_data", "iiiii"),
    ("proxy_set_shared_data", "iiiii"),
    ("proxy_register_shared_queue", "iii"),
    ("proxy_resolve_shared_queue", "iiiii"),
    ("proxy_dequeue_shared_queue", "iii"),
    ("proxy_enqueue_shared_queue", "iii"),
    ("proxy_get_header_map_size", "ii"),
    ("proxy_get_header_map_pairs", "iii"),
    ("proxy_set_header_map_pairs", "iii"),
    ("proxy_get_header_map_value", "iiiii"),
    ("proxy_add_header_map_value", "iiiii"),
    ("proxy_replace_header_map_value", "iiiii"),
    ("proxy_remove_header_map_value", "iii"),
    ("proxy_get_buffer_bytes", "iiiii"),
    ("proxy_get_buffer_status", "iii"),
    ("proxy_set_buffer_bytes", "iiiii"),
    ("proxy_http_call", "iiiiiiiiii"),
    ("proxy_grpc_call", "iiiiiiiiiiii"),
    ("proxy_grpc_stream", "iiiiiiiii"),
    ("proxy_grpc_send", "iiii"),
    ("proxy_grpc_cancel", "i"),
    ("proxy_grpc_close", "i"),
    ("proxy_define_metric", "iiii"),
    ("proxy_increment_metric", "il"),
    ("proxy_record_metric", "il"),
    ("proxy_get_metric", "ii"),
    ("proxy_call_foreign_function", "iiiiii"),
    ("fd_write", "iiii"),
    ("clock_time_get", "ili"),
    ("random_get", "ii"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("fd_prestat_get", "ii"),
];

/// Bytes of a call in a program: which one, in which callback, and twelve arguments.
const CALL_BYTES: usize = 56;
/// Where the guest keeps its configuration, which is the program; and how much of it.
const PROGRAM: usize = 0x1_0000;
const PROGRAM_BYTES: usize = 0x4000;
/// Callbacks that run a program's calls, each its own.
const CALLBACKS: u32 = 7;

/// A guest whose configuration is a program: the hostcalls that each callback makes.
fn guest() -> String {
    let mut text = String::from("(module\n");
    for (index, (name, types)) in CALLS.iter().enumerate() {
        let module = if name.starts_with("proxy_") { "env" } else { "wasi_snapshot_preview1" };
        let params: String = types.chars().map(|t| if t == 'i' { " i32" } else { " i64" }).collect();
        let _ = writeln!(text, r#"(import "{module}" "{name}" (func $f{index} (param{params}) (result i32)))"#);
    }
    let _ = write!(
        text,
        r#"(memory (export "memory") 8)
(global $size (mut i32) (i32.const 0)) (global $answer (mut i32) (i32.const 0)) (global $heap (mut i32) (i32.const 0x40000))
(func (export "proxy_abi_version_0_2_1"))
(func (export "malloc") (param $n i32) (result i32) (local $at i32)
  (local.set $at (global.get $heap))
  (global.set $heap (i32.and (i32.add (local.get $at) (i32.add (local.get $n) (i32.const 8))) (i32.const 0x7ffff)))
  (local.get $at))
(func $one (param $p i32) (local $which i32)
  (local.set $which (i32.rem_u (i32.load8_u (local.get $p)) (i32.const {count})))
"#,
        count = CALLS.len()
    );
    for (index, (_, types)) in CALLS.iter().enumerate() {
        let load = |(at, kind): (usize, char)| {
            let (op, offset) = (if kind == 'i' { "i32.load" } else { "i64.load" }, 8 + at * 4);
            format!(" ({op} offset={offset} (local.get $p))")
        };
        let arguments: String = types.chars().enumerate().map(load).collect();
        let _ = writeln!(
            text,
            "(if (i32.eq (local.get $which) (i32.const {index})) (then (global.set $answer (call $f{index}{arguments}))))"
        );
    }
    let _ = write!(
        text,
        r#")
(func $run (param $callback i32) (result i32) (local $p i32) (local $end i32)
  (local.set $p (i32.const {PROGRAM}))
  (local.set $end (i32.add (local.get $p) (global.get $size)))
  (block $done (loop $next
    (br_if $done (i32.gt_u (i32.add (local.get $p) (i32.const {CALL_BYTES})) (local.get $end)))
    (if (i32.eq (i32.rem_u (i32.load8_u offset=1 (local.get $p)) (i32.const {CALLBACKS})) (local.get $callback))
      (then (call $one (local.get $p))))
    (local.set $p (i32.add (local.get $p) (i32.const {CALL_BYTES})))
    (br $next)))
  (global.get $answer))
(func (export "proxy_on_context_create") (param i32 i32))
(func (export "proxy_on_configure") (param i32 i32) (result i32)
  (drop (call $f29 (i32.const 7) (i32.const 0) (i32.const {PROGRAM_BYTES}) (i32.const 0) (i32.const 4)))
  (global.set $size (i32.load (i32.const 4)))
  (memory.copy (i32.const {PROGRAM}) (i32.load (i32.const 0)) (global.get $size))
  (drop (call $run (i32.const 0))) (i32.const 1))
(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $run (i32.const 1)))
(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $run (i32.const 2)))
(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $run (i32.const 3)))
(func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (call $run (i32.const 4)))
(func (export "proxy_on_log") (param i32) (drop (call $run (i32.const 5))))
(func (export "proxy_on_tick") (param i32) (drop (call $run (i32.const 6))))
(func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
(func (export "proxy_on_delete") (param i32)))"#
    );
    text
}

/// A program for each hostcall, in each callback, with arguments that point somewhere.
fn programs() -> Vec<Vec<u8>> {
    let call = |which: usize, callback: u32| {
        let mut bytes = vec![0; CALL_BYTES];
        bytes[0] = u8::try_from(which).unwrap_or_default();
        bytes[1] = u8::try_from(callback).unwrap_or_default();
        for (index, argument) in bytes[8..].chunks_exact_mut(4).enumerate() {
            let value = if index % 2 == 0 { 0x2_0000 + index * 0x100 } else { 16 };
            argument.copy_from_slice(&u32::try_from(value).unwrap_or_default().to_le_bytes());
        }
        bytes
    };
    (0..CALLS.len()).map(|which| (0..CALLBACKS).flat_map(|callback| call(which, callback)).collect()).collect()
}

struct AnyCluster;

impl Objects for AnyCluster {}

impl WorkerHost for AnyCluster {
    fn cluster_exists(&self, _: &str) -> bool {
        true
    }
}

#[expect(clippy::expect_used, reason = "the guest is our own")]
fn hostcalls() -> Run {
    let engine = Engine::new().expect("an engine");
    let code = engine.compile(&wat::parse_str(guest()).expect("the guest assembles")).expect("the guest compiles");
    // A fresh instance for each program, as a stream of its own has: what one leaves behind changes the next one's answers.
    let module = engine.load(Code::Bytes(code)).and_then(|module| module.pooled()).expect("the guest loads");
    let services = Services::new(Arc::new(Registry::default()), Node::default());
    Box::new(move |program| fingerprint(&one_stream(&module, &services, program)))
}

/// A VM with this program, and one stream through all callbacks: what they answered.
fn one_stream(module: &CompiledModule, services: &Arc<Services>, program: &[u8]) -> Vec<String> {
    let plugin =
        Arc::new(Plugin { name: "fuzz".into(), configuration: Bytes::copy_from_slice(program), ..Plugin::default() });
    let vm = match start(module, &plugin, services, StartMode::Serving) {
        Ok(ready) => ready.into_vm(Rc::new(AnyCluster)),
        Err(error) => return vec![kind(&error)],
    };
    let mut seen = Vec::new();
    let state = Rc::new(RefCell::new(stream()));
    if let Err(trap) = drive(vm, &state, &mut seen) {
        seen.push(kind(&trap));
    }
    must_be_sendable(&state.borrow(), &plugin.vm.limits);
    seen
}

/// Whatever a guest did to a stream, it is a message that ends where it says, within the guest's limits.
fn must_be_sendable(state: &StreamState, limits: &Limits) {
    let response = state.response.as_ref().map(|head| &head.headers);
    for headers in
        [Some(&state.request.headers), response, state.request_trailers.as_ref(), state.response_trailers.as_ref()]
            .into_iter()
            .flatten()
    {
        let mut bytes = 0;
        for (name, value) in headers.iter() {
            assert!(
                !name.as_str().is_empty() && name.as_str().bytes().all(|byte| byte > b' ' && byte < 0x7f),
                "{name:?}"
            );
            assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{name:?}: {value:?}");
            bytes += name.as_str().len() + value.len();
        }
        assert!(
            headers.len() <= limits.header_entries && bytes <= limits.header_bytes,
            "{} entries, {bytes} bytes",
            headers.len()
        );
    }
    assert!(!state.request.path.iter().any(|byte| *byte <= b' '), "{:?}", state.request.path);
    assert!(state.response.as_ref().is_none_or(|head| (200..600).contains(&head.status)));
    for body in [&state.request_body, &state.response_body] {
        assert!(body.len() <= limits.body_buffer_bytes, "a body of {}", body.len());
    }
}

fn drive(mut vm: Vm, state: &Rc<RefCell<StreamState>>, seen: &mut Vec<String>) -> Result<(), outrigger_wasm::Trap> {
    let Some(root) = vm.roots().next().map(|(root, _)| root) else { return Ok(()) };
    let effects = |vm: &mut Vm, seen: &mut Vec<String>| {
        // What a guest may ask for in one callback is bounded; far beyond that is a find.
        let all = vm.take_effects();
        assert!(all.len() < 10_000, "{} effects of one callback", all.len());
        seen.extend(all.iter().map(kind));
    };
    let id = vm.create_stream(root, state.clone())?;
    seen.push(kind(&vm.on_request_headers(id, false)?));
    effects(&mut vm, seen);
    seen.push(kind(&vm.on_request_body(id, true)?));
    effects(&mut vm, seen);
    seen.push(kind(&vm.on_response_headers(id, false)?));
    effects(&mut vm, seen);
    seen.push(kind(&vm.on_response_body(id, true)?));
    effects(&mut vm, seen);
    vm.on_tick(root)?;
    effects(&mut vm, seen);
    vm.on_log(id)?;
    vm.delete_stream(id)?;
    effects(&mut vm, seen);
    vm.shutdown(root);
    Ok(())
}

fn stream() -> StreamState {
    let mut state = StreamState::default();
    state.request.authority = Bytes::from_static(b"example.org");
    state.request.path = Bytes::from_static(b"/path?query");
    for (name, value) in [("user-agent", "fuzz"), ("x-a", "1"), ("x-a", "2"), ("cookie", "a=b")] {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            state.request.headers.append(name, Bytes::copy_from_slice(value.as_bytes()));
        }
    }
    let mut response = ResponseHead::new(200);
    response.headers.append(HeaderName::CONTENT_LENGTH, Bytes::from_static(b"4"));
    state.response = Some(response);
    state
}

/// The variant's name and no more: values are as many as inputs.
fn kind(of: &impl std::fmt::Debug) -> String {
    let text = format!("{of:?}");
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()
}

#[expect(clippy::expect_used, reason = "without an engine there is nothing to try")]
fn modules() -> Run {
    let engine = Engine::new().expect("an engine");
    let services = Services::new(Arc::new(Registry::default()), Node::default());
    let limits = Limits { start_timeout: Duration::from_millis(5), memory_bytes: 8 << 20, ..Limits::default() };
    let plugin = Arc::new(Plugin { vm: Arc::new(VmConfig { limits, ..VmConfig::default() }), ..Plugin::default() });
    Box::new(move |input| {
        let outcome = match engine.compile(input) {
            Ok(code) => match engine.load(Code::Bytes(code)) {
                Ok(module) => {
                    let try_one = |module: &CompiledModule| {
                        let error = start(module, &plugin, &services, StartMode::Canary).err();
                        error.map_or_else(String::new, |error| kind(&error))
                    };
                    let started = try_one(&module);
                    if let Ok(pooled) = module.pooled() {
                        let pooled = try_one(&pooled);
                        // Whether a loop ends in time is the machine's affair.
                        let is_timed = [&started, &pooled].into_iter().any(|error| error == "Deadline");
                        assert!(is_timed || started == pooled, "{started} and in the pool {pooled}");
                    }
                    format!("{:?} {started}", module.abi())
                }
                Err(error) => kind(&error),
            },
            // The reason's first words, without the offsets.
            Err(error) => error.to_string().chars().filter(|c| !c.is_ascii_digit()).take(60).collect(),
        };
        fingerprint(&outcome)
    })
}
