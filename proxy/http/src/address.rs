//! Addresses of upstreams.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    Ip(SocketAddr),
    /// A Unix socket; a path that begins with NUL is an abstract one.
    Pipe(Arc<Path>),
}

impl EndpointAddress {
    /// `None`: a Unix socket.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            EndpointAddress::Ip(socket) => Some(*socket),
            EndpointAddress::Pipe(_) => None,
        }
    }

    /// 0 for a Unix socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.socket().map_or(0, |socket| socket.port())
    }
}

impl From<SocketAddr> for EndpointAddress {
    fn from(socket: SocketAddr) -> EndpointAddress {
        EndpointAddress::Ip(socket)
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointAddress::Ip(socket) => socket.fmt(f),
            EndpointAddress::Pipe(path) => f.write_str(&path.to_string_lossy().replace('\0', "@")),
        }
    }
}
