//! Balancers under seeded simulation: shares within statistical bounds, whatever the policy.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_config::{
    Endpoint, HashFunction, Health, LB_NAMESPACE, Locality, Metadata, MetadataMatch, MetadataStruct, MetadataValue,
    PeakEwma, Real, SelectorFallback, SubsetFallback, SubsetSelector,
};
use outrigger_http::EndpointAddress;
use rand::SeedableRng;

use super::super::health::{HealthFlags, HostState, Placed};
use super::*;

/// An endpoint in the making.
#[derive(Clone, Copy)]
struct Make {
    weight: u32,
    health: Health,
    priority: u32,
    /// Its name and weight.
    zone: (&'static str, Option<u32>),
    tags: &'static [(&'static str, &'static str)],
}

const PLAIN: Make = Make { weight: 1, health: Health::Healthy, priority: 0, zone: ("", None), tags: &[] };

fn text(value: &str) -> MetadataValue {
    MetadataValue::String(value.into())
}

fn tags(pairs: &[(&str, &str)]) -> MetadataStruct {
    pairs.iter().map(|(key, value)| (Arc::from(*key), text(value))).collect()
}

fn hosts_at(makes: &[Make], now: Instant) -> Vec<Rc<EndpointHandle>> {
    let mut localities: Vec<Arc<Locality>> = Vec::new();
    let build = |(index, make): (usize, &Make)| {
        let locality = Locality {
            metadata: None,
            region: String::new(),
            zone: make.zone.0.to_owned(),
            sub_zone: String::new(),
            priority: make.priority,
            weight: make.zone.1,
            endpoints: Vec::new(),
        };
        let locality = match localities.iter().find(|known| ***known == locality) {
            Some(known) => known.clone(),
            None => {
                localities.push(Arc::new(locality));
                localities[localities.len() - 1].clone()
            }
        };
        let metadata = (!make.tags.is_empty())
            .then(|| Arc::new(Metadata::new(BTreeMap::from([(LB_NAMESPACE.into(), tags(make.tags))]))));
        let endpoint = Endpoint {
            address: EndpointAddress::Ip(format!("127.0.0.1:{}", 1000 + index).parse().unwrap()),
            hostname: Arc::from(""),
            weight: make.weight,
            health: make.health,
            metadata,
            additional_addresses: Box::default(),
            health_check: None,
            proxy_entries: Box::default(),
        };
        EndpointHandle::build(Placed { endpoint, locality }, Some(Arc::new(HostState::default())), None, now)
    };
    makes.iter().enumerate().map(build).collect()
}

fn hosts(makes: &[Make]) -> Vec<Rc<EndpointHandle>> {
    hosts_at(makes, Instant::now())
}

fn recipe(policy: LbPolicy, tables: &Tables) -> Recipe<'_> {
    Recipe {
        policy,
        slow_start: None,
        hash_by_hostname: false,
        hash_balance_percent: None,
        locality_weighted: false,
        panic_millis: 50_000,
        fail_on_panic: false,
        ignore_new: false,
        overprovisioning_percent: 140,
        zones: ZoneAware::default(),
        local: None,
        weighted_health: false,
        tables,
    }
}

fn balancer(
    recipe: &Recipe<'_>,
    hosts: &[Rc<EndpointHandle>],
    subsets: Option<&Arc<outrigger_config::Subsets>>,
) -> Balancer {
    Balancer::new(recipe, subsets, hosts, None, SmallRng::seed_from_u64(7))
}

/// How often each endpoint is chosen; every request stays active for a while, so that load matters.
fn shares(recipe: &Recipe<'_>, hosts: &[Rc<EndpointHandle>], picks: usize, key: &PickKey<'_>) -> Vec<usize> {
    let mut balancer = balancer(recipe, hosts, None);
    let mut counts = vec![0; hosts.len()];
    for _ in 0..picks {
        if let Some(picked) = balancer.pick(|| *recipe, hosts, key, 0) {
            counts[picked as usize] += 1;
        }
    }
    counts
}

/// Whether counts are within so many percent of what is expected.
fn close(counts: &[usize], expected: &[usize], percent: usize) -> bool {
    counts.iter().zip(expected).all(|(count, expected)| count.abs_diff(*expected) * 100 <= expected * percent)
}

const LEAST: LbPolicy = LbPolicy::LeastRequest { choices: 2, full_scan: false, active_request_bias: Real::new(1.0) };
const FEWEST: LbPolicy = LbPolicy::LeastRequest { choices: 2, full_scan: true, active_request_bias: Real::new(1.0) };
const RING: LbPolicy =
    LbPolicy::RingHash { function: HashFunction::XxHash, ring_size_min: 4096, ring_size_max: 8 << 20 };
const MAGLEV: LbPolicy = LbPolicy::Maglev { table_size: 65_537 };
const EWMA: LbPolicy = LbPolicy::PeakEwma(PeakEwma {
    choices: 2,
    decay: Duration::from_secs(10),
    default_rtt: Duration::from_millis(30),
    failure_penalty: Duration::from_secs(1),
});

#[test]
fn weights_are_kept_by_every_policy() {
    let tables = Tables::default();
    let weighted = hosts(&[1, 2, 5].map(|weight| Make { weight, ..PLAIN }));
    let equal = hosts(&[PLAIN; 4]);
    for policy in [LbPolicy::RoundRobin, LbPolicy::Random, LEAST, RING, MAGLEV] {
        let counts = shares(&recipe(policy, &tables), &weighted, 8000, &PickKey::default());
        assert!(close(&counts, &[1000, 2000, 5000], 15), "{policy:?}: {counts:?}");
    }
    for policy in [LbPolicy::RoundRobin, LbPolicy::Random, LEAST, FEWEST, RING, MAGLEV, EWMA] {
        let counts = shares(&recipe(policy, &tables), &equal, 8000, &PickKey::default());
        assert!(close(&counts, &[2000; 4], 15), "{policy:?}: {counts:?}");
    }
    let counts = shares(&recipe(LbPolicy::RoundRobin, &tables), &equal, 8000, &PickKey::default());
    assert_eq!(counts, [2000; 4]);
}

#[test]
fn the_loaded_and_the_slow_get_less() {
    let tables = Tables::default();
    let four = hosts(&[PLAIN; 4]);
    four[0].active.set(50);
    for (policy, share_max) in [(LEAST, 700), (FEWEST, 0)] {
        let counts = shares(&recipe(policy, &tables), &four, 8000, &PickKey::default());
        assert!(counts[0] <= share_max, "{policy:?}: {counts:?}");
    }
    let four = hosts(&[PLAIN; 4]);
    let LbPolicy::PeakEwma(config) = EWMA else { panic!() };
    for (index, host) in four.iter().enumerate() {
        let took = Duration::from_millis(if index == 2 { 500 } else { 5 });
        host.latency.observe(&config, took, false, Instant::now());
    }
    let counts = shares(&recipe(EWMA, &tables), &four, 8000, &PickKey::default());
    assert_eq!(counts[2], 0, "{counts:?}");
    // A weight that is shared with many active requests counts less.
    let weighted = hosts(&[Make { weight: 4, ..PLAIN }, PLAIN]);
    weighted[0].active.set(3);
    let counts = shares(&recipe(LEAST, &tables), &weighted, 2000, &PickKey::default());
    assert!(close(&counts, &[1000, 1000], 5), "{counts:?}");
}

#[test]
fn a_hash_stays_with_its_endpoint_and_a_retry_leaves_it() {
    let tables = Tables::default();
    let ten = hosts(&[PLAIN; 10]);
    for policy in [RING, MAGLEV] {
        let recipe = recipe(policy, &tables);
        let (mut first, mut second) = (balancer(&recipe, &ten, None), balancer(&recipe, &ten, None));
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..200_u64 {
            let hash = Some(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let key = PickKey { hash, ..PickKey::default() };
            let picked = first.pick(|| recipe, &ten, &key, 0);
            assert_eq!(picked, second.pick(|| recipe, &ten, &key, 0), "workers agree");
            seen.insert(picked);
        }
        assert_eq!(seen.len(), 10);
        let key = PickKey { hash: Some(5), ..PickKey::default() };
        let others = (0..6).map(|round| first.pick(|| recipe, &ten, &key, round));
        assert!(others.collect::<std::collections::BTreeSet<_>>().len() > 2);
    }
}

#[test]
fn a_full_endpoint_passes_its_hash_on() {
    let tables = Tables::default();
    let four = hosts(&[PLAIN; 4]);
    for policy in [RING, MAGLEV] {
        let recipe = Recipe { hash_balance_percent: Some(125), ..recipe(policy, &tables) };
        let mut balancer = balancer(&recipe, &four, None);
        let key = PickKey { hash: Some(12_345), ..PickKey::default() };
        four.iter().for_each(|host| host.active.set(0));
        for _ in 0..40 {
            let picked = balancer.pick(|| recipe, &four, &key, 0).unwrap() as usize;
            four[picked].active.set(four[picked].active.get() + 1);
        }
        let active: Vec<u32> = four.iter().map(|host| host.active.get()).collect();
        // At most 125 % of a fourth of them.
        assert!(active.iter().all(|active| *active <= 13), "{policy:?}: {active:?}");
    }
}

#[test]
fn localities_take_their_weight_less_what_they_lack() {
    let tables = Tables::default();
    let zone = |name, weight| Make { zone: (name, Some(weight)), ..PLAIN };
    let both = hosts(&[zone("a", 1), zone("a", 1), zone("b", 3)]);
    let recipe = Recipe { locality_weighted: true, ..recipe(LbPolicy::RoundRobin, &tables) };
    let counts = shares(&recipe, &both, 4000, &PickKey::default());
    assert_eq!(counts, [500, 500, 3000]);
    let sick = Make { health: Health::Unhealthy, ..zone("b", 3) };
    // Half of b can bear 70 % of its weight of 3.
    let half = hosts(&[zone("a", 1), zone("a", 1), zone("b", 3), sick]);
    let counts = shares(&recipe, &half, 3100, &PickKey::default());
    assert!(close(&counts[..3], &[500, 500, 2100], 2) && counts[3] == 0, "{counts:?}");
    let unweighted = hosts(&[Make { zone: ("a", None), ..PLAIN }, Make { zone: ("b", None), ..PLAIN }]);
    assert_eq!(shares(&recipe, &unweighted, 100, &PickKey::default()), [50, 50]);
    let hashed = Recipe { policy: MAGLEV, ..recipe };
    let counts = shares(&hashed, &both, 8000, &PickKey::default());
    assert!(close(&counts, &[1000, 1000, 6000], 15), "{counts:?}");
}

#[test]
fn priorities_spill_and_can_be_avoided() {
    let tables = Tables::default();
    let second = Make { priority: 1, ..PLAIN };
    let sick = Make { health: Health::Unhealthy, ..PLAIN };
    let four = hosts(&[PLAIN, sick, second, second]);
    let recipe = recipe(LbPolicy::RoundRobin, &tables);
    let counts = shares(&recipe, &four, 10_000, &PickKey::default());
    assert!(close(&[counts[0], counts[2] + counts[3]], &[7000, 3000], 6) && counts[1] == 0, "{counts:?}");
    let key = PickKey { avoid_priorities: &[0], ..PickKey::default() };
    let counts = shares(&recipe, &four, 1000, &key);
    assert_eq!((counts[0], counts[2] + counts[3]), (0, 1000));
    let key = PickKey { avoid_priorities: &[0, 1], ..PickKey::default() };
    assert!(shares(&recipe, &four, 1000, &key)[0] > 500, "all were tried: it begins anew");
}

#[test]
fn states_of_the_process_count_and_panic_ignores_them() {
    let tables = Tables::default();
    let four = hosts(&[PLAIN; 4]);
    let mut recipe = recipe(LbPolicy::RoundRobin, &tables);
    four[0].state().unwrap().set(HealthFlags::FAILED_OUTLIER_CHECK);
    assert_eq!(shares(&recipe, &four, 300, &PickKey::default()), [0, 100, 100, 100]);
    for host in &four[1..3] {
        host.state().unwrap().set(HealthFlags::FAILED_ACTIVE_HC);
    }
    assert_eq!(shares(&recipe, &four, 400, &PickKey::default()), [100; 4]);
    recipe.fail_on_panic = true;
    assert_eq!(shares(&recipe, &four, 400, &PickKey::default()), [0; 4]);
    recipe.panic_millis = 0;
    assert_eq!(shares(&recipe, &four, 400, &PickKey::default()), [0, 0, 0, 400]);
    four[3].state().unwrap().set(HealthFlags::FAILED_ACTIVE_HC);
    assert_eq!(shares(&recipe, &four, 400, &PickKey::default()), [0; 4]);
    let draining = hosts(&[PLAIN, Make { health: Health::Draining, ..PLAIN }]);
    assert_eq!(shares(&recipe, &draining, 10, &PickKey::default()), [10, 0]);
    assert!(shares(&recipe, &[], 10, &PickKey::default()).is_empty());
}

#[test]
fn new_endpoints_start_slowly() {
    let tables = Tables::default();
    let window = Duration::from_secs(1000);
    let slow_start = Some(SlowStart { window, aggression: Real::new(1.0), min_weight_millis: 10_000 });
    for policy in [LbPolicy::RoundRobin, LEAST] {
        let recipe = Recipe { slow_start, ..recipe(policy, &tables) };
        let two = hosts(&[PLAIN, PLAIN]);
        let now = Instant::now();
        // The second one's age, and what of 1000 requests each gets.
        for (age, expected, grows) in [(0, [1000, 100], true), (500, [1000, 500], true), (1000, [500, 500], false)] {
            two[0].since.set(now - window);
            two[1].since.set(now - Duration::from_secs(age));
            let counts = shares(&recipe, &two, expected.iter().sum(), &PickKey::default());
            assert!(close(&counts, &expected, 10), "{policy:?}: {counts:?} at {age} s");
            assert_eq!(balancer(&recipe, &two, None).slow_until.is_some(), grows);
        }
        let mut stale = balancer(&recipe, &two, None);
        assert!(!stale.is_stale());
        stale.slow_until = Some(now);
        assert!(stale.is_stale());
    }
}

fn subsets(fallback: SubsetFallback) -> outrigger_config::Subsets {
    let selector = |keys: &[&str], fallback| SubsetSelector {
        keys: keys.iter().map(|key| Arc::from(*key)).collect(),
        single_host: false,
        fallback,
    };
    outrigger_config::Subsets {
        fallback,
        default_subset: tags(&[("stage", "prod")]),
        selectors: vec![
            selector(&["stage"], None),
            selector(&["stage", "version"], Some(SelectorFallback::Keys(vec!["stage".into()]))),
            selector(&["version"], Some(SelectorFallback::Plain(SubsetFallback::NoFallback))),
        ],
        list_as_any: false,
        panic_mode_any: false,
        locality_weight_aware: false,
        allow_redundant_keys: false,
    }
}

#[test]
fn subsets_are_chosen_by_metadata() {
    let tables = Tables::default();
    let with = |tags| Make { tags, ..PLAIN };
    let three = hosts(&[
        with(&[("stage", "prod"), ("version", "1")]),
        with(&[("stage", "prod"), ("version", "2")]),
        with(&[("stage", "dev"), ("version", "2")]),
    ]);
    let recipe = recipe(LbPolicy::RoundRobin, &tables);
    // Of four picks, who was chosen.
    let check = |config: outrigger_config::Subsets, criteria: &[(&str, &str)], expected: &[u32]| {
        let config = Arc::new(config);
        let mut balancer = balancer(&recipe, &three, Some(&config));
        let criteria = MetadataMatch::new(tags(criteria));
        let key = PickKey { metadata: Some(&criteria), ..PickKey::default() };
        let mut found: Vec<u32> = (0..12).filter_map(|_| balancer.pick(|| recipe, &three, &key, 0)).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, expected, "{criteria:?} of {config:?}");
    };
    use SubsetFallback::{AnyEndpoint, DefaultSubset, NoFallback};
    check(subsets(NoFallback), &[("stage", "prod")], &[0, 1]);
    check(subsets(NoFallback), &[("stage", "prod"), ("version", "2")], &[1]);
    check(subsets(NoFallback), &[("stage", "dev"), ("version", "1")], &[2]);
    check(subsets(AnyEndpoint), &[("version", "2")], &[1, 2]);
    check(subsets(AnyEndpoint), &[("version", "3")], &[]);
    check(subsets(NoFallback), &[("stage", "test")], &[]);
    check(subsets(AnyEndpoint), &[("stage", "test")], &[0, 1, 2]);
    check(subsets(DefaultSubset), &[("stage", "test")], &[0, 1]);
    check(subsets(DefaultSubset), &[], &[0, 1]);
    check(subsets(NoFallback), &[("unknown", "x")], &[]);
    check(subsets(NoFallback), &[("stage", "prod"), ("unknown", "x")], &[]);
    let redundant = outrigger_config::Subsets { allow_redundant_keys: true, ..subsets(NoFallback) };
    check(redundant, &[("stage", "prod"), ("unknown", "x")], &[0, 1]);
    let panic = outrigger_config::Subsets { panic_mode_any: true, ..subsets(NoFallback) };
    check(panic, &[("stage", "test")], &[0, 1, 2]);
}

/// What the brief asks of a rebuild: cheap with many endpoints.
#[test]
fn ten_thousand_endpoints() {
    let tables = Tables::default();
    let many = hosts(&vec![PLAIN; 10_000]);
    for policy in [LbPolicy::RoundRobin, LEAST, EWMA, MAGLEV] {
        let counts = shares(&recipe(policy, &tables), &many, 10_000, &PickKey::default());
        assert_eq!(counts.iter().sum::<usize>(), 10_000);
    }
}
