//! A server of plain TCP that says who it is: at once, or when the client has said something.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

/// How long a client waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server; it stops when it is dropped.
#[derive(Debug)]
pub struct Talker {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    greets: bool,
    stop: AtomicBool,
    connections: AtomicUsize,
}

impl Talker {
    /// Sends `NAME PEER` and a line feed after the first bytes of a client, then every byte back.
    pub fn start(name: &str) -> Result<Talker> {
        Talker::on(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), name, false)
    }

    /// The same before the client says anything.
    pub fn greeting(name: &str) -> Result<Talker> {
        Talker::on(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), name, true)
    }

    pub fn on(address: SocketAddr, name: &str, greets: bool) -> Result<Talker> {
        let listener = TcpListener::bind(address).with_context(|| format!("bind {address}"))?;
        let address = listener.local_addr()?;
        let stop = AtomicBool::new(false);
        let shared = Arc::new(Shared { name: name.to_owned(), greets, stop, connections: AtomicUsize::new(0) });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let shared = serving.clone();
                std::thread::spawn(move || _ = serve(stream, &shared));
            }
        });
        Ok(Talker { address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let ip = if self.address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { self.address.ip() };
        let _ = TcpStream::connect_timeout(&SocketAddr::new(ip, self.address.port()), Duration::from_secs(1));
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let words = format!("{} {}\n", shared.name, stream.peer_addr()?);
    if shared.greets {
        stream.write_all(words.as_bytes())?;
    }
    let mut buffer = [0; 4096];
    let mut told = shared.greets;
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        if !std::mem::replace(&mut told, true) {
            stream.write_all(words.as_bytes())?;
        }
        stream.write_all(&buffer[..read])?;
    }
}

/// Connects, sends these bytes, and reads a line; an error where the connection ends before.
pub fn ask(address: SocketAddr, bytes: &[u8]) -> Result<String> {
    let mut stream = connect(address)?;
    stream.write_all(bytes)?;
    line(&mut BufReader::new(stream))
}

pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A line without its end.
pub fn line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    anyhow::ensure!(line.ends_with('\n'), "the connection ended after {line:?}");
    line.pop();
    Ok(line)
}

/// Who answered: the first word of the line.
pub fn name(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}
