//! Starting a VM with its plugins, on a prepare thread.

use std::sync::Arc;

use outrigger_wasm::{CompiledModule, Plugin, ReadyVm, Services, StartError, StartMode};

/// What came of starting a VM for some plugins.
#[derive(Debug)]
pub struct StartedVm {
    /// `None`: none of the plugins could be configured.
    pub vm: Option<ReadyVm>,
    pub failed: Vec<(Arc<Plugin>, StartError)>,
}

/// Starts a VM and configures plugins in it; blocks. One that refuses is left out; one that traps is left out as well, and
/// the others get a VM that it never was in.
pub fn start_vm(module: &CompiledModule, plugins: Vec<Arc<Plugin>>, services: &Arc<Services>) -> StartedVm {
    let mut failed: Vec<(Arc<Plugin>, StartError)> = Vec::new();
    let mut left = plugins;
    loop {
        match start_all(module, &left, services) {
            Ok(vm) => return StartedVm { vm, failed },
            Err((at, error)) => failed.push((left.remove(at), error)),
        }
    }
}

/// All of them, or the place of the first that doesn't go.
fn start_all(
    module: &CompiledModule,
    plugins: &[Arc<Plugin>],
    services: &Arc<Services>,
) -> Result<Option<ReadyVm>, (usize, StartError)> {
    let Some((first, others)) = plugins.split_first() else { return Ok(None) };
    let mut vm = outrigger_wasm::start(module, first, services, StartMode::Serving).map_err(|error| (0, error))?;
    for (index, plugin) in others.iter().enumerate() {
        vm.add(plugin).map_err(|error| (index + 1, error))?;
    }
    Ok(Some(vm))
}
