//! `CorsPolicy` of a scope; the filter itself has no configuration.

use std::sync::Arc;

use outrigger_config::{CorsPolicy, Fraction, OverrideConfig};
use outrigger_proto::pb::envoy::extensions::filters::http::cors::v3 as proto;

use super::super::forward::runtime_fraction;
use super::super::matcher::string;
use super::rbac::header_text;
use crate::Diagnostics;

pub(super) fn policy(proto: &proto::CorsPolicy, d: &mut Diagnostics) -> Option<OverrideConfig> {
    let origins = proto.allow_origin_string_match.iter().enumerate();
    let origins = origins
        .filter_map(|(index, matcher)| d.at_index("allow_origin_string_match", index, |d| string(matcher, d)))
        .collect();
    let enabled = match &proto.filter_enabled {
        Some(proto) => d.at("filter_enabled", |d| runtime_fraction(proto, d))?,
        None => Fraction::ALL,
    };
    let shadow = match &proto.shadow_enabled {
        Some(proto) => d.at("shadow_enabled", |d| runtime_fraction(proto, d))?,
        None => Fraction::NONE,
    };
    let policy = CorsPolicy {
        origins,
        methods: header_text(&proto.allow_methods, "allow_methods", d),
        headers: header_text(&proto.allow_headers, "allow_headers", d),
        expose: header_text(&proto.expose_headers, "expose_headers", d),
        max_age: header_text(&proto.max_age, "max_age", d),
        credentials: proto.allow_credentials.map(|value| value.value),
        private_network: proto.allow_private_network_access.map(|value| value.value),
        forward_preflights: proto.forward_not_matching_preflights.map(|value| value.value),
        enabled,
        shadow,
    };
    Some(OverrideConfig::Cors(vec![Arc::new(policy)]))
}
