//! A DNS server for tests: answers A and AAAA questions over UDP from a table that the test changes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

/// How often the server's thread looks whether it should end.
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct State {
    /// `None`: the server fails on this name. Names that aren't there don't exist.
    names: Mutex<HashMap<String, Option<Vec<IpAddr>>>>,
    questions: AtomicU64,
    ended: AtomicBool,
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// On a port of 127.0.0.1 that the system chooses.
    pub fn start() -> Result<DnsServer> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(POLL))?;
        let address = socket.local_addr()?;
        let state = Arc::new(State::default());
        let theirs = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("dns".to_owned()).spawn(move || serve(&socket, &theirs))?;
        Ok(DnsServer { address, state, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the name has these addresses.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        self.put(name, Some(addresses.to_vec()));
    }

    /// From now on questions for the name are answered with SERVFAIL.
    pub fn fail(&self, name: &str) {
        self.put(name, None);
    }

    fn put(&self, name: &str, entry: Option<Vec<IpAddr>>) {
        self.state.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), entry);
    }

    /// How many questions were asked so far.
    pub fn questions(&self) -> u64 {
        self.state.questions.load(Ordering::Relaxed)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, state: &State) {
    let mut buffer = [0; 512];
    while !state.ended.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = answer(&buffer[..length], state) {
            state.questions.fetch_add(1, Ordering::Relaxed);
            let _ = socket.send_to(&answer, peer);
        }
    }
}

/// The answer to one question (RFC 1035 §4.1), with a TTL of one second.
fn answer(question: &[u8], state: &State) -> Option<Vec<u8>> {
    let mut name = String::new();
    let mut at = 12;
    while let length @ 1.. = usize::from(*question.get(at)?) {
        let label = question.get(at + 1..at + 1 + length)?;
        name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
        name.push('.');
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([*question.get(at + 1)?, *question.get(at + 2)?]);
    let section = question.get(12..at + 5)?;
    let names = state.names.lock().unwrap_or_else(PoisonError::into_inner);
    let (code, addresses) = match names.get(name.trim_end_matches('.')) {
        Some(Some(addresses)) => (0, addresses.clone()),
        Some(None) => (2, Vec::new()),
        None => (3, Vec::new()),
    };
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(v4) if kind == 1 => Some(v4.octets().to_vec()),
            IpAddr::V6(v6) if kind == 28 => Some(v6.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut out = question.get(..2)?.to_vec();
    out.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(records.len()).ok()?, 0, 0, 0, 0]);
    out.extend_from_slice(section);
    for data in records {
        // A pointer to the question's name, type, class IN, TTL, length.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 1, 0, u8::try_from(data.len()).ok()?]);
        out.extend(data);
    }
    Some(out)
}
