//! Where cells are made and summed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::histogram::Buckets;
use crate::{Counter, Gauge, Histogram, HistogramSnapshot};

/// What a metric is called: a prefix and a rest between which the first tag's value stands in Envoy's flat names.
///
/// `Name::new("cluster", "upstream_rq_total").tag("envoy_cluster_name", "api")` is `cluster.api.upstream_rq_total` in
/// `/stats`. Values are cut at [`Name::TAG_VALUE_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    prefix: String,
    rest: String,
    tags: Vec<(String, String)>,
    /// What stands for `rest` in the flat name, where a tag is folded into it: `upstream_rq_2xx`.
    flat_rest: Option<String>,
    /// How many tags stand in the flat name.
    flat_tags: usize,
}

impl Name {
    pub const TAG_VALUE_MAX: usize = 256;

    /// `prefix` may be empty.
    #[must_use]
    pub fn new(prefix: impl Into<String>, rest: impl Into<String>) -> Name {
        Name { prefix: prefix.into(), rest: rest.into(), tags: Vec::new(), flat_rest: None, flat_tags: 0 }
    }

    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Name {
        let mut value = value.into();
        if value.len() > Name::TAG_VALUE_MAX {
            let mut end = Name::TAG_VALUE_MAX;
            while !value.is_char_boundary(end) {
                end -= 1;
            }
            value.truncate(end);
        }
        self.tags.push((key.into(), value));
        self.flat_tags += 1;
        self
    }

    /// A tag whose value is part of the last word of the flat name, as Envoy extracts response codes:
    /// `cluster.api.upstream_rq_2xx` has the family `cluster.upstream_rq_xx` and the tag `envoy_response_code_class`.
    #[must_use]
    pub fn folded_tag(
        mut self,
        key: impl Into<String>,
        value: impl Into<String>,
        flat_rest: impl Into<String>,
    ) -> Name {
        self = self.tag(key, value);
        self.flat_tags -= 1;
        self.flat_rest = Some(flat_rest.into());
        self
    }

    /// The name that Prometheus groups by, without tags: `cluster.upstream_rq_total`.
    #[must_use]
    pub fn family(&self) -> String {
        if self.prefix.is_empty() { self.rest.clone() } else { format!("{}.{}", self.prefix, self.rest) }
    }

    /// Envoy's flat name: `cluster.api.upstream_rq_total`.
    #[must_use]
    pub fn flat(&self) -> String {
        let values = self.tags.iter().take(self.flat_tags).map(|(_, value)| value.as_str());
        let parts = (!self.prefix.is_empty()).then_some(self.prefix.as_str()).into_iter().chain(values);
        let mut flat = parts.collect::<Vec<_>>().join(".");
        if !flat.is_empty() {
            flat.push('.');
        }
        flat + self.flat_rest.as_deref().unwrap_or(&self.rest)
    }

    #[must_use]
    pub fn tags(&self) -> &[(String, String)] {
        &self.tags
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric's value at a scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Counter(u64),
    Gauge(i64),
    Histogram(Box<HistogramSnapshot>),
}

/// One metric at a scrape.
#[derive(Debug, Clone)]
pub struct Sample {
    pub name: Name,
    pub value: Value,
}

/// The samples of one family, for Prometheus.
#[derive(Debug)]
pub struct Family<'a> {
    pub name: String,
    pub kind: Kind,
    pub samples: Vec<&'a Sample>,
}

#[derive(Debug)]
enum Metric {
    Counter { retained: u64, cells: Vec<Arc<AtomicU64>> },
    Gauge { cells: Vec<Arc<AtomicI64>> },
    Histogram { retained: Option<Box<HistogramSnapshot>>, cells: Vec<Arc<Buckets>> },
}

/// A metric, and for how many sweeps nobody has held a cell of it.
#[derive(Debug)]
struct Entry {
    metric: Metric,
    idle_sweeps: u32,
}

impl Metric {
    /// Whether somebody may still write to it.
    fn is_held(&self) -> bool {
        match self {
            Metric::Counter { cells, .. } => !cells.is_empty(),
            Metric::Gauge { cells } => !cells.is_empty(),
            Metric::Histogram { cells, .. } => !cells.is_empty(),
        }
    }

    /// Folds the cells whose writer is gone into what is retained.
    fn fold(&mut self) {
        match self {
            Metric::Counter { retained, cells } => cells.retain(|cell| {
                let live = Arc::strong_count(cell) > 1;
                if !live {
                    *retained += cell.load(Ordering::Relaxed);
                }
                live
            }),
            Metric::Gauge { cells } => cells.retain(|cell| Arc::strong_count(cell) > 1),
            Metric::Histogram { retained, cells } => cells.retain(|cell| {
                let live = Arc::strong_count(cell) > 1;
                if !live {
                    cell.add_to(retained.get_or_insert_default());
                }
                live
            }),
        }
    }

    fn value(&mut self) -> Value {
        self.fold();
        match self {
            Metric::Counter { retained, cells } => {
                Value::Counter(*retained + cells.iter().map(|cell| cell.load(Ordering::Relaxed)).sum::<u64>())
            }
            Metric::Gauge { cells } => Value::Gauge(cells.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()),
            Metric::Histogram { retained, cells } => {
                let mut snapshot = retained.clone().unwrap_or_default();
                cells.iter().for_each(|cell| cell.add_to(&mut snapshot));
                Value::Histogram(snapshot)
            }
        }
    }
}

/// All metrics of a process. Asking for a cell takes a lock: do it when configuration is built or at first use.
#[derive(Debug)]
pub struct Registry {
    metrics: Mutex<BTreeMap<Name, Entry>>,
    limit: usize,
    overflow: AtomicU64,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::with_limit(500_000)
    }
}

impl Registry {
    /// A registry that shows at most `limit` metrics.
    #[must_use]
    pub fn with_limit(limit: usize) -> Registry {
        Registry { metrics: Mutex::default(), limit, overflow: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Entry>> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        name: &Name,
        new: impl FnOnce() -> Metric,
        pick: impl FnOnce(&mut Metric) -> Option<T>,
    ) -> Option<T> {
        let mut metrics = self.lock();
        if !metrics.contains_key(name) && metrics.len() >= self.limit {
            drop(metrics);
            self.overflow.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let entry = metrics.entry(name.clone()).or_insert_with(|| Entry { metric: new(), idle_sweeps: 0 });
        entry.idle_sweeps = 0;
        entry.metric.fold();
        pick(&mut entry.metric)
    }

    /// A new cell of a counter. Where the name is taken by another kind, the cell works but isn't shown.
    #[must_use]
    pub fn counter(&self, name: &Name) -> Counter {
        let cell = Arc::new(AtomicU64::new(0));
        let shown = cell.clone();
        self.with(
            name,
            || Metric::Counter { retained: 0, cells: Vec::new() },
            |metric| match metric {
                Metric::Counter { cells, .. } => {
                    cells.push(shown);
                    Some(())
                }
                _ => None,
            },
        );
        Counter::new(cell)
    }

    /// A new cell of a gauge.
    #[must_use]
    pub fn gauge(&self, name: &Name) -> Gauge {
        let cell = Arc::new(AtomicI64::new(0));
        let shown = cell.clone();
        self.with(
            name,
            || Metric::Gauge { cells: Vec::new() },
            |metric| match metric {
                Metric::Gauge { cells } => {
                    cells.push(shown);
                    Some(())
                }
                _ => None,
            },
        );
        Gauge::new(cell)
    }

    /// A new cell of a histogram.
    #[must_use]
    pub fn histogram(&self, name: &Name) -> Histogram {
        let buckets = Arc::new(Buckets::default());
        let shown = buckets.clone();
        self.with(
            name,
            || Metric::Histogram { retained: None, cells: Vec::new() },
            |metric| match metric {
                Metric::Histogram { cells, .. } => {
                    cells.push(shown);
                    Some(())
                }
                _ => None,
            },
        );
        Histogram::new(buckets)
    }

    /// The value of one metric, if anybody ever asked for a cell of it.
    #[must_use]
    pub fn value(&self, name: &Name) -> Option<Value> {
        self.lock().get_mut(name).map(|entry| entry.metric.value())
    }

    /// All metrics, sorted by name and tags.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        let sample = |(name, entry): (&Name, &mut Entry)| Sample { name: name.clone(), value: entry.metric.value() };
        let mut samples: Vec<Sample> = self.lock().iter_mut().map(sample).collect();
        let overflow = self.overflow.load(Ordering::Relaxed);
        if overflow > 0 {
            samples.push(Sample { name: Name::new("stats", "overflow"), value: Value::Counter(overflow) });
        }
        samples
    }

    /// Forgets metrics that nobody could have written to since `idle_sweeps_max` sweeps: those of clusters, listeners and
    /// plugins that are gone. Returns how many.
    pub fn sweep(&self, idle_sweeps_max: u32) -> usize {
        let mut metrics = self.lock();
        let before = metrics.len();
        metrics.retain(|_, entry| {
            entry.metric.fold();
            entry.idle_sweeps = if entry.metric.is_held() { 0 } else { entry.idle_sweeps.saturating_add(1) };
            entry.idle_sweeps <= idle_sweeps_max
        });
        before - metrics.len()
    }

    /// Forgets a metric's value and name; cells that still live are no longer shown.
    pub fn forget(&self, name: &Name) {
        self.lock().remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_summed_and_a_dropped_cell_leaves_its_count() {
        let registry = Registry::default();
        let name = Name::new("cluster", "upstream_rq_total").tag("envoy_cluster_name", "api");
        let (a, b) = (registry.counter(&name), registry.counter(&name));
        a.add(3);
        b.inc();
        drop(a);
        assert_eq!(registry.value(&name), Some(Value::Counter(4)));
        drop(b);
        let again = registry.counter(&name);
        again.inc();
        assert_eq!(registry.value(&name), Some(Value::Counter(5)));
        assert_eq!(name.flat(), "cluster.api.upstream_rq_total");
        assert_eq!(name.family(), "cluster.upstream_rq_total");
    }

    #[test]
    fn a_dropped_gauge_contributes_nothing() {
        let registry = Registry::default();
        let name = Name::new("http", "downstream_cx_active");
        let (a, b) = (registry.gauge(&name), registry.gauge(&name));
        a.add(5);
        b.inc();
        b.inc();
        b.dec();
        drop(a);
        assert_eq!(registry.value(&name), Some(Value::Gauge(1)));
    }

    #[test]
    fn what_nobody_holds_is_forgotten_after_some_sweeps() {
        let registry = Registry::default();
        let name = |rest: &str| Name::new("cluster", rest);
        let held = registry.counter(&name("held"));
        drop((registry.counter(&name("gone")), registry.gauge(&name("gauge")), registry.histogram(&name("time"))));
        assert_eq!((registry.sweep(1), registry.samples().len()), (0, 4));
        // Asked for again: it starts anew.
        drop(registry.counter(&name("gone")));
        assert_eq!((registry.sweep(1), registry.samples().len()), (2, 2));
        assert_eq!((registry.sweep(1), registry.samples().len()), (1, 1));
        held.inc();
        assert_eq!(registry.value(&name("held")), Some(Value::Counter(1)));
    }

    #[test]
    fn the_number_of_metrics_is_bounded() {
        let registry = Registry::with_limit(2);
        for index in 0..5 {
            registry.counter(&Name::new("a", format!("{index}"))).inc();
        }
        let samples = registry.samples();
        assert_eq!(samples.len(), 3);
        assert_eq!(samples[2].value, Value::Counter(3));
    }
}
