//! WASI preview 1 under both of its module names: what runtimes need to start and to log, and an error for the rest.

use std::sync::OnceLock;
use std::time::Instant;

use rand::RngCore;
use wasmtime::Caller;

use super::{Answer, Cx, HostcallTable, hostcalls, piece, piece_mut};
use crate::host::Host;
use crate::status::{Errno, LogLevel};
use crate::trap::HostTrap;

const RANDOM_BYTES_MAX: u32 = 64 << 10;
const IOVS_MAX: u32 = 1024;
/// What of one `fd_write` is logged.
const LINE_BYTES_MAX: usize = 8 << 10;
const ENVIRONMENT_BYTES_MAX: usize = 1 << 20;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    link_offered(table)?;
    link_refused(table)?;
    let index = table.declare(super::Family::Wasi, "proc_exit", vec![false], false);
    for module in super::Family::Wasi.modules() {
        table.linker.func_wrap(
            module,
            "proc_exit",
            move |caller: Caller<'_, Host>, code: u32| -> wasmtime::Result<()> {
                // Even where it is denied: a guest that wants to end cannot go on.
                _ = Cx::enter(caller, index, "proc_exit", super::Family::Wasi)?;
                Err(HostTrap::Exit(code).into())
            },
        )?;
    }
    Ok(())
}

fn link_offered(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Wasi;
        "args_get" (argv: u32, buffer: u32) = args_get;
        "args_sizes_get" (count_out: u32, size_out: u32) = args_sizes_get;
        "environ_get" (environ: u32, buffer: u32) = environ_get;
        "environ_sizes_get" (count_out: u32, size_out: u32) = environ_sizes_get;
        "clock_res_get" (clock: u32, out: u32) = clock_res_get;
        "clock_time_get" (clock: u32, precision: u64, out: u32) = clock_time_get;
        "random_get" (ptr: u32, len: u32) = random_get;
        "sched_yield" () = sched_yield;
        "poll_oneoff" (subscriptions: u32, events: u32, count: u32, events_out: u32) = poll_oneoff;
        "fd_write" (fd: u32, iovs: u32, iovs_len: u32, written_out: u32) = fd_write;
        "fd_fdstat_get" (fd: u32, out: u32) = fd_fdstat_get;
        "fd_close" (fd: u32) = ok_1;
        "fd_seek" (fd: u32, offset: i64, whence: u32, out: u32) = fd_seek;
    }
    Ok(())
}

/// There are no files, directories or sockets.
fn link_refused(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Wasi;
        "fd_prestat_get" (a: u32, b: u32) = badf_2;
        "fd_prestat_dir_name" (a: u32, b: u32, c: u32) = nosys_3;
        "fd_fdstat_set_flags" (a: u32, b: u32) = nosys_2;
        "fd_fdstat_set_rights" (a: u32, b: u64, c: u64) = badf_rights;
        "fd_filestat_get" (a: u32, b: u32) = badf_2;
        "fd_filestat_set_size" (a: u32, b: u64) = badf_size;
        "fd_filestat_set_times" (a: u32, b: u64, c: u64, d: u32) = badf_times;
        "fd_advise" (a: u32, b: u64, c: u64, d: u32) = badf_times;
        "fd_allocate" (a: u32, b: u64, c: u64) = badf_rights;
        "fd_datasync" (a: u32) = badf_1;
        "fd_sync" (a: u32) = badf_1;
        "fd_tell" (a: u32, b: u32) = badf_2;
        "fd_renumber" (a: u32, b: u32) = badf_2;
        "fd_read" (a: u32, b: u32, c: u32, d: u32) = nosys_4;
        "fd_pread" (a: u32, b: u32, c: u32, d: u64, e: u32) = badf_at;
        "fd_pwrite" (a: u32, b: u32, c: u32, d: u64, e: u32) = badf_at;
        "fd_readdir" (a: u32, b: u32, c: u32, d: u64, e: u32) = badf_at;
        "path_open" (a: u32, b: u32, c: u32, d: u32, e: u32, f: u64, g: u64, h: u32, i: u32) = path_open;
        "path_create_directory" (a: u32, b: u32, c: u32) = notsup_3;
        "path_remove_directory" (a: u32, b: u32, c: u32) = notsup_3;
        "path_unlink_file" (a: u32, b: u32, c: u32) = notsup_3;
        "path_filestat_get" (a: u32, b: u32, c: u32, d: u32, e: u32) = notsup_5;
        "path_symlink" (a: u32, b: u32, c: u32, d: u32, e: u32) = notsup_5;
        "path_filestat_set_times" (a: u32, b: u32, c: u32, d: u32, e: u64, f: u64, g: u32) = path_times;
        "path_link" (a: u32, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32) = notsup_7;
        "path_readlink" (a: u32, b: u32, c: u32, d: u32, e: u32, f: u32) = notsup_6;
        "path_rename" (a: u32, b: u32, c: u32, d: u32, e: u32, f: u32) = notsup_6;
        "proc_raise" (a: u32) = notsup_1;
        "sock_accept" (a: u32, b: u32, c: u32) = notsup_3;
        "sock_recv" (a: u32, b: u32, c: u32, d: u32, e: u32, f: u32) = notsup_6;
        "sock_send" (a: u32, b: u32, c: u32, d: u32, e: u32) = notsup_5;
        "sock_shutdown" (a: u32, b: u32) = notsup_2;
    }
    Ok(())
}

/// Functions that only answer an error, by their parameters.
macro_rules! refusals {
    ($($name:ident ($($ty:ty),*) $errno:ident;)*) => {$(
        #[allow(clippy::too_many_arguments, reason = "WASI's signatures, some of them long")]
        fn $name(_: &mut Cx<'_>, $(_: $ty),*) -> Answer {
            Err(Errno::$errno.into())
        }
    )*};
}

refusals! {
    badf_1(u32) Badf;
    badf_2(u32, u32) Badf;
    badf_rights(u32, u64, u64) Badf;
    badf_size(u32, u64) Badf;
    badf_times(u32, u64, u64, u32) Badf;
    badf_at(u32, u32, u32, u64, u32) Badf;
    nosys_2(u32, u32) Nosys;
    nosys_3(u32, u32, u32) Nosys;
    nosys_4(u32, u32, u32, u32) Nosys;
    notsup_1(u32) Notsup;
    notsup_2(u32, u32) Notsup;
    notsup_3(u32, u32, u32) Notsup;
    notsup_5(u32, u32, u32, u32, u32) Notsup;
    notsup_6(u32, u32, u32, u32, u32, u32) Notsup;
    notsup_7(u32, u32, u32, u32, u32, u32, u32) Notsup;
    path_times(u32, u32, u32, u32, u64, u64, u32) Notsup;
    path_open(u32, u32, u32, u32, u32, u64, u64, u32, u32) Noent;
}

fn ok_1(_: &mut Cx<'_>, _: u32) -> Answer {
    Ok(())
}

fn fd_seek(_: &mut Cx<'_>, _: u32, _: i64, _: u32, _: u32) -> Answer {
    Ok(())
}

/// A bad pointer, in WASI's numbers.
fn fault<T>(result: Result<T, super::Stop>) -> Result<T, super::Stop> {
    result.map_err(|_| Errno::Fault.into())
}

fn args_get(_: &mut Cx<'_>, _: u32, _: u32) -> Answer {
    Ok(())
}

fn args_sizes_get(cx: &mut Cx<'_>, count_out: u32, size_out: u32) -> Answer {
    fault(cx.write_u32(count_out, 0))?;
    fault(cx.write_u32(size_out, 0))
}

/// `NAME=value\0` of each variable.
fn environment(host: &Host) -> (u32, Vec<u8>, Vec<u32>) {
    let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
    for (name, value) in &host.plugin.vm.environment {
        if bytes.len() + name.len() + value.len() + 2 > ENVIRONMENT_BYTES_MAX {
            break;
        }
        offsets.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    (u32::try_from(offsets.len()).unwrap_or(u32::MAX), bytes, offsets)
}

fn environ_get(cx: &mut Cx<'_>, environ: u32, buffer: u32) -> Answer {
    let (_, bytes, offsets) = environment(cx.host());
    for (index, offset) in (0u32..).zip(offsets) {
        let at = index.checked_mul(4).and_then(|at| environ.checked_add(at)).ok_or(Errno::Fault)?;
        fault(cx.write_u32(at, buffer.wrapping_add(offset)))?;
    }
    let len = u32::try_from(bytes.len()).map_err(|_| Errno::Fault)?;
    let (memory, _) = cx.split();
    fault(piece_mut(memory, buffer, len))?.copy_from_slice(&bytes);
    Ok(())
}

fn environ_sizes_get(cx: &mut Cx<'_>, count_out: u32, size_out: u32) -> Answer {
    let (count, bytes, _) = environment(cx.host());
    fault(cx.write_u32(count_out, count))?;
    fault(cx.write_u32(size_out, u32::try_from(bytes.len()).unwrap_or(u32::MAX)))
}

fn clock_res_get(cx: &mut Cx<'_>, clock: u32, out: u32) -> Answer {
    if clock > 1 {
        return Err(Errno::Notsup.into());
    }
    fault(cx.write_u64(out, 1))
}

fn clock_time_get(cx: &mut Cx<'_>, clock: u32, _precision: u64, out: u32) -> Answer {
    static START: OnceLock<Instant> = OnceLock::new();
    let nanoseconds = match clock {
        0 => super::logging::wall_clock_nanoseconds(),
        1 => {
            // Never zero: Go's runtime takes that for a broken clock.
            let elapsed = START.get_or_init(Instant::now).elapsed();
            u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).saturating_add(1_000_000_000)
        }
        _ => return Err(Errno::Notsup.into()),
    };
    fault(cx.write_u64(out, nanoseconds))
}

fn random_get(cx: &mut Cx<'_>, ptr: u32, len: u32) -> Answer {
    if len > RANDOM_BYTES_MAX {
        return Err(Errno::Inval.into());
    }
    let (memory, _) = cx.split();
    rand::rng().fill_bytes(fault(piece_mut(memory, ptr, len))?);
    Ok(())
}

fn sched_yield(_: &mut Cx<'_>) -> Answer {
    Ok(())
}

/// Nothing ever happens: the ABI has no way to wait.
fn poll_oneoff(cx: &mut Cx<'_>, _: u32, _: u32, _: u32, events_out: u32) -> Answer {
    fault(cx.write_u32(events_out, 0))
}

fn fd_write(cx: &mut Cx<'_>, fd: u32, iovs: u32, iovs_len: u32, written_out: u32) -> Answer {
    let level = match fd {
        1 => LogLevel::Info,
        2 => LogLevel::Error,
        _ => return Err(Errno::Badf.into()),
    };
    if iovs_len > IOVS_MAX {
        return Err(Errno::Inval.into());
    }
    let (memory, host) = cx.split();
    let (mut line, mut written) = (Vec::new(), 0u32);
    for iov in fault(piece(memory, iovs, iovs_len * 8))?.as_chunks::<8>().0 {
        let [p0, p1, p2, p3, l0, l1, l2, l3] = *iov;
        let (ptr, len) = (u32::from_le_bytes([p0, p1, p2, p3]), u32::from_le_bytes([l0, l1, l2, l3]));
        let bytes = fault(piece(memory, ptr, len))?;
        written = written.checked_add(len).ok_or(Errno::Inval)?;
        let room = LINE_BYTES_MAX - line.len();
        line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    if !line.is_empty() {
        host.log.write(&host.plugin.name, level, &line);
    }
    fault(cx.write_u32(written_out, written))
}

/// Type 0, no flags, the right to write.
fn fd_fdstat_get(cx: &mut Cx<'_>, fd: u32, out: u32) -> Answer {
    if !(1..=2).contains(&fd) {
        return Err(Errno::Badf.into());
    }
    let mut stat = [0; 24];
    stat[8] = 64;
    let (memory, _) = cx.split();
    fault(super::put(memory, out, &stat))
}
