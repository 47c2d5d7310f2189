//! Outlier detection (`envoy.config.cluster.v3.OutlierDetection`), with Envoy's defaults.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// 10 s unless set: how often statistics are judged and ejections end.
    pub interval: Duration,
    /// 30 s unless set, times the number of ejections.
    pub base_ejection_time: Duration,
    /// 300 s unless set, or `base_ejection_time` where that is longer.
    pub max_ejection_time: Duration,
    pub max_ejection_time_jitter: Duration,
    /// 10 % unless set; one may be ejected anyway where `always_eject_one` says so.
    pub max_ejection_percent: u32,
    pub always_eject_one: bool,
    pub consecutive_5xx: Rule,
    pub consecutive_gateway_failure: Rule,
    /// Where they are told apart: `split_external_local_origin_errors`.
    pub consecutive_local_origin_failure: Rule,
    pub split: bool,
    pub success_rate: SuccessRate,
    pub failure_percentage: FailurePercentage,
    /// `successful_active_health_check_uneject_host`: true unless set.
    pub uneject_when_healthy: bool,
}

/// A number in a row, and how often the consequence is drawn, in percent. A number of 0 turns it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub threshold: u32,
    pub enforcing: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessRate {
    pub minimum_hosts: u32,
    pub request_volume: u32,
    /// Thousandths.
    pub stdev_factor: u32,
    pub enforcing: u32,
    pub enforcing_local_origin: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    pub threshold: u32,
    pub minimum_hosts: u32,
    pub request_volume: u32,
    pub enforcing: u32,
    pub enforcing_local_origin: u32,
}

impl Default for OutlierDetection {
    fn default() -> OutlierDetection {
        OutlierDetection {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one: false,
            consecutive_5xx: Rule { threshold: 5, enforcing: 100 },
            consecutive_gateway_failure: Rule { threshold: 5, enforcing: 0 },
            consecutive_local_origin_failure: Rule { threshold: 5, enforcing: 100 },
            split: false,
            success_rate: SuccessRate {
                minimum_hosts: 5,
                request_volume: 100,
                stdev_factor: 1900,
                enforcing: 100,
                enforcing_local_origin: 100,
            },
            failure_percentage: FailurePercentage {
                threshold: 85,
                minimum_hosts: 5,
                request_volume: 50,
                enforcing: 0,
                enforcing_local_origin: 0,
            },
            uneject_when_healthy: true,
        }
    }
}
