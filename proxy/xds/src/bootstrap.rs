//! The file that a proxy starts from (`envoy.config.bootstrap.v3.Bootstrap`).

mod overload;
mod runtime;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{
    Cluster, DnsResolver, Listener, OverloadManager, Resource, ResourceKind, Secret, Source, StreamSource, Update,
};
use outrigger_proto::audit::{self, audit};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::bootstrap::v3 as bootstrap;
use pb::envoy::config::core::v3 as core;
use prost::Message;

use crate::decode::{
    XdsResource, config_source, duration, judge, resolution_config, socket_address, stream_source, typed_resolver,
};
use crate::files::FileSource;
use crate::{Diagnostics, Problem};

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct BootstrapOptions {
    /// `--service-node`: wins over `node.id`.
    pub service_node: Option<String>,
    /// `--service-cluster`: wins over `node.cluster`.
    pub service_cluster: Option<String>,
    /// Told to the control plane as `user_agent_version`.
    pub version: String,
    /// `--allow-unknown-static-fields`: fields of no API that we know are told and left out.
    pub allow_unknown_fields: bool,
}

/// What a bootstrap says, validated.
#[derive(Debug)]
pub struct Bootstrap {
    /// As it is told to the control plane.
    pub node: core::Node,
    pub admin: Option<Admin>,
    /// To be submitted first: secrets, clusters, then listeners.
    pub static_resources: Vec<Update>,
    pub ads: Option<AdsServer>,
    pub cds: Option<ResourceSource>,
    pub lds: Option<ResourceSource>,
    /// What is shed when memory or connections run short; our own default where the bootstrap names none.
    pub overload: OverloadManager,
    /// `stats_eviction_interval`: metrics that nobody wrote to for that long are forgotten.
    pub stats_eviction_interval: Option<Duration>,
    /// `cluster_manager.local_cluster_name`: one of the static clusters.
    pub local_cluster: Option<Arc<str>>,
    /// `enable_dispatcher_stats`.
    pub dispatcher_stats: bool,
    /// The resolver of clusters that name none; `None`: the system's.
    pub dns_resolver: Option<DnsResolver>,
    /// Fields that are set and without effect.
    pub warnings: Vec<Problem>,
    /// Folders to watch, by file: for [`Status`](crate::Status).
    pub(crate) watched: Vec<(Arc<str>, Arc<str>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub address: SocketAddr,
}

/// `dynamic_resources.ads_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdsServer {
    pub variant: ApiVariant,
    /// A static cluster.
    pub cluster: Arc<str>,
    /// `envoy_grpc.authority`, or the cluster's name.
    pub authority: String,
    /// Sent with each stream.
    pub initial_metadata: Vec<(String, String)>,
}

/// Which of the two protocols an ADS stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiVariant {
    /// `api_type: DELTA_GRPC`.
    Delta,
    /// `api_type: GRPC`.
    StateOfTheWorld,
}

/// `cds_config` and `lds_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceSource {
    Ads,
    File(FileSource),
}

impl Bootstrap {
    /// What the static resources, `cds_config` and `lds_config` want to be watched, for
    /// [`run_files`](crate::run_files).
    #[must_use]
    pub fn files(&self) -> Vec<FileSource> {
        let sources = [&self.cds, &self.lds].into_iter().flatten();
        sources
            .filter_map(|source| match source {
                ResourceSource::File(file) => Some(file.clone()),
                ResourceSource::Ads => None,
            })
            .collect()
    }
}

/// Decodes and validates a bootstrap in its binary form; every problem with its field path.
pub fn decode_bootstrap(bytes: &[u8], options: &BootstrapOptions) -> Result<Bootstrap, Vec<Problem>> {
    let proto = bootstrap::Bootstrap::decode(bytes)
        .map_err(|error| vec![Problem { path: String::new(), message: format!("malformed message: {error}") }])?;
    let mut diagnostics = Diagnostics::new(Source::Static, Arc::from(""));
    let mut findings = audit(type_url::message_name(type_url::BOOTSTRAP), bytes);
    let decoded = decode(proto, options, &mut diagnostics);
    if options.allow_unknown_fields {
        findings.retain(|finding| match finding.problem {
            audit::Problem::UnknownField(number) => {
                diagnostics.warn_at(&finding.path, format!("unknown field {number}, left out"));
                false
            }
            _ => true,
        });
    }
    judge(findings, &mut diagnostics);
    let (errors, warnings, watched) = diagnostics.take();
    if errors.is_empty() { Ok(Bootstrap { warnings, watched, ..decoded }) } else { Err(errors) }
}

fn decode(proto: bootstrap::Bootstrap, options: &BootstrapOptions, d: &mut Diagnostics) -> Bootstrap {
    let dns_resolver = dns_resolver(&proto, d);
    let node = node(proto.node.unwrap_or_default(), options);
    let admin = proto.admin.as_ref().and_then(|admin| d.at("admin", |d| decode_admin(admin, d)));
    let static_resources =
        d.at("static_resources", |d| static_resources(proto.static_resources.unwrap_or_default(), d));
    let dynamic = proto.dynamic_resources.unwrap_or_default();
    let (ads, cds, lds) = d.at("dynamic_resources", |d| {
        let ads = dynamic
            .ads_config
            .as_ref()
            .and_then(|config| d.at("ads_config", |d| ads_server(config, &static_resources, d)));
        let has_ads = dynamic.ads_config.is_some();
        let cds = dynamic_source(dynamic.cds_config.as_ref(), "cds_config", ResourceKind::Cluster, has_ads, d);
        let lds = dynamic_source(dynamic.lds_config.as_ref(), "lds_config", ResourceKind::Listener, has_ads, d);
        (ads, cds, lds)
    });
    if dynamic.ads_config.is_some() && node.id.is_empty() {
        d.at("node", |d| d.at("id", |d| d.error("is required with ads_config (or --service-node)")));
    }
    let local_cluster = proto.cluster_manager.as_ref().and_then(|manager| {
        d.at("cluster_manager", |d| local_cluster(&manager.local_cluster_name, &static_resources, d))
    });
    let stats_eviction_interval = proto.stats_eviction.as_ref().and_then(|eviction| {
        let bootstrap::bootstrap::StatsEviction::StatsEvictionInterval(interval) = eviction;
        duration(Some(interval), "stats_eviction_interval", d).filter(|time| !time.is_zero())
    });
    let overload = proto.overload_manager.as_ref();
    let mut overload = overload
        .map_or_else(OverloadManager::default, |proto| d.at("overload_manager", |d| overload::decode(proto, d)));
    if let Some(runtime) = &proto.layered_runtime {
        d.at("layered_runtime", |d| runtime::decode(runtime, &mut overload, d));
    }
    Bootstrap {
        node,
        admin,
        static_resources,
        ads,
        cds,
        lds,
        dns_resolver,
        overload,
        stats_eviction_interval,
        local_cluster,
        dispatcher_stats: proto.enable_dispatcher_stats,
        warnings: Vec::new(),
        watched: Vec::new(),
    }
}

fn local_cluster(name: &str, resources: &[Update], d: &mut Diagnostics) -> Option<Arc<str>> {
    if name.is_empty() {
        return None;
    }
    let mut upserts = resources.iter().flat_map(|update| &update.upserts);
    if !upserts.any(|(known, resource)| &**known == name && resource.kind() == ResourceKind::Cluster) {
        d.at("local_cluster_name", |d| d.error(format!("there is no static cluster {name}")));
    }
    Some(name.into())
}

/// The resolver of clusters that name none, by the newest field that is set.
#[expect(deprecated, reason = "the older fields are still in use")]
fn dns_resolver(proto: &bootstrap::Bootstrap, d: &mut Diagnostics) -> Option<DnsResolver> {
    if let Some(config) = &proto.typed_dns_resolver_config {
        return typed_resolver(config, d);
    }
    if let Some(config) = &proto.dns_resolution_config {
        return Some(d.at("dns_resolution_config", |d| resolution_config(config, d)));
    }
    proto.use_tcp_for_dns_lookups.then(|| DnsResolver { use_tcp: true, ..DnsResolver::default() })
}

fn node(mut node: core::Node, options: &BootstrapOptions) -> core::Node {
    if let Some(id) = &options.service_node {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &options.service_cluster {
        node.cluster.clone_from(cluster);
    }
    "outrigger".clone_into(&mut node.user_agent_name);
    node.user_agent_version_type = Some(core::node::UserAgentVersionType::UserAgentVersion(options.version.clone()));
    node
}

fn decode_admin(proto: &bootstrap::Admin, d: &mut Diagnostics) -> Option<Admin> {
    proto.address.as_ref()?;
    let (address, _) = d.at("address", |d| socket_address(proto.address.as_ref(), d))?;
    Some(Admin { address })
}

fn static_resources(proto: bootstrap::bootstrap::StaticResources, d: &mut Diagnostics) -> Vec<Update> {
    let secrets = resources::<Secret>(proto.secrets, "secrets", ResourceKind::Secret, d);
    let clusters = resources::<Cluster>(proto.clusters, "clusters", ResourceKind::Cluster, d);
    let listeners = resources::<Listener>(proto.listeners, "listeners", ResourceKind::Listener, d);
    let secrets = Some(secrets).filter(|secrets| !secrets.upserts.is_empty());
    secrets.into_iter().chain([clusters, listeners]).collect()
}

fn resources<R: XdsResource>(
    protos: Vec<R::Proto>,
    field: &'static str,
    kind: ResourceKind,
    d: &mut Diagnostics,
) -> Update {
    let mut found: BTreeMap<Arc<str>, Resource> = BTreeMap::new();
    for (index, proto) in protos.into_iter().enumerate() {
        d.at_index(field, index, |d| {
            let before = d.errors().len();
            match R::validate(proto, d) {
                Ok(resource) => {
                    let resource = resource.into_resource();
                    let name = Arc::clone(resource.name());
                    if found.insert(Arc::clone(&name), resource).is_some() {
                        d.at("name", |d| d.error(format!("{name:?} stands here twice")));
                    }
                }
                Err(_) if d.errors().len() == before => d.error("is not valid"),
                Err(_) => {}
            }
        });
    }
    Update {
        source: Source::Static,
        kind,
        upserts: found.into_iter().collect(),
        removed: Vec::new(),
        missing: Vec::new(),
        refused: Vec::new(),
    }
}

fn ads_server(proto: &core::ApiConfigSource, static_resources: &[Update], d: &mut Diagnostics) -> Option<AdsServer> {
    let stream = stream_source(proto, d)?;
    let known = static_resources.iter().flat_map(|update| &update.upserts);
    let mut known = known.filter(|(_, resource)| resource.kind() == ResourceKind::Cluster);
    if !known.any(|(name, _)| *name == stream.cluster) && !d.has_errors() {
        let text = format!("{:?} is no cluster of static_resources", stream.cluster);
        d.at_index("grpc_services", 0, |d| d.at("envoy_grpc", |d| d.at("cluster_name", |d| d.error(text))));
    }
    let variant = if stream.is_delta { ApiVariant::Delta } else { ApiVariant::StateOfTheWorld };
    let StreamSource { cluster, authority, initial_metadata, .. } = stream;
    Some(AdsServer { variant, cluster, authority, initial_metadata })
}

fn dynamic_source(
    proto: Option<&core::ConfigSource>,
    field: &'static str,
    kind: ResourceKind,
    has_ads: bool,
    d: &mut Diagnostics,
) -> Option<ResourceSource> {
    proto?;
    d.at(field, |d| match config_source(proto, d)?.0 {
        Source::Ads => {
            if !has_ads {
                d.at("ads", |d| d.error("needs dynamic_resources.ads_config"));
            }
            Some(ResourceSource::Ads)
        }
        Source::File(path) => {
            let folder = d.watched.iter().rfind(|(file, _)| *file == path).map(|(_, folder)| Arc::clone(folder));
            Some(ResourceSource::File(FileSource { kind, path, watched_directory: folder }))
        }
        Source::Static | Source::Stream(_) | Source::Dns => None,
    })
}

#[cfg(test)]
#[path = "bootstrap/tests.rs"]
mod tests;
