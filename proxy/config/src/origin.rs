//! Where a piece of configuration came from.

use std::sync::Arc;

/// How a resource reached the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// `static_resources` of the bootstrap.
    Static,
    /// A file watched by `path_config_source`.
    File(Arc<str>),
    /// An ADS stream.
    Ads,
    /// Answers of name servers.
    Dns,
    /// A gRPC stream of its own.
    Stream(Arc<StreamSource>),
}

/// `api_config_source`: a stream to a static cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamSource {
    pub cluster: Arc<str>,
    /// `envoy_grpc.authority`, or the cluster's name.
    pub authority: String,
    /// `DELTA_GRPC`, else the state of the world.
    pub is_delta: bool,
    /// Sent with each stream.
    pub initial_metadata: Vec<(String, String)>,
}

/// A resource's source, and the object that the control plane made it from (what it wrote to
/// `metadata.filter_metadata["outrigger.dev"]`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    pub source: Source,
    /// The resource's name in xDS.
    pub name: Arc<str>,
    /// `version_info`, or the delta resource's version; empty for static resources.
    pub version: Arc<str>,
    /// Such as `HTTPRoute shop/api (api.yaml:12)`; empty where the control plane says nothing.
    pub object: Arc<str>,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Static => f.write_str("static_resources"),
            Source::File(path) => write!(f, "the file {path}"),
            Source::Ads => f.write_str("ADS"),
            Source::Stream(stream) => write!(f, "a stream to {}", stream.cluster),
            Source::Dns => f.write_str("DNS"),
        }
    }
}
