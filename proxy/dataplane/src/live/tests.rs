//! What a generation's clusters are made of.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use outrigger_config::{Resource, ResourceKind, ResourceSet, Source, Update};
use outrigger_http::EndpointAddress;
use outrigger_stats::Registry;
use outrigger_wasm::{Node, Services};

use super::*;
use crate::access_log::AccessLogWriter;
use crate::cluster::{BreakerSet, HealthSet};
use crate::inherited::Inherited;
use crate::overload::Overload;
use crate::prepared::GenerationPlugins;
use crate::trace::span_queue;
use crate::worker::Shared;
use crate::workers::DrainOptions;

/// A worker, and what it was published.
struct Rig {
    cx: Rc<WorkerCx>,
    resources: ResourceSet,
    live: Rc<LiveConfig>,
}

impl Rig {
    fn new() -> Rig {
        let (registry, breakers) = (Arc::<Registry>::default(), BreakerSet::default());
        let shared = Shared {
            services: Services::new(registry.clone(), Node::default()),
            registry,
            drain: DrainOptions::default(),
            access_log: AccessLogWriter::start().unwrap(),
            overload: Arc::new(Overload::new(breakers.clone())),
            breakers,
            spans: span_queue().0,
            health: HealthSet::default(),
            local: None,
            connections: [AtomicUsize::new(0)].into(),
        };
        Rig { cx: WorkerCx::new(0, shared, Vec::new()), resources: ResourceSet::new(), live: LiveConfig::empty() }
    }

    /// Publishes clusters, each with an endpoint of this port.
    fn publish(&mut self, changed: &[(&str, u16)], removed: &[&str]) -> Rc<LiveConfig> {
        let upserts = changed.iter().map(|(name, port)| {
            let address = EndpointAddress::Ip(SocketAddr::from(([10, 0, 0, 1], *port)));
            let cluster = crate::testing::cluster(name, std::iter::once(address));
            (Arc::from(*name), Resource::Cluster(Arc::new(cluster)))
        });
        self.resources.apply(Update {
            source: Source::Static,
            kind: ResourceKind::Cluster,
            upserts: upserts.collect(),
            removed: removed.iter().map(|name| Arc::from(*name)).collect(),
            missing: Vec::new(),
            refused: Vec::new(),
        });
        let before = self.live.snapshot();
        let snapshot = Snapshot::compile(&self.resources, Some(before), before.generation + 1);
        let plugins = GenerationPlugins::default();
        let inherited = Inherited::default();
        let prepared = Prepared::new(Arc::new(snapshot), plugins, HashMap::new(), None, 1, &inherited).unwrap();
        self.live = LiveConfig::build(Arc::new(prepared), WorkerVms::default(), &self.live, &self.cx);
        self.live.clone()
    }
}

#[test]
fn a_generation_has_what_it_shares_with_the_last_one_and_keeps_its_own() {
    let mut rig = Rig::new();
    let same = Rc::ptr_eq;
    let first = rig.publish(&[("a", 1), ("b", 1), ("c", 1), ("unused", 1)], &[]);
    let of = |live: &LiveConfig, name| live.cluster(&rig.cx, name);
    let [a, b, c] = ["a", "b", "c"].map(|name| of(&first, name).unwrap());
    assert!(same(&a, &of(&first, "a").unwrap()));
    let second = rig.publish(&[("a", 2)], &["c"]);
    let of = |live: &LiveConfig, name| live.cluster(&rig.cx, name);
    let a2 = of(&second, "a").unwrap();
    assert!(!same(&a, &a2) && same(&b, &of(&second, "b").unwrap()) && of(&second, "c").is_none());
    // Streams that began before see what they saw.
    assert!(same(&a, &of(&first, "a").unwrap()) && same(&c, &of(&first, "c").unwrap()));
    // What one generation makes is no other one's.
    let late = of(&first, "unused").unwrap();
    assert!(!same(&late, &of(&second, "unused").unwrap()) && same(&late, &of(&first, "unused").unwrap()));
    // What the second one never asked for is the third one's all the same.
    let third = rig.publish(&[("a", 3)], &[]);
    let fourth = rig.publish(&[], &["a"]);
    let of = |live: &LiveConfig, name| live.cluster(&rig.cx, name);
    assert!(same(&b, &of(&fourth, "b").unwrap()) && of(&fourth, "a").is_none());
    assert!(!same(&a2, &of(&third, "a").unwrap()) && same(&a2, &of(&second, "a").unwrap()));
    assert_eq!([first, second, third, fourth].map(|live| live.status().len()), [4, 3, 3, 2]);
}
