//! What the system grants this process, and the limits that a child puts on itself.

#![expect(
    unsafe_code,
    reason = "setrlimit, prctl, setpriority and their like are C functions without a safe form in std"
)]

use std::ffi::CStr;
use std::fs;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_config::LocalZone;

/// The local time zone at a moment, by `TZ` or the system's setting.
pub(crate) fn local_zone(epoch_seconds: i64) -> LocalZone {
    let mut civil = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: the C library reads the seconds and fills the structure; a structure of zeros is one, and its zone is null.
    let civil = unsafe {
        libc::localtime_r(&raw const epoch_seconds, civil.as_mut_ptr());
        civil.assume_init()
    };
    let abbreviation = if civil.tm_zone.is_null() {
        "UTC".into()
    } else {
        // SAFETY: a zone's name is a string of the C library's that is never freed.
        unsafe { CStr::from_ptr(civil.tm_zone) }.to_string_lossy().into_owned().into()
    };
    LocalZone { offset_seconds: civil.tm_gmtoff, abbreviation }
}

/// CPUs that the scheduler's affinity and the cgroup's quota grant, at least one.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Bytes that may still be allocated before the cgroup (or, without a limit there, the machine) is full.
pub(crate) fn memory_room() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo(&text, "MemAvailable:"));
    let cgroup =
        fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| cgroup_room(&text, Path::new("/sys/fs/cgroup")));
    machine.into_iter().chain(cgroup).min()
}

fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What a cgroup with a memory limit may use, and what it uses, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CgroupMemory {
    pub(crate) limit: u64,
    /// Without the page cache that is given back when somebody needs it.
    pub(crate) used: u64,
}

impl CgroupMemory {
    const fn room(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// The cgroup that is fullest, of this process's own and its ancestors; `None`: none has a limit.
pub(crate) fn cgroup_memory() -> Option<CgroupMemory> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limited = limited_cgroups(&membership, Path::new("/sys/fs/cgroup"));
    limited.into_iter().min_by_key(|memory| u128::from(memory.room()) * 1_000_000 / u128::from(memory.limit.max(1)))
}

/// The least room of the cgroup and its ancestors.
fn cgroup_room(membership: &str, root: &Path) -> Option<u64> {
    limited_cgroups(membership, root).iter().map(CgroupMemory::room).min()
}

/// The cgroup and its ancestors as far as they have a memory limit, for both cgroup versions.
fn limited_cgroups(membership: &str, root: &Path) -> Vec<CgroupMemory> {
    let mut limited = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|name| name == "memory") {
            continue;
        }
        let base = if unified { root.to_owned() } else { root.join("memory") };
        let (limit, usage) =
            if unified { ("memory.max", "memory.current") } else { ("memory.limit_in_bytes", "memory.usage_in_bytes") };
        let mut folder: PathBuf = base.join(path.trim_start_matches('/'));
        // In a cgroup namespace the path may not exist below the mount; its root is ours then.
        if !folder.is_dir() {
            folder.clone_from(&base);
        }
        while folder.starts_with(&base) {
            limited.extend(memory_of(&folder, limit, usage));
            if !folder.pop() {
                break;
            }
        }
    }
    limited
}

fn memory_of(folder: &Path, limit: &str, usage: &str) -> Option<CgroupMemory> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number(limit)?;
    // Version 1 says "no limit" with a number near 2^63.
    if limit >= 1 << 60 {
        return None;
    }
    // The page cache counts as used, and is given back when somebody needs it.
    let cache = fs::read_to_string(folder.join("memory.stat")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("inactive_file "))?;
        line.trim().parse::<u64>().ok()
    });
    Some(CgroupMemory { limit, used: number(usage)?.saturating_sub(cache.unwrap_or(0)) })
}

/// What this process holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Memory {
    /// Heap, stacks and guests' memories that are in physical memory.
    pub(crate) anonymous: u64,
    /// All that is in physical memory, mapped files included.
    pub(crate) resident: u64,
    /// The address space of heap and stacks.
    pub(crate) mapped: u64,
}

/// Reads what the kernel accounts to this process.
pub(crate) fn memory() -> Memory {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let read = |key| meminfo(&text, key).unwrap_or(0);
    Memory { anonymous: read("RssAnon:"), resident: read("VmRSS:"), mapped: read("VmData:") }
}

/// The user that this process runs as.
pub(crate) fn user_id() -> u32 {
    // The owner of the process's own folder needs no call into libc.
    fs::metadata("/proc/self").map_or(u32::MAX, |metadata| metadata.uid())
}

/// Bounds this process's address space.
pub(crate) fn limit_address_space(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: `limit` is valid for the call, which only reads it.
    check(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) })
}

/// Writes no core file: a child's memory is only a copy of its input.
pub(crate) fn disable_core_files() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) })
}

/// Bounds the CPU time that this process may use.
pub(crate) fn limit_cpu_time(time: Duration) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: time.as_secs().max(1), rlim_max: time.as_secs().max(1) + 1 };
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CPU, &raw const limit) })
}

/// Leaves the CPU to the workers, and is the first to be ended when memory is short. Not the idle class: on a busy node a
/// filter would wait for ever, and a listener with it.
pub(crate) fn lowest_priority() -> io::Result<()> {
    // SAFETY: takes plain numbers; 0 is this process.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) })?;
    first_to_be_killed()
}

/// The first to be ended when memory is short.
pub(crate) fn first_to_be_killed() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "1000")
}

/// Ends this process when the one that started it ends.
pub(crate) fn end_with_parent(parent: u32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // It may have ended before the call.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(io::Error::other("the process that started this one has ended"))
    }
}

/// Unmaps this program's code. What runs is mapped again at its next instruction; what only starting needed (the command
/// line, YAML, validation) isn't, and no longer counts as resident.
pub(crate) fn forget_startup_code() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = fs::read_link("/proc/self/exe").unwrap_or_default();
    for (start, length) in code_ranges(&maps, &program) {
        // SAFETY: the range is a private mapping of the program's file that may be read and executed and not written, so
        // its pages are the file's: the kernel reads them again when they are touched.
        let failed = unsafe { libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_DONTNEED) };
        if failed != 0 {
            tracing::debug!("start-up code stays mapped: {}", io::Error::last_os_error());
        }
    }
}

/// Start and length of the mappings of a program's code.
fn code_ranges(maps: &str, program: &Path) -> Vec<(usize, usize)> {
    let range = |line: &str| {
        let mut parts = line.split_ascii_whitespace();
        let (range, permissions) = (parts.next()?, parts.next()?);
        if permissions != "r-xp" || parts.nth(3).map(Path::new) != Some(program) {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        Some((start, usize::from_str_radix(end, 16).ok()?.checked_sub(start)?))
    };
    maps.lines().filter_map(range).collect()
}

/// Sends bytes over a Unix socket, and with them a descriptor.
pub(crate) fn send_with_descriptor(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = ControlBuffer([0; CONTROL_BYTES]);
    // SAFETY: a msghdr of zeros is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(descriptor) = descriptor {
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: only computes a size; the buffer is larger and aligned for a cmsghdr.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(DESCRIPTOR_BYTES) } as _;
        // SAFETY: the control buffer has room for one header with one descriptor.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(DESCRIPTOR_BYTES) as _;
            libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(descriptor.as_raw_fd());
        }
    }
    // SAFETY: the message points to memory that lives until the call returns.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    match usize::try_from(sent) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(io::Error::from(io::ErrorKind::WriteZero)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Receives bytes over a Unix socket, and the descriptor that came with them.
pub(crate) fn receive_with_descriptor(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = ControlBuffer([0; CONTROL_BYTES]);
    // SAFETY: a msghdr of zeros is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: the message points to memory that lives until the call returns.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled in as much of the control buffer as it says. Room is for one descriptor: what else came
    // was closed by it.
    let descriptor = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let is_right = !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len as usize >= libc::CMSG_LEN(DESCRIPTOR_BYTES) as usize;
        is_right.then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned()))
    };
    Ok((received, descriptor))
}

const DESCRIPTOR_BYTES: u32 = size_of::<libc::c_int>() as u32;
/// Exactly one header with one descriptor, on every Linux.
const CONTROL_BYTES: usize = 24;

/// Aligned as a `cmsghdr` is.
#[repr(align(8))]
struct ControlBuffer([u8; CONTROL_BYTES]);

/// An anonymous file in memory, for machine code where no folder is writable. Closed on exec.
pub(crate) fn memory_file() -> io::Result<fs::File> {
    // SAFETY: the name is a C string; the result is checked before it is used.
    let fd = unsafe { libc::memfd_create(c"outrigger-module".as_ptr(), libc::MFD_CLOEXEC) };
    check(fd)?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

/// Lowers the calling thread's priority, so that preparing a filter takes no time from a worker.
pub(crate) fn lower_thread_priority() {
    // SAFETY: takes plain numbers; on Linux 0 is the calling thread. Failing leaves the priority as it is.
    let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    if failed != 0 {
        tracing::debug!("the priority of a prepare thread stays as it is: {}", io::Error::last_os_error());
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_cpu_and_memory() {
        assert!(cpus() >= 1);
        let memory = memory();
        assert!(memory.anonymous > 0 && memory.resident > memory.anonymous && memory.mapped > 0);
        assert!(memory_room().is_some_and(|room| room > 0));
        assert_ne!(user_id(), u32::MAX);
    }

    #[test]
    fn the_tightest_cgroup_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("pod/memory.max", "1000000\n");
        write("pod/memory.current", "600000\n");
        write("pod/memory.stat", "anon 5\ninactive_file 100000\n");
        write("pod/app/memory.max", "max\n");
        write("pod/app/memory.current", "1\n");
        assert_eq!(cgroup_room("0::/pod/app\n", root.path()), Some(500_000));
        assert_eq!(cgroup_room("0::/elsewhere\n", root.path()), None);

        write("memory/box/memory.limit_in_bytes", "9000\n");
        write("memory/box/memory.usage_in_bytes", "10000\n");
        assert_eq!(cgroup_room("4:cpu:/\n7:memory:/box\n", root.path()), Some(0));
        write("memory/box/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(cgroup_room("7:memory:/box\n", root.path()), None);
    }

    #[test]
    fn only_code_of_the_program_is_forgotten() {
        let maps = "1000-3000 r-xp 00001000 fe:00 77 /bin/p\n3000-4000 r--p 0 fe:00 77 /bin/p\n\
                    4000-5000 rw-p 0 fe:00 77 /bin/p\n7000-9000 r-xp 0 fe:00 78 /lib/p\nffff-1ffff r-xp 0 00:00 0 [vdso]\n";
        assert_eq!(code_ranges(maps, Path::new("/bin/p")), [(0x1000, 0x2000)]);
        // And this goes on all the same.
        forget_startup_code();
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        assert_eq!(meminfo("MemTotal: 5 kB\nMemAvailable:   12 kB\n", "MemAvailable:"), Some(12 * 1024));
        assert_eq!(meminfo("MemAvailable: x\n", "MemAvailable:"), None);
    }

    #[test]
    fn a_memory_file_can_be_written_and_read() {
        use std::io::{Read, Seek, SeekFrom, Write};
        let mut file = memory_file().unwrap();
        file.write_all(b"code").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "code");
    }
}
