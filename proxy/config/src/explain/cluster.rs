//! Which cluster a request or a connection goes to, and which endpoints it has.

use std::sync::Arc;

use super::{Candidate, Question, Stage, source_of, text};
use crate::{ClusterEntry, ClusterSpec, Health, RouteForward, Snapshot, TcpProxy};

pub(super) fn forward(
    snapshot: &Snapshot,
    forward: &RouteForward,
    question: &Question,
    stages: &mut Vec<Stage>,
) -> String {
    let (name, candidates) = match &forward.cluster {
        ClusterSpec::Single(name) => (Some(name.clone()), vec![(name.clone(), "the only one".to_owned())]),
        ClusterSpec::Header(header) => {
            let value = question.head.headers.get(header).map(|value| Arc::<str>::from(text::of(value)));
            let told = value.iter().map(|name| (name.clone(), format!("named by header {header}"))).collect();
            (value, told)
        }
        ClusterSpec::Weighted { clusters, total } => {
            let weights: Vec<(Arc<str>, u32)> = clusters.iter().map(|c| (c.name.clone(), c.weight)).collect();
            weighted(&weights, *total, question.random)
        }
    };
    choose(snapshot, name.as_ref(), candidates, stages)
        .unwrap_or_else(|| format!("{}: the cluster doesn't exist", forward.cluster_not_found_status))
}

pub(super) fn tcp(snapshot: &Snapshot, proxy: &TcpProxy, random: u64, stages: &mut Vec<Stage>) -> String {
    let weights: Vec<(Arc<str>, u32)> = proxy.clusters.iter().map(|c| (c.name.clone(), c.weight)).collect();
    let (name, candidates) = weighted(&weights, proxy.total_weight, random);
    choose(snapshot, name.as_ref(), candidates, stages)
        .unwrap_or_else(|| "the cluster doesn't exist: the connection is closed".to_owned())
}

type Weighted = (Option<Arc<str>>, Vec<(Arc<str>, String)>);

/// The one that a number falls on, and each with its share.
fn weighted(clusters: &[(Arc<str>, u32)], total: u32, random: u64) -> Weighted {
    let total = u64::from(total.max(1));
    let mut at = random % total;
    let mut chosen = None;
    for (name, weight) in clusters {
        match at.checked_sub(u64::from(*weight)) {
            Some(rest) => at = rest,
            None => {
                chosen = Some(name.clone());
                break;
            }
        }
    }
    let told = clusters.iter().map(|(name, weight)| (name.clone(), format!("weight {weight} of {total}")));
    (chosen, told.collect())
}

/// `None`: there is no such cluster.
fn choose(
    snapshot: &Snapshot,
    chosen: Option<&Arc<str>>,
    candidates: Vec<(Arc<str>, String)>,
    stages: &mut Vec<Stage>,
) -> Option<String> {
    let entry = chosen.and_then(|name| snapshot.clusters.get(name));
    let candidates = candidates.into_iter().map(|(name, why)| {
        let entry = snapshot.clusters.get(&name);
        let is_chosen = chosen == Some(&name);
        let candidate = match (is_chosen, entry) {
            (_, None) => Candidate::lost(&*name, format!("{why}; it doesn't exist")),
            (true, Some(_)) => Candidate::won(&*name, why),
            (false, Some(_)) => Candidate::lost(&*name, why),
        };
        candidate.from(entry.map(|entry| source_of(&entry.cluster.origin)).unwrap_or_default())
    });
    stages.push(Stage::of("cluster", candidates.collect()));
    let entry = entry?;
    Some(endpoints(entry, stages))
}

fn endpoints(entry: &ClusterEntry, stages: &mut Vec<Stage>) -> String {
    let name = &entry.cluster.name;
    let Some(assignment) = &entry.assignment else {
        stages.push(Stage::of("endpoint", Vec::new()));
        return format!("503: the endpoints of cluster {name:?} don't exist");
    };
    let source = source_of(&assignment.origin);
    let mut usable = 0_usize;
    let all = assignment.localities.iter().flat_map(|l| l.endpoints.iter().map(move |endpoint| (l.priority, endpoint)));
    let candidates: Vec<Candidate> = all
        .map(|(priority, endpoint)| {
            let told = format!("priority {priority}, weight {}, {:?}", endpoint.weight, endpoint.health);
            let candidate = match endpoint.health {
                Health::Healthy | Health::Degraded => {
                    usable += 1;
                    Candidate::won(endpoint.address.to_string(), format!("may be picked: {told}"))
                }
                Health::Unhealthy | Health::Draining => Candidate::lost(endpoint.address.to_string(), told),
            };
            candidate.from(source.clone())
        })
        .collect();
    let total = candidates.len();
    stages.push(Stage::of("endpoint", candidates));
    if usable == 0 {
        return format!("503: cluster {name:?} has no healthy endpoint among {total}");
    }
    format!("forwarded to cluster {name:?}, to one of {usable} endpoints by {:?}", entry.cluster.lb)
}
