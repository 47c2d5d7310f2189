//! Starting a VM with all of its plugins, on a prepare thread.

use std::sync::Arc;

use super::{StartError, StartMode, begin};
use crate::module::CompiledModule;
use crate::plugin::Plugin;
use crate::services::Services;
use crate::vm::ReadyVm;

/// How often a plugin is configured, on average, until it is known who can be in a VM together.
const TURNS_MAX: usize = 8;

/// What came of starting a VM for some plugins.
#[derive(Debug)]
pub struct StartedVm {
    /// `None`: none of the plugins could be configured.
    pub vm: Option<ReadyVm>,
    pub failed: Vec<(Arc<Plugin>, StartError)>,
}

/// Starts a VM and configures plugins in it; blocks. One that refuses is left out; one that traps is left out as well, and
/// the others get a VM that it never was in: those first that had no turn yet, so that each has one however many trap, and
/// traps cost no more than the VMs that they take. Where some trap for the company that they are in, this goes on as long as
/// plugins have turns left, and then those go without that the last VM didn't come to.
pub fn start_vm(module: &CompiledModule, plugins: Vec<Arc<Plugin>>, services: &Arc<Services>) -> StartedVm {
    let mut failed: Vec<(Arc<Plugin>, StartError)> = Vec::new();
    let mut left = plugins;
    let mut turns = left.len() * TURNS_MAX;
    loop {
        let configured = match start_all(module, &mut left, services, &mut failed) {
            Ok(vm) => return StartedVm { vm, failed },
            Err(Again { configured }) => configured,
        };
        if configured >= turns {
            let lost = failed.len();
            let untried = |plugin: Arc<Plugin>| (plugin, StartError::Untried { failed: lost });
            failed.extend(left.split_off(configured).into_iter().map(untried));
            let vm = start_all(module, &mut left, services, &mut failed).ok().flatten();
            if vm.is_none() {
                failed.extend(left.into_iter().map(untried));
            }
            return StartedVm { vm, failed };
        }
        turns -= configured;
        left.rotate_left(configured);
    }
}

/// The VM can't be had as it is, though so many could be configured in it.
struct Again {
    configured: usize,
}

/// Those of `left` that can be configured in one VM; the others go from there to `failed`. However many refuse, whoever is
/// behind them has his turn in the same VM.
fn start_all(
    module: &CompiledModule,
    left: &mut Vec<Arc<Plugin>>,
    services: &Arc<Services>,
    failed: &mut Vec<(Arc<Plugin>, StartError)>,
) -> Result<Option<ReadyVm>, Again> {
    let Some(named_for) = left.first().cloned() else { return Ok(None) };
    let mut vm = match begin(module, &named_for, services, StartMode::Serving) {
        Ok(guest) => ReadyVm::new(guest),
        Err(error) => {
            // Nobody's configuration has been looked at: it would be the same for each.
            failed.extend(left.drain(..).map(|plugin| (plugin, error.clone())));
            return Ok(None);
        }
    };
    let mut at = 0;
    while let Some(plugin) = left.get(at) {
        match vm.add(plugin) {
            Ok(_) => at += 1,
            Err(error) => {
                failed.push((left.remove(at), error));
                if vm.failed().is_some() {
                    return Err(Again { configured: at });
                }
            }
        }
    }
    match left.first() {
        None => Ok(None),
        Some(first) if Arc::ptr_eq(first, &named_for) => Ok(Some(vm)),
        // Statistics show a VM under a name, and whose it was is gone.
        Some(_) => Err(Again { configured: at }),
    }
}
