//! The sockets that bytes come from and go to, and what every connection does with one.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::write_queue::WriteQueue;

/// How much one read takes at most.
const READ_BYTES_MAX: usize = 16 * 1024;

/// A connected socket with what was read ahead and what is still to be written.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: TcpStream,
    /// Bytes read and not taken yet. Holds no memory while it is empty: an idle connection costs next to nothing.
    pub(crate) input: BytesMut,
    pub(crate) output: WriteQueue,
    /// The peer has closed its sending side.
    pub(crate) eof: bool,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
}

impl Transport {
    /// Sets `TCP_NODELAY`, always.
    pub(crate) fn new(socket: TcpStream) -> io::Result<Transport> {
        socket.set_nodelay(true)?;
        let (remote, local) = (socket.peer_addr().ok(), socket.local_addr().ok());
        Ok(Transport {
            socket,
            input: BytesMut::new(),
            output: WriteQueue::default(),
            eof: false,
            remote,
            local,
            bytes_read: 0,
            bytes_written: 0,
        })
    }

    /// Reads once into `input`; 0 at the end of the peer's bytes. One `recv` a readiness: a short read disarms.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        let mut scratch = [MaybeUninit::uninit(); READ_BYTES_MAX];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.eof = true;
        } else if self.input.is_empty() {
            self.input = BytesMut::from(bytes);
        } else {
            self.input.extend_from_slice(bytes);
        }
        self.bytes_read += bytes.len() as u64;
        Poll::Ready(Ok(bytes.len()))
    }

    /// Writes what is queued.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let before = self.output.len();
        let result = self.output.poll_write_to(&mut self.socket, cx);
        self.bytes_written += (before - self.output.len()) as u64;
        result
    }

    /// Closes the sending side.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    /// The socket, for a protocol that reads by itself; what was read ahead comes first.
    pub(crate) fn into_prefixed(self) -> Prefixed {
        Prefixed { socket: self.socket, prefix: self.input }
    }

    /// Closes with a reset: a peer must not take what it got for a whole message.
    pub(crate) fn reset(&self) {
        _ = socket2::SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// A socket whose first bytes were read already.
#[derive(Debug)]
pub(crate) struct Prefixed {
    socket: TcpStream,
    prefix: BytesMut,
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let taken = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
