//! Addresses that are listened on, and options of sockets (`envoy.config.core.v3.SocketOption`).

use std::net::SocketAddr;
use std::path::PathBuf;

/// One of a listener's addresses: `address` or an entry of `additional_addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    pub address: Address,
    pub options: Vec<SocketOption>,
    pub tcp_keepalive: Option<TcpKeepalive>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Ip {
        /// Port 0: any free one, the same for all workers.
        socket: SocketAddr,
        /// `ipv4_compat` of an IPv6 address: IPv4 is accepted too.
        ipv4_compat: bool,
    },
    /// A Unix socket.
    Pipe {
        /// With a NUL at its start an abstract one.
        path: PathBuf,
        /// What the file's mode is set to.
        mode: Option<u32>,
    },
}

impl ListenAddress {
    #[must_use]
    pub fn ip(socket: SocketAddr) -> ListenAddress {
        let address = Address::Ip { socket, ipv4_compat: false };
        ListenAddress { address, options: Vec::new(), tcp_keepalive: None }
    }
}

impl Address {
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip { socket, .. } => Some(*socket),
            Address::Pipe { .. } => None,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Ip { socket, .. } => write!(f, "{socket}"),
            Address::Pipe { path, .. } => f.write_str(&path.to_string_lossy().replace('\0', "@")),
        }
    }
}

/// `envoy.config.core.v3.TcpKeepalive`, in seconds; what is unset is the system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    pub time: Option<u32>,
    pub interval: Option<u32>,
    pub probes: Option<u32>,
}

/// An option that is set on a socket before it is bound; accepted sockets have it from their listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOption {
    Keepalive(bool),
    KeepaliveTime(u32),
    KeepaliveInterval(u32),
    KeepaliveProbes(u32),
    /// `TCP_USER_TIMEOUT`, in milliseconds.
    UserTimeout(u32),
    ReceiveBuffer(u32),
    SendBuffer(u32),
    /// `SO_MARK`.
    Mark(u32),
    /// `IP_TOS`.
    TypeOfService(u32),
    /// `IPV6_TCLASS`.
    TrafficClass(u32),
    /// `IP_TRANSPARENT`, of the socket's family.
    Transparent(bool),
    /// `IP_FREEBIND`, of the socket's family.
    Freebind(bool),
}
