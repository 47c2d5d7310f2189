//! `config_discovery`: filters whose configuration is a resource of their name.

use std::sync::Arc;

use outrigger_config::{DiscoveredFilter, WasmPlugin};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::google::protobuf::Any;

use super::common::config_source;
use super::wasm;
use crate::Diagnostics;

/// Of an HTTP filter.
pub(super) fn filter(
    name: &Arc<str>,
    proto: &core::ExtensionConfigSource,
    d: &mut Diagnostics,
) -> Option<DiscoveredFilter> {
    of(name, proto, &[type_url::HTTP_WASM, type_url::OUTRIGGER_WASM], wasm::plugin, d)
}

/// Of a network filter.
pub(super) fn network_filter(
    name: &Arc<str>,
    proto: &core::ExtensionConfigSource,
    d: &mut Diagnostics,
) -> Option<DiscoveredFilter> {
    of(name, proto, &[type_url::NETWORK_WASM], wasm::network_plugin, d)
}

fn of(
    name: &Arc<str>,
    proto: &core::ExtensionConfigSource,
    possible: &[&str],
    plugin: fn(&Arc<str>, &Any, &mut Diagnostics) -> Option<Option<WasmPlugin>>,
    d: &mut Diagnostics,
) -> Option<DiscoveredFilter> {
    let source = d.at("config_source", |d| config_source(proto.config_source.as_ref(), d));
    if proto.type_urls.is_empty() {
        d.at("type_urls", |d| d.error("is required"));
    }
    let is_possible =
        |url: &String| possible.iter().any(|own| type_url::message_name(own) == type_url::message_name(url));
    if !proto.type_urls.is_empty() && !proto.type_urls.iter().any(is_possible) {
        d.at("type_urls", |d| d.error("names no supported type: only Wasm filters are discovered"));
    }
    let default = match &proto.default_config {
        None => None,
        Some(config) => d.at("default_config", |d| match plugin(name, config, d) {
            Some(plugin) => plugin.map(Arc::new),
            None => {
                let message = type_url::message_name(&config.type_url);
                d.error(format!("type {message} is not supported"));
                None
            }
        }),
    };
    let (from, initial_fetch_timeout) = source?;
    Some(DiscoveredFilter {
        default,
        apply_default_without_warming: proto.apply_default_config_without_warming,
        initial_fetch_timeout,
        type_urls: proto.type_urls.clone(),
        from,
    })
}
