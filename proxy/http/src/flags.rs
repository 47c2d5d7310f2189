//! Envoy's response flags: why an answer is what it is.

/// A set of response flags (`%RESPONSE_FLAGS%`, property `response.flags`), with Envoy's bit positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident $bit:literal $short:literal)*) => {
        impl ResponseFlags {
            $($(#[$doc])* pub const $name: ResponseFlags = ResponseFlags(1 << $bit);)*
        }
        const SHORT: &[(u32, &str)] = &[$((1 << $bit, $short)),*];
    };
}

flags! {
    /// Failed local health check.
    FAILED_LOCAL_HEALTH_CHECK 0 "LH"
    /// No healthy upstream host.
    NO_HEALTHY_UPSTREAM 1 "UH"
    /// The upstream request timed out.
    UPSTREAM_REQUEST_TIMEOUT 2 "UT"
    /// We reset the stream.
    LOCAL_RESET 3 "LR"
    /// The upstream reset the stream.
    UPSTREAM_REMOTE_RESET 4 "UR"
    /// Connecting to the upstream failed.
    UPSTREAM_CONNECTION_FAILURE 5 "UF"
    /// The upstream closed the connection.
    UPSTREAM_CONNECTION_TERMINATION 6 "UC"
    /// A circuit breaker refused.
    UPSTREAM_OVERFLOW 7 "UO"
    /// No route matched.
    NO_ROUTE 8 "NR"
    /// Delay fault injected.
    DELAY_INJECTED 9 "DI"
    /// Abort fault injected.
    FAULT_INJECTED 10 "FI"
    /// Rate limited.
    RATE_LIMITED 11 "RL"
    /// External authorization denied.
    UNAUTHORIZED_EXTERNAL_SERVICE 12 "UAEX"
    /// The rate limit service failed.
    RATELIMIT_SERVICE_ERROR 13 "RLSE"
    /// The client closed the connection.
    DOWNSTREAM_CONNECTION_TERMINATION 14 "DC"
    /// Retries are used up.
    UPSTREAM_RETRY_LIMIT_EXCEEDED 15 "URX"
    /// The stream idle timeout ran out.
    STREAM_IDLE_TIMEOUT 16 "SI"
    /// An `x-envoy-*` header was invalid.
    INVALID_ENVOY_REQUEST_HEADERS 17 "IH"
    /// The client's bytes were no valid HTTP.
    DOWNSTREAM_PROTOCOL_ERROR 18 "DPE"
    /// The maximum duration of the stream ran out.
    UPSTREAM_MAX_STREAM_DURATION_REACHED 19 "UMSDR"
    /// Answered from a cache filter.
    RESPONSE_FROM_CACHE_FILTER 20 "RFCF"
    /// No filter configuration by ECDS yet.
    NO_FILTER_CONFIG_FOUND 21 "NFCF"
    /// The duration of the whole request ran out.
    DURATION_TIMEOUT 22 "DT"
    /// The upstream's bytes were no valid HTTP.
    UPSTREAM_PROTOCOL_ERROR 23 "UPE"
    /// The cluster isn't there.
    NO_CLUSTER_FOUND 24 "NC"
    /// The overload manager refused.
    OVERLOAD_MANAGER 25 "OM"
    /// DNS resolution failed.
    DNS_RESOLUTION_FAILED 26 "DF"
    /// The drop overload of the endpoints' policy refused.
    DROP_OVERLOAD 27 "DO"
    /// The client reset the stream.
    DOWNSTREAM_REMOTE_RESET 28 "DR"
    /// The drop overload of the endpoints' policy refuses everything.
    UNCONDITIONAL_DROP_OVERLOAD 29 "UDO"
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
        SHORT.iter().find(|(_, short)| *short == name).map(|(bit, _)| ResponseFlags(*bit))
    }

    pub const fn insert(&mut self, other: ResponseFlags) {
        self.0 |= other.0;
    }
}

impl std::fmt::Display for ResponseFlags {
    /// Comma-joined short names, or `-`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut first = true;
        for (bit, short) in SHORT {
            if self.0 & bit != 0 {
                if !first {
                    f.write_str(",")?;
                }
                first = false;
                f.write_str(short)?;
            }
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
    }
}
