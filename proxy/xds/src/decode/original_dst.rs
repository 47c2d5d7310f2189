//! ORIGINAL_DST clusters, and `BindConfig`.

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_config::{OriginalDst, UpstreamBind};
use outrigger_proto::pb;
use pb::envoy::config::cluster::v3::{self as cluster, cluster as legacy};
use pb::envoy::config::core::v3 as core;

use super::common::{duration, socket_address};
use super::socket::socket_options;
use crate::Diagnostics;

pub(super) fn original_dst(proto: &cluster::Cluster, d: &mut Diagnostics) -> OriginalDst {
    const CLEANUP: Duration = Duration::from_secs(5);
    if proto.load_assignment.is_some() {
        d.at("load_assignment", |d| d.error("is set for an ORIGINAL_DST cluster"));
    }
    if proto.load_balancing_policy.is_none() && proto.lb_policy != legacy::LbPolicy::ClusterProvided as i32 {
        d.at("lb_policy", |d| d.error("is not CLUSTER_PROVIDED, as it must be for an ORIGINAL_DST cluster"));
    }
    let port = match &proto.lb_config {
        Some(legacy::LbConfig::OriginalDstLbConfig(config)) => config.upstream_port_override.map(|port| port.value),
        _ => None,
    };
    let valid = port.and_then(|port| u16::try_from(port).ok());
    if port.is_some() && valid.is_none_or(|port| port == 0) {
        d.at("original_dst_lb_config", |d| d.at("upstream_port_override", |d| d.error("is not a port number")));
    }
    let cleanup = duration(proto.cleanup_interval.as_ref(), "cleanup_interval", d);
    OriginalDst { port: valid, cleanup_interval: cleanup.filter(|time| !time.is_zero()).unwrap_or(CLEANUP) }
}

pub(super) fn bind(proto: &core::BindConfig, d: &mut Diagnostics) -> UpstreamBind {
    let mut sources = Vec::new();
    sources.extend(proto.source_address.as_ref().and_then(|address| d.at("source_address", |d| source(address, d))));
    for (index, extra) in proto.extra_source_addresses.iter().enumerate() {
        let found = d.at_index("extra_source_addresses", index, |d| {
            d.at("address", |d| extra.address.as_ref().and_then(|address| source(address, d)))
        });
        sources.extend(found);
    }
    UpstreamBind {
        sources,
        freebind: proto.freebind.is_some_and(|flag| flag.value),
        options: socket_options(&proto.socket_options, d),
    }
}

fn source(proto: &core::SocketAddress, d: &mut Diagnostics) -> Option<SocketAddr> {
    let address = core::Address { address: Some(core::address::Address::SocketAddress(proto.clone())) };
    socket_address(Some(&address), d).map(|(address, _)| address)
}
