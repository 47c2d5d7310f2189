//! The context that a request carries: W3C's `traceparent` (Trace Context, level 1) or B3's headers, in one or in several.

use bytes::Bytes;
use outrigger_http::{HeaderName, Headers};

/// Longer `tracestate` values are left out (W3C asks for at least 512 characters).
const STATE_BYTES_MAX: usize = 1024;

/// How a context is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `traceparent` and `tracestate`.
    W3c,
    /// `b3`.
    B3Single,
    /// `x-b3-traceid` and its like.
    B3Multi,
}

/// A request's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) form: Form,
    pub(crate) trace_id: [u8; 16],
    /// The span that the request comes from.
    pub(crate) parent: Option<[u8; 8]>,
    pub(crate) sampled: bool,
    pub(crate) state: String,
}

impl TraceContext {
    /// What the headers say; nothing where they are malformed, as if they weren't there (W3C §3.2).
    pub(crate) fn extract(headers: &Headers) -> Option<TraceContext> {
        if let Some(parent) = headers.get(&HeaderName::TRACEPARENT) {
            let (trace_id, parent, sampled) = w3c(parent)?;
            let state = headers.get(&HeaderName::TRACESTATE).filter(|state| state.len() <= STATE_BYTES_MAX);
            let state = state.and_then(|state| std::str::from_utf8(state).ok()).unwrap_or_default().to_owned();
            return Some(TraceContext { form: Form::W3c, trace_id, parent: Some(parent), sampled, state });
        }
        if let Some(single) = headers.get(&HeaderName::B3) {
            return b3_single(single);
        }
        let trace_id = b3_trace_id(headers.get(&HeaderName::X_B3_TRACEID)?)?;
        let parent = hex(headers.get(&HeaderName::X_B3_SPANID)?)?;
        let flag = |name| headers.get(name).is_some_and(|value| matches!(&value[..], b"1" | b"true"));
        // A context without a decision leaves it to whoever is next: that is us.
        let undecided = !headers.contains(&HeaderName::X_B3_SAMPLED);
        let sampled = undecided || flag(&HeaderName::X_B3_SAMPLED) || flag(&HeaderName::X_B3_FLAGS);
        Some(TraceContext { form: Form::B3Multi, trace_id, parent: Some(parent), sampled, state: String::new() })
    }

    /// Writes the context with another span as the parent.
    pub(crate) fn inject(&self, span_id: &[u8; 8], headers: &mut Headers) {
        let (trace, span) = (to_hex(&self.trace_id), to_hex(span_id));
        let sampled = u8::from(self.sampled);
        match self.form {
            Form::W3c => {
                headers.set(HeaderName::TRACEPARENT, Bytes::from(format!("00-{trace}-{span}-0{sampled}")));
                if !self.state.is_empty() {
                    headers.set(HeaderName::TRACESTATE, Bytes::from(self.state.clone()));
                }
            }
            Form::B3Single => {
                let parent = self.parent.map_or_else(String::new, |parent| format!("-{}", to_hex(&parent)));
                headers.set(HeaderName::B3, Bytes::from(format!("{trace}-{span}-{sampled}{parent}")));
            }
            Form::B3Multi => {
                headers.set(HeaderName::X_B3_TRACEID, Bytes::from(trace));
                headers.set(HeaderName::X_B3_SPANID, Bytes::from(span));
                headers.set(HeaderName::X_B3_SAMPLED, Bytes::from(sampled.to_string()));
                if let Some(parent) = self.parent {
                    headers.set(HeaderName::X_B3_PARENTSPANID, Bytes::from(to_hex(&parent)));
                }
            }
        }
    }
}

/// `VERSION-TRACE-PARENT-FLAGS`; a later version may have more parts.
fn w3c(value: &[u8]) -> Option<([u8; 16], [u8; 8], bool)> {
    let mut parts = value.splitn(5, |byte| *byte == b'-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let [version] = hex::<1>(version)?;
    let known = version != 0xff && (version != 0 || parts.next().is_none());
    let (trace, parent, [flags]) = (hex::<16>(trace)?, hex::<8>(parent)?, hex::<1>(flags)?);
    let valid = known && trace != [0; 16] && parent != [0; 8];
    valid.then_some((trace, parent, flags & 1 == 1))
}

/// `TRACE-SPAN[-SAMPLED[-PARENT]]`, or a decision alone, which begins a trace of its own elsewhere.
fn b3_single(value: &[u8]) -> Option<TraceContext> {
    let mut parts = value.splitn(4, |byte| *byte == b'-');
    let trace_id = b3_trace_id(parts.next()?)?;
    let parent = hex(parts.next()?)?;
    let sampled = parts.next().is_none_or(|sampled| matches!(sampled, b"1" | b"d"));
    Some(TraceContext { form: Form::B3Single, trace_id, parent: Some(parent), sampled, state: String::new() })
}

/// 128 bits, or 64 that are the lower half.
fn b3_trace_id(value: &[u8]) -> Option<[u8; 16]> {
    if value.len() == 16 {
        let low: [u8; 8] = hex(value)?;
        let mut id = [0; 16];
        id[8..].copy_from_slice(&low);
        return Some(id).filter(|id| *id != [0; 16]);
    }
    hex(value).filter(|id| *id != [0; 16])
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(list: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in list {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), Bytes::from((*value).to_owned()));
        }
        headers
    }

    fn extract(list: &[(&str, &str)]) -> Option<(Form, String, String, bool)> {
        let context = TraceContext::extract(&headers(list))?;
        Some((context.form, to_hex(&context.trace_id), to_hex(&context.parent.unwrap()), context.sampled))
    }

    #[test]
    fn contexts_are_read() {
        let check = |list: &[(&str, &str)], form, trace: &str, sampled| {
            assert_eq!(extract(list), Some((form, trace.to_owned(), SPAN.to_owned(), sampled)), "{list:?}");
        };
        let w3c = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
        check(&[("traceparent", &w3c("01"))], Form::W3c, TRACE, true);
        check(&[("traceparent", &w3c("00"))], Form::W3c, TRACE, false);
        check(&[("traceparent", &format!("01-{TRACE}-{SPAN}-01-more"))], Form::W3c, TRACE, true);
        let short = "0000000000000000a3ce929d0e0e4736";
        check(&[("b3", &format!("a3ce929d0e0e4736-{SPAN}-1"))], Form::B3Single, short, true);
        check(&[("b3", &format!("{TRACE}-{SPAN}-0-{SPAN}"))], Form::B3Single, TRACE, false);
        let b3 = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
        check(&b3, Form::B3Multi, TRACE, true);
        check(&[b3[0], b3[1], ("x-b3-sampled", "0")], Form::B3Multi, TRACE, false);
        check(&[b3[0], b3[1], ("x-b3-sampled", "0"), ("x-b3-flags", "1")], Form::B3Multi, TRACE, true);
    }

    #[test]
    fn malformed_contexts_are_none() {
        for value in [
            "",
            "00",
            &format!("ff-{TRACE}-{SPAN}-01"),
            &format!("00-{TRACE}-{SPAN}-01-more"),
            &format!("00-{}-{SPAN}-01", "0".repeat(32)),
            &format!("00-{TRACE}-{}-01", "0".repeat(16)),
            &format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            &format!("00-{TRACE}-{SPAN}-1"),
        ] {
            assert_eq!(extract(&[("traceparent", value)]), None, "{value}");
        }
        assert_eq!(extract(&[("b3", "0")]), None);
        assert_eq!(extract(&[("x-b3-traceid", TRACE)]), None);
        assert_eq!(extract(&[]), None);
    }

    #[test]
    fn a_context_goes_on_in_its_own_form() {
        let check = |list: &[(&str, &str)], expected: &[(&str, &str)]| {
            let mut found = headers(list);
            TraceContext::extract(&found).unwrap().inject(&[0x11; 8], &mut found);
            for (name, value) in expected {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                assert_eq!(found.get(&name).map(|value| &value[..]), Some(value.as_bytes()), "{list:?}");
            }
        };
        let own = "1111111111111111";
        check(
            &[("traceparent", &format!("00-{TRACE}-{SPAN}-01")), ("tracestate", "a=b")],
            &[("traceparent", &format!("00-{TRACE}-{own}-01")), ("tracestate", "a=b")],
        );
        check(&[("b3", &format!("{TRACE}-{SPAN}-1"))], &[("b3", &format!("{TRACE}-{own}-1-{SPAN}"))]);
        check(
            &[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")],
            &[("x-b3-traceid", TRACE), ("x-b3-spanid", own), ("x-b3-parentspanid", SPAN), ("x-b3-sampled", "1")],
        );
    }
}
