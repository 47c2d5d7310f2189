//! Connected and listening sockets: TCP and Unix.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use outrigger_config::UpstreamTransport;
use outrigger_http::EndpointAddress;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::cluster::{self, Client};

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The same off its worker's loop, on its way to another.
#[derive(Debug)]
pub(crate) enum StdSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A socket that is listened on, before a worker has it.
#[derive(Debug)]
pub(crate) enum StdListener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// The same on its worker.
#[derive(Debug)]
pub(crate) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    /// Connects to an endpoint.
    pub(crate) async fn connect(to: &EndpointAddress) -> io::Result<Socket> {
        match to {
            EndpointAddress::Ip(socket) => TcpStream::connect(socket).await.map(Socket::Tcp),
            EndpointAddress::Pipe(path) => UnixStream::connect(path).await.map(Socket::Unix),
        }
    }

    /// Sets `TCP_NODELAY`.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => socket.set_nodelay(true),
            Socket::Unix(_) => Ok(()),
        }
    }

    /// The peer and this end; `None` for a Unix socket.
    pub(crate) fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        match self {
            Socket::Tcp(socket) => (socket.peer_addr().ok().map(canonical), socket.local_addr().ok().map(canonical)),
            Socket::Unix(_) => (None, None),
        }
    }

    /// Whether an event of reading came that no read has answered.
    pub(crate) fn may_read(&self) -> bool {
        match self {
            Socket::Tcp(socket) => socket.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Socket::Unix(socket) => socket.try_io(Interest::READABLE, || Ok(())).is_ok(),
        }
    }

    pub(crate) fn into_std(self) -> io::Result<StdSocket> {
        match self {
            Socket::Tcp(socket) => socket.into_std().map(StdSocket::Tcp),
            Socket::Unix(socket) => socket.into_std().map(StdSocket::Unix),
        }
    }

    pub(crate) fn from_std(socket: StdSocket) -> io::Result<Socket> {
        match socket {
            StdSocket::Tcp(socket) => TcpStream::from_std(socket).map(Socket::Tcp),
            StdSocket::Unix(socket) => UnixStream::from_std(socket).map(Socket::Unix),
        }
    }
}

/// A connection of the control side to an endpoint, which is told that the proxy itself speaks.
pub async fn connect_control(
    transport: &UpstreamTransport,
    to: &EndpointAddress,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
    let mut socket = Socket::connect(to).await?;
    socket.set_nodelay()?;
    if let Some(config) = &transport.proxy_protocol {
        let (remote, local) = socket.addresses();
        socket.write_all(&cluster::header(config, None, Client::of(local, remote))).await?;
    }
    Ok(socket)
}

/// An IPv4 client of a socket for both families is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Listening {
    pub(crate) fn from_std(socket: StdListener) -> io::Result<Listening> {
        match socket {
            StdListener::Tcp(socket) => TcpListener::from_std(socket).map(Listening::Tcp),
            StdListener::Unix(socket) => UnixListener::from_std(socket).map(Listening::Unix),
        }
    }

    pub(crate) fn poll_accept(&self, task: &mut Context<'_>) -> Poll<io::Result<Socket>> {
        match self {
            Listening::Tcp(socket) => socket.poll_accept(task).map_ok(|(socket, _)| Socket::Tcp(socket)),
            Listening::Unix(socket) => socket.poll_accept(task).map_ok(|(socket, _)| Socket::Unix(socket)),
        }
    }
}

impl AsFd for StdListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            StdListener::Tcp(socket) => socket.as_fd(),
            StdListener::Unix(socket) => socket.as_fd(),
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Socket {
        Socket::Tcp(socket)
    }
}

impl From<UnixStream> for Socket {
    fn from(socket: UnixStream) -> Socket {
        Socket::Unix(socket)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Socket::Unix(socket) => Pin::new(socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Socket::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Unix(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
