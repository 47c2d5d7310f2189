//! What a header filter costs: nanoseconds of CPU for all callbacks of one request.
//!
//! `cargo run --release -p outrigger-wasm --example hotpath [MODULE.wasm [CONFIGURATION]]` measures a minimal guest and, if
//! one is named, a real module; with `--deadlines` in front, what the checks for deadlines add to it. `REQUESTS=1000 valgrind --tool=callgrind …` counts instructions.

#![expect(clippy::print_stdout, reason = "a program that prints figures")]

use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use outrigger_http::{HeaderName, ResponseHead, StreamState};
use outrigger_stats::Registry;
use outrigger_wasm::{
    Code, CompiledModule, Engine, Node, Objects, Plugin, RootId, Services, StartMode, Vm, WorkerHost, start,
};

/// Sets a request header, adds a response header; all of a stream's callbacks are there.
const MINIMAL: &str = r#"(module
  (import "env" "proxy_replace_header_map_value" (func $replace (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "x-outrigger-requesta value of common size")
  (func (export "malloc") (param i32) (result i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (call $replace (i32.const 0) (i32.const 64) (i32.const 19) (i32.const 83) (i32.const 22)))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (call $add (i32.const 2) (i32.const 64) (i32.const 19) (i32.const 83) (i32.const 22)))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_delete") (param i32)))"#;

/// The same callbacks without a hostcall.
const EMPTY: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "malloc") (param i32) (result i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_delete") (param i32)))"#;

struct AnyCluster;

impl Objects for AnyCluster {}

impl WorkerHost for AnyCluster {
    fn cluster_exists(&self, _: &str) -> bool {
        true
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let only_deadlines = arguments.next_if(|first| first == "--deadlines").is_some();
    let engine = Engine::new()?;
    if !only_deadlines {
        measure(&engine, "callbacks only", &wat::parse_str(EMPTY)?, "")?;
        measure(&engine, "set + add", &wat::parse_str(MINIMAL)?, "")?;
    }
    if let Some(path) = arguments.next() {
        let configuration = arguments.next().unwrap_or_default();
        let wasm = std::fs::read(&path)?;
        if only_deadlines {
            deadlines(&engine, &path, &wasm, &configuration)?
        } else {
            measure(&engine, &path, &wasm, &configuration)?
        }
    }
    Ok(())
}

/// A plugin that has started.
struct Started {
    vm: Vm,
    root: RootId,
}

impl Started {
    fn new(module: &CompiledModule, name: &str, configuration: &str) -> Result<Started, Box<dyn Error>> {
        let plugin = Arc::new(Plugin {
            name: Arc::from(name),
            configuration: Bytes::copy_from_slice(configuration.as_bytes()),
            ..Plugin::default()
        });
        let services = Services::new(Arc::new(Registry::default()), Node::default());
        // The first start maps pages; the second is what a replacement costs.
        drop(start(module, &plugin, &services, StartMode::Canary)?);
        let ready = start(module, &plugin, &services, StartMode::Serving)?;
        let (root, _) = ready.roots().next().ok_or("the plugin has no root context")?;
        Ok(Started { vm: ready.into_vm(Rc::new(AnyCluster)), root })
    }

    /// Nanoseconds of CPU time for each request, beyond resetting the stream for it, and those of resetting it.
    fn round(&mut self, requests: u32) -> Result<(f64, f64), outrigger_wasm::Trap> {
        let state = stream();
        let begin = cpu_time();
        for _ in 0..requests {
            reset(&state);
        }
        let without = cpu_time() - begin;
        let begin = cpu_time();
        for _ in 0..requests {
            reset(&state);
            request(&mut self.vm, self.root, &state)?;
        }
        let with = cpu_time() - begin;
        #[expect(clippy::cast_precision_loss, reason = "a few seconds in nanoseconds")]
        let each = |total: u64| total as f64 / f64::from(requests);
        Ok((each(with.saturating_sub(without)), each(without)))
    }
}

fn measure(engine: &Engine, name: &str, wasm: &[u8], configuration: &str) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let code = engine.compile(wasm)?;
    let compile = begin.elapsed();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("module.cwasm");
    std::fs::write(&path, &code)?;
    let begin = Instant::now();
    let module = engine.load(Code::File(path))?;
    let load = begin.elapsed();
    drop(Started::new(&module, name, configuration)?);
    let begin = Instant::now();
    let mut started = Started::new(&module, name, configuration)?;
    // Half of it is the canary's.
    let spawn = begin.elapsed() / 2;
    println!(
        "{name}: {} B of wasm, {} B of code, compile {compile:.1?}, load {load:.1?}, start {spawn:.1?}, memory {} KiB",
        wasm.len(),
        code.len(),
        started.vm.memory_bytes() >> 10
    );
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        match started.round(requests()) {
            Ok((request, reset)) => best = (best.0.min(request), best.1.min(reset)),
            Err(trap) => {
                println!("  {:?}: {trap}", module.abi());
                return Ok(());
            }
        }
    }
    println!("  {:.0} ns a request (resetting the stream for it took {:.0} ns more)", best.0, best.1);
    Ok(())
}

/// The same module compiled with and without the checks that deadlines need, in paired rounds.
fn deadlines(engine: &Engine, name: &str, wasm: &[u8], configuration: &str) -> Result<(), Box<dyn Error>> {
    let bare = Engine::without_deadlines()?;
    let mut sides = Vec::new();
    for engine in [engine, &bare] {
        let module = engine.load(Code::Bytes(engine.compile(wasm)?))?;
        sides.push(Started::new(&module, name, configuration)?);
    }
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let mut took = [0.0; 2];
        // Who goes first has a colder cache, or a cooler CPU: they take turns.
        for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            took[side] = sides[side].round(requests())?.0;
        }
        rounds.push((took[0] / took[1] - 1.0, took));
    }
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (least, most) = (rounds[0].0, rounds[rounds.len() - 1].0);
    let (median, [with, without]) = rounds[rounds.len() / 2];
    println!(
        "{name}: with deadlines {with:.0} ns, without {without:.0} ns, added {:.1} %, least {:.1} %, most {:.1} %",
        median * 100.0,
        least * 100.0,
        most * 100.0
    );
    Ok(())
}

/// CPU time of this thread in nanoseconds, as the kernel tells it (Linux): other processes don't count.
fn cpu_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0)
}

const ROUNDS: u32 = 15;

/// Fewer where instructions are counted, which takes fifty times as long.
fn requests() -> u32 {
    std::env::var("REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

fn stream() -> Rc<RefCell<StreamState>> {
    let mut state = StreamState::default();
    state.request.authority = Bytes::from_static(b"example.org");
    state.request.path = Bytes::from_static(b"/path");
    let fields: [(&[u8], &'static str); 8] = [
        (b"user-agent", "curl/8"),
        (b"accept", "*/*"),
        (b"accept-encoding", "gzip"),
        (b"x-request-id", "8a1c4f0e-17a8-4a62-9b0e-5f2a4a3a8c11"),
        (b"x-forwarded-for", "10.0.0.1"),
        (b"x-forwarded-proto", "http"),
        (b"cookie", "a=b"),
        (b"x-api-key", "secret"),
    ];
    for (name, value) in fields {
        if let Ok(name) = HeaderName::from_bytes(name) {
            state.request.headers.append(name, Bytes::from_static(value.as_bytes()));
        }
    }
    Rc::new(RefCell::new(state))
}

/// A stream as it comes in: without what the last run added.
fn reset(state: &RefCell<StreamState>) {
    let mut state = state.borrow_mut();
    let mut index = 0;
    state.request.headers.retain(|_, _| {
        index += 1;
        index <= 8
    });
    let head = state.response.get_or_insert_with(|| ResponseHead::new(200));
    head.headers.clear();
    head.headers.append(HeaderName::SERVER, Bytes::from_static(b"origin"));
    head.headers.append(HeaderName::CONTENT_LENGTH, Bytes::from_static(b"40"));
}

fn request(vm: &mut Vm, root: RootId, state: &Rc<RefCell<StreamState>>) -> Result<(), outrigger_wasm::Trap> {
    let id = vm.create_stream(root, state.clone())?;
    vm.on_request_headers(id, true)?;
    while vm.next_effect().is_some() {}
    vm.on_response_headers(id, true)?;
    while vm.next_effect().is_some() {}
    vm.on_log(id)?;
    vm.delete_stream(id)
}
