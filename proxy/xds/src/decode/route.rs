//! `RouteConfiguration`: virtual hosts and routes; what a route does is in `action`.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrigger_config::{OverrideNames, Overrides, Resource, Route, RouteConfig, RouteTable, VirtualHost};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::route::v3 as route;
use pb::google::protobuf;

use super::action::{Around, action};
use super::common::{flag, name, number, object, origin, shown_metadata};
use super::mutation::{Side, mutations, overrides};
use super::{Rejection, XdsResource, forward, matcher, native, retry};
use crate::Diagnostics;

/// `max_direct_response_body_size_bytes` where it is unset.
const DIRECT_BODY_BYTES: u32 = 4096;
/// What it may be.
const DIRECT_BODY_BYTES_MAX: u32 = 16 << 20;
/// What of a body may be kept for retries.
const REPLAY_BYTES_MAX: u64 = 64 << 20;

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
    let filters = override_names(proto);
    let defaults = overrides(&proto.typed_per_filter_config, &filters, &Overrides::default(), d);
    let mirrors = forward::mirrors(&proto.request_mirror_policies, d);
    let around = Around {
        direct_body_bytes_max: max as usize,
        names: &filters,
        overrides: &defaults,
        retry: None,
        mirrors: &mirrors,
        replay_bytes_max: None,
        path: None,
    };
    let mut names = BTreeSet::new();
    let mut virtual_hosts = Vec::with_capacity(proto.virtual_hosts.len());
    for (index, host) in proto.virtual_hosts.iter().enumerate() {
        d.at_index("virtual_hosts", index, |d| {
            if !names.insert(host.name.as_str()) {
                d.at("name", |d| d.error(format!("{:?} stands here twice", host.name)));
            }
            virtual_hosts.push(Arc::new(virtual_host(host, &around, d)));
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
        override_names: filters,
        table: table?,
    })
}

/// Every filter that any scope names.
fn override_names(proto: &route::RouteConfiguration) -> OverrideNames {
    use route::route::Action;
    use route::route_action::ClusterSpecifier;
    let mut names: BTreeSet<&String> = proto.typed_per_filter_config.keys().collect();
    for host in &proto.virtual_hosts {
        names.extend(host.typed_per_filter_config.keys());
        for route in &host.routes {
            names.extend(route.typed_per_filter_config.keys());
            if let Some(Action::Route(forward)) = &route.action
                && let Some(ClusterSpecifier::WeightedClusters(weighted)) = &forward.cluster_specifier
            {
                names.extend(weighted.clusters.iter().flat_map(|cluster| cluster.typed_per_filter_config.keys()));
            }
        }
    }
    OverrideNames::new(names.into_iter().map(|name| Arc::from(name.as_str())))
}

fn virtual_host(proto: &route::VirtualHost, around: &Around<'_>, d: &mut Diagnostics) -> VirtualHost {
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
    let filters = overrides(&proto.typed_per_filter_config, around.names, around.overrides, d);
    let mirrors = forward::mirrors(&proto.request_mirror_policies, d);
    let retry = retry::policy(proto.retry_policy.as_ref(), d);
    #[expect(deprecated, reason = "the older field is still in use")]
    let replay_bytes_max = replay_bytes(proto.request_body_buffer_limit, proto.per_request_buffer_limit_bytes, d);
    let around = Around {
        overrides: &filters,
        retry: retry.as_ref(),
        mirrors: if mirrors.is_empty() { around.mirrors } else { &mirrors },
        replay_bytes_max,
        ..*around
    };
    let routes = proto.routes.iter().enumerate();
    let routes = routes.filter_map(|(index, route)| d.at_index("routes", index, |d| decode(route, &around, d)));
    let routes = routes.map(Arc::new).collect();
    VirtualHost {
        name,
        metadata: shown_metadata(proto.metadata.as_ref(), d),
        domains: proto.domains.iter().map(|domain| domain.to_ascii_lowercase()).collect(),
        routes,
        request_headers: mutations(Side::Request, &proto.request_headers_to_add, &proto.request_headers_to_remove, d),
        response_headers: mutations(
            Side::Response,
            &proto.response_headers_to_add,
            &proto.response_headers_to_remove,
            d,
        ),
        overrides: filters.clone(),
        rate_limits: native::rate_limits(&proto.rate_limits, d),
        attempt_count_in_request: proto.include_request_attempt_count,
        attempt_count_in_response: proto.include_attempt_count_in_response,
    }
}

/// How much of a body is kept for retries: the newer field, or the older one.
fn replay_bytes(
    newer: Option<protobuf::UInt64Value>,
    older: Option<protobuf::UInt32Value>,
    d: &mut Diagnostics,
) -> Option<u64> {
    let bytes = newer.map(|value| value.value).or(older.map(|value| u64::from(value.value)))?;
    if bytes > REPLAY_BYTES_MAX {
        let text = format!("{bytes} bytes are more than {REPLAY_BYTES_MAX}");
        d.at("request_body_buffer_limit", |d| d.error(text));
    }
    Some(bytes)
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

fn decode(proto: &route::Route, around: &Around<'_>, d: &mut Diagnostics) -> Option<Route> {
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
    let cookies =
        matching.cookies.iter().enumerate().filter_map(|(index, proto)| {
            d.at("match", |d| d.at_index("cookies", index, |d| matcher::cookie(proto, d)))
        });
    let cookies = cookies.collect();
    let fraction = matching
        .runtime_fraction
        .as_ref()
        .and_then(|proto| d.at("match", |d| d.at("runtime_fraction", |d| forward::runtime_fraction(proto, d))));
    let filters = overrides(&proto.typed_per_filter_config, around.names, around.overrides, d);
    #[expect(deprecated, reason = "the older field is still in use")]
    let own_bytes = replay_bytes(proto.request_body_buffer_limit, proto.per_request_buffer_limit_bytes, d);
    let around = Around {
        overrides: &filters,
        replay_bytes_max: own_bytes.or(around.replay_bytes_max),
        path: path.as_ref(),
        ..*around
    };
    let action = action(proto.action.as_ref(), &around, d);
    Some(Route {
        name: Arc::from(proto.name.as_str()),
        metadata: shown_metadata(proto.metadata.as_ref(), d),
        path: path?,
        case_sensitive: flag(matching.case_sensitive, true),
        headers,
        query,
        cookies,
        fraction,
        grpc_only: matching.grpc.is_some(),
        action: action?,
        request_headers: mutations(Side::Request, &proto.request_headers_to_add, &proto.request_headers_to_remove, d),
        response_headers: mutations(
            Side::Response,
            &proto.response_headers_to_add,
            &proto.response_headers_to_remove,
            d,
        ),
        overrides: filters.clone(),
        object: object(proto.metadata.as_ref()),
    })
}
