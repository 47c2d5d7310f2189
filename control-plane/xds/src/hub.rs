//! What is published: the mesh as it is now, the snapshot of every kind of client that is connected, and the modules
//! that proxies may still fetch.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_model::{Changes, Digest, MeshIndex, Module, NodeQuery};
use tokio::sync::watch;

use crate::node::{NodeKey, Scope};
use crate::resource::NodeSnapshot;
use crate::translate::{Context, Translator};

/// Modules that no filter has any more are still served for a while to proxies that are about to fetch them: at most so
/// many.
const RECENT_MODULES_MAX: usize = 32;
/// And at most so many bytes of them.
const RECENT_MODULE_BYTES_MAX: usize = 128 << 20;

/// What a stream waits on; `None` until something was published.
pub(crate) type Snapshots = watch::Receiver<Option<Arc<NodeSnapshot>>>;

/// The published state, shared by streams and pages.
#[derive(Debug)]
pub struct Hub {
    modules_address: SocketAddr,
    machine_code: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    index: Option<Arc<MeshIndex>>,
    translator: Translator,
    nodes: HashMap<NodeKey, watch::Sender<Option<Arc<NodeSnapshot>>>>,
    recent: VecDeque<Module>,
}

impl Hub {
    /// Nothing is published yet. Proxies will fetch modules from `modules_address`.
    pub fn new(modules_address: SocketAddr) -> Self {
        Self { modules_address, machine_code: false, inner: Mutex::default() }
    }

    /// The same, and proxies are told that signed machine code is served there.
    #[must_use]
    pub fn with_machine_code(mut self) -> Self {
        self.machine_code = true;
        self
    }

    fn context(&self, key: &NodeKey) -> Context {
        Context { profile: key.profile, modules: self.modules_address, machine_code: self.machine_code }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A translation that panicked has changed no entry half.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a generation of the mesh: whoever's view changed gets what changed. Returns how many kinds of clients
    /// got something new.
    pub fn publish(&self, index: &Arc<MeshIndex>, changes: &Changes) -> usize {
        let mut inner = self.lock();
        let previous = inner.index.replace(Arc::clone(index));
        if let Some(previous) = &previous {
            inner.keep_modules(previous, index);
        }
        let first = previous.is_none();
        drop(previous);
        let Inner { nodes, translator, .. } = &mut *inner;
        let mut changed = 0;
        for (key, sender) in nodes.iter().filter(|(key, _)| first || is_dirty(key, changes)) {
            let snapshot = build(translator, index, key, self.context(key));
            changed += usize::from(send(sender, snapshot));
        }
        translator.sweep();
        changed
    }

    /// The mesh as it was published last.
    pub fn index(&self) -> Option<Arc<MeshIndex>> {
        self.lock().index.clone()
    }

    /// Whether the mesh has what this client asks for; `None` while nothing is published.
    pub(crate) fn knows(&self, key: &NodeKey) -> Option<bool> {
        let index = self.index()?;
        Some(match &key.scope {
            Scope::Gateway(id) => index.view(&NodeQuery::Gateway(id.clone())).is_some(),
            Scope::Services => true,
            Scope::Nothing => false,
        })
    }

    /// The snapshots of a kind of client, from now on.
    pub(crate) fn subscribe(&self, key: &NodeKey) -> Snapshots {
        let mut inner = self.lock();
        if let Some(sender) = inner.nodes.get(key) {
            return sender.subscribe();
        }
        let Inner { index, translator, nodes, .. } = &mut *inner;
        let snapshot = index.as_ref().map(|index| Arc::new(build(translator, index, key, self.context(key))));
        let (sender, receiver) = watch::channel(snapshot);
        nodes.insert(key.clone(), sender);
        receiver
    }

    /// Forgets a kind of client when the last of them has gone.
    pub(crate) fn release(&self, key: &NodeKey) {
        let mut inner = self.lock();
        if inner.nodes.get(key).is_some_and(|sender| sender.receiver_count() == 0) {
            inner.nodes.remove(key);
        }
    }

    /// The snapshot that a kind of client has or would get.
    pub fn snapshot(&self, key: &NodeKey) -> Option<Arc<NodeSnapshot>> {
        let mut inner = self.lock();
        let Inner { index, translator, nodes, .. } = &mut *inner;
        if let Some(sender) = nodes.get(key) {
            return sender.borrow().clone();
        }
        index.as_ref().map(|index| Arc::new(build(translator, index, key, self.context(key))))
    }

    /// A module that is in use, or was until recently.
    pub fn module(&self, digest: &Digest) -> Option<Module> {
        let inner = self.lock();
        let current = inner.index.as_ref().and_then(|index| index.module(digest));
        current.or_else(|| inner.recent.iter().find(|module| module.sha256() == *digest).cloned())
    }
}

impl Inner {
    fn keep_modules(&mut self, previous: &MeshIndex, current: &MeshIndex) {
        let mut seen = BTreeSet::new();
        for module in previous.modules() {
            let digest = module.sha256();
            if seen.insert(digest) && current.module(&digest).is_none() {
                self.recent.retain(|module| module.sha256() != digest);
                self.recent.push_back(module.clone());
            }
        }
        let bytes = |recent: &VecDeque<Module>| recent.iter().map(|module| module.bytes().len()).sum::<usize>();
        while self.recent.len() > RECENT_MODULES_MAX || bytes(&self.recent) > RECENT_MODULE_BYTES_MAX {
            self.recent.pop_front();
        }
    }
}

fn is_dirty(key: &NodeKey, changes: &Changes) -> bool {
    match &key.scope {
        Scope::Gateway(id) => changes.gateways.contains(id),
        Scope::Services => !changes.clusters.is_empty(),
        Scope::Nothing => false,
    }
}

/// What nobody knows has nothing: an empty snapshot.
fn build(translator: &mut Translator, index: &MeshIndex, key: &NodeKey, context: Context) -> NodeSnapshot {
    match &key.scope {
        Scope::Gateway(id) => match index.view(&NodeQuery::Gateway(id.clone())) {
            Some(view) => translator.gateway(&view, context),
            None => NodeSnapshot::default(),
        },
        Scope::Services => translator.services(index.clusters()),
        Scope::Nothing => NodeSnapshot::default(),
    }
}

fn send(sender: &watch::Sender<Option<Arc<NodeSnapshot>>>, mut snapshot: NodeSnapshot) -> bool {
    sender.send_if_modified(|current| {
        if let Some(previous) = current {
            snapshot.share_with(previous);
            if **previous == snapshot {
                return false;
            }
        }
        *current = Some(Arc::new(std::mem::take(&mut snapshot)));
        true
    })
}
