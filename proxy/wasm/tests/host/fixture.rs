//! Guests in WebAssembly text, with a prelude and four abbreviations: `@"text"` is a pointer and a length, `%c` a letter's
//! number, `#7` a constant, and `(call $s %a X)` reports status X as the gauge `a`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use outrigger_http::{HeaderName, ResponseHead, StreamState};
use outrigger_stats::{Name, Registry, Value};
use outrigger_wasm::{
    Code, CompiledModule, ContextId, Effect, Engine, LoadError, Node, Objects, Plugin, Property, RootId, Services,
    StartError, StartMode, Trap, Vm, VmConfig, WorkerHost, start,
};

/// Where hostcalls put their pointer and length in these guests.
const PRELUDE: &str = r#"
(import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_replace_header_map_value" (func $replace (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_remove_header_map_value" (func $remove (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
(import "env" "proxy_set_header_map_pairs" (func $set_pairs (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_header_map_size" (func $size (param i32 i32) (result i32)))
(import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_buffer_status" (func $buffer_status (param i32 i32 i32) (result i32)))
(import "env" "proxy_set_buffer_bytes" (func $set_buffer (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_property" (func $set_property (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
(import "env" "proxy_record_metric" (func $record (param i32 i64) (result i32)))
(import "env" "proxy_get_metric" (func $metric (param i32 i32) (result i32)))
(import "env" "proxy_send_local_response"
  (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
(import "env" "proxy_close_stream" (func $close (param i32) (result i32)))
(import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
(import "env" "proxy_done" (func $done (result i32)))
(import "env" "proxy_set_tick_period_milliseconds" (func $tick_period (param i32) (result i32)))
(import "env" "proxy_get_shared_data" (func $shared (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_shared_data" (func $set_shared (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_register_shared_queue" (func $register_queue (param i32 i32 i32) (result i32)))
(import "env" "proxy_resolve_shared_queue" (func $resolve_queue (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_enqueue_shared_queue" (func $enqueue (param i32 i32 i32) (result i32)))
(import "env" "proxy_dequeue_shared_queue" (func $dequeue (param i32 i32 i32) (result i32)))
(import "env" "proxy_http_call"
  (func $http_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_grpc_call"
  (func $grpc_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_grpc_stream"
  (func $grpc_stream (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_grpc_cancel" (func $grpc_cancel (param i32) (result i32)))
(import "env" "proxy_grpc_close" (func $grpc_close (param i32) (result i32)))
(import "env" "proxy_grpc_send" (func $grpc_send (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_status" (func $get_status (param i32 i32 i32) (result i32)))
(import "env" "proxy_call_foreign_function" (func $foreign (param i32 i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_current_time_nanoseconds" (func $now (param i32) (result i32)))
(import "env" "proxy_get_log_level" (func $log_level (param i32) (result i32)))
(memory (export "memory") 4)
(global $heap (mut i32) (i32.const 131072))
(func $malloc (export "malloc") (param $n i32) (result i32)
  ;; Nobody may ask for nothing.
  (if (i32.eqz (local.get $n)) (then (unreachable)))
  (global.get $heap)
  (global.set $heap (i32.and (i32.add (i32.add (global.get $heap) (local.get $n)) (i32.const 7)) (i32.const -8))))
(func (export "proxy_abi_version_0_2_1"))
(func $s (param $letter i32) (param $status i32)
  (i32.store8 (i32.const 16) (local.get $letter))
  (drop (call $define (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))
  (drop (call $record (i32.load (i32.const 8)) (i64.extend_i32_s (local.get $status)))))
;; Keeps what a hostcall gave at #32/#36 with the stream, as state `letter`.
(func $keep (param $letter i32)
  (i32.store8 (i32.const 16) (local.get $letter))
  (drop (call $set_property (i32.const 16) (i32.const 1) (i32.load (i32.const 32)) (i32.load (i32.const 36)))))
"#;

/// Texts are put from here on.
const TEXTS_AT: usize = 1024;

/// A guest from its text: the prelude and `body`, abbreviations expanded.
pub(crate) fn guest(body: &str) -> Vec<u8> {
    raw(&format!("{PRELUDE}{body}"))
}

/// As [`guest`], without the prelude.
pub(crate) fn raw(body: &str) -> Vec<u8> {
    let (mut out, mut data) = (String::from("(module "), String::new());
    let mut at = TEXTS_AT;
    let mut rest = body;
    while let Some(position) = rest.find(['@', '%', '#', ';']) {
        out.push_str(&rest[..position]);
        rest = &rest[position..];
        if rest.starts_with(";;") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if let Some(text) = rest.strip_prefix("@\"") {
            let end = text.find('"').expect("a closing quote");
            let len = text[..end].len() - 2 * text[..end].matches('\\').count();
            out.push_str(&format!("(i32.const {at}) (i32.const {len})"));
            data.push_str(&format!("(data (i32.const {at}) \"{}\")", &text[..end]));
            at += len.max(1);
            rest = &text[end + 1..];
        } else if rest.starts_with('%') {
            out.push_str(&format!("(i32.const {})", rest.as_bytes()[1]));
            rest = &rest[2..];
        } else if rest.starts_with('#') {
            let end = rest[1..].find(|c: char| !c.is_ascii_digit() && c != '-').map_or(rest.len(), |end| end + 1);
            out.push_str(&format!("(i32.const {})", &rest[1..end]));
            rest = &rest[end..];
        } else {
            out.push(';');
            rest = &rest[1..];
        }
    }
    wat::parse_str(format!("{out}{rest}{data})")).unwrap_or_else(|error| panic!("{error}"))
}

/// A callback with its ABI type; `body` may return early, else it answers 0 (start callbacks: 1).
pub(crate) fn on(callback: &str, body: &str) -> String {
    let (params, result) = match callback {
        "vm_start" | "configure" => ("i32 i32", "#1"),
        "context_create" => ("i32 i32", ""),
        "request_trailers" | "response_trailers" => ("i32 i32", "#0"),
        "tick" | "log" | "delete" => ("i32", ""),
        "done" => ("i32", "#1"),
        "grpc_receive_initial_metadata" | "grpc_receive" | "grpc_receive_trailing_metadata" | "grpc_close" => {
            ("i32 i32 i32", "")
        }
        "queue_ready" => ("i32 i32", ""),
        "new_connection" => ("i32", "#0"),
        "downstream_connection_close" | "upstream_connection_close" => ("i32 i32", ""),
        "http_call_response" => ("i32 i32 i32 i32 i32", ""),
        _ => ("i32 i32 i32", "#0"),
    };
    let results = if result.is_empty() { "" } else { "(result i32)" };
    format!("(func (export \"proxy_on_{callback}\") (param {params}) {results} {body} {result})\n")
}

pub(crate) fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().expect("this machine runs Wasm"))
}

pub(crate) fn load(wasm: &[u8]) -> Result<CompiledModule, LoadError> {
    let code = engine().compile(wasm).unwrap_or_else(|error| panic!("{error}"));
    engine().load(Code::Bytes(code))
}

pub(crate) struct Clusters;

impl Objects for Clusters {}

impl WorkerHost for Clusters {
    fn cluster_exists(&self, name: &str) -> bool {
        name == "known"
    }
}

/// A VM with one plugin in it, whose root context the calls without a stream are for.
pub(crate) struct OneVm {
    vm: Vm,
    pub(crate) root: RootId,
}

impl std::ops::Deref for OneVm {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        &self.vm
    }
}

impl std::ops::DerefMut for OneVm {
    fn deref_mut(&mut self) -> &mut Vm {
        &mut self.vm
    }
}

impl OneVm {
    pub(crate) fn create_stream(&mut self, state: Rc<RefCell<StreamState>>) -> Result<ContextId, Trap> {
        self.vm.create_stream(self.root, state)
    }

    pub(crate) fn on_tick(&mut self) -> Result<(), Trap> {
        self.vm.on_tick(self.root)
    }

    pub(crate) fn tick_period(&self) -> Option<std::time::Duration> {
        self.vm.tick_period(self.root)
    }

    pub(crate) fn shutdown(&mut self) -> bool {
        self.vm.shutdown(self.root)
    }
}

/// The services of one test, and what it starts.
pub(crate) struct Fixture {
    pub(crate) services: Arc<Services>,
    registry: Arc<Registry>,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let registry = Arc::new(Registry::default());
        let metadata = [("NAME".to_owned(), Property::string("node-name")), ("N".to_owned(), Property::Double(1.5))];
        let node = Node {
            id: "node-1".to_owned(),
            cluster: "cluster-1".to_owned(),
            metadata: Property::Map(metadata.into()),
            encoded: Bytes::from_static(b"serialized"),
            ..Node::default()
        };
        Fixture { services: Services::new(registry.clone(), node), registry }
    }

    pub(crate) fn start(&self, wasm: &[u8], plugin: &Arc<Plugin>) -> Result<OneVm, StartError> {
        self.start_as(wasm, plugin, StartMode::Serving)
    }

    pub(crate) fn canary(&self, wasm: &[u8], plugin: &Arc<Plugin>) -> Result<OneVm, StartError> {
        self.start_as(wasm, plugin, StartMode::Canary)
    }

    fn start_as(&self, wasm: &[u8], plugin: &Arc<Plugin>, mode: StartMode) -> Result<OneVm, StartError> {
        let module = load(wasm).unwrap_or_else(|error| panic!("{error}"));
        let vm = start(&module, plugin, &self.services, mode)?;
        let root = vm.roots().map(|(root, _)| root).next().expect("the plugin that it was started for");
        Ok(OneVm { vm: vm.into_vm(Rc::new(Clusters)), root })
    }

    pub(crate) fn vm(&self, body: &str) -> OneVm {
        self.start(&guest(body), &plugin()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The statuses that the guest reported, by letter: `a0 b2`.
    pub(crate) fn statuses(&self) -> String {
        let reported = self.registry.samples().into_iter().filter_map(|sample| {
            let name = sample.name.family();
            let letter = name.strip_prefix("wasmcustom.").filter(|rest| rest.len() == 1)?.to_owned();
            match sample.value {
                Value::Gauge(value) => Some(format!("{letter}{value}")),
                _ => None,
            }
        });
        reported.collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn value(&self, name: &Name) -> Option<Value> {
        self.registry.value(name)
    }

    pub(crate) fn custom(&self, name: &str) -> Option<Value> {
        self.value(&Name::new("wasmcustom", name))
    }
}

pub(crate) fn plugin() -> Arc<Plugin> {
    in_vm(VmConfig {
        vm_id: "vm".to_owned(),
        configuration: Bytes::from_static(b"vm configuration"),
        environment: vec![("A".to_owned(), "1".to_owned()), ("LONG".to_owned(), "value".to_owned())],
        ..VmConfig::default()
    })
}

/// A plugin of another VM.
pub(crate) fn in_vm(vm: VmConfig) -> Arc<Plugin> {
    Arc::new(Plugin {
        name: Arc::from("tested"),
        root_id: "root".to_owned(),
        configuration: Bytes::from_static(b"plugin configuration"),
        vm: Arc::new(vm),
        ..Plugin::default()
    })
}

/// The same under another `vm_id`.
pub(crate) fn of_vm_id(vm_id: &str) -> Arc<Plugin> {
    in_vm(VmConfig { vm_id: vm_id.to_owned(), ..VmConfig::clone(&plugin().vm) })
}

/// The same with other limits.
pub(crate) fn with_limits(limits: outrigger_wasm::Limits) -> Arc<Plugin> {
    in_vm(VmConfig { limits, ..VmConfig::clone(&plugin().vm) })
}

/// A stream and its context in a VM.
pub(crate) struct Stream {
    pub(crate) state: Rc<RefCell<StreamState>>,
    pub(crate) id: ContextId,
}

pub(crate) fn stream(vm: &mut OneVm) -> Stream {
    let root = vm.root;
    stream_of(vm, root)
}

pub(crate) fn stream_of(vm: &mut Vm, root: RootId) -> Stream {
    let mut state = StreamState::default();
    state.request.authority = Bytes::from_static(b"example");
    state.request.path = Bytes::from_static(b"/path?query");
    for (name, value) in [("x-a", "1"), ("x-a", "2"), ("accept", "*/*")] {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a token");
        state.request.headers.append(name, Bytes::from_static(value.as_bytes()));
    }
    let state = Rc::new(RefCell::new(state));
    let id = vm.create_stream(root, state.clone()).unwrap_or_else(|trap| panic!("{trap}"));
    Stream { state, id }
}

/// A connection and its context in a VM.
pub(crate) fn connection(vm: &mut OneVm) -> Stream {
    let root = vm.root;
    let mut state = StreamState::default();
    state.info.downstream_mut().remote = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 4321)));
    let state = Rc::new(RefCell::new(state));
    let id = vm.create_connection(root, state.clone()).unwrap_or_else(|trap| panic!("{trap}"));
    Stream { state, id }
}

impl Stream {
    /// Bytes of the client of a connection.
    pub(crate) fn receive(&self, bytes: &'static str) {
        self.state.borrow_mut().request_body.push(Bytes::from_static(bytes.as_bytes()));
    }

    pub(crate) fn respond(&self, status: u16) {
        let mut head = ResponseHead::new(status);
        head.headers.append(HeaderName::SERVER, Bytes::from_static(b"origin"));
        self.state.borrow_mut().response = Some(head);
    }

    /// What the guest kept under a letter.
    pub(crate) fn kept(&self, letter: &str) -> Option<String> {
        let state = self.state.borrow();
        state
            .info
            .extras()
            .filter_state
            .get(&format!("wasm.{letter}"))
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A request header, all values joined by `|`.
    pub(crate) fn header(&self, name: &str) -> String {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a token");
        let state = self.state.borrow();
        let values: Vec<String> =
            state.request.headers.get_all(&name).map(|value| String::from_utf8_lossy(value).into_owned()).collect();
        values.join("|")
    }
}

/// The effects in short form, in order.
pub(crate) fn effects(vm: &mut Vm) -> Vec<String> {
    let short = |effect: Effect| match effect {
        Effect::Continue { direction, .. } => format!("continue {direction:?}"),
        Effect::LocalReply { reply, .. } => format!("reply {} {}", reply.status, reply.details),
        Effect::Reset { .. } => "reset".to_owned(),
        Effect::CloseConnection { .. } => "close".to_owned(),
        Effect::ClearRouteCache { .. } => "route".to_owned(),
        Effect::BodyChanged { direction, .. } => format!("body {direction:?}"),
        Effect::HttpCall(call) => format!("call {} {}", call.cluster, call.token),
        Effect::GrpcOpen(open) => format!("grpc {} {}", open.cluster, open.token),
        Effect::GrpcSend { token, message, end } => format!("send {token} {message:?} {end}"),
        Effect::GrpcCancel { token } => format!("cancel {token}"),
    };
    vm.take_effects().into_iter().map(short).collect()
}
