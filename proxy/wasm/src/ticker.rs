//! Deadlines: one thread moves the engine's epoch while guests run, and sleeps while none does.
//!
//! A budget is CPU time of the thread, so that a throttled or busy core traps nobody. Entering a guest reads no clock: the
//! first tick that finds it running notes the thread's CPU time, later ones compare. A guest is stopped after its budget and
//! at most two ticks more.
//!
//! Entering must be cheap, so it is two plain stores and a load, without a fence: a store to this VM's slot that the ticker
//! may see late. Hence the ticker looks once more, well after it said that it sleeps, before it sleeps without end.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::EngineWeak;

const TICK: Duration = Duration::from_millis(2);
/// Ticks without any guest call before the ticker sleeps.
const IDLE_TICKS: u32 = 25;
/// When a sleeping ticker looks once more.
const RECHECK: Duration = Duration::from_millis(100);

/// Moves the epoch of one engine.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    engine: EngineWeakDebug,
}

#[derive(Debug, Default)]
struct Shared {
    slots: Mutex<Vec<Arc<Slot>>>,
    asleep: AtomicBool,
    stop: AtomicBool,
    thread: OnceLock<Thread>,
}

struct EngineWeakDebug(EngineWeak);

impl std::fmt::Debug for EngineWeakDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EngineWeak")
    }
}

/// One VM's sign that it runs; on a cache line of its own. Odd while it runs, another number for each call.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot(AtomicU32);

/// A VM's place at the ticker.
#[derive(Debug)]
pub(crate) struct TickerSlot {
    slot: Arc<Slot>,
    shared: Arc<Shared>,
}

impl Ticker {
    pub(crate) fn new(engine: EngineWeak) -> Ticker {
        Ticker { shared: Arc::default(), engine: EngineWeakDebug(engine) }
    }

    /// A slot for a VM; starts the thread for the first one.
    pub(crate) fn register(&self) -> std::io::Result<TickerSlot> {
        let slot = Arc::new(Slot::default());
        let mut slots = self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.thread.get().is_none() {
            let (shared, engine) = (self.shared.clone(), self.engine.0.clone());
            let thread =
                std::thread::Builder::new().name("wasm-ticker".to_owned()).spawn(move || run(&shared, &engine))?;
            self.shared.thread.get_or_init(|| thread.thread().clone());
        }
        slots.push(slot.clone());
        drop(slots);
        Ok(TickerSlot { slot, shared: self.shared.clone() })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.shared.thread.get() {
            thread.unpark();
        }
    }
}

impl TickerSlot {
    #[inline]
    pub(crate) fn enter(&self) {
        // This thread is the only writer.
        let call = self.slot.0.load(Ordering::Relaxed);
        self.slot.0.store(call.wrapping_add(1) | 1, Ordering::Relaxed);
        if self.shared.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[inline]
    pub(crate) fn leave(&self) {
        let call = self.slot.0.load(Ordering::Relaxed);
        self.slot.0.store(call.wrapping_add(1) & !1, Ordering::Relaxed);
    }

    #[cold]
    fn wake(&self) {
        if self.shared.asleep.swap(false, Ordering::AcqRel)
            && let Some(thread) = self.shared.thread.get()
        {
            thread.unpark();
        }
    }
}

fn run(shared: &Shared, engine: &EngineWeak) {
    let mut seen: Vec<u32> = Vec::new();
    let mut idle_ticks = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let look = look(shared, &mut seen);
        if look.running {
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
        if look.moved || look.running {
            idle_ticks = 0;
        } else {
            idle_ticks += 1;
        }
        if idle_ticks < IDLE_TICKS {
            std::thread::sleep(TICK);
            continue;
        }
        idle_ticks = 0;
        sleep(shared, &mut seen);
    }
}

struct Look {
    moved: bool,
    running: bool,
}

/// Compares all slots with what was seen last, and forgets those whose VM is gone.
fn look(shared: &Shared, seen: &mut Vec<u32>) -> Look {
    let mut slots = shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
    let mut look = Look { moved: false, running: false };
    if slots.iter().any(|slot| Arc::strong_count(slot) == 1) {
        slots.retain(|slot| Arc::strong_count(slot) > 1);
        look.moved = true;
    }
    seen.resize(slots.len(), 0);
    for (slot, seen) in slots.iter().zip(seen) {
        let call = slot.0.load(Ordering::Relaxed);
        look.moved |= call != *seen;
        look.running |= call & 1 == 1;
        *seen = call;
    }
    look
}

fn sleep(shared: &Shared, seen: &mut Vec<u32>) {
    shared.asleep.store(true, Ordering::SeqCst);
    std::thread::park_timeout(RECHECK);
    // A guest that entered just when `asleep` was set didn't see it; by now its store is visible.
    let look = look(shared, seen);
    while shared.asleep.load(Ordering::Acquire) && !look.moved && !look.running && !shared.stop.load(Ordering::Relaxed)
    {
        std::thread::park();
    }
    shared.asleep.store(false, Ordering::SeqCst);
}

/// What remains of a callback's CPU time.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    budget: Duration,
    /// The thread's CPU time at the first tick that found the guest running.
    first_tick: Option<Duration>,
}

impl Deadline {
    #[inline]
    pub(crate) fn start(&mut self, budget: Duration) {
        self.budget = budget;
        self.first_tick = None;
    }

    /// Whether the guest may go on, at a tick.
    pub(crate) fn tick(&mut self) -> bool {
        let now = thread_cpu_time();
        let first = *self.first_tick.get_or_insert(now);
        now.saturating_sub(first) < self.budget
    }
}

/// The CPU time that this thread has used.
#[expect(unsafe_code, reason = "std has no thread CPU clock")]
pub(crate) fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live, writable timespec; a failure leaves it as it is.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_counts_cpu_time_from_the_first_tick() {
        let mut deadline = Deadline::default();
        deadline.start(Duration::from_secs(3600));
        assert!(deadline.tick() && deadline.tick());
        deadline.start(Duration::ZERO);
        assert!(!deadline.tick());
    }

    #[test]
    fn a_look_sees_running_and_moved_slots_and_forgets_dropped_ones() {
        let shared = Arc::new(Shared::default());
        let slot = Arc::new(Slot::default());
        shared.slots.lock().expect("no panic under it").push(slot.clone());
        let vm = TickerSlot { slot, shared: shared.clone() };
        let mut seen = Vec::new();
        assert!(!look(&shared, &mut seen).moved);
        vm.enter();
        let now = look(&shared, &mut seen);
        assert!(now.moved && now.running);
        vm.leave();
        let now = look(&shared, &mut seen);
        assert!(now.moved && !now.running);
        assert!(!look(&shared, &mut seen).moved);
        vm.enter();
        vm.leave();
        assert!(look(&shared, &mut seen).moved);
        drop(vm);
        assert!(look(&shared, &mut seen).moved);
        assert!(seen.is_empty());
    }
}
