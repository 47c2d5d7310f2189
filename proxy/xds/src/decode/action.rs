//! What a route does: forward, redirect, answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{
    ClusterSpec, DirectResponse, HostRewrite, LB_NAMESPACE, MetadataMatch, Mirror, OverrideNames, Overrides,
    PathMatcher, PathRewrite, Redirect, RedirectPath, RetryPolicy, RouteAction, RouteForward, UriTemplateRewrite,
    WeightedCluster, expected_timeout,
};
use outrigger_http::Scheme;
use outrigger_proto::pb;
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::route::v3 as route;
use pb::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;

use super::access_log::body_format;
use super::common::{data_source, duration, flag, metadata_struct, name, note_typed_metadata, timeout_or, variant};
use super::matcher::{extension, header_name, rewrite};
use super::mutation::{Side, mutations, overrides};
use super::native::rate_limits;
use super::{forward, internal_redirect, retry};
use crate::Diagnostics;

/// `timeout` where it is unset.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// What the scopes around a route say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) direct_body_bytes_max: usize,
    pub(crate) names: &'a OverrideNames,
    pub(crate) overrides: &'a Overrides,
    pub(crate) retry: Option<&'a Arc<RetryPolicy>>,
    pub(crate) mirrors: &'a [Mirror],
    pub(crate) replay_bytes_max: Option<u64>,
    /// What the route matches by.
    pub(crate) path: Option<&'a PathMatcher>,
}

pub(crate) fn action(
    proto: Option<&route::route::Action>,
    around: &Around<'_>,
    d: &mut Diagnostics,
) -> Option<RouteAction> {
    use route::route::Action;
    match proto {
        Some(Action::Route(forward)) => {
            d.at("route", |d| decode_forward(forward, around, d)).map(|forward| RouteAction::Forward(Box::new(forward)))
        }
        Some(Action::Redirect(proto)) => d.at("redirect", |d| redirect(proto, d)).map(RouteAction::Redirect),
        Some(Action::DirectResponse(proto)) => {
            d.at("direct_response", |d| direct_response(proto, around, d)).map(RouteAction::DirectResponse)
        }
        Some(Action::FilterAction(_) | Action::NonForwardingAction(_)) => {
            d.error("the action is not supported: route, redirect or direct_response");
            None
        }
        None => {
            d.error("has no action: route, redirect or direct_response");
            None
        }
    }
}

fn decode_forward(proto: &route::RouteAction, around: &Around<'_>, d: &mut Diagnostics) -> Option<RouteForward> {
    use route::route_action::ClusterNotFoundResponseCode as NotFound;
    let metadata = metadata_match(proto.metadata_match.as_ref(), d);
    let mut cluster = cluster(proto.cluster_specifier.as_ref(), around, d);
    if let Some(cluster) = &mut cluster {
        inherit_metadata(cluster, metadata.as_ref());
    }
    let code = variant::<NotFound>(proto.cluster_not_found_response_code, "cluster_not_found_response_code", d);
    let cluster_not_found_status = match code {
        Some(NotFound::NotFound) => 404,
        Some(NotFound::InternalServerError) => 500,
        Some(NotFound::ServiceUnavailable) | None => 503,
    };
    let path_rewrite = path_rewrite(proto, around.path, d);
    let host_rewrite = host_rewrite(proto.host_rewrite_specifier.as_ref(), d);
    let mut upgrades = BTreeMap::new();
    for (index, upgrade) in proto.upgrade_configs.iter().enumerate() {
        let kind = upgrade.upgrade_type.to_ascii_lowercase();
        if upgrades.insert(kind, flag(upgrade.enabled, true)).is_some() {
            d.at_index("upgrade_configs", index, |d| d.error("the upgrade type stands here twice"));
        }
    }
    let timeout = timeout_or(proto.timeout.as_ref(), Some(ROUTE_TIMEOUT), "timeout", d);
    let retry = retry::policy(proto.retry_policy.as_ref(), d).or_else(|| around.retry.cloned());
    let attempt = retry.as_ref().and_then(|policy| policy.per_try_timeout);
    let expected = attempt.filter(|attempt| timeout.is_none_or(|timeout| *attempt < timeout)).or(timeout);
    #[expect(deprecated, reason = "the older field is still in use")]
    let includes_host_limits = flag(proto.include_vh_rate_limits, false);
    Some(RouteForward {
        cluster: cluster?,
        cluster_not_found_status,
        path_rewrite,
        host_rewrite,
        timeout,
        expected_timeout: expected.and_then(expected_timeout),
        idle_timeout: duration(proto.idle_timeout.as_ref(), "idle_timeout", d),
        max_stream_duration: forward::max_stream_duration(proto.max_stream_duration.as_ref(), d),
        grpc_timeout: forward::grpc_timeout(proto, d),
        retry,
        replay_bytes_max: around.replay_bytes_max,
        mirrors: match &proto.request_mirror_policies[..] {
            [] => around.mirrors.to_vec(),
            own => forward::mirrors(own, d),
        },
        rate_limits: rate_limits(&proto.rate_limits, d),
        includes_host_limits,
        internal_redirect: internal_redirect::policy(proto.internal_redirect_policy.as_ref(), d),
        hash: forward::hash_policies(&proto.hash_policy, d),
        metadata,
        priority: forward::priority(proto.priority, d),
        append_x_forwarded_host: proto.append_x_forwarded_host,
        upgrades,
    })
}

fn cluster(
    proto: Option<&route::route_action::ClusterSpecifier>,
    around: &Around<'_>,
    d: &mut Diagnostics,
) -> Option<ClusterSpec> {
    use route::route_action::ClusterSpecifier as Specifier;
    Some(match proto {
        Some(Specifier::Cluster(cluster)) => ClusterSpec::Single(name(cluster, "cluster", d)),
        Some(Specifier::ClusterHeader(header)) => {
            ClusterSpec::Header(d.at("cluster_header", |d| header_name(header, d))?)
        }
        Some(Specifier::WeightedClusters(weighted)) => {
            d.at("weighted_clusters", |d| weighted_clusters(weighted, around, d))?
        }
        Some(Specifier::ClusterSpecifierPlugin(_) | Specifier::InlineClusterSpecifierPlugin(_)) => {
            d.error("cluster specifier plugins are not supported");
            return None;
        }
        None => {
            d.error("names no cluster: cluster, cluster_header or weighted_clusters");
            return None;
        }
    })
}

fn weighted_clusters(proto: &route::WeightedCluster, around: &Around<'_>, d: &mut Diagnostics) -> Option<ClusterSpec> {
    if matches!(proto.random_value_specifier, Some(route::weighted_cluster::RandomValueSpecifier::HeaderName(_))) {
        d.at("header_name", |d| d.error("is not supported"));
    }
    let clusters = proto.clusters.iter().enumerate();
    let clusters: Vec<_> = clusters
        .map(|(index, cluster)| d.at_index("clusters", index, |d| weighted_cluster(cluster, around, d)))
        .collect();
    let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    // The sum counts, whatever the older field says: it is what Envoy does today.
    match u32::try_from(total) {
        Ok(0) => {
            d.at("clusters", |d| d.error("the weights sum up to 0"));
            None
        }
        Ok(total) => Some(ClusterSpec::Weighted { clusters, total }),
        Err(_) => {
            d.at("clusters", |d| d.error(format!("the weights sum up to {total}, more than 32 bits")));
            None
        }
    }
}

fn weighted_cluster(
    proto: &route::weighted_cluster::ClusterWeight,
    around: &Around<'_>,
    d: &mut Diagnostics,
) -> WeightedCluster {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    if proto.weight.is_none() {
        d.at("weight", |d| d.error("is required"));
    }
    let host_rewrite = proto
        .host_rewrite_specifier
        .as_ref()
        .map(|HostRewriteSpecifier::HostRewriteLiteral(host)| d.at("host_rewrite_literal", |d| host_literal(host, d)));
    WeightedCluster {
        name: name(&proto.name, "name", d),
        weight: proto.weight.map_or(0, |weight| weight.value),
        host_rewrite,
        request_headers: mutations(Side::Request, &proto.request_headers_to_add, &proto.request_headers_to_remove, d),
        response_headers: mutations(
            Side::Response,
            &proto.response_headers_to_add,
            &proto.response_headers_to_remove,
            d,
        ),
        metadata: metadata_match(proto.metadata_match.as_ref(), d),
        overrides: overrides(&proto.typed_per_filter_config, around.names, around.overrides, d),
    }
}

/// The part of `metadata_match` that load balancing reads.
fn metadata_match(proto: Option<&core::Metadata>, d: &mut Diagnostics) -> Option<Arc<MetadataMatch>> {
    note_typed_metadata(proto, "metadata_match", "", d);
    let fields = proto?.filter_metadata.get(LB_NAMESPACE)?;
    Some(Arc::new(MetadataMatch::new(metadata_struct(fields))))
}

/// What a weighted cluster asks for, and what its route asks for beside that.
fn inherit_metadata(cluster: &mut ClusterSpec, route: Option<&Arc<MetadataMatch>>) {
    let (ClusterSpec::Weighted { clusters, .. }, Some(route)) = (cluster, route) else { return };
    for cluster in clusters {
        cluster.metadata = Some(match &cluster.metadata {
            Some(own) => Arc::new(route.merged(own)),
            None => Arc::clone(route),
        });
    }
}

fn path_rewrite(proto: &route::RouteAction, matcher: Option<&PathMatcher>, d: &mut Diagnostics) -> Option<PathRewrite> {
    if let Some(policy) = &proto.path_rewrite_policy {
        if !proto.prefix_rewrite.is_empty() || proto.regex_rewrite.is_some() {
            d.at("path_rewrite_policy", |d| d.error("is set together with another rewrite"));
        }
        return d.at("path_rewrite_policy", |d| template_rewrite(policy, matcher, d)).map(PathRewrite::Template);
    }
    if !proto.prefix_rewrite.is_empty() && proto.regex_rewrite.is_some() {
        d.at("regex_rewrite", |d| d.error("is set together with prefix_rewrite"));
        return None;
    }
    if let Some(proto) = &proto.regex_rewrite {
        let (regex, substitution) = d.at("regex_rewrite", |d| rewrite(proto, d))?;
        return Some(PathRewrite::Regex { regex, substitution });
    }
    if proto.prefix_rewrite.is_empty() {
        return None;
    }
    Some(PathRewrite::Prefix(d.at("prefix_rewrite", |d| text(&proto.prefix_rewrite, d))))
}

fn template_rewrite(
    policy: &core::TypedExtensionConfig,
    matcher: Option<&PathMatcher>,
    d: &mut Diagnostics,
) -> Option<UriTemplateRewrite> {
    d.at("typed_config", |d| {
        let config: UriTemplateRewriteConfig = extension(policy.typed_config.as_ref(), d)?;
        d.at("path_template_rewrite", |d| {
            let Some(PathMatcher::Template(template)) = matcher else {
                d.error("needs a route that matches by a URI template");
                return None;
            };
            UriTemplateRewrite::new(&config.path_template_rewrite, template).map_err(|problem| d.error(problem)).ok()
        })
    })
}

/// Text that goes into a message.
fn text(text: &str, d: &mut Diagnostics) -> Bytes {
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        d.error("holds a space or a control character");
    }
    Bytes::copy_from_slice(text.as_bytes())
}

fn host_literal(host: &str, d: &mut Diagnostics) -> Bytes {
    if host.is_empty() {
        d.error("is required");
    }
    text(host, d)
}

fn host_rewrite(proto: Option<&route::route_action::HostRewriteSpecifier>, d: &mut Diagnostics) -> Option<HostRewrite> {
    use route::route_action::HostRewriteSpecifier as Specifier;
    match proto? {
        // Envoy: the empty text is no rewrite.
        Specifier::HostRewriteLiteral(host) if host.is_empty() => None,
        Specifier::HostRewriteLiteral(host) => {
            Some(HostRewrite::Literal(d.at("host_rewrite_literal", |d| host_literal(host, d))))
        }
        Specifier::AutoHostRewrite(on) => on.value.then_some(HostRewrite::Auto),
        Specifier::HostRewriteHeader(header) => {
            d.at("host_rewrite_header", |d| header_name(header, d)).map(HostRewrite::Header)
        }
        Specifier::HostRewritePathRegex(proto) => d
            .at("host_rewrite_path_regex", |d| rewrite(proto, d))
            .map(|(regex, substitution)| HostRewrite::Path { regex, substitution }),
        Specifier::HostRewrite(_) => {
            d.at("host_rewrite", |d| d.error("is not supported"));
            None
        }
    }
}

fn redirect(proto: &route::RedirectAction, d: &mut Diagnostics) -> Option<Redirect> {
    use route::redirect_action::{PathRewriteSpecifier as Path, RedirectResponseCode as Code, SchemeRewriteSpecifier};
    let status = match variant::<Code>(proto.response_code, "response_code", d)? {
        Code::MovedPermanently => 301,
        Code::Found => 302,
        Code::SeeOther => 303,
        Code::TemporaryRedirect => 307,
        Code::PermanentRedirect => 308,
    };
    let scheme = match &proto.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(on)) => on.then_some(Scheme::Https),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => match scheme.to_ascii_lowercase().as_str() {
            "" => None,
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            other => {
                d.at("scheme_redirect", |d| d.error(format!("{other:?} is neither http nor https")));
                None
            }
        },
        None => None,
    };
    let port = u16::try_from(proto.port_redirect);
    if port.is_err() {
        d.at("port_redirect", |d| d.error("is not a port number up to 65535"));
    }
    let path = match &proto.path_rewrite_specifier {
        Some(Path::PathRedirect(path)) => Some(RedirectPath::Full(d.at("path_redirect", |d| text(path, d)))),
        Some(Path::PrefixRewrite(prefix)) => Some(RedirectPath::Prefix(d.at("prefix_rewrite", |d| text(prefix, d)))),
        Some(Path::RegexRewrite(proto)) => d
            .at("regex_rewrite", |d| rewrite(proto, d))
            .map(|(regex, substitution)| RedirectPath::Regex { regex, substitution }),
        Some(Path::PathRewrite(_)) => {
            d.at("path_rewrite", |d| d.error("is not supported"));
            None
        }
        None => None,
    };
    let host = &proto.host_redirect;
    let host = (!host.is_empty()).then(|| d.at("host_redirect", |d| text(host, d)));
    Some(Redirect {
        status,
        scheme,
        host,
        port: port.ok().filter(|port| *port > 0),
        path,
        strip_query: proto.strip_query,
    })
}

fn direct_response(
    proto: &route::DirectResponseAction,
    around: &Around<'_>,
    d: &mut Diagnostics,
) -> Option<DirectResponse> {
    let status = u16::try_from(proto.status).ok().filter(|status| (200..600).contains(status));
    if status.is_none() {
        d.at("status", |d| d.error("is not between 200 and 599"));
    }
    let body = match &proto.body {
        Some(source) => d.at("body", |d| data_source(source, around.direct_body_bytes_max, d)),
        None => Some(Bytes::new()),
    };
    let format = match &proto.body_format {
        Some(format) => Some(d.at("body_format", |d| body_format(format, d))?),
        None => None,
    };
    Some(DirectResponse { status: status?, body: body?, body_format: format })
}
