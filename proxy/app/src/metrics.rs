//! The metrics of the control side, with Envoy's names where Envoy has them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::ResourceKind;
use outrigger_stats::{Counter, Gauge, Histogram, Name, Registry};
use outrigger_xds::Status;

use crate::cache::digest;
use crate::certificates::{self, Shown};
use crate::system;

/// Secrets that have a metric of their own at most.
const CERTIFICATES_MAX: usize = 1000;

/// What preparing plugins tells.
#[derive(Debug)]
pub(crate) struct WasmMetrics {
    /// Modules that were known: in memory, or on disk, which the second counts.
    pub(crate) cache_hits: Counter,
    pub(crate) disk_cache_hits: Counter,
    pub(crate) cache_misses: Counter,
    pub(crate) compile_failures: Counter,
    pub(crate) compile_time: Histogram,
    /// Remote code that was known, that was fetched in vain for somebody else meanwhile, and that had to be fetched.
    pub(crate) remote_hits: Counter,
    pub(crate) remote_negative_hits: Counter,
    pub(crate) remote_misses: Counter,
    /// Modules in memory, and fetches that failed.
    pub(crate) remote_entries: Gauge,
    pub(crate) fetch_successes: Counter,
    pub(crate) fetch_failures: Counter,
    pub(crate) fetch_time: Histogram,
    /// Signed machine code that was mapped, that was not to be had, and that was not what it should be.
    pub(crate) machine_code_accepted: Counter,
    pub(crate) machine_code_unavailable: Counter,
    pub(crate) machine_code_refused: Counter,
    pub(crate) prepare_time: Histogram,
    /// Plugins that didn't compile, start or take their configuration.
    pub(crate) rejected: Counter,
}

impl WasmMetrics {
    pub(crate) fn new(registry: &Registry) -> WasmMetrics {
        let counter = |rest: &str| registry.counter(&Name::new("wasm", rest));
        let histogram = |rest: &str| registry.histogram(&Name::new("wasm", rest));
        WasmMetrics {
            cache_hits: counter("compile_cache_hits"),
            disk_cache_hits: counter("compile_cache_disk_hits"),
            cache_misses: counter("compile_cache_misses"),
            compile_failures: counter("compile_failures"),
            compile_time: histogram("compile_time_ms"),
            remote_hits: counter("remote_load_cache_hits"),
            remote_negative_hits: counter("remote_load_cache_negative_hits"),
            remote_misses: counter("remote_load_cache_misses"),
            remote_entries: registry.gauge(&Name::new("wasm", "remote_load_cache_entries")),
            fetch_successes: counter("remote_load_fetch_successes"),
            fetch_failures: counter("remote_load_fetch_failures"),
            fetch_time: histogram("remote_load_fetch_time_ms"),
            machine_code_accepted: counter("machine_code_accepted"),
            machine_code_unavailable: counter("machine_code_unavailable"),
            machine_code_refused: counter("machine_code_refused"),
            prepare_time: histogram("prepare_time_ms"),
            rejected: counter("rejected"),
        }
    }

    pub(crate) fn fetched(&self, is_ok: bool, took: Duration) {
        if is_ok { &self.fetch_successes } else { &self.fetch_failures }.inc();
        self.fetch_time.record(milliseconds(took));
    }

    pub(crate) fn compiled(&self, is_ok: bool, took: Duration) {
        self.cache_misses.inc();
        if !is_ok {
            self.compile_failures.inc();
        }
        self.compile_time.record(milliseconds(took));
    }
}

/// Milliseconds, as histograms of durations have them.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What updates of one kind did, as the xDS client counts it.
#[derive(Debug)]
pub(crate) struct UpdateMetrics {
    kind: ResourceKind,
    attempt: Counter,
    success: Counter,
    rejected: Counter,
    failure: Counter,
    /// A hash of the last accepted version, as Envoy has it.
    version: Gauge,
    /// Resources whose last version was rejected.
    rejected_now: Gauge,
    /// From an update's arrival until all workers serve it.
    pub(crate) duration: Histogram,
}

impl UpdateMetrics {
    pub(crate) fn new(registry: &Registry, kind: ResourceKind) -> UpdateMetrics {
        let prefix = match kind {
            ResourceKind::Cluster => "cluster_manager.cds",
            ResourceKind::Endpoints => "cluster_manager.eds",
            ResourceKind::Listener => "listener_manager.lds",
            ResourceKind::Route => "http.rds",
            ResourceKind::Extension => "extension_config_discovery.ecds",
            ResourceKind::Secret => "sds",
        };
        let name = |rest: &str| Name::new("", format!("{prefix}.{rest}"));
        UpdateMetrics {
            kind,
            attempt: registry.counter(&name("update_attempt")),
            success: registry.counter(&name("update_success")),
            rejected: registry.counter(&name("update_rejected")),
            failure: registry.counter(&name("update_failure")),
            version: registry.gauge(&name("version")),
            rejected_now: registry.gauge(&name("rejected_resources")),
            duration: registry.histogram(&name("update_duration")),
        }
    }

    /// Brings the metrics up to date with what the client counted.
    fn refresh(&self, status: &Status) {
        status.read(self.kind, |now| {
            for (counter, value) in [
                (&self.attempt, now.update_attempt),
                (&self.success, now.update_success),
                (&self.rejected, now.update_rejected),
                (&self.failure, now.update_failure),
            ] {
                counter.add(value.saturating_sub(counter.get()));
            }
            self.version.set(version_hash(&now.version));
            self.rejected_now.set(signed(now.rejected.len() as u64));
        });
    }
}

/// A version as a number; zero where there is none.
fn version_hash(version: &str) -> i64 {
    if version.is_empty() {
        return 0;
    }
    let first: [u8; 8] = digest(version.as_bytes())[..8].try_into().unwrap_or_default();
    // Gauges of Prometheus hold integers up to 2^53 exactly.
    signed(u64::from_be_bytes(first) >> 11)
}

/// The process and its configuration as a whole.
#[derive(Debug)]
pub(crate) struct ServerMetrics {
    registry: Arc<Registry>,
    _concurrency: Gauge,
    pub(crate) state: Gauge,
    pub(crate) live: Gauge,
    pub(crate) generation: Gauge,
    pub(crate) workers_started: Gauge,
    pub(crate) listeners_active: Gauge,
    pub(crate) listeners_warming: Gauge,
    pub(crate) listener_create_failure: Counter,
    pub(crate) clusters_active: Gauge,
    pub(crate) clusters_warming: Gauge,
    pub(crate) publish_timeouts: Counter,
    pub(crate) updates: Vec<UpdateMetrics>,
    config_age: Gauge,
    connected: Gauge,
    streams: Counter,
    access_log_dropped: Counter,
    uptime: Gauge,
    memory_allocated: Gauge,
    memory_heap_size: Gauge,
    memory_physical_size: Gauge,
    first_end: Gauge,
    /// When the certificates of a secret end.
    ends: RefCell<HashMap<Arc<str>, Gauge>>,
}

impl ServerMetrics {
    pub(crate) fn new(registry: &Arc<Registry>, concurrency: usize) -> ServerMetrics {
        let gauge = |name: &str| registry.gauge(&Name::new("", name));
        let threads = gauge("server.concurrency");
        threads.set(i64::try_from(concurrency).unwrap_or(i64::MAX));
        ServerMetrics {
            registry: Arc::clone(registry),
            _concurrency: threads,
            state: gauge("server.state"),
            live: gauge("server.live"),
            generation: gauge("server.config_generation"),
            workers_started: gauge("listener_manager.workers_started"),
            listeners_active: gauge("listener_manager.total_listeners_active"),
            listeners_warming: gauge("listener_manager.total_listeners_warming"),
            listener_create_failure: registry.counter(&Name::new("", "listener_manager.listener_create_failure")),
            clusters_active: gauge("cluster_manager.active_clusters"),
            clusters_warming: gauge("cluster_manager.warming_clusters"),
            publish_timeouts: registry.counter(&Name::new("", "server.config_publish_timeouts")),
            updates: ResourceKind::ALL.into_iter().map(|kind| UpdateMetrics::new(registry, kind)).collect(),
            config_age: gauge("server.config_age_seconds"),
            connected: gauge("control_plane.connected_state"),
            streams: registry.counter(&Name::new("", "control_plane.streams_started")),
            access_log_dropped: registry.counter(&Name::new("", "access_log_file.write_dropped")),
            uptime: gauge("server.uptime"),
            memory_allocated: gauge("server.memory_allocated"),
            memory_heap_size: gauge("server.memory_heap_size"),
            memory_physical_size: gauge("server.memory_physical_size"),
            first_end: gauge("server.days_until_first_cert_expiring"),
            ends: RefCell::default(),
        }
    }

    /// Brings what nobody tells up to date; for a scrape.
    pub(crate) fn refresh(&self, uptime: Duration, status: &Status, access_log_dropped: u64) {
        self.updates.iter().for_each(|update| update.refresh(status));
        self.access_log_dropped.add(access_log_dropped.saturating_sub(self.access_log_dropped.get()));
        let ads = status.ads();
        self.connected.set(i64::from(ads.connected));
        self.streams.add(ads.streams.saturating_sub(self.streams.get()));
        let age = ads.last_response.and_then(|last| last.elapsed().ok()).unwrap_or_default();
        self.config_age.set(signed(age.as_secs()));
        let memory = system::memory();
        self.uptime.set(signed(uptime.as_secs()));
        self.memory_allocated.set(signed(memory.anonymous));
        self.memory_heap_size.set(signed(memory.mapped));
        self.memory_physical_size.set(signed(memory.resident));
    }

    /// Tells when certificates end: the first of all, and each secret's.
    pub(crate) fn certificates(&self, shown: &[Shown]) {
        let first = shown.iter().filter_map(Shown::ends).min();
        // Envoy's value where there is none.
        self.first_end.set(first.map_or(i64::from(u32::MAX), certificates::days_until));
        let mut ends = self.ends.borrow_mut();
        let name =
            |secret: &str| Name::new("ssl", "certificate.expiration_unix_time_seconds").tag("certificate_name", secret);
        let named: HashMap<&Arc<str>, i64> = shown
            .iter()
            .filter(|shown| !shown.name.is_empty())
            .filter_map(|shown| Some((&shown.name, shown.ends()?)))
            .take(CERTIFICATES_MAX)
            .collect();
        ends.retain(|secret, _| {
            let kept = named.contains_key(secret);
            if !kept {
                self.registry.forget(&name(secret));
            }
            kept
        });
        for (secret, end) in named {
            ends.entry(Arc::clone(secret)).or_insert_with(|| self.registry.gauge(&name(secret))).set(end);
        }
    }

    /// The metrics of one kind's updates.
    pub(crate) fn update(&self, kind: ResourceKind) -> Option<&UpdateMetrics> {
        self.updates.get(kind as usize)
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_tells_what_the_process_is() {
        let registry = Arc::new(Registry::default());
        let metrics = ServerMetrics::new(&registry, 3);
        metrics.refresh(Duration::from_secs(7), &Status::new(), 3);
        let value = |name: &str| registry.value(&Name::new("", name));
        assert_eq!(value("server.uptime"), Some(outrigger_stats::Value::Gauge(7)));
        assert_eq!(value("server.concurrency"), Some(outrigger_stats::Value::Gauge(3)));
        assert_eq!(value("control_plane.connected_state"), Some(outrigger_stats::Value::Gauge(0)));
        assert_eq!(value("cluster_manager.cds.update_rejected"), Some(outrigger_stats::Value::Counter(0)));
        assert_eq!(metrics.update(ResourceKind::Extension).map(|update| update.kind), Some(ResourceKind::Extension));
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version_hash(""), 0);
        assert_ne!(version_hash("1"), version_hash("2"));
        assert!(version_hash("1") > 0);
    }
}
