//! Filters that are built into the proxy: what a listener's configuration names besides Wasm.
//!
//! A filter is made for a stream from its [`NativeHandle`], which a generation makes once for each place in a chain. What a
//! route says about the filter is looked up when the filter runs, so that it is the route that is valid then.

mod buffer;
mod cors;
mod fault;
mod header_mutation;
mod rate_limit;
pub(crate) mod rbac;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outrigger_config::{NativeFilter, OverrideConfig};
use outrigger_stats::{Counter, Name, Registry};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::time::Instant;

use crate::filter::{StreamCx, StreamFilter};

/// A native filter's place in a chain.
#[derive(Debug)]
pub(crate) struct NativeHandle {
    filter: NativeFilter,
    /// Where its overrides stand.
    position: Option<usize>,
    stats: Stats,
    random: RefCell<SmallRng>,
}

impl NativeHandle {
    pub(crate) fn new(
        filter: &NativeFilter,
        position: Option<usize>,
        registry: &Arc<Registry>,
        stat_prefix: &Arc<str>,
    ) -> Rc<NativeHandle> {
        let stats = Stats { registry: registry.clone(), prefix: stat_prefix.clone(), counters: RefCell::default() };
        let random = RefCell::new(SmallRng::from_os_rng());
        Rc::new(NativeHandle { filter: filter.clone(), position, stats, random })
    }

    /// The filter of one stream.
    pub(crate) fn start(self: &Rc<Self>) -> Box<dyn StreamFilter> {
        match &self.filter {
            NativeFilter::Buffer(limit) => Box::new(buffer::Filter::new(*limit, self)),
            NativeFilter::Cors => Box::new(cors::Filter::new(self)),
            NativeFilter::Fault(fault) => Box::new(fault::Filter::new(fault, self)),
            NativeFilter::HeaderMutation(filter) => Box::new(header_mutation::Filter::new(filter, self)),
            NativeFilter::LocalRateLimit(limit) => Box::new(rate_limit::Filter::new(limit, self)),
            NativeFilter::Rbac(rbac) => Box::new(rbac::Filter::new(rbac, self)),
        }
    }

    /// What the route says about this filter.
    fn by_route<'c>(&self, cx: &StreamCx<'c>) -> Option<&'c OverrideConfig> {
        cx.selection.filter_override(self.position)?.config.as_ref()
    }

    fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// Time since the first filter asked, the same for all workers.
    fn uptime(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

/// Counters of a filter, made when they are first written; few, so that looking one up is a short walk.
#[derive(Debug)]
struct Stats {
    registry: Arc<Registry>,
    /// Of the connection manager.
    prefix: Arc<str>,
    counters: RefCell<Vec<(String, &'static str, Counter)>>,
}

impl Stats {
    /// `http.PREFIX.GROUP.WHAT`.
    fn inc(&self, group: &str, what: &'static str) {
        self.count(group, what, || {
            Name::new("http", format!("{group}.{what}")).tag("envoy_http_conn_manager_prefix", &*self.prefix)
        });
    }

    /// `NAME.GROUP.WHAT`.
    fn inc_named(&self, group: &'static str, name: &Arc<str>, what: &'static str) {
        self.count(name, what, || {
            Name::new("", format!("{group}.{what}")).tag("envoy_local_http_ratelimit_prefix", &**name)
        });
    }

    fn count(&self, group: &str, what: &'static str, name: impl FnOnce() -> Name) {
        let mut counters = self.counters.borrow_mut();
        if let Some((.., counter)) = counters.iter().find(|(known, word, _)| *word == what && known == group) {
            counter.inc();
            return;
        }
        let counter = self.registry.counter(&name());
        counter.inc();
        counters.push((group.to_owned(), what, counter));
    }
}
