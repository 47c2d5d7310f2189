//! An open-loop load generator: request `i` is due at `start + i / rate`, whatever the proxy does, and its latency counts
//! from when it was due. So a stall shows in every request that it held up (no coordinated omission).
//!
//! Connections are kept alive; each one that the proxy closes is counted. A checker looks at every response and says
//! whether it is good, and which stamps (generations) it carries.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::histogram::Histogram;
use crate::http1::{Request, Response, absorb};
use crate::parser::{Parser, Role};

const ERRORS_KEPT: usize = 20;
const RECONNECTS_MAX: usize = 1000;

/// What the checker says about a response.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Why the request counts as failed.
    pub failure: Option<String>,
    /// Which stamps of one exchange don't agree, if so.
    pub mixed: Option<String>,
    /// The generations that it shows, counted in the report.
    pub stamps: Vec<String>,
}

/// Judges a response.
pub type Checker = Arc<dyn Fn(&Response) -> Verdict + Send + Sync>;

/// What to send.
#[derive(Clone)]
pub struct Load {
    pub target: SocketAddr,
    pub rate: f64,
    pub connections: usize,
    pub request: Request,
    pub checker: Checker,
    pub request_timeout: Duration,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load").field("target", &self.target).field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl Load {
    /// A load that wants status 200.
    pub fn new(target: SocketAddr, rate: f64, request: Request) -> Load {
        let checker: Checker = Arc::new(|response| Verdict {
            failure: (response.status != 200).then(|| format!("status {}: {}", response.status, response.text())),
            ..Verdict::default()
        });
        Load { target, rate, connections: 16, request, checker, request_timeout: Duration::from_secs(10) }
    }

    pub fn check(mut self, checker: impl Fn(&Response) -> Verdict + Send + Sync + 'static) -> Load {
        self.checker = Arc::new(checker);
        self
    }

    /// Starts sending from a thread of its own, until [`Running::stop`].
    pub fn start(self) -> Result<Running> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || drive(&self, &theirs))?;
        Ok(Running { shared, thread: Some(thread) })
    }
}

/// What a load has seen.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub served: u64,
    pub failed: u64,
    /// Connections that the proxy closed while the load ran.
    pub closed: u64,
    /// Exchanges whose stamps didn't agree.
    pub mixed: u64,
    pub statuses: BTreeMap<u16, u64>,
    pub stamps: BTreeMap<String, u64>,
    pub latency: Histogram,
    /// The first errors, in words.
    pub errors: Vec<String>,
}

impl Report {
    /// An error unless every request was served, no connection was closed and no stamps disagree.
    pub fn must_be_clean(&self) -> Result<()> {
        if self.served == 0 {
            bail!("no request was served: {:?}", self.errors);
        }
        if self.failed + self.closed + self.mixed > 0 {
            let Report { served, failed, closed, mixed, errors, .. } = self;
            bail!(
                "served {served}, failed {failed}, connections closed {closed}, mixed generations {mixed}: {errors:#?}"
            );
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    next: AtomicU64,
    report: Mutex<Report>,
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A load under way.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Running {
    /// What it has seen so far.
    pub fn so_far(&self) -> Report {
        self.shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the load after the requests that are under way.
    pub fn stop(mut self) -> Result<Report> {
        self.finish()?;
        Ok(self.so_far())
    }

    fn finish(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(anyhow!("the load's thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

fn drive(load: &Load, shared: &Shared) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let bytes = load.request.bytes();
    runtime.block_on(async {
        let start = Instant::now();
        let senders = (0..load.connections).map(|_| sender(load, shared, &bytes, start));
        join_all(senders.collect()).await;
    });
    Ok(())
}

async fn join_all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut pinned: Vec<_> = futures.into_iter().map(|f| Some(Box::pin(f))).collect();
    std::future::poll_fn(|cx| {
        for slot in &mut pinned {
            if slot.as_mut().is_some_and(|f| f.as_mut().poll(cx).is_ready()) {
                *slot = None;
            }
        }
        if pinned.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// One connection: takes the next request that is due, whoever is free first.
async fn sender(load: &Load, shared: &Shared, bytes: &[u8], start: Instant) {
    let mut link: Option<Link> = None;
    let mut reconnects = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "an index of at most a few million")]
        let due = start + Duration::from_secs_f64(index as f64 / load.rate);
        sleep_until(due).await;
        if link.as_mut().is_some_and(Link::has_been_closed) {
            shared.update(|report| report.closed += 1);
            link = None;
        }
        let attempt = timeout(load.request_timeout, ask(load.target, &mut link, bytes, shared)).await;
        let outcome = attempt.unwrap_or_else(|_| Err(anyhow!("no answer within {:?}", load.request_timeout)));
        if outcome.is_err() && link.take().is_some() {
            reconnects += 1;
        }
        let closes =
            outcome.as_ref().is_ok_and(|r| r.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")));
        if closes {
            link = None;
        }
        let latency = due.elapsed();
        record(load, shared, &outcome, closes, latency);
        if reconnects > RECONNECTS_MAX {
            return;
        }
    }
}

fn record(load: &Load, shared: &Shared, outcome: &Result<Response>, closes: bool, latency: Duration) {
    let verdict = outcome.as_ref().map_or_else(
        |error| Verdict { failure: Some(format!("{error:#}")), ..Verdict::default() },
        |response| (load.checker)(response),
    );
    shared.update(|report| {
        report.latency.record(latency);
        report.closed += u64::from(closes);
        report.mixed += u64::from(verdict.mixed.is_some());
        match verdict.failure {
            Some(_) => report.failed += 1,
            None => report.served += 1,
        }
        if let Ok(response) = outcome {
            *report.statuses.entry(response.status).or_default() += 1;
        }
        for stamp in verdict.stamps {
            *report.stamps.entry(stamp).or_default() += 1;
        }
        let words = verdict.failure.into_iter().chain(verdict.mixed);
        let room = ERRORS_KEPT.saturating_sub(report.errors.len());
        report.errors.extend(words.take(room));
    });
}

#[derive(Debug)]
struct Link {
    stream: TcpStream,
    buffer: Vec<u8>,
    parser: Parser,
}

impl Link {
    /// True if the peer closed (or sent something unasked) since the last exchange.
    fn has_been_closed(&mut self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

/// A kept connection that was closed while the request was on its way to it.
#[derive(Debug)]
struct Unanswered;

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the kept connection was closed before a byte of the answer came")
    }
}

impl std::error::Error for Unanswered {}

/// One exchange. Where a close crosses the request, it is asked again on a new connection (RFC 9112 section 9.3.1).
async fn ask(target: SocketAddr, link: &mut Option<Link>, bytes: &[u8], shared: &Shared) -> Result<Response> {
    match one_request(target, link, bytes).await {
        Err(error) if error.is::<Unanswered>() => {
            shared.update(|report| report.closed += 1);
            *link = None;
            one_request(target, link, bytes).await
        }
        outcome => outcome,
    }
}

async fn one_request(target: SocketAddr, link: &mut Option<Link>, bytes: &[u8]) -> Result<Response> {
    let mut kept = link.is_some();
    let link = match link {
        Some(link) => link,
        None => {
            let stream = TcpStream::connect(target).await.context("connect")?;
            stream.set_nodelay(true)?;
            let buffer = vec![0; 8 * 1024];
            link.insert(Link { stream, buffer, parser: Parser::new(Role::Responses { to_head: false }) })
        }
    };
    match link.stream.write_all(bytes).await {
        Err(_) if kept => bail!(Unanswered),
        outcome => outcome.context("send")?,
    }
    let mut response = Response::default();
    loop {
        while let Some(event) = link.parser.poll()? {
            if absorb(&mut response, event)? {
                return Ok(response);
            }
        }
        let read = link.stream.read(&mut link.buffer).await;
        if matches!(read, Ok(0) | Err(_)) && kept {
            bail!(Unanswered);
        }
        kept = false;
        match read.context("read")? {
            0 => bail!("the proxy closed in the middle of an exchange ({} bytes of body)", response.body.len()),
            count => link.parser.feed(&link.buffer[..count]),
        }
    }
}
