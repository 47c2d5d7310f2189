//! The ADS server: delta and state of the world, snapshots by node, and the translation from the mesh's model to
//! Envoy's protos.
//!
//! ```text
//! MeshIndex ──publish──▶ Hub ──NodeSnapshot──▶ StreamState ──responses──▶ proxy
//!                         │ translate          ▲ (one for each stream)      │
//!                         ▼                    └───────── ACK, NACK ────────┘
//!                    resources, shared              │
//!                                                   ▼ Proxies (status), Metrics
//! ```
//!
//! - [`Hub`] holds what is published and translates it, once for all clients of a kind; what did not change is not
//!   translated again, and equal resources are in memory once.
//! - [`StreamState`] is the protocol, without I/O; [`AdsServer`] is the gRPC service around it.
//! - Versions are content hashes, so that a reconnect, also to another replica, sends only what differs.
//! - A stream holds at most one response of each type that waits for its answer, and the newest snapshot: a proxy that is
//!   slow gets the last state, not every state.

mod canonical;
mod connection;
mod debounce;
mod hub;
mod metrics;
mod node;
mod protocol;
mod proxies;
mod resource;
mod server;
mod stream;
mod timestamp;
mod translate;

pub use debounce::{Debounce, DebounceOptions};
pub use hub::Hub;
pub use metrics::{Metrics, sample};
pub use node::{NodeError, NodeInfo, NodeKey, Scope};
pub use proxies::{
    FilterState, LimitationStatus, Proxies, ProxyStatus, RejectionStatus, Retention, SyncState, TypeStatus,
};
pub use resource::{Interner, Limitation, NodeSnapshot, Resource, ResourceType, Resources, Version};
pub use server::{AdsServer, ServerOptions};
pub use stream::{Answer, Nack, Names, Refused, Request, Response, StreamOptions, StreamState, TypeState, Variant};
pub use timestamp::rfc3339;
pub use translate::{MODULES_CLUSTER, Profile};
