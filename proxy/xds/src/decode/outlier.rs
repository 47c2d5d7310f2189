//! `OutlierDetection`.

use std::time::Duration;

use outrigger_config::{FailurePercentage, OutlierDetection, Rule, SuccessRate};
use outrigger_proto::pb;
use pb::envoy::config::cluster::v3 as cluster;
use pb::google::protobuf::{self, UInt32Value};

use super::common::{duration, flag, number};
use crate::Diagnostics;

pub(crate) fn decode(proto: &cluster::OutlierDetection, d: &mut Diagnostics) -> OutlierDetection {
    let default = OutlierDetection::default();
    let time = |value: Option<&protobuf::Duration>, default: Duration, field, d: &mut Diagnostics| {
        duration(value, field, d).unwrap_or(default)
    };
    let interval = time(proto.interval.as_ref(), default.interval, "interval", d);
    let base_ejection_time =
        time(proto.base_ejection_time.as_ref(), default.base_ejection_time, "base_ejection_time", d);
    for (field, value) in [("interval", interval), ("base_ejection_time", base_ejection_time)] {
        if value.is_zero() {
            d.at(field, |d| d.error("is zero"));
        }
    }
    let longest = default.max_ejection_time.max(base_ejection_time);
    OutlierDetection {
        interval,
        base_ejection_time,
        max_ejection_time: time(proto.max_ejection_time.as_ref(), longest, "max_ejection_time", d),
        max_ejection_time_jitter: time(
            proto.max_ejection_time_jitter.as_ref(),
            Duration::ZERO,
            "max_ejection_time_jitter",
            d,
        ),
        max_ejection_percent: percent(
            proto.max_ejection_percent,
            default.max_ejection_percent,
            "max_ejection_percent",
            d,
        ),
        always_eject_one: flag(proto.always_eject_one_host, false),
        consecutive_5xx: Rule {
            threshold: value(proto.consecutive_5xx, default.consecutive_5xx.threshold),
            enforcing: percent(proto.enforcing_consecutive_5xx, 100, "enforcing_consecutive_5xx", d),
        },
        consecutive_gateway_failure: Rule {
            threshold: value(proto.consecutive_gateway_failure, default.consecutive_gateway_failure.threshold),
            enforcing: percent(
                proto.enforcing_consecutive_gateway_failure,
                0,
                "enforcing_consecutive_gateway_failure",
                d,
            ),
        },
        consecutive_local_origin_failure: Rule {
            threshold: value(
                proto.consecutive_local_origin_failure,
                default.consecutive_local_origin_failure.threshold,
            ),
            enforcing: percent(
                proto.enforcing_consecutive_local_origin_failure,
                100,
                "enforcing_consecutive_local_origin_failure",
                d,
            ),
        },
        split: proto.split_external_local_origin_errors,
        success_rate: success_rate(proto, d),
        failure_percentage: failure_percentage(proto, d),
        uneject_when_healthy: flag(proto.successful_active_health_check_uneject_host, true),
    }
}

fn success_rate(proto: &cluster::OutlierDetection, d: &mut Diagnostics) -> SuccessRate {
    let default = OutlierDetection::default().success_rate;
    SuccessRate {
        minimum_hosts: value(proto.success_rate_minimum_hosts, default.minimum_hosts),
        request_volume: value(proto.success_rate_request_volume, default.request_volume),
        stdev_factor: value(proto.success_rate_stdev_factor, default.stdev_factor),
        enforcing: percent(proto.enforcing_success_rate, default.enforcing, "enforcing_success_rate", d),
        enforcing_local_origin: percent(
            proto.enforcing_local_origin_success_rate,
            default.enforcing_local_origin,
            "enforcing_local_origin_success_rate",
            d,
        ),
    }
}

fn failure_percentage(proto: &cluster::OutlierDetection, d: &mut Diagnostics) -> FailurePercentage {
    let default = OutlierDetection::default().failure_percentage;
    FailurePercentage {
        threshold: percent(proto.failure_percentage_threshold, default.threshold, "failure_percentage_threshold", d),
        minimum_hosts: value(proto.failure_percentage_minimum_hosts, default.minimum_hosts),
        request_volume: value(proto.failure_percentage_request_volume, default.request_volume),
        enforcing: percent(proto.enforcing_failure_percentage, default.enforcing, "enforcing_failure_percentage", d),
        enforcing_local_origin: percent(
            proto.enforcing_failure_percentage_local_origin,
            default.enforcing_local_origin,
            "enforcing_failure_percentage_local_origin",
            d,
        ),
    }
}

fn value(value: Option<UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

fn percent(value: Option<UInt32Value>, default: u32, field: &'static str, d: &mut Diagnostics) -> u32 {
    number(value, default, 0..=100, field, d)
}
