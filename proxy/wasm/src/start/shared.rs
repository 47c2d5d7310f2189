//! Starting a VM with all of its plugins, on a prepare thread.

use std::sync::Arc;

use super::{StartError, StartMode, start};
use crate::module::CompiledModule;
use crate::plugin::Plugin;
use crate::services::Services;
use crate::vm::ReadyVm;

/// How often a VM is begun for the same plugins: each beginning configures those again that went well before.
const BEGUN_MAX: usize = 8;

/// What came of starting a VM for some plugins.
#[derive(Debug)]
pub struct StartedVm {
    /// `None`: none of the plugins could be configured.
    pub vm: Option<ReadyVm>,
    pub failed: Vec<(Arc<Plugin>, StartError)>,
}

/// Starts a VM and configures plugins in it; blocks. One that refuses is left out; one that traps is left out as well, and
/// the others get a VM that it never was in. Where that goes on and on, those go without that come after it.
pub fn start_vm(module: &CompiledModule, plugins: Vec<Arc<Plugin>>, services: &Arc<Services>) -> StartedVm {
    let mut failed: Vec<(Arc<Plugin>, StartError)> = Vec::new();
    let mut left = plugins;
    let mut went_well = 0;
    for _ in 1..BEGUN_MAX {
        match start_all(module, &mut left, services, &mut failed) {
            Ok(vm) => return StartedVm { vm, failed },
            Err(Lost { before }) => went_well = before,
        }
    }
    let lost = failed.len();
    let untried = |plugin: Arc<Plugin>| (plugin, StartError::Untried { failed: lost });
    failed.extend(left.split_off(went_well).into_iter().map(untried));
    let vm = start_all(module, &mut left, services, &mut failed).ok().flatten();
    if vm.is_none() {
        failed.extend(left.into_iter().map(untried));
    }
    StartedVm { vm, failed }
}

/// A plugin took the VM with it, after so many that went well.
struct Lost {
    before: usize,
}

/// Those of `left` that can be configured in one VM; the others go from there to `failed`.
fn start_all(
    module: &CompiledModule,
    left: &mut Vec<Arc<Plugin>>,
    services: &Arc<Services>,
    failed: &mut Vec<(Arc<Plugin>, StartError)>,
) -> Result<Option<ReadyVm>, Lost> {
    let Some(first) = left.first() else { return Ok(None) };
    let mut vm = match start(module, first, services, StartMode::Serving) {
        Ok(vm) => vm,
        Err(error) => {
            failed.push((left.remove(0), error));
            return Err(Lost { before: 0 });
        }
    };
    let mut at = 1;
    while let Some(plugin) = left.get(at) {
        match vm.add(plugin) {
            Ok(_) => at += 1,
            Err(error) => {
                failed.push((left.remove(at), error));
                if vm.failed().is_some() {
                    return Err(Lost { before: at });
                }
            }
        }
    }
    Ok(Some(vm))
}
