//! Ejections, under a clock that the test sets.

use std::net::SocketAddr;

use outrigger_config::{Cluster, Resource, ResourceKind, ResourceSet, Snapshot, Source, Update};
use outrigger_stats::{Name, Value};

use super::super::health::HealthSet;
use super::*;

fn cluster(outlier: Option<OutlierDetection>, ports: std::ops::Range<u16>) -> Arc<Cluster> {
    Arc::new(Cluster { outlier: outlier.map(Box::new), ..crate::testing::cluster("c", ports.map(address)) })
}

fn address(port: u16) -> EndpointAddress {
    EndpointAddress::Ip(SocketAddr::from(([10, 0, 0, 1], port)))
}

/// A cluster's health as the process keeps it.
struct Rig {
    set: HealthSet,
    registry: Arc<Registry>,
    snapshot: Snapshot,
    resources: ResourceSet,
}

impl Rig {
    fn new(config: OutlierDetection, ports: std::ops::Range<u16>) -> Rig {
        let mut rig = Rig {
            set: HealthSet::default(),
            registry: Arc::default(),
            snapshot: Snapshot::default(),
            resources: ResourceSet::new(),
        };
        rig.update(Some(config), ports);
        rig
    }

    fn update(&mut self, config: Option<OutlierDetection>, ports: std::ops::Range<u16>) {
        let cluster = Resource::Cluster(cluster(config, ports));
        self.resources.apply(Update {
            source: Source::Static,
            kind: ResourceKind::Cluster,
            upserts: vec![("c".into(), cluster)],
            removed: Vec::new(),
            missing: Vec::new(),
            refused: Vec::new(),
        });
        let next = Snapshot::compile(&self.resources, Some(&self.snapshot), self.snapshot.generation + 1);
        self.set.update(&next, Some(&self.snapshot), &self.registry);
        self.snapshot = next;
    }

    fn health(&self) -> Arc<ClusterHealth> {
        self.set.get("c").unwrap()
    }

    fn record(&self, port: u16, outcomes: impl IntoIterator<Item = Outcome>) {
        let health = self.health();
        let state = health.state(&address(port)).unwrap();
        outcomes.into_iter().for_each(|outcome| health.record(&address(port), &state, outcome));
    }

    fn ejected(&self) -> Vec<u16> {
        let (states, _) = self.health().states();
        let ejected = states.iter().filter(|(_, state)| state.flags().contains(HealthFlags::FAILED_OUTLIER_CHECK));
        let mut ports: Vec<u16> = ejected.map(|(address, _)| address.port()).collect();
        ports.sort_unstable();
        ports
    }

    fn stat(&self, name: &str) -> Option<Value> {
        self.registry.value(&Name::new("cluster", format!("outlier_detection.{name}")).tag("envoy_cluster_name", "c"))
    }

    /// The end of an interval so long after the last ejection.
    fn after(&self, seconds: u64) {
        self.health().judge_outliers(Instant::now() + Duration::from_secs(seconds));
    }
}

fn config() -> OutlierDetection {
    OutlierDetection { max_ejection_percent: 50, ..OutlierDetection::default() }
}

fn times(count: usize, outcome: Outcome) -> impl Iterator<Item = Outcome> {
    std::iter::repeat_n(outcome, count)
}

#[test]
fn failures_in_a_row_eject_for_longer_each_time() {
    let rig = Rig::new(config(), 1..5);
    let version = rig.health().version();
    rig.record(1, times(4, Outcome::Status(500)).chain([Outcome::Status(200)]).chain(times(4, Outcome::Status(500))));
    assert_eq!((rig.ejected(), rig.health().version()), (vec![], version), "a success in between");
    rig.record(1, [Outcome::Status(500)]);
    assert_eq!(rig.ejected(), [1]);
    assert!(rig.health().version() > version, "workers choose anew");
    assert_eq!(rig.stat("ejections_active"), Some(Value::Gauge(1)));
    assert_eq!(rig.stat("ejections_enforced_consecutive_5xx"), Some(Value::Counter(1)));
    rig.after(20);
    assert_eq!(rig.ejected(), [1]);
    rig.after(30);
    assert_eq!((rig.ejected(), rig.stat("ejections_active")), (vec![], Some(Value::Gauge(0))));
    // The second time in a row it is twice as long.
    rig.record(1, times(5, Outcome::Broken));
    rig.after(50);
    assert_eq!(rig.ejected(), [1]);
    rig.after(60);
    assert!(rig.ejected().is_empty());
    // Two quiet intervals, and it is as if nothing had been.
    rig.after(10);
    rig.after(10);
    rig.record(1, times(5, Outcome::TimedOut));
    rig.after(30);
    assert!(rig.ejected().is_empty());
}

#[test]
fn ejections_have_limits() {
    let rig = Rig::new(config(), 1..5);
    for port in 1..5 {
        rig.record(port, times(5, Outcome::Status(503)));
    }
    assert_eq!(rig.ejected(), [1, 2], "half of four");
    assert_eq!(rig.stat("ejections_overflow"), Some(Value::Counter(2)));
    assert_eq!(rig.stat("ejections_detected_consecutive_5xx"), Some(Value::Counter(4)));
    let rig = Rig::new(OutlierDetection::default(), 1..3);
    rig.record(1, times(5, Outcome::Status(503)));
    assert!(rig.ejected().is_empty(), "10 % of two is none");
    let rig = Rig::new(OutlierDetection { always_eject_one: true, ..OutlierDetection::default() }, 1..3);
    rig.record(1, times(5, Outcome::Status(503)));
    rig.record(2, times(5, Outcome::Status(503)));
    assert_eq!(rig.ejected(), [1]);
    let detect_only = Rule { threshold: 5, enforcing: 0 };
    let rig = Rig::new(OutlierDetection { consecutive_5xx: detect_only, ..config() }, 1..5);
    rig.record(1, times(5, Outcome::Status(500)));
    assert!(rig.ejected().is_empty());
}

#[test]
fn gateway_failures_and_local_ones_are_told_apart() {
    let off = Rule { threshold: 0, enforcing: 0 };
    let on = Rule { threshold: 3, enforcing: 100 };
    let gateway = OutlierDetection { consecutive_5xx: off, consecutive_gateway_failure: on, ..config() };
    let rig = Rig::new(gateway, 1..5);
    rig.record(1, times(2, Outcome::Status(503)).chain([Outcome::Status(500), Outcome::Status(502), Outcome::Broken]));
    assert!(rig.ejected().is_empty());
    rig.record(1, [Outcome::TimedOut]);
    assert_eq!(rig.ejected(), [1]);
    let split = OutlierDetection { split: true, consecutive_local_origin_failure: on, ..config() };
    let rig = Rig::new(split, 1..5);
    rig.record(1, times(9, Outcome::Connected));
    rig.record(1, times(2, Outcome::Broken).chain([Outcome::Connected]).chain(times(2, Outcome::TimedOut)));
    assert!(rig.ejected().is_empty());
    rig.record(1, [Outcome::Broken]);
    assert_eq!(rig.ejected(), [1]);
    assert_eq!(rig.stat("ejections_enforced_consecutive_local_origin_failure"), Some(Value::Counter(1)));
}

#[test]
fn rates_are_judged_once_an_interval() {
    let off = Rule { threshold: 0, enforcing: 0 };
    let rig = Rig::new(OutlierDetection { consecutive_5xx: off, ..config() }, 1..11);
    let mixed =
        |failures: usize| times(failures, Outcome::Status(500)).chain(times(100 - failures, Outcome::Status(200)));
    for port in 1..10 {
        rig.record(port, mixed(1));
    }
    rig.record(10, mixed(40));
    assert!(rig.ejected().is_empty());
    rig.after(10);
    assert_eq!(rig.ejected(), [10]);
    assert_eq!(rig.health().state(&address(10)).unwrap().outlier.success_rates().0, 60.0);
    assert_eq!(rig.health().state(&address(1)).unwrap().outlier.success_rates().0, 99.0);
    rig.after(10);
    assert_eq!(rig.health().state(&address(1)).unwrap().outlier.success_rates().0, -1.0, "nothing was asked of it");

    let percentage = FAILING;
    let rig = Rig::new(OutlierDetection { consecutive_5xx: off, failure_percentage: percentage, ..config() }, 1..6);
    (1..5).for_each(|port| rig.record(port, times(60, Outcome::Status(200))));
    rig.record(5, times(55, Outcome::Status(500)).chain(times(5, Outcome::Status(200))));
    rig.after(10);
    assert_eq!(rig.ejected(), [5]);
    assert_eq!(rig.stat("ejections_enforced_failure_percentage"), Some(Value::Counter(1)));
}

const FAILING: outrigger_config::FailurePercentage = outrigger_config::FailurePercentage {
    threshold: 85,
    minimum_hosts: 5,
    request_volume: 50,
    enforcing: 100,
    enforcing_local_origin: 0,
};

#[test]
fn updates_keep_what_is_known_of_an_address() {
    let mut rig = Rig::new(config(), 1..5);
    rig.record(1, times(5, Outcome::Status(500)));
    rig.update(Some(config()), 1..4);
    assert_eq!(rig.ejected(), [1]);
    rig.update(Some(config()), 2..5);
    assert_eq!((rig.ejected(), rig.stat("ejections_active")), (vec![], Some(Value::Gauge(0))));
    rig.update(Some(config()), 1..5);
    assert!(rig.ejected().is_empty(), "it came back");
    rig.record(2, times(5, Outcome::Status(500)));
    assert_eq!(rig.ejected(), [2]);
    let health = rig.health();
    rig.update(None, 1..5);
    assert!(rig.set.get("c").is_none() && health.removed.load(Ordering::Relaxed));
}

#[test]
fn the_threshold_is_the_mean_less_deviations() {
    let rates: Vec<(usize, f64)> = [100.0, 100.0, 100.0, 100.0, 50.0].into_iter().enumerate().collect();
    assert!((ejection_threshold(&rates, 1.9) - (90.0 - 1.9 * 20.0)).abs() < 1e-9);
}
