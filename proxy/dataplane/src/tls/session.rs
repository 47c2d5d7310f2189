//! The records of one connection.
//!
//! Reading and writing go through two buffers of the thread: an idle connection holds none, and a write is encrypted
//! straight into what goes to the socket. Only what a peer has sent in part, or doesn't take, is kept with the connection.

mod step;

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use outrigger_http::TlsInfo;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, HandshakeKind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::step::{Step, Traffic, encrypt_slices, step};
use super::verify::{Mismatch, mismatch};
use super::{certificate, provider};
use crate::transport::Socket;
use crate::write_queue::WriteQueue;

/// What one read takes at most.
const READ_BYTES_MAX: usize = 32 * 1024;
/// That, and what came before of a record or a handshake message. None is longer.
const INPUT_BYTES: usize = 64 * 1024 + READ_BYTES_MAX;
const OUTPUT_BYTES: usize = 64 * 1024;
/// The most that a record holds, and what it has around that at most.
const RECORD_BYTES_MAX: usize = 16 * 1024;
const RECORD_OVERHEAD_MAX: usize = 256;

thread_local! {
    static INPUT: RefCell<Vec<u8>> = RefCell::new(vec![0; INPUT_BYTES]);
    static OUTPUT: RefCell<Vec<u8>> = RefCell::new(vec![0; OUTPUT_BYTES]);
}

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Client(_) => "Client",
            Side::Server(_) => "Server",
        })
    }
}

/// One end of a TLS connection.
#[derive(Debug)]
pub(crate) struct Session {
    side: Side,
    /// A record that has come in part.
    incoming: BytesMut,
    /// Decrypted, and not taken yet.
    plaintext: BytesMut,
    /// Encrypted, and not taken by the socket.
    outgoing: BytesMut,
    /// The peer has said that it sends no more.
    closed: bool,
    /// A peer that breaks the protocol isn't listened to any more, nor told anything.
    broken: bool,
    /// The peer was told that no more will come.
    told: bool,
    pub(crate) info: Arc<TlsInfo>,
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Tls(rustls::Error),
    #[error("took too long")]
    Timeout,
    #[error("{0}")]
    Context(super::ContextError),
}

/// What Envoy counts a failed verification as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    NoCertificate,
    Verify,
    San,
    Hash,
    Other,
}

impl HandshakeError {
    pub(super) fn failure(&self) -> Failure {
        let HandshakeError::Tls(error) = self else { return Failure::Other };
        match (error, mismatch(error)) {
            (_, Some(Mismatch::San)) => Failure::San,
            (_, Some(Mismatch::Hash)) => Failure::Hash,
            (_, Some(Mismatch::TrustDomain))
            | (rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidCertRevocationList(_), None) => {
                Failure::Verify
            }
            (rustls::Error::NoCertificatesPresented, _) => Failure::NoCertificate,
            _ => Failure::Other,
        }
    }
}

macro_rules! on_side {
    ($side:expr, $connection:ident => $body:expr) => {
        match $side {
            Side::Client($connection) => $body,
            Side::Server($connection) => $body,
        }
    };
}

fn io_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Session {
    pub(super) fn client(connection: UnbufferedClientConnection) -> Session {
        Session::new(Side::Client(Box::new(connection)), BytesMut::new())
    }

    /// `incoming`: what was read of the client already.
    pub(super) fn server(connection: UnbufferedServerConnection, incoming: BytesMut) -> Session {
        Session::new(Side::Server(Box::new(connection)), incoming)
    }

    fn new(side: Side, incoming: BytesMut) -> Session {
        Session {
            side,
            incoming,
            plaintext: BytesMut::new(),
            outgoing: BytesMut::new(),
            closed: false,
            broken: false,
            told: false,
            info: Arc::default(),
        }
    }

    fn state(&self) -> &CommonState {
        on_side!(&self.side, connection => connection)
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(super) fn curve(&self) -> Option<&'static str> {
        self.state().negotiated_key_exchange_group().map(|group| provider::curve_name(group.name()))
    }

    /// Shakes hands. What the peer has sent behind its last message is ready to be read.
    pub(super) async fn handshake(&mut self, socket: &mut Socket) -> Result<(), HandshakeError> {
        let mut incoming = std::mem::take(&mut self.incoming);
        if let Err(error) = self.take(&mut incoming) {
            return Err(self.failed(socket, error).await);
        }
        loop {
            poll_fn(|cx| self.poll_send(socket, cx)).await.map_err(HandshakeError::Io)?;
            if !self.state().is_handshaking() {
                return Ok(());
            }
            match poll_fn(|cx| self.poll_receive(socket, cx)).await {
                Ok(Ok(0)) => return Err(HandshakeError::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(self.failed(socket, error).await),
                Err(error) => return Err(HandshakeError::Io(error)),
            }
        }
    }

    /// Tells the peer what is wrong, as far as its socket takes it at once.
    async fn failed(&mut self, socket: &mut Socket, error: rustls::Error) -> HandshakeError {
        poll_fn(|cx| {
            _ = self.poll_send(socket, cx);
            Poll::Ready(())
        })
        .await;
        HandshakeError::Tls(error)
    }

    /// What is known of the peer and of this connection, once hands are shaken.
    pub(super) fn learn(&mut self, info: TlsInfo, validates: bool) {
        let state = self.state();
        let peer = state.peer_certificates().and_then(certificate::info);
        let info = TlsInfo {
            version: provider::version_name(state.protocol_version()),
            group: self.curve().unwrap_or_default(),
            cipher: state.negotiated_cipher_suite().map_or("unknown", |suite| provider::suite_name(suite.suite())),
            alpn: state.alpn_protocol().map(|name| String::from_utf8_lossy(name).into()).unwrap_or_default(),
            peer_validated: validates && peer.is_some(),
            peer,
            ..info
        };
        self.info = Arc::new(info);
    }

    /// Reads into `input`; 0 at the end of the peer's bytes, `is_truncated` where the peer hasn't said so itself.
    pub(crate) fn poll_fill(
        &mut self,
        socket: &mut Socket,
        input: &mut BytesMut,
        is_truncated: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.plaintext.is_empty() {
                let bytes = self.plaintext.len();
                if input.is_empty() {
                    *input = std::mem::take(&mut self.plaintext);
                } else {
                    input.extend_from_slice(&self.plaintext);
                    self.plaintext = BytesMut::new();
                }
                return Poll::Ready(Ok(bytes));
            }
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            if self.closed {
                return Poll::Ready(Ok(0));
            }
            match ready!(self.poll_receive(socket, cx))? {
                Ok(0) => {
                    *is_truncated = true;
                    self.closed = true;
                }
                Ok(_) => {}
                Err(error) => {
                    _ = self.poll_send(socket, cx)?;
                    return Poll::Ready(Err(io_error(error)));
                }
            }
            if !self.outgoing.is_empty() {
                // An answer of the protocol: it goes out as soon as the socket takes it.
                _ = self.poll_send(socket, cx)?;
            }
        }
    }

    /// One read of the socket, and what follows from it.
    fn poll_receive(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Result<usize, rustls::Error>>> {
        INPUT.with_borrow_mut(|input| {
            let kept = self.incoming.len();
            if kept + READ_BYTES_MAX > input.len() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake message is too long")));
            }
            input[..kept].copy_from_slice(&self.incoming);
            let mut buffer = ReadBuf::new(&mut input[kept..kept + READ_BYTES_MAX]);
            ready!(Pin::new(&mut *socket).poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled().len();
            if bytes == 0 {
                return Poll::Ready(Ok(Ok(0)));
            }
            Poll::Ready(Ok(self.take(&mut input[..kept + bytes]).map(|()| bytes)))
        })
    }

    /// Decrypts and acts on records; what is left of a last one is kept.
    fn take(&mut self, bytes: &mut [u8]) -> Result<(), rustls::Error> {
        let mut at = 0;
        loop {
            let Session { side, plaintext, outgoing, closed, broken, .. } = self;
            let more = on_side!(side, connection => {
                let (used, outcome) = step(connection.process_tls_records(&mut bytes[at..]), plaintext, outgoing);
                at += used;
                match outcome {
                    Ok(Step::Again) => Ok(true),
                    Ok(Step::PeerClosed) => {
                        *closed = true;
                        Ok(true)
                    }
                    Ok(Step::Blocked | Step::Traffic(_) | Step::Closed | Step::Unexpected(_)) => Ok(false),
                    Err(error) => {
                        *broken = true;
                        // The alert comes before anything is read again, which must not happen.
                        while connection.wants_write() {
                            at += step(connection.process_tls_records(&mut bytes[at..]), plaintext, outgoing).0;
                        }
                        Err(error)
                    }
                }
            });
            if !more? {
                break;
            }
        }
        self.incoming = if at < bytes.len() { BytesMut::from(&bytes[at..]) } else { BytesMut::new() };
        Ok(())
    }

    /// Whether something encrypted waits for the socket.
    pub(crate) fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Sends what is encrypted.
    pub(crate) fn poll_send(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut *socket).poll_write(cx, &self.outgoing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(written);
        }
        self.outgoing = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Encrypts and sends a queue.
    pub(crate) fn poll_write_queue(
        &mut self,
        queue: &mut WriteQueue,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(socket, cx))?;
            if queue.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let taken = self.encrypt_and_send(socket, cx, queue.slices())?;
            queue.consume(taken);
        }
    }

    /// Encrypts a slice and sends it: done when the socket has taken it, or when it is kept.
    pub(crate) fn poll_write(
        &mut self,
        bytes: &[u8],
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(socket, cx))?;
        Poll::Ready(self.encrypt_and_send(socket, cx, std::iter::once(bytes)))
    }

    /// The same with several.
    pub(crate) fn poll_write_slices(
        &mut self,
        slices: &[io::IoSlice<'_>],
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(socket, cx))?;
        Poll::Ready(self.encrypt_and_send(socket, cx, slices.iter().map(|slice| &**slice)))
    }

    fn encrypt_and_send<'b>(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        slices: impl Iterator<Item = &'b [u8]>,
    ) -> io::Result<usize> {
        OUTPUT.with_borrow_mut(|output| {
            let (taken, filled) = self.encrypt(slices, output).map_err(io_error)?;
            let mut sent = 0;
            // What the protocol itself has to say goes first.
            if self.outgoing.is_empty()
                && let Poll::Ready(written) = Pin::new(&mut *socket).poll_write(cx, &output[..filled])
            {
                sent = written?;
                if sent == 0 && filled > 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            self.outgoing.extend_from_slice(&output[sent..filled]);
            Ok(taken)
        })
    }

    /// Encrypts as much as `output` has room for; how much that was, and how much it became.
    fn encrypt<'b>(
        &mut self,
        slices: impl Iterator<Item = &'b [u8]>,
        output: &mut [u8],
    ) -> Result<(usize, usize), rustls::Error> {
        self.traffic(|traffic| encrypt_slices(traffic, slices, output))
    }

    /// Does something with a connection that may send.
    fn traffic(
        &mut self,
        act: impl FnOnce(&mut dyn Traffic) -> Result<(usize, usize), rustls::Error>,
    ) -> Result<(usize, usize), rustls::Error> {
        if self.broken {
            return Err(gone());
        }
        let Session { side, plaintext, outgoing, incoming, closed, broken, .. } = self;
        on_side!(side, connection => {
            // A record that is there in part stays where it is.
            let mut kept = std::mem::take(incoming);
            let mut at = 0;
            let done = loop {
                let (used, step) = step(connection.process_tls_records(&mut kept[at..]), plaintext, outgoing);
                at += used;
                match step {
                    Ok(Step::Again) => {}
                    Ok(Step::PeerClosed) => *closed = true,
                    Ok(Step::Traffic(mut traffic)) => break act(&mut traffic),
                    Ok(Step::Blocked | Step::Closed | Step::Unexpected(_)) => break Err(gone()),
                    Err(error) => break Err(error),
                }
            };
            *broken = done.is_err();
            kept.advance(at);
            *incoming = kept;
            done
        })
    }

    /// Tells the peer that no more will come, and sends that.
    pub(crate) fn poll_close(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(socket, cx))?;
        if !self.broken && !self.told {
            self.told = true;
            let mut notice = [0; RECORD_OVERHEAD_MAX];
            // A connection that can't be told is closed as it is.
            if let Ok((_, written)) = self.traffic(|traffic| Ok((0, traffic.close(&mut notice)))) {
                self.outgoing.extend_from_slice(&notice[..written]);
            }
        }
        self.poll_send(socket, cx)
    }
}

fn gone() -> rustls::Error {
    rustls::Error::General("the connection is closed".to_owned())
}
