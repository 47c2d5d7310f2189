//! How a cluster's requests are spread over its endpoints (`lb_policy`, `load_balancing_policy`, `common_lb_config`,
//! `lb_subset_config`).

use std::sync::Arc;
use std::time::Duration;

use crate::MetadataStruct;

/// A number of the configuration, compared by its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Real(u64);

impl Real {
    #[must_use]
    pub const fn new(value: f64) -> Real {
        Real(value.to_bits())
    }

    #[must_use]
    pub const fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LbPolicy {
    RoundRobin,
    /// The one with the fewest active requests of `choices` random ones (2 unless set), or of all.
    LeastRequest {
        choices: u32,
        full_scan: bool,
        /// Where weights differ: a weight counts as itself divided by this power of the active requests; 1 unless set.
        active_request_bias: Real,
    },
    Random,
    RingHash {
        function: HashFunction,
        /// 1024 unless set.
        ring_size_min: u32,
        /// 8 Mi unless set.
        ring_size_max: u32,
    },
    Maglev {
        /// A prime; 65537 unless set.
        table_size: u32,
    },
    /// Our own: of `choices` random ones (2 unless set) the one with the least expected latency. See
    /// `outrigger.load_balancing_policies.peak_ewma.v1`.
    PeakEwma(PeakEwma),
}

impl LbPolicy {
    /// Whether it chooses by the hash that a route's policies make of a request.
    #[must_use]
    pub const fn hashes(self) -> bool {
        matches!(self, LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunction {
    XxHash,
    Murmur2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeakEwma {
    pub choices: u32,
    /// How long an observation counts; 10 s unless set.
    pub decay: Duration,
    /// What an endpoint is taken for that hasn't answered yet; 30 ms unless set.
    pub default_rtt: Duration,
    /// What a failure counts as at least; 1 s unless set.
    pub failure_penalty: Duration,
}

/// What goes beyond the policy. A cluster that sets none of it has none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LbOptions {
    /// `healthy_panic_threshold` in thousandths of a percent; 50 % unless set, 0 turns panic off.
    pub panic_millis: u32,
    /// `locality_weighted_lb_config`.
    pub locality_weighted: bool,
    /// `zone_aware_lb_config`: counts where the bootstrap names a local cluster, and localities have no weights.
    pub zones: ZoneAware,
    /// `fail_traffic_on_panic`.
    pub fail_traffic_on_panic: bool,
    /// `close_connections_on_host_set_change`.
    pub close_connections_on_change: bool,
    /// `ignore_new_hosts_until_first_hc`.
    pub ignore_new_until_checked: bool,
    /// `use_hostname_for_hashing`.
    pub hash_by_hostname: bool,
    /// `hash_balance_factor`: an endpoint takes at most this percentage of the average load.
    pub hash_balance_percent: Option<u32>,
    pub slow_start: Option<SlowStart>,
    pub subsets: Option<Arc<Subsets>>,
}

impl Default for LbOptions {
    fn default() -> LbOptions {
        LbOptions {
            panic_millis: 50_000,
            locality_weighted: false,
            zones: ZoneAware::default(),
            fail_traffic_on_panic: false,
            close_connections_on_change: false,
            ignore_new_until_checked: false,
            hash_by_hostname: false,
            hash_balance_percent: None,
            slow_start: None,
            subsets: None,
        }
    }
}

/// `zone_aware_lb_config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneAware {
    /// Percent of the requests; all unless set.
    pub routing_enabled_percent: u32,
    /// Healthy endpoints that there must be; 6 unless set.
    pub min_cluster_size: u64,
    /// `force_local_zone`: with so many healthy endpoints in the proxy's own zone all requests go there.
    pub force_local_min: Option<u32>,
    /// `HEALTHY_HOSTS_WEIGHT`: zones count by the weights of their endpoints, not by their number.
    pub by_weight: bool,
}

impl Default for ZoneAware {
    fn default() -> ZoneAware {
        ZoneAware { routing_enabled_percent: 100, min_cluster_size: 6, force_local_min: None, by_weight: false }
    }
}

/// `slow_start_config`: a new endpoint's weight grows over a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowStart {
    pub window: Duration,
    /// 1 unless set: linear.
    pub aggression: Real,
    /// 10 % unless set; in thousandths of a percent.
    pub min_weight_millis: u32,
}

/// `lb_subset_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subsets {
    pub fallback: SubsetFallback,
    pub default_subset: MetadataStruct,
    pub selectors: Vec<SubsetSelector>,
    /// `list_as_any`: an endpoint whose value is a list is in the subset of each element.
    pub list_as_any: bool,
    /// `panic_mode_any`: where nothing matches and the fallback is empty, any endpoint.
    pub panic_mode_any: bool,
    pub locality_weight_aware: bool,
    /// `allow_redundant_keys`: criteria that no selector has are left out.
    pub allow_redundant_keys: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubsetFallback {
    NoFallback,
    AnyEndpoint,
    DefaultSubset,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsetSelector {
    /// Sorted, each once, at least one.
    pub keys: Vec<Arc<str>>,
    pub single_host: bool,
    /// `None`: the cluster's.
    pub fallback: Option<SelectorFallback>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectorFallback {
    Plain(SubsetFallback),
    /// `KEYS_SUBSET`: the subset of these keys alone, sorted.
    Keys(Vec<Arc<str>>),
}
