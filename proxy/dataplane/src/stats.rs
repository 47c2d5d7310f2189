//! A worker's metric cells, with Envoy's names. A cell is made at its first use.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_stats::{Counter, Gauge, Histogram, Name, Registry};

/// Cells of one scope (a connection manager, a cluster), made when they are first written.
#[derive(Debug)]
pub(crate) struct Scope {
    registry: Arc<Registry>,
    prefix: &'static str,
    tag: (&'static str, Arc<str>),
}

impl Scope {
    fn name(&self, rest: &str) -> Name {
        Name::new(self.prefix, rest).tag(self.tag.0, &*self.tag.1)
    }

    fn class(&self, stem: &str, class: u16) -> Name {
        let digit = class.to_string();
        let flat = format!("{stem}_{class}xx");
        Name::new(self.prefix, format!("{stem}_xx")).tag(self.tag.0, &*self.tag.1).folded_tag(
            "envoy_response_code_class",
            digit,
            flat,
        )
    }
}

/// Counters by class of status, and by status.
#[derive(Debug, Default)]
struct Classes {
    classes: [OnceCell<Counter>; 5],
    /// Few statuses occur; a peer can make no more than 500.
    codes: RefCell<Vec<(u16, Counter)>>,
}

impl Classes {
    fn inc(&self, scope: &Scope, stem: &str, status: u16) {
        let class = (status / 100).clamp(1, 5);
        self.classes[usize::from(class) - 1].get_or_init(|| scope.registry.counter(&scope.class(stem, class))).inc();
    }

    fn inc_code(&self, scope: &Scope, stem: &str, status: u16) {
        let mut codes = self.codes.borrow_mut();
        if let Some((_, counter)) = codes.iter().find(|(code, _)| *code == status) {
            counter.inc();
            return;
        }
        let name = Name::new(scope.prefix, stem).tag(scope.tag.0, &*scope.tag.1).folded_tag(
            "envoy_response_code",
            status.to_string(),
            format!("{stem}_{status}"),
        );
        let counter = scope.registry.counter(&name);
        counter.inc();
        codes.push((status, counter));
    }
}

macro_rules! cells {
    ($(#[$doc:meta])* $name:ident { $(by_class: $stem:literal;)? $(also_by_class: $also:ident;)? counters: $($counter:ident)*; gauges: $($gauge:ident)*; histograms: $($histogram:ident)*; }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name {
            scope: Scope,
            $(#[doc = $stem]
            classes: Classes,)?
            $($also: Classes,)?
            $($counter: OnceCell<Counter>,)*
            $($gauge: OnceCell<Gauge>,)*
            $($histogram: OnceCell<Histogram>,)*
        }

        impl $name {
            /// Counts what is too rare for a cell of its own.
            #[allow(dead_code, reason = "not every group has such names")]
            pub(crate) fn inc_rare(&self, name: &'static str) {
                self.scope.registry.counter(&self.scope.name(name)).inc();
            }

            fn with_scope(scope: Scope) -> Rc<$name> {
                Rc::new($name {
                    scope,
                    $(classes: { let _: &str = $stem; Classes::default() },)?
                    $($also: Classes::default(),)?
                    $($counter: OnceCell::new(),)*
                    $($gauge: OnceCell::new(),)*
                    $($histogram: OnceCell::new(),)*
                })
            }
            $(
                /// Counts a response by the class of its status.
                pub(crate) fn response(&self, status: u16) {
                    self.classes.inc(&self.scope, $stem, status);
                }
            )?
            $(pub(crate) fn $counter(&self) -> &Counter {
                self.$counter.get_or_init(|| self.scope.registry.counter(&self.scope.name(stringify!($counter))))
            })*
            $(pub(crate) fn $gauge(&self) -> &Gauge {
                self.$gauge.get_or_init(|| self.scope.registry.gauge(&self.scope.name(stringify!($gauge))))
            })*
            $(pub(crate) fn $histogram(&self) -> &Histogram {
                self.$histogram.get_or_init(|| self.scope.registry.histogram(&self.scope.name(stringify!($histogram))))
            })*
        }
    };
}

cells! {
    /// `http.STAT_PREFIX.*`.
    HttpStats {
        by_class: "downstream_rq";
        counters: downstream_cx_total downstream_cx_destroy downstream_cx_destroy_remote_active_rq downstream_cx_http1_total downstream_cx_http2_total
            downstream_cx_protocol_error downstream_cx_idle_timeout downstream_cx_max_duration_reached downstream_cx_upgrades_total
            downstream_cx_rx_bytes_total downstream_cx_tx_bytes_total
            downstream_rq_total downstream_rq_http1_total downstream_rq_http2_total downstream_rq_completed
            downstream_rq_rx_reset downstream_rq_tx_reset downstream_rq_timeout downstream_rq_header_timeout
            downstream_rq_idle_timeout downstream_rq_too_many_premature_resets downstream_rq_overload_close downstream_cx_overload_disable_keepalive downstream_rq_max_duration_reached downstream_rq_too_large
            downstream_rq_ws_on_non_ws_route no_route no_cluster rq_direct_response rq_redirect rq_total;
        gauges: downstream_cx_active downstream_cx_http1_active downstream_cx_http2_active downstream_cx_upgrades_active downstream_rq_active;
        histograms: downstream_rq_time downstream_cx_length_ms;
    }
}

cells! {
    /// `cluster.NAME.*`.
    ClusterStats {
        by_class: "upstream_rq";
        also_by_class: retried;
        counters: upstream_cx_total upstream_cx_http1_total upstream_cx_http2_total upstream_cx_connect_fail upstream_cx_connect_timeout
            upstream_cx_idle_timeout upstream_cx_overflow upstream_cx_destroy upstream_cx_destroy_remote upstream_cx_destroy_remote_with_active_rq upstream_cx_none_healthy upstream_cx_protocol_error upstream_cx_rx_bytes_total upstream_cx_tx_bytes_total

            upstream_rq_total upstream_rq_completed upstream_rq_timeout upstream_rq_pending_overflow upstream_rq_pending_total
            upstream_rq_pending_failure_eject upstream_rq_active_overflow
            upstream_rq_rx_reset upstream_rq_tx_reset
            upstream_rq_retry upstream_rq_retry_success upstream_rq_retry_limit_exceeded upstream_rq_retry_overflow
            upstream_rq_retry_backoff_exponential upstream_rq_retry_backoff_ratelimited upstream_rq_per_try_timeout
            upstream_rq_per_try_idle_timeout retry_or_shadow_abandoned
            upstream_cx_max_duration_reached upstream_cx_max_requests lb_healthy_panic lb_subsets_selected lb_subsets_fallback
            lb_subsets_fallback_panic membership_change lb_zone_routing_all_directly lb_zone_routing_sampled
            lb_zone_routing_cross_zone lb_zone_no_capacity_left lb_zone_cluster_too_small lb_local_cluster_not_ok;
        gauges: upstream_cx_active upstream_rq_active upstream_rq_pending_active;
        histograms: upstream_cx_connect_ms upstream_rq_time;
    }
}

cells! {
    /// `tcp.STAT_PREFIX.*`.
    TcpStats {
        counters: downstream_cx_total downstream_cx_no_route downstream_cx_rx_bytes_total downstream_cx_tx_bytes_total idle_timeout
            max_downstream_connection_duration;
        gauges: downstream_cx_active;
        histograms: downstream_cx_length_ms;
    }
}

cells! {
    /// `listener.ADDRESS.*`.
    ListenerStats {
        counters: downstream_cx_total downstream_cx_destroy downstream_cx_overflow no_filter_chain_match
            downstream_cx_overload_reject downstream_global_cx_overflow
            downstream_pre_cx_timeout downstream_listener_filter_remote_close downstream_listener_filter_error;
        gauges: downstream_cx_active downstream_pre_cx_active;
        histograms: ;
    }
}

impl HttpStats {
    pub(crate) fn new(registry: &Arc<Registry>, stat_prefix: &Arc<str>) -> Rc<HttpStats> {
        let tag = ("envoy_http_conn_manager_prefix", stat_prefix.clone());
        HttpStats::with_scope(Scope { registry: registry.clone(), prefix: "http", tag })
    }
}

impl ClusterStats {
    /// Counts an answer that was dropped for a retry, as `retry.upstream_rq_503`.
    pub(crate) fn retried(&self, status: u16) {
        self.retried.inc(&self.scope, "retry.upstream_rq", status);
        self.retried.inc_code(&self.scope, "retry.upstream_rq", status);
    }

    /// Counts a response by its status, as `upstream_rq_200`.
    pub(crate) fn response_code(&self, status: u16) {
        self.classes.inc_code(&self.scope, "upstream_rq", status);
    }

    /// Counts an answer that the proxy gives in place of an endpoint.
    pub(crate) fn answered(&self, status: u16) {
        self.upstream_rq_completed().inc();
        self.response(status);
        self.response_code(status);
    }

    pub(crate) fn new(registry: &Arc<Registry>, stat_name: &Arc<str>) -> Rc<ClusterStats> {
        let tag = ("envoy_cluster_name", stat_name.clone());
        ClusterStats::with_scope(Scope { registry: registry.clone(), prefix: "cluster", tag })
    }
}

impl TcpStats {
    pub(crate) fn new(registry: &Arc<Registry>, stat_prefix: &Arc<str>) -> Rc<TcpStats> {
        let tag = ("envoy_tcp_prefix", stat_prefix.clone());
        TcpStats::with_scope(Scope { registry: registry.clone(), prefix: "tcp", tag })
    }
}

impl ListenerStats {
    pub(crate) fn new(registry: &Arc<Registry>, stat_prefix: &Arc<str>) -> Rc<ListenerStats> {
        let tag = ("envoy_listener_address", stat_prefix.clone());
        ListenerStats::with_scope(Scope { registry: registry.clone(), prefix: "listener", tag })
    }
}

/// Counts something as long as it lives.
#[derive(Debug)]
pub(crate) struct ActiveGuard<T>(Rc<T>, fn(&T) -> &Gauge);

impl<T> ActiveGuard<T> {
    pub(crate) fn new(stats: &Rc<T>, gauge: fn(&T) -> &Gauge) -> ActiveGuard<T> {
        gauge(stats).inc();
        ActiveGuard(stats.clone(), gauge)
    }
}

impl<T> Drop for ActiveGuard<T> {
    fn drop(&mut self) {
        self.1(&self.0).dec();
    }
}

/// What listener filters count: few names, each made when it is first counted.
#[derive(Debug)]
pub(crate) struct InspectStats {
    registry: Arc<Registry>,
    counters: RefCell<Vec<(&'static str, Counter)>>,
}

impl InspectStats {
    pub(crate) fn new(registry: Arc<Registry>) -> InspectStats {
        InspectStats { registry, counters: RefCell::default() }
    }

    pub(crate) fn inc(&self, name: &'static str) {
        let mut counters = self.counters.borrow_mut();
        if let Some((_, counter)) = counters.iter().find(|(known, _)| *known == name) {
            counter.inc();
            return;
        }
        let counter = self.registry.counter(&Name::new("", name));
        counter.inc();
        counters.push((name, counter));
    }
}
