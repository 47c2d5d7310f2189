//! What users write, read into [`outrigger_model::Objects`]: the standard kinds (Gateway, HTTPRoute, TCPRoute,
//! ReferenceGrant, Service, EndpointSlice, Namespace) and our own (`WasmFilter`), from a folder of YAML and JSON files.
//!
//! [`Loader::load`] (or [`load`], once) gives either a complete, valid set of objects, or every problem there is, each
//! with file, line and field. A folder with an error gives no objects, so that the caller keeps its last good ones.
//! Nothing that is set is passed over in silence: an unknown field is an error, and so is one that is not implemented
//! and would change what is served or allowed; what is left out without that is a warning.
//!
//! Every document becomes a tree that knows its lines (`node`), and the kinds are decoded from that tree by hand
//! (`decode`, `kinds`), not by serde: serde stops at the first problem, and forgets the line of what it has read, so
//! that what is found later (a reference to nothing, two objects of one name) could not say where.
//!
//! Architecture invariant: no kube client, no tokio, no network. Modules over HTTP come through the caller's
//! [`ModuleFetcher`].

mod decode;
mod folder;
mod kinds;
mod load;
mod module;
mod node;
mod parse;
mod problem;
mod scalar;
mod schema;
mod wasm;

pub use load::{LoadOptions, LoadReport, Loader, load, object};
pub use module::{MODULE_BYTES_MAX, ModuleFetcher};
pub use problem::{Problem, Severity};
pub use schema::{
    EnvVar, FailurePolicySpec, FileSource, Guardrails, HttpSource, IsolationSpec, LimitsSpec, OciSource, PhaseSpec,
    Rollout, SecretRef, Source, TargetRef, WasmFilterSpec, schemas,
};
