//! `RetryPolicy` of a route or a virtual host.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{BackOff, HostPredicates, RateLimitedBackOff, ResetFormat, RetryOn, RetryPolicy};
use outrigger_proto::pb;
use outrigger_proto::type_url::message_name;
use pb::envoy::config::route::v3 as route;
use pb::envoy::extensions::retry;
use prost::Name;
use retry::host::previous_hosts::v3::PreviousHostsPredicate;
use retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;

use super::access_log::message;
use super::common::{duration, number, timeout_or, variant};
use super::matcher::{header, header_name};
use crate::Diagnostics;

/// A policy with more retries is a mistake, and a danger to the origin.
const RETRIES_MAX: u32 = 1000;
/// How often another host is looked for at most.
const ATTEMPTS_MAX: i64 = 100;

/// The route's own policy, else that of the virtual host.
pub(crate) fn policy(proto: Option<&route::RetryPolicy>, d: &mut Diagnostics) -> Option<Arc<RetryPolicy>> {
    let proto = proto?;
    d.at("retry_policy", |d| decode(proto, d).map(Arc::new))
}

fn decode(proto: &route::RetryPolicy, d: &mut Diagnostics) -> Option<RetryPolicy> {
    let (on, unknown) = RetryOn::parse(&proto.retry_on);
    if let Some(word) = unknown {
        let text = format!("{word:?} is no condition, and has no effect");
        d.at("retry_on", |d| d.warn(text));
    }
    let status_codes = proto.retriable_status_codes.iter().enumerate().filter_map(|(index, code)| {
        let code = u16::try_from(*code).ok().filter(|code| (100..600).contains(code));
        if code.is_none() {
            d.at_index("retriable_status_codes", index, |d| d.error("is no status"));
        }
        code
    });
    let status_codes = status_codes.collect();
    let mut headers = |protos: &[route::HeaderMatcher], field: &'static str| {
        let protos = protos.iter().enumerate();
        protos.filter_map(|(index, proto)| d.at_index(field, index, |d| header(proto, d))).collect()
    };
    let response_headers = headers(&proto.retriable_headers, "retriable_headers");
    let request_headers = headers(&proto.retriable_request_headers, "retriable_request_headers");
    Some(RetryPolicy {
        on,
        retries: number(proto.num_retries, 1, 0..=RETRIES_MAX, "num_retries", d),
        per_try_timeout: timeout_or(proto.per_try_timeout.as_ref(), None, "per_try_timeout", d),
        per_try_idle_timeout: timeout_or(proto.per_try_idle_timeout.as_ref(), None, "per_try_idle_timeout", d),
        back_off: back_off(proto.retry_back_off.as_ref(), d),
        rate_limited: rate_limited(proto.rate_limited_retry_back_off.as_ref(), d),
        status_codes,
        headers: response_headers,
        request_headers,
        hosts: hosts(proto, d),
        previous_priorities: priorities(proto.retry_priority.as_ref(), d),
    })
}

fn back_off(proto: Option<&route::retry_policy::RetryBackOff>, d: &mut Diagnostics) -> BackOff {
    let Some(proto) = proto else { return BackOff::default() };
    d.at("retry_back_off", |d| {
        let base = duration(proto.base_interval.as_ref(), "base_interval", d).unwrap_or_default();
        if base.is_zero() {
            d.at("base_interval", |d| d.error("is required, above 0 s"));
        }
        let base = base.max(Duration::from_millis(1));
        let max = duration(proto.max_interval.as_ref(), "max_interval", d).unwrap_or(base.saturating_mul(10));
        if max < base {
            d.at("max_interval", |d| d.error("is less than base_interval"));
        }
        BackOff { base, max }
    })
}

fn rate_limited(
    proto: Option<&route::retry_policy::RateLimitedRetryBackOff>,
    d: &mut Diagnostics,
) -> Option<RateLimitedBackOff> {
    use route::retry_policy::ResetHeaderFormat as Format;
    const MAX: Duration = Duration::from_secs(300);
    let proto = proto?;
    d.at("rate_limited_retry_back_off", |d| {
        if proto.reset_headers.is_empty() {
            d.at("reset_headers", |d| d.error("is required"));
        }
        let headers = proto.reset_headers.iter().enumerate().filter_map(|(index, proto)| {
            d.at_index("reset_headers", index, |d| {
                let name = d.at("name", |d| header_name(&proto.name, d));
                let format = match variant::<Format>(proto.format, "format", d)? {
                    Format::Seconds => ResetFormat::Seconds,
                    Format::UnixTimestamp => ResetFormat::UnixTimestamp,
                };
                Some((name?, format))
            })
        });
        let headers = headers.collect();
        let max = duration(proto.max_interval.as_ref(), "max_interval", d).unwrap_or(MAX);
        if max.is_zero() {
            d.at("max_interval", |d| d.error("is not above 0 s"));
        }
        Some(RateLimitedBackOff { headers, max })
    })
}

fn hosts(proto: &route::RetryPolicy, d: &mut Diagnostics) -> HostPredicates {
    use route::retry_policy::retry_host_predicate::ConfigType;
    let attempts = match proto.host_selection_retry_max_attempts {
        0 => 1,
        attempts if (1..=ATTEMPTS_MAX).contains(&attempts) => u32::try_from(attempts).unwrap_or(1),
        attempts => {
            let text = format!("{attempts} is not between 0 and {ATTEMPTS_MAX}");
            d.at("host_selection_retry_max_attempts", |d| d.error(text));
            1
        }
    };
    let mut predicates = HostPredicates { previous: false, attempts };
    for (index, predicate) in proto.retry_host_predicate.iter().enumerate() {
        d.at_index("retry_host_predicate", index, |d| match &predicate.config_type {
            Some(ConfigType::TypedConfig(config))
                if message_name(&config.type_url) == PreviousHostsPredicate::full_name() =>
            {
                predicates.previous = true;
            }
            Some(ConfigType::TypedConfig(config)) => {
                let kind = message_name(&config.type_url).to_owned();
                d.at("typed_config", |d| d.error(format!("type {kind} is not supported, only PreviousHostsPredicate")));
            }
            // By its name only, as older control planes send it.
            None if predicate.name == "envoy.retry_host_predicates.previous_hosts" => predicates.previous = true,
            None => d.at("typed_config", |d| d.error("is required")),
        });
    }
    predicates
}

fn priorities(proto: Option<&route::retry_policy::RetryPriority>, d: &mut Diagnostics) -> Option<u32> {
    use route::retry_policy::retry_priority::ConfigType;
    let proto = proto?;
    d.at("retry_priority", |d| {
        let Some(ConfigType::TypedConfig(config)) = &proto.config_type else {
            d.at("typed_config", |d| d.error("is required"));
            return None;
        };
        d.at("typed_config", |d| {
            if message_name(&config.type_url) != PreviousPrioritiesConfig::full_name() {
                d.error("is not supported, only PreviousPrioritiesConfig");
                return None;
            }
            let config: PreviousPrioritiesConfig = message(config, d)?;
            let frequency = u32::try_from(config.update_frequency).ok().filter(|frequency| *frequency > 0);
            if frequency.is_none() {
                d.at("update_frequency", |d| d.error("is not above 0"));
            }
            frequency
        })
    })
}
