//! `LocalRateLimit`, of the filter and of a scope alike.

use std::sync::Arc;
use std::time::Duration;

use common::VhRateLimitsOptions;
use outrigger_config::{
    Fraction, HostLimits, LimitAction, LimitActions, LimitDescriptor, LocalRateLimit, RateLimit, TokenBucket,
};
use outrigger_proto::pb;
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::route::v3 as route;
use pb::envoy::extensions::common::ratelimit::v3 as common;
use pb::envoy::extensions::filters::http::local_ratelimit::v3 as proto;
use pb::envoy::r#type::v3 as kind;
use route::rate_limit::action::ActionSpecifier;

use super::super::common::{duration, flag, name, variant};
use super::super::forward::runtime_fraction;
use super::super::matcher::{header, header_name};
use super::super::mutation::header_value;
use crate::Diagnostics;

/// Envoy's bound.
const FILL_INTERVAL_MIN: Duration = Duration::from_millis(50);
const DESCRIPTORS_MAX: usize = 1000;
const STAGE_MAX: u32 = 10;

pub(super) fn limit(proto: &proto::LocalRateLimit, d: &mut Diagnostics) -> Option<Arc<LocalRateLimit>> {
    let stat_prefix = name(&proto.stat_prefix, "stat_prefix", d);
    let status = proto.status.map_or(429, |status| status.code);
    // As Envoy: what is no error is the default.
    let status = u16::try_from(status).ok().filter(|status| (400..600).contains(status)).unwrap_or(429);
    let bucket = proto.token_bucket.as_ref().map(|proto| d.at("token_bucket", |d| bucket(proto, d)));
    if proto.descriptors.len() > DESCRIPTORS_MAX {
        d.at("descriptors", |d| d.error(format!("are more than {DESCRIPTORS_MAX}")));
    }
    let descriptors = proto.descriptors.iter().enumerate();
    let descriptors =
        descriptors.filter_map(|(index, proto)| d.at_index("descriptors", index, |d| descriptor(proto, d)));
    let descriptors: Vec<LimitDescriptor> = descriptors.collect();
    let actions = proto.rate_limits.iter().enumerate();
    let actions: Vec<LimitActions> =
        actions.filter_map(|(index, proto)| d.at_index("rate_limits", index, |d| limit_actions(proto, d))).collect();
    let host_limits = match variant::<VhRateLimitsOptions>(proto.vh_rate_limits, "vh_rate_limits", d)? {
        VhRateLimitsOptions::Override => HostLimits::Override,
        VhRateLimitsOptions::Include => HostLimits::Include,
        VhRateLimitsOptions::Ignore => HostLimits::Ignore,
    };
    Some(Arc::new(LocalRateLimit {
        stat_prefix,
        status,
        bucket: match bucket {
            Some(bucket) => Some(bucket?),
            None => None,
        },
        enabled: fraction(proto.filter_enabled.as_ref(), "filter_enabled", d),
        enforced: fraction(proto.filter_enforced.as_ref(), "filter_enforced", d),
        request_headers: headers(
            &proto.request_headers_to_add_when_not_enforced,
            "request_headers_to_add_when_not_enforced",
            d,
        ),
        response_headers: headers(&proto.response_headers_to_add, "response_headers_to_add", d),
        descriptors,
        actions,
        stage: stage(proto.stage, d),
        host_limits,
        takes_from_both: flag(proto.always_consume_default_token_bucket, true),
        resource_exhausted: proto.rate_limited_as_resource_exhausted,
    }))
}

/// None of the requests unless it is set, as in Envoy.
fn fraction(proto: Option<&core::RuntimeFractionalPercent>, field: &'static str, d: &mut Diagnostics) -> Fraction {
    match proto {
        Some(proto) => d.at(field, |d| runtime_fraction(proto, d)).unwrap_or(Fraction::ALL),
        None => Fraction::NONE,
    }
}

fn headers(
    protos: &[core::HeaderValueOption],
    field: &'static str,
    d: &mut Diagnostics,
) -> outrigger_config::HeaderMutations {
    let protos = protos.iter().enumerate();
    let add = protos.filter_map(|(index, proto)| d.at_index(field, index, |d| header_value(proto, d))).collect();
    outrigger_config::HeaderMutations { remove: Vec::new(), add }
}

fn bucket(proto: &kind::TokenBucket, d: &mut Diagnostics) -> Option<TokenBucket> {
    let interval = duration(proto.fill_interval.as_ref(), "fill_interval", d).unwrap_or_default();
    if interval < FILL_INTERVAL_MIN {
        d.at("fill_interval", |d| d.error("is required, of 50 ms at least"));
        return None;
    }
    let per_fill = proto.tokens_per_fill.map_or(1, |tokens| tokens.value);
    if proto.max_tokens == 0 || per_fill == 0 {
        let field = if proto.max_tokens == 0 { "max_tokens" } else { "tokens_per_fill" };
        d.at(field, |d| d.error("is not above 0"));
        return None;
    }
    Some(TokenBucket::new(proto.max_tokens, per_fill, interval))
}

fn descriptor(proto: &common::LocalRateLimitDescriptor, d: &mut Diagnostics) -> Option<LimitDescriptor> {
    if proto.entries.is_empty() {
        d.at("entries", |d| d.error("is required"));
    }
    let entries = proto.entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
    let Some(bucket_proto) = &proto.token_bucket else {
        d.at("token_bucket", |d| d.error("is required"));
        return None;
    };
    Some(LimitDescriptor { entries, bucket: d.at("token_bucket", |d| bucket(bucket_proto, d))? })
}

/// `rate_limits` of a route or a virtual host.
pub(crate) fn rate_limits(protos: &[route::RateLimit], d: &mut Diagnostics) -> Vec<RateLimit> {
    let decoded = protos.iter().enumerate().filter_map(|(index, proto)| {
        d.at_index("rate_limits", index, |d| {
            let stage = stage(proto.stage.map_or(0, |stage| stage.value), d);
            Some(RateLimit { stage, actions: limit_actions(proto, d)? })
        })
    });
    decoded.collect()
}

/// Envoy's bound.
fn stage(stage: u32, d: &mut Diagnostics) -> u32 {
    if stage > STAGE_MAX {
        d.at("stage", |d| d.error(format!("{stage} is more than {STAGE_MAX}")));
    }
    stage
}

fn limit_actions(proto: &route::RateLimit, d: &mut Diagnostics) -> Option<LimitActions> {
    if proto.actions.is_empty() {
        d.at("actions", |d| d.error("is required"));
    }
    let actions = proto.actions.iter().enumerate();
    let decoded: Vec<Option<LimitAction>> =
        actions.map(|(index, proto)| d.at_index("actions", index, |d| action(proto, d))).collect();
    decoded.into_iter().collect()
}

fn action(proto: &route::rate_limit::Action, d: &mut Diagnostics) -> Option<LimitAction> {
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    match &proto.action_specifier {
        Some(ActionSpecifier::GenericKey(key)) => d.at("generic_key", |d| {
            name(&key.descriptor_value, "descriptor_value", d);
            let (key, value) = (or(&key.descriptor_key, "generic_key"), key.descriptor_value.clone());
            Some(LimitAction::GenericKey { key, value })
        }),
        Some(ActionSpecifier::RequestHeaders(proto)) => d.at("request_headers", |d| {
            let key = name(&proto.descriptor_key, "descriptor_key", d).to_string();
            let name = d.at("header_name", |d| header_name(&proto.header_name, d))?;
            Some(LimitAction::RequestHeader { name, key, skip_if_absent: proto.skip_if_absent })
        }),
        Some(ActionSpecifier::RemoteAddress(_)) => Some(LimitAction::RemoteAddress),
        Some(ActionSpecifier::DestinationCluster(_)) => Some(LimitAction::DestinationCluster),
        Some(ActionSpecifier::HeaderValueMatch(proto)) => d.at("header_value_match", |d| {
            let matchers = proto.headers.iter().enumerate();
            let headers: Vec<_> =
                matchers.map(|(index, proto)| d.at_index("headers", index, |d| header(proto, d))).collect();
            Some(LimitAction::HeaderValueMatch {
                key: or(&proto.descriptor_key, "header_match"),
                value: proto.descriptor_value.clone(),
                expect: flag(proto.expect_match, true),
                headers: headers.into_iter().collect::<Option<_>>()?,
            })
        }),
        _ => {
            d.error("is not supported: generic_key, request_headers, remote_address, destination_cluster or header_value_match");
            None
        }
    }
}
