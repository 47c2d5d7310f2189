//! Envoy's response flags: why an answer is what it is.

/// A set of response flags (`%RESPONSE_FLAGS%`, property `response.flags`), with Envoy's bit positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident $bit:literal $short:literal $long:literal)*) => {
        impl ResponseFlags {
            $($(#[$doc])* pub const $name: ResponseFlags = ResponseFlags(1 << $bit);)*
        }
        /// Each bit with its short and its long name.
        const NAMES: &[(u32, &str, &str)] = &[$((1 << $bit, $short, $long)),*];
    };
}

flags! {
    /// Failed local health check.
    FAILED_LOCAL_HEALTH_CHECK 0 "LH" "FailedLocalHealthCheck"
    /// No healthy upstream host.
    NO_HEALTHY_UPSTREAM 1 "UH" "NoHealthyUpstream"
    /// The upstream request timed out.
    UPSTREAM_REQUEST_TIMEOUT 2 "UT" "UpstreamRequestTimeout"
    /// We reset the stream.
    LOCAL_RESET 3 "LR" "LocalReset"
    /// The upstream reset the stream.
    UPSTREAM_REMOTE_RESET 4 "UR" "UpstreamRemoteReset"
    /// Connecting to the upstream failed.
    UPSTREAM_CONNECTION_FAILURE 5 "UF" "UpstreamConnectionFailure"
    /// The upstream closed the connection.
    UPSTREAM_CONNECTION_TERMINATION 6 "UC" "UpstreamConnectionTermination"
    /// A circuit breaker refused.
    UPSTREAM_OVERFLOW 7 "UO" "UpstreamOverflow"
    /// No route matched.
    NO_ROUTE 8 "NR" "NoRouteFound"
    /// Delay fault injected.
    DELAY_INJECTED 9 "DI" "DelayInjected"
    /// Abort fault injected.
    FAULT_INJECTED 10 "FI" "FaultInjected"
    /// Rate limited.
    RATE_LIMITED 11 "RL" "RateLimited"
    /// External authorization denied.
    UNAUTHORIZED_EXTERNAL_SERVICE 12 "UAEX" "UnauthorizedExternalService"
    /// The rate limit service failed.
    RATELIMIT_SERVICE_ERROR 13 "RLSE" "RateLimitServiceError"
    /// The client closed the connection.
    DOWNSTREAM_CONNECTION_TERMINATION 14 "DC" "DownstreamConnectionTermination"
    /// Retries are used up.
    UPSTREAM_RETRY_LIMIT_EXCEEDED 15 "URX" "UpstreamRetryLimitExceeded"
    /// The stream idle timeout ran out.
    STREAM_IDLE_TIMEOUT 16 "SI" "StreamIdleTimeout"
    /// An `x-envoy-*` header was invalid.
    INVALID_ENVOY_REQUEST_HEADERS 17 "IH" "InvalidEnvoyRequestHeaders"
    /// The client's bytes were no valid HTTP.
    DOWNSTREAM_PROTOCOL_ERROR 18 "DPE" "DownstreamProtocolError"
    /// The maximum duration of the stream ran out.
    UPSTREAM_MAX_STREAM_DURATION_REACHED 19 "UMSDR" "UpstreamMaxStreamDurationReached"
    /// Answered from a cache filter.
    RESPONSE_FROM_CACHE_FILTER 20 "RFCF" "ResponseFromCacheFilter"
    /// No filter configuration by ECDS yet.
    NO_FILTER_CONFIG_FOUND 21 "NFCF" "NoFilterConfigFound"
    /// The duration of the whole request ran out.
    DURATION_TIMEOUT 22 "DT" "DurationTimeout"
    /// The upstream's bytes were no valid HTTP.
    UPSTREAM_PROTOCOL_ERROR 23 "UPE" "UpstreamProtocolError"
    /// The cluster isn't there.
    NO_CLUSTER_FOUND 24 "NC" "NoClusterFound"
    /// The overload manager refused.
    OVERLOAD_MANAGER 25 "OM" "OverloadManagerTerminated"
    /// DNS resolution failed.
    DNS_RESOLUTION_FAILED 26 "DF" "DnsResolutionFailed"
    /// The drop overload of the endpoints' policy refused.
    DROP_OVERLOAD 27 "DO" "DropOverload"
    /// The client reset the stream.
    DOWNSTREAM_REMOTE_RESET 28 "DR" "DownstreamRemoteReset"
    /// The drop overload of the endpoints' policy refuses everything.
    UNCONDITIONAL_DROP_OVERLOAD 29 "UDO" "UnconditionalDropOverload"
}

impl ResponseFlags {
    pub const NONE: ResponseFlags = ResponseFlags(0);

    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub const fn contains(self, other: ResponseFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether one of them is here.
    #[must_use]
    pub const fn intersects(self, other: ResponseFlags) -> bool {
        self.0 & other.0 != 0
    }

    /// The flag with this short name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<ResponseFlags> {
        NAMES.iter().find(|(_, short, _)| *short == name).map(|(bit, ..)| ResponseFlags(*bit))
    }

    pub const fn insert(&mut self, other: ResponseFlags) {
        self.0 |= other.0;
    }
}

impl std::fmt::Display for ResponseFlags {
    /// Comma-joined short names, or `-`; the alternate form has the long ones.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let set = NAMES.iter().filter(|(bit, ..)| self.0 & bit != 0);
        for (index, (_, short, long)) in set.enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(if f.alternate() { long } else { short })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_read_as_in_envoy() {
        let mut flags = ResponseFlags::NONE;
        assert_eq!(flags.to_string(), "-");
        flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.to_string(), "UF,URX");
        assert_eq!(format!("{flags:#}"), "UpstreamConnectionFailure,UpstreamRetryLimitExceeded");
    }
}
