//! The parts of a dump, one for each kind of resource.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::{ResourceKind, Warming};
use outrigger_proto::pb::envoy::admin::v3 as admin;
use outrigger_proto::pb::envoy::admin::v3::ClientResourceStatus;
use outrigger_proto::pb::envoy::config::bootstrap::v3::bootstrap::StaticResources;
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrigger_proto::pb::envoy::config::listener::v3::{Listener, filter::ConfigType};
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use outrigger_proto::pb::google::protobuf::{Any, Timestamp};
use outrigger_proto::type_url;
use outrigger_xds::{AcceptedResource, KindStatus, RejectedResource};
use prost::Message;
use regex::Regex;

use super::encoded;
use crate::server::{Key, Server};

/// A part of the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Clusters,
    Endpoints,
    Extensions,
    Listeners,
    Routes,
    Secrets,
}

/// Which resources are wanted.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    pub(super) name: Option<&'a Regex>,
    /// Versions that serve while a later one is warming.
    pub(super) held: &'a HashMap<Key, AcceptedResource>,
}

/// What is known of one resource.
#[derive(Debug)]
struct Entry<'a> {
    name: &'a Arc<str>,
    active: Option<&'a AcceptedResource>,
    warming: Option<&'a AcceptedResource>,
    rejected: Option<&'a RejectedResource>,
    /// Something rejected that the warming version waits for.
    waits_for: Option<(ResourceKind, Arc<str>, RejectedResource)>,
}

impl Entry<'_> {
    fn error(&self) -> Option<admin::UpdateFailureState> {
        let state = |rejected: &RejectedResource, details: String| admin::UpdateFailureState {
            failed_configuration: None,
            last_update_attempt: Some(timestamp(rejected.since)),
            details,
            version_info: rejected.version.to_string(),
        };
        if let Some(rejected) = self.rejected {
            return Some(state(rejected, rejected.reason.clone()));
        }
        let (kind, name, rejected) = self.waits_for.as_ref()?;
        Some(state(rejected, format!("waits for {kind} {name}, which was rejected: {}", rejected.reason)))
    }

    fn client_status(&self) -> i32 {
        let status = match (self.rejected, self.active, self.warming) {
            (Some(_), ..) => ClientResourceStatus::Nacked,
            (None, Some(_), _) => ClientResourceStatus::Acked,
            (None, None, _) => ClientResourceStatus::Requested,
        };
        status.into()
    }

    /// What lists without a place for warming resources show.
    fn shown(&self) -> Option<&AcceptedResource> {
        self.active.or(self.warming)
    }
}

/// What every kind's entry of a list holds.
struct Fields {
    version_info: String,
    resource: Option<Any>,
    last_updated: Option<Timestamp>,
}

fn fields(type_url: &str, resource: Option<&AcceptedResource>) -> Fields {
    Fields {
        version_info: resource.map(|resource| resource.version.to_string()).unwrap_or_default(),
        resource: resource.map(|resource| encoded(type_url, &resource.bytes)),
        last_updated: resource.map(|resource| timestamp(resource.since)),
    }
}

/// A point in time as messages have it.
pub(super) fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        // Below 10^9.
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

/// What stands in the bootstrap: no source tells of it later.
struct Statics {
    clusters: Vec<Cluster>,
    listeners: Vec<Listener>,
    secrets: Vec<Secret>,
    at: SystemTime,
}

impl Statics {
    fn of(server: &Server, name: Option<&Regex>) -> Statics {
        let resources = server.bootstrap.decode().and_then(|bootstrap| bootstrap.static_resources);
        let mut resources = resources.unwrap_or_default();
        let keep = |of: &str| name.is_none_or(|regex| regex.is_match(of));
        resources.clusters.retain(|cluster| keep(&cluster.name));
        resources.listeners.retain(|listener| keep(&listener.name));
        resources.secrets.retain(|secret| keep(&secret.name));
        let StaticResources { clusters, listeners, secrets } = resources;
        Statics { clusters, listeners, secrets, at: server.bootstrap.at }
    }
}

pub(super) fn any(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

impl Part {
    /// The part that has a list of this name.
    pub(super) fn of_resource(resource: &str) -> Option<Part> {
        Some(match resource {
            "static_clusters" | "dynamic_active_clusters" | "dynamic_warming_clusters" => Part::Clusters,
            "static_endpoint_configs" | "dynamic_endpoint_configs" => Part::Endpoints,
            "ecds_filters" => Part::Extensions,
            "static_listeners" | "dynamic_listeners" => Part::Listeners,
            "static_route_configs" | "dynamic_route_configs" => Part::Routes,
            "static_secrets" | "dynamic_active_secrets" | "dynamic_warming_secrets" => Part::Secrets,
            _ => return None,
        })
    }

    fn kind(self) -> ResourceKind {
        match self {
            Part::Clusters => ResourceKind::Cluster,
            Part::Endpoints => ResourceKind::Endpoints,
            Part::Extensions => ResourceKind::Extension,
            Part::Listeners => ResourceKind::Listener,
            Part::Routes => ResourceKind::Route,
            Part::Secrets => ResourceKind::Secret,
        }
    }

    /// The whole part.
    pub(super) fn dump(self, server: &Server, selection: &Selection<'_>) -> Any {
        let status = server.status.kind(self.kind());
        let entries = self.entries(&status, server, selection);
        let statics = |name| Statics::of(server, name);
        match self {
            Part::Clusters => {
                any(type_url::CLUSTERS_CONFIG_DUMP, &clusters(&status, &entries, &statics(selection.name)))
            }
            Part::Listeners => {
                any(type_url::LISTENERS_CONFIG_DUMP, &listeners(&status, &entries, &statics(selection.name)))
            }
            Part::Extensions => any(type_url::ECDS_CONFIG_DUMP, &extensions(&entries)),
            Part::Secrets => any(type_url::SECRETS_CONFIG_DUMP, &secrets(&entries, &statics(selection.name))),
            Part::Routes => {
                let listeners = server.status.kind(ResourceKind::Listener);
                any(type_url::ROUTES_CONFIG_DUMP, &routes(&entries, &listeners, &statics(None), selection.name))
            }
            Part::Endpoints => {
                let clusters = server.status.kind(ResourceKind::Cluster);
                any(type_url::ENDPOINTS_CONFIG_DUMP, &endpoints(&entries, &clusters, &statics(None), selection.name))
            }
        }
    }

    /// The entries of one list.
    pub(super) fn resources(self, resource: &str, server: &Server, selection: &Selection<'_>) -> Vec<Any> {
        let whole = self.dump(server, selection);
        let name = |message: &str| format!("{}envoy.admin.v3.{message}", type_url::PREFIX);
        macro_rules! list {
            ($dump:ident.$field:ident, $entry:literal) => {
                admin::$dump::decode(whole.value.as_slice())
                    .map(|dump| dump.$field.iter().map(|entry| any(&name($entry), entry)).collect())
                    .unwrap_or_default()
            };
        }
        match resource {
            "static_clusters" => list!(ClustersConfigDump.static_clusters, "ClustersConfigDump.StaticCluster"),
            "dynamic_active_clusters" => {
                list!(ClustersConfigDump.dynamic_active_clusters, "ClustersConfigDump.DynamicCluster")
            }
            "dynamic_warming_clusters" => {
                list!(ClustersConfigDump.dynamic_warming_clusters, "ClustersConfigDump.DynamicCluster")
            }
            "static_endpoint_configs" => {
                list!(EndpointsConfigDump.static_endpoint_configs, "EndpointsConfigDump.StaticEndpointConfig")
            }
            "dynamic_endpoint_configs" => {
                list!(EndpointsConfigDump.dynamic_endpoint_configs, "EndpointsConfigDump.DynamicEndpointConfig")
            }
            "ecds_filters" => list!(EcdsConfigDump.ecds_filters, "EcdsConfigDump.EcdsFilterConfig"),
            "static_listeners" => list!(ListenersConfigDump.static_listeners, "ListenersConfigDump.StaticListener"),
            "dynamic_listeners" => list!(ListenersConfigDump.dynamic_listeners, "ListenersConfigDump.DynamicListener"),
            "static_route_configs" => {
                list!(RoutesConfigDump.static_route_configs, "RoutesConfigDump.StaticRouteConfig")
            }
            "dynamic_route_configs" => {
                list!(RoutesConfigDump.dynamic_route_configs, "RoutesConfigDump.DynamicRouteConfig")
            }
            "static_secrets" => list!(SecretsConfigDump.static_secrets, "SecretsConfigDump.StaticSecret"),
            "dynamic_active_secrets" => {
                list!(SecretsConfigDump.dynamic_active_secrets, "SecretsConfigDump.DynamicSecret")
            }
            "dynamic_warming_secrets" => {
                list!(SecretsConfigDump.dynamic_warming_secrets, "SecretsConfigDump.DynamicSecret")
            }
            _ => Vec::new(),
        }
    }

    fn entries<'a>(self, status: &'a KindStatus, server: &Server, selection: &'a Selection<'_>) -> Vec<Entry<'a>> {
        let kind = self.kind();
        let snapshot = server.snapshot.borrow();
        let warming_of =
            |name: &Arc<str>| snapshot.warming.iter().find(|warming| warming.kind == kind && warming.name == *name);
        let only_rejected = status.rejected.keys().filter(|name| !status.accepted.contains_key(*name));
        let mut names: Vec<&Arc<str>> = status.accepted.keys().chain(only_rejected).collect();
        names.retain(|name| selection.name.is_none_or(|regex| regex.is_match(name)));
        names.sort();
        let waits_for = |warming: &Warming| {
            warming
                .waiting_for
                .iter()
                .find_map(|(kind, name)| Some((*kind, Arc::clone(name), server.status.rejected(*kind, name)?)))
        };
        let entry = |name: &'a Arc<str>| {
            let (accepted, rejected) = (status.accepted.get(name), status.rejected.get(name));
            let (active, warming, waits_for) = match warming_of(name) {
                Some(of) => (selection.held.get(&(kind, Arc::clone(name))), accepted, waits_for(of)),
                None => (accepted, None, None),
            };
            Entry { name, active, warming, rejected, waits_for }
        };
        names.into_iter().map(entry).collect()
    }
}

fn clusters(status: &KindStatus, entries: &[Entry<'_>], statics: &Statics) -> admin::ClustersConfigDump {
    use admin::clusters_config_dump::{DynamicCluster, StaticCluster};
    let mut dump = admin::ClustersConfigDump { version_info: status.version.to_string(), ..Default::default() };
    dump.static_clusters.extend(statics.clusters.iter().map(|cluster| StaticCluster {
        cluster: Some(any(type_url::CLUSTER, cluster)),
        last_updated: Some(timestamp(statics.at)),
    }));
    for entry in entries {
        let dynamic = |resource: Option<&AcceptedResource>| {
            let Fields { version_info, resource, last_updated } = fields(type_url::CLUSTER, resource);
            let (error_state, client_status) = (entry.error(), entry.client_status());
            // What was rejected and never accepted has nothing but its name.
            let named = || any(type_url::CLUSTER, &Cluster { name: entry.name.to_string(), ..Default::default() });
            let cluster = resource.or_else(|| Some(named()));
            DynamicCluster { version_info, cluster, last_updated, error_state, client_status }
        };
        if entry.active.is_some() {
            dump.dynamic_active_clusters.push(dynamic(entry.active));
        }
        // One that was never accepted doesn't serve either.
        if entry.warming.is_some() || entry.active.is_none() {
            dump.dynamic_warming_clusters.push(dynamic(entry.warming));
        }
    }
    dump
}

fn listeners(status: &KindStatus, entries: &[Entry<'_>], statics: &Statics) -> admin::ListenersConfigDump {
    use admin::listeners_config_dump::{DynamicListener, DynamicListenerState, StaticListener};
    let mut dump = admin::ListenersConfigDump { version_info: status.version.to_string(), ..Default::default() };
    dump.static_listeners.extend(statics.listeners.iter().map(|listener| StaticListener {
        listener: Some(any(type_url::LISTENER, listener)),
        last_updated: Some(timestamp(statics.at)),
    }));
    for entry in entries {
        let state = |resource: Option<&AcceptedResource>| {
            let Fields { version_info, resource, last_updated } = fields(type_url::LISTENER, resource);
            resource.is_some().then_some(DynamicListenerState { version_info, listener: resource, last_updated })
        };
        dump.dynamic_listeners.push(DynamicListener {
            name: entry.name.to_string(),
            active_state: state(entry.active),
            warming_state: state(entry.warming),
            draining_state: None,
            error_state: entry.error(),
            client_status: entry.client_status(),
        });
    }
    dump
}

/// Private keys are not in it: whatever renders a dump leaves fields out that the API marks as sensitive.
fn secrets(entries: &[Entry<'_>], statics: &Statics) -> admin::SecretsConfigDump {
    use admin::secrets_config_dump::{DynamicSecret, StaticSecret};
    let mut dump = admin::SecretsConfigDump::default();
    dump.static_secrets.extend(statics.secrets.iter().map(|secret| StaticSecret {
        name: secret.name.clone(),
        last_updated: Some(timestamp(statics.at)),
        secret: Some(any(type_url::SECRET, secret)),
    }));
    for entry in entries {
        let Fields { version_info, resource, last_updated } = fields(type_url::SECRET, entry.shown());
        let dynamic = DynamicSecret {
            name: entry.name.to_string(),
            version_info,
            last_updated,
            secret: resource,
            error_state: entry.error(),
            client_status: entry.client_status(),
        };
        let list =
            if entry.active.is_some() { &mut dump.dynamic_active_secrets } else { &mut dump.dynamic_warming_secrets };
        list.push(dynamic);
    }
    dump
}

fn extensions(entries: &[Entry<'_>]) -> admin::EcdsConfigDump {
    use admin::ecds_config_dump::EcdsFilterConfig;
    let filter = |entry: &Entry<'_>| {
        let Fields { version_info, resource, last_updated } = fields(type_url::TYPED_EXTENSION_CONFIG, entry.shown());
        let (error_state, client_status) = (entry.error(), entry.client_status());
        EcdsFilterConfig {
            version_info,
            ecds_filter: resource.or_else(|| named(entry)),
            last_updated,
            error_state,
            client_status,
        }
    };
    admin::EcdsConfigDump { ecds_filters: entries.iter().map(filter).collect() }
}

/// A rejected extension that never was accepted has nothing but its name.
fn named(entry: &Entry<'_>) -> Option<Any> {
    use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
    let config = TypedExtensionConfig { name: entry.name.to_string(), typed_config: None };
    Some(any(type_url::TYPED_EXTENSION_CONFIG, &config))
}

fn routes(
    entries: &[Entry<'_>],
    listeners: &KindStatus,
    statics: &Statics,
    name: Option<&Regex>,
) -> admin::RoutesConfigDump {
    use admin::routes_config_dump::{DynamicRouteConfig, StaticRouteConfig};
    use outrigger_proto::pb::envoy::config::route::v3::RouteConfiguration;
    let named = |entry: &Entry<'_>| {
        let route = RouteConfiguration { name: entry.name.to_string(), ..Default::default() };
        any(type_url::ROUTE_CONFIGURATION, &route)
    };
    let dynamic = |entry: &Entry<'_>| {
        let Fields { version_info, resource, last_updated } = fields(type_url::ROUTE_CONFIGURATION, entry.shown());
        let (error_state, client_status) = (entry.error(), entry.client_status());
        let route_config = resource.or_else(|| Some(named(entry)));
        DynamicRouteConfig { version_info, route_config, last_updated, error_state, client_status }
    };
    let of_statics = statics.listeners.iter().map(|listener| (inline_routes(listener.clone()), statics.at));
    let of_others = listeners.accepted.values().filter_map(|accepted| {
        let listener = Listener::decode(accepted.bytes.clone()).ok()?;
        Some((inline_routes(listener), accepted.since))
    });
    let static_route_configs = of_statics
        .chain(of_others)
        .flat_map(|(routes, since)| routes.into_iter().map(move |route| (route, since)))
        .filter(|(route, _)| name.is_none_or(|regex| regex.is_match(&route.name)))
        .map(|(route, since)| StaticRouteConfig {
            route_config: Some(any(type_url::ROUTE_CONFIGURATION, &route)),
            last_updated: Some(timestamp(since)),
        })
        .collect();
    admin::RoutesConfigDump { static_route_configs, dynamic_route_configs: entries.iter().map(dynamic).collect() }
}

/// The route configurations that stand in a listener's own filters.
fn inline_routes(listener: Listener) -> Vec<outrigger_proto::pb::envoy::config::route::v3::RouteConfiguration> {
    let chains = listener.filter_chains.into_iter().chain(listener.default_filter_chain);
    let configs = chains.flat_map(|chain| chain.filters).filter_map(|filter| match filter.config_type {
        Some(ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    });
    configs
        .filter(|any| {
            type_url::message_name(&any.type_url) == type_url::message_name(type_url::HTTP_CONNECTION_MANAGER)
        })
        .filter_map(|any| hcm::HttpConnectionManager::decode(any.value.as_slice()).ok())
        .filter_map(|manager| match manager.route_specifier {
            Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(route)) => Some(route),
            _ => None,
        })
        .collect()
}

fn endpoints(
    entries: &[Entry<'_>],
    clusters: &KindStatus,
    statics: &Statics,
    name: Option<&Regex>,
) -> admin::EndpointsConfigDump {
    use admin::endpoints_config_dump::{DynamicEndpointConfig, StaticEndpointConfig};
    let dynamic = |entry: &Entry<'_>| {
        let Fields { version_info, resource, last_updated } = fields(type_url::CLUSTER_LOAD_ASSIGNMENT, entry.shown());
        let (error_state, client_status) = (entry.error(), entry.client_status());
        let named = || {
            let assignment = ClusterLoadAssignment { cluster_name: entry.name.to_string(), ..Default::default() };
            any(type_url::CLUSTER_LOAD_ASSIGNMENT, &assignment)
        };
        let endpoint_config = resource.or_else(|| Some(named()));
        DynamicEndpointConfig { version_info, endpoint_config, last_updated, error_state, client_status }
    };
    let of_statics = statics.clusters.iter().map(|cluster| (cluster.load_assignment.clone(), statics.at));
    let of_others = clusters.accepted.values().filter_map(|accepted| {
        let cluster = Cluster::decode(accepted.bytes.clone()).ok()?;
        Some((cluster.load_assignment, accepted.since))
    });
    let inline = of_statics.chain(of_others).filter_map(|(assignment, since)| Some((assignment?, since)));
    let static_endpoint_configs = inline
        .filter(|(assignment, _)| name.is_none_or(|regex| regex.is_match(&assignment.cluster_name)))
        .map(|(assignment, since)| StaticEndpointConfig {
            endpoint_config: Some(any(type_url::CLUSTER_LOAD_ASSIGNMENT, &assignment)),
            last_updated: Some(timestamp(since)),
        })
        .collect();
    admin::EndpointsConfigDump {
        static_endpoint_configs,
        dynamic_endpoint_configs: entries.iter().map(dynamic).collect(),
    }
}
