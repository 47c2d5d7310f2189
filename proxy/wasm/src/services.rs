//! What all VMs of a process share: metrics, shared data and queues, the node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use outrigger_attributes::Node;
use outrigger_stats::{Gauge, Name, Registry};

use crate::labels::LabelSet;
use crate::metrics::RuntimeStats;
use crate::queues::Queues;
use crate::shared::SharedVm;

/// Process-wide state behind the hostcalls.
#[derive(Debug)]
pub struct Services {
    pub(crate) registry: Arc<Registry>,
    pub(crate) node: Node,
    pub(crate) queues: Arc<Queues>,
    pub(crate) labels: Mutex<LabelSet>,
    shared: Mutex<HashMap<String, Weak<SharedVm>>>,
    /// A guest's gauge is one value for all workers, so it is one cell behind a lock.
    gauges: Mutex<HashMap<Name, Weak<Mutex<Gauge>>>>,
    runtime: OnceLock<Arc<RuntimeStats>>,
}

impl Services {
    #[must_use]
    pub fn new(registry: Arc<Registry>, node: Node) -> Arc<Services> {
        Arc::new(Services {
            registry,
            node,
            queues: Arc::default(),
            labels: Mutex::default(),
            shared: Mutex::default(),
            gauges: Mutex::default(),
            runtime: OnceLock::new(),
        })
    }

    /// The shared data of a `vm_id`; lives as long as somebody holds it.
    pub(crate) fn shared(&self, vm_id: &str) -> Arc<SharedVm> {
        let mut all = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = all.get(vm_id).and_then(Weak::upgrade) {
            return shared;
        }
        all.retain(|_, shared| shared.strong_count() > 0);
        let shared = Arc::new(SharedVm::new(vm_id, &self.queues));
        all.insert(vm_id.to_owned(), Arc::downgrade(&shared));
        shared
    }

    /// Of all VMs together; shown from the first on.
    pub(crate) fn runtime(&self) -> &Arc<RuntimeStats> {
        self.runtime.get_or_init(|| Arc::new(RuntimeStats::new(&self.registry)))
    }

    pub(crate) fn gauge(&self, name: &Name) -> Arc<Mutex<Gauge>> {
        let mut all = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gauge) = all.get(name).and_then(Weak::upgrade) {
            return gauge;
        }
        all.retain(|_, gauge| gauge.strong_count() > 0);
        let gauge = Arc::new(Mutex::new(self.registry.gauge(name)));
        all.insert(name.clone(), Arc::downgrade(&gauge));
        gauge
    }
}
