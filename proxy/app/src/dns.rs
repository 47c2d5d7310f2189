//! Clusters that are resolved through DNS: asks again and again, and hands what changed to the pipeline as endpoints.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use outrigger_config::{DnsOptions, DnsResolver, DnsTargets, Needed, Resource, ResourceKind, Source, Update};
use outrigger_dataplane::Resolvers;
use outrigger_stats::{Name, Registry};
use outrigger_xds::ConfigSink;
use rand::Rng;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// Names that are asked for at one time.
const QUERIES_MAX: usize = 64;
/// Answers that wait to be handed over, and that one update may have.
const ANSWERS_MAX: usize = 1024;

/// What all clusters' tasks share.
struct Shared {
    resolvers: Resolvers,
    default: DnsResolver,
    queries: Semaphore,
    registry: Arc<Registry>,
    answers: mpsc::Sender<Answer>,
}

/// A cluster's endpoints; `None`: no name could be resolved yet.
type Answer = (Arc<str>, Option<Resource>);

/// Resolves what the published generation needs, until the sender of `needed` is gone.
pub(crate) async fn run(
    default: Option<DnsResolver>,
    registry: Arc<Registry>,
    sink: &impl ConfigSink,
    mut needed: watch::Receiver<Needed>,
) {
    let (answers, mut answered) = mpsc::channel(ANSWERS_MAX);
    let shared = Rc::new(Shared {
        resolvers: Resolvers::default(),
        default: default.unwrap_or_default(),
        queries: Semaphore::new(QUERIES_MAX),
        registry,
        answers,
    });
    let mut tasks = JoinSet::new();
    let mut running: HashMap<Arc<str>, AbortHandle> = HashMap::new();
    let mut batch = Vec::new();
    loop {
        {
            let needed = needed.borrow_and_update();
            running.retain(|name, task| {
                let kept = needed.dns.contains_key(name);
                if !kept {
                    task.abort();
                }
                kept
            });
            for (name, targets) in &needed.dns {
                if !running.contains_key(name) {
                    let task = tasks.spawn_local(watch_cluster(targets.clone(), shared.clone()));
                    running.insert(name.clone(), task);
                }
            }
        }
        tokio::select! {
            changed = needed.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            _ = answered.recv_many(&mut batch, ANSWERS_MAX) => {
                sink.submit(update(&mut batch, &running)).await;
            }
        }
    }
}

/// One update of all answers; the last one of each cluster counts.
fn update(batch: &mut Vec<Answer>, running: &HashMap<Arc<str>, AbortHandle>) -> Update {
    let mut latest: HashMap<Arc<str>, Option<Resource>> = HashMap::new();
    // What nobody needs any more came too late.
    latest.extend(batch.drain(..).filter(|(name, _)| running.contains_key(name)));
    let (mut upserts, mut missing) = (Vec::new(), Vec::new());
    for (name, resource) in latest {
        match resource {
            Some(resource) => upserts.push((name, resource)),
            None => missing.push(name),
        }
    }
    Update {
        source: Source::Dns,
        kind: ResourceKind::Endpoints,
        upserts,
        removed: Vec::new(),
        missing,
        refused: Vec::new(),
    }
}

/// One name of a cluster.
#[derive(Debug, Default)]
struct Host {
    addresses: Option<Vec<IpAddr>>,
    failures: u32,
    due: Option<Instant>,
}

/// Resolves a cluster's names for ever.
async fn watch_cluster(targets: Arc<DnsTargets>, shared: Rc<Shared>) {
    let config = targets.options.resolver.clone().unwrap_or_else(|| shared.default.clone());
    let names: Vec<Arc<str>> = targets.endpoints().map(|endpoint| endpoint.host.clone()).collect();
    let mut hosts: Vec<Host> = names.iter().map(|_| Host::default()).collect();
    let mut told = None;
    loop {
        let now = Instant::now();
        let due = (0..names.len()).filter(|index| hosts[*index].due.is_none_or(|due| due <= now));
        let mut queries: FuturesUnordered<_> =
            due.map(|index| resolve(index, &names[index], &config, &targets, &shared)).collect();
        while let Some((index, result)) = queries.next().await {
            note(&mut hosts[index], result, &targets, &names[index]);
        }
        drop(queries);
        let known = hosts.iter().any(|host| host.addresses.is_some()) || names.is_empty();
        let addresses: Vec<Vec<IpAddr>> = hosts.iter().map(|host| host.addresses.clone().unwrap_or_default()).collect();
        let answer = known.then_some(addresses);
        if told.as_ref() != Some(&answer) {
            let assignment = answer.as_ref().map(|addresses| targets.assignment(addresses));
            let resource = assignment.map(|assignment| Resource::Endpoints(Arc::new(assignment)));
            if shared.answers.send((targets.name.clone(), resource)).await.is_err() {
                return;
            }
            told = Some(answer);
        }
        match hosts.iter().filter_map(|host| host.due).min() {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

async fn resolve(
    index: usize,
    name: &str,
    config: &DnsResolver,
    targets: &DnsTargets,
    shared: &Shared,
) -> (usize, Result<outrigger_dataplane::Resolved, String>) {
    let Ok(_permit) = shared.queries.acquire().await else { return (index, Err("ended".to_owned())) };
    let result = shared.resolvers.resolve(config, targets.options.family, name).await;
    let count = |what: &str| {
        let name = Name::new("cluster", what).tag("envoy_cluster_name", &*targets.origin.name);
        shared.registry.counter(&name).inc();
    };
    count("update_attempt");
    match &result {
        Ok(found) if found.addresses.is_empty() => count("update_empty"),
        Ok(_) => count("update_success"),
        Err(_) => count("update_failure"),
    }
    (index, result)
}

/// Takes an answer over. A failure leaves what is known.
fn note(host: &mut Host, result: Result<outrigger_dataplane::Resolved, String>, targets: &DnsTargets, name: &str) {
    let options = &targets.options;
    let mut random = rand::rng();
    let wait = match result {
        Ok(found) => {
            host.failures = 0;
            host.addresses = Some(ordered(found.addresses, host.addresses.as_deref(), targets.logical));
            let jitter = options.jitter.mul_f64(random.random());
            next(options, found.ttl).checked_add(jitter)
        }
        Err(error) => {
            host.failures = host.failures.saturating_add(1);
            tracing::warn!(cluster = %targets.origin.name, "cannot resolve {name}: {error}");
            Some(after_failure(options, host.failures, random.random()))
        }
    };
    host.due = wait.and_then(|wait| Instant::now().checked_add(wait));
}

/// Servers turn their answers round. The endpoints of a cluster stay the same through that, and so does the address that
/// a logical endpoint's connections go to.
fn ordered(mut found: Vec<IpAddr>, before: Option<&[IpAddr]>, logical: bool) -> Vec<IpAddr> {
    match before {
        Some([first, ..]) if logical => {
            if let Some(at) = found.iter().position(|address| address == first) {
                found[..=at].rotate_right(1);
            }
        }
        _ if logical => {}
        _ => found.sort_unstable(),
    }
    found
}

/// When to ask again.
fn next(options: &DnsOptions, ttl: Duration) -> Duration {
    let wait = if options.respect_ttl && !ttl.is_zero() { ttl } else { options.refresh };
    wait.max(options.refresh_min)
}

/// The same after so many failures in a row: from the base up to the maximum, twice as long each time, at random.
fn after_failure(options: &DnsOptions, failures: u32, random: f64) -> Duration {
    match options.failure_refresh {
        None => options.refresh,
        Some((base, max)) => {
            let most = base.saturating_mul(1 << failures.min(20)).min(max);
            base.max(most.mul_f64(random))
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_config::DnsFamily;

    use super::*;

    fn options() -> DnsOptions {
        DnsOptions {
            refresh: Duration::from_secs(5),
            refresh_min: Duration::from_secs(2),
            jitter: Duration::ZERO,
            failure_refresh: Some((Duration::from_secs(1), Duration::from_secs(10))),
            respect_ttl: false,
            family: DnsFamily::Auto,
            resolver: None,
        }
    }

    #[test]
    fn times() {
        let seconds = Duration::from_secs;
        let ttl = DnsOptions { respect_ttl: true, ..options() };
        for (options, found, expected) in [
            (options(), seconds(300), seconds(5)),
            (ttl.clone(), seconds(300), seconds(300)),
            (ttl.clone(), seconds(1), seconds(2)),
            (ttl, Duration::ZERO, seconds(5)),
        ] {
            assert_eq!(next(&options, found), expected, "{options:?}");
        }
        assert_eq!(after_failure(&options(), 1, 0.0), seconds(1));
        assert_eq!(after_failure(&options(), 1, 1.0), seconds(2));
        assert_eq!(after_failure(&options(), 9, 1.0), seconds(10));
        assert_eq!(after_failure(&DnsOptions { failure_refresh: None, ..options() }, 9, 1.0), seconds(5));
    }

    #[test]
    fn answers_that_turn_round_change_nothing() {
        let of = |list: &[u8]| list.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect::<Vec<_>>();
        assert_eq!(ordered(of(&[3, 1, 2]), Some(&of(&[1, 2, 3])), false), of(&[1, 2, 3]));
        assert_eq!(ordered(of(&[3, 1, 2]), Some(&of(&[1, 2, 3])), true), of(&[1, 3, 2]));
        assert_eq!(ordered(of(&[3, 2]), Some(&of(&[1, 2, 3])), true), of(&[3, 2]));
        assert_eq!(ordered(of(&[3, 2]), None, true), of(&[3, 2]));
    }
}
