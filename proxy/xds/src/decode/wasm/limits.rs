//! Bounds of a guest.

use std::time::Duration;

use outrigger_config::{Isolation, Limits};
use outrigger_proto::pb::google::protobuf;
use outrigger_proto::pb::outrigger::filters::http::wasm::v1 as own;

use super::super::common::duration;
use crate::Diagnostics;

/// Shared queues and what waits in each lie in the proxy's memory, not in the guest's.
const SHARED_QUEUES_MAX: u64 = 4096;
const SHARED_QUEUE_BYTES_MAX: u64 = 1 << 30;
const SHARED_QUEUE_MESSAGES_MAX: u64 = 1_000_000;

pub(super) fn limits(proto: Option<&own::Limits>, isolation: Isolation, d: &mut Diagnostics) -> Limits {
    /// Linear memory of a 32-bit guest.
    const MEMORY_BYTES_MAX: u64 = 4 << 30;
    const CALLBACK_TIMEOUT_MAX: Duration = Duration::from_secs(60);
    let mut limits = Limits::default();
    let Some(proto) = proto else { return limits };
    let time = |value: Option<&protobuf::Duration>, default: Duration, field: &'static str, d: &mut Diagnostics| {
        let value = duration(value, field, d).unwrap_or(default);
        if value.is_zero() || value > CALLBACK_TIMEOUT_MAX {
            d.at(field, |d| d.error("is not above 0 s and up to 60 s"));
        }
        value
    };
    limits.callback_timeout = time(proto.callback_timeout.as_ref(), limits.callback_timeout, "callback_timeout", d);
    limits.start_timeout = time(proto.start_timeout.as_ref(), limits.start_timeout, "start_timeout", d);
    match isolation {
        Isolation::Stream if proto.memory_bytes > Isolation::STREAM_MEMORY_BYTES_MAX => {
            let most = Isolation::STREAM_MEMORY_BYTES_MAX;
            d.at("memory_bytes", |d| d.error(format!("is more than {most}, which a stream's own instance can have")));
        }
        _ if proto.memory_bytes > MEMORY_BYTES_MAX => {
            d.at("memory_bytes", |d| d.error(format!("is more than {MEMORY_BYTES_MAX}")));
        }
        _ => {}
    }
    // Zero is unset.
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    limits.memory_bytes = or(proto.memory_bytes, limits.memory_bytes);
    limits.body_buffer_bytes = or(proto.body_buffer_bytes, limits.body_buffer_bytes);
    limits.log_bytes_per_second = or(proto.log_bytes_per_second, limits.log_bytes_per_second);
    let hostcalls = or(proto.hostcalls_per_callback, u64::from(limits.hostcalls_per_callback));
    limits.hostcalls_per_callback = u32::try_from(hostcalls).unwrap_or(u32::MAX);
    limits.shared_data_bytes = or(proto.shared_data_bytes, limits.shared_data_bytes);
    for (value, most, limit, field) in [
        (proto.shared_queues, SHARED_QUEUES_MAX, &mut limits.shared_queues, "shared_queues"),
        (proto.shared_queue_bytes, SHARED_QUEUE_BYTES_MAX, &mut limits.shared_queue_bytes, "shared_queue_bytes"),
        (
            proto.shared_queue_messages,
            SHARED_QUEUE_MESSAGES_MAX,
            &mut limits.shared_queue_messages,
            "shared_queue_messages",
        ),
    ] {
        if value > most {
            d.at(field, |d| d.error(format!("is more than {most}")));
        }
        *limit = or(value, *limit);
    }
    limits.http_calls_pending = or(proto.http_calls_pending, limits.http_calls_pending);
    limits.recycle_memory_bytes = or(proto.recycle_memory_bytes, limits.memory_bytes / 4 * 3);
    limits.recycle_streams = Some(proto.recycle_streams).filter(|streams| *streams > 0);
    limits
}
