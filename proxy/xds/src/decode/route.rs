//! `RouteConfiguration`: virtual hosts and routes; what a route does is in `action`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrigger_config::{FilterOverride, Resource, Route, RouteConfig, RouteTable, VirtualHost};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::route::v3 as route;

use super::action::{Bounds, action};
use super::common::{flag, name, number, object, origin};
use super::mutation::{Side, mutations, overrides};
use super::{Rejection, XdsResource, matcher};
use crate::Diagnostics;

/// `max_direct_response_body_size_bytes` where it is unset.
const DIRECT_BODY_BYTES: u32 = 4096;
/// What it may be.
const DIRECT_BODY_BYTES_MAX: u32 = 16 << 20;

impl XdsResource for RouteConfig {
    type Proto = route::RouteConfiguration;
    const TYPE_URL: &'static str = type_url::ROUTE_CONFIGURATION;

    fn name(proto: &Self::Proto) -> &str {
        &proto.name
    }

    fn validate(proto: Self::Proto, diagnostics: &mut Diagnostics) -> Result<RouteConfig, Rejection> {
        let name = name(&proto.name, "name", diagnostics);
        route_config(name, &proto, diagnostics).ok_or(Rejection)
    }

    fn into_resource(self) -> Resource {
        Resource::Route(Arc::new(self))
    }
}

/// A configuration of its own, or one that stands in a listener.
pub(crate) fn route_config(
    name: Arc<str>,
    proto: &route::RouteConfiguration,
    d: &mut Diagnostics,
) -> Option<RouteConfig> {
    let max = number(
        proto.max_direct_response_body_size_bytes,
        DIRECT_BODY_BYTES,
        0..=DIRECT_BODY_BYTES_MAX,
        "max_direct_response_body_size_bytes",
        d,
    );
    let bounds = Bounds { direct_body_bytes_max: max as usize };
    let defaults = overrides(&proto.typed_per_filter_config, d);
    let mut names = BTreeSet::new();
    let mut virtual_hosts = Vec::with_capacity(proto.virtual_hosts.len());
    for (index, host) in proto.virtual_hosts.iter().enumerate() {
        d.at_index("virtual_hosts", index, |d| {
            if !names.insert(host.name.as_str()) {
                d.at("name", |d| d.error(format!("{:?} stands here twice", host.name)));
            }
            virtual_hosts.push(Arc::new(virtual_host(host, &defaults, bounds, d)));
        });
    }
    let table = RouteTable::compile(&virtual_hosts)
        .map_err(|domain| d.at("virtual_hosts", |d| d.error(format!("the domain {domain} is in two virtual hosts"))))
        .ok();
    let (request, response) = (
        mutations(Side::Request, &proto.request_headers_to_add, &proto.request_headers_to_remove, d),
        mutations(Side::Response, &proto.response_headers_to_add, &proto.response_headers_to_remove, d),
    );
    let origin = origin(&name, proto.metadata.as_ref(), d);
    Some(RouteConfig {
        name,
        origin,
        virtual_hosts,
        request_headers: request,
        response_headers: response,
        most_specific_header_mutations_wins: proto.most_specific_header_mutations_wins,
        ignore_port_in_host_matching: proto.ignore_port_in_host_matching,
        table: table?,
    })
}

fn virtual_host(
    proto: &route::VirtualHost,
    defaults: &BTreeMap<Arc<str>, FilterOverride>,
    bounds: Bounds,
    d: &mut Diagnostics,
) -> VirtualHost {
    let name = name(&proto.name, "name", d);
    if proto.domains.is_empty() {
        d.at("domains", |d| d.error("is required"));
    }
    for (index, domain) in proto.domains.iter().enumerate() {
        if !is_domain(domain) {
            let text = format!("{domain:?} is no host name: a.test, *.a.test, a.*, or *");
            d.at_index("domains", index, |d| d.error(text));
        }
    }
    let routes = proto.routes.iter().enumerate();
    let routes = routes.filter_map(|(index, route)| d.at_index("routes", index, |d| decode(route, bounds, d)));
    let routes = routes.map(Arc::new).collect();
    // What the whole configuration says about a filter holds unless the virtual host says something itself.
    let mut filters = defaults.clone();
    filters.extend(overrides(&proto.typed_per_filter_config, d));
    VirtualHost {
        name,
        domains: proto.domains.iter().map(|domain| domain.to_ascii_lowercase()).collect(),
        routes,
        request_headers: mutations(Side::Request, &proto.request_headers_to_add, &proto.request_headers_to_remove, d),
        response_headers: mutations(
            Side::Response,
            &proto.response_headers_to_add,
            &proto.response_headers_to_remove,
            d,
        ),
        overrides: filters,
    }
}

/// At most one `*`, at one end.
fn is_domain(domain: &str) -> bool {
    let stars = domain.matches('*').count();
    let at_end = domain.starts_with('*') || domain.ends_with('*');
    !domain.is_empty()
        && domain.len() <= 256
        && (stars == 0 || (stars == 1 && at_end))
        && domain.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

fn decode(proto: &route::Route, bounds: Bounds, d: &mut Diagnostics) -> Option<Route> {
    let Some(matching) = &proto.r#match else {
        d.at("match", |d| d.error("is required"));
        return None;
    };
    let path = d.at("match", |d| matcher::path(matching.path_specifier.as_ref(), d));
    let headers =
        matching.headers.iter().enumerate().filter_map(|(index, header)| {
            d.at("match", |d| d.at_index("headers", index, |d| matcher::header(header, d)))
        });
    let headers = headers.collect();
    let query = matching.query_parameters.iter().enumerate().filter_map(|(index, parameter)| {
        d.at("match", |d| d.at_index("query_parameters", index, |d| matcher::query(parameter, d)))
    });
    let query = query.collect();
    let action = action(proto.action.as_ref(), bounds, d);
    Some(Route {
        name: Arc::from(proto.name.as_str()),
        path: path?,
        case_sensitive: flag(matching.case_sensitive, true),
        headers,
        query,
        grpc_only: matching.grpc.is_some(),
        action: action?,
        request_headers: mutations(Side::Request, &proto.request_headers_to_add, &proto.request_headers_to_remove, d),
        response_headers: mutations(
            Side::Response,
            &proto.response_headers_to_add,
            &proto.response_headers_to_remove,
            d,
        ),
        overrides: overrides(&proto.typed_per_filter_config, d),
        object: object(proto.metadata.as_ref()),
    })
}
