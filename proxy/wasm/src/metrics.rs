//! Metrics: what guests define, and what we count about each plugin.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_stats::{Counter, Gauge, Histogram, Name, Registry, Value};

use crate::plugin::Plugin;
use crate::services::Services;
use crate::status::Status;
use crate::trap::{Trap, TrapKind};

const NAME_BYTES_MAX: usize = 256;

/// What a guest says a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MetricKind {
    Counter = 0,
    Gauge = 1,
    Histogram = 2,
}

#[derive(Debug)]
enum Metric {
    Counter(Counter),
    /// One value for all workers.
    Gauge(Arc<Mutex<Gauge>>),
    Histogram(Histogram),
}

/// Tags of one metric; a name with more is taken as it stands.
const TAGS_MAX: usize = 16;

/// A metric's name with the tags that stand in it by the convention of Istio's filters: `key=.=value;.;`, as often as
/// wanted. The flat name is the whole text, as in Envoy; what is left of it without the tags is the family.
fn tagged(name: &str) -> Name {
    let (mut rest, mut tags, mut left) = (String::new(), Vec::new(), name);
    while let Some((before, after)) = left.split_once("=.=") {
        let Some((value, next)) = after.split_once(";.;") else { break };
        let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let key_at = before.rfind(|c| !is_key(c)).map_or(0, |at| at + 1);
        if key_at == before.len() || tags.len() == TAGS_MAX {
            break;
        }
        rest.push_str(&before[..key_at]);
        tags.push((&before[key_at..], value));
        left = next;
    }
    rest.push_str(left);
    let family = rest.trim_matches(['.', '_']);
    if tags.is_empty() || family.is_empty() {
        return Name::new("wasmcustom", name);
    }
    tags.into_iter()
        .fold(Name::new("wasmcustom", family), |name_so_far, (key, value)| name_so_far.folded_tag(key, value, name))
}

/// The metrics that one VM has defined.
#[derive(Debug)]
pub(crate) struct GuestMetrics {
    metrics: Vec<(Name, Metric)>,
    ids: BTreeMap<(MetricKind, String), u32>,
    metrics_max: usize,
}

impl GuestMetrics {
    pub(crate) fn new(metrics_max: usize) -> GuestMetrics {
        GuestMetrics { metrics: Vec::new(), ids: BTreeMap::new(), metrics_max }
    }

    /// The id of a metric; the same for the same name. A canary's metrics count nowhere.
    pub(crate) fn define(
        &mut self,
        kind: MetricKind,
        name: &[u8],
        services: &Services,
        shown: bool,
    ) -> Result<u32, Status> {
        let name = std::str::from_utf8(name).map_err(|_| Status::BadArgument)?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(Status::BadArgument);
        }
        if let Some(id) = self.ids.get(&(kind, name.to_owned())) {
            return Ok(*id);
        }
        if self.metrics.len() >= self.metrics_max {
            return Err(Status::InternalFailure);
        }
        let metric_name = tagged(name);
        let metric = match (kind, shown) {
            (MetricKind::Counter, true) => Metric::Counter(services.registry.counter(&metric_name)),
            (MetricKind::Counter, false) => Metric::Counter(Counter::detached()),
            (MetricKind::Gauge, true) => Metric::Gauge(services.gauge(&metric_name)),
            (MetricKind::Gauge, false) => Metric::Gauge(Arc::new(Mutex::new(Gauge::detached()))),
            (MetricKind::Histogram, true) => Metric::Histogram(services.registry.histogram(&metric_name)),
            (MetricKind::Histogram, false) => Metric::Histogram(Histogram::detached()),
        };
        self.metrics.push((metric_name, metric));
        let index = u32::try_from(self.metrics.len()).map_err(|_| Status::InternalFailure)?;
        let id = index << 2 | kind as u32;
        self.ids.insert((kind, name.to_owned()), id);
        Ok(id)
    }

    fn find(&self, id: u32) -> Option<&(Name, Metric)> {
        let found = self.metrics.get((id >> 2).checked_sub(1)? as usize)?;
        let kind = match found.1 {
            Metric::Counter(_) => MetricKind::Counter,
            Metric::Gauge(_) => MetricKind::Gauge,
            Metric::Histogram(_) => MetricKind::Histogram,
        };
        (id & 3 == kind as u32).then_some(found)
    }

    /// `proxy_increment_metric`.
    pub(crate) fn increment(&self, id: u32, delta: i64) -> Result<(), Status> {
        match self.find(id) {
            // Envoy's answer for an unknown id (measured), and the Rust SDK takes it.
            None => Err(Status::BadArgument),
            Some((_, Metric::Counter(counter))) => match u64::try_from(delta) {
                Ok(delta) if delta > 0 => {
                    counter.add(delta);
                    Ok(())
                }
                _ => Err(Status::BadArgument),
            },
            Some((_, Metric::Gauge(gauge))) => {
                gauge.lock().unwrap_or_else(PoisonError::into_inner).add(delta);
                Ok(())
            }
            Some((_, Metric::Histogram(_))) => Err(Status::BadArgument),
        }
    }

    /// `proxy_record_metric`.
    pub(crate) fn record(&self, id: u32, value: u64) -> Result<(), Status> {
        match &self.find(id).ok_or(Status::NotFound)?.1 {
            Metric::Counter(counter) => counter.add(value),
            Metric::Gauge(gauge) => gauge.lock().unwrap_or_else(PoisonError::into_inner).set(value.cast_signed()),
            Metric::Histogram(histogram) => histogram.record(value),
        }
        Ok(())
    }

    /// `proxy_get_metric`: the value over all workers.
    pub(crate) fn get(&self, id: u32, registry: &Registry) -> Result<u64, Status> {
        match self.find(id) {
            None | Some((_, Metric::Histogram(_))) => Err(Status::BadArgument),
            Some((name, Metric::Counter(counter))) => Ok(match registry.value(name) {
                Some(Value::Counter(value)) => value,
                _ => counter.get(),
            }),
            Some((_, Metric::Gauge(gauge))) => {
                Ok(gauge.lock().unwrap_or_else(PoisonError::into_inner).get().cast_unsigned())
            }
        }
    }
}

/// What we count about a plugin in one VM.
///
/// Of every [`SAMPLED`] callbacks one is timed, so that a callback doesn't pay for two looks at the clock: it is a sample of
/// what callbacks take, and its count is not theirs.
#[derive(Debug)]
pub(crate) struct PluginStats {
    pub(crate) callbacks: Counter,
    pub(crate) callback_time: Histogram,
}

/// One callback of so many is timed.
const SAMPLED: u64 = 64;

/// All VMs of the process, in Envoy's words. Few are made or end at one time, so that two cells behind a lock do.
#[derive(Debug)]
pub(crate) struct RuntimeStats(Mutex<(Counter, Gauge)>);

/// One of them.
#[derive(Debug)]
struct OfRuntime(Arc<RuntimeStats>);

impl RuntimeStats {
    pub(crate) fn new(registry: &Registry) -> RuntimeStats {
        let name = |rest: &str| Name::new("wasm.envoy.wasm.runtime.wasmtime", rest);
        RuntimeStats(Mutex::new((registry.counter(&name("created")), registry.gauge(&name("active")))))
    }
}

impl OfRuntime {
    fn new(stats: &Arc<RuntimeStats>) -> OfRuntime {
        let cells = stats.0.lock().unwrap_or_else(PoisonError::into_inner);
        cells.0.inc();
        cells.1.inc();
        OfRuntime(Arc::clone(stats))
    }
}

impl Drop for OfRuntime {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).1.add(-1);
    }
}

/// Counts a VM for as long as it is held.
#[derive(Debug)]
pub(crate) struct VmStats {
    _of_runtime: OfRuntime,
    _active: Gauge,
    memory: Gauge,
    contexts: Gauge,
}

/// Of a plugin's revision: what its module is.
fn plugin_metric(plugin: &Plugin, rest: &str) -> Name {
    labelled(&plugin.name, &plugin.vm.revision(), rest)
}

fn labelled(plugin: &str, revision: &str, rest: &str) -> Name {
    Name::new("wasm", rest).tag("wasm_plugin", plugin).tag("wasm_revision", revision)
}

/// Every metric of a plugin's revision that has no further labels, and those that have.
const PLUGIN_METRICS: &[&str] = &[
    "vm_created",
    "vm_active",
    "vm_memory_bytes",
    "vm_contexts",
    "vm_reload_success",
    "vm_reload_failure",
    "vm_reload_backoff",
    "vm_stream_failure",
    "vm_breaker_open",
    "vm_breaker_wait_ms",
    "callbacks",
    "callback_time_ns",
    "log_lines_dropped",
    "queue_messages_dropped",
    "properties_dropped",
];
const RECYCLE_CAUSES: &[&str] = &["memory", "streams"];

/// Nobody runs this revision any more: its metrics are no longer shown.
pub(crate) fn forget_plugin(registry: &Registry, plugin: &str, revision: &str) {
    let name = |rest: &str| labelled(plugin, revision, rest);
    PLUGIN_METRICS.iter().for_each(|rest| registry.forget(&name(rest)));
    RECYCLE_CAUSES.iter().for_each(|cause| registry.forget(&name("vm_recycled").tag("cause", *cause)));
    TrapKind::LABELS.iter().for_each(|kind| registry.forget(&name("traps").tag("kind", *kind)));
}

impl VmStats {
    /// Under the name of the plugin that the VM is started for.
    pub(crate) fn new(services: &Services, plugin: &Plugin) -> VmStats {
        let registry = &services.registry;
        registry.counter(&plugin_metric(plugin, "vm_created")).inc();
        let active = registry.gauge(&plugin_metric(plugin, "vm_active"));
        active.inc();
        VmStats {
            _of_runtime: OfRuntime::new(services.runtime()),
            _active: active,
            memory: registry.gauge(&plugin_metric(plugin, "vm_memory_bytes")),
            contexts: registry.gauge(&plugin_metric(plugin, "vm_contexts")),
        }
    }

    pub(crate) fn refresh(&self, memory_bytes: usize, contexts: usize) {
        self.memory.set(i64::try_from(memory_bytes).unwrap_or(i64::MAX));
        self.contexts.set(i64::try_from(contexts).unwrap_or(i64::MAX));
    }
}

impl PluginStats {
    pub(crate) fn new(registry: &Registry, plugin: &Plugin) -> PluginStats {
        PluginStats {
            callbacks: registry.counter(&plugin_metric(plugin, "callbacks")),
            callback_time: registry.histogram(&plugin_metric(plugin, "callback_time_ns")),
        }
    }

    /// For a canary: nothing is shown.
    pub(crate) fn detached() -> PluginStats {
        PluginStats { callbacks: Counter::detached(), callback_time: Histogram::detached() }
    }

    /// Counts a callback; whether it is to be timed.
    #[inline]
    pub(crate) fn count_callback(&self) -> bool {
        self.callbacks.inc();
        self.callbacks.get().is_multiple_of(SAMPLED)
    }

    pub(crate) fn log_lines_dropped(registry: &Registry, plugin: &Plugin) -> Counter {
        registry.counter(&plugin_metric(plugin, "log_lines_dropped"))
    }

    pub(crate) fn queue_messages_dropped(registry: &Registry, plugin: &Plugin) -> Counter {
        registry.counter(&plugin_metric(plugin, "queue_messages_dropped"))
    }

    pub(crate) fn properties_dropped(registry: &Registry, plugin: &Plugin) -> Counter {
        registry.counter(&plugin_metric(plugin, "properties_dropped"))
    }

    pub(crate) fn count_trap(registry: &Registry, plugin: &Plugin, trap: &Trap) {
        let name = plugin_metric(plugin, "traps").tag("kind", trap.kind.label());
        registry.counter(&name).inc();
    }
}

/// Counts something that happened to a plugin's VMs: rare things, whose cells nobody keeps.
pub fn count_vm_event(registry: &Registry, plugin: &Plugin, event: VmEvent) {
    let (name, cause) = match event {
        VmEvent::Recycled(cause) => ("vm_recycled", Some(cause)),
        VmEvent::Replaced => ("vm_reload_success", None),
        VmEvent::NotReplaced => ("vm_reload_failure", None),
        VmEvent::Waits => ("vm_reload_backoff", None),
        VmEvent::NoneForStream => ("vm_stream_failure", None),
    };
    let name = plugin_metric(plugin, name);
    registry.counter(&cause.into_iter().fold(name, |name, cause| name.tag("cause", cause))).inc();
}

/// Shows that a worker's VM of a plugin waits for its replacement, and how long, for as long as it is held.
#[derive(Debug)]
pub struct VmWaits {
    _open: Gauge,
    _wait: Gauge,
}

impl VmWaits {
    #[must_use]
    pub fn new(registry: &Registry, plugin: &Plugin, wait: Duration) -> VmWaits {
        let gauge = |name: &str, value: i64| {
            let gauge = registry.gauge(&plugin_metric(plugin, name));
            gauge.set(value);
            gauge
        };
        VmWaits {
            _open: gauge("vm_breaker_open", 1),
            _wait: gauge("vm_breaker_wait_ms", i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

/// What happens to a VM on its worker; the last three have Envoy's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmEvent {
    /// A stream that should have had an instance of its own got none.
    NoneForStream,
    /// Replaced between streams, for a cause.
    Recycled(&'static str),
    /// A new one is there after a trap.
    Replaced,
    NotReplaced,
    /// The next one comes later: there were too many losses.
    Waits,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_taken_from_names() {
        let check = |name: &str, family: &str, tags: &[(&str, &str)]| {
            let found = tagged(name);
            let found_tags: Vec<(&str, &str)> =
                found.tags().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            assert_eq!((found.family().as_str(), &found_tags[..]), (&*format!("wasmcustom.{family}"), tags), "{name}");
            assert_eq!(found.flat(), format!("wasmcustom.{name}"));
        };
        check("plain_total", "plain_total", &[]);
        check(
            "reporter=.=source;.;code=.=200;.;_requests_total",
            "requests_total",
            &[("reporter", "source"), ("code", "200")],
        );
        check("stats.app=.=a=b;.;size", "stats.size", &[("app", "a=b")]);
        check("empty=.=;.;x", "x", &[("empty", "")]);
        check("=.=v;.;x", "=.=v;.;x", &[]);
        check("open=.=v", "open=.=v", &[]);
        check("only=.=v;.;", "only=.=v;.;", &[]);
    }
}
