//! From bytes to heads.

use std::ops::Range;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::{memchr_iter, memmem};
use outrigger_http::{HeaderName, Headers, Known, Method, RequestHead, ResponseHead, Scheme, Version};

use super::lines::{Lines, Malformed};

/// Bounds on a head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    pub(crate) bytes_max: usize,
    pub(crate) headers_max: usize,
    /// HTTP/1.0 is answered with 426 unless this is set.
    pub(crate) accept_http_10: bool,
}

/// Why a head is refused. The text goes to the access log (`RESPONSE_CODE_DETAILS`), never to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("http1.codec_error")]
    Malformed,
    #[error("http1.bare_cr_or_lf")]
    BareLineBreak,
    #[error("request_headers_too_large")]
    TooLarge,
    #[error("request_headers_count_exceeded")]
    TooManyHeaders,
    #[error("http1.invalid_url")]
    InvalidTarget,
    #[error("http1.invalid_host")]
    InvalidHost,
    #[error("http1.content_length_invalid")]
    InvalidContentLength,
    #[error("http1.content_length_and_chunked_not_allowed")]
    ConflictingLengths,
    #[error("http1.invalid_transfer_encoding")]
    UnsupportedTransferEncoding,
    #[error("low_version")]
    LowVersion,
    #[error("http1.invalid_status")]
    InvalidStatus,
    /// The head took too long to come.
    #[error("request_header_timeout")]
    Timeout,
}

impl From<Malformed> for HeadError {
    fn from(_: Malformed) -> HeadError {
        HeadError::Malformed
    }
}

impl HeadError {
    /// The status that a client gets.
    pub(crate) const fn status(self) -> u16 {
        match self {
            HeadError::TooLarge | HeadError::TooManyHeaders => 431,
            HeadError::UnsupportedTransferEncoding => 501,
            HeadError::LowVersion => 426,
            HeadError::Timeout => 408,
            _ => 400,
        }
    }
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    None,
    Length(u64),
    Chunked,
    /// Responses only: until the connection closes.
    UntilClose,
}

#[derive(Debug)]
pub(crate) struct ParsedRequest {
    pub(crate) head: RequestHead,
    pub(crate) body: BodyLength,
    pub(crate) keep_alive: bool,
    pub(crate) expect_continue: bool,
    /// The `Upgrade` header's value, where `Connection` names it.
    pub(crate) upgrade: Option<Bytes>,
    pub(crate) head_bytes: usize,
    /// Of its fields, with their colons and line ends.
    pub(crate) field_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct ParsedResponse {
    pub(crate) head: ResponseHead,
    pub(crate) body: BodyLength,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: Option<Bytes>,
    pub(crate) head_bytes: usize,
    pub(crate) field_bytes: usize,
}

/// Looks for the end of a head, each byte once, however small the pieces come.
#[derive(Debug, Default)]
pub(crate) struct HeadScan {
    scanned: usize,
    /// The one empty line before a request has been skipped.
    skipped: bool,
}

impl HeadScan {
    /// Takes the bytes of a whole head out of the buffer.
    fn take(&mut self, buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, HeadError> {
        let from = self.scanned.saturating_sub(3);
        let Some(found) = END.find(&buffer[from..]) else {
            // Whoever ends lines otherwise waits for an answer, not with more bytes.
            if has_bare_line_feed(buffer, self.scanned) {
                return Err(HeadError::BareLineBreak);
            }
            self.scanned = buffer.len();
            return if buffer.len() >= bytes_max { Err(HeadError::TooLarge) } else { Ok(None) };
        };
        let end = from + found + 4;
        if end > bytes_max {
            return Err(HeadError::TooLarge);
        }
        *self = HeadScan::default();
        Ok(Some(buffer.split_to(end).freeze()))
    }
}

/// Fields that there is room for without another allocation, those included that the proxy adds.
const HEADERS_USUAL: usize = 12;
/// Names that `Connection` may take with it.
const NOMINATED_MAX: usize = 128;

/// The end of a head.
static END: LazyLock<memmem::Finder<'_>> = LazyLock::new(|| memmem::Finder::new(b"\r\n\r\n"));

/// Whether a line feed from a place on has no carriage return before it.
fn has_bare_line_feed(bytes: &[u8], from: usize) -> bool {
    memchr_iter(b'\n', &bytes[from..]).any(|at| !bytes[..from + at].ends_with(b"\r"))
}

/// Parses a request's head out of the buffer; `None`: more bytes are needed.
pub(crate) fn parse_request(
    buffer: &mut BytesMut,
    scan: &mut HeadScan,
    limits: HeadLimits,
) -> Result<Option<ParsedRequest>, HeadError> {
    // An empty line before the request line is skipped (RFC 9112 §2.2), one for each message, however its bytes come.
    if buffer.first() == Some(&b'\r') {
        match buffer.get(1) {
            None if !scan.skipped => return Ok(None),
            Some(b'\n') if !scan.skipped => {
                scan.skipped = true;
                _ = buffer.split_to(2);
                return parse_request(buffer, scan, limits);
            }
            _ => return Err(HeadError::Malformed),
        }
    }
    let Some(head) = scan.take(buffer, limits.bytes_max)? else { return Ok(None) };
    let request = read_request(&head, limits);
    request.map(Some).map_err(|error| refusal(&head, error, |lines| request_line(lines).map(|_| ()), limits))
}

/// What is told of a head that is refused: what can't be read comes before what isn't taken, wherever it stands.
#[cold]
fn refusal(
    head: &Bytes,
    error: HeadError,
    first_line: impl FnOnce(&mut Lines<'_>) -> Result<(), Malformed>,
    limits: HeadLimits,
) -> HeadError {
    if has_bare_line_feed(head, 0) {
        return HeadError::BareLineBreak;
    }
    let mut lines = Lines::new(head);
    if first_line(&mut lines).is_err() {
        return HeadError::Malformed;
    }
    for count in 0.. {
        match lines.field() {
            Ok(Some(_)) if count < limits.headers_max => {}
            Ok(Some(_)) => return HeadError::TooManyHeaders,
            Ok(None) => break,
            Err(Malformed) => return HeadError::Malformed,
        }
    }
    error
}

fn request_line(lines: &mut Lines<'_>) -> Result<(Method, Range<usize>, Version), Malformed> {
    let method = lines.word()?;
    let method = Method::from_bytes(lines.at(method)).ok_or(Malformed)?;
    let target = lines.word()?;
    // Whoever reads it as text must read the same.
    std::str::from_utf8(lines.at(target.clone())).map_err(|_| Malformed)?;
    let version = lines.version()?;
    lines.end()?;
    Ok((method, target, version))
}

fn status_line(lines: &mut Lines<'_>) -> Result<(Version, u16), Malformed> {
    while lines.takes(b"\r\n") {}
    let version = lines.version()?;
    if !lines.takes(b" ") {
        return Err(Malformed);
    }
    Ok((version, lines.status()?))
}

fn read_request(bytes: &Bytes, limits: HeadLimits) -> Result<ParsedRequest, HeadError> {
    let mut lines = Lines::new(bytes);
    let (method, target, version) = request_line(&mut lines)?;
    if version == Version::Http10 && !limits.accept_http_10 {
        return Err(HeadError::LowVersion);
    }
    let mut fields = Fields::read(lines, limits.headers_max, Side::Request)?;
    let (scheme, target_authority, path) = split_target(&method, bytes.slice(target))?;
    let authority = match (target_authority, fields.host.take()) {
        (Some(authority), Some(host)) => {
            check_host(&host)?;
            authority
        }
        (Some(authority), None) if version == Version::Http10 => authority,
        (None, Some(host)) => {
            check_host(&host)?;
            host
        }
        (None, None) if version == Version::Http10 => Bytes::new(),
        // RFC 9112 §3.2: a request of HTTP/1.1 without Host is answered with 400, whatever its target.
        (_, None) => return Err(HeadError::InvalidHost),
    };
    let body = match (fields.chunked, fields.content_length) {
        (true, None) if version == Version::Http11 => BodyLength::Chunked,
        (true, _) => return Err(HeadError::ConflictingLengths),
        (false, None | Some(0)) => BodyLength::None,
        (false, Some(length)) => BodyLength::Length(length),
    };
    let expect_continue =
        fields.headers.get(&HeaderName::EXPECT).is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
    Ok(ParsedRequest {
        keep_alive: fields.keep_alive(version),
        upgrade: fields.upgrade.filter(|_| fields.connection_upgrade && version == Version::Http11),
        head: RequestHead { method, scheme, authority, path, version, headers: fields.headers },
        body,
        expect_continue: expect_continue && version == Version::Http11,
        head_bytes: bytes.len(),
        field_bytes: fields.bytes,
    })
}

/// The forms of RFC 9112 §3.2: origin, absolute, authority (CONNECT) and asterisk (OPTIONS).
fn split_target(method: &Method, target: Bytes) -> Result<(Scheme, Option<Bytes>, Bytes), HeadError> {
    if target.contains(&b'#') {
        return Err(HeadError::InvalidTarget);
    }
    if *method == Method::Connect {
        check_host(&target)?;
        return Ok((Scheme::Http, Some(target), Bytes::new()));
    }
    if target.starts_with(b"/") || (*method == Method::Options && &target[..] == b"*") {
        return Ok((Scheme::Http, None, target));
    }
    let lower = target.get(..8).unwrap_or(&target).to_ascii_lowercase();
    let (scheme, skip) = if lower.starts_with(b"http://") {
        (Scheme::Http, 7)
    } else if lower.starts_with(b"https://") {
        (Scheme::Https, 8)
    } else {
        return Err(HeadError::InvalidTarget);
    };
    let rest = target.slice(skip..);
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let authority = rest.slice(..end);
    check_host(&authority)?;
    let path = match rest.get(end) {
        Some(b'/') => rest.slice(end..),
        Some(_) => Bytes::from([b"/", &rest[end..]].concat()),
        None => Bytes::from_static(b"/"),
    };
    Ok((scheme, Some(authority), path))
}

/// `host [":" port]` (RFC 9110 §7.2): a name, an IPv4 address or an IP literal in brackets; no user information.
pub(crate) fn check_host(host: &[u8]) -> Result<(), HeadError> {
    let (name, port) = match host.first() {
        None => return Err(HeadError::InvalidHost),
        Some(b'[') => {
            let close = host.iter().position(|byte| *byte == b']').ok_or(HeadError::InvalidHost)?;
            if !host[1..close].iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'%')) || close < 3 {
                return Err(HeadError::InvalidHost);
            }
            (&b"x"[..], &host[close + 1..])
        }
        Some(_) => {
            let end = host.iter().position(|byte| !HOST_NAME[usize::from(*byte)]);
            host.split_at(end.unwrap_or(host.len()))
        }
    };
    if name.is_empty() {
        return Err(HeadError::InvalidHost);
    }
    match port.split_first() {
        None => Ok(()),
        Some((b':', digits)) if digits.len() <= 5 && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            Ok(())
        }
        Some(_) => Err(HeadError::InvalidHost),
    }
}

/// `reg-name` of RFC 3986 §3.2.2.
const HOST_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=%";
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] = true;
        at += 1;
    }
    table
};

/// Parses a response's head out of the buffer. `request` is the method that it answers.
pub(crate) fn parse_response(
    buffer: &mut BytesMut,
    scan: &mut HeadScan,
    limits: HeadLimits,
    request: &Method,
) -> Result<Option<ParsedResponse>, HeadError> {
    let Some(head) = scan.take(buffer, limits.bytes_max)? else { return Ok(None) };
    let response = read_response(&head, limits, request);
    response.map(Some).map_err(|error| refusal(&head, error, |lines| status_line(lines).map(|_| ()), limits))
}

fn read_response(bytes: &Bytes, limits: HeadLimits, request: &Method) -> Result<ParsedResponse, HeadError> {
    let mut lines = Lines::new(bytes);
    let (version, code) = status_line(&mut lines)?;
    if !(100..=599).contains(&code) {
        return Err(HeadError::InvalidStatus);
    }
    let fields = Fields::read(lines, limits.headers_max, Side::Response)?;
    let bodyless = *request == Method::Head || code < 200 || code == 204 || code == 304;
    let body = match (fields.chunked, fields.content_length) {
        (true, Some(_)) => return Err(HeadError::ConflictingLengths),
        _ if bodyless || (*request == Method::Connect && code < 300) => BodyLength::None,
        (true, None) if version == Version::Http10 => return Err(HeadError::UnsupportedTransferEncoding),
        (true, None) => BodyLength::Chunked,
        (false, Some(0)) => BodyLength::None,
        (false, Some(length)) => BodyLength::Length(length),
        (false, None) => BodyLength::UntilClose,
    };
    Ok(ParsedResponse {
        keep_alive: fields.keep_alive(version) && body != BodyLength::UntilClose,
        upgrade: fields.upgrade.filter(|_| fields.connection_upgrade),
        head: ResponseHead { status: code, version, headers: fields.headers },
        body,
        head_bytes: bytes.len(),
        field_bytes: fields.bytes,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

/// The header fields of a head, with those that belong to the connection taken out.
struct Fields {
    headers: Headers,
    host: Option<Bytes>,
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    persist: bool,
    connection_upgrade: bool,
    upgrade: Option<Bytes>,
    /// With colons and line ends.
    bytes: usize,
}

impl Fields {
    /// The rest of a head.
    fn read(mut lines: Lines<'_>, headers_max: usize, side: Side) -> Result<Fields, HeadError> {
        let mut fields = Fields {
            headers: Headers::with_capacity(HEADERS_USUAL),
            host: None,
            content_length: None,
            chunked: false,
            close: false,
            persist: false,
            connection_upgrade: false,
            upgrade: None,
            bytes: 0,
        };
        let mut nominated: Vec<HeaderName> = Vec::new();
        let mut count = 0;
        while let Some((name, value)) = lines.field()? {
            count += 1;
            if count > headers_max {
                return Err(HeadError::TooManyHeaders);
            }
            fields.bytes += name.as_bytes().len() + value.len() + 3;
            fields.field(name, value, &lines, side, &mut nominated)?;
        }
        for name in nominated {
            fields.headers.remove(&name);
        }
        Ok(fields)
    }

    fn field(
        &mut self,
        name: HeaderName,
        place: Range<usize>,
        lines: &Lines<'_>,
        side: Side,
        nominated: &mut Vec<HeaderName>,
    ) -> Result<(), HeadError> {
        let value = lines.at(place.clone());
        match name.known() {
            Some(Known::Host) if side == Side::Request => {
                if self.host.replace(lines.share(place)).is_some() {
                    return Err(HeadError::InvalidHost);
                }
            }
            Some(Known::ContentLength) => {
                let length = parse_length(value).ok_or(HeadError::InvalidContentLength)?;
                if self.content_length.replace(length).is_some() {
                    return Err(HeadError::InvalidContentLength);
                }
                self.headers.append(name, lines.share(place));
            }
            Some(Known::TransferEncoding) => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::UnsupportedTransferEncoding);
                }
                self.chunked = true;
            }
            Some(Known::Connection) => self.connection(value, nominated),
            Some(Known::Upgrade) => self.upgrade = Some(lines.share(place)),
            // `te: trailers` is for the whole way of a gRPC call; other codings are the connection's.
            Some(Known::Te) if value.eq_ignore_ascii_case(b"trailers") => self.headers.append(name, lines.share(place)),
            Some(Known::Te | Known::KeepAlive | Known::ProxyConnection | Known::Http2Settings) => {}
            _ => self.headers.append(name, lines.share(place)),
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8], nominated: &mut Vec<HeaderName>) {
        for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.persist = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.connection_upgrade = true;
            } else if let Ok(name) = HeaderName::from_bytes(token) {
                // A nominated field is the connection's own, but for those that frame or route the message.
                if !matches!(name.known(), Some(Known::ContentLength | Known::Te)) && nominated.len() < NOMINATED_MAX {
                    nominated.push(name);
                }
            }
        }
    }

    const fn keep_alive(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.persist && !self.close,
            _ => !self.close,
        }
    }
}

/// Digits only: no sign, no list (RFC 9112 §6.3 lets a recipient refuse equal repetitions, and we do).
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
