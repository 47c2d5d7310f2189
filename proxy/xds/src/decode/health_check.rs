//! `HealthCheck`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{
    EndpointHealthCheck, GrpcHealthCheck, HeaderMutations, HealthCheck, HealthCheckKind, HttpHealthCheck, Protocol,
    TcpHealthCheck,
};
use outrigger_http::Method;
use outrigger_proto::pb;
use pb::envoy::config::cluster::v3 as cluster;
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use pb::envoy::r#type::v3::{CodecClientType, Int64Range};
use pb::google::protobuf;

use super::common::{duration, flag, number, socket_address, variant};
use super::matcher::header_name;
use super::mutation::header_value;
use crate::Diagnostics;

pub(crate) fn decode(proto: &cluster::Cluster, d: &mut Diagnostics) -> Option<HealthCheck> {
    if proto.health_checks.len() > 1 {
        d.at("health_checks", |d| d.error("more than one is not supported, as in Envoy"));
    }
    let check = proto.health_checks.first()?;
    d.at_index("health_checks", 0, |d| decode_one(check, d))
}

fn decode_one(proto: &core::HealthCheck, d: &mut Diagnostics) -> Option<HealthCheck> {
    let timeout = required(proto.timeout.as_ref(), "timeout", d);
    let interval = required(proto.interval.as_ref(), "interval", d);
    let threshold = |value: Option<protobuf::UInt32Value>, field, d: &mut Diagnostics| {
        if value.is_none() {
            d.at(field, |d| d.error("is required"));
        }
        number(value, 1, 0..=u32::MAX, field, d).max(1)
    };
    let unhealthy_threshold = threshold(proto.unhealthy_threshold, "unhealthy_threshold", d);
    let healthy_threshold = threshold(proto.healthy_threshold, "healthy_threshold", d);
    let kind = kind(proto, d);
    let jitter =
        |value: Option<&protobuf::Duration>, field, d: &mut Diagnostics| duration(value, field, d).unwrap_or_default();
    let (initial_jitter, interval_jitter) = (
        jitter(proto.initial_jitter.as_ref(), "initial_jitter", d),
        jitter(proto.interval_jitter.as_ref(), "interval_jitter", d),
    );
    let every = |value: Option<&protobuf::Duration>, default: Duration, field, d: &mut Diagnostics| match value {
        Some(_) => required(value, field, d).unwrap_or(default),
        None => default,
    };
    let (timeout, interval) = (timeout?, interval?);
    let no_traffic_interval =
        every(proto.no_traffic_interval.as_ref(), Duration::from_secs(60), "no_traffic_interval", d);
    let unhealthy_interval = every(proto.unhealthy_interval.as_ref(), interval, "unhealthy_interval", d);
    Some(HealthCheck {
        timeout,
        interval,
        initial_jitter,
        interval_jitter,
        interval_jitter_percent: proto.interval_jitter_percent,
        unhealthy_threshold,
        healthy_threshold,
        port: port(proto.alt_port.map(|port| port.value), "alt_port", d),
        reuse_connection: flag(proto.reuse_connection, true),
        no_traffic_interval,
        no_traffic_healthy_interval: every(
            proto.no_traffic_healthy_interval.as_ref(),
            no_traffic_interval,
            "no_traffic_healthy_interval",
            d,
        ),
        unhealthy_interval,
        unhealthy_edge_interval: every(
            proto.unhealthy_edge_interval.as_ref(),
            unhealthy_interval,
            "unhealthy_edge_interval",
            d,
        ),
        healthy_edge_interval: every(proto.healthy_edge_interval.as_ref(), interval, "healthy_edge_interval", d),
        kind: kind?,
    })
}

/// A time that is set and at least a millisecond.
fn required(value: Option<&protobuf::Duration>, field: &'static str, d: &mut Diagnostics) -> Option<Duration> {
    let found = duration(value, field, d);
    if value.is_none() || found.is_some_and(|time| time < Duration::from_millis(1)) {
        d.at(field, |d| d.error("is required, and at least a millisecond"));
    }
    found
}

fn port(value: Option<u32>, field: &'static str, d: &mut Diagnostics) -> Option<u16> {
    let value = value.filter(|port| *port != 0)?;
    let port = u16::try_from(value).ok();
    if port.is_none() {
        d.at(field, |d| d.error("is not a port number up to 65535"));
    }
    port
}

fn kind(proto: &core::HealthCheck, d: &mut Diagnostics) -> Option<HealthCheckKind> {
    use core::health_check::HealthChecker as Kind;
    match &proto.health_checker {
        Some(Kind::HttpHealthCheck(http)) => {
            d.at("http_health_check", |d| self::http(http, d)).map(HealthCheckKind::Http)
        }
        Some(Kind::GrpcHealthCheck(grpc)) => Some(d.at("grpc_health_check", |d| {
            HealthCheckKind::Grpc(GrpcHealthCheck {
                service: Arc::from(grpc.service_name.as_str()),
                authority: Bytes::copy_from_slice(grpc.authority.as_bytes()),
                headers: headers(&grpc.initial_metadata, "initial_metadata", &[], d),
            })
        })),
        Some(Kind::TcpHealthCheck(tcp)) => Some(d.at("tcp_health_check", |d| {
            let send = tcp.send.as_ref().and_then(|send| d.at("send", |d| payload(send, d))).unwrap_or_default();
            let receive = tcp.receive.iter().enumerate();
            let receive = receive.filter_map(|(index, block)| d.at_index("receive", index, |d| payload(block, d)));
            HealthCheckKind::Tcp(TcpHealthCheck { receive: receive.collect(), send })
        })),
        Some(Kind::CustomHealthCheck(custom)) => {
            d.at("custom_health_check", |d| d.error(format!("{} is not supported", custom.name)));
            None
        }
        None => {
            d.error("names no health checker: http_health_check, grpc_health_check or tcp_health_check");
            None
        }
    }
}

fn http(proto: &core::health_check::HttpHealthCheck, d: &mut Diagnostics) -> Option<HttpHealthCheck> {
    if !proto.path.starts_with('/') || proto.path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        d.at("path", |d| d.error("is not a path that begins with /"));
    }
    if proto.host.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        d.at("host", |d| d.error("is not a host"));
    }
    let protocol = match variant::<CodecClientType>(proto.codec_client_type, "codec_client_type", d)? {
        CodecClientType::Http1 => Protocol::Http1,
        CodecClientType::Http2 => Protocol::Http2,
        CodecClientType::Http3 => {
            d.at("codec_client_type", |d| d.error("HTTP3 is not supported"));
            return None;
        }
    };
    let method = match variant::<core::RequestMethod>(proto.method, "method", d)? {
        core::RequestMethod::MethodUnspecified => Method::Get,
        core::RequestMethod::Connect => {
            d.at("method", |d| d.error("CONNECT is not a method of health checks"));
            return None;
        }
        method => Method::from_bytes(method.as_str_name().as_bytes())?,
    };
    let expected = ranges(&proto.expected_statuses, "expected_statuses", d);
    Some(HttpHealthCheck {
        host: Bytes::copy_from_slice(proto.host.as_bytes()),
        path: Bytes::copy_from_slice(proto.path.as_bytes()),
        method,
        protocol,
        expected: if expected.is_empty() { vec![(200, 201)] } else { expected },
        retriable: ranges(&proto.retriable_statuses, "retriable_statuses", d),
        headers: headers(&proto.request_headers_to_add, "request_headers_to_add", &proto.request_headers_to_remove, d),
    })
}

fn ranges(proto: &[Int64Range], field: &'static str, d: &mut Diagnostics) -> Vec<(u16, u16)> {
    let range = |(index, range): (usize, &Int64Range)| {
        let bounds = (u16::try_from(range.start), u16::try_from(range.end));
        match bounds {
            (Ok(start), Ok(end)) if (100..end).contains(&start) && end <= 600 => Some((start, end)),
            _ => {
                let text = format!("[{}, {}) is no range of statuses from 100 to 599", range.start, range.end);
                d.at_index(field, index, |d| d.error(text));
                None
            }
        }
    };
    proto.iter().enumerate().filter_map(range).collect()
}

/// Headers of literal values: there is no stream that a format could tell of.
fn headers(
    add: &[core::HeaderValueOption],
    field: &'static str,
    remove: &[String],
    d: &mut Diagnostics,
) -> HeaderMutations {
    let mut found = HeaderMutations::default();
    for (index, option) in add.iter().enumerate() {
        d.at_index(field, index, |d| match header_value(option, d) {
            Some(option) if option.value.as_literal().is_none() => {
                d.at("header", |d| d.at("value", |d| d.error("formats are not supported in health checks")));
            }
            option => found.add.extend(option),
        });
    }
    for (index, name) in remove.iter().enumerate() {
        found.remove.extend(d.at_index("request_headers_to_remove", index, |d| header_name(name, d)));
    }
    found
}

fn payload(proto: &core::health_check::Payload, d: &mut Diagnostics) -> Option<Bytes> {
    use core::health_check::payload::Payload;
    match &proto.payload {
        Some(Payload::Binary(bytes)) => Some(Bytes::copy_from_slice(bytes)),
        Some(Payload::Text(text)) => {
            let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
            match digits {
                Some(digits) if digits.len().is_multiple_of(2) => {
                    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
                }
                _ => {
                    d.at("text", |d| d.error("is not hexadecimal"));
                    None
                }
            }
        }
        None => {
            d.error("is empty");
            None
        }
    }
}

/// `Endpoint.health_check_config`.
pub(crate) fn of_endpoint(proto: &HealthCheckConfig, d: &mut Diagnostics) -> EndpointHealthCheck {
    let address = proto
        .address
        .as_ref()
        .and_then(|address| d.at("address", |d| socket_address(Some(address), d)).map(|(address, _)| address));
    EndpointHealthCheck {
        port: port(Some(proto.port_value), "port_value", d),
        address,
        hostname: Arc::from(proto.hostname.as_str()),
        disabled: proto.disable_active_health_check,
    }
}
