//! Services for gRPC's `xds:///` clients, which need no proxy: a listener by the service's name, its route, its cluster.

use outrigger_model::ClusterView;
use outrigger_proto::pb::envoy::config::listener::v3::{ApiListener, Listener};
use outrigger_proto::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use outrigger_proto::pb::envoy::config::route::v3::route_match::PathSpecifier;
use outrigger_proto::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
};
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrigger_proto::pb::google::protobuf::Duration;

use super::proto::any;
use super::{Profile, cluster, listener};
use crate::canonical;
use crate::resource::{Resource, ResourceType};

pub(super) fn resources(view: &ClusterView) -> Vec<Resource> {
    let name = view.key.to_string();
    let mut resources = cluster::resources(view, Profile::Grpc);
    let route = canonical::encode(&routes(&name), &canonical::ROUTE_CONFIGURATION);
    resources.push(Resource::new(ResourceType::Route, &name, route));
    let service = &view.key.service;
    let host = format!("{}.{}.svc", service.name, service.namespace);
    let port = view.key.port;
    for alias in [name.clone(), format!("{host}:{port}"), format!("{host}.cluster.local:{port}")] {
        let body = canonical::encode(&api_listener(&alias, &name), &canonical::LISTENER);
        resources.push(Resource::new(ResourceType::Listener, &alias, body));
    }
    resources
}

fn api_listener(name: &str, routes: &str) -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: routes.to_owned(),
        route_specifier: Some(listener::routes_by_name(routes)),
        http_filters: vec![listener::router()],
        ..HttpConnectionManager::default()
    };
    Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(any(&manager)) }),
        ..Listener::default()
    }
}

/// The client chose the service by the listener's name: whatever its authority, it goes there. Its deadlines are its own.
fn routes(cluster: &str) -> RouteConfiguration {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: Some(Duration::default()),
        ..RouteAction::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(String::new())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(action)),
        ..Route::default()
    };
    let host = VirtualHost {
        name: cluster.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..VirtualHost::default()
    };
    RouteConfiguration { name: cluster.to_owned(), virtual_hosts: vec![host], ..RouteConfiguration::default() }
}
