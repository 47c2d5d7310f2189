//! # api-key-auth
//!
//! Lets requests pass that carry a known API key, and answers all others with 401.
//!
//! ```json
//! {
//!   "header": "x-api-key",
//!   "keys": [
//!     {"name": "alice", "sha256": "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"},
//!     {"name": "alice", "sha256": "81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9"}
//!   ]
//! }
//! ```
//!
//! Keys are never in the configuration, only their SHA-256: `printf %s "$KEY" | sha256sum`. A fast hash is right for
//! keys that a machine made (128 random bits or more); it does not protect what a human thought up.
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `keys[].name` | required | who the key belongs to: 1 to 256 bytes that a header value may have. Several keys may have one name, so that a key can be rotated |
//! | `keys[].sha256` | required | SHA-256 of the key, 64 hexadecimal digits; no two keys may be the same |
//! | `header` | `"x-api-key"` | the request header with the key; `null`: none is looked at |
//! | `scheme` | none | the header's value is this word, a space and the key: `{"header": "authorization", "scheme": "Bearer"}`; its case does not matter |
//! | `query_param` | none | a query parameter that may carry the key instead, percent-encoded. Keys in URLs end up in logs: prefer the header |
//! | `forward_identity_header` | `"x-api-key-name"` | the upstream gets the key's name in it; what a client sends in it is removed always. `null`: nothing is sent |
//! | `hide_credentials` | `true` | the upstream does not get the key: header and query parameter are removed |
//! | `realm` | `"api"` | named in the challenge, `WWW-Authenticate: ApiKey realm="api"` (with `scheme`, that word in place of `ApiKey`) |
//!
//! At most 10,000 keys; an unknown field is refused, and so is an empty list, which would let nobody in.
//!
//! A request passes with exactly one key, in one place. A header or a parameter that is there twice, or a key in both
//! places, is refused, since the upstream might look at another one than this filter did. Keys longer than 4 KiB are
//! refused unread.
//!
//! A presented key is hashed, and its hash compared with *every* configured one without a branch, so that time tells
//! neither how much of a key was right nor which key it was.
//!
//! The 401 has a `application/problem+json` body that says whether a key was missing, given twice or unknown; gRPC
//! clients get `UNAUTHENTICATED`. Response code details are `api_key_missing`, `api_key_repeated`, `api_key_unknown`.
//! Counters: `api_key_auth_allowed`, `api_key_auth_denied`. Nothing of a key is ever logged.

mod credential;
mod keys;
mod query;

use std::rc::Rc;

use outrigger_filter_sdk::headers::{check_name, check_value};
use outrigger_filter_sdk::metric::Counter;
use outrigger_filter_sdk::{ConfigError, Flow, HostError, HttpFilter, Plugin, Problem, Request};
use serde::Deserialize;

use credential::{Denial, Source};
use keys::{KeyConfig, Keys};

/// The configuration, as the text above says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    keys: Vec<KeyConfig>,
    #[serde(default = "default_header")]
    header: Option<String>,
    scheme: Option<String>,
    query_param: Option<String>,
    #[serde(default = "default_identity_header")]
    forward_identity_header: Option<String>,
    #[serde(default = "default_hide_credentials")]
    hide_credentials: bool,
    #[serde(default = "default_realm")]
    realm: String,
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's own type")]
fn default_header() -> Option<String> {
    Some("x-api-key".to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's own type")]
fn default_identity_header() -> Option<String> {
    Some("x-api-key-name".to_owned())
}

fn default_hide_credentials() -> bool {
    true
}

fn default_realm() -> String {
    "api".to_owned()
}

/// The filter with a validated configuration.
#[derive(Debug)]
pub struct ApiKeyAuth {
    keys: Keys,
    source: Source,
    identity_header: Option<String>,
    hide_credentials: bool,
    challenge: String,
    allowed: Counter,
    denied: Counter,
}

impl Plugin for ApiKeyAuth {
    type Config = Config;
    type Stream = Stream;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let header = config.header.map(|name| header_name("header", &name)).transpose()?;
        let identity_header =
            config.forward_identity_header.map(|name| header_name("forward_identity_header", &name)).transpose()?;
        if header.is_some() && header == identity_header {
            return Err(ConfigError::at("forward_identity_header", "is the header that carries the key"));
        }
        let challenge = challenge(config.scheme.as_deref(), &config.realm)?;
        Ok(Self {
            keys: Keys::new(config.keys)?,
            source: Source::new(header, config.scheme, config.query_param)?,
            identity_header,
            hide_credentials: config.hide_credentials,
            challenge,
            allowed: Counter::define("api_key_auth_allowed"),
            denied: Counter::define("api_key_auth_denied"),
        })
    }

    fn stream(self: &Rc<Self>) -> Stream {
        Stream { auth: Rc::clone(self) }
    }
}

impl ApiKeyAuth {
    fn admit(&self, request: &Request) -> Result<Result<(), Denial>, HostError> {
        let headers = request.headers();
        let credential = match self.source.find(headers)? {
            Ok(credential) => credential,
            Err(denial) => return Ok(Err(denial)),
        };
        let Some(name) = self.keys.owner(credential.key()) else { return Ok(Err(Denial::Unknown)) };
        if let Some(identity_header) = &self.identity_header {
            headers.overwrite(identity_header, name)?;
        }
        if self.hide_credentials {
            credential.remove(headers)?;
        }
        Ok(Ok(()))
    }

    fn deny(&self, denial: Denial) -> Flow {
        let reply = Problem::new(401).detail(denial.detail()).reply();
        // 16 is gRPC's UNAUTHENTICATED.
        let reply = reply.header("www-authenticate", self.challenge.as_str()).details(denial.code()).grpc_status(16);
        Flow::Reply(reply)
    }
}

/// One stream of the filter.
#[derive(Debug)]
pub struct Stream {
    auth: Rc<ApiKeyAuth>,
}

impl HttpFilter for Stream {
    fn on_request_headers(&mut self, request: &mut Request) -> Result<Flow, HostError> {
        Ok(match self.auth.admit(request)? {
            Ok(()) => {
                self.auth.allowed.increment();
                Flow::Continue
            }
            Err(denial) => {
                self.auth.denied.increment();
                self.auth.deny(denial)
            }
        })
    }
}

outrigger_filter_sdk::register!(ApiKeyAuth);

fn header_name(field: &str, name: &str) -> Result<String, ConfigError> {
    check_name(name).map_err(|what| ConfigError::at(field, what))?;
    let name = name.to_ascii_lowercase();
    if ["connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"]
        .contains(&name.as_str())
    {
        return Err(ConfigError::at(field, format!("`{name}` belongs to the proxy")));
    }
    Ok(name)
}

/// The value of `WWW-Authenticate` (RFC 9110 §11.6.1).
fn challenge(scheme: Option<&str>, realm: &str) -> Result<String, ConfigError> {
    if let Some(scheme) = scheme {
        check_name(scheme).map_err(|what| ConfigError::at("scheme", what))?;
    }
    check_value(realm).map_err(|what| ConfigError::at("realm", what))?;
    let scheme = scheme.unwrap_or("ApiKey");
    Ok(format!("{scheme} realm=\"{}\"", realm.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests;
