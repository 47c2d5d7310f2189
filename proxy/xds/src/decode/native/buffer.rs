//! `Buffer` and `BufferPerRoute`.

use outrigger_config::{BufferLimit, OverrideConfig};
use outrigger_proto::pb::envoy::extensions::filters::http::buffer::v3 as proto;

use crate::Diagnostics;

/// What one request may make us hold.
const BYTES_MAX: u32 = 256 << 20;

pub(super) fn limit(proto: &proto::Buffer, d: &mut Diagnostics) -> Option<BufferLimit> {
    let bytes = proto.max_request_bytes.map_or(0, |max| max.value);
    if bytes == 0 || bytes > BYTES_MAX {
        d.at("max_request_bytes", |d| d.error(format!("is required, between 1 and {BYTES_MAX}")));
        return None;
    }
    Some(BufferLimit(bytes))
}

pub(super) fn per_route(proto: &proto::BufferPerRoute, d: &mut Diagnostics) -> Option<OverrideConfig> {
    use proto::buffer_per_route::Override;
    match &proto.r#override {
        Some(Override::Disabled(true)) => Some(OverrideConfig::Buffer(None)),
        Some(Override::Buffer(proto)) => {
            d.at("buffer", |d| limit(proto, d)).map(|limit| OverrideConfig::Buffer(Some(limit)))
        }
        Some(Override::Disabled(false)) | None => {
            d.error("is neither disabled nor a buffer");
            None
        }
    }
}
