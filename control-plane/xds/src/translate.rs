//! The mesh's views as Envoy's protos, by kind of client.
//!
//! Parts of a view that did not change are the same `Arc` from one generation to the next, so what they were translated
//! to is kept with them: an update costs what it changed.

mod action;
mod cluster;
mod filter;
mod grpc;
mod listener;
mod proto;
mod route;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_model::{ClusterView, Gateway, GatewayView, ListenerView, Protocol, WasmFilter};
use serde::Serialize;

use crate::resource::{Interner, NodeSnapshot, Resource};

pub use cluster::MODULES_CLUSTER;

/// Kinds of clients that get resources in their own form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Our own proxy.
    Outrigger,
    /// Envoy, and what presents itself as nothing else.
    Envoy,
    /// gRPC's own client (`xds:///`).
    Grpc,
}

/// What a translation depends on besides the view.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    pub(crate) profile: Profile,
    /// Where proxies fetch modules.
    pub(crate) modules: SocketAddr,
    /// Signed machine code lies there, too.
    pub(crate) machine_code: bool,
}

/// Translates views, and remembers what it translated.
#[derive(Debug, Default)]
pub(crate) struct Translator {
    interner: Interner,
    clusters: Kept<ClusterView>,
    listeners: Kept<ListenerView, Arc<Gateway>>,
    filters: Kept<WasmFilter>,
}

impl Translator {
    /// Everything that the gateway's proxies get.
    pub(crate) fn gateway(&mut self, view: &GatewayView, context: Context) -> NodeSnapshot {
        let Self { interner, clusters, listeners, filters } = self;
        let profile = context.profile;
        let mut snapshot = NodeSnapshot::default();
        let mut add = |resources: &[Arc<Resource>]| resources.iter().cloned().for_each(|one| snapshot.insert(one));
        for cluster in view.clusters.values() {
            add(clusters.get(profile, cluster, &(), interner, || cluster::resources(cluster, profile)));
        }
        for listener in &view.listeners {
            add(listeners.get(profile, listener, &view.gateway, interner, || {
                let mut made = vec![listener::resource(listener, view, profile)];
                if listener.protocol == Protocol::Http {
                    made.push(route::resource(listener, view, profile));
                }
                if listener::needs_nowhere(listener) {
                    made.push(cluster::nowhere());
                }
                made
            }));
        }
        for one in view.filters.values().filter(|one| filter::runs(one, profile)) {
            add(filters.get(profile, one, &(), interner, || vec![filter::resource(one, context)]));
        }
        if profile == Profile::Outrigger {
            add(&[interner.intern(cluster::modules(context.modules))]);
        }
        snapshot.limitations = view.filters.values().flat_map(|one| filter::limitations(one, profile)).collect();
        snapshot
    }

    /// Every service, for clients that ask by name.
    pub(crate) fn services<'a>(&mut self, views: impl Iterator<Item = &'a Arc<ClusterView>>) -> NodeSnapshot {
        let Self { interner, clusters, .. } = self;
        let mut snapshot = NodeSnapshot::default();
        for view in views {
            let resources = clusters.get(Profile::Grpc, view, &(), interner, || grpc::resources(view));
            resources.iter().cloned().for_each(|one| snapshot.insert(one));
        }
        snapshot
    }

    /// Forgets what no view holds any more.
    pub(crate) fn sweep(&mut self) {
        self.clusters.sweep();
        self.listeners.sweep();
        self.filters.sweep();
    }
}

/// Translations by the address of what was translated, which is held so that the address stays its own. `B` is what the
/// translation depends on besides.
#[derive(Debug)]
struct Kept<A, B = ()> {
    entries: HashMap<(Profile, usize), Entry<A, B>>,
}

#[derive(Debug)]
struct Entry<A, B> {
    view: Arc<A>,
    beside: B,
    resources: Vec<Arc<Resource>>,
}

impl<A, B> Default for Kept<A, B> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<A, B: Clone + PartialEq> Kept<A, B> {
    fn get(
        &mut self,
        profile: Profile,
        view: &Arc<A>,
        beside: &B,
        interner: &Interner,
        translate: impl FnOnce() -> Vec<Resource>,
    ) -> &[Arc<Resource>] {
        let key = (profile, Arc::as_ptr(view).addr());
        let fresh = self.entries.get(&key).is_none_or(|entry| entry.beside != *beside);
        if fresh {
            let resources = translate().into_iter().map(|resource| interner.intern(resource)).collect();
            self.entries.insert(key, Entry { view: Arc::clone(view), beside: beside.clone(), resources });
        }
        self.entries.get(&key).map_or(&[], |entry| &entry.resources)
    }

    fn sweep(&mut self) {
        self.entries.retain(|_, entry| Arc::strong_count(&entry.view) > 1);
    }
}
