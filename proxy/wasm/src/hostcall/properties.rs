//! Properties: reading and writing.

use std::cell::RefCell;

use bytes::Bytes;
use outrigger_attributes::Lookup;
use outrigger_http::StreamState;

use super::{Answer, Cx, HostcallTable, hostcalls, piece};
use crate::host::open;
use crate::metrics::PluginStats;
use crate::property;
use crate::status::Status;

/// What filters may store with one stream.
const STATE_BYTES_MAX: usize = 64 << 10;
const STATE_ENTRIES_MAX: usize = 128;
const PATH_BYTES_MAX: usize = 1024;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_get_property" (path: u32, path_len: u32, ptr_out: u32, len_out: u32) = get;
        "proxy_set_property" (path: u32, path_len: u32, value: u32, value_len: u32) = set;
    }
    Ok(())
}

/// Segments are joined by NUL; one at the end is Zig's string.
fn segments(path: &[u8]) -> Option<Vec<&str>> {
    let path = path.strip_suffix(&[0]).unwrap_or(path);
    let path = std::str::from_utf8(path).ok().filter(|path| path.len() <= PATH_BYTES_MAX)?;
    Some(path.split('\0').collect())
}

fn get(cx: &mut Cx<'_>, path: u32, path_len: u32, ptr_out: u32, len_out: u32) -> Answer {
    let path = segments(cx.bytes(path, path_len)?).ok_or(Status::NotFound)?;
    let value = match property::lookup(cx.host(), &path) {
        Lookup::Found(value) => property::encode(&value).ok_or(Status::SerializationFailure)?,
        Lookup::Absent => return Err(Status::NotFound.into()),
        Lookup::NotAValue => return Err(Status::SerializationFailure.into()),
    };
    cx.give(&value, ptr_out, len_out)
}

/// What a stream has no room for is lost: the Rust SDK takes no status that would say so, a metric does.
fn set(cx: &mut Cx<'_>, path: u32, path_len: u32, value: u32, value_len: u32) -> Answer {
    let (memory, host) = cx.split();
    let (path, value) = (piece(memory, path, path_len)?, piece(memory, value, value_len)?);
    let lost = || PluginStats::properties_dropped(&host.services.registry, &host.plugin).inc();
    let (_, stream) = host.stream().ok_or(Status::NotFound)?;
    if stream.open & open::OVER != 0 {
        return Err(Status::NotFound.into());
    }
    let Some(path) = segments(path) else {
        lost();
        return Ok(());
    };
    let path = path.join(".");
    let readonly = host.declared.get(&path).is_some_and(|declared| declared.readonly);
    let key = format!("wasm.{path}");
    if readonly && stream.state.try_borrow().is_ok_and(|state| state.info.extras().filter_state.contains_key(&key)) {
        return Err(Status::BadArgument.into());
    }
    if store(&stream.state, key, Bytes::copy_from_slice(value)).is_err() {
        lost();
    }
    Ok(())
}

/// Stores filter state, within what one stream may hold of it. What is beyond that takes with it what was there under its
/// name: that would pass for the newest.
pub(super) fn store(stream: &RefCell<StreamState>, key: String, value: Bytes) -> Result<(), Status> {
    let mut state = stream.try_borrow_mut().map_err(|_| Status::BadArgument)?;
    let entries = &mut state.info.extras_mut().filter_state;
    let others = || entries.iter().filter(|(other, _)| **other != key);
    let bytes: usize = others().map(|(key, value)| key.len() + value.len()).sum();
    if bytes + key.len() + value.len() > STATE_BYTES_MAX || others().count() >= STATE_ENTRIES_MAX {
        entries.remove(&key);
        return Err(Status::BadArgument);
    }
    entries.insert(key, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_nul() {
        assert_eq!(segments(b"request\0path"), Some(vec!["request", "path"]));
        assert_eq!(segments(b"request\0path\0"), Some(vec!["request", "path"]));
        assert_eq!(segments(b""), Some(vec![""]));
        assert_eq!(segments(b"\xff"), None);
    }
}
