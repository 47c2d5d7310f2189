//! What a proxy gets: resources with content-hash versions, and the snapshot of one node.
//!
//! A resource is encoded once and shared by every snapshot and every stream that holds it. Its version is the hash of
//! its bytes, so that a restart of the control plane, or another replica, gives the same version to the same content.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

/// The resource types that this server has, in the order in which changes are pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// ECDS: filters, before the listeners that name them.
    ExtensionConfig,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl ResourceType {
    /// Every type, in push order.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Endpoints, Self::ExtensionConfig, Self::Listener, Self::Route];

    /// The type URL that clients use.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::ExtensionConfig => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type of a URL that a client sent; `None` for one that this server does not have.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The short word that people know: `CDS`, `EDS` and so on.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoints => "EDS",
            Self::ExtensionConfig => "ECDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
        }
    }

    /// The message's name without its package, as rejections write it.
    pub fn message(self) -> &'static str {
        self.type_url().rsplit('.').next().unwrap_or_default()
    }

    /// A first request without names means everything (the legacy wildcard). Only these two types have it: for the
    /// others a client that names nothing wants nothing.
    pub(crate) fn has_legacy_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// State of the world: a response lists everything, and what is absent is deleted.
    pub(crate) fn is_full_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl Serialize for ResourceType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.short())
    }
}

/// A content hash, as it goes over the wire: 32 hex digits of a SHA-256.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// The version of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_digest(&Sha256::digest(bytes))
    }

    /// The version of a list of named versions, in the order given.
    pub(crate) fn of_all<'a>(parts: impl Iterator<Item = (&'a str, &'a Version)>) -> Self {
        let mut hash = Sha256::new();
        for (name, version) in parts {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update(version.0.as_bytes());
        }
        Self::from_digest(&hash.finalize())
    }

    fn from_digest(digest: &[u8]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(32);
        for byte in digest.iter().take(16) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text.into())
    }

    /// What a client says that it holds; any text.
    pub(crate) fn claimed(text: &str) -> Self {
        Self(text.into())
    }

    /// The text on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// One resource, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its type.
    pub kind: ResourceType,
    /// Its name, unique within the type.
    pub name: Arc<str>,
    /// The hash of `body`.
    pub version: Version,
    /// The encoded message.
    pub body: Bytes,
    /// For a filter: the SHA-256 of its module in hex. Status pages count proxies by it.
    pub module: Option<Arc<str>>,
    /// For a filter of a client that can try new revisions: which try at which share; empty: none.
    pub stage: Option<Arc<str>>,
}

impl Resource {
    /// A resource from its encoded message.
    pub fn new(kind: ResourceType, name: &str, body: Vec<u8>) -> Self {
        Self { kind, name: name.into(), version: Version::of(&body), body: body.into(), module: None, stage: None }
    }

    /// The same, with the module that it runs.
    #[must_use]
    pub fn with_module(mut self, sha256: &str) -> Self {
        self.module = Some(sha256.into());
        self
    }

    /// The same, with the try that it brings.
    #[must_use]
    pub fn with_stage(mut self, stage: &str) -> Self {
        self.stage = Some(stage.into());
        self
    }
}

/// Resources of one type by name.
pub type Resources = BTreeMap<Arc<str>, Arc<Resource>>;

/// Everything that one node gets, consistent in itself: every cluster of type EDS has its endpoints, every route
/// configuration that a listener names is there, and so is every filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSnapshot {
    types: [Arc<Resources>; 5],
    /// What this client cannot express of what the user asked for, by `NAMESPACE/FILTER`.
    pub limitations: Vec<Limitation>,
}

/// Something that the user asked for and that a kind of client cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limitation {
    /// Resource name, `NAMESPACE/NAME`.
    pub resource: String,
    /// The field of the user's object.
    pub field: String,
    /// What happens instead.
    pub message: String,
}

impl NodeSnapshot {
    /// The resources of one type.
    pub fn resources(&self, kind: ResourceType) -> &Arc<Resources> {
        &self.types[kind.index()]
    }

    /// Adds a resource; a second one of the same name replaces the first.
    pub fn insert(&mut self, resource: Arc<Resource>) {
        let resources = Arc::make_mut(&mut self.types[resource.kind.index()]);
        resources.insert(Arc::clone(&resource.name), resource);
    }

    /// Shares with an earlier snapshot of the same node the types that did not change, so that streams can tell at a
    /// glance.
    pub fn share_with(&mut self, previous: &Self) {
        for (mine, theirs) in self.types.iter_mut().zip(&previous.types) {
            if mine == theirs {
                *mine = Arc::clone(theirs);
            }
        }
    }

    /// How many resources of all types.
    pub fn len(&self) -> usize {
        self.types.iter().map(|resources| resources.len()).sum()
    }

    /// No resource at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Shares equal resources between snapshots: a cluster that a hundred gateways use is in memory once.
#[derive(Debug, Default)]
pub struct Interner {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_content: HashMap<(ResourceType, Arc<str>, Version), Weak<Resource>>,
    /// Dead entries are swept when the table has doubled since the last sweep.
    sweep_at: usize,
}

impl Interner {
    /// The shared copy of this resource.
    pub fn intern(&self, resource: Resource) -> Arc<Resource> {
        // A poisoned lock only means that another thread panicked between two complete entries.
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (resource.kind, Arc::clone(&resource.name), resource.version.clone());
        if let Some(found) = known.by_content.get(&key).and_then(Weak::upgrade)
            && (&found.module, &found.stage) == (&resource.module, &resource.stage)
        {
            return found;
        }
        if known.by_content.len() >= known.sweep_at {
            known.by_content.retain(|_, weak| weak.strong_count() > 0);
            known.sweep_at = (known.by_content.len() * 2).max(1024);
        }
        let shared = Arc::new(resource);
        known.by_content.insert(key, Arc::downgrade(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_content_hashes() {
        let one = Resource::new(ResourceType::Cluster, "a", b"x".to_vec());
        let two = Resource::new(ResourceType::Cluster, "b", b"x".to_vec());
        assert_eq!(one.version, two.version);
        assert_eq!(one.version.as_str(), "2d711642b726b04401627ca9fbac32f5");
        let pairs = |names: &[&str]| {
            let version = Version::of(b"x");
            Version::of_all(names.iter().map(|name| (*name, &version)))
        };
        assert_ne!(pairs(&["ab", "c"]), pairs(&["a", "bc"]));
    }

    #[test]
    fn types_are_found_by_url_and_stay_in_push_order() {
        for kind in ResourceType::ALL {
            assert_eq!(ResourceType::from_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(ResourceType::from_type_url("type.googleapis.com/x"), None);
        let shorts: Vec<_> = ResourceType::ALL.into_iter().map(ResourceType::short).collect();
        assert_eq!(shorts, ["CDS", "EDS", "ECDS", "LDS", "RDS"]);
        assert_eq!(ResourceType::Endpoints.message(), "ClusterLoadAssignment");
    }

    #[test]
    fn equal_resources_are_shared_and_dead_ones_are_swept() {
        let interner = Interner::default();
        let one = interner.intern(Resource::new(ResourceType::Cluster, "a", b"x".to_vec()));
        let two = interner.intern(Resource::new(ResourceType::Cluster, "a", b"x".to_vec()));
        assert!(Arc::ptr_eq(&one, &two));
        for number in 0_u32..5000 {
            interner.intern(Resource::new(ResourceType::Cluster, "a", number.to_le_bytes().to_vec()));
        }
        assert!(interner.known.lock().unwrap().by_content.len() <= 1025);
    }
}
