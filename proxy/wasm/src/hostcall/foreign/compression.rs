//! `compress` and `uncompress`: zlib (RFC 1950), both sides bounded by the plugin's `body_buffer_bytes`.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::Arguments;
use crate::hostcall::{Cx, Stop};
use crate::status::Status;

/// What is larger is compressed fast rather than well: a hostcall holds up its worker.
const WELL_BYTES_MAX: usize = 64 << 10;

fn bound(cx: &Cx<'_>) -> usize {
    cx.host().plugin.vm.limits.body_buffer_bytes
}

pub(super) fn compress(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let bytes = arguments.of(cx)?;
    if bytes.len() > bound(cx) {
        return Err(Status::BadArgument.into());
    }
    let level = if bytes.len() > WELL_BYTES_MAX { Compression::fast() } else { Compression::default() };
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(bytes.len() / 2 + 16), level);
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(|_| Status::SerializationFailure.into())
}

/// What is not zlib, cut short or larger than the bound: `SerializationFailure`.
pub(super) fn uncompress(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let (bytes, bound) = (arguments.of(cx)?, bound(cx));
    let mut out = Vec::new();
    let limit = u64::try_from(bound).unwrap_or(u64::MAX).saturating_add(1);
    let read = ZlibDecoder::new(bytes).take(limit).read_to_end(&mut out);
    if read.is_err() || out.len() > bound {
        return Err(Status::SerializationFailure.into());
    }
    Ok(out)
}
