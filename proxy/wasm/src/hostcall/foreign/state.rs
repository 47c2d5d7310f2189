//! `set_envoy_filter_state` and `declare_property`: what filters store beyond `set_property`.

use bytes::Bytes;

use super::Arguments;
use crate::host::open;
use crate::hostcall::properties::store;
use crate::hostcall::{Cx, Stop};
use crate::property::Declared;
use crate::status::Status;
use outrigger_attributes::wire::Fields;

/// Keys that something in the proxy reads: Envoy's object factories. Any other is `NotFound`.
const KNOWN_KEYS: [&str; 8] = [
    "envoy.string",
    "envoy.hashable_string",
    "envoy.tcp_proxy.cluster",
    "envoy.tcp_proxy.per_connection_idle_timeout_ms",
    "envoy.network.application_protocols",
    "envoy.network.upstream_server_name",
    "envoy.network.upstream_subject_alt_names",
    "envoy.ratelimit.hits_addend",
];

const NAME_BYTES_MAX: usize = 256;
const DECLARED_MAX: usize = 128;

/// `SetEnvoyFilterStateArguments {path = 1, value = 2, span = 3}`. What is stored lives as long as its stream.
pub(super) fn set_envoy_filter_state(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let (mut path, mut value) = ("", &[][..]);
    for field in Fields::new(arguments.of(cx)?) {
        match field.map_err(|_| Status::BadArgument)? {
            (1, found) => path = found.text().ok_or(Status::BadArgument)?,
            (2, found) => value = found.bytes().ok_or(Status::BadArgument)?,
            _ => {}
        }
    }
    if !KNOWN_KEYS.contains(&path) {
        return Err(Status::NotFound.into());
    }
    let (path, value) = (path.to_owned(), Bytes::copy_from_slice(value));
    let (_, stream) = cx.host().stream().ok_or(Status::NotFound)?;
    if stream.open & open::OVER != 0 {
        return Err(Status::NotFound.into());
    }
    store(&stream.state, path, value)?;
    Ok(Vec::new())
}

/// `DeclarePropertyArguments {name = 1, readonly = 2, type = 3, schema = 4, span = 5}`: the first declaration of a name
/// counts. Types and schemas bear on nothing that a guest could see here: a value is the bytes that were set.
pub(super) fn declare_property(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let (mut name, mut readonly) = ("", false);
    for field in Fields::new(arguments.of(cx)?) {
        match field.map_err(|_| Status::BadArgument)? {
            (1, found) => name = found.text().ok_or(Status::BadArgument)?,
            (2, found) => readonly = found.number().ok_or(Status::BadArgument)? != 0,
            _ => {}
        }
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Status::BadArgument.into());
    }
    let name = name.to_owned();
    let declared = &mut cx.host_mut().declared;
    if declared.contains_key(&name) || declared.len() >= DECLARED_MAX {
        return Err(Status::BadArgument.into());
    }
    declared.insert(name, Declared { readonly });
    Ok(Vec::new())
}
