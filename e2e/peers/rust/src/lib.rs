//! The guest of the SDK tests in Rust: what it does by path is the table of `e2e/peers/README.md`.

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext, StreamContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MetricType, Status};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(50);

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Debug, Default)]
struct Root {
    word: String,
    queue: u32,
    requests: u32,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        self.word = String::from_utf8_lossy(&bytes).into_owned();
        if self.word != "tcp" {
            self.queue = self.register_shared_queue("jobs");
            self.set_tick_period(TICK);
        }
        match proxy_wasm::hostcalls::define_metric(MetricType::Counter, "guest_requests") {
            Ok(id) => self.requests = id,
            Err(_) => return false,
        }
        true
    }

    fn on_tick(&mut self) {
        count(self, "ticks");
    }

    fn on_queue_ready(&mut self, queue: u32) {
        while let Ok(Some(job)) = self.dequeue_shared_queue(queue) {
            // Without a compare: the last job wins.
            if self.set_shared_data("job", Some(&job), None).is_err() {
                return;
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(if self.word == "tcp" { ContextType::StreamContext } else { ContextType::HttpContext })
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http {
            word: self.word.clone(),
            queue: self.queue,
            requests: self.requests,
            path: String::new(),
            body: 0,
        }))
    }

    fn create_stream_context(&self, _id: u32) -> Option<Box<dyn StreamContext>> {
        Some(Box::new(Tcp))
    }
}

/// Adds one to a number in shared data, and tells it.
fn count(context: &impl Context, key: &str) -> u64 {
    loop {
        let (value, cas) = context.get_shared_data(key);
        let text = value.unwrap_or_default();
        let next = String::from_utf8_lossy(&text).parse::<u64>().unwrap_or_default() + 1;
        match context.set_shared_data(key, Some(next.to_string().as_bytes()), cas) {
            Err(Status::CasMismatch) => {}
            _ => return next,
        }
    }
}

fn shared(context: &impl Context, key: &str) -> String {
    context.get_shared_data(key).0.map_or_else(|| "none".to_owned(), |v| String::from_utf8_lossy(&v).into_owned())
}

#[derive(Debug)]
struct Http {
    word: String,
    queue: u32,
    requests: u32,
    path: String,
    /// Bytes of the response body so far.
    body: usize,
}

impl Http {
    fn text(&self, path: &[&str]) -> String {
        let value = self.get_property(path.to_vec()).unwrap_or_default();
        String::from_utf8_lossy(&value).into_owned()
    }

    fn call(&self) -> Action {
        let headers =
            vec![(":method", "POST"), (":path", "/callout"), (":authority", "callout"), ("x-origin", "status=201")];
        match self.dispatch_http_call("callout", headers, Some(b"ping"), vec![], CALL_TIMEOUT) {
            Ok(_) => Action::Pause,
            Err(_) => Action::Continue,
        }
    }

    fn properties(&self) {
        let source = self.text(&["source", "address"]);
        let host = source.rsplit_once(':').map_or("none", |(host, _)| host);
        let (method, path) = (self.text(&["request", "method"]), self.text(&["request", "path"]));
        let words = format!("{method} {path} {} {host}", self.text(&["plugin_name"]));
        self.add_http_request_header("x-property", &words);
    }
}

impl Context for Http {
    fn on_http_call_response(&mut self, _token: u32, _headers: usize, body: usize, _trailers: usize) {
        let status = self.get_http_call_response_header(":status").unwrap_or_default();
        let body = self.get_http_call_response_body(0, body).unwrap_or_default();
        self.add_http_request_header("x-callout", &format!("{status} {}", String::from_utf8_lossy(&body)));
        self.resume_http_request();
    }

    fn on_grpc_call_response(&mut self, _token: u32, status: u32, size: usize) {
        let message = self.get_grpc_call_response_body(0, size).unwrap_or_default();
        let words = if status == 0 { String::from_utf8_lossy(&message).into_owned() } else { status.to_string() };
        self.add_http_request_header("x-grpc", &words);
        self.resume_http_request();
    }
}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _headers: usize, _end: bool) -> Action {
        self.path = self.get_http_request_header(":path").unwrap_or_default();
        self.add_http_request_header("x-guest", "rust");
        if proxy_wasm::hostcalls::increment_metric(self.requests, 1).is_err() {
            log::error!("the counter is gone");
        }
        match self.path.split(['?', '/']).nth(1).unwrap_or_default() {
            "headers" => {
                self.set_http_request_header("x-replaced", Some("new"));
                self.remove_http_request_header("x-removed");
                self.add_http_request_header("x-added", "2");
            }
            "body" => self.remove_http_request_header("content-length"),
            "call" => return self.call(),
            "grpc" => {
                let sent = self.dispatch_grpc_call("grpc", "guest.Echo", "Say", vec![], Some(b"ping"), CALL_TIMEOUT);
                return if sent.is_ok() { Action::Pause } else { Action::Continue };
            }
            "local" => {
                self.send_http_response(418, vec![("x-local", "yes")], Some(b"short and stout"));
                return Action::Pause;
            }
            "shared" => self.add_http_request_header("x-shared", &count(self, "count").to_string()),
            "enqueue" if self.enqueue_shared_queue(self.queue, Some(b"job-1")).is_err() => {
                log::error!("the queue is gone");
            }
            "job" => {
                self.add_http_request_header("x-job", &shared(self, "job"));
                self.add_http_request_header("x-ticks", &shared(self, "ticks"));
            }
            "property" => self.properties(),
            _ => {}
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if !self.path.starts_with("/body") {
            return Action::Continue;
        }
        if !end {
            return Action::Pause;
        }
        let body = self.get_http_request_body(0, size).unwrap_or_default();
        self.set_http_request_body(0, size, &[b"[", &body[..], b"]"].concat());
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _headers: usize, _end: bool) -> Action {
        self.add_http_response_header("x-guest-response", &self.word);
        if self.path.starts_with("/body") {
            self.remove_http_response_header("content-length");
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        if !self.path.starts_with("/body") {
            return Action::Continue;
        }
        self.body = size;
        if !end {
            return Action::Pause;
        }
        let body = self.get_http_response_body(0, self.body).unwrap_or_default();
        self.set_http_response_body(0, self.body, &[b"{", &body[..], b"}"].concat());
        Action::Continue
    }
}

#[derive(Debug)]
struct Tcp;

impl Context for Tcp {}

impl StreamContext for Tcp {
    fn on_downstream_data(&mut self, size: usize, _end: bool) -> Action {
        if let Some(data) = self.get_downstream_data(0, size) {
            self.set_downstream_data(0, size, &data.to_ascii_uppercase());
        }
        Action::Continue
    }

    fn on_upstream_data(&mut self, size: usize, _end: bool) -> Action {
        if size > 0 {
            let data = self.get_upstream_data(0, size).unwrap_or_default();
            self.set_upstream_data(0, size, &[b"<", &data[..], b">"].concat());
        }
        Action::Continue
    }
}
