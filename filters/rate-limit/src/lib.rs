//! # rate-limit
//!
//! Lets so many requests pass in a time, for each value of a header, for each client address or in all, and answers
//! those above it with 429.
//!
//! ```json
//! {
//!   "limits": [
//!     {"name": "per-client", "key": {"client_address": true}, "requests": 20, "per": "1s", "burst": 40},
//!     {"name": "per-team", "key": {"header": "x-api-key-name"}, "requests": 1000, "per": "1m"},
//!     {"name": "all", "requests": 5000, "per": "1s"}
//!   ]
//! }
//! ```
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `limits` | required | 1 to 8 limits; a request passes if each of them lets it |
//! | `limits[].name` | required | 1 to 64 letters, digits, `-`, `_`, `.`; names the limit to clients; no two are the same |
//! | `limits[].requests`, `.per` | required | so many requests in so long: `per` is a whole number of `s`, `m`, `h` or `d`, at most `31d`; at most 1,000,000 a second |
//! | `limits[].burst` | `requests` | so many at once after a pause, i.e. the bucket's size; at most what refills in a year |
//! | `limits[].key` | none | one bucket for each value of the key; without it one for all requests |
//! | `limits[].key.header` | | the key is this request header (its first entry; values that differ in case differ) |
//! | `limits[].key.missing` | `"share"` | requests without the header: `share` one bucket, or `skip` this limit |
//! | `limits[].key.client_address` | | `true`: the key is the client's address without its port, as the proxy knows it (trusted `x-forwarded-for` hops included) |
//! | `limits[].key.ipv6_prefix` | `64` | so many bits of an IPv6 address count, since a client has a whole network of them |
//! | `limits[].max_keys` | `65536` | so many keys are told apart at the same time, 4 to 1,048,576 |
//! | `response_headers` | `true` | responses carry `RateLimit` and `RateLimit-Policy` |
//! | `on_failure` | `"allow"` | what to do where the buckets cannot be read or written: `allow` (count and log it), or `deny` with 503 |
//!
//! An unknown field is refused.
//!
//! **Buckets** are token buckets that refill steadily: `{"requests": 60, "per": "1m"}` is one more each second. They lie
//! in the proxy's shared data, so all workers use the same ones; two proxies each have their own. A bucket is 16 bytes,
//! keys are hashed, and four buckets share an entry, so a limit takes at most about 25 bytes for each of its
//! `max_keys`, whatever clients send. Beyond that the bucket that is nearest to full is forgotten; full buckets need no
//! place at all. A limit that is changed in any of its fields starts with full buckets, and so does a proxy.
//!
//! A request that one limit refuses takes nothing from the others.
//!
//! **Replies**: 429 with `Retry-After` in seconds, a `application/problem+json` body of the registered type
//! `quota-exceeded` that lists the `violated-policies`, and the fields of the IETF draft *RateLimit header fields for
//! HTTP*, which successful responses carry as well:
//!
//! ```text
//! RateLimit-Policy: "per-client";q=20;w=1;burst=40, "all";q=5000;w=1
//! RateLimit: "per-client";r=37;t=1, "all";r=4321;t=1
//! ```
//!
//! `q` requests in `w` seconds (`burst` only where it differs from `q`); `r` are left now, and in `t` seconds the bucket is
//! full again; in a 429 `r` is 0 and `t` what `Retry-After` says. gRPC clients get `RESOURCE_EXHAUSTED`.
//!
//! Response code details: `rate_limited`, `rate_limit_unavailable`. Counters: `rate_limit_allowed`, `rate_limit_denied`,
//! `rate_limit_errors`. A limit costs two hostcalls and its key one; with several limits each costs one more.

mod bucket;
mod config;
mod fields;
mod limit;
mod store;

use std::cell::Cell;
use std::rc::Rc;

use outrigger_filter_sdk::metric::Counter;
use outrigger_filter_sdk::shared::UpdateError;
use outrigger_filter_sdk::{
    ConfigError, Flow, Headers, HostError, HttpFilter, Plugin, Problem, Reply, Request, Response, clock, log, property,
};

use bucket::{Left, Wait};
pub use config::Config;
use config::OnFailure;
use limit::Limit;

/// gRPC's RESOURCE_EXHAUSTED and UNAVAILABLE.
const GRPC_RESOURCE_EXHAUSTED: u8 = 8;
const GRPC_UNAVAILABLE: u8 = 14;

/// The filter with a validated configuration.
#[derive(Debug)]
pub struct RateLimit {
    limits: Vec<Limit>,
    /// The value of `RateLimit-Policy`.
    policies: String,
    response_headers: bool,
    on_failure: OnFailure,
    allowed: Counter,
    denied: Counter,
    errors: Counter,
    /// When a failure was logged last, in seconds: the host's log is not to be flooded.
    logged_at: Cell<u64>,
}

impl Plugin for RateLimit {
    type Config = Config;
    type Stream = Stream;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let plugin = property::plugin_name().unwrap_or_default();
        let limits = config.limits(&plugin)?;
        Ok(Self {
            policies: fields::policies(&limits),
            limits,
            response_headers: config.response_headers,
            on_failure: config.on_failure,
            allowed: Counter::define("rate_limit_allowed"),
            denied: Counter::define("rate_limit_denied"),
            errors: Counter::define("rate_limit_errors"),
            logged_at: Cell::new(0),
        })
    }

    fn stream(self: &Rc<Self>) -> Stream {
        Stream { plugin: Rc::clone(self), left: None }
    }
}

/// What the limits say to a request.
enum Decision {
    /// The value of `RateLimit`, empty if no limit applies.
    Allow(String),
    Deny(Vec<(usize, Wait)>),
}

impl RateLimit {
    fn decide(&self, headers: Headers) -> Result<Decision, UpdateError> {
        let now = clock::since_epoch()?;
        let mut applying = Vec::with_capacity(self.limits.len());
        for (at, limit) in self.limits.iter().enumerate() {
            if let Some(key) = limit.key(headers)? {
                applying.push((at, limit, key));
            }
        }
        if applying.len() > 1 {
            // First whether each would let it pass, so that none is charged for what another refuses.
            let mut refused = Vec::new();
            for (at, limit, key) in &applying {
                if let Err(wait) = limit.peek(*key, now)? {
                    refused.push((*at, wait));
                }
            }
            if !refused.is_empty() {
                return Ok(Decision::Deny(refused));
            }
        }
        let mut left: Vec<(&str, Left)> = Vec::with_capacity(applying.len());
        for (at, limit, key) in applying {
            match limit.take(key, now)? {
                Ok(after) => left.push((limit.name(), after)),
                Err(wait) => return Ok(Decision::Deny(vec![(at, wait)])),
            }
        }
        Ok(Decision::Allow(if self.response_headers { fields::left(&left) } else { String::new() }))
    }

    fn refuse(&self, refused: &[(usize, Wait)]) -> Reply {
        let named: Vec<(&str, Wait)> =
            refused.iter().filter_map(|(at, wait)| self.limits.get(*at).map(|limit| (limit.name(), *wait))).collect();
        let seconds = named.iter().map(|(_, wait)| wait.seconds()).max().unwrap_or(1);
        let reply = Problem::of_type(
            429,
            "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "Request cannot be satisfied as assigned quota has been exceeded",
        )
        .detail(&format!("Try again in {seconds} s."))
        .list("violated-policies", named.iter().map(|(name, _)| *name))
        .reply()
        .header("retry-after", seconds.to_string())
        .details("rate_limited")
        .grpc_status(GRPC_RESOURCE_EXHAUSTED);
        if self.response_headers {
            reply.header("ratelimit-policy", self.policies.as_str()).header("ratelimit", fields::refused(&named))
        } else {
            reply
        }
    }

    /// The buckets could not be asked.
    fn failed(&self, error: UpdateError) -> Flow {
        self.errors.increment();
        let second = clock::since_epoch().map_or(0, |now| now.as_secs());
        if self.logged_at.replace(second) != second {
            let outcome = match self.on_failure {
                OnFailure::Allow => "allowed",
                OnFailure::Deny => "denied",
            };
            log::warn(&format!("requests are {outcome} uncounted: {error}"));
        }
        match self.on_failure {
            OnFailure::Allow => Flow::Continue,
            OnFailure::Deny => Flow::Reply(
                Problem::new(503)
                    .detail("The rate limit cannot be checked.")
                    .reply()
                    .header("retry-after", "1")
                    .details("rate_limit_unavailable")
                    .grpc_status(GRPC_UNAVAILABLE),
            ),
        }
    }
}

/// One stream of the filter.
#[derive(Debug)]
pub struct Stream {
    plugin: Rc<RateLimit>,
    /// What the response's `RateLimit` says.
    left: Option<String>,
}

impl HttpFilter for Stream {
    fn on_request_headers(&mut self, request: &mut Request) -> Result<Flow, HostError> {
        Ok(match self.plugin.decide(request.headers()) {
            Ok(Decision::Allow(left)) => {
                self.plugin.allowed.increment();
                self.left = Some(left).filter(|left| !left.is_empty());
                Flow::Continue
            }
            Ok(Decision::Deny(refused)) => {
                self.plugin.denied.increment();
                Flow::Reply(self.plugin.refuse(&refused))
            }
            Err(error) => self.plugin.failed(error),
        })
    }

    fn on_response_headers(&mut self, response: &mut Response) -> Result<Flow, HostError> {
        if let Some(left) = self.left.take() {
            // Both are lists: an upstream's own entries stay beside ours.
            response.headers().add("ratelimit-policy", &self.plugin.policies)?;
            response.headers().add("ratelimit", left)?;
        }
        Ok(Flow::Continue)
    }
}

outrigger_filter_sdk::register!(RateLimit);

#[cfg(test)]
mod tests;
