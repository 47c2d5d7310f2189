//! Header names: lower-case tokens, the common ones interned so that a clone or a comparison costs nothing.

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

use crate::scan::find;

/// A field name, lower case (RFC 9110 §5.1; HTTP/2 requires lower case, HTTP/1 ignores case).
#[derive(Clone)]
pub struct HeaderName(Repr);

#[derive(Clone)]
enum Repr {
    Known(Known),
    /// Checked at construction: lower-case token bytes only, hence ASCII.
    Custom(Bytes),
}

/// Not a token of RFC 9110 §5.6.2, or longer than [`HeaderName::LEN_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid header name")]
pub struct InvalidName;

macro_rules! known {
    ($($constant:ident $variant:ident $text:literal)*) => {
        /// The interned names, for `match`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known { $($variant),* }

        const TEXTS: &[&str] = &[$($text),*];
        static STARTS: &[[u8; START_BYTES]] = &[$(line_start($text)),*];

        impl HeaderName {
            $(#[doc = concat!("`", $text, "`")] pub const $constant: HeaderName = HeaderName(Repr::Known(Known::$variant));)*
        }

        /// The interned name that bytes without control characters are, in whatever case.
        fn lookup(token: &[u8]) -> Option<Known> {
            $(const $constant: Key = key($text.as_bytes());)*
            let known = match key(token) { $($constant => Known::$variant,)* _ => return None };
            let is_known = token.len() <= KEY_BYTES || token.eq_ignore_ascii_case(TEXTS[known as usize].as_bytes());
            is_known.then_some(known)
        }
    };
}

known! {
    ACCEPT Accept "accept"
    ACCEPT_ENCODING AcceptEncoding "accept-encoding"
    ACCEPT_LANGUAGE AcceptLanguage "accept-language"
    AGE Age "age"
    ALLOW Allow "allow"
    AUTHORIZATION Authorization "authorization"
    CACHE_CONTROL CacheControl "cache-control"
    CONNECTION Connection "connection"
    CONTENT_ENCODING ContentEncoding "content-encoding"
    CONTENT_LENGTH ContentLength "content-length"
    CONTENT_TYPE ContentType "content-type"
    COOKIE Cookie "cookie"
    DATE Date "date"
    ETAG Etag "etag"
    EXPECT Expect "expect"
    FORWARDED Forwarded "forwarded"
    GRPC_ACCEPT_ENCODING GrpcAcceptEncoding "grpc-accept-encoding"
    GRPC_MESSAGE GrpcMessage "grpc-message"
    GRPC_STATUS GrpcStatus "grpc-status"
    GRPC_TIMEOUT GrpcTimeout "grpc-timeout"
    HOST Host "host"
    HTTP2_SETTINGS Http2Settings "http2-settings"
    IF_MODIFIED_SINCE IfModifiedSince "if-modified-since"
    IF_NONE_MATCH IfNoneMatch "if-none-match"
    KEEP_ALIVE KeepAlive "keep-alive"
    LAST_MODIFIED LastModified "last-modified"
    LOCATION Location "location"
    ORIGIN Origin "origin"
    PROXY_CONNECTION ProxyConnection "proxy-connection"
    RANGE Range "range"
    REFERER Referer "referer"
    RETRY_AFTER RetryAfter "retry-after"
    SERVER Server "server"
    SET_COOKIE SetCookie "set-cookie"
    TE Te "te"
    TRAILER Trailer "trailer"
    TRANSFER_ENCODING TransferEncoding "transfer-encoding"
    UPGRADE Upgrade "upgrade"
    USER_AGENT UserAgent "user-agent"
    VARY Vary "vary"
    VIA Via "via"
    WWW_AUTHENTICATE WwwAuthenticate "www-authenticate"
    X_B3_TRACEID XB3TraceId "x-b3-traceid"
    X_ENVOY_ATTEMPT_COUNT XEnvoyAttemptCount "x-envoy-attempt-count"
    X_ENVOY_DECORATOR_OPERATION XEnvoyDecoratorOperation "x-envoy-decorator-operation"
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS XEnvoyExpectedRqTimeoutMs "x-envoy-expected-rq-timeout-ms"
    X_ENVOY_EXTERNAL_ADDRESS XEnvoyExternalAddress "x-envoy-external-address"
    X_ENVOY_INTERNAL XEnvoyInternal "x-envoy-internal"
    X_ENVOY_ORIGINAL_HOST XEnvoyOriginalHost "x-envoy-original-host"
    X_ENVOY_ORIGINAL_PATH XEnvoyOriginalPath "x-envoy-original-path"
    X_ENVOY_RATELIMITED XEnvoyRatelimited "x-envoy-ratelimited"
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS XEnvoyUpstreamRqPerTryTimeoutMs "x-envoy-upstream-rq-per-try-timeout-ms"
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS XEnvoyUpstreamRqTimeoutMs "x-envoy-upstream-rq-timeout-ms"
    X_ENVOY_UPSTREAM_SERVICE_TIME XEnvoyUpstreamServiceTime "x-envoy-upstream-service-time"
    X_FORWARDED_CLIENT_CERT XForwardedClientCert "x-forwarded-client-cert"
    X_FORWARDED_FOR XForwardedFor "x-forwarded-for"
    X_FORWARDED_HOST XForwardedHost "x-forwarded-host"
    X_FORWARDED_PROTO XForwardedProto "x-forwarded-proto"
    X_REQUEST_ID XRequestId "x-request-id"
    TRACEPARENT Traceparent "traceparent"
    TRACESTATE Tracestate "tracestate"
    B3 B3 "b3"
    X_B3_FLAGS XB3Flags "x-b3-flags"
    X_B3_PARENTSPANID XB3ParentSpanId "x-b3-parentspanid"
    X_B3_SAMPLED XB3Sampled "x-b3-sampled"
    X_B3_SPANID XB3SpanId "x-b3-spanid"
    X_CLIENT_TRACE_ID XClientTraceId "x-client-trace-id"
    X_ENVOY_FORCE_TRACE XEnvoyForceTrace "x-envoy-force-trace"
}

/// A byte that may stand in a token (RFC 9110 §5.6.2).
#[must_use]
pub const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "byte < 256")]
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

/// Length and bytes of a token, without their case: the bit that tells letters' case is set in all other bytes of interned
/// names, and nothing else but control characters, which nobody looks up, becomes one of them by it.
type Key = (usize, u64, u64);

/// All bytes of a token up to this length are in its key; of a longer one the first, the middle and the last eight.
const KEY_BYTES: usize = 16;

const fn key(token: &[u8]) -> Key {
    const CASE: u64 = 0x2020_2020_2020_2020;
    let length = token.len();
    if let (Some(first), Some(last)) = (token.first_chunk(), token.last_chunk()) {
        let mut rest = u64::from_le_bytes(*last) | CASE;
        if length > KEY_BYTES
            && let Some(middle) = token.split_at(length / 2 - 4).1.first_chunk()
        {
            rest ^= (u64::from_le_bytes(*middle) | CASE).rotate_left(1);
        }
        return (length, u64::from_le_bytes(*first) | CASE, rest);
    }
    let mut word = 0;
    let mut at = 0;
    while at < length {
        word = word << 8 | token[at] as u64;
        at += 1;
    }
    (length, word | CASE, 0)
}

/// So many bytes hold the start of a line with any interned name, and then some.
const START_BYTES: usize = 48;

const fn line_start(name: &str) -> [u8; START_BYTES] {
    let name = name.as_bytes();
    let mut start = [0; START_BYTES];
    let mut at = 0;
    while at < name.len() {
        start[at] = name[at];
        at += 1;
    }
    start[at] = b':';
    start[at + 1] = b' ';
    start
}

impl HeaderName {
    /// No name is longer than this many bytes.
    pub const LEN_MAX: usize = 16 * 1024;

    /// A name from bytes of any case.
    pub fn from_bytes(bytes: &[u8]) -> Result<HeaderName, InvalidName> {
        check(bytes)?;
        Ok(HeaderName(match lookup(bytes) {
            Some(known) => Repr::Known(known),
            None => Repr::Custom(bytes.to_ascii_lowercase().into()),
        }))
    }

    /// The name that begins at a place of a head, and where it ends: at a colon, a blank or a control character. It shares
    /// the head's bytes, unless it is interned or holds upper case.
    pub fn read(head: &Bytes, start: usize) -> Result<(HeaderName, usize), InvalidName> {
        let end = find::<0x21, b':'>(head, start).unwrap_or(head.len());
        let token = &head[start..end];
        if let Some(known) = lookup(token) {
            return Ok((HeaderName(Repr::Known(known)), end));
        }
        check(token)?;
        let name = match token.iter().any(u8::is_ascii_uppercase) {
            true => token.to_ascii_lowercase().into(),
            false => head.slice(start..end),
        };
        Ok((HeaderName(Repr::Custom(name)), end))
    }

    /// Which interned name it is.
    #[must_use]
    pub const fn known(&self) -> Option<Known> {
        match &self.0 {
            Repr::Known(known) => Some(*known),
            Repr::Custom(_) => None,
        }
    }

    /// How a field's line starts, with the colon and a blank, of an interned name; what follows so many bytes is padding.
    #[must_use]
    pub fn line_start(&self) -> Option<(&'static [u8; START_BYTES], usize)> {
        let known = self.known()? as usize;
        Some((&STARTS[known], TEXTS[known].len() + 2))
    }

    /// The name, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(known) => TEXTS[*known as usize],
            Repr::Custom(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        }
    }

    /// The name's bytes, lower case.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Known(known) => TEXTS[*known as usize].as_bytes(),
            Repr::Custom(bytes) => bytes,
        }
    }

    /// Fields that belong to one connection and are never forwarded (RFC 9110 §7.6.1).
    #[must_use]
    pub fn is_hop_by_hop(&self) -> bool {
        matches!(
            self.0,
            Repr::Known(
                Known::Connection
                    | Known::KeepAlive
                    | Known::ProxyConnection
                    | Known::TransferEncoding
                    | Known::Upgrade
                    | Known::Te
                    | Known::Http2Settings
            )
        )
    }
}

fn check(bytes: &[u8]) -> Result<(), InvalidName> {
    let valid =
        !bytes.is_empty() && bytes.len() <= HeaderName::LEN_MAX && bytes.iter().all(|byte| is_token_byte(*byte));
    if valid { Ok(()) } else { Err(InvalidName) }
}

impl PartialEq for HeaderName {
    #[inline]
    fn eq(&self, other: &HeaderName) -> bool {
        match (&self.0, &other.0) {
            (Repr::Known(a), Repr::Known(b)) => *a as u8 == *b as u8,
            (Repr::Custom(a), Repr::Custom(b)) => a == b,
            // Construction interns, so a known name is never custom.
            _ => false,
        }
    }
}

impl Eq for HeaderName {}

impl Hash for HeaderName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for HeaderName {
    fn partial_cmp(&self, other: &HeaderName) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeaderName {
    fn cmp(&self, other: &HeaderName) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_tokens() {
        let check = |input: &[u8], expected: Option<&str>| {
            let found = HeaderName::from_bytes(input).ok();
            assert_eq!(found.as_ref().map(HeaderName::as_str), expected, "{input:?}");
            let line = Bytes::from([b" ", input, b": value"].concat());
            let read = HeaderName::read(&line, 1).ok().filter(|(_, end)| *end == input.len() + 1);
            assert_eq!(read.map(|(name, _)| name), found, "{input:?}");
        };
        check(b"Content-Length", Some("content-length"));
        check(b"X-Custom_Thing", Some("x-custom_thing"));
        check(b"x-a-name-that-is-longer-than-thirty-two-Bytes", Some("x-a-name-that-is-longer-than-thirty-two-bytes"));
        for bad in [&b""[..], b"a b", b"a:", b":path", b"a\r", b"a\n", b"a\0", "\u{e9}".as_bytes()] {
            check(bad, None);
        }
        check(&vec![b'a'; HeaderName::LEN_MAX + 1], None);
    }

    #[test]
    fn known_names_are_interned() {
        for text in TEXTS {
            let name = HeaderName::from_bytes(text.as_bytes()).expect("known names are tokens");
            assert!(matches!(name.0, Repr::Known(_)), "{text}");
            assert_eq!(name.as_str(), *text);
            let (start, length) = name.line_start().expect("it is interned");
            assert_eq!(&start[..length], format!("{text}: ").as_bytes());
            assert_eq!(HeaderName::from_bytes(text.to_ascii_uppercase().as_bytes()).as_ref(), Ok(&name));
            // One byte of it is another one.
            for at in 0..text.len() {
                for byte in 0..=u8::MAX {
                    let mut other = text.as_bytes().to_vec();
                    other[at] = byte;
                    let same = other.eq_ignore_ascii_case(text.as_bytes());
                    let found = HeaderName::from_bytes(&other).is_ok_and(|found| found == name);
                    assert_eq!(found, same, "{text} {at} {byte}");
                    let read = HeaderName::read(&[&other[..], b":"].concat().into(), 0);
                    let found = read.is_ok_and(|(found, end)| found == name && end == text.len());
                    assert_eq!(found, same, "{text} {at} {byte}");
                }
            }
        }
    }
}
