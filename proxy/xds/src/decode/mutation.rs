//! Header changes, `typed_per_filter_config`, and substitution formats.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_config::{
    AppendAction, FilterOverride, Format, HeaderMutations, HeaderValueOption, OverrideConfig, OverrideNames, Overrides,
};
use outrigger_http::HeaderName;
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::route::v3 as route;
use pb::google::protobuf::Any;
use prost::Message;

use super::matcher::header_name;
use super::{native, wasm};
use crate::Diagnostics;

/// Whose headers change.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Request,
    Response,
}

/// The fields of one side.
pub(crate) fn mutations(
    what: Side,
    add: &[core::HeaderValueOption],
    remove: &[String],
    diagnostics: &mut Diagnostics,
) -> HeaderMutations {
    if add.is_empty() && remove.is_empty() {
        return HeaderMutations::default();
    }
    let (add_field, remove_field) = match what {
        Side::Request => ("request_headers_to_add", "request_headers_to_remove"),
        Side::Response => ("response_headers_to_add", "response_headers_to_remove"),
    };
    let add = add
        .iter()
        .enumerate()
        .filter_map(|(index, option)| diagnostics.at_index(add_field, index, |d| header_value(option, d)));
    let add = add.collect();
    let remove = remove
        .iter()
        .enumerate()
        .filter_map(|(index, name)| diagnostics.at_index(remove_field, index, |d| changeable(name, d)));
    HeaderMutations { remove: remove.collect(), add }
}

#[expect(deprecated, reason = "append is still in use")]
pub(crate) fn header_value(
    option: &core::HeaderValueOption,
    diagnostics: &mut Diagnostics,
) -> Option<HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction as Action;
    let Some(header) = &option.header else {
        diagnostics.at("header", |d| d.error("is required"));
        return None;
    };
    let name = diagnostics.at("header", |d| d.at("key", |d| changeable(&header.key, d)));
    let value = diagnostics.at("header", |d| d.at("value", |d| header_format(&header.value, d)));
    let action = super::common::variant::<Action>(option.append_action, "append_action", diagnostics);
    let action = match (option.append, action?) {
        (None, Action::AppendIfExistsOrAdd) => AppendAction::AppendIfExistsOrAdd,
        (None, Action::AddIfAbsent) => AppendAction::AddIfAbsent,
        (None, Action::OverwriteIfExistsOrAdd) => AppendAction::OverwriteIfExistsOrAdd,
        (None, Action::OverwriteIfExists) => AppendAction::OverwriteIfExists,
        (Some(append), Action::AppendIfExistsOrAdd) if append.value => AppendAction::AppendIfExistsOrAdd,
        (Some(_), Action::AppendIfExistsOrAdd) => AppendAction::OverwriteIfExistsOrAdd,
        (Some(_), _) => {
            diagnostics.at("append", |d| d.error("is set together with append_action"));
            return None;
        }
    };
    Some(HeaderValueOption { name: name?, value: value?, action, keep_empty_value: option.keep_empty_value })
}

/// The format of a header's value.
pub(crate) fn header_format(text: &str, diagnostics: &mut Diagnostics) -> Option<Format> {
    if !outrigger_http::valid_value(text.as_bytes()) {
        diagnostics.error("holds a line break or NUL");
        return None;
    }
    Format::parse_header(text).map_err(|error| diagnostics.error(error.to_string())).ok()
}

/// A header that configuration may change: no pseudo header, and not the host, which has its own rewrites.
pub(crate) fn changeable(name: &str, diagnostics: &mut Diagnostics) -> Option<HeaderName> {
    let parsed = header_name(name, diagnostics)?;
    if parsed == HeaderName::HOST {
        diagnostics.error("the host is changed by a host rewrite only");
        return None;
    }
    Some(parsed)
}

/// `typed_per_filter_config` of a scope within another.
pub(crate) fn overrides(
    configs: &HashMap<String, Any>,
    names: &OverrideNames,
    outer: &Overrides,
    diagnostics: &mut Diagnostics,
) -> Overrides {
    let mut filters: Vec<&String> = configs.keys().collect();
    filters.sort();
    let mut own = Vec::with_capacity(filters.len());
    for name in filters {
        let Some(config) = configs.get(name) else { continue };
        let found = diagnostics.at_key("typed_per_filter_config", name, |d| filter_override(config, d));
        if let Some(found) = found {
            own.push((Arc::from(name.as_str()), found));
        }
    }
    outer.with(names, own)
}

fn filter_override(config: &Any, diagnostics: &mut Diagnostics) -> Option<FilterOverride> {
    let message = type_url::message_name(&config.type_url);
    if message != type_url::message_name(type_url::FILTER_CONFIG) {
        return filter_config(config, false, diagnostics);
    }
    let filter = match route::FilterConfig::decode(&config.value[..]) {
        Ok(filter) => filter,
        Err(error) => {
            diagnostics.error(format!("malformed message: {error}"));
            return None;
        }
    };
    match &filter.config {
        None => Some(FilterOverride { disabled: filter.disabled, config: None }),
        // Envoy wants something there to switch a filter on; nothing in it is what says no more than that.
        Some(config) if config.type_url.is_empty() && config.value.is_empty() => {
            diagnostics.at("config", Diagnostics::ignored_here);
            Some(FilterOverride { disabled: filter.disabled, config: None })
        }
        Some(_) if filter.disabled => {
            diagnostics.at("config", Diagnostics::ignored_here);
            Some(FilterOverride { disabled: true, config: None })
        }
        Some(config) => diagnostics.at("config", |d| filter_config(config, filter.is_optional, d)),
    }
}

/// A filter's own configuration for a scope.
fn filter_config(config: &Any, optional: bool, d: &mut Diagnostics) -> Option<FilterOverride> {
    if let Some(own) = wasm::per_route(config, d) {
        return own.map(|own| FilterOverride { disabled: false, config: Some(OverrideConfig::Wasm(Arc::new(own))) });
    }
    if let Some(native) = native::per_route(config, d) {
        return native.map(|config| FilterOverride { disabled: false, config: Some(config) });
    }
    let message = type_url::message_name(&config.type_url);
    if optional {
        d.ignore(format!("type {message} is not supported here, and optional"));
    } else {
        d.error(format!("type {message} is not supported as a filter's configuration by route"));
    }
    None
}
