//! The heads of a request and of a response.

use std::fmt;

use bytes::Bytes;

use crate::Headers;

/// The protocol version that a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

impl Version {
    /// As Envoy's `%PROTOCOL%` and the property `request.protocol` say it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
    }
}

/// A request method: any token (RFC 9110 §9.1).
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other(Bytes),
}

impl Method {
    /// A method from token bytes; `None` where they are no token.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Method> {
        Some(match bytes {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"CONNECT" => Method::Connect,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PATCH" => Method::Patch,
            _ if !bytes.is_empty() && bytes.iter().all(|byte| crate::is_token_byte(*byte)) => {
                Method::Other(Bytes::copy_from_slice(bytes))
            }
            _ => return None,
        })
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Method::Get => b"GET",
            Method::Head => b"HEAD",
            Method::Post => b"POST",
            Method::Put => b"PUT",
            Method::Delete => b"DELETE",
            Method::Connect => b"CONNECT",
            Method::Options => b"OPTIONS",
            Method::Trace => b"TRACE",
            Method::Patch => b"PATCH",
            Method::Other(bytes) => bytes,
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `:scheme`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// A request's head. `host` is never among the headers: it is [`RequestHead::authority`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub method: Method,
    pub scheme: Scheme,
    /// `:authority`, or the Host header; may be empty for HTTP/1.0.
    pub authority: Bytes,
    /// `:path`: origin form with the query, `*` for OPTIONS, empty for CONNECT.
    pub path: Bytes,
    pub version: Version,
    pub headers: Headers,
}

impl Default for RequestHead {
    fn default() -> RequestHead {
        RequestHead {
            method: Method::Get,
            scheme: Scheme::Http,
            authority: Bytes::new(),
            path: Bytes::from_static(b"/"),
            version: Version::Http11,
            headers: Headers::new(),
        }
    }
}

impl RequestHead {
    /// Calls `each` with every entry, pseudo headers first, in Envoy's order.
    pub fn for_each_entry(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        if !self.authority.is_empty() {
            each(b":authority", &self.authority);
        }
        if !self.path.is_empty() {
            each(b":path", &self.path);
        }
        each(b":method", self.method.as_bytes());
        each(b":scheme", self.scheme.as_str().as_bytes());
        self.headers.iter().for_each(|(name, value)| each(name.as_bytes(), value));
    }

    /// The path without the query.
    #[must_use]
    pub fn path_only(&self) -> &[u8] {
        self.path.split(|byte| *byte == b'?').next().unwrap_or_default()
    }

    /// The query without its question mark; `None` where there is none.
    #[must_use]
    pub fn query(&self) -> Option<&[u8]> {
        let at = self.path.iter().position(|byte| *byte == b'?')?;
        Some(&self.path[at + 1..])
    }
}

/// A response's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// 100..=599 from a peer; a codec refuses the rest.
    pub status: u16,
    pub version: Version,
    pub headers: Headers,
}

impl ResponseHead {
    #[must_use]
    pub const fn new(status: u16) -> ResponseHead {
        ResponseHead { status, version: Version::Http11, headers: Headers::new() }
    }

    /// Calls `each` with every entry, `:status` first.
    pub fn for_each_entry(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        each(b":status", self.status.to_string().as_bytes());
        self.headers.iter().for_each(|(name, value)| each(name.as_bytes(), value));
    }
}
