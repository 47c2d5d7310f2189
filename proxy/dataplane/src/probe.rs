//! A client's socket, for streams to ask about: they don't hold it, and some of them outlive it.
//!
//! A descriptor's number is used only under the lock that is taken before the descriptor is closed, so that it is never the
//! number of another one.

#![expect(unsafe_code, reason = "std has no TCP_INFO")]

use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_http::ClientSocket;

use crate::socket::Socket;

/// What streams have of a socket.
#[derive(Debug)]
pub(crate) struct Probe(Mutex<State>);

#[derive(Debug)]
enum State {
    Open(RawFd),
    /// With what was known last.
    Closed(Option<Duration>),
}

/// Stands beside the socket that is asked about, and goes before it does.
#[derive(Debug)]
pub(crate) struct Asked(Arc<Probe>);

impl Asked {
    /// `None`: it isn't TCP.
    pub(crate) fn new(socket: &Socket) -> Option<Asked> {
        let Socket::Tcp(socket) = socket else { return None };
        Some(Asked(Arc::new(Probe(Mutex::new(State::Open(socket.as_raw_fd()))))))
    }

    pub(crate) const fn probe(&self) -> &Arc<Probe> {
        &self.0
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // The log of a listener is written when the connection is gone, and so are those of streams that end with it.
        let outlived = Arc::strong_count(&self.0) > 1;
        let last = if outlived { self.0.round_trip_time() } else { None };
        *self.0.state() = State::Closed(last);
    }
}

impl Probe {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSocket for Probe {
    fn round_trip_time(&self) -> Option<Duration> {
        match &*self.state() {
            State::Open(descriptor) => {
                // SAFETY: `Asked` goes before the socket, and takes the lock that is held here to say so.
                let socket = unsafe { BorrowedFd::borrow_raw(*descriptor) };
                smoothed_round_trip_time(socket)
            }
            State::Closed(last) => *last,
        }
    }
}

fn smoothed_round_trip_time(socket: impl AsFd) -> Option<Duration> {
    // SAFETY: numbers only, which zero bytes are, too, where an older kernel tells less.
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `info`, which has as many.
    let failed = unsafe {
        libc::getsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    (failed == 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    #[tokio::test]
    async fn a_socket_is_asked_while_it_is_open_and_remembered_by_those_who_stay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::from(listener.accept().await.unwrap().0);
        let asked = Asked::new(&socket).unwrap();
        let stays = asked.probe().clone();
        assert!(stays.round_trip_time().is_some());
        drop((asked, socket));
        assert!(matches!(*stays.state(), State::Closed(Some(_))));
        assert!(stays.round_trip_time().is_some());
    }

    #[tokio::test]
    async fn unix_sockets_know_nothing_of_it() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(smoothed_round_trip_time(&near), None);
        assert!(Asked::new(&near.into()).is_none());
    }
}
