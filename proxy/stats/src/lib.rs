//! Counters, gauges and histograms for a data plane of single-threaded workers.
//!
//! A metric is a name, tags and a kind. Whoever writes it asks the [`Registry`] for a *cell* of its own: a counter cell
//! is written by one thread only, so an increment is a plain load and store (no locked instruction, no shared cache
//! line with another writer). A scrape sums the cells. A cell that is dropped leaves its count behind.
//!
//! Names are Envoy's: `cluster.upstream_rq_total` with the tag `envoy_cluster_name` reads as
//! `cluster.NAME.upstream_rq_total` in `/stats` and as `envoy_cluster_upstream_rq_total{envoy_cluster_name="NAME"}` for
//! Prometheus.
//!
//! Promises: the number of metrics is bounded ([`Registry::with_limit`]); beyond it cells work but aren't shown, and the
//! metric `stats.overflow` counts them. Cells are allocated when somebody asks, never for a metric that nobody writes.

mod cell;
mod histogram;
mod registry;
mod text;

pub use cell::{Counter, Gauge};
pub use histogram::{Histogram, HistogramSnapshot};
pub use registry::{Family, Kind, Name, Registry, Sample, Value};
pub use text::{render_prometheus, render_text};
