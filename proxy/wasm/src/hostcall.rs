//! The frame around every hostcall: linking, gates, guest memory.
//!
//! All hostcalls live in one linker per engine, made at start; a module's imports are checked against it when the module is
//! loaded. Each family of hostcalls has a file of its own below this one.
//!
//! No borrow of a stream or of guest memory is held while the guest's allocator runs, and the allocator may call only what
//! cannot come back here: that is what makes [`Cx::give`] safe against hostile allocators.

use std::collections::HashMap;
use std::fmt;

use wasmtime::{Caller, Extern, Func, FuncType, Linker, Memory, Val, ValType};

use crate::host::Host;
use crate::module::ALLOCATORS;
use crate::status::{Errno, Status, UNIMPLEMENTED};
use crate::trap::HostTrap;

mod buffers;
mod foreign;
mod grpc;
mod headers;
mod http_call;
mod logging;
mod metric;
mod properties;
mod queues;
mod shared_data;
mod stream;
mod wasi;

pub(crate) use foreign::Expressions;

/// Closed for this plugin: its capabilities don't name the hostcall.
pub(crate) const GATE_DENIED: u8 = 1;
/// It has been said that it is denied: once a VM.
const GATE_SAID: u8 = 4;
/// Closed while the guest's allocator runs.
pub(crate) const GATE_IN_ALLOCATOR: u8 = 2;

/// What runtimes call inside `malloc` (Go's collector does), none of which calls back into the guest.
const LEGAL_IN_ALLOCATOR: &[&str] = &[
    "proxy_log",
    "proxy_get_log_level",
    "proxy_get_current_time_nanoseconds",
    "fd_write",
    "clock_time_get",
    "clock_res_get",
    "poll_oneoff",
    "sched_yield",
    "random_get",
    "proc_exit",
    "emscripten_notify_memory_growth",
    "pthread_equal",
];

/// Names that other hosts offer: a module that imports one is taken, and the call answers `Unimplemented`.
const OFFERED_ELSEWHERE: &[&str] = &[
    "proxy_redis_init",
    "proxy_redis_call",
    "proxy_inject_encoded_data_to_filter_chain",
    "proxy_inject_encoded_data_to_filter_chain_on_header",
];

/// Why a hostcall ends early: it answers a number, or it ends the guest.
pub(crate) enum Stop {
    Answer(i32),
    Trap(wasmtime::Error),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Stop {
        Stop::Answer(status as i32)
    }
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::Answer(errno as i32)
    }
}

impl From<wasmtime::Error> for Stop {
    fn from(error: wasmtime::Error) -> Stop {
        Stop::Trap(error)
    }
}

pub(crate) type Answer = Result<(), Stop>;

#[inline]
fn finish(answer: Answer) -> wasmtime::Result<i32> {
    match answer {
        Ok(()) => Ok(0),
        Err(Stop::Answer(number)) => Ok(number),
        Err(Stop::Trap(error)) => Err(error),
    }
}

/// Which import modules a hostcall is offered under, and what it answers when it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Env,
    Wasi,
}

impl Family {
    const fn modules(self) -> &'static [&'static str] {
        match self {
            Family::Env => &["env"],
            Family::Wasi => &["wasi_snapshot_preview1", "wasi_unstable"],
        }
    }

    const fn denied(self) -> i32 {
        match self {
            Family::Env => Status::InternalFailure as i32,
            Family::Wasi => Errno::Notcapable as i32,
        }
    }
}

/// A Rust type that a hostcall takes, as Wasm sees it.
trait Param {
    const WIDE: bool;
}

impl Param for u32 {
    const WIDE: bool = false;
}

impl Param for i32 {
    const WIDE: bool = false;
}

impl Param for u64 {
    const WIDE: bool = true;
}

impl Param for i64 {
    const WIDE: bool = true;
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    family: Family,
    /// Whether each parameter is an i64; all others are i32.
    wide: Vec<bool>,
    /// Whether there is an i32 result.
    result: bool,
}

/// Every hostcall of this host.
pub(crate) struct HostcallTable {
    linker: Linker<Host>,
    entries: Vec<Entry>,
    by_name: HashMap<(&'static str, &'static str), usize>,
}

impl fmt::Debug for HostcallTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostcallTable").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

/// Declares hostcalls: name, parameters and the function that answers.
macro_rules! hostcalls {
    ($table:ident, $family:ident; $($name:literal ($($arg:ident: $ty:ident),*) = $func:path;)*) => {$(
        let index = $table.declare(
            $crate::hostcall::Family::$family,
            $name,
            vec![$(<$ty as $crate::hostcall::Param>::WIDE),*],
            true,
        );
        for module in $crate::hostcall::Family::$family.modules() {
            $table.linker.func_wrap(
                module,
                $name,
                move |caller: wasmtime::Caller<'_, $crate::host::Host>, $($arg: $ty),*| -> wasmtime::Result<i32> {
                    match $crate::hostcall::Cx::enter(caller, index, $name, $crate::hostcall::Family::$family)? {
                        Ok(mut cx) => $crate::hostcall::finish($func(&mut cx, $($arg),*)),
                        Err(denied) => Ok(denied),
                    }
                },
            )?;
        }
    )*};
}
use hostcalls;

impl HostcallTable {
    pub(crate) fn new(engine: &wasmtime::Engine) -> wasmtime::Result<HostcallTable> {
        let mut table = HostcallTable { linker: Linker::new(engine), entries: Vec::new(), by_name: HashMap::new() };
        logging::link(&mut table)?;
        stream::link(&mut table)?;
        headers::link(&mut table)?;
        buffers::link(&mut table)?;
        properties::link(&mut table)?;
        shared_data::link(&mut table)?;
        queues::link(&mut table)?;
        metric::link(&mut table)?;
        http_call::link(&mut table)?;
        grpc::link(&mut table)?;
        foreign::link(&mut table)?;
        wasi::link(&mut table)?;
        Ok(table)
    }

    fn declare(&mut self, family: Family, name: &'static str, wide: Vec<bool>, result: bool) -> usize {
        let index = self.entries.len();
        self.entries.push(Entry { name, family, wide, result });
        for module in family.modules() {
            self.by_name.insert((module, name), index);
        }
        index
    }

    /// What closes each hostcall for a plugin.
    pub(crate) fn gates(&self, allowed: impl Fn(&str) -> bool) -> Box<[u8]> {
        let gate = |entry: &Entry| {
            let denied = if allowed(entry.name) { 0 } else { GATE_DENIED };
            let in_allocator = if LEGAL_IN_ALLOCATOR.contains(&entry.name) { 0 } else { GATE_IN_ALLOCATOR };
            denied | in_allocator
        };
        self.entries.iter().map(gate).collect()
    }

    /// Links a module: checks its imports and makes up shims for what it declares otherwise than we do.
    ///
    /// Warnings say which imports are only stubs; the error names an import that no host has.
    pub(crate) fn link(&self, module: &wasmtime::Module) -> Result<Linked, String> {
        let mut shims: Vec<(String, String, FuncType, i32)> = Vec::new();
        let mut warnings = Vec::new();
        for import in module.imports() {
            let wasmtime::ExternType::Func(ty) = import.ty() else {
                return Err(format!("imports {}.{}, which is no function", import.module(), import.name()));
            };
            let answer = match self.by_name.get(&(import.module(), import.name())) {
                Some(index) if matches(&self.entries[*index], &ty) => continue,
                Some(index) => match self.entries[*index].family {
                    Family::Env => UNIMPLEMENTED,
                    Family::Wasi => Errno::Notsup as i32,
                },
                None if is_private(import.module(), import.name()) => UNIMPLEMENTED,
                None => return Err(format!("imports {}.{}, which no host offers", import.module(), import.name())),
            };
            let found = signature(&ty);
            warnings.push(format!(
                "{}.{} is imported as {found}: calls answer {answer}",
                import.module(),
                import.name()
            ));
            shims.push((import.module().to_owned(), import.name().to_owned(), ty, answer));
        }
        let instance_pre = if shims.is_empty() {
            self.linker.instantiate_pre(module)
        } else {
            self.linker_with(shims).and_then(|linker| linker.instantiate_pre(module))
        };
        let instance_pre = instance_pre.map_err(|error| format!("does not link: {error:#}"))?;
        Ok(Linked { instance_pre, warnings })
    }

    fn linker_with(&self, shims: Vec<(String, String, FuncType, i32)>) -> wasmtime::Result<Linker<Host>> {
        let mut linker = self.linker.clone();
        linker.allow_shadowing(true);
        for (module, name, ty, answer) in shims {
            let types: Vec<ValType> = ty.results().collect();
            linker.func_new(&module, &name, ty, move |mut caller: Caller<'_, Host>, _, results| {
                count(caller.data_mut())?;
                for (result, ty) in results.iter_mut().zip(&types) {
                    *result = default_result(ty, answer);
                }
                Ok(())
            })?;
        }
        Ok(linker)
    }
}

/// A module whose imports are resolved.
pub(crate) struct Linked {
    pub(crate) instance_pre: wasmtime::InstancePre<Host>,
    pub(crate) warnings: Vec<String>,
}

fn default_result(ty: &ValType, answer: i32) -> Val {
    match ty {
        ValType::I32 => Val::I32(answer),
        ty => Val::default_for_ty(ty).unwrap_or(Val::I32(answer)),
    }
}

/// A function's type as people write it: `(i32, i64) -> i32`.
pub(crate) fn signature(ty: &FuncType) -> String {
    let list = |types: &mut dyn Iterator<Item = ValType>| types.map(|ty| ty.to_string()).collect::<Vec<_>>().join(", ");
    let (params, results) = (list(&mut ty.params()), list(&mut ty.results()));
    if results.is_empty() { format!("({params})") } else { format!("({params}) -> {results}") }
}

fn matches(entry: &Entry, ty: &FuncType) -> bool {
    let params = ty.params().len() == entry.wide.len()
        && ty.params().zip(&entry.wide).all(|(param, wide)| if *wide { param.is_i64() } else { param.is_i32() });
    let mut results = ty.results();
    let result = match (entry.result, results.next(), results.next()) {
        (true, Some(result), None) => result.is_i32(),
        (false, None, None) => true,
        _ => false,
    };
    params && result
}

#[inline]
fn count(host: &mut Host) -> wasmtime::Result<()> {
    match host.hostcalls_left.checked_sub(1) {
        Some(left) => {
            host.hostcalls_left = left;
            Ok(())
        }
        None => Err(HostTrap::HostcallQuota.into()),
    }
}

/// An import that some host may have: what other hosts are known to offer, and names of no family that we know. A name of
/// the ABI that doesn't exist, or another module than hosts have, is a mistake.
fn is_private(module: &str, name: &str) -> bool {
    module == "env" && (OFFERED_ELSEWHERE.contains(&name) || !name.starts_with("proxy_"))
}

/// What a hostcall works with: the host's state and the guest's memory.
pub(crate) struct Cx<'a> {
    caller: Caller<'a, Host>,
    memory: Memory,
}

impl<'a> Cx<'a> {
    /// Opens a hostcall, unless it is denied to the plugin: then its answer.
    #[inline]
    fn enter(
        mut caller: Caller<'a, Host>,
        index: usize,
        name: &'static str,
        family: Family,
    ) -> wasmtime::Result<Result<Cx<'a>, i32>> {
        let host = caller.data_mut();
        count(host)?;
        let closed = host.gates[index] & host.gate_mask;
        if closed != 0 {
            if closed & GATE_IN_ALLOCATOR != 0 {
                return Err(HostTrap::Reentrancy.into());
            }
            say_denied(host, index, name);
            return Ok(Err(family.denied()));
        }
        let memory = match host.memory {
            Some(memory) => memory,
            None => find_memory(&mut caller)?,
        };
        Ok(Ok(Cx { caller, memory }))
    }

    #[inline]
    pub(crate) fn host(&self) -> &Host {
        self.caller.data()
    }

    #[inline]
    pub(crate) fn host_mut(&mut self) -> &mut Host {
        self.caller.data_mut()
    }

    /// The guest's memory and the host's state, side by side.
    #[inline]
    pub(crate) fn split(&mut self) -> (&mut [u8], &mut Host) {
        self.memory.data_and_store_mut(&mut self.caller)
    }

    /// A piece of guest memory.
    #[inline]
    pub(crate) fn bytes(&self, ptr: u32, len: u32) -> Result<&[u8], Stop> {
        piece(self.memory.data(&self.caller), ptr, len)
    }

    #[inline]
    pub(crate) fn write_u32(&mut self, ptr: u32, value: u32) -> Answer {
        put(self.memory.data_mut(&mut self.caller), ptr, &value.to_le_bytes())
    }

    #[inline]
    pub(crate) fn write_u64(&mut self, ptr: u32, value: u64) -> Answer {
        put(self.memory.data_mut(&mut self.caller), ptr, &value.to_le_bytes())
    }

    /// Hands bytes to the guest: in memory of its own allocator, at the pointers that it named.
    #[inline]
    pub(crate) fn give(&mut self, bytes: &[u8], ptr_out: u32, len_out: u32) -> Answer {
        self.give_with(bytes.len(), ptr_out, len_out, |piece, _| piece.copy_from_slice(bytes))
    }

    /// As [`Cx::give`], with `fill` called once the memory is there.
    pub(crate) fn give_with(
        &mut self,
        len: usize,
        ptr_out: u32,
        len_out: u32,
        fill: impl FnOnce(&mut [u8], &mut Host),
    ) -> Answer {
        self.bytes(ptr_out, 4)?;
        self.bytes(len_out, 4)?;
        let len = u32::try_from(len).map_err(|_| Status::InternalFailure)?;
        let mut ptr = 0;
        if len > 0 {
            // Allocators are never asked for nothing: Go's panics then.
            ptr = self.allocate(len)?;
            let (memory, host) = self.split();
            fill(piece_mut(memory, ptr, len)?, host);
        }
        self.write_u32(ptr_out, ptr)?;
        self.write_u32(len_out, len)
    }

    #[inline]
    fn allocate(&mut self, len: u32) -> Result<u32, Stop> {
        if self.host().allocator.is_none() {
            self.find_allocator()?;
        }
        let host = self.caller.data_mut();
        let Some(allocator) = host.allocator.clone() else { return Err(Status::InternalFailure.into()) };
        let outer = host.gate_mask;
        host.gate_mask = outer | GATE_IN_ALLOCATOR;
        let ptr = allocator.call(&mut self.caller, len);
        self.caller.data_mut().gate_mask = outer;
        match ptr? {
            0 => Err(Status::InvalidMemoryAccess.into()),
            ptr => Ok(ptr),
        }
    }

    /// Before instantiation is over (a module's start section), exports are looked up here.
    #[cold]
    fn find_allocator(&mut self) -> Answer {
        for name in ALLOCATORS {
            if let Some(Extern::Func(func)) = self.caller.get_export(name) {
                let func: Func = func;
                self.caller.data_mut().allocator = Some(func.typed(&self.caller)?);
                break;
            }
        }
        Ok(())
    }
}

/// Tells whoever restricted the plugin what it misses.
#[cold]
fn say_denied(host: &mut Host, index: usize, name: &'static str) {
    if host.gates[index] & GATE_SAID == 0 {
        host.gates[index] |= GATE_SAID;
        let plugin = &*host.plugin.name;
        tracing::warn!(target: crate::guest_log::TARGET, plugin, "{name} is not among the plugin's capabilities");
    }
}

#[cold]
fn find_memory(caller: &mut Caller<'_, Host>) -> wasmtime::Result<Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => {
            caller.data_mut().memory = Some(memory);
            Ok(memory)
        }
        _ => Err(HostTrap::NoMemory.into()),
    }
}

#[inline]
pub(crate) fn piece(memory: &[u8], ptr: u32, len: u32) -> Result<&[u8], Stop> {
    if len == 0 {
        return Ok(&[]);
    }
    let start = ptr as usize;
    memory.get(start..start + len as usize).ok_or_else(|| Status::InvalidMemoryAccess.into())
}

#[inline]
pub(crate) fn piece_mut(memory: &mut [u8], ptr: u32, len: u32) -> Result<&mut [u8], Stop> {
    let start = ptr as usize;
    memory.get_mut(start..start + len as usize).ok_or_else(|| Status::InvalidMemoryAccess.into())
}

#[inline]
pub(crate) fn put(memory: &mut [u8], ptr: u32, bytes: &[u8]) -> Answer {
    let start = ptr as usize;
    let piece = memory.get_mut(start..start + bytes.len()).ok_or(Status::InvalidMemoryAccess)?;
    piece.copy_from_slice(bytes);
    Ok(())
}
