//! Operators that tell how long something took: `%COMMON_DURATION(START:END:PRECISION)%`, and those with a name of their own.

use std::time::{Duration, Instant};

use outrigger_http::{LogType, ResponseFlags, StreamInfo, TimingPoint, UpstreamConnection};

use super::value::{Value, millis};

/// From one point on a stream's way to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DurationOperator {
    Between {
        from: Point,
        to: Point,
        precision: Precision,
    },
    /// Points that filters of Envoy set by names of their own; none here does.
    Never,
    /// From the connection's beginning to the end of the client's handshake.
    Handshake,
    /// Until the request had a connection.
    PoolReady,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The request's head was there.
    Start,
    Reached(TimingPoint),
    DownstreamConnected,
    /// Most connections outlive their requests.
    DownstreamClosed,
    HandshakeStart,
    HandshakeEnd,
    UpstreamConnectStart,
    UpstreamConnected,
    UpstreamSecured,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    Millis,
    Micros,
    Nanos,
}

const POINTS: &[(&str, Point)] = &[
    ("DS_CX_BEG", Point::DownstreamConnected),
    ("DS_CX_END", Point::DownstreamClosed),
    ("DS_HS_BEG", Point::HandshakeStart),
    ("DS_HS_END", Point::HandshakeEnd),
    ("DS_RX_BEG", Point::Start),
    ("DS_RX_END", Point::Reached(TimingPoint::RequestComplete)),
    ("US_CX_BEG", Point::UpstreamConnectStart),
    ("US_CX_END", Point::UpstreamConnected),
    ("US_HS_END", Point::UpstreamSecured),
    ("US_TX_BEG", Point::Reached(TimingPoint::UpstreamRequestSent)),
    ("US_TX_END", Point::Reached(TimingPoint::UpstreamRequestComplete)),
    ("US_RX_BEG", Point::Reached(TimingPoint::UpstreamResponseStart)),
    ("US_RX_BODY_BEG", Point::Reached(TimingPoint::UpstreamBodyStart)),
    ("US_RX_END", Point::Reached(TimingPoint::UpstreamResponseComplete)),
    ("DS_TX_BEG", Point::Reached(TimingPoint::ResponseStart)),
    ("DS_TX_END", Point::Reached(TimingPoint::ResponseComplete)),
];

impl DurationOperator {
    /// `None`: the operator is of another kind. `Err`: its argument is wrong.
    pub(crate) fn parse(name: &str, argument: Option<&str>) -> Option<Result<DurationOperator, &'static str>> {
        let alone = argument.is_none_or(str::is_empty);
        match name {
            "COMMON_DURATION" => Some(between(argument.unwrap_or_default())),
            "DOWNSTREAM_HANDSHAKE_DURATION" if alone => Some(Ok(DurationOperator::Handshake)),
            "UPSTREAM_CONNECTION_POOL_READY_DURATION" if alone => Some(Ok(DurationOperator::PoolReady)),
            "DOWNSTREAM_HANDSHAKE_DURATION" | "UPSTREAM_CONNECTION_POOL_READY_DURATION" => {
                Some(Err("takes no argument"))
            }
            _ => None,
        }
    }

    pub(crate) fn value(self, info: &StreamInfo) -> Value<'static> {
        match self {
            DurationOperator::Between { from, to, precision } => {
                let span = from.at(info).zip(to.at(info)).and_then(|(from, to)| to.checked_duration_since(from));
                span.map_or(Value::Absent, |span| precision.of(span))
            }
            DurationOperator::Never => Value::Absent,
            DurationOperator::Handshake => {
                let end = info.downstream.start.zip(Point::HandshakeEnd.at(info));
                millis(end.map(|(start, end)| end.saturating_duration_since(start)))
            }
            DurationOperator::PoolReady => {
                let ready = info.timings.get(TimingPoint::UpstreamReady);
                let asked = info.timings.get(TimingPoint::UpstreamAsked);
                millis(ready.zip(asked).map(|(ready, asked)| ready.saturating_sub(asked)))
            }
        }
    }
}

fn between(argument: &str) -> Result<DurationOperator, &'static str> {
    let parts: Vec<&str> = argument.split(':').collect();
    let (from, to, precision) = match parts[..] {
        [from, to] => (from, to, "ms"),
        [from, to, precision] => (from, to, precision),
        _ => return Err("takes two points in time, and a precision"),
    };
    let precision = match precision {
        "ms" => Precision::Millis,
        "us" => Precision::Micros,
        "ns" => Precision::Nanos,
        _ => return Err("takes ms, us or ns for its precision"),
    };
    let point = |name: &str| POINTS.iter().find(|(known, _)| *known == name).map(|(_, point)| *point);
    Ok(match point(from).zip(point(to)) {
        Some((from, to)) => DurationOperator::Between { from, to, precision },
        None => DurationOperator::Never,
    })
}

impl Point {
    fn at(self, info: &StreamInfo) -> Option<Instant> {
        let upstream = |of: fn(UpstreamConnection) -> Instant| info.upstream_connection().map(of);
        let handshake = info.downstream.tls.as_ref().and_then(|tls| tls.handshake);
        match self {
            Point::Start => Some(info.start),
            Point::Reached(point) => info.timings.get(point).map(|since| info.start + since),
            Point::DownstreamConnected => info.downstream.start,
            Point::DownstreamClosed => {
                let end = info.timings.get(TimingPoint::ResponseComplete).map(|since| info.start + since);
                let outlives = info.log_type == LogType::DownstreamEnd
                    && !info.flags.contains(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
                end.filter(|_| !outlives)
            }
            Point::HandshakeStart => handshake.map(|(start, _)| start),
            Point::HandshakeEnd => handshake.map(|(_, end)| end),
            Point::UpstreamConnectStart => upstream(|connection| connection.connect_start),
            Point::UpstreamConnected => upstream(|connection| connection.connected),
            Point::UpstreamSecured => {
                let tls = info.upstream.as_ref().and_then(|upstream| upstream.tls.as_ref());
                tls.and_then(|tls| tls.handshake).map(|(_, end)| end)
            }
        }
    }
}

impl Precision {
    fn of(self, span: Duration) -> Value<'static> {
        let count = match self {
            Precision::Millis => span.as_millis(),
            Precision::Micros => span.as_micros(),
            Precision::Nanos => span.as_nanos(),
        };
        Value::Number(i64::try_from(count).unwrap_or(i64::MAX))
    }
}
