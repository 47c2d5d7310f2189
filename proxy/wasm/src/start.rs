//! Starting a VM: from a compiled module to a configured plugin.

mod shared;

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Instance, Store, TypedFunc, UpdateDeadline};

use crate::action::RootId;
use crate::engine::bounded;
use crate::exports::{Exports, typed};
use crate::host::{Host, Phase, Target};
use crate::metrics::{PluginStats, VmStats};
use crate::module::{ALLOCATORS, CompiledModule};
use crate::plugin::{Plugin, VmConfig};
use crate::pool::{self, Exhausted};
use crate::services::Services;
use crate::ticker::thread_cpu_time;
use crate::trap::{HostTrap, Trap, TrapKind};
use crate::vm::{Guest, ReadyVm};

pub use self::shared::{StartedVm, start_vm};

/// What a VM is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartMode {
    /// To see whether it starts: its calls, ticks, metrics and shared writes answer Ok and are dropped.
    Canary,
    Serving,
}

/// A plugin does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("cannot instantiate: {reason}")]
    Instantiate { reason: String },
    #[error(
        "no instance is left: {live} streams of the module hold one, as many as it may have of {}",
        pool::INSTANCES_MAX
    )]
    PoolExhausted { live: usize },
    #[error("needs more memory than its limit of {limit_bytes} bytes: {trap}")]
    OutOfMemory { limit_bytes: usize, trap: Trap },
    #[error("did not start within {budget:?} of CPU time: {trap}")]
    Deadline { budget: std::time::Duration, trap: Trap },
    #[error("trapped while it started: {0}")]
    Trap(Trap),
    #[error("proxy_on_vm_start returned false{}", reason(.log))]
    VmStartRefused { log: Option<String> },
    #[error("refused its configuration{}", reason(.log))]
    ConfigurationRefused { log: Option<String> },
    #[error("was not tried: {failed} others of its VM don't start")]
    Untried { failed: usize },
}

fn reason(log: &Option<String>) -> String {
    log.as_ref().map_or_else(String::new, |log| format!(": {log}"))
}

/// Instantiates a module and configures a first plugin in it, within the start budget. Blocks: call it on a prepare thread.
pub fn start(
    module: &CompiledModule,
    plugin: &Arc<Plugin>,
    services: &Arc<Services>,
    mode: StartMode,
) -> Result<ReadyVm, StartError> {
    let mut guest = begin(module, plugin, services, mode)?;
    let left = plugin.vm.limits.start_timeout.saturating_sub(guest.started_in);
    configure(&mut guest, plugin, left)?;
    guest.started_in += guest.configured_in;
    guest.refresh();
    Ok(ReadyVm::new(guest))
}

/// Instantiates a module for a plugin, that isn't in it yet but lends it its name.
fn begin(
    module: &CompiledModule,
    plugin: &Arc<Plugin>,
    services: &Arc<Services>,
    mode: StartMode,
) -> Result<Guest, StartError> {
    let place = module.place().map_err(|Exhausted { live }| StartError::PoolExhausted { live })?;
    let slot = module
        .engine()
        .shared
        .ticker
        .register()
        .map_err(|error| StartError::Instantiate { reason: format!("no thread for deadlines: {error}") })?;
    let mode = if plugin.vm.shadow { StartMode::Canary } else { mode };
    let began = thread_cpu_time();
    let mut store = store(module, plugin, services, mode);
    slot.enter();
    let exports = instantiate(module, &plugin.vm, &mut store);
    slot.leave();
    let stats = vm_stats(&mut store, mode);
    Ok(Guest {
        store,
        exports: exports?,
        slot,
        failed: None,
        module: module.clone(),
        vm: plugin.vm.clone(),
        started_in: thread_cpu_time().saturating_sub(began),
        configured_in: Duration::ZERO,
        stats,
        _place: place,
    })
}

fn allowed(vm: &VmConfig, name: &str) -> bool {
    vm.capabilities.as_ref().is_none_or(|capabilities| capabilities.contains(name))
}

fn store(module: &CompiledModule, plugin: &Arc<Plugin>, services: &Arc<Services>, mode: StartMode) -> Store<Host> {
    let engine = &module.engine().shared;
    let gates = engine.hostcalls.gates(|name| allowed(&plugin.vm, name));
    let host = Host::new(plugin.clone(), services.clone(), mode, module.abi(), gates);
    let mut store = Store::new(&engine.wasmtime, host);
    store.limiter(|host| &mut host.limiter);
    store.epoch_deadline_callback(|mut cx| {
        if cx.data_mut().deadline.tick() { Ok(UpdateDeadline::Continue(1)) } else { Err(HostTrap::Deadline.into()) }
    });
    budget(&mut store, plugin.vm.limits.start_timeout);
    store
}

/// What the guest may use from here on.
fn budget(store: &mut Store<Host>, time: Duration) {
    store.set_epoch_deadline(1);
    let host = store.data_mut();
    host.deadline.start(time);
    host.hostcalls_left = host.plugin.vm.limits.hostcalls_per_start;
}

fn vm_stats(store: &mut Store<Host>, mode: StartMode) -> Option<VmStats> {
    if mode == StartMode::Canary {
        return None;
    }
    let host = store.data_mut();
    let (services, plugin) = (&host.services, &host.plugin);
    host.log.dropped = PluginStats::log_lines_dropped(&services.registry, plugin);
    Some(VmStats::new(services, plugin))
}

/// `_initialize` and `main`, or `_start`.
fn instantiate(module: &CompiledModule, vm: &VmConfig, store: &mut Store<Host>) -> Result<Exports, StartError> {
    let instance = module.instance_pre().instantiate(&mut *store).map_err(|error| instantiate_error(&error, store))?;
    let host_memory = instance.get_memory(&mut *store, "memory");
    let allocator = ALLOCATORS.iter().find_map(|name| typed(&instance, store, name));
    let host = store.data_mut();
    host.memory = host_memory;
    host.allocator = allocator;
    run_start_functions(&instance, store)?;
    Ok(Exports::new(store, &instance, |name| allowed(vm, name)))
}

/// Makes a plugin's root context: created, `on_vm_start`, `on_configure`, within a budget of CPU time. One that refuses is
/// deleted again; one that traps takes the VM with it.
pub(crate) fn configure(guest: &mut Guest, plugin: &Arc<Plugin>, time: Duration) -> Result<RootId, StartError> {
    let began = thread_cpu_time();
    let stats = guest.plugin_stats(plugin);
    let contexts = &mut guest.store.data_mut().contexts;
    let Some(root) = contexts.insert_root(plugin.clone(), stats) else {
        return Err(StartError::Instantiate { reason: "the VM has used up its context ids".to_owned() });
    };
    budget(&mut guest.store, time);
    guest.slot.enter();
    let outcome = run(&guest.exports, &mut guest.store, root, plugin);
    guest.slot.leave();
    guest.configured_in = thread_cpu_time().saturating_sub(began);
    let error = match outcome {
        Ok(()) => return Ok(root),
        Err(error) => error,
    };
    if let StartError::Trap(trap) | StartError::Deadline { trap, .. } | StartError::OutOfMemory { trap, .. } = &error {
        guest.failed = Some(trap.clone());
    } else if let Some(delete) = &guest.exports.delete {
        budget(&mut guest.store, plugin.vm.limits.callback_timeout);
        guest.slot.enter();
        let deleted = enter(&mut guest.store, Phase::Delete, root, |store| delete.call(store, root.get()));
        guest.slot.leave();
        if let Err(StartError::Trap(trap) | StartError::Deadline { trap, .. } | StartError::OutOfMemory { trap, .. }) =
            deleted
        {
            guest.failed = Some(trap);
        }
    }
    guest.store.data_mut().contexts.remove_root(root);
    Err(error)
}

fn run(exports: &Exports, store: &mut Store<Host>, root: RootId, plugin: &Plugin) -> Result<(), StartError> {
    if let Some(create) = &exports.context_create {
        enter(store, Phase::ContextCreate, root, |store| create.call(store, (root.get(), 0)))?;
    }
    let size = |bytes: &bytes::Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if let Some(vm_start) = &exports.vm_start {
        let size = size(&plugin.vm.configuration);
        if enter(store, Phase::VmStart, root, |store| vm_start.call(store, (root.get(), size)))? == 0 {
            return Err(StartError::VmStartRefused { log: last_errors(store) });
        }
    }
    if let Some(configure) = &exports.configure {
        let size = size(&plugin.configuration);
        if enter(store, Phase::Configure, root, |store| configure.call(store, (root.get(), size)))? == 0 {
            return Err(StartError::ConfigurationRefused { log: last_errors(store) });
        }
    }
    Ok(())
}

fn last_errors(store: &Store<Host>) -> Option<String> {
    store.data().log.last_errors().map(|log| bounded(&log))
}

fn run_start_functions(instance: &Instance, store: &mut Store<Host>) -> Result<(), StartError> {
    if let Some(initialize) = typed::<(), ()>(instance, store, "_initialize") {
        enter_start(store, |store| initialize.call(store, ()))?;
        // Toolchains that have both run the user's `main` from here.
        let main: Option<TypedFunc<(u32, u32), u32>> = typed(instance, store, "main");
        if let Some(main) = main {
            return enter_start(store, |store| main.call(store, (0, 0)).map(|_| ()));
        }
        if let Some(main) = typed::<(), u32>(instance, store, "__main_void") {
            return enter_start(store, |store| main.call(store, ()).map(|_| ()));
        }
        return Ok(());
    }
    match typed::<(), ()>(instance, store, "_start") {
        Some(start) => enter_start(store, |store| start.call(store, ())),
        // No start export at all is legal: the start section did the work.
        None => Ok(()),
    }
}

/// As [`enter`], but a start function may end by `proc_exit(0)`: command modules do.
fn enter_start(
    store: &mut Store<Host>,
    call: impl FnOnce(&mut Store<Host>) -> wasmtime::Result<()>,
) -> Result<(), StartError> {
    match call_start(store, Phase::Start, call) {
        Err(StartError::Trap(trap)) if trap.kind == TrapKind::Exit(0) => Ok(()),
        result => result,
    }
}

fn enter<T>(
    store: &mut Store<Host>,
    phase: Phase,
    root: RootId,
    call: impl FnOnce(&mut Store<Host>) -> wasmtime::Result<T>,
) -> Result<T, StartError> {
    let host = store.data_mut();
    host.current = Target::Root(root);
    host.set_effective(Target::Root(root));
    call_start(store, phase, call)
}

fn call_start<T>(
    store: &mut Store<Host>,
    phase: Phase,
    call: impl FnOnce(&mut Store<Host>) -> wasmtime::Result<T>,
) -> Result<T, StartError> {
    let host = store.data_mut();
    host.phase = phase;
    host.limiter.refused = false;
    host.log.forget_errors();
    call(store).map_err(|error| start_error(&error, store))
}

fn start_error(error: &wasmtime::Error, store: &Store<Host>) -> StartError {
    let host = store.data();
    let trap = Trap::new(error, host.ended(), host.limiter.refused, host.log.last_errors().as_deref());
    match trap.kind {
        TrapKind::Deadline => StartError::Deadline { budget: host.plugin.vm.limits.start_timeout, trap },
        TrapKind::Memory => StartError::OutOfMemory { limit_bytes: host.plugin.vm.limits.memory_bytes, trap },
        _ => StartError::Trap(trap),
    }
}

/// An instance is refused before it runs, or its start section traps.
fn instantiate_error(error: &wasmtime::Error, store: &Store<Host>) -> StartError {
    let is_trap = error.is::<wasmtime::Trap>() || error.is::<HostTrap>();
    if is_trap || store.data().limiter.refused {
        return match start_error(error, store) {
            StartError::Trap(trap) if store.data().limiter.refused => {
                StartError::OutOfMemory { limit_bytes: store.data().plugin.vm.limits.memory_bytes, trap }
            }
            error => error,
        };
    }
    StartError::Instantiate { reason: bounded(&format!("{error:#}")) }
}
