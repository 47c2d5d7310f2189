//! Counters of the server, and their text exposition.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::resource::ResourceType;

/// Upper bounds of the push-to-ACK histogram, in milliseconds.
const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30_000];

/// Everything that the server counts. Labels are resource types: five values.
#[derive(Debug, Default)]
pub struct Metrics {
    pushes: [AtomicU64; 5],
    resources: [AtomicU64; 5],
    acks: [AtomicU64; 5],
    nacks: [AtomicU64; 5],
    latency: Histogram,
    streams: AtomicU64,
    streams_total: AtomicU64,
    streams_refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Histogram {
    /// One more than the bounds: what is beyond the last.
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_micros: AtomicU64,
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

impl Metrics {
    pub(crate) fn pushed(&self, kind: ResourceType, resources: usize) {
        add(&self.pushes[kind.index()], 1);
        add(&self.resources[kind.index()], resources as u64);
    }

    pub(crate) fn acked(&self, kind: ResourceType, latency: Duration) {
        add(&self.acks[kind.index()], 1);
        let millis = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_MS.iter().position(|bound| millis < *bound).unwrap_or(BUCKETS_MS.len());
        add(&self.latency.buckets[bucket], 1);
        add(&self.latency.sum_micros, u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn nacked(&self, kind: ResourceType) {
        add(&self.nacks[kind.index()], 1);
    }

    /// A stream came; the number of those open, this one included.
    pub(crate) fn stream_opened(&self) -> u64 {
        add(&self.streams_total, 1);
        self.streams.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn stream_closed(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn stream_refused(&self) {
        add(&self.streams_refused, 1);
    }

    /// The text exposition format.
    pub fn exposition(&self) -> String {
        let mut out = String::new();
        by_type(&mut out, "outrigger_xds_pushes_total", "Responses sent.", &self.pushes);
        by_type(&mut out, "outrigger_xds_resources_pushed_total", "Resources in those responses.", &self.resources);
        by_type(&mut out, "outrigger_xds_acks_total", "Responses that proxies took.", &self.acks);
        by_type(&mut out, "outrigger_xds_nacks_total", "Responses that proxies rejected.", &self.nacks);
        self.latency.write(&mut out, "outrigger_xds_push_ack_seconds", "From sending a response to its ACK.");
        for (name, help, kind, value) in [
            ("outrigger_xds_streams", "Connected streams.", "gauge", &self.streams),
            ("outrigger_xds_streams_total", "Streams since the start.", "counter", &self.streams_total),
            ("outrigger_xds_streams_refused_total", "Streams over the limits.", "counter", &self.streams_refused),
        ] {
            sample(&mut out, name, help, kind, value.load(Ordering::Relaxed) as f64);
        }
        out
    }
}

/// One value with its help, as other parts of the page write theirs.
pub fn sample(out: &mut String, name: &str, help: &str, kind: &str, value: f64) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

fn by_type(out: &mut String, name: &str, help: &str, counters: &[AtomicU64; 5]) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
    for kind in ResourceType::ALL {
        let value = counters[kind.index()].load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}{{type=\"{kind}\"}} {value}");
    }
}

impl Histogram {
    fn write(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut count = 0;
        for (bucket, bound) in self.buckets.iter().zip(BUCKETS_MS) {
            count += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {count}", bound as f64 / 1000.0);
        }
        count += self.buckets[BUCKETS_MS.len()].load(Ordering::Relaxed);
        let sum = self.sum_micros.load(Ordering::Relaxed) as f64 / 1_000_000.0;
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_adds_up() {
        let metrics = Metrics::default();
        metrics.pushed(ResourceType::Cluster, 3);
        metrics.acked(ResourceType::Cluster, Duration::from_millis(7));
        metrics.acked(ResourceType::Route, Duration::from_secs(60));
        metrics.nacked(ResourceType::Listener);
        assert_eq!(metrics.stream_opened(), 1);
        let page = metrics.exposition();
        for line in [
            "outrigger_xds_pushes_total{type=\"CDS\"} 1",
            "outrigger_xds_resources_pushed_total{type=\"CDS\"} 3",
            "outrigger_xds_nacks_total{type=\"LDS\"} 1",
            "outrigger_xds_push_ack_seconds_bucket{le=\"0.005\"} 0",
            "outrigger_xds_push_ack_seconds_bucket{le=\"0.01\"} 1",
            "outrigger_xds_push_ack_seconds_bucket{le=\"+Inf\"} 2",
            "outrigger_xds_push_ack_seconds_sum 60.007",
            "outrigger_xds_streams 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
    }
}
