//! A host for native tests: it drives a plugin through the same exports as a proxy does, and answers its hostcalls.
//!
//! Everything is of the thread that the test runs on: time stands until [`TestHost::advance`], shared data starts
//! empty, and each hostcall can be made to fail. What a proxy does, it does: a filter's own reply passes that filter's
//! response callbacks once more (as in Envoy). Where hosts differ it is the least helpful of them: `set` replaces only the
//! first of repeated headers.

#![expect(unsafe_code, reason = "calls the module's exports, which are foreign functions by their nature")]

mod imports;
mod state;

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Duration;

use crate::filter::Plugin;
use state::{Entries, StreamState, values, with};
pub use state::{SentCallout, SentReply};

/// The exports of the `proxy-wasm` crate, as a host sees them.
mod exports {
    unsafe extern "C" {
        pub(super) safe fn proxy_on_context_create(context: u32, parent: u32);
        pub(super) safe fn proxy_on_configure(context: u32, size: usize) -> bool;
        pub(super) safe fn proxy_on_request_headers(context: u32, count: usize, end: bool) -> u32;
        pub(super) safe fn proxy_on_request_body(context: u32, size: usize, end: bool) -> u32;
        pub(super) safe fn proxy_on_request_trailers(context: u32, count: usize) -> u32;
        pub(super) safe fn proxy_on_response_headers(context: u32, count: usize, end: bool) -> u32;
        pub(super) safe fn proxy_on_response_body(context: u32, size: usize, end: bool) -> u32;
        pub(super) safe fn proxy_on_response_trailers(context: u32, count: usize) -> u32;
        pub(super) safe fn proxy_on_http_call_response(
            root: u32,
            token: u32,
            header_count: usize,
            body_size: usize,
            trailer_count: usize,
        );
        pub(super) safe fn proxy_on_log(context: u32);
        pub(super) safe fn proxy_on_done(context: u32) -> bool;
        pub(super) safe fn proxy_on_delete(context: u32);
    }
}

thread_local! {
    static CONTEXT_LAST: Cell<u32> = const { Cell::new(0) };
}

fn context_next() -> u32 {
    CONTEXT_LAST.set(CONTEXT_LAST.get() + 1);
    CONTEXT_LAST.get()
}

/// One worker's instance of a plugin on this thread's host.
#[derive(Debug)]
pub struct TestHost<P: Plugin> {
    root: u32,
    plugin: PhantomData<P>,
}

impl<P: Plugin> Default for TestHost<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Plugin> TestHost<P> {
    /// A fresh host with one instance, not yet configured. What earlier hosts of this thread held is forgotten.
    #[must_use]
    pub fn new() -> Self {
        state::reset();
        Self::instance()
    }

    /// A fresh host whose plugin has this configuration.
    ///
    /// # Panics
    /// The plugin refuses it.
    #[must_use]
    pub fn with_config(json: &str) -> Self {
        let mut host = Self::new();
        #[expect(clippy::expect_used, reason = "a test's own assertion")]
        host.configure(json).expect("the configuration is accepted");
        host
    }

    /// One more instance on the same host, as another worker has it: same clock, same shared data.
    #[must_use]
    pub fn worker(&self) -> Self {
        Self::instance()
    }

    fn instance() -> Self {
        crate::adapter::start::<P>();
        let root = context_next();
        exports::proxy_on_context_create(root, 0);
        Self { root, plugin: PhantomData }
    }

    /// Gives the plugin a configuration.
    ///
    /// # Errors
    /// The plugin refuses it: the error that it logged.
    pub fn configure(&mut self, json: &str) -> Result<(), String> {
        let logged = with(|state| {
            state.configuration = Some(json.as_bytes().to_vec());
            state.logs.len()
        });
        let accepted = exports::proxy_on_configure(self.root, json.len());
        with(|state| {
            state.configuration = None;
            if accepted {
                return Ok(());
            }
            Err(state.logs[logged..].iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n"))
        })
    }

    /// Moves the clock on.
    pub fn advance(&mut self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        with(|state| state.time_nanoseconds = state.time_nanoseconds.saturating_add(by));
    }

    /// Sets the clock to a time since the Unix epoch.
    pub fn set_time(&mut self, since_epoch: Duration) {
        with(|state| state.time_nanoseconds = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Sets a property by its dotted path, e.g. `source.address`.
    pub fn set_property(&mut self, path: &str, value: impl Into<Vec<u8>>) {
        with(|state| state.properties.insert(path.to_owned(), value.into()));
    }

    /// Makes a property absent.
    pub fn remove_property(&mut self, path: &str) {
        with(|state| state.properties.remove(path));
    }

    /// From now on a hostcall answers this status and does nothing.
    pub fn fail(&mut self, call: &str, status: u32) {
        with(|state| state.faults.insert(call.to_owned(), status));
    }

    /// Undoes [`TestHost::fail`].
    pub fn heal(&mut self, call: &str) {
        with(|state| state.faults.remove(call));
    }

    /// As many next writes to shared data find that another worker was faster.
    pub fn conflict(&mut self, writes: u32) {
        with(|state| state.conflicts = writes);
    }

    /// Number and total bytes of the entries in shared data.
    #[must_use]
    pub fn shared_data(&self) -> (usize, usize) {
        with(|state| (state.shared.len(), state.shared.iter().map(|(key, (value, _))| key.len() + value.len()).sum()))
    }

    /// What a metric shows, `None` if it is not defined.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<u64> {
        with(|state| state.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value))
    }

    /// The lines that were logged since the last call, with their levels (2 info, 3 warn, 4 error).
    pub fn take_logs(&mut self) -> Vec<(u32, String)> {
        with(|state| std::mem::take(&mut state.logs))
    }

    /// The exports of the module that a host need not call for streams, as far as their defaults have run.
    #[must_use]
    pub fn skipped_callbacks(&self) -> Vec<String> {
        with(|state| state.skipped.clone())
    }

    /// A request without a body.
    pub fn request(&mut self, headers: &[(&str, &str)]) -> Exchange {
        self.open(headers, true)
    }

    /// A request whose body comes with [`Exchange::request_body`].
    pub fn request_with_body(&mut self, headers: &[(&str, &str)]) -> Exchange {
        self.open(headers, false)
    }

    /// A stream that an earlier filter answers: this one sees the response only.
    pub fn answered_before(&mut self) -> Exchange {
        let context = context_next();
        exports::proxy_on_context_create(context, self.root);
        Exchange {
            root: self.root,
            context,
            stream: StreamState::default(),
            calls: Vec::new(),
            paused: false,
            held: None,
        }
    }

    fn open(&mut self, headers: &[(&str, &str)], end: bool) -> Exchange {
        let mut exchange = self.answered_before();
        exchange.stream.maps[0] = entries(headers);
        let count = headers.len();
        exchange.callback(Some(0), None, |context| exports::proxy_on_request_headers(context, count, end));
        exchange
    }
}

impl<P: Plugin> Drop for TestHost<P> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            exports::proxy_on_done(self.root);
            exports::proxy_on_delete(self.root);
        }
    }
}

/// One request on its way through the filter.
#[derive(Debug)]
pub struct Exchange {
    root: u32,
    context: u32,
    stream: StreamState,
    calls: Vec<&'static str>,
    paused: bool,
    /// The map of the callback that holds the stream back: it stays open to the callouts' callbacks.
    held: Option<usize>,
}

impl Exchange {
    /// Runs one callback of a half, and the response callback on the filter's own reply after it.
    fn callback(&mut self, map: Option<usize>, body: Option<usize>, run: impl FnOnce(u32) -> u32) {
        let replied = self.stream.reply.is_some();
        self.paused = self.enter(map.as_slice(), body, run) != 0;
        self.held = map.filter(|_| self.paused);
        self.show_reply(replied);
    }

    /// A fresh reply passes the filter's own response callback.
    fn show_reply(&mut self, replied: bool) {
        if replied || self.stream.reply.is_none() {
            return;
        }
        let Some(reply) = &self.stream.reply else { return };
        let status = reply.status.to_string();
        let mut head = vec![(":status", status.as_str())];
        head.extend(reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        self.stream.maps[2] = entries(&head);
        let (count, calls) = (head.len(), std::mem::take(&mut self.calls));
        self.enter(&[2], None, |context| exports::proxy_on_response_headers(context, count, false));
        let headers = strings(&self.stream.maps[2]).into_iter().filter(|(name, _)| name != ":status").collect();
        if let Some(reply) = &mut self.stream.reply {
            reply.headers = headers;
        }
        self.calls = calls;
    }

    fn enter<T>(&mut self, maps: &[usize], body: Option<usize>, run: impl FnOnce(u32) -> T) -> T {
        with(|state| {
            std::mem::swap(&mut state.stream, &mut self.stream);
            (state.maps_open, state.body_open) = (maps.to_vec(), body);
            state.calls.clear();
        });
        let outcome = run(self.context);
        with(|state| {
            std::mem::swap(&mut state.stream, &mut self.stream);
            (state.maps_open, state.body_open) = (Vec::new(), None);
            self.calls = std::mem::take(&mut state.calls);
        });
        outcome
    }

    /// The next part of the request's body. While the filter pauses, parts add up.
    pub fn request_body(&mut self, part: &[u8], end: bool) -> &mut Self {
        let size = self.buffer(0, part);
        self.callback(None, Some(0), |context| exports::proxy_on_request_body(context, size, end));
        self
    }

    /// The request's trailers.
    pub fn request_trailers(&mut self, trailers: &[(&str, &str)]) -> &mut Self {
        self.stream.maps[1] = entries(trailers);
        let count = trailers.len();
        self.callback(Some(1), None, |context| exports::proxy_on_request_trailers(context, count));
        self
    }

    /// The head of the upstream's answer, with a body to follow.
    pub fn respond(&mut self, headers: &[(&str, &str)]) -> &mut Self {
        self.stream.maps[2] = entries(headers);
        let count = headers.len();
        self.callback(Some(2), None, |context| exports::proxy_on_response_headers(context, count, false));
        self
    }

    /// The next part of the response's body. While the filter pauses, parts add up.
    pub fn response_body(&mut self, part: &[u8], end: bool) -> &mut Self {
        let size = self.buffer(1, part);
        self.callback(None, Some(1), |context| exports::proxy_on_response_body(context, size, end));
        self
    }

    /// The response's trailers.
    pub fn response_trailers(&mut self, trailers: &[(&str, &str)]) -> &mut Self {
        self.stream.maps[3] = entries(trailers);
        let count = trailers.len();
        self.callback(Some(3), None, |context| exports::proxy_on_response_trailers(context, count));
        self
    }

    /// Callouts that wait for an answer, in the order in which they were sent.
    #[must_use]
    pub fn callouts(&self) -> &[SentCallout] {
        &self.stream.callouts
    }

    /// Answers the callout that was sent first; no headers at all are no answer (a timeout, a reset).
    ///
    /// # Panics
    /// There is none.
    pub fn answer(&mut self, headers: &[(&str, &str)], body: &str) -> &mut Self {
        let callout = self.stream.callouts.remove(0);
        let replied = self.stream.reply.is_some();
        self.stream.maps[6] = entries(headers);
        self.stream.bodies[4] = body.as_bytes().to_vec();
        self.stream.continued = None;
        let (root, maps) = (self.root, [Some(6), self.held]);
        let maps: Vec<usize> = maps.into_iter().flatten().collect();
        self.enter(&maps, Some(4), |_| {
            exports::proxy_on_http_call_response(root, callout.token, headers.len(), body.len(), 0);
        });
        if self.stream.continued.is_some() {
            (self.paused, self.held) = (false, None);
        }
        self.show_reply(replied);
        self
    }

    fn buffer(&mut self, index: usize, part: &[u8]) -> usize {
        if !self.paused {
            self.stream.bodies[index].clear();
        }
        self.stream.bodies[index].extend_from_slice(part);
        self.stream.bodies[index].len()
    }

    /// The filter's own reply.
    #[must_use]
    pub fn reply(&self) -> Option<&SentReply> {
        self.stream.reply.as_ref()
    }

    /// True if the last callback held the stream back.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// The hostcalls of the last callback, log lines not counted.
    #[must_use]
    pub fn calls(&self) -> &[&'static str] {
        &self.calls
    }

    /// The request's headers as they are now.
    #[must_use]
    pub fn request_headers(&self) -> Vec<(String, String)> {
        strings(&self.stream.maps[0])
    }

    /// Every value of a request header.
    #[must_use]
    pub fn request_header(&self, name: &str) -> Vec<String> {
        values(&self.request_headers(), name).into_iter().map(str::to_owned).collect()
    }

    /// The response's headers as they are now.
    #[must_use]
    pub fn response_headers(&self) -> Vec<(String, String)> {
        strings(&self.stream.maps[2])
    }

    /// Every value of a response header.
    #[must_use]
    pub fn response_header(&self, name: &str) -> Vec<String> {
        values(&self.response_headers(), name).into_iter().map(str::to_owned).collect()
    }

    /// The part of the request's body that the last callback left.
    #[must_use]
    pub fn request_bytes(&self) -> &[u8] {
        &self.stream.bodies[0]
    }

    /// The part of the response's body that the last callback left.
    #[must_use]
    pub fn response_bytes(&self) -> &[u8] {
        &self.stream.bodies[1]
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            exports::proxy_on_log(self.context);
            exports::proxy_on_done(self.context);
            exports::proxy_on_delete(self.context);
        }
    }
}

fn entries(headers: &[(&str, &str)]) -> Entries {
    headers.iter().map(|(name, value)| (name.to_lowercase(), value.as_bytes().to_vec())).collect()
}

fn strings(entries: &Entries) -> Vec<(String, String)> {
    entries.iter().map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned())).collect()
}
