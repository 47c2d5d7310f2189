//! How a cluster balances: `load_balancing_policy`, or `lb_policy` with its companions.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{
    HashFunction, LbOptions, LbPolicy, PeakEwma, Real, SelectorFallback, SlowStart, SubsetFallback, SubsetSelector,
    Subsets, ZoneAware,
};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::cluster::v3 as cluster;
use pb::envoy::config::cluster::v3::cluster as legacy;
use pb::envoy::config::core::v3 as core;
use pb::envoy::extensions::load_balancing_policies as policies;
use pb::google::protobuf::{self, Any};
use pb::outrigger::load_balancing_policies::peak_ewma::v1 as peak_ewma;
use policies::common::v3 as common;

use super::access_log::message;
use super::common::{duration, metadata_struct, number, percent_millis, variant};
use crate::Diagnostics;

/// A policy in a policy goes no deeper.
const DEPTH_MAX: usize = 4;
/// Envoy's bounds.
const RING_SIZE_MAX: u64 = 8 << 20;
const TABLE_SIZE_MAX: u64 = 5_000_011;

pub(crate) fn decode(proto: &cluster::Cluster, d: &mut Diagnostics) -> Option<(LbPolicy, LbOptions)> {
    let mut options = LbOptions::default();
    // Where both are set, the list of policies counts, as in Envoy.
    let policy = match &proto.load_balancing_policy {
        Some(list) => d.at("load_balancing_policy", |d| policy_list(list, &mut options, 0, d)),
        None => {
            if let Some(subsets) = &proto.lb_subset_config {
                options.subsets = d.at("lb_subset_config", |d| legacy_subsets(subsets, d)).map(Arc::new);
            }
            lb_policy(proto, &mut options, d)
        }
    };
    if let Some(common) = &proto.common_lb_config {
        let typed = proto.load_balancing_policy.is_some();
        d.at("common_lb_config", |d| common_lb(common, typed, &mut options, d));
    }
    Some((policy?, options))
}

fn common_lb(proto: &legacy::CommonLbConfig, typed: bool, options: &mut LbOptions, d: &mut Diagnostics) {
    use legacy::common_lb_config::LocalityConfigSpecifier as Locality;
    options.panic_millis = percent_millis(proto.healthy_panic_threshold.as_ref(), 50.0, "healthy_panic_threshold", d);
    options.ignore_new_until_checked = proto.ignore_new_hosts_until_first_hc;
    options.close_connections_on_change = proto.close_connections_on_host_set_change;
    if typed {
        for (field, set) in [
            (
                "locality_weighted_lb_config",
                matches!(proto.locality_config_specifier, Some(Locality::LocalityWeightedLbConfig(_))),
            ),
            ("consistent_hashing_lb_config", proto.consistent_hashing_lb_config.is_some()),
        ] {
            if set {
                d.at(field, |d| d.warn("has no effect beside load_balancing_policy"));
            }
        }
        return;
    }
    match &proto.locality_config_specifier {
        Some(Locality::LocalityWeightedLbConfig(_)) => options.locality_weighted = true,
        Some(Locality::ZoneAwareLbConfig(zones)) => {
            options.fail_traffic_on_panic = zones.fail_traffic_on_panic;
            let (enabled, min_size) = (zones.routing_enabled.as_ref(), zones.min_cluster_size);
            options.zones = d.at("zone_aware_lb_config", |d| zone_aware(enabled, min_size, d));
        }
        None => {}
    }
    if let Some(hashing) = &proto.consistent_hashing_lb_config {
        d.at("consistent_hashing_lb_config", |d| {
            consistent(hashing.use_hostname_for_hashing, hashing.hash_balance_factor, options, d);
        });
    }
}

fn zone_aware(
    enabled: Option<&pb::envoy::r#type::v3::Percent>,
    min_size: Option<protobuf::UInt64Value>,
    d: &mut Diagnostics,
) -> ZoneAware {
    let default = ZoneAware::default();
    ZoneAware {
        // Whole percents, as Envoy rounds them.
        routing_enabled_percent: (percent_millis(enabled, 100.0, "routing_enabled", d) + 500) / 1000,
        min_cluster_size: min_size.map_or(default.min_cluster_size, |size| size.value),
        ..default
    }
}

fn consistent(
    use_hostname: bool,
    balance: Option<protobuf::UInt32Value>,
    options: &mut LbOptions,
    d: &mut Diagnostics,
) {
    options.hash_by_hostname = use_hostname;
    options.hash_balance_percent =
        balance.map(|value| number(Some(value), 100, 100..=u32::MAX, "hash_balance_factor", d));
}

fn lb_policy(proto: &cluster::Cluster, options: &mut LbOptions, d: &mut Diagnostics) -> Option<LbPolicy> {
    use legacy::{LbConfig, LbPolicy as Policy};
    match variant::<Policy>(proto.lb_policy, "lb_policy", d)? {
        Policy::RoundRobin => {
            if let Some(LbConfig::RoundRobinLbConfig(config)) = &proto.lb_config {
                options.slow_start =
                    d.at("round_robin_lb_config", |d| legacy_slow_start(config.slow_start_config.as_ref(), d));
            }
            Some(LbPolicy::RoundRobin)
        }
        Policy::Random => Some(LbPolicy::Random),
        Policy::LeastRequest => d.at("least_request_lb_config", |d| match &proto.lb_config {
            Some(LbConfig::LeastRequestLbConfig(config)) => {
                options.slow_start = legacy_slow_start(config.slow_start_config.as_ref(), d);
                Some(least_request(config.choice_count, config.active_request_bias.as_ref(), false, d))
            }
            _ => Some(least_request(None, None, false, d)),
        }),
        Policy::RingHash => d.at("ring_hash_lb_config", |d| {
            let config = match &proto.lb_config {
                Some(LbConfig::RingHashLbConfig(config)) => *config,
                _ => legacy::RingHashLbConfig::default(),
            };
            use legacy::ring_hash_lb_config::HashFunction as Function;
            let function = match variant::<Function>(config.hash_function, "hash_function", d)? {
                Function::XxHash => HashFunction::XxHash,
                Function::MurmurHash2 => HashFunction::Murmur2,
            };
            ring_hash(
                function,
                config.minimum_ring_size,
                config.maximum_ring_size,
                ["minimum_ring_size", "maximum_ring_size"],
                d,
            )
        }),
        Policy::Maglev => d.at("maglev_lb_config", |d| match &proto.lb_config {
            Some(LbConfig::MaglevLbConfig(config)) => maglev(config.table_size, d),
            _ => maglev(None, d),
        }),
        other => {
            d.at("lb_policy", |d| d.error(format!("{} is not supported for this cluster", other.as_str_name())));
            None
        }
    }
}

fn ring_hash(
    function: HashFunction,
    min: Option<protobuf::UInt64Value>,
    max: Option<protobuf::UInt64Value>,
    fields: [&'static str; 2],
    d: &mut Diagnostics,
) -> Option<LbPolicy> {
    let mut size = |value: Option<protobuf::UInt64Value>, default: u64, field| {
        let value = value.map_or(default, |value| value.value);
        if !(1..=RING_SIZE_MAX).contains(&value) {
            d.at(field, |d| d.error(format!("{value} is not between 1 and {RING_SIZE_MAX}")));
        }
        u32::try_from(value).ok()
    };
    let (ring_size_min, ring_size_max) = (size(min, 1024, fields[0])?, size(max, RING_SIZE_MAX, fields[1])?);
    if ring_size_min > ring_size_max {
        d.at(fields[0], |d| d.error(format!("{ring_size_min} is more than {}, {ring_size_max}", fields[1])));
    }
    Some(LbPolicy::RingHash { function, ring_size_min, ring_size_max })
}

fn maglev(size: Option<protobuf::UInt64Value>, d: &mut Diagnostics) -> Option<LbPolicy> {
    let size = size.map_or(65_537, |size| size.value);
    let is_prime =
        size > 1 && (2..).take_while(|factor| factor * factor <= size).all(|factor| !size.is_multiple_of(factor));
    if size > TABLE_SIZE_MAX || !is_prime {
        d.at("table_size", |d| d.error(format!("{size} is not a prime of at most {TABLE_SIZE_MAX}")));
        return None;
    }
    Some(LbPolicy::Maglev { table_size: u32::try_from(size).ok()? })
}

fn least_request(
    choices: Option<protobuf::UInt32Value>,
    bias: Option<&core::RuntimeDouble>,
    full_scan: bool,
    d: &mut Diagnostics,
) -> LbPolicy {
    let choices = number(choices, 2, 2..=u32::MAX, "choice_count", d);
    let bias = bias.map_or(1.0, |bias| bias.default_value);
    if bias.is_nan() || bias < 0.0 {
        d.at("active_request_bias", |d| d.error(format!("{bias} is not a number from 0 on")));
    }
    LbPolicy::LeastRequest { choices, full_scan, active_request_bias: Real::new(bias) }
}

fn legacy_slow_start(proto: Option<&legacy::SlowStartConfig>, d: &mut Diagnostics) -> Option<SlowStart> {
    let proto = proto?;
    slow_start(
        &common::SlowStartConfig {
            slow_start_window: proto.slow_start_window,
            aggression: proto.aggression.clone(),
            min_weight_percent: proto.min_weight_percent,
        },
        d,
    )
}

fn slow_start(proto: &common::SlowStartConfig, d: &mut Diagnostics) -> Option<SlowStart> {
    d.at("slow_start_config", |d| {
        let window = duration(proto.slow_start_window.as_ref(), "slow_start_window", d)?;
        let aggression = proto.aggression.as_ref().map_or(1.0, |aggression| aggression.default_value);
        if aggression.is_nan() || aggression <= 0.0 {
            d.at("aggression", |d| d.error(format!("{aggression} is not a number above 0")));
        }
        let min_weight_millis = percent_millis(proto.min_weight_percent.as_ref(), 10.0, "min_weight_percent", d);
        (!window.is_zero()).then_some(SlowStart { window, aggression: Real::new(aggression), min_weight_millis })
    })
}

/// The first policy of the list that is known, as in Envoy.
fn policy_list(
    list: &cluster::LoadBalancingPolicy,
    options: &mut LbOptions,
    depth: usize,
    d: &mut Diagnostics,
) -> Option<LbPolicy> {
    if depth > DEPTH_MAX {
        d.error("policies are nested too deeply");
        return None;
    }
    for (index, policy) in list.policies.iter().enumerate() {
        let Some(config) = policy.typed_extension_config.as_ref().and_then(|config| config.typed_config.as_ref())
        else {
            d.at_index("policies", index, |d| d.error("has no typed_extension_config"));
            return None;
        };
        if !KNOWN.iter().any(|known| is(config, known)) {
            let name = type_url::message_name(&config.type_url);
            let text = format!("type {name} is not supported, the next policy is tried");
            d.at_index("policies", index, |d| d.ignore(text));
            continue;
        }
        let found = d.at_index("policies", index, |d| {
            d.at("typed_extension_config", |d| d.at("typed_config", |d| typed_policy(config, options, depth, d)))
        });
        for rest in index + 1..list.policies.len() {
            d.at_index("policies", rest, |d| d.ignored_here());
        }
        return found;
    }
    let known = "round_robin, least_request, random, ring_hash, maglev, subset, wrr_locality or peak_ewma";
    d.at("policies", |d| d.error(format!("names no supported policy: {known}")));
    None
}

const KNOWN: [&str; 8] = [
    type_url::LB_ROUND_ROBIN,
    type_url::LB_LEAST_REQUEST,
    type_url::LB_RANDOM,
    type_url::LB_RING_HASH,
    type_url::LB_MAGLEV,
    type_url::LB_SUBSET,
    type_url::LB_WRR_LOCALITY,
    type_url::LB_PEAK_EWMA,
];

fn is(config: &Any, url: &str) -> bool {
    type_url::message_name(&config.type_url) == type_url::message_name(url)
}

fn typed_policy(config: &Any, options: &mut LbOptions, depth: usize, d: &mut Diagnostics) -> Option<LbPolicy> {
    match &config.type_url {
        _ if is(config, type_url::LB_ROUND_ROBIN) => {
            let config: policies::round_robin::v3::RoundRobin = message(config, d)?;
            options.slow_start = config.slow_start_config.as_ref().and_then(|slow| slow_start(slow, d));
            locality(config.locality_lb_config.as_ref(), options, d);
            Some(LbPolicy::RoundRobin)
        }
        _ if is(config, type_url::LB_LEAST_REQUEST) => {
            use policies::least_request::v3::least_request::SelectionMethod as Method;
            let config: policies::least_request::v3::LeastRequest = message(config, d)?;
            options.slow_start = config.slow_start_config.as_ref().and_then(|slow| slow_start(slow, d));
            locality(config.locality_lb_config.as_ref(), options, d);
            let method = variant::<Method>(config.selection_method, "selection_method", d)?;
            Some(least_request(config.choice_count, config.active_request_bias.as_ref(), method == Method::FullScan, d))
        }
        _ if is(config, type_url::LB_RANDOM) => {
            let config: policies::random::v3::Random = message(config, d)?;
            locality(config.locality_lb_config.as_ref(), options, d);
            Some(LbPolicy::Random)
        }
        _ if is(config, type_url::LB_RING_HASH) => typed_ring_hash(&message(config, d)?, options, d),
        _ if is(config, type_url::LB_MAGLEV) => {
            let config: policies::maglev::v3::Maglev = message(config, d)?;
            options.locality_weighted = config.locality_weighted_lb_config.is_some();
            typed_consistent(config.consistent_hashing_lb_config.as_ref(), options, d);
            maglev(config.table_size, d)
        }
        _ if is(config, type_url::LB_SUBSET) => {
            let config: policies::subset::v3::Subset = message(config, d)?;
            options.subsets = typed_subsets(&config, d).map(Arc::new);
            nested(config.subset_lb_policy.as_ref(), "subset_lb_policy", options, depth, d)
        }
        _ if is(config, type_url::LB_WRR_LOCALITY) => {
            let config: policies::wrr_locality::v3::WrrLocality = message(config, d)?;
            let policy = nested(config.endpoint_picking_policy.as_ref(), "endpoint_picking_policy", options, depth, d);
            options.locality_weighted = true;
            policy
        }
        _ => peak_ewma(&message(config, d)?, d),
    }
}

fn nested(
    list: Option<&cluster::LoadBalancingPolicy>,
    field: &'static str,
    options: &mut LbOptions,
    depth: usize,
    d: &mut Diagnostics,
) -> Option<LbPolicy> {
    d.at(field, |d| match list {
        Some(list) => policy_list(list, options, depth + 1, d),
        None => {
            d.error("is required");
            None
        }
    })
}

fn locality(proto: Option<&common::LocalityLbConfig>, options: &mut LbOptions, d: &mut Diagnostics) {
    use common::locality_lb_config::LocalityConfigSpecifier as Locality;
    use common::locality_lb_config::zone_aware_lb_config::LocalityBasis;
    match proto.and_then(|proto| proto.locality_config_specifier.as_ref()) {
        Some(Locality::LocalityWeightedLbConfig(_)) => options.locality_weighted = true,
        Some(Locality::ZoneAwareLbConfig(zones)) => d.at("locality_lb_config", |d| {
            d.at("zone_aware_lb_config", |d| {
                options.fail_traffic_on_panic = zones.fail_traffic_on_panic;
                options.zones = zone_aware(zones.routing_enabled.as_ref(), zones.min_cluster_size, d);
                let forced = zones.force_local_zone.as_ref();
                #[expect(deprecated, reason = "the older field is still in use")]
                let older = zones.force_locality_direct_routing.then_some(1);
                let min = forced.map(|forced| forced.min_size.map_or(1, |size| size.value));
                options.zones.force_local_min = min.or(older);
                let basis = variant::<LocalityBasis>(zones.locality_basis, "locality_basis", d);
                options.zones.by_weight = basis == Some(LocalityBasis::HealthyHostsWeight);
            });
        }),
        None => {}
    }
}

fn typed_consistent(proto: Option<&common::ConsistentHashingLbConfig>, options: &mut LbOptions, d: &mut Diagnostics) {
    if let Some(proto) = proto {
        d.at("consistent_hashing_lb_config", |d| {
            consistent(proto.use_hostname_for_hashing, proto.hash_balance_factor, options, d);
        });
    }
}

fn typed_ring_hash(
    proto: &policies::ring_hash::v3::RingHash,
    options: &mut LbOptions,
    d: &mut Diagnostics,
) -> Option<LbPolicy> {
    use policies::ring_hash::v3::ring_hash::HashFunction as Function;
    #[expect(deprecated, reason = "the older fields are still in use")]
    consistent(proto.use_hostname_for_hashing, proto.hash_balance_factor, options, d);
    typed_consistent(proto.consistent_hashing_lb_config.as_ref(), options, d);
    options.locality_weighted = proto.locality_weighted_lb_config.is_some();
    let function = match variant::<Function>(proto.hash_function, "hash_function", d)? {
        Function::DefaultHash | Function::XxHash => HashFunction::XxHash,
        Function::MurmurHash2 => HashFunction::Murmur2,
    };
    ring_hash(function, proto.minimum_ring_size, proto.maximum_ring_size, ["minimum_ring_size", "maximum_ring_size"], d)
}

fn peak_ewma(proto: &peak_ewma::PeakEwma, d: &mut Diagnostics) -> Option<LbPolicy> {
    let mut time = |value: Option<&protobuf::Duration>, default: Duration, field| {
        let time = duration(value, field, d).unwrap_or(default);
        if time.is_zero() {
            d.at(field, |d| d.error("is zero"));
        }
        time
    };
    let decay = time(proto.decay_time.as_ref(), Duration::from_secs(10), "decay_time");
    let default_rtt = time(proto.default_rtt.as_ref(), Duration::from_millis(30), "default_rtt");
    let failure_penalty = time(proto.failure_penalty.as_ref(), Duration::from_secs(1), "failure_penalty");
    let choices = number(proto.choice_count, 2, 2..=1024, "choice_count", d);
    Some(LbPolicy::PeakEwma(PeakEwma { choices, decay, default_rtt, failure_penalty }))
}

/// The older message says the same in the same numbers.
fn legacy_subsets(proto: &legacy::LbSubsetConfig, d: &mut Diagnostics) -> Option<Subsets> {
    use policies::subset::v3::{Subset, subset::LbSubsetSelector};
    let selectors = proto.subset_selectors.iter().map(|selector| LbSubsetSelector {
        keys: selector.keys.clone(),
        single_host_per_subset: selector.single_host_per_subset,
        fallback_policy: selector.fallback_policy,
        fallback_keys_subset: selector.fallback_keys_subset.clone(),
    });
    let same = Subset {
        fallback_policy: proto.fallback_policy,
        default_subset: proto.default_subset.clone(),
        subset_selectors: selectors.collect(),
        locality_weight_aware: proto.locality_weight_aware,
        panic_mode_any: proto.panic_mode_any,
        list_as_any: proto.list_as_any,
        metadata_fallback_policy: proto.metadata_fallback_policy,
        ..Subset::default()
    };
    typed_subsets(&same, d)
}

fn typed_subsets(proto: &policies::subset::v3::Subset, d: &mut Diagnostics) -> Option<Subsets> {
    if proto.metadata_fallback_policy != 0 {
        d.at("metadata_fallback_policy", |d| d.error("FALLBACK_LIST is not supported"));
    }
    let selectors = proto.subset_selectors.iter().enumerate().filter_map(|(index, selector)| {
        d.at_index("subset_selectors", index, |d| {
            selector_of(
                &selector.keys,
                selector.single_host_per_subset,
                selector.fallback_policy,
                &selector.fallback_keys_subset,
                d,
            )
        })
    });
    Some(Subsets {
        selectors: selectors.collect(),
        fallback: fallback(proto.fallback_policy, d)?,
        default_subset: proto.default_subset.as_ref().map(metadata_struct).unwrap_or_default(),
        list_as_any: proto.list_as_any,
        panic_mode_any: proto.panic_mode_any,
        locality_weight_aware: proto.locality_weight_aware,
        allow_redundant_keys: proto.allow_redundant_keys,
    })
}

fn fallback(value: i32, d: &mut Diagnostics) -> Option<SubsetFallback> {
    use legacy::lb_subset_config::LbSubsetFallbackPolicy as Policy;
    Some(match variant::<Policy>(value, "fallback_policy", d)? {
        Policy::NoFallback => SubsetFallback::NoFallback,
        Policy::AnyEndpoint => SubsetFallback::AnyEndpoint,
        Policy::DefaultSubset => SubsetFallback::DefaultSubset,
    })
}

fn selector_of(
    keys: &[String],
    single_host: bool,
    fallback: i32,
    fallback_keys: &[String],
    d: &mut Diagnostics,
) -> Option<SubsetSelector> {
    use legacy::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Policy;
    let sorted = |keys: &[String]| {
        let mut keys: Vec<Arc<str>> = keys.iter().map(|key| Arc::from(key.as_str())).collect();
        keys.sort();
        keys.dedup();
        keys
    };
    let (keys, fallback_keys) = (sorted(keys), sorted(fallback_keys));
    if keys.is_empty() {
        d.at("keys", |d| d.error("is required"));
    }
    let fallback = match variant::<Policy>(fallback, "fallback_policy", d)? {
        Policy::NotDefined => None,
        Policy::NoFallback => Some(SelectorFallback::Plain(SubsetFallback::NoFallback)),
        Policy::AnyEndpoint => Some(SelectorFallback::Plain(SubsetFallback::AnyEndpoint)),
        Policy::DefaultSubset => Some(SelectorFallback::Plain(SubsetFallback::DefaultSubset)),
        Policy::KeysSubset => {
            let is_part = !fallback_keys.is_empty()
                && fallback_keys.len() < keys.len()
                && fallback_keys.iter().all(|key| keys.contains(key));
            if !is_part {
                d.at("fallback_keys_subset", |d| d.error("is not a part of the selector's keys"));
            }
            Some(SelectorFallback::Keys(fallback_keys))
        }
    };
    Some(SubsetSelector { keys, single_host, fallback })
}
