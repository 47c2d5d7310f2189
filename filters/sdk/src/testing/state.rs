//! What the test host holds: one per thread, as each test runs on a thread of its own.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The reply that a filter gave, after its own response callbacks have seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentReply {
    /// The HTTP status.
    pub status: u16,
    /// The response code details.
    pub details: String,
    /// The headers that the filter set, `:status` not included.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// The gRPC status, −1 if the host is to derive it.
    pub grpc_status: i32,
}

impl SentReply {
    /// Every value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        #[expect(clippy::expect_used, reason = "a test's own assertion")]
        serde_json::from_str(&self.body).expect("the reply's body is JSON")
    }
}

/// A callout that a filter has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentCallout {
    pub(super) token: u32,
    /// The cluster that it goes to.
    pub cluster: String,
    /// Its headers, pseudo-headers included.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
    /// How long it may take.
    pub timeout: Duration,
}

/// Every value of a header among the entries.
pub(super) fn values<'a>(entries: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    entries.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// Entries of a map: lower-case names, values of any bytes.
pub(super) type Entries = Vec<(String, Vec<u8>)>;

/// What belongs to one stream. It is moved into [`State`] while one of the stream's callbacks runs.
#[derive(Debug, Default)]
pub(super) struct StreamState {
    /// By Proxy-Wasm's numbers: request headers and trailers, response headers and trailers, …, callout headers (6).
    pub(super) maps: [Entries; 8],
    /// By Proxy-Wasm's numbers: request and response body, …, callout body (4).
    pub(super) bodies: [Vec<u8>; 5],
    pub(super) reply: Option<SentReply>,
    /// Callouts that wait for an answer.
    pub(super) callouts: Vec<SentCallout>,
    /// The half that was asked to go on.
    pub(super) continued: Option<u32>,
}

/// A metric as it was defined, and what was recorded.
#[derive(Clone, Debug)]
pub(super) struct Metric {
    pub(super) kind: u32,
    pub(super) name: String,
    pub(super) value: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) time_nanoseconds: u64,
    pub(super) configuration: Option<Vec<u8>>,
    pub(super) properties: HashMap<String, Vec<u8>>,
    pub(super) shared: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    pub(super) cas_last: u32,
    /// As many next writes find that another worker was faster.
    pub(super) conflicts: u32,
    pub(super) metrics: Vec<Metric>,
    pub(super) logs: Vec<(u32, String)>,
    /// Hostcalls since the last callback began, logs not counted.
    pub(super) calls: Vec<&'static str>,
    /// What to answer instead, by hostcall.
    pub(super) faults: HashMap<String, u32>,
    /// Callbacks that the filter has no need of.
    pub(super) skipped: Vec<String>,
    pub(super) stream: StreamState,
    /// The maps that the running callback may use.
    pub(super) maps_open: Vec<usize>,
    /// The body that the running callback may use.
    pub(super) body_open: Option<usize>,
    pub(super) token_last: u32,
}

impl State {
    fn new() -> Self {
        Self {
            // 2026-01-01: no test depends on the machine's clock.
            time_nanoseconds: 1_767_225_600_000_000_000,
            configuration: None,
            properties: HashMap::from([("plugin_name".to_owned(), b"test".to_vec())]),
            shared: BTreeMap::new(),
            cas_last: 0,
            conflicts: 0,
            metrics: Vec::new(),
            logs: Vec::new(),
            calls: Vec::new(),
            faults: HashMap::new(),
            skipped: Vec::new(),
            stream: StreamState::default(),
            maps_open: Vec::new(),
            body_open: None,
            token_last: 0,
        }
    }

    /// Notes a hostcall; the fault that a test has set for it, if any.
    pub(super) fn enter(&mut self, call: &'static str) -> Result<(), u32> {
        self.calls.push(call);
        self.faults.get(call).map_or(Ok(()), |status| Err(*status))
    }

    /// The entries of a map, if the running callback may use it.
    pub(super) fn map(&mut self, map: u32) -> Option<&mut Entries> {
        let index = usize::try_from(map).ok()?;
        if self.maps_open.contains(&index) { self.stream.maps.get_mut(index) } else { None }
    }

    pub(super) fn log(&mut self, level: u32, text: String) {
        self.logs.push((level, text));
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::new());
}

/// Runs on this thread's host. It is never nested: hostcalls don't call back.
pub(super) fn with<T>(run: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(run)
}

/// Forgets everything.
pub(super) fn reset() {
    with(|state| *state = State::new());
}
