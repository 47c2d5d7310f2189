//! The status of what users wrote: what follows from the objects alone (the index knows that), and what the proxies say.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_model::{Condition, ConditionKind, Kind, MeshIndex, ObjectId, ObjectStatus};
use outrigger_xds_server::{LimitationStatus, ProxyStatus, SyncState};
use serde::{Deserialize, Serialize};

use crate::rollout::ShownRollout;

/// One object, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ResourceStatus {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) conditions: Vec<ConditionStatus>,
    /// Filters: what runs where.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) revisions: Vec<Revision>,
    /// Filters with a rollout or a shadow: how far the new revision has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rollout: Option<ShownRollout>,
    /// Filters and gateways: who rejected it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rejections: Vec<Rejection>,
    /// What connected proxies of some kind cannot do of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) limitations: Vec<LimitationStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConditionStatus {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
}

/// A module, and how many of the connected proxies run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revision {
    pub(crate) sha256: String,
    pub(crate) percent: u32,
    pub(crate) proxies: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejection {
    pub(crate) proxy: String,
    /// The module that was to run; for a gateway the resource's version.
    pub(crate) revision: String,
    pub(crate) reason: String,
}

/// What proxies say of one object.
#[derive(Debug, Default)]
struct Reports {
    acked: usize,
    pending: usize,
    rejections: Vec<Rejection>,
    running: BTreeMap<String, usize>,
    limitations: Vec<LimitationStatus>,
}

/// Every object that has a status.
pub(crate) fn resources(
    index: &MeshIndex,
    proxies: &[ProxyStatus],
    rollout: impl Fn(&ObjectId) -> Option<ShownRollout>,
) -> Vec<ResourceStatus> {
    let connected: Vec<_> = proxies.iter().filter(|proxy| proxy.state != SyncState::Disconnected).collect();
    let with_rollout = |status: &Arc<ObjectStatus>| {
        let source = &status.source;
        let id = ObjectId::new(Arc::clone(&source.namespace), Arc::clone(&source.name));
        let rollout = if source.kind == Kind::WasmFilter { rollout(&id) } else { None };
        ResourceStatus { rollout, ..resource(status, &connected) }
    };
    index.statuses().map(with_rollout).collect()
}

fn resource(status: &ObjectStatus, proxies: &[&ProxyStatus]) -> ResourceStatus {
    let source = &status.source;
    let name = format!("{}/{}", source.namespace, source.name);
    let mut conditions: Vec<_> = status.conditions.iter().map(condition).collect();
    let reports = match source.kind {
        Kind::WasmFilter => Some(filter_reports(&name, proxies)),
        Kind::Gateway => Some(gateway_reports(&name, proxies)),
        _ => None,
    };
    let reports = reports.inspect(|reports| {
        let accepted = status.conditions.iter().all(|found| found.kind != ConditionKind::Accepted || found.status);
        conditions.retain(|found| found.kind != ConditionKind::Programmed.as_str() || !found.status);
        if !conditions.iter().any(|found| found.kind == ConditionKind::Programmed.as_str()) {
            conditions.push(programmed(reports, accepted));
        }
    });
    let Reports { rejections, running, mut limitations, .. } = reports.unwrap_or_default();
    limitations.sort_by(|a, b| (&a.field, &a.message).cmp(&(&b.field, &b.message)));
    limitations.dedup();
    ResourceStatus {
        kind: source.kind.to_string(),
        namespace: source.namespace.to_string(),
        name: source.name.to_string(),
        file: source.file.to_string(),
        line: source.line,
        conditions,
        revisions: revisions(&running),
        rollout: None,
        rejections,
        limitations,
    }
}

fn condition(condition: &Condition) -> ConditionStatus {
    ConditionStatus {
        kind: condition.kind.as_str().to_owned(),
        status: condition.status,
        reason: condition.reason.to_owned(),
        message: condition.message.clone(),
        parent: condition.parent.clone(),
    }
}

fn programmed(reports: &Reports, accepted: bool) -> ConditionStatus {
    let total = reports.acked + reports.pending + reports.rejections.len();
    let of = |count: usize| format!("{count} of {total} proxies");
    let (status, reason, message) = if !accepted {
        (false, "Invalid", "it is not accepted".to_owned())
    } else if !reports.rejections.is_empty() {
        (false, "Rejected", format!("{} rejected it", of(reports.rejections.len())))
    } else if reports.pending > 0 {
        (false, "Pending", format!("{} have yet to take it", of(reports.pending)))
    } else if reports.acked == 0 {
        (false, "NoProxies", "no connected proxy gets it".to_owned())
    } else {
        (true, "Programmed", of(reports.acked))
    };
    let kind = ConditionKind::Programmed.as_str().to_owned();
    ConditionStatus { kind, status, reason: reason.to_owned(), message, parent: None }
}

fn filter_reports(name: &str, proxies: &[&ProxyStatus]) -> Reports {
    let mut reports = Reports::default();
    for proxy in proxies {
        let Some(filter) = proxy.filters.iter().find(|filter| filter.name == name) else { continue };
        match filter.state {
            SyncState::Acked => reports.acked += 1,
            SyncState::Nacked => reports.rejections.push(Rejection {
                proxy: proxy.node.clone(),
                revision: filter.module.clone(),
                reason: filter.reason.clone().unwrap_or_default(),
            }),
            SyncState::Pending | SyncState::Stale | SyncState::Disconnected => reports.pending += 1,
        }
        if let Some(running) = &filter.running {
            *reports.running.entry(running.clone()).or_default() += 1;
        }
        reports.limitations.extend(proxy.limitations.iter().filter(|found| found.resource == name).cloned());
    }
    reports
}

/// A gateway is programmed where all that its proxies get was taken.
fn gateway_reports(name: &str, proxies: &[&ProxyStatus]) -> Reports {
    let mut reports = Reports::default();
    let serves = format!("Gateway {name}");
    for proxy in proxies.iter().filter(|proxy| proxy.serves == serves) {
        let rejected = proxy.types.iter().flat_map(|kind| &kind.rejections);
        let before = reports.rejections.len();
        reports.rejections.extend(rejected.take(1).map(|found| Rejection {
            proxy: proxy.node.clone(),
            revision: found.version.clone(),
            reason: format!("{}: {}", found.name, found.reason),
        }));
        if reports.rejections.len() == before {
            match proxy.state {
                SyncState::Acked => reports.acked += 1,
                _ => reports.pending += 1,
            }
        }
    }
    reports
}

fn revisions(running: &BTreeMap<String, usize>) -> Vec<Revision> {
    let total: usize = running.values().sum();
    let percent = |count: usize| u32::try_from((count * 100 + total / 2) / total.max(1)).unwrap_or(100);
    running
        .iter()
        .map(|(sha256, count)| Revision { sha256: sha256.clone(), percent: percent(*count), proxies: *count })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(acked: usize, pending: usize, rejected: usize) -> Reports {
        let rejection = Rejection { proxy: "p".into(), revision: "r".into(), reason: "no".into() };
        Reports { acked, pending, rejections: vec![rejection; rejected], ..Reports::default() }
    }

    #[test]
    fn a_filter_is_programmed_when_everybody_took_it() {
        let check = |counts: (usize, usize, usize), accepted: bool, expected: (bool, &str)| {
            let found = programmed(&reports(counts.0, counts.1, counts.2), accepted);
            assert_eq!((found.status, found.reason.as_str()), expected, "{counts:?}");
        };
        check((2, 0, 0), true, (true, "Programmed"));
        check((2, 1, 0), true, (false, "Pending"));
        check((2, 1, 1), true, (false, "Rejected"));
        check((0, 0, 0), true, (false, "NoProxies"));
        check((2, 0, 0), false, (false, "Invalid"));
    }

    #[test]
    fn revisions_are_shares() {
        let running = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
        let shares: Vec<_> = revisions(&running).iter().map(|revision| (revision.percent, revision.proxies)).collect();
        assert_eq!(shares, [(33, 1), (67, 2)]);
        assert!(revisions(&BTreeMap::new()).is_empty());
    }
}
