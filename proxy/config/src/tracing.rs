//! Traces of requests (`HttpConnectionManager.tracing`), told over OTLP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_http::HeaderName;

/// What one HTTP connection manager traces, and where it tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    pub tracer: Arc<Tracer>,
    /// Share of the requests with `x-client-trace-id` that are traced for it.
    pub client_sampling: Share,
    /// Share of the requests without a context of their own that are traced.
    pub random_sampling: Share,
    /// Share of what the two above chose that is traced in the end.
    pub overall_sampling: Share,
    /// `http.url` is cut after that many bytes of path.
    pub path_bytes_max: usize,
    pub tags: Vec<CustomTag>,
}

/// A share in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    pub const ALL: Share = Share(1_000_000);

    /// From a percentage; what is beyond 0 and 100 is cut.
    #[must_use]
    pub fn from_percent(percent: f64) -> Share {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and a million")]
        Share((percent.clamp(0.0, 100.0) * 10_000.0).round() as u32)
    }

    /// Whether a uniformly random number falls into the share.
    #[must_use]
    pub const fn contains(self, random: u32) -> bool {
        random % 1_000_000 < self.0
    }
}

/// A collector (`envoy.config.trace.v3.OpenTelemetryConfig`). Equal tracers share one exporter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tracer {
    /// Its endpoints take the spans.
    pub cluster: Arc<str>,
    pub transport: OtlpTransport,
    /// Attribute `service.name` of the resource.
    pub service_name: Arc<str>,
    /// For one export.
    pub timeout: Duration,
    /// Spans that wait for an export; the rest is dropped and counted.
    pub spans_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OtlpTransport {
    /// `grpc_service`.
    Grpc { authority: String, metadata: Vec<(String, String)> },
    /// `http_service`: binary protobuf by POST.
    Http { authority: String, path: String, headers: Vec<(String, String)> },
}

/// A tag that spans get beside the usual ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomTag {
    pub name: Arc<str>,
    pub value: TagValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagValue {
    /// `literal`, and `environment` as it was when the configuration was read.
    Literal(Arc<str>),
    RequestHeader {
        name: HeaderName,
        default: Bytes,
    },
}

#[cfg(test)]
mod tests {
    use super::Share;

    #[test]
    fn percentages_are_shares() {
        let counts = |share: Share| (0..1_000_000).step_by(1000).filter(|n| share.contains(*n)).count();
        assert_eq!(counts(Share::from_percent(0.0)), 0);
        assert_eq!(counts(Share::from_percent(12.5)), 125);
        assert_eq!(counts(Share::from_percent(300.0)), 1000);
        assert_eq!(Share::from_percent(100.0), Share::ALL);
    }
}
