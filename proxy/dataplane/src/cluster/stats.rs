//! Statistics of what is kept once for the process: a cell has one writer at a time, whoever holds the lock around it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use outrigger_stats::{Counter, Gauge, Name, Registry};

/// `cluster.NAME.GROUP.*`, made at first use.
#[derive(Debug)]
pub(super) struct GroupStats {
    registry: Arc<Registry>,
    stat_name: Arc<str>,
    group: &'static str,
    counters: RefCell<HashMap<&'static str, Counter>>,
    gauges: RefCell<HashMap<&'static str, Gauge>>,
}

impl GroupStats {
    pub(super) fn new(registry: &Arc<Registry>, stat_name: &Arc<str>, group: &'static str) -> GroupStats {
        GroupStats {
            registry: registry.clone(),
            stat_name: stat_name.clone(),
            group,
            counters: RefCell::default(),
            gauges: RefCell::default(),
        }
    }

    fn name(&self, rest: &str) -> Name {
        let rest = if self.group.is_empty() { rest.to_owned() } else { format!("{}.{rest}", self.group) };
        Name::new("cluster", rest).tag("envoy_cluster_name", &*self.stat_name)
    }

    pub(super) fn inc(&self, counter: &'static str) {
        let mut counters = self.counters.borrow_mut();
        counters.entry(counter).or_insert_with(|| self.registry.counter(&self.name(counter))).inc();
    }

    /// Adds to a gauge.
    pub(super) fn gauge(&self, gauge: &'static str, change: i64) {
        let mut gauges = self.gauges.borrow_mut();
        gauges.entry(gauge).or_insert_with(|| self.registry.gauge(&self.name(gauge))).add(change);
    }

    pub(super) fn set(&self, gauge: &'static str, value: i64) {
        let mut gauges = self.gauges.borrow_mut();
        gauges.entry(gauge).or_insert_with(|| self.registry.gauge(&self.name(gauge))).set(value);
    }
}
