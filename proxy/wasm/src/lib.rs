//! The Proxy-Wasm host: compiles filters, starts their VMs and enters them for a worker's streams.
//!
//! A [`CompiledModule`] is shared by all threads. [`start`] makes a [`ReadyVm`] of it and of a first [`Plugin`]'s
//! configuration on a prepare thread, canary or serving; plugins of an equal [`VmConfig`] may be added to it, each a root
//! context of its own. The worker takes the VM over with [`ReadyVm::into_vm`] and calls the [`Vm`] for each stream. Calls are synchronous and never re-enter: what a guest asks for is queued as an [`Effect`].
//!
//! Promises: no guest can block a thread longer than its budget, use more memory than its limit, crash the process or
//! reach anything but its own streams, its shared data and what [`Services`] shows it.
//!
//! Architecture invariant: this crate knows no HTTP codec, no xDS type and no runtime.

mod action;
mod call_answer;
mod contexts;
mod engine;
mod exports;
#[doc(hidden)]
pub mod fuzzing;
mod guest_log;
mod host;
mod hostcall;
mod interner;
mod labels;
mod limiter;
mod maps;
mod metrics;
mod module;
mod pairs;
mod plugin;
mod pool;
mod property;
mod queues;
mod services;
mod shared;
mod start;
mod status;
mod ticker;
mod trap;
mod vm;

pub use outrigger_attributes::{Node, Objects, Property, set_node};

pub use action::{
    CallFailure, CallResponse, CloseType, ContextId, DataAction, Direction, Effect, GrpcEvent, GrpcOpen, HeadersAction,
    HttpCall, LocalReply, NetworkAction, RootId, TrailersAction,
};
pub use engine::{Code, CompileError, Engine, EngineError};
pub use labels::PluginLabels;
pub use metrics::{VmEvent, VmWaits, count_vm_event};
pub use module::{Abi, Callbacks, CompiledModule, LoadError};
pub use plugin::{Backoff, FailurePolicy, Isolation, Limits, Plugin, VmConfig};
pub use pool::MEMORY_BYTES_MAX as STREAM_MEMORY_BYTES_MAX;
pub use queues::QueueEvents;
pub use services::Services;
pub use shared::Tenant;
pub use start::{StartError, StartMode, StartedVm, start, start_vm};
pub use trap::{Trap, TrapKind};
pub use vm::{ReadyVm, Vm, WorkerHost};
