//! Whether a connection in cleartext speaks HTTP, told by its first line.

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    /// So far it could be HTTP.
    Partial,
    /// The ALPN identifier (RFC 7301 §6): `http/1.0`, `http/1.1` or `h2c`.
    Protocol(&'static str),
    No,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// No method is longer.
const METHOD_BYTES_MAX: usize = 32;

/// Looks at the first bytes of a connection, the first `seen` of which were looked at before.
pub(crate) fn read(bytes: &[u8], seen: usize) -> Http {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return if common == PREFACE.len() { Http::Protocol("h2c") } else { Http::Partial };
    }
    if !outrigger_http::is_token_byte(bytes[0]) {
        return Http::No;
    }
    // Only what is new is searched, after what could have been the preface: a line that comes byte by byte costs no more
    // than one that comes whole.
    let seen = if seen < PREFACE.len() { 0 } else { seen };
    let Some(end) = memchr::memchr(b'\n', &bytes[seen..]).map(|at| seen + at) else {
        let method = &bytes[..bytes.len().min(METHOD_BYTES_MAX + 1)];
        let length = method.iter().position(|byte| *byte == b' ').unwrap_or(method.len());
        let is_method =
            length <= METHOD_BYTES_MAX && method[..length].iter().all(|byte| outrigger_http::is_token_byte(*byte));
        let is_text = bytes[seen..].iter().all(|byte| (b' '..0x7f).contains(byte) || *byte >= 0x80 || *byte == b'\r');
        return if is_method && is_text { Http::Partial } else { Http::No };
    };
    request_line(&bytes[..end]).map_or(Http::No, Http::Protocol)
}

/// The version of a request line (RFC 9112 §3), without its line feed.
fn request_line(line: &[u8]) -> Option<&'static str> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let method = memchr::memchr(b' ', line)?;
    let version = memchr::memrchr(b' ', line)?;
    let is_method = (1..=METHOD_BYTES_MAX).contains(&method)
        && line[..method].iter().all(|byte| outrigger_http::is_token_byte(*byte));
    let target = line.get(method + 1..version)?;
    let is_target = !target.is_empty() && target.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
    if !is_method || !is_target {
        return None;
    }
    match &line[version + 1..] {
        b"HTTP/1.1" => Some("http/1.1"),
        b"HTTP/1.0" => Some("http/1.0"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines() {
        let check = |bytes: &[u8], expected: Http| {
            assert_eq!(read(bytes, 0), expected, "{:?}", String::from_utf8_lossy(bytes));
            // The same byte by byte.
            let mut last = Http::Partial;
            for end in 1..=bytes.len() {
                last = read(&bytes[..end], end - 1);
                if last != Http::Partial {
                    break;
                }
            }
            assert_eq!(last, expected, "{:?}, byte by byte", String::from_utf8_lossy(bytes));
        };
        check(b"GET / HTTP/1.1\r\nhost: a\r\n", Http::Protocol("http/1.1"));
        check(b"X-METHOD http://a/b?c HTTP/1.0\n", Http::Protocol("http/1.0"));
        check(PREFACE, Http::Protocol("h2c"));
        check(b"PRI * HTTP/2.0\r\n\r\nXX", Http::No);
        check(b"PRI * HTTP/2.0\r\n", Http::Partial);
        check(b"P", Http::Partial);
        check(b"POST /a", Http::Partial);
        check(b"GET / HTTP/1.1\r", Http::Partial);
        check(b"GET / HTTP/1.2\r\n", Http::No);
        check(b"GET / HTTP/1.1 \r\n", Http::No);
        check(b"GET  HTTP/1.1\r\n", Http::No);
        check(b"GET /\r\n", Http::No);
        check(b"GET /a b HTTP/1.1\r\n", Http::No);
        check(b"EHLO a.test\r\n", Http::No);
        check(b"\x16\x03\x01", Http::No);
        check(b"\x00", Http::No);
        check(b"AB\x01", Http::No);
        check(b"GET /\x01", Http::No);
        check("A".repeat(33).as_bytes(), Http::No);
        check("A".repeat(32).as_bytes(), Http::Partial);
    }
}
