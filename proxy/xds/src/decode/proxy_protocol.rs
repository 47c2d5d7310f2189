//! `ProxyProtocolUpstreamTransport`: endpoints are told who the client is.

use std::sync::Arc;

use outrigger_config::{PassedEntries, ProxyProtocolVersion, UpstreamProxyProtocol, UpstreamTransport};
use outrigger_http::ProxyEntry;
use outrigger_proto::pb;
use pb::envoy::config::core::v3 as core;
use pb::envoy::extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol;

use super::common::{note_typed_metadata, variant};
use super::matcher::extension;
use super::tls::upstream_transport;
use crate::Diagnostics;

/// Where endpoints have their own entries.
const TYPED_METADATA: &str = "envoy.transport_sockets.proxy_protocol";
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
        let passed = passed(config.pass_through_tlvs.as_ref(), d);
        if version == ProxyProtocolVersion::V1 && !added.is_empty() {
            d.at("added_tlvs", |d| d.warn("version 1 tells none of them"));
        }
        let announced = UpstreamProxyProtocol { version, added, passed };
        Some(UpstreamTransport { proxy_protocol: Some(Arc::new(announced)), tls: inner.tls })
    })
}

fn added(proto: &[core::TlvEntry], d: &mut Diagnostics) -> Vec<ProxyEntry> {
    let mut all: Vec<ProxyEntry> = Vec::new();
    for (index, entry) in proto.iter().enumerate() {
        d.at_index("added_tlvs", index, |d| {
            let kind = d.at("type", |d| entry_type(entry.r#type, d));
            if entry.value.is_empty() && entry.format_string.is_none() {
                d.at("value", |d| d.error("is required"));
            }
            all.extend(kind.map(|kind| (kind, entry.value.as_slice().into())));
        });
    }
    if all.iter().map(|(_, value)| 3 + value.len()).sum::<usize>() > VALUES_BYTES_MAX {
        d.at("added_tlvs", |d| d.error(format!("are more than {VALUES_BYTES_MAX} bytes")));
    }
    all
}

/// What an endpoint is told, by its metadata.
pub(super) fn of_endpoint(proto: Option<&core::Metadata>, d: &mut Diagnostics) -> Box<[ProxyEntry]> {
    note_typed_metadata(proto, "metadata", TYPED_METADATA, d);
    let found = proto.and_then(|proto| proto.typed_filter_metadata.get(TYPED_METADATA));
    let Some(config) = found else { return Box::default() };
    d.at("metadata", |d| {
        d.at_key("typed_filter_metadata", TYPED_METADATA, |d| {
            let proto: Option<core::PerHostConfig> = extension(Some(config), d);
            proto.map(|proto| added(&proto.added_tlvs, d)).unwrap_or_default().into()
        })
    })
}

pub(super) fn entry_type(kind: u32, d: &mut Diagnostics) -> Option<u8> {
    u8::try_from(kind).map_err(|_| d.error("is more than 255")).ok()
}

pub(super) fn passed(proto: Option<&core::ProxyProtocolPassThroughTlVs>, d: &mut Diagnostics) -> PassedEntries {
    use core::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType;
    let Some(proto) = proto else { return PassedEntries::None };
    d.at("pass_through_tlvs", |d| {
        let kinds = proto.tlv_type.iter().enumerate();
        let kinds = kinds.filter_map(|(index, kind)| d.at_index("tlv_type", index, |d| entry_type(*kind, d))).collect();
        match variant::<PassTlVsMatchType>(proto.match_type, "match_type", d) {
            Some(PassTlVsMatchType::IncludeAll) => PassedEntries::All,
            Some(PassTlVsMatchType::Include) => PassedEntries::Of(kinds),
            None => PassedEntries::None,
        }
    })
}
