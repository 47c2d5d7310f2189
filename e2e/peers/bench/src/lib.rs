//! The guest of `cargo xtask bench wasm`. Its configuration is one word:
//!
//! | word | what it does with each request |
//! |---|---|
//! | `nop` | nothing |
//! | `read` | reads every piece of the response body |
//! | `replace` | waits for the whole response body, reads it and puts other bytes of the same length there |
//! | `properties` | reads eight properties |
//! | `call` | asks the cluster `origin` first |
//! | `spin` | never returns |

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const PROPERTIES: [&[&str]; 8] = [
    &["request", "path"],
    &["request", "method"],
    &["request", "host"],
    &["request", "headers", "user-agent"],
    &["source", "address"],
    &["destination", "port"],
    &["connection", "id"],
    &["plugin_name"],
];

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::new(Root { job: Job::Nop }));
}}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Nop,
    Read,
    Replace,
    Properties,
    Call,
    Spin,
}

#[derive(Debug)]
struct Root {
    job: Job,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        self.job = match self.get_plugin_configuration().unwrap_or_default().as_slice() {
            b"nop" => Job::Nop,
            b"read" => Job::Read,
            b"replace" => Job::Replace,
            b"properties" => Job::Properties,
            b"call" => Job::Call,
            b"spin" => Job::Spin,
            _ => return false,
        };
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http { job: self.job, bytes: 0 }))
    }
}

#[derive(Debug)]
struct Http {
    job: Job,
    bytes: usize,
}

impl Context for Http {
    fn on_http_call_response(&mut self, _token: u32, _headers: usize, _body: usize, _trailers: usize) {
        self.resume_http_request();
    }
}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _headers: usize, _end: bool) -> Action {
        match self.job {
            Job::Properties => {
                self.bytes = PROPERTIES
                    .iter()
                    .filter_map(|path| self.get_property(path.to_vec()))
                    .map(|value| value.len())
                    .sum();
                Action::Continue
            }
            Job::Call => {
                let headers = vec![(":method", "GET"), (":path", "/"), (":authority", "origin")];
                match self.dispatch_http_call("origin", headers, None, vec![], CALL_TIMEOUT) {
                    Ok(_) => Action::Pause,
                    Err(_) => Action::Continue,
                }
            }
            Job::Spin => loop {
                self.bytes = std::hint::black_box(self.bytes.wrapping_add(1));
            },
            Job::Nop | Job::Read | Job::Replace => Action::Continue,
        }
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        match self.job {
            Job::Read => {
                self.bytes += self.get_http_response_body(0, size).map_or(0, |piece| piece.len());
                Action::Continue
            }
            Job::Replace if !end => Action::Pause,
            Job::Replace => {
                let mut body = self.get_http_response_body(0, size).unwrap_or_default();
                body.reverse();
                self.set_http_response_body(0, size, &body);
                Action::Continue
            }
            _ => Action::Continue,
        }
    }
}
