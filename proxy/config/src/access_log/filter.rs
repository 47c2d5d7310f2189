//! Which streams an access log tells of (`envoy.config.accesslog.v3.AccessLogFilter`).

use outrigger_attributes::Expression;
use outrigger_http::{HeaderName, LogType, ResponseFlags, StreamState, TimingPoint};

use crate::expression::holds;
use crate::format::grpc_code;
use crate::{Fraction, HeaderMatcher, MetadataMatcher};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFilter {
    /// `not_health_check_filter`: no filter here marks requests as health checks.
    Everything,
    And(Vec<LogFilter>),
    Or(Vec<LogFilter>),
    /// The status, 0 where there was no answer.
    Status(Comparison),
    /// Milliseconds until the end.
    Duration(Comparison),
    /// `traceable_filter`: traced because a service within the mesh asked for it.
    ForcedTrace,
    Share {
        fraction: Fraction,
        /// Drawn for each stream, and not told by its request id.
        independent: bool,
    },
    Header(HeaderMatcher),
    /// Any of these; `None`: any at all.
    Flags(Option<ResponseFlags>),
    GrpcStatus {
        /// A bit for each code.
        codes: u32,
        exclude: bool,
    },
    Metadata {
        /// `None`: there is never a value.
        matcher: Option<MetadataMatcher>,
        /// What holds for streams without a value.
        missing: bool,
    },
    /// `envoy.access_loggers.extension_filters.cel`.
    Expression(Expression),
    LogType {
        types: Vec<LogType>,
        exclude: bool,
    },
}

/// `envoy.config.accesslog.v3.ComparisonFilter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    pub op: ComparisonOp,
    pub value: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparisonOp {
    Equal,
    AtLeast,
    AtMost,
    Differs,
}

impl Comparison {
    fn holds(self, found: u64) -> bool {
        let value = u64::from(self.value);
        match self.op {
            ComparisonOp::Equal => found == value,
            ComparisonOp::AtLeast => found >= value,
            ComparisonOp::AtMost => found <= value,
            ComparisonOp::Differs => found != value,
        }
    }
}

/// What a request without a gRPC status or an answer has.
const GRPC_UNKNOWN: u32 = 2;

impl LogFilter {
    /// Whether the log tells of a stream that is over.
    pub fn wants(&self, state: &StreamState, random: &mut dyn FnMut() -> u64) -> bool {
        let info = &state.info;
        match self {
            LogFilter::Everything => true,
            LogFilter::And(all) => all.iter().all(|one| one.wants(state, random)),
            LogFilter::Or(any) => any.iter().any(|one| one.wants(state, random)),
            LogFilter::Status(comparison) => {
                comparison.holds(state.response.as_ref().map_or(0, |response| u64::from(response.status)))
            }
            LogFilter::Duration(comparison) => info
                .timings
                .get(TimingPoint::ResponseComplete)
                .is_some_and(|elapsed| comparison.holds(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))),
            LogFilter::ForcedTrace => info.extras().trace_forced,
            LogFilter::Share { fraction, independent } => {
                let told = if *independent { None } else { of_request_id(state) };
                fraction.holds(told.unwrap_or_else(random))
            }
            LogFilter::Header(matcher) => matcher.matches(&state.request),
            LogFilter::Flags(None) => !info.flags.is_empty(),
            LogFilter::Flags(Some(flags)) => info.flags.intersects(*flags),
            LogFilter::GrpcStatus { codes, exclude } => {
                // A code that is none is none of those that can be named.
                let code = grpc_code(state).map_or(Some(GRPC_UNKNOWN), Result::ok);
                code.is_some_and(|code| codes.checked_shr(code).unwrap_or(0) & 1 == 1) != *exclude
            }
            LogFilter::Metadata { matcher, missing } => {
                matcher.as_ref().and_then(|matcher| matcher.holds(info.metadata.as_deref())).unwrap_or(*missing)
            }
            LogFilter::Expression(expression) => holds(expression, state),
            LogFilter::LogType { types, exclude } => types.contains(&info.log_type) != *exclude,
        }
    }
}

/// The number that a request id stands for, so that all proxies on a request's way choose alike.
fn of_request_id(state: &StreamState) -> Option<u64> {
    let id = state.request.headers.get(&HeaderName::X_REQUEST_ID)?;
    let digits = std::str::from_utf8(id.get(..8)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use outrigger_http::{Headers, ResponseHead};

    use super::*;

    fn comparison(op: ComparisonOp, value: u32) -> Comparison {
        Comparison { op, value }
    }

    #[track_caller]
    fn check(filter: &LogFilter, state: &StreamState, expected: bool) {
        assert_eq!(filter.wants(state, &mut || 7), expected, "{filter:?}");
    }

    #[test]
    fn numbers_are_compared() {
        let mut state = StreamState::default();
        let status = |op, value| LogFilter::Status(comparison(op, value));
        check(&status(ComparisonOp::Equal, 0), &state, true);
        state.response = Some(ResponseHead::new(404));
        check(&status(ComparisonOp::Equal, 404), &state, true);
        check(&status(ComparisonOp::AtLeast, 405), &state, false);
        check(&status(ComparisonOp::AtMost, 404), &state, true);
        check(&status(ComparisonOp::Differs, 404), &state, false);
        let duration = LogFilter::Duration(comparison(ComparisonOp::AtLeast, 20));
        check(&duration, &state, false);
        state.info.timings.set(TimingPoint::ResponseComplete, Duration::from_millis(20));
        check(&duration, &state, true);
    }

    #[test]
    fn a_share_is_told_by_the_request_id_or_drawn() {
        let mut state = StreamState::default();
        let share =
            |independent| LogFilter::Share { fraction: Fraction { numerator: 8, denominator: 100 }, independent };
        check(&share(false), &state, true);
        for (id, told) in [("00000007-1", true), ("00000008-1", false), ("short", true), ("not-hexadecimal", true)] {
            state.request.headers.set(HeaderName::X_REQUEST_ID, Bytes::copy_from_slice(id.as_bytes()));
            check(&share(false), &state, told);
            check(&share(true), &state, true);
        }
    }

    #[test]
    fn flags_and_grpc_codes() {
        let mut state = StreamState::default();
        check(&LogFilter::Flags(None), &state, false);
        state.info.flags.insert(ResponseFlags::NO_ROUTE);
        check(&LogFilter::Flags(None), &state, true);
        let mut wanted = ResponseFlags::NO_ROUTE;
        wanted.insert(ResponseFlags::NO_CLUSTER_FOUND);
        check(&LogFilter::Flags(Some(wanted)), &state, true);
        check(&LogFilter::Flags(Some(ResponseFlags::RATE_LIMITED)), &state, false);

        let codes = |codes, exclude| LogFilter::GrpcStatus { codes, exclude };
        check(&codes(1 << 2, false), &state, true);
        let mut trailers = Headers::default();
        trailers.append(HeaderName::GRPC_STATUS, Bytes::from_static(b"5"));
        state.response_trailers = Some(trailers.clone());
        check(&codes(1 << 5, false), &state, true);
        check(&codes(1 << 5, true), &state, false);
        trailers.set(HeaderName::GRPC_STATUS, Bytes::from_static(b"64"));
        state.response_trailers = Some(trailers);
        check(&codes(u32::MAX, false), &state, false);
    }

    #[test]
    fn filters_are_joined() {
        let state = StreamState::default();
        let (yes, no) = (LogFilter::Everything, LogFilter::ForcedTrace);
        check(&LogFilter::And(vec![yes.clone(), no.clone()]), &state, false);
        check(&LogFilter::Or(vec![no.clone(), yes]), &state, true);
        check(&LogFilter::LogType { types: vec![LogType::NotSet], exclude: false }, &state, true);
        check(&LogFilter::LogType { types: vec![LogType::NotSet], exclude: true }, &state, false);
        check(&LogFilter::Metadata { matcher: None, missing: false }, &state, false);
    }
}
