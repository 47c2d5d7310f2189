//! `Address` of listeners, `SocketOption` and `TcpKeepalive`.

use std::path::PathBuf;

use outrigger_config::{Address, ListenAddress, SocketOption, TcpKeepalive};
use outrigger_http::EndpointAddress;
use outrigger_proto::pb;
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::listener::v3 as listener;

use super::common::socket_address;
use crate::Diagnostics;

/// `address` and `additional_addresses`; `None`: one of them is not valid.
pub(super) fn addresses(proto: &listener::Listener, d: &mut Diagnostics) -> Option<Vec<ListenAddress>> {
    let mut options = socket_options(&proto.socket_options, d);
    if proto.freebind.is_some_and(|flag| flag.value) {
        options.push(SocketOption::Freebind(true));
    }
    let tcp_keepalive = proto.tcp_keepalive.as_ref().map(keepalive);
    let first = d.at("address", |d| address(proto.address.as_ref(), d));
    let first = first.map(|address| ListenAddress { address, options: options.clone(), tcp_keepalive });
    let further = proto.additional_addresses.iter().enumerate().map(|(index, further)| {
        d.at_index("additional_addresses", index, |d| {
            let address = d.at("address", |d| address(further.address.as_ref(), d));
            let own = further.socket_options.as_ref();
            let own = own.map(|own| d.at("socket_options", |d| socket_options(&own.socket_options, d)));
            let tcp_keepalive = further.tcp_keepalive.as_ref().map(keepalive).or(tcp_keepalive);
            let options = own.unwrap_or_else(|| options.clone());
            address.map(|address| ListenAddress { address, options, tcp_keepalive })
        })
    });
    // Every address is looked at before one is missed.
    let all: Vec<Option<ListenAddress>> = std::iter::once(first).chain(further).collect();
    all.into_iter().collect()
}

fn address(proto: Option<&core::Address>, d: &mut Diagnostics) -> Option<Address> {
    match proto.and_then(|proto| proto.address.as_ref()) {
        Some(core::address::Address::Pipe(pipe)) => {
            let mode = (pipe.mode != 0).then_some(pipe.mode);
            d.at("pipe", |d| pipe_path(pipe, d)).map(|path| Address::Pipe { path, mode })
        }
        _ => socket_address(proto, d).map(|(socket, ipv4_compat)| Address::Ip { socket, ipv4_compat }),
    }
}

/// The address of an endpoint.
pub(super) fn endpoint_address(proto: Option<&core::Address>, d: &mut Diagnostics) -> Option<EndpointAddress> {
    match proto.and_then(|proto| proto.address.as_ref()) {
        Some(core::address::Address::Pipe(pipe)) => {
            d.at("pipe", |d| pipe_path(pipe, d)).map(|path| EndpointAddress::Pipe(path.into()))
        }
        _ => socket_address(proto, d).map(|(socket, _)| socket.into()),
    }
}

/// A Unix socket; `@` at its start makes it an abstract one, which has a NUL there.
fn pipe_path(proto: &core::Pipe, d: &mut Diagnostics) -> Option<PathBuf> {
    /// `sun_path`.
    const PATH_BYTES_MAX: usize = 107;
    if proto.path.is_empty() || proto.path.len() > PATH_BYTES_MAX || proto.path.contains('\0') {
        d.at("path", |d| d.error(format!("has not 1 to {PATH_BYTES_MAX} bytes, or a NUL among them")));
        return None;
    }
    if proto.mode > 0o777 {
        d.at("mode", |d| d.error(format!("{:o} is no mode up to 777", proto.mode)));
    }
    let path = match proto.path.strip_prefix('@') {
        Some(name) => format!("\0{name}"),
        None => proto.path.clone(),
    };
    Some(path.into())
}

pub(super) fn keepalive(proto: &core::TcpKeepalive) -> TcpKeepalive {
    let value = |value: Option<pb::google::protobuf::UInt32Value>| value.map(|value| value.value);
    TcpKeepalive {
        time: value(proto.keepalive_time),
        interval: value(proto.keepalive_interval),
        probes: value(proto.keepalive_probes),
    }
}

pub(super) fn socket_options(options: &[core::SocketOption], d: &mut Diagnostics) -> Vec<SocketOption> {
    let options = options.iter().enumerate();
    options.filter_map(|(index, option)| d.at_index("socket_options", index, |d| socket_option(option, d))).collect()
}

/// Options by their numbers in Linux.
fn socket_option(proto: &core::SocketOption, d: &mut Diagnostics) -> Option<SocketOption> {
    use core::socket_option::Value;
    let value = match &proto.value {
        Some(Value::IntValue(value)) => u32::try_from(*value).ok(),
        _ => None,
    };
    let Some(value) = value else {
        d.at("int_value", |d| d.error("is required, and not negative"));
        return None;
    };
    let option = match (proto.level, proto.name) {
        // SOL_SOCKET
        (1, 7) => SocketOption::SendBuffer(value),
        (1, 8) => SocketOption::ReceiveBuffer(value),
        (1, 9) => SocketOption::Keepalive(value != 0),
        (1, 36) => SocketOption::Mark(value),
        // SO_REUSEADDR, SO_REUSEPORT and TCP_NODELAY are on anyway.
        (1, 2 | 15) | (6, 1) if value != 0 => return None,
        // IPPROTO_TCP
        (6, 4) => SocketOption::KeepaliveTime(value),
        (6, 5) => SocketOption::KeepaliveInterval(value),
        (6, 6) => SocketOption::KeepaliveProbes(value),
        (6, 18) => SocketOption::UserTimeout(value),
        // IPPROTO_IP
        (0, 1) => SocketOption::TypeOfService(value),
        (0, 15) => SocketOption::Freebind(value != 0),
        (0, 19) => SocketOption::Transparent(value != 0),
        // IPPROTO_IPV6
        (41, 67) => SocketOption::TrafficClass(value),
        (41, 75) => SocketOption::Transparent(value != 0),
        (41, 78) => SocketOption::Freebind(value != 0),
        (level, name) => {
            d.at("name", |d| d.error(format!("option {name} of level {level} is not supported")));
            return None;
        }
    };
    Some(option)
}
