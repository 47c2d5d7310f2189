//! The process's allocator: jemalloc, set up for a small resident size.
//!
//! Few arenas (the workers are few and mostly free what they allocated), pages given back after a second, no huge pages
//! (a sidecar's heap is smaller than one), and no thread of its own: [`purge`] runs after large updates instead.

#![expect(
    unsafe_code,
    reason = "jemalloc is configured by an exported symbol and told to purge through mallctl, a C function"
)]

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A C string that may lie in a static.
#[repr(transparent)]
struct Conf(*const c_char);

// SAFETY: it points to constant memory that nobody writes.
unsafe impl Sync for Conf {}

/// jemalloc reads this symbol before its first allocation.
// SAFETY: the name and the type (`const char *malloc_conf`) are what jemalloc's manual documents, with its prefix.
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONF: Conf =
    Conf(c"narenas:4,background_thread:false,dirty_decay_ms:1000,muzzy_decay_ms:0,thp:never,abort_conf:false".as_ptr());

unsafe extern "C" {
    #[link_name = "_rjem_mallctl"]
    fn mallctl(name: *const c_char, old: *mut c_void, old_size: *mut usize, new: *mut c_void, new_size: usize)
    -> c_int;
}

/// Gives unused pages back to the system at once.
pub(crate) fn purge() {
    // SAFETY: 4096 is MALLCTL_ARENAS_ALL; the control takes and returns nothing.
    unsafe {
        mallctl(c"arena.4096.purge".as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jemalloc_answers_and_is_set_up() {
        let mut decay: isize = 0;
        let mut size = size_of::<isize>();
        // SAFETY: `opt.dirty_decay_ms` is of type ssize_t.
        let failed = unsafe {
            mallctl(c"opt.dirty_decay_ms".as_ptr(), ptr::from_mut(&mut decay).cast(), &raw mut size, ptr::null_mut(), 0)
        };
        assert_eq!((failed, decay), (0, 1000));
        // Freed pages are given back when they are asked for, not after the decay time.
        drop(std::hint::black_box(vec![1u8; 32 << 20]));
        purge();
        assert!(crate::system::memory().anonymous < 1 << 30);
    }
}
