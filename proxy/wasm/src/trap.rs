//! Traps: how a guest ends, and what is told about it.

use std::fmt;
use std::sync::Arc;

/// A guest's end. The VM is failed afterwards and answers every further call with a clone of this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Trap {
    pub kind: TrapKind,
    /// The plugin that ran.
    pub plugin: Arc<str>,
    /// The callback or start function that ran, by its export's name.
    pub callback: &'static str,
    pub message: Arc<str>,
    /// Demangled names of guest functions, innermost first; at most [`Trap::FRAMES_MAX`].
    pub backtrace: Arc<[String]>,
}

/// Why a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrapKind {
    /// The CPU time of the callback is used up.
    Deadline,
    /// The memory limit was hit.
    Memory,
    /// The `unreachable` instruction: how panics and failed assertions end.
    Unreachable,
    /// `proc_exit`.
    Exit(u32),
    /// More hostcalls than one callback may make.
    HostcallQuota,
    /// A hostcall that isn't allowed while the host allocates in the guest.
    Reentrancy,
    StackOverflow,
    /// A load or store out of bounds.
    OutOfBounds,
    /// Division by zero, a bad indirect call, and the like.
    Other,
}

impl TrapKind {
    /// What [`TrapKind::label`] may answer.
    pub(crate) const LABELS: &[&str] = &[
        "deadline",
        "memory",
        "unreachable",
        "exit",
        "hostcall_quota",
        "reentrancy",
        "stack_overflow",
        "out_of_bounds",
        "other",
    ];

    /// The label of metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            TrapKind::Deadline => "deadline",
            TrapKind::Memory => "memory",
            TrapKind::Unreachable => "unreachable",
            TrapKind::Exit(_) => "exit",
            TrapKind::HostcallQuota => "hostcall_quota",
            TrapKind::Reentrancy => "reentrancy",
            TrapKind::StackOverflow => "stack_overflow",
            TrapKind::OutOfBounds => "out_of_bounds",
            TrapKind::Other => "other",
        }
    }
}

impl Trap {
    pub const FRAMES_MAX: usize = 16;
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.callback, self.message)?;
        if !self.backtrace.is_empty() {
            f.write_str("; in ")?;
            for (index, frame) in self.backtrace.iter().enumerate() {
                write!(f, "{}{frame}", if index == 0 { "" } else { " < " })?;
            }
        }
        Ok(())
    }
}

/// What a hostcall or the deadline ends a guest with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostTrap {
    #[error("used up its CPU time")]
    Deadline,
    #[error("made more hostcalls than one callback may")]
    HostcallQuota,
    #[error("its allocator called a hostcall that isn't allowed there")]
    Reentrancy,
    #[error("called proc_exit({0})")]
    Exit(u32),
    #[error("called a hostcall without an exported memory")]
    NoMemory,
    #[error("has used up its context ids")]
    ContextIds,
}

impl Trap {
    /// Explains the error that a guest call ended with. `refused_memory`: growth was refused since the guest was entered;
    /// `last_error`: what the guest logged last at level error or critical, such as its panic message.
    pub(crate) fn new(
        error: &wasmtime::Error,
        (plugin, callback): (Arc<str>, &'static str),
        refused_memory: bool,
        last_error: Option<&str>,
    ) -> Trap {
        let mut kind = kind(error);
        let mut message = error.root_cause().to_string();
        if refused_memory && matches!(kind, TrapKind::Unreachable | TrapKind::Other | TrapKind::OutOfBounds) {
            kind = TrapKind::Memory;
            message = format!("ran out of memory ({message})");
        }
        if let Some(text) = last_error {
            message = format!("{message}: {text}");
        }
        let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>().map(frames).unwrap_or_default();
        Trap {
            kind,
            plugin,
            callback,
            message: Arc::from(crate::engine::bounded(&message)),
            backtrace: Arc::from(backtrace),
        }
    }
}

fn kind(error: &wasmtime::Error) -> TrapKind {
    if let Some(trap) = error.downcast_ref::<HostTrap>() {
        return match trap {
            HostTrap::Deadline => TrapKind::Deadline,
            HostTrap::HostcallQuota => TrapKind::HostcallQuota,
            HostTrap::Reentrancy => TrapKind::Reentrancy,
            HostTrap::Exit(code) => TrapKind::Exit(*code),
            HostTrap::NoMemory | HostTrap::ContextIds => TrapKind::Other,
        };
    }
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::UnreachableCodeReached) => TrapKind::Unreachable,
        Some(wasmtime::Trap::StackOverflow) => TrapKind::StackOverflow,
        Some(wasmtime::Trap::MemoryOutOfBounds | wasmtime::Trap::TableOutOfBounds) => TrapKind::OutOfBounds,
        Some(wasmtime::Trap::AllocationTooLarge) => TrapKind::Memory,
        _ => TrapKind::Other,
    }
}

/// The demangled names of guest functions. wasmtime demangles only where it prints, so its text is taken apart.
fn frames(backtrace: &wasmtime::WasmBacktrace) -> Vec<String> {
    const NAME_MAX: usize = 160;
    let text = backtrace.to_string();
    let lines = text.lines().skip(1).take(Trap::FRAMES_MAX);
    lines
        .zip(backtrace.frames())
        .map(|(line, frame)| {
            let line = line.split_once(" - ").map_or(line, |(_, name)| name);
            let module = frame.module().name().unwrap_or("<unknown>");
            let name = line.strip_prefix(module).and_then(|rest| rest.strip_prefix('!')).unwrap_or(line);
            name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
        })
        .collect()
}
