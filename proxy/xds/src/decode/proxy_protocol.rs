//! `ProxyProtocolUpstreamTransport`: endpoints are told who the client is.

use std::sync::Arc;

use outrigger_config::{ProxyProtocolVersion, UpstreamProxyProtocol, UpstreamTransport};
use outrigger_proto::pb;
use pb::envoy::config::core::v3 as core;
use pb::envoy::extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol;

use super::common::variant;
use super::tls::upstream_transport;
use crate::Diagnostics;

/// What a header of version 2 has beside addresses of IPv6 at most.
const VALUES_BYTES_MAX: usize = 65_535 - 36;

pub(super) fn upstream(
    proto: &proxy_protocol::ProxyProtocolUpstreamTransport,
    d: &mut Diagnostics,
) -> Option<UpstreamTransport> {
    use core::proxy_protocol_config::Version;
    if proto.transport_socket.is_none() {
        d.at("transport_socket", |d| d.error("is required"));
    }
    let inner = upstream_transport(proto.transport_socket.as_ref(), d)?;
    if inner.proxy_protocol.is_some() {
        d.at("transport_socket", |d| d.error("tells of the client a second time"));
    }
    let none = core::ProxyProtocolConfig::default();
    let config = proto.config.as_ref().unwrap_or(&none);
    d.at("config", |d| {
        let version = match variant::<Version>(config.version, "version", d)? {
            Version::V1 => ProxyProtocolVersion::V1,
            Version::V2 => ProxyProtocolVersion::V2,
        };
        let added = added(&config.added_tlvs, d);
        if version == ProxyProtocolVersion::V1 && !added.is_empty() {
            d.at("added_tlvs", |d| d.warn("version 1 tells none of them"));
        }
        let announced = UpstreamProxyProtocol { version, added };
        Some(UpstreamTransport { proxy_protocol: Some(Arc::new(announced)), tls: inner.tls })
    })
}

/// The first of a type counts, as in Envoy.
fn added(proto: &[core::TlvEntry], d: &mut Diagnostics) -> Vec<(u8, Box<[u8]>)> {
    let mut all: Vec<(u8, Box<[u8]>)> = Vec::new();
    for (index, entry) in proto.iter().enumerate() {
        d.at_index("added_tlvs", index, |d| {
            let Ok(kind) = u8::try_from(entry.r#type) else {
                d.at("type", |d| d.error("is more than 255"));
                return;
            };
            if entry.value.is_empty() {
                d.at("value", |d| d.error("is required"));
            }
            match all.iter().any(|(known, _)| *known == kind) {
                true => d.at("type", |d| d.warn("was there before: the first one counts")),
                false => all.push((kind, entry.value.as_slice().into())),
            }
        });
    }
    if all.iter().map(|(_, value)| 3 + value.len()).sum::<usize>() > VALUES_BYTES_MAX {
        d.at("added_tlvs", |d| d.error(format!("are more than {VALUES_BYTES_MAX} bytes")));
    }
    all
}
