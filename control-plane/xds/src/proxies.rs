//! The state of every proxy: what it took, what it rejected and why, what it still owes an answer to. Kept for a while
//! after it has gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::node::NodeInfo;
use crate::resource::{Limitation, NodeSnapshot, ResourceType};
use crate::stream::{StreamState, TypeState, Variant};
use crate::timestamp;

/// An answer that is overdue for so long makes a type stale.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// How many proxies that have gone are remembered, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Since the disconnect.
    pub age: Duration,
    /// The oldest go first.
    pub count: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(600), count: 1000 }
    }
}

/// Where a proxy stands with a resource type, or as a whole: the worst of its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncState {
    /// It has everything.
    Acked,
    /// An answer is on its way.
    Pending,
    /// An answer is overdue.
    Stale,
    /// It rejected something.
    Nacked,
    /// It has gone.
    Disconnected,
}

/// One proxy (one stream), for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// `node.id`.
    pub node: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.metadata.role`.
    pub role: String,
    /// `node.user_agent_name` and its version.
    pub client: String,
    /// What it is served: `Gateway NAMESPACE/NAME`, `services`, `nothing`.
    pub serves: String,
    /// Why it is served nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// `delta` or `state-of-the-world`.
    pub protocol: String,
    /// The worst of its types.
    pub state: SyncState,
    /// For how long it has been in this state.
    pub state_seconds: f64,
    /// RFC 3339.
    pub connected_at: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disconnected_at: Option<String>,
    /// By type.
    pub types: Vec<TypeStatus>,
    /// The filters of its snapshot.
    pub filters: Vec<FilterState>,
    /// What it cannot do of what was asked for.
    pub limitations: Vec<LimitationStatus>,
}

/// One resource type of a proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TypeStatus {
    /// `CDS`, `LDS` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it stands.
    pub state: SyncState,
    /// For how long: since the response that waits was sent, or since the rejection.
    pub state_seconds: f64,
    /// How many resources it has.
    pub resources: usize,
    /// The version of all that it took last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// From the last push to its ACK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_push_seconds: Option<f64>,
    /// What it rejected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<RejectionStatus>,
}

/// A rejected resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RejectionStatus {
    /// Its name.
    pub name: String,
    /// The version that was rejected.
    pub version: String,
    /// What the proxy says.
    pub reason: String,
    /// For how long.
    pub seconds: f64,
}

/// One filter of a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterState {
    /// `NAMESPACE/FILTER`.
    pub name: String,
    /// Whether it took the current configuration.
    pub state: SyncState,
    /// The module that it should run.
    pub module: String,
    /// The module that it runs, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// Why it rejected the current configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which try of a new revision the configuration brings, `ID@PERCENT`; empty: none. Absent for clients that have no
    /// tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
}

/// Something that this kind of client cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitationStatus {
    /// `NAMESPACE/FILTER`.
    pub resource: String,
    /// The field of the user's object.
    pub field: String,
    /// What happens instead.
    pub message: String,
}

impl From<&Limitation> for LimitationStatus {
    fn from(limitation: &Limitation) -> Self {
        let Limitation { resource, field, message } = limitation.clone();
        Self { resource, field, message }
    }
}

/// Every proxy, connected or remembered.
#[derive(Debug, Default)]
pub struct Proxies {
    retention: Retention,
    records: Mutex<BTreeMap<u64, Record>>,
}

#[derive(Debug)]
struct Record {
    node: NodeInfo,
    address: Option<SocketAddr>,
    variant: Variant,
    connected: (SystemTime, Instant),
    disconnected: Option<(SystemTime, Instant)>,
    types: Vec<TypeState>,
    filters: Vec<FilterState>,
    limitations: Vec<LimitationStatus>,
    /// Modules by filter that the proxy took last.
    running: BTreeMap<Arc<str>, Arc<str>>,
}

impl Proxies {
    /// Nobody yet.
    pub fn new(retention: Retention) -> Self {
        Self { retention, records: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream came; what is remembered of the same node goes.
    pub(crate) fn connected(&self, stream: u64, node: &NodeInfo, address: Option<SocketAddr>, variant: Variant) {
        let mut records = self.lock();
        records.retain(|_, record| record.disconnected.is_none() || record.node.id != node.id);
        let record = Record {
            node: node.clone(),
            address,
            variant,
            connected: (SystemTime::now(), Instant::now()),
            disconnected: None,
            types: Vec::new(),
            filters: Vec::new(),
            limitations: Vec::new(),
            running: BTreeMap::new(),
        };
        records.insert(stream, record);
    }

    /// The state of a stream changed.
    pub(crate) fn update(&self, stream: u64, state: &StreamState, snapshot: Option<&NodeSnapshot>) {
        let mut records = self.lock();
        let Some(record) = records.get_mut(&stream) else { return };
        record.types = state.types();
        if let Some(snapshot) = snapshot {
            record.limitations = snapshot.limitations.iter().map(Into::into).collect();
            record.filters = filters(state, snapshot, &record.types, &mut record.running);
        }
    }

    /// A stream ended.
    pub(crate) fn disconnected(&self, stream: u64) {
        let mut records = self.lock();
        if let Some(record) = records.get_mut(&stream) {
            record.disconnected = Some((SystemTime::now(), Instant::now()));
        }
        self.forget(&mut records, Instant::now());
    }

    fn forget(&self, records: &mut BTreeMap<u64, Record>, now: Instant) {
        let age = self.retention.age;
        records.retain(|_, record| record.disconnected.is_none_or(|(_, at)| now.duration_since(at) < age));
        let mut gone: Vec<_> =
            records.iter().filter_map(|(stream, record)| Some((record.disconnected?.1, *stream))).collect();
        gone.sort_unstable();
        let surplus = gone.len().saturating_sub(self.retention.count);
        for (_, stream) in gone.into_iter().take(surplus) {
            records.remove(&stream);
        }
    }

    /// Everything that is known, by node.
    pub fn list(&self) -> Vec<ProxyStatus> {
        let now = Instant::now();
        let mut records = self.lock();
        self.forget(&mut records, now);
        let mut list: Vec<_> = records.values().map(|record| record.status(now)).collect();
        list.sort_by(|a, b| a.node.cmp(&b.node).then_with(|| a.connected_at.cmp(&b.connected_at)));
        list
    }
}

fn filters(
    state: &StreamState,
    snapshot: &NodeSnapshot,
    types: &[TypeState],
    running: &mut BTreeMap<Arc<str>, Arc<str>>,
) -> Vec<FilterState> {
    let wanted = snapshot.resources(ResourceType::ExtensionConfig);
    running.retain(|name, _| wanted.contains_key(name));
    let rejections = types.iter().find(|of| of.kind == ResourceType::ExtensionConfig).map(|of| &of.nacked);
    let nack_of = |name: &Arc<str>| rejections?.iter().find(|(rejected, _)| rejected == name).map(|(_, nack)| nack);
    let mut filters = Vec::new();
    for resource in wanted.values() {
        let module = resource.module.clone().unwrap_or_else(|| "".into());
        let nack = nack_of(&resource.name).filter(|nack| nack.version == resource.version);
        let state = if nack.is_some() {
            SyncState::Nacked
        } else if state.confirmed(resource) {
            running.insert(Arc::clone(&resource.name), Arc::clone(&module));
            SyncState::Acked
        } else {
            SyncState::Pending
        };
        filters.push(FilterState {
            name: resource.name.to_string(),
            state,
            module: module.to_string(),
            running: running.get(&resource.name).map(ToString::to_string),
            reason: nack.map(|nack| nack.reason.to_string()),
            stage: resource.stage.as_ref().map(ToString::to_string),
        });
    }
    filters
}

impl Record {
    fn status(&self, now: Instant) -> ProxyStatus {
        let types: Vec<_> = self.types.iter().map(|state| type_status(state, self.connected.1, now)).collect();
        let worst = types.iter().max_by_key(|status| status.state);
        let (state, state_seconds) = match (self.disconnected, worst) {
            (Some((_, at)), _) => (SyncState::Disconnected, seconds(now, at)),
            (None, Some(worst)) => (worst.state, worst.state_seconds),
            (None, None) => (SyncState::Pending, seconds(now, self.connected.1)),
        };
        let NodeInfo { id, cluster, role, user_agent, version, key, problem } = self.node.clone();
        ProxyStatus {
            node: id,
            cluster,
            role,
            client: format!("{user_agent} {version}").trim().to_owned(),
            serves: key.scope.to_string(),
            problem,
            address: self.address,
            protocol: match self.variant {
                Variant::Delta => "delta".to_owned(),
                Variant::StateOfTheWorld => "state-of-the-world".to_owned(),
            },
            state,
            state_seconds,
            connected_at: timestamp::rfc3339(self.connected.0),
            disconnected_at: self.disconnected.map(|(at, _)| timestamp::rfc3339(at)),
            types,
            filters: self.filters.clone(),
            limitations: self.limitations.clone(),
        }
    }
}

fn seconds(now: Instant, since: Instant) -> f64 {
    // Milliseconds are enough for people, and keep the page short.
    (now.duration_since(since).as_millis() as f64) / 1000.0
}

fn type_status(state: &TypeState, connected: Instant, now: Instant) -> TypeStatus {
    let rejected = state.nacked.iter().map(|(_, nack)| nack.since).min();
    let (sync, since) = match (rejected, state.pending_since) {
        (Some(since), _) => (SyncState::Nacked, since),
        (None, Some(since)) if now.duration_since(since) >= STALE_AFTER => (SyncState::Stale, since),
        (None, Some(since)) => (SyncState::Pending, since),
        (None, None) => (SyncState::Acked, state.answered_at.unwrap_or(connected)),
    };
    let rejections = state.nacked.iter().map(|(name, nack)| RejectionStatus {
        name: name.to_string(),
        version: nack.version.to_string(),
        reason: nack.reason.to_string(),
        seconds: seconds(now, nack.since),
    });
    TypeStatus {
        kind: state.kind.to_string(),
        state: sync,
        state_seconds: seconds(now, since),
        resources: state.held,
        version: state.acked.as_ref().map(ToString::to_string),
        last_push_seconds: state.push_duration.map(|duration| duration.as_secs_f64()),
        rejections: rejections.collect(),
    }
}
