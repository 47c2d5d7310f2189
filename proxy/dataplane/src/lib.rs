//! The data plane: workers that accept, route, filter and forward.
//!
//! [`Workers`] owns the threads; [`Prepared`] is a generation that can't fail any more; [`Workers::publish`] swaps. A stream
//! pins the generation that it began with; the next one on the same connection has the newest. Nothing is drained for a
//! filter or a route.
//!
//! The way of a request: `listener` accepts, `serve` drives the connection, `exchange` drives one request through
//! `normalize`, the router and the `iteration` over its filters to `cluster` and `upstream`, and back.
//!
//! *Architecture invariants:* no proto type, no hyper and no tonic here. Nothing on the request path is shared between
//! workers, but for the counts of circuit breakers and of outlier detection. Names of HTTP versions end in `downstream`, `upstream` and `serve`.

mod access_log;
mod bind;
mod client_cert;
mod cluster;
mod date;
mod downstream;
mod enabled;
mod error;
mod exchange;
mod filter;
mod filters;
#[doc(hidden)]
pub mod fuzzing;
mod http1;
mod http2;
mod inherited;
mod inspect;
mod iteration;
mod listener;
mod live;
mod mutation;
mod network;
mod normalize;
mod overload;
mod pace;
mod plugin;
mod prepared;
mod probe;
mod resolver;
mod serve;
mod socket;
mod stats;
mod tcp;
#[cfg(test)]
mod testing;
mod texts;
mod timer;
mod tls;
mod trace;
mod transport;
mod tunnel;
mod turns;
mod upstream;
mod worker;
mod workers;
mod write_queue;

pub use cluster::{ClusterStatus, EndpointStatus, HealthFlags, LocalZone};
pub use inherited::Inherited;
pub use overload::Overload;
pub use plugin::{
    GivenUp, GivenUps, PreparedPlugin, RevisionFigures, RolloutRun, ShadowDifferences, Verdict as RolloutVerdict,
};
pub use prepared::{BoundListener, GenerationPlugins, ListenerFailure, Prepared, RoutePlugins, WorkerVms};
pub use resolver::{Resolved, Resolvers};
pub use socket::connect_control;
pub use tls::{Alpn, Target as TlsTarget, install_provider, secure_control};
pub use trace::{Attribute, Span, SpanQueue, SpanSink, span_queue};
pub use workers::{DrainOptions, DrainRequest, Options, PublishError, Workers};
