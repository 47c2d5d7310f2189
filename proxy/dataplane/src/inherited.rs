//! Listening sockets that go from process to process.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// What a predecessor handed over, and whether sockets are kept for a successor.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Mutex<HashMap<SocketAddr, Vec<TcpListener>>>,
    keeps: bool,
}

impl Inherited {
    /// For a process that may have a successor.
    #[must_use]
    pub fn keeping() -> Inherited {
        Inherited { keeps: true, ..Inherited::default() }
    }

    /// A listening socket that is bound to an address.
    pub fn add(&self, address: SocketAddr, socket: OwnedFd) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.entry(address).or_default().push(TcpListener::from(socket));
    }

    /// The sockets of an address, once.
    #[must_use]
    pub fn take(&self, address: SocketAddr) -> Vec<TcpListener> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).remove(&address).unwrap_or_default()
    }

    /// Closes what nobody took: the predecessor's listeners that this process doesn't have. Returns their addresses.
    pub fn forget(&self) -> Vec<SocketAddr> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *sockets).into_keys().collect()
    }

    pub(crate) const fn keeps(&self) -> bool {
        self.keeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_once() {
        let inherited = Inherited::keeping();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        inherited.add(address, socket.try_clone().unwrap().into());
        inherited.add(address, socket.into());
        assert_eq!(inherited.take(address).len(), 2);
        assert!(inherited.take(address).is_empty() && inherited.forget().is_empty());
    }
}
