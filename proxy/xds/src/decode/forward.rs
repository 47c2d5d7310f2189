//! Parts of a route's `route` action: time, hashing, mirrors.

use bytes::Bytes;
use outrigger_config::{
    Fraction, GrpcTimeout, HashCookie, HashFrom, HashPolicy, MaxStreamDuration, Mirror, MirrorCluster, RoutingPriority,
};
use outrigger_proto::pb;
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::route::v3 as route;
use pb::envoy::r#type::v3 as kind;
use route::route_action::{HashPolicy as HashProto, RequestMirrorPolicy};

use super::common::{duration, name, variant};
use super::matcher::{header_name, rewrite};
use crate::Diagnostics;

/// Copies of one request.
const MIRRORS_MAX: usize = 16;

pub(crate) fn max_stream_duration(
    proto: Option<&route::route_action::MaxStreamDuration>,
    d: &mut Diagnostics,
) -> MaxStreamDuration {
    let Some(proto) = proto else { return MaxStreamDuration::default() };
    d.at("max_stream_duration", |d| MaxStreamDuration {
        set: true,
        max: duration(proto.max_stream_duration.as_ref(), "max_stream_duration", d),
        grpc_header_max: duration(proto.grpc_timeout_header_max.as_ref(), "grpc_timeout_header_max", d),
        grpc_header_offset: duration(proto.grpc_timeout_header_offset.as_ref(), "grpc_timeout_header_offset", d),
    })
}

#[expect(deprecated, reason = "the older form is still in use")]
pub(crate) fn grpc_timeout(proto: &route::RouteAction, d: &mut Diagnostics) -> Option<GrpcTimeout> {
    let max = duration(proto.max_grpc_timeout.as_ref(), "max_grpc_timeout", d)?;
    Some(GrpcTimeout { max, offset: duration(proto.grpc_timeout_offset.as_ref(), "grpc_timeout_offset", d) })
}

pub(crate) fn priority(proto: i32, d: &mut Diagnostics) -> RoutingPriority {
    match variant(proto, "priority", d) {
        Some(core::RoutingPriority::High) => RoutingPriority::High,
        Some(core::RoutingPriority::Default) | None => RoutingPriority::Default,
    }
}

/// A fraction; there is no runtime that could overrule its default.
pub(crate) fn runtime_fraction(proto: &core::RuntimeFractionalPercent, d: &mut Diagnostics) -> Option<Fraction> {
    let Some(default) = &proto.default_value else {
        d.at("default_value", |d| d.error("is required"));
        return None;
    };
    d.at("default_value", |d| fraction(default, d))
}

pub(crate) fn fraction(proto: &kind::FractionalPercent, d: &mut Diagnostics) -> Option<Fraction> {
    use kind::fractional_percent::DenominatorType as Denominator;
    let denominator = match variant::<Denominator>(proto.denominator, "denominator", d)? {
        Denominator::Hundred => 100,
        Denominator::TenThousand => 10_000,
        Denominator::Million => 1_000_000,
    };
    Some(Fraction { numerator: proto.numerator, denominator })
}

pub(crate) fn mirrors(protos: &[RequestMirrorPolicy], d: &mut Diagnostics) -> Vec<Mirror> {
    if protos.len() > MIRRORS_MAX {
        d.at("request_mirror_policies", |d| d.error(format!("are more than {MIRRORS_MAX}")));
    }
    let protos = protos.iter().enumerate();
    protos.filter_map(|(index, proto)| d.at_index("request_mirror_policies", index, |d| mirror(proto, d))).collect()
}

fn mirror(proto: &RequestMirrorPolicy, d: &mut Diagnostics) -> Option<Mirror> {
    let cluster = match (proto.cluster.as_str(), proto.cluster_header.as_str()) {
        (_, "") => MirrorCluster::Named(name(&proto.cluster, "cluster", d)),
        ("", header) => MirrorCluster::Header(d.at("cluster_header", |d| header_name(header, d))?),
        _ => {
            d.at("cluster_header", |d| d.error("is set together with cluster"));
            return None;
        }
    };
    let fraction = match &proto.runtime_fraction {
        Some(proto) => d.at("runtime_fraction", |d| runtime_fraction(proto, d))?,
        None => Fraction::ALL,
    };
    Some(Mirror { cluster, fraction, host_suffix: !proto.disable_shadow_host_suffix_append })
}

pub(crate) fn hash_policies(protos: &[HashProto], d: &mut Diagnostics) -> Vec<HashPolicy> {
    let protos = protos.iter().enumerate();
    let decoded = protos.filter_map(|(index, proto)| {
        d.at_index("hash_policy", index, |d| {
            hash_from(proto, d).map(|from| HashPolicy { from, terminal: proto.terminal })
        })
    });
    decoded.collect()
}

fn hash_from(proto: &HashProto, d: &mut Diagnostics) -> Option<HashFrom> {
    use route::route_action::hash_policy::PolicySpecifier as Specifier;
    match &proto.policy_specifier {
        Some(Specifier::Header(header)) => d.at("header", |d| {
            let name = d.at("header_name", |d| header_name(&header.header_name, d))?;
            let rewrite = match &header.regex_rewrite {
                Some(proto) => Some(d.at("regex_rewrite", |d| rewrite(proto, d))?),
                None => None,
            };
            Some(HashFrom::Header { name, rewrite })
        }),
        Some(Specifier::Cookie(proto)) => d.at("cookie", |d| cookie(proto, d)).map(HashFrom::Cookie),
        Some(Specifier::ConnectionProperties(properties)) if properties.source_ip => Some(HashFrom::SourceIp),
        Some(Specifier::ConnectionProperties(_)) => {
            d.at("connection_properties", |d| d.error("names no property"));
            None
        }
        Some(Specifier::QueryParameter(parameter)) => {
            d.at("query_parameter", |d| name(&parameter.name, "name", d));
            Some(HashFrom::Query(Bytes::copy_from_slice(parameter.name.as_bytes())))
        }
        Some(Specifier::FilterState(state)) => {
            d.at("filter_state", |d| name(&state.key, "key", d));
            Some(HashFrom::FilterState(state.key.clone()))
        }
        None => {
            d.error("names nothing to hash");
            None
        }
    }
}

fn cookie(proto: &route::route_action::hash_policy::Cookie, d: &mut Diagnostics) -> Option<HashCookie> {
    let token = !proto.name.is_empty() && proto.name.bytes().all(outrigger_http::is_token_byte);
    if !token {
        d.at("name", |d| d.error(format!("{:?} is no name of a cookie", proto.name)));
        return None;
    }
    let safe = |text: &str| !text.bytes().any(|byte| byte < b' ' || byte == b';' || byte == 0x7f);
    if !safe(&proto.path) {
        d.at("path", |d| d.error("holds a semicolon or a control character"));
    }
    let mut attributes = String::new();
    for (index, attribute) in proto.attributes.iter().enumerate() {
        if attribute.name.is_empty() || !safe(&attribute.name) || !safe(&attribute.value) {
            d.at_index("attributes", index, |d| d.error("has no name, a semicolon or a control character"));
        }
        attributes.push_str("; ");
        attributes.push_str(&attribute.name);
        if !attribute.value.is_empty() {
            attributes.push('=');
            attributes.push_str(&attribute.value);
        }
    }
    Some(HashCookie {
        name: Bytes::copy_from_slice(proto.name.as_bytes()),
        ttl: duration(proto.ttl.as_ref(), "ttl", d),
        path: Bytes::copy_from_slice(proto.path.as_bytes()),
        attributes: attributes.into(),
    })
}
