//! Metrics of guests.

use super::{Answer, Cx, HostcallTable, hostcalls, piece};
use crate::metrics::MetricKind;
use crate::status::Status;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_define_metric" (kind: u32, name: u32, name_len: u32, id_out: u32) = define;
        "proxy_increment_metric" (id: u32, delta: i64) = increment;
        "proxy_record_metric" (id: u32, value: u64) = record;
        "proxy_get_metric" (id: u32, value_out: u32) = get;
    }
    Ok(())
}

fn define(cx: &mut Cx<'_>, kind: u32, name: u32, name_len: u32, id_out: u32) -> Answer {
    let kind = match kind {
        0 => MetricKind::Counter,
        1 => MetricKind::Gauge,
        2 => MetricKind::Histogram,
        _ => return Err(Status::BadArgument.into()),
    };
    let (memory, host) = cx.split();
    let name = piece(memory, name, name_len)?;
    let shown = host.is_serving();
    let id = host.metrics.define(kind, name, &host.services, shown)?;
    cx.write_u32(id_out, id)
}

fn increment(cx: &mut Cx<'_>, id: u32, delta: i64) -> Answer {
    Ok(cx.host().metrics.increment(id, delta)?)
}

fn record(cx: &mut Cx<'_>, id: u32, value: u64) -> Answer {
    Ok(cx.host().metrics.record(id, value)?)
}

fn get(cx: &mut Cx<'_>, id: u32, value_out: u32) -> Answer {
    let host = cx.host();
    let value = host.metrics.get(id, &host.services.registry)?;
    cx.write_u64(value_out, value)
}
