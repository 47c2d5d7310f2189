//! Every message as a Rust type, by its protobuf package: `pb::envoy::config::listener::v3::Listener`.
//!
//! Envoy's API, `google.protobuf`, `google.rpc`, `xds` and `udpa` come from the `envoy-types` crate; `outrigger` is ours.
//! The aggregated discovery service is generated there too, client and server:
//! `pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient` and
//! `pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{AggregatedDiscoveryService,
//! AggregatedDiscoveryServiceServer}`, both with `StreamAggregatedResources` and `DeltaAggregatedResources`
//! (tonic's limit of 4 MiB for a decoded message must be lifted by the caller: `max_decoding_message_size`).

pub use envoy_types::pb::*;

/// Our own messages.
pub mod outrigger {
    /// Machine code.
    pub mod code {
        /// `proto/outrigger/code/v1/machine_code.proto`.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/outrigger.code.v1.rs"));
        }
    }
    /// Traces for a collector.
    pub mod otlp {
        /// `proto/outrigger/otlp/v1/trace.proto`.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/outrigger.otlp.v1.rs"));
        }
    }
    /// Filters.
    pub mod filters {
        /// HTTP filters.
        pub mod http {
            /// Wasm filters.
            pub mod wasm {
                /// `proto/outrigger/filters/http/wasm/v1/wasm.proto`.
                pub mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/outrigger.filters.http.wasm.v1.rs"));
                }
            }
        }
    }
    /// What the overload manager looks at.
    pub mod resource_monitors {
        /// Requests that wait for an upstream connection.
        pub mod pending_requests {
            /// `proto/outrigger/resource_monitors/pending_requests/v1/pending_requests.proto`.
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/outrigger.resource_monitors.pending_requests.v1.rs"));
            }
        }
    }
    /// Load balancing policies.
    pub mod load_balancing_policies {
        /// By expected latency.
        pub mod peak_ewma {
            /// `proto/outrigger/load_balancing_policies/peak_ewma/v1/peak_ewma.proto`.
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/outrigger.load_balancing_policies.peak_ewma.v1.rs"));
            }
        }
    }
}
