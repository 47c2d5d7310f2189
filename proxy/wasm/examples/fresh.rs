//! What a stream pays for an instance of its own (`isolation: stream`): microseconds of CPU to start one and to drop it, made
//! one by one and from the pool.
//!
//! `cargo run --release -p outrigger-wasm --example fresh [MODULE.wasm [CONFIGURATION]]` measures a minimal guest and, if one
//! is named, a real module.

#![expect(clippy::print_stdout, reason = "a program that prints figures")]

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_stats::Registry;
use outrigger_wasm::{Code, CompiledModule, Engine, Isolation, Node, Plugin, Services, StartMode, VmConfig, start};

/// A page of data, and one that is written at start.
const MINIMAL: &str = r#"(module
  (memory (export "memory") 18)
  (data (i32.const 1048576) "some data of the guest")
  (func (export "malloc") (param i32) (result i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (i32.store (i32.const 1048000) (local.get 0)) (i32.store (i32.const 1048576) (local.get 0)) (i32.const 1)))"#;

const ROUNDS: u32 = 15;
const INSTANCES: u32 = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::new()?;
    let mut arguments = std::env::args().skip(1);
    measure(&engine, "minimal", &wat::parse_str(MINIMAL)?, "")?;
    if let Some(path) = arguments.next() {
        let configuration = arguments.next().unwrap_or_default();
        measure(&engine, &path, &std::fs::read(&path)?, &configuration)?;
    }
    Ok(())
}

fn measure(engine: &Engine, name: &str, wasm: &[u8], configuration: &str) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("module.cwasm");
    std::fs::write(&path, engine.compile(wasm)?)?;
    let module = engine.load(Code::File(path))?;
    let plugin = Arc::new(Plugin {
        name: Arc::from(name),
        configuration: Bytes::copy_from_slice(configuration.as_bytes()),
        vm: Arc::new(VmConfig { isolation: Isolation::Stream, ..VmConfig::default() }),
        ..Plugin::default()
    });
    let services = Services::new(Arc::new(Registry::default()), Node::default());
    println!("{name}: one by one {:.1} us", rounds(&module, &plugin, &services)?);
    let before = rss_kib();
    let pooled = module.pooled()?;
    let after = rss_kib();
    println!(
        "{name}: from the pool {:.1} us; the pool took {} KiB",
        rounds(&pooled, &plugin, &services)?,
        after - before
    );
    Ok(())
}

/// CPU time of this thread in nanoseconds, as the kernel tells it (Linux): other processes don't count.
fn cpu_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn rss_kib() -> i64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|field| field.parse::<i64>().ok()).unwrap_or(0) * 4
}

/// The best of some rounds, in microseconds an instance.
fn rounds(module: &CompiledModule, plugin: &Arc<Plugin>, services: &Arc<Services>) -> Result<f64, Box<dyn Error>> {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begin = cpu_time();
        for _ in 0..INSTANCES {
            drop(start(module, plugin, services, StartMode::Serving)?);
        }
        let nanoseconds = u32::try_from(cpu_time() - begin).unwrap_or(u32::MAX);
        best = best.min(f64::from(nanoseconds) / f64::from(INSTANCES) / 1000.0);
    }
    Ok(best)
}
