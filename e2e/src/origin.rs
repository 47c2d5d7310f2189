//! The origin behind the proxies under test: it echoes each request as JSON, and misbehaves on demand.
//!
//! The request header `x-origin` says what to do, as `name=value; name; …`:
//!
//! | directive | effect |
//! |---|---|
//! | `status=N` | answers with that status |
//! | `body=N` | answers with N bytes instead of the echo |
//! | `chunked` | no Content-Length: chunked over HTTP/1 |
//! | `trailers` | sends the trailer `x-trailer: end` (chunked over HTTP/1) |
//! | `header=NAME:VALUE` | adds a response header; may be repeated |
//! | `header-bytes=N` | adds response headers of N bytes in all |
//! | `gate=NAME` | waits before the answer until the test opens the gate |
//! | `gate-after=N` | waits at that gate after N bytes of the body instead |
//! | `die=N` | closes the connection after N bytes of the body |
//! | `reset=N` | the same, by a reset |
//! | `close` | sends `Connection: close` and closes after the answer |
//! | `silent` | reads the request and never answers |
//! | `early` | answers before it reads the body |
//! | `interim=N` | sends an informational response with that status first |
//! | `flaky=N` | does all this for the first N requests with the same `x-test`, and nothing of it for those after them |
//! | `raw=NAME` | answers with the bytes of [`Origin::script`], as they are, and closes |
//!
//! Request headers `x-gen-*` come back as response headers `x-seen-gen-*`: what the filters and routes had stamped when the
//! request reached the origin. A gRPC call over HTTP/2 gets its messages back, and status 0; a health check is told SERVING. A request with `Upgrade` is answered with 101, and every byte after it comes back. The same
//! port speaks HTTP/2 to a client that begins with its preface.

mod h1;
mod h2;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::parser::{Headers, header};

const REQUESTS_KEPT: usize = 10_000;
const BODY_ECHO_MAX: usize = 4096;

/// A request as the origin saw it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub version: &'static str,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub trailers: Headers,
    /// Which of the origin's connections it came on, counted from 1.
    pub connection: u64,
    /// False if the client went away in the middle of it.
    pub whole: bool,
}

/// What the `x-origin` header asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directive {
    pub(crate) status: Option<u16>,
    pub(crate) body_bytes: Option<usize>,
    pub(crate) chunked: bool,
    pub(crate) trailers: bool,
    pub(crate) headers: Headers,
    pub(crate) gate: Option<String>,
    pub(crate) gate_after: Option<usize>,
    pub(crate) die: Option<usize>,
    pub(crate) reset: Option<usize>,
    pub(crate) close: bool,
    pub(crate) silent: bool,
    pub(crate) early: bool,
    pub(crate) interim: Option<u16>,
    pub(crate) raw: Option<String>,
    pub(crate) flaky: Option<u32>,
}

impl Directive {
    fn parse(headers: &Headers) -> Directive {
        let mut directive = Directive::default();
        for part in header(headers, "x-origin").unwrap_or_default().split(';') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim();
            match name.trim() {
                "status" => directive.status = value.parse().ok(),
                "body" => directive.body_bytes = value.parse().ok(),
                "chunked" => directive.chunked = true,
                "trailers" => directive.trailers = true,
                "header" => directive.headers.extend(value.split_once(':').map(|(n, v)| (n.to_owned(), v.to_owned()))),
                "header-bytes" => directive.headers.extend(padding(value.parse().unwrap_or_default())),
                "gate" => directive.gate = Some(value.to_owned()),
                "gate-after" => directive.gate_after = value.parse().ok(),
                "die" => directive.die = value.parse().ok(),
                "reset" => directive.reset = value.parse().ok(),
                "close" => directive.close = true,
                "silent" => directive.silent = true,
                "early" => directive.early = true,
                "interim" => directive.interim = value.parse().ok(),
                "flaky" => directive.flaky = value.parse().ok(),
                "raw" => directive.raw = Some(value.to_owned()),
                _ => {}
            }
        }
        directive
    }

    pub(crate) fn status(&self) -> u16 {
        self.status.unwrap_or(200)
    }

    /// Where the body stops for a while, or for good.
    pub(crate) fn break_after(&self) -> Option<usize> {
        self.gate_after.or(self.die).or(self.reset)
    }
}

fn padding(bytes: usize) -> Headers {
    const LINE: usize = 1000;
    let count = bytes.div_ceil(LINE);
    (0..count).map(|i| (format!("x-pad-{i}"), "p".repeat(bytes.min(LINE)))).collect()
}

/// What all connections of one origin share.
#[derive(Debug, Default)]
pub(crate) struct State {
    name: String,
    connections: AtomicU64,
    gates: Mutex<HashMap<String, watch::Sender<bool>>>,
    scripts: Mutex<HashMap<String, Vec<u8>>>,
    seen: Mutex<Vec<Seen>>,
    keep: bool,
    /// Health checks, of gRPC or at `/healthz`, are told that it doesn't serve.
    pub(crate) sick: AtomicBool,
    fixed: Option<Vec<u8>>,
    /// Requests by their `x-test`, where the directive is for the first ones only.
    counts: Mutex<HashMap<String, u32>>,
}

impl State {
    /// What a request asks for.
    pub(crate) fn directive(&self, path: &str, headers: &Headers) -> Directive {
        let mut directive = Directive::parse(headers);
        if path == "/healthz" && self.sick.load(Ordering::Relaxed) {
            directive.status = Some(503);
        }
        let Some(first) = directive.flaky else { return directive };
        let mut counts = lock(&self.counts);
        let count = counts.entry(header(headers, "x-test").unwrap_or_default().to_owned()).or_default();
        *count += 1;
        if *count <= first { directive } else { Directive::default() }
    }

    fn gate(&self, name: &str) -> watch::Sender<bool> {
        lock(&self.gates).entry(name.to_owned()).or_insert_with(|| watch::Sender::new(false)).clone()
    }

    pub(crate) async fn pass_gate(&self, directive: &Directive) {
        if let Some(name) = &directive.gate {
            let mut gate = self.gate(name).subscribe();
            let _ = gate.wait_for(|open| *open).await;
        }
    }

    pub(crate) fn script(&self, name: &str) -> Vec<u8> {
        lock(&self.scripts).get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn record(&self, seen: &Seen) {
        let mut all = lock(&self.seen);
        if self.keep && all.len() < REQUESTS_KEPT {
            all.push(seen.clone());
        }
    }

    /// The response's headers and body for a request.
    pub(crate) fn answer(&self, seen: &Seen, directive: &Directive) -> (Headers, Vec<u8>) {
        let mut headers = vec![("x-origin-name".to_owned(), self.name.clone())];
        let stamps = seen.headers.iter().filter_map(|(name, value)| {
            let lower = name.to_ascii_lowercase();
            lower.strip_prefix("x-gen-").map(|rest| (format!("x-seen-gen-{rest}"), value.clone()))
        });
        headers.extend(stamps);
        headers.extend(directive.headers.iter().cloned());
        let body = match (directive.body_bytes, &self.fixed) {
            (None, Some(fixed)) => fixed.clone(),
            (Some(count), _) => {
                headers.push(("content-type".to_owned(), "text/plain".to_owned()));
                pattern(count)
            }
            (None, None) => {
                headers.push(("content-type".to_owned(), "application/json".to_owned()));
                echo(&self.name, seen).to_string().into_bytes()
            }
        };
        (headers, body)
    }
}

/// The body that `body=N` asks for: every byte depends on its position, so that a lost or repeated piece is noticed.
pub fn pattern(count: usize) -> Vec<u8> {
    const PERIOD: usize = 26 * 26;
    let period: Vec<u8> = (0..PERIOD).map(|i| b'a' + u8::try_from((i + i / 26) % 26).unwrap_or_default()).collect();
    let mut bytes = period.repeat(count.div_ceil(PERIOD));
    bytes.truncate(count);
    bytes
}

fn echo(name: &str, seen: &Seen) -> Value {
    let shown = &seen.body[..seen.body.len().min(BODY_ECHO_MAX)];
    json!({
        "origin": name, "method": seen.method, "path": seen.path, "version": seen.version, "headers": seen.headers,
        "body": String::from_utf8_lossy(shown), "body_bytes": seen.body.len(), "trailers": seen.trailers,
        "connection": seen.connection,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running origin; it ends when dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// Starts an origin on a port that the system chooses. `name` shows in its echo and in `x-origin-name`.
    pub fn start(name: &str) -> Result<Origin> {
        Origin::bind(name, SocketAddr::from(([127, 0, 0, 1], 0)), true)
    }

    /// Starts an origin that answers everything with the same bytes instead of an echo.
    pub fn answering(name: &str, body: impl Into<Vec<u8>>) -> Result<Origin> {
        let state = State { name: name.to_owned(), keep: true, fixed: Some(body.into()), ..State::default() };
        Origin::run(SocketAddr::from(([127, 0, 0, 1], 0)), state)
    }

    /// Starts an origin on an address; `keep`: remember the requests for [`Origin::seen`].
    pub fn bind(name: &str, address: SocketAddr, keep: bool) -> Result<Origin> {
        Origin::run(address, State { name: name.to_owned(), keep, ..State::default() })
    }

    fn run(address: SocketAddr, state: State) -> Result<Origin> {
        let state = Arc::new(state);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address)).with_context(|| format!("bind {address}"))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let theirs = Arc::clone(&state);
        let thread = std::thread::Builder::new().name(format!("origin {}", state.name)).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, theirs) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Origin { address, state, stop: Some(stop), thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has health checks, of gRPC or at `/healthz`, told that the origin doesn't serve, or serves again.
    pub fn call_in_sick(&self, sick: bool) {
        self.state.sick.store(sick, Ordering::Relaxed);
    }

    /// Lets everything pass that waits, or will wait, at a gate.
    pub fn open_gate(&self, name: &str) {
        self.state.gate(name).send_replace(true);
    }

    /// The bytes that `raw=NAME` answers with.
    pub fn script(&self, name: &str, bytes: impl Into<Vec<u8>>) {
        lock(&self.state.scripts).insert(name.to_owned(), bytes.into());
    }

    /// The requests that have reached the origin so far, in order of their arrival.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    /// The requests whose path begins so.
    pub fn seen_at(&self, path: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.path.starts_with(path)).collect()
    }

    /// How many connections the origin has accepted.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let number = state.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // A connection that breaks is the test's business, not the origin's.
            let _ = serve(stream, state, number).await;
        });
    }
}

async fn serve(stream: TcpStream, state: Arc<State>, number: u64) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut preface = [0; 3];
    let is_h2 = loop {
        let count = stream.peek(&mut preface).await?;
        if count == 0 {
            return Ok(());
        }
        if !b"PRI".starts_with(&preface[..count]) {
            break false;
        }
        if count == preface.len() {
            break true;
        }
        tokio::task::yield_now().await;
    };
    if is_h2 { h2::serve(stream, state, number).await } else { h1::serve(stream, state, number).await }
}
