//! Logging and the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Answer, Cx, HostcallTable, hostcalls, piece};
use crate::status::{LogLevel, Status};

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_log" (level: u32, ptr: u32, len: u32) = log;
        "proxy_get_log_level" (level_out: u32) = get_log_level;
        "proxy_get_current_time_nanoseconds" (time_out: u32) = get_current_time_nanoseconds;
        "pthread_equal" (a: u32, b: u32) = pthread_equal;
    }
    let index = table.declare(super::Family::Env, "emscripten_notify_memory_growth", vec![false], false);
    table.linker.func_wrap(
        "env",
        "emscripten_notify_memory_growth",
        move |caller: wasmtime::Caller<'_, crate::host::Host>, _memory: u32| {
            // Nothing to do: memory is looked at anew after each call.
            Cx::enter(caller, index, "emscripten_notify_memory_growth", super::Family::Env).map(|_| ())
        },
    )?;
    Ok(())
}

fn log(cx: &mut Cx<'_>, level: u32, ptr: u32, len: u32) -> Answer {
    let level = LogLevel::from_number(level).ok_or(Status::BadArgument)?;
    let (memory, host) = cx.split();
    let text = piece(memory, ptr, len)?;
    host.log.write(&host.plugin.name, level, text);
    Ok(())
}

fn get_log_level(cx: &mut Cx<'_>, level_out: u32) -> Answer {
    let level = cx.host().log.level();
    cx.write_u32(level_out, level as u32)
}

pub(super) fn wall_clock_nanoseconds() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

fn get_current_time_nanoseconds(cx: &mut Cx<'_>, time_out: u32) -> Answer {
    cx.write_u64(time_out, wall_clock_nanoseconds())
}

fn pthread_equal(_: &mut Cx<'_>, a: u32, b: u32) -> Answer {
    if a == b { Err(super::Stop::Answer(1)) } else { Ok(()) }
}
