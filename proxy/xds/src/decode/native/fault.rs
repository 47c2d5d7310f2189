//! `HTTPFault`, of the filter and of a scope alike.

use std::sync::Arc;

use outrigger_config::{ActiveCount, Fault, FaultAbort, FaultDelay, Fraction};
use outrigger_proto::pb;
use pb::envoy::extensions::filters::common::fault::v3 as common;
use pb::envoy::extensions::filters::http::fault::v3 as proto;
use pb::envoy::r#type::v3::FractionalPercent;

use super::super::common::duration;
use super::super::forward::fraction;
use super::super::matcher::header;
use crate::Diagnostics;

pub(super) fn fault(proto: &proto::HttpFault, d: &mut Diagnostics) -> Option<Arc<Fault>> {
    let delay = match &proto.delay {
        Some(proto) => Some(d.at("delay", |d| delay(proto, d))?),
        None => None,
    };
    let abort = match &proto.abort {
        Some(proto) => Some(d.at("abort", |d| abort(proto, d))?),
        None => None,
    };
    let matchers = proto.headers.iter().enumerate();
    let headers: Vec<_> = matchers.map(|(index, proto)| d.at_index("headers", index, |d| header(proto, d))).collect();
    Some(Arc::new(Fault {
        delay,
        abort,
        upstream_cluster: (!proto.upstream_cluster.is_empty()).then(|| Arc::from(proto.upstream_cluster.as_str())),
        headers: headers.into_iter().collect::<Option<_>>()?,
        downstream_nodes: proto.downstream_nodes.clone(),
        active: ActiveCount::new(proto.max_active_faults.map(|max| u64::from(max.value))),
    }))
}

fn percentage(proto: Option<&FractionalPercent>, d: &mut Diagnostics) -> Option<Fraction> {
    match proto {
        Some(proto) => d.at("percentage", |d| fraction(proto, d)),
        // None of the requests unless it is set, as in Envoy.
        None => Some(Fraction::NONE),
    }
}

fn delay(proto: &common::FaultDelay, d: &mut Diagnostics) -> Option<(FaultDelay, Fraction)> {
    use common::fault_delay::FaultDelaySecifier;
    let share = percentage(proto.percentage.as_ref(), d)?;
    let delay = match &proto.fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(fixed)) => {
            let fixed = duration(Some(fixed), "fixed_delay", d)?;
            if fixed.is_zero() {
                d.at("fixed_delay", |d| d.error("is not above 0 s"));
            }
            FaultDelay::Fixed(fixed)
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => FaultDelay::Header,
        None => {
            d.error("names no delay: fixed_delay or header_delay");
            return None;
        }
    };
    Some((delay, share))
}

fn abort(proto: &proto::FaultAbort, d: &mut Diagnostics) -> Option<(FaultAbort, Fraction)> {
    use proto::fault_abort::ErrorType;
    let share = percentage(proto.percentage.as_ref(), d)?;
    let abort = match proto.error_type {
        Some(ErrorType::HttpStatus(status)) => {
            let status = u16::try_from(status).ok().filter(|status| (200..600).contains(status));
            if status.is_none() {
                d.at("http_status", |d| d.error("is not between 200 and 599"));
            }
            FaultAbort::Status(status?)
        }
        Some(ErrorType::GrpcStatus(status)) => FaultAbort::Grpc(status),
        Some(ErrorType::HeaderAbort(_)) => FaultAbort::Header,
        None => {
            d.error("names no error: http_status, grpc_status or header_abort");
            return None;
        }
    };
    Some((abort, share))
}
