//! Our own HTTP/1 client, for what the load tools can't say: latencies of an open loop, and who answered when.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::peers::LOAD_CORE;
use crate::shell::output;

const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 16;

/// A kept connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) fn connect(address: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Client { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Asks for `/`; the body of a 200. Bodies have a length.
    pub(super) fn get(&mut self) -> Result<&[u8]> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n")?;
        self.buffer.clear();
        loop {
            let mut part = [0; 4096];
            let read = self.stream.read(&mut part)?;
            if read == 0 {
                bail!("the proxy closed before the answer");
            }
            self.buffer.extend_from_slice(&part[..read]);
            let Some(head) = self.buffer.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
            let length = body_length(&self.buffer[..head])?;
            if self.buffer.len() >= head + 4 + length {
                return Ok(&self.buffer[head + 4..]);
            }
        }
    }
}

fn body_length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head)?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let length = fields.filter(|field| field.0.eq_ignore_ascii_case("content-length")).find_map(|f| f.1.parse().ok());
    length.context("an answer without a length")
}

/// While it lives, this process and what it starts stay off the proxy's core and wake on time.
#[derive(Debug)]
pub(super) struct OnLoadCore(());

impl OnLoadCore {
    pub(super) fn new() -> Result<OnLoadCore> {
        // Threads inherit it; without it each wait would be 50 us too long, for every proxy alike.
        std::fs::write("/proc/self/timerslack_ns", "1").context("timerslack_ns")?;
        affinity(LOAD_CORE)?;
        Ok(OnLoadCore(()))
    }
}

impl Drop for OnLoadCore {
    fn drop(&mut self) {
        let _ = affinity("0-1023");
    }
}

fn affinity(cores: &str) -> Result<()> {
    let pid = std::process::id().to_string();
    output(Command::new("taskset").args(["-a", "-p", "-c", cores, &pid])).map(|_| ())
}

/// Latencies in microseconds, sorted.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    sorted: Vec<f64>,
    pub(super) errors: u64,
}

impl Latencies {
    pub(super) fn of(mut values: Vec<f64>, errors: u64) -> Latencies {
        values.sort_by(f64::total_cmp);
        Latencies { sorted: values, errors }
    }

    pub(super) fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The value below which so many of a thousand are; zero if there are none.
    pub(super) fn per_mille(&self, wanted: usize) -> f64 {
        let index = (self.sorted.len() * wanted).div_ceil(1000).max(1) - 1;
        self.sorted.get(index).copied().unwrap_or_default()
    }
}

/// An open loop: request `i` is due at `start + i / rate`, and its latency counts from then, whatever held it up.
pub(super) fn open_loop(address: SocketAddr, rate: u32, window: Duration) -> Result<Latencies> {
    let next = AtomicU64::new(0);
    let mut clients = (0..CONNECTIONS).map(|_| Client::connect(address)).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now() + Duration::from_millis(20);
    let outcomes: Vec<(Vec<f64>, u64)> = std::thread::scope(|scope| {
        let work = |client| scope.spawn(|| sender(client, &next, begin, f64::from(rate), window));
        let threads: Vec<_> = clients.iter_mut().map(work).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    if outcomes.len() < CONNECTIONS {
        bail!("a sender panicked");
    }
    let errors = outcomes.iter().map(|outcome| outcome.1).sum();
    Ok(Latencies::of(outcomes.into_iter().flat_map(|outcome| outcome.0).collect(), errors))
}

/// Takes the next request that is due, whoever is free first. A connection that fails counts and ends.
fn sender(client: &mut Client, next: &AtomicU64, begin: Instant, rate: f64, window: Duration) -> (Vec<f64>, u64) {
    let mut latencies = Vec::new();
    loop {
        #[expect(clippy::cast_precision_loss, reason = "an index of at most a few million")]
        let after = Duration::from_secs_f64(next.fetch_add(1, Ordering::Relaxed) as f64 / rate);
        if after > window {
            return (latencies, 0);
        }
        let due = begin + after;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if client.get().is_err() {
            return (latencies, 1);
        }
        latencies.push(due.elapsed().as_secs_f64() * 1e6);
    }
}

#[cfg(test)]
mod tests {
    use super::{Latencies, body_length};

    #[test]
    fn percentiles() {
        let latencies = Latencies::of((1..=1000).rev().map(f64::from).collect(), 0);
        for (wanted, expected) in [(500, 500.0), (990, 990.0), (1000, 1000.0), (0, 1.0)] {
            assert!((latencies.per_mille(wanted) - expected).abs() < 1e-9, "{wanted}");
        }
        assert!(Latencies::default().per_mille(990).abs() < 1e-9);
    }

    #[test]
    fn heads() {
        assert_eq!(body_length(b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 40").ok(), Some(40));
        assert!(body_length(b"HTTP/1.1 503 x\r\ncontent-length: 4").is_err());
    }
}
