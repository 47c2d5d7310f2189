//! The sockets that bytes come from and go to, and what every connection does with one.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use outrigger_config::UpstreamProxyProtocol;
use outrigger_http::{
    ClientSocket, ConnectionInfo, DownstreamInfo, ListenerInfo, RequestHead, StreamInfo, StreamState, TlsInfo,
    UpstreamConnection, WireBytes,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::cluster::{self, Client, MadeFor, Told};
use crate::pace::Rest;
use crate::probe::{Asked, Probe};
pub(crate) use crate::socket::Socket;
use crate::tls::{Acceptor, Connector, HandshakeError, Session, Target, TlsStats};
use crate::write_queue::WriteQueue;

/// How much one read takes at most.
const READ_BYTES_MAX: usize = 16 * 1024;

/// A connected socket with what was read ahead and what is still to be written.
#[derive(Debug)]
pub(crate) struct Transport {
    /// Before the socket, so that it is let go of before that is closed.
    asked: Option<Asked>,
    socket: Socket,
    /// `None`: cleartext.
    tls: Option<Box<Session>>,
    /// `None`: for everybody.
    pub(crate) made_for: Option<Arc<MadeFor>>,
    /// Bytes read and not taken yet. Holds no memory while it is empty: an idle connection costs next to nothing.
    pub(crate) input: BytesMut,
    pub(crate) output: WriteQueue,
    /// The peer has closed its sending side.
    pub(crate) eof: bool,
    /// A TLS peer did so without saying it: its last message may have been cut.
    pub(crate) truncated: bool,
    /// TLS of the connection that this one stands for.
    pub(crate) outer_tls: Option<Arc<TlsInfo>>,
    /// Its socket.
    pub(crate) outer_probe: Option<Arc<Probe>>,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    /// When it was accepted, or made.
    pub(crate) opened: Instant,
    /// Of an endpoint's connection.
    pub(crate) upstream: Option<UpstreamConnection>,
    /// Of a client's: told when it waits for a request.
    pub(crate) rest: Option<Rest>,
}

impl Transport {
    /// Sets `TCP_NODELAY`, always.
    pub(crate) fn new(socket: impl Into<Socket>) -> io::Result<Transport> {
        let socket = socket.into();
        socket.set_nodelay()?;
        let (remote, local) = socket.addresses();
        Ok(Transport {
            asked: None,
            socket,
            tls: None,
            made_for: None,
            input: BytesMut::new(),
            output: WriteQueue::default(),
            eof: false,
            truncated: false,
            outer_tls: None,
            outer_probe: None,
            remote,
            local,
            bytes_read: 0,
            bytes_written: 0,
            opened: Instant::now(),
            upstream: None,
            rest: None,
        })
    }

    /// From now on streams may ask about the socket.
    pub(crate) fn let_ask(&mut self) {
        self.asked = Asked::new(&self.socket);
    }

    /// The connection waits for a request.
    pub(crate) fn rest(&self) {
        if let Some(rest) = &self.rest {
            rest.begin();
        }
    }

    /// The way to ask about the client's socket.
    pub(crate) fn probe(&self) -> Option<&Arc<Probe>> {
        self.asked.as_ref().map(Asked::probe).or(self.outer_probe.as_ref())
    }

    /// The same, for a stream.
    pub(crate) fn asked(&self) -> Option<Arc<dyn ClientSocket>> {
        self.probe().map(|probe| probe.clone() as Arc<dyn ClientSocket>)
    }

    /// What a client's streams tell of its connection.
    pub(crate) fn downstream_info(&self, id: u64, connection: Option<Arc<ConnectionInfo>>) -> DownstreamInfo {
        DownstreamInfo {
            id,
            start: Some(self.opened),
            remote: self.remote,
            local: self.local,
            connection,
            tls: self.tls().cloned(),
            ..DownstreamInfo::default()
        }
    }

    /// A client's connection as a stream, for what isn't about requests.
    pub(crate) fn connection_state(
        &self,
        id: u64,
        connection: Option<Arc<ConnectionInfo>>,
        listener: Rc<ListenerInfo>,
    ) -> StreamState {
        let metadata = connection.as_ref().and_then(|connection| connection.metadata.clone());
        let mut info = StreamInfo::begun_now(Rc::new(self.downstream_info(id, connection)), listener);
        info.downstream_socket = self.asked();
        info.metadata = metadata;
        let mut state = StreamState::new(RequestHead::default(), info);
        state.request.path = Bytes::new();
        state
    }

    /// What a client's connection has of a request's and a response's size.
    pub(crate) fn tell_sizes(&self, info: &mut StreamInfo) {
        info.request_body_bytes = self.bytes_read;
        info.response_body_bytes = self.bytes_written;
        info.downstream_wire = self.wire_bytes();
    }

    /// All that came and went.
    pub(crate) fn wire_bytes(&self) -> WireBytes {
        WireBytes { received: self.bytes_read, sent: self.bytes_written, ..WireBytes::default() }
    }

    /// Bytes of the peer that somebody has taken.
    pub(crate) fn bytes_taken(&self) -> u64 {
        self.bytes_read.saturating_sub(self.input.len() as u64)
    }

    /// Bytes for the peer, sent or not.
    pub(crate) fn bytes_queued(&self) -> u64 {
        self.bytes_written + self.output.len() as u64
    }

    /// Shakes hands with a client. What was read ahead is the beginning of its TLS.
    pub(crate) async fn accept_tls(
        &mut self,
        acceptor: &Acceptor,
        time_max: Duration,
        stats: &TlsStats,
    ) -> Result<(), HandshakeError> {
        let incoming = std::mem::take(&mut self.input);
        let session = acceptor.accept(&mut self.socket, incoming, time_max, stats).await?;
        self.tls = Some(Box::new(session));
        Ok(())
    }

    /// Tells a server who the client is; `None`: the proxy itself.
    pub(crate) async fn announce(&mut self, config: &UpstreamProxyProtocol, told: Option<Told<'_>>) -> io::Result<()> {
        let header = cluster::header(config, told, Client::of(self.local, self.remote));
        self.socket.write_all(&header).await?;
        self.bytes_written += header.len() as u64;
        Ok(())
    }

    /// Shakes hands with a server.
    pub(crate) async fn connect_tls(
        &mut self,
        connector: &Connector,
        target: &Target<'_>,
        stats: &TlsStats,
    ) -> Result<(), HandshakeError> {
        let session = connector.connect(&mut self.socket, target, stats).await?;
        self.tls = Some(Box::new(session));
        Ok(())
    }

    /// What is known of the connection's TLS; `None` for cleartext.
    pub(crate) fn tls(&self) -> Option<&Arc<TlsInfo>> {
        self.tls.as_ref().map(|tls| &tls.info).or(self.outer_tls.as_ref())
    }

    /// Whether a server that had the choice of protocols has chosen HTTP/2.
    pub(crate) fn chose_h2(&self) -> bool {
        self.tls().is_some_and(|tls| &*tls.alpn == "h2")
    }

    /// Whether something may have happened on the socket that nobody has read; without it there is nothing to read.
    pub(crate) fn may_read(&self) -> bool {
        self.socket.may_read()
    }

    /// Reads once into `input`; 0 at the end of the peer's bytes. One `recv` a readiness: a short read disarms.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        if let Some(tls) = &mut self.tls {
            let read = ready!(tls.poll_fill(&mut self.socket, &mut self.input, &mut self.truncated, cx))?;
            self.eof = read == 0;
            self.bytes_read += read as u64;
            return Poll::Ready(Ok(read));
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
        let before = self.output.len();
        let result = match &mut self.tls {
            Some(tls) if before > 0 || tls.wants_write() => {
                tls.poll_write_queue(&mut self.output, &mut self.socket, cx)
            }
            _ if before == 0 => return Poll::Ready(Ok(())),
            _ => self.output.poll_write_to(&mut self.socket, cx),
        };
        self.bytes_written += (before - self.output.len()) as u64;
        result
    }

    /// Closes the sending side.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        if let Some(tls) = &mut self.tls {
            ready!(tls.poll_close(&mut self.socket, cx))?;
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    /// The connection, for a protocol that reads by itself; what was read ahead comes first.
    pub(crate) fn into_prefixed(self) -> Prefixed {
        Prefixed { _asked: self.asked, socket: self.socket, tls: self.tls, prefix: self.input }
    }

    /// For the socket's options.
    pub(crate) fn socket_options(&self) -> socket2::SockRef<'_> {
        socket2::SockRef::from(&self.socket)
    }

    /// Closes with a reset: a peer must not take what it got for a whole message.
    pub(crate) fn reset(&self) {
        _ = socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }
}

/// Reads once; 0 at the end.
pub(crate) async fn read_more(socket: &mut Socket, bytes: &mut BytesMut) -> io::Result<usize> {
    let mut scratch = [MaybeUninit::uninit(); 4096];
    let mut buffer = ReadBuf::uninit(&mut scratch);
    poll_fn(|cx| Pin::new(&mut *socket).poll_read(cx, &mut buffer)).await?;
    bytes.extend_from_slice(buffer.filled());
    Ok(buffer.filled().len())
}

/// A connection whose first bytes were read already.
#[derive(Debug)]
pub(crate) struct Prefixed {
    /// Before the socket, as in [`Transport`].
    _asked: Option<Asked>,
    socket: Socket,
    tls: Option<Box<Session>>,
    prefix: BytesMut,
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Prefixed { socket, tls, prefix, .. } = &mut *self;
        if prefix.is_empty() {
            let Some(tls) = tls else { return Pin::new(socket).poll_read(cx, buffer) };
            // A cut is noticed by the protocol: its frames have lengths.
            ready!(tls.poll_fill(socket, prefix, &mut false, cx))?;
        }
        let taken = prefix.len().min(buffer.remaining());
        buffer.put_slice(&prefix.split_to(taken));
        if prefix.is_empty() {
            *prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Prefixed { socket, tls, .. } = &mut *self;
        match tls {
            Some(tls) => tls.poll_write(bytes, socket, cx),
            None => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Prefixed { socket, tls, .. } = &mut *self;
        match tls {
            Some(tls) => tls.poll_write_slices(slices, socket, cx),
            None => Pin::new(socket).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Prefixed { socket, tls, .. } = &mut *self;
        match tls {
            Some(tls) => tls.poll_send(socket, cx),
            None => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Prefixed { socket, tls, .. } = &mut *self;
        if let Some(tls) = tls {
            ready!(tls.poll_close(socket, cx))?;
        }
        Pin::new(socket).poll_shutdown(cx)
    }
}
