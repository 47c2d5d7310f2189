//! Local replies: answers that a filter gives itself, errors as `application/problem+json` (RFC 9457).

use crate::abi::{self, HostError};
use crate::headers;

/// A reply to send instead of what would come next: from request headers or body nothing reaches the upstream, from
/// response headers it replaces the upstream's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    details: &'static str,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    grpc_status: Option<u8>,
}

impl Reply {
    /// A reply with a status, no header and no body. Hosts refuse what is no final status (200 to 599).
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, details: "", headers: Vec::new(), body: Vec::new(), grpc_status: None }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the body and its `content-type`.
    #[must_use]
    pub fn body(self, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let mut reply = self.header("content-type", content_type);
        reply.body = body.into();
        reply
    }

    /// What access logs show as `%RESPONSE_CODE_DETAILS%`: one word, no white space.
    #[must_use]
    pub fn details(mut self, details: &'static str) -> Self {
        self.details = details;
        self
    }

    /// The `grpc-status` that a gRPC client gets; without it the host derives one from the HTTP status.
    #[must_use]
    pub fn grpc_status(mut self, code: u8) -> Self {
        self.grpc_status = Some(code);
        self
    }

    pub(crate) fn send(&self) -> Result<(), HostError> {
        let pairs = self.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
        let grpc_status = self.grpc_status.map_or(-1, i32::from);
        abi::local_response(self.status, self.details, &self.body, &headers::serialize(pairs), grpc_status)
    }
}

/// The body of an error reply, RFC 9457. Members appear in the order `type`, `title`, `status`, `detail`, extensions.
#[derive(Clone, Debug)]
pub struct Problem {
    status: u16,
    type_uri: &'static str,
    title: &'static str,
    members: String,
}

impl Problem {
    /// A problem of no special type: its title is the status' own phrase.
    #[must_use]
    pub fn new(status: u16) -> Self {
        let title = match status {
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            413 => "Content Too Large",
            429 => "Too Many Requests",
            500 => "Internal Server Error",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            _ => "Error",
        };
        Self { status, type_uri: "about:blank", title, members: String::new() }
    }

    /// A problem of a registered or own type, with that type's title.
    #[must_use]
    pub fn of_type(status: u16, type_uri: &'static str, title: &'static str) -> Self {
        Self { status, type_uri, title, members: String::new() }
    }

    /// What happened to this request, for a human reader.
    #[must_use]
    pub fn detail(self, text: &str) -> Self {
        self.member("detail", text)
    }

    /// An extension member that is text.
    #[must_use]
    pub fn member(mut self, name: &str, text: &str) -> Self {
        self.name(name);
        push_json(&mut self.members, text);
        self
    }

    /// An extension member that is a list of texts.
    #[must_use]
    pub fn list<'a>(mut self, name: &str, texts: impl IntoIterator<Item = &'a str>) -> Self {
        self.name(name);
        self.members.push('[');
        for (at, text) in texts.into_iter().enumerate() {
            if at > 0 {
                self.members.push(',');
            }
            push_json(&mut self.members, text);
        }
        self.members.push(']');
        self
    }

    fn name(&mut self, name: &str) {
        self.members.push(',');
        push_json(&mut self.members, name);
        self.members.push(':');
    }

    /// The reply that carries it.
    #[must_use]
    pub fn reply(self) -> Reply {
        let Self { status, type_uri, title, members } = self;
        let body = format!("{{\"type\":\"{type_uri}\",\"title\":\"{title}\",\"status\":{status}{members}}}\n");
        Reply::new(status).body("application/problem+json", body)
    }
}

/// Adds a text as a JSON string.
fn push_json(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems() {
        for (problem, expected) in [
            (Problem::new(401), r#"{"type":"about:blank","title":"Unauthorized","status":401}"#),
            (Problem::new(418), r#"{"type":"about:blank","title":"Error","status":418}"#),
            (
                Problem::new(503).detail("a \"quoted\" \\ \u{1}"),
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"a \"quoted\" \\ \u0001"}"#,
            ),
            (
                Problem::of_type(429, "urn:x", "Slow")
                    .list("violated-policies", ["a", "b"])
                    .member("x", "y")
                    .list("z", []),
                r#"{"type":"urn:x","title":"Slow","status":429,"violated-policies":["a","b"],"x":"y","z":[]}"#,
            ),
        ] {
            let status = problem.status;
            let reply = problem.reply();
            assert_eq!(String::from_utf8(reply.body.clone()).unwrap(), format!("{expected}\n"));
            assert!(serde_json::from_slice::<serde_json::Value>(&reply.body).is_ok());
            assert_eq!(reply.status, status);
            assert_eq!(reply.headers, [("content-type", b"application/problem+json".to_vec())]);
        }
    }
}
