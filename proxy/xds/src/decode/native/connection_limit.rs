//! `ConnectionLimit`, a network filter.

use outrigger_config::{ActiveCount, ConnectionLimit};
use outrigger_proto::pb::envoy::extensions::filters::network::connection_limit::v3 as proto;

use super::super::common::{duration, name};
use crate::Diagnostics;

/// The outer `None`: there is something wrong; the inner: it is off.
pub(crate) fn limit(proto: &proto::ConnectionLimit, d: &mut Diagnostics) -> Option<Option<ConnectionLimit>> {
    let max = proto.max_connections.as_ref().map_or(0, |max| max.value);
    if max == 0 {
        d.at("max_connections", |d| d.error("is required, at least 1"));
    }
    let limit = ConnectionLimit {
        stat_prefix: name(&proto.stat_prefix, "stat_prefix", d),
        delay: duration(proto.delay.as_ref(), "delay", d).filter(|delay| !delay.is_zero()),
        active: ActiveCount::new(Some(max)),
    };
    let flag = proto.runtime_enabled.as_ref().and_then(|flag| flag.default_value);
    let enabled = flag.is_none_or(|flag| flag.value);
    (max > 0).then(|| enabled.then_some(limit))
}
