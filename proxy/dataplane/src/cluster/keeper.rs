//! The control thread's part of health: a task for every cluster that is watched, a task for every endpoint that is
//! checked. Once for the process, not for each worker.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_config::{ClusterEntry, Endpoint, EndpointHealthCheck, HealthCheck, Secret};
use outrigger_http::EndpointAddress;
use rand::Rng;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::checker::{Change, Checker, Found, interval};
use super::health::{ClusterHealth, HealthFlags, HealthSet, HostState, lock};
use super::probe::Prober;

/// Watches all clusters that there are, for as long as it is polled.
pub(crate) async fn keep(set: HealthSet) {
    let mut tasks = JoinSet::new();
    let mut watched: Vec<Arc<ClusterHealth>> = Vec::new();
    loop {
        watched.retain(|health| !health.removed.load(Ordering::Relaxed));
        for health in set.all() {
            if !watched.iter().any(|known| Arc::ptr_eq(known, &health)) {
                tasks.spawn_local(watch(health.clone()));
                watched.push(health);
            }
        }
        tokio::select! {
            () = set.changed() => {}
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// What an endpoint is being checked by.
struct Running {
    own: Option<Box<EndpointHealthCheck>>,
    task: AbortHandle,
}

/// Watches one cluster until it is removed.
async fn watch(health: Arc<ClusterHealth>) {
    let mut checks = JoinSet::new();
    let mut running: HashMap<EndpointAddress, Running> = HashMap::new();
    let mut entry = health.entry.load_full();
    let mut due = Instant::now();
    let mut judged = false;
    while !health.removed.load(Ordering::Relaxed) {
        let now = health.entry.load_full();
        if !Arc::ptr_eq(&now, &entry) && !same_checks(&now, &entry) {
            checks.abort_all();
            running.clear();
        }
        entry = now;
        start_checks(&health, &entry, &mut running, &mut checks);
        let every = entry.cluster.outlier.as_ref().map(|outlier| outlier.interval.max(Duration::from_millis(1)));
        due = match every {
            Some(every) if judged => due.min(Instant::now() + every),
            Some(every) => Instant::now() + every,
            None => due,
        };
        judged = every.is_some();
        tokio::select! {
            () = health.changed.notified() => {}
            () = tokio::time::sleep_until(due), if every.is_some() => {
                health.judge_outliers(Instant::now());
                judged = false;
            }
            Some(_) = checks.join_next(), if !checks.is_empty() => {}
        }
    }
}

fn same_checks(a: &ClusterEntry, b: &ClusterEntry) -> bool {
    let same = |(a, b): (&Arc<Secret>, &Arc<Secret>)| Arc::ptr_eq(a, b);
    a.cluster.health_check == b.cluster.health_check
        && a.cluster.transports == b.cluster.transports
        && a.secrets.len() == b.secrets.len()
        && a.secrets.values().zip(b.secrets.values()).all(same)
}

/// Starts the checks of endpoints that are new, and ends those of endpoints that are gone.
fn start_checks(
    health: &Arc<ClusterHealth>,
    entry: &Arc<ClusterEntry>,
    running: &mut HashMap<EndpointAddress, Running>,
    checks: &mut JoinSet<()>,
) {
    let hosts = lock(&health.hosts);
    running.retain(|address, check| {
        let kept = entry.cluster.health_check.is_some()
            && hosts.get(address).is_some_and(|host| {
                host.placed.endpoint.health_check == check.own && !host.placed.endpoint.is_unchecked()
            });
        if !kept {
            check.task.abort();
        }
        kept
    });
    let Some(config) = &entry.cluster.health_check else { return };
    for (address, host) in hosts.iter() {
        let endpoint = &host.placed.endpoint;
        if running.contains_key(address) || endpoint.is_unchecked() {
            continue;
        }
        let check = check(health.clone(), entry.clone(), config.clone(), endpoint.clone(), host.state.clone());
        let task = checks.spawn_local(check);
        running.insert(address.clone(), Running { own: endpoint.health_check.clone(), task });
    }
}

/// Checks one endpoint for ever.
async fn check(
    health: Arc<ClusterHealth>,
    entry: Arc<ClusterEntry>,
    config: Arc<HealthCheck>,
    endpoint: Endpoint,
    state: Arc<HostState>,
) {
    let mut checker = Checker::new(!state.flags().contains(HealthFlags::FAILED_ACTIVE_HC));
    let mut prober = Prober::new(&entry, &config, &endpoint, &health.registry);
    let jitter = config.initial_jitter.mul_f64(rand::rng().random());
    tokio::time::sleep(jitter).await;
    loop {
        lock(&health.stats).inc("attempt");
        let found = match tokio::time::timeout(config.timeout, prober.probe()).await {
            Ok(found) => found,
            Err(_) => {
                prober.close();
                Found::TimedOut
            }
        };
        let change = checker.note(found, &config);
        note(&health, &endpoint.address, &state, found, checker.healthy);
        if !checker.healthy && health.drop_retained(&endpoint.address) {
            return;
        }
        let used = health.used.load(Ordering::Relaxed);
        if !config.reuse_connection {
            prober.close();
        }
        let next = interval(&config, found, change, used, &mut rand::rng());
        if change == Change::Changed {
            let verdict = if checker.healthy { "passes its health checks" } else { "fails its health checks" };
            tracing::info!(cluster = %health.name, endpoint = %endpoint.address, ?found, "{verdict}");
        }
        tokio::time::sleep(next).await;
    }
}

/// Writes what a check found where workers see it.
fn note(health: &ClusterHealth, address: &EndpointAddress, state: &HostState, found: Found, healthy: bool) {
    let mut changed = state.clear(HealthFlags::PENDING_ACTIVE_HC);
    let mut set = |flag, on: bool| changed |= if on { state.set(flag) } else { state.clear(flag) };
    set(HealthFlags::FAILED_ACTIVE_HC, !healthy);
    set(HealthFlags::DEGRADED_ACTIVE_HC, found == Found::Degraded);
    set(HealthFlags::ACTIVE_HC_TIMEOUT, found == Found::TimedOut && !healthy);
    let stats = lock(&health.stats);
    match found {
        Found::Healthy | Found::Degraded => stats.inc("success"),
        Found::Unhealthy | Found::Retriable => stats.inc("failure"),
        Found::Network | Found::TimedOut => {
            stats.inc("failure");
            stats.inc("network_failure");
        }
    }
    drop(stats);
    if changed {
        health.touch();
        health.count_healthy();
    }
    if matches!(found, Found::Healthy | Found::Degraded) && state.flags().contains(HealthFlags::FAILED_OUTLIER_CHECK) {
        health.uneject_healthy(address, state);
    }
}
