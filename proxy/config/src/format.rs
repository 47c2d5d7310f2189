//! Envoy's substitution format: text with operators such as `%REQ(X-REQUEST-ID?:PATH):64%`, in access logs and in
//! header values (Envoy's documentation page "Access logging").
//!
//! A format is parsed once and evaluated for each stream without allocation of its own. In logs an absent value is `-`
//! (or nothing, with [`Format::omit_empty`]) and control bytes are escaped, so that a client can't write log lines of
//! its own; in header values ([`Format::parse_header`]) an absent value is nothing and bytes stay as they are.

mod certificate;
mod coalesce;
mod duration;
mod expression;
mod facts;
mod grpc;
mod metadata;
mod operator;
mod request;
mod time;
mod tls;
mod value;

use bytes::Bytes;
use outrigger_http::StreamState;

pub(crate) use grpc::grpc_code;
use operator::Operator;
pub use time::LocalZone;
use value::Value;

/// A compiled format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    segments: Vec<Segment>,
    style: Style,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Bytes),
    /// With its `:Z`: at most so many bytes of the value.
    Operator(Operator, Option<usize>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Absent is `-`.
    Log,
    /// Absent is nothing.
    LogOmitEmpty,
    /// Absent is nothing, and nothing is escaped.
    Header,
}

/// What a format evaluates to for a stream where the type matters (JSON logs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatValue {
    /// A single operator without a value.
    Null,
    /// May hold any byte: neither escaped nor checked to be UTF-8.
    Text(Vec<u8>),
    /// A single operator whose value is structured.
    Json(Vec<u8>),
    /// A single numeric operator.
    Number(i64),
}

/// Why a text is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("unknown operator %{0}%")]
    UnknownOperator(String),
    #[error("operator %{operator}%: {problem}")]
    Argument { operator: String, problem: String },
    #[error("no operator ends the % at byte {0} (a literal percent sign is %%)")]
    Unclosed(usize),
    #[error("longer than {} bytes", Format::TEXT_BYTES_MAX)]
    TooLong,
}

impl Format {
    /// No format text is longer than this.
    pub const TEXT_BYTES_MAX: usize = 64 << 10;

    /// A format of an access log.
    pub fn parse(text: &str) -> Result<Format, FormatError> {
        Ok(Format { segments: parse(text)?, style: Style::Log })
    }

    /// A format of a header value or of a local reply's body.
    pub fn parse_header(text: &str) -> Result<Format, FormatError> {
        Ok(Format { segments: parse(text)?, style: Style::Header })
    }

    /// These bytes and no operators.
    #[must_use]
    pub fn literal(text: Bytes) -> Format {
        Format { segments: vec![Segment::Literal(text)], style: Style::Header }
    }

    /// The same format where an absent value is nothing instead of `-` (`omit_empty_values`).
    #[must_use]
    pub fn omit_empty(mut self) -> Format {
        if self.style == Style::Log {
            self.style = Style::LogOmitEmpty;
        }
        self
    }

    /// The same format for a header's value or a body: see [`Format::parse_header`].
    #[must_use]
    pub fn for_values(mut self) -> Format {
        self.style = Style::Header;
        self
    }

    /// Whether a JSON field of this format is left out where it is null.
    #[must_use]
    pub fn omits_empty(&self) -> bool {
        self.style != Style::Log
    }

    /// The text, where there are no operators in it: the same for every stream.
    #[must_use]
    pub fn as_literal(&self) -> Option<&Bytes> {
        static EMPTY: Bytes = Bytes::new();
        match &self.segments[..] {
            [] => Some(&EMPTY),
            [Segment::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the value for a stream.
    pub fn write(&self, state: &StreamState, out: &mut Vec<u8>) {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.extend_from_slice(text),
                Segment::Operator(operator, max) => match operator.value(state) {
                    value if value.is_absent() && self.style == Style::Log => out.push(b'-'),
                    value if self.style == Style::Header => value.write(out, *max),
                    value => value.write_escaped(out, *max),
                },
            }
        }
    }

    /// The value for a stream: a single operator keeps its type, anything else is text.
    #[must_use]
    pub fn value(&self, state: &StreamState) -> FormatValue {
        let mut text = Vec::new();
        if let [Segment::Operator(operator, max)] = &self.segments[..] {
            return match operator.value(state) {
                value if value.is_absent() => FormatValue::Null,
                Value::Number(number) => FormatValue::Number(number),
                value => value.json().map_or_else(
                    || {
                        value.write(&mut text, *max);
                        FormatValue::Text(text)
                    },
                    FormatValue::Json,
                ),
            };
        }
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => text.extend_from_slice(literal),
                Segment::Operator(operator, max) => match operator.value(state) {
                    value if value.is_absent() && self.style == Style::Log => text.push(b'-'),
                    value => value.write(&mut text, *max),
                },
            }
        }
        FormatValue::Text(text)
    }
}

/// Tells the formats what `%HOSTNAME%` is. Called once, before anything is served; later calls change nothing.
pub fn set_hostname(name: &str) {
    facts::set_hostname(name);
}

/// Tells the formats what the local time is. Called once, before anything is served; until then it is UTC.
pub fn set_local_zone(zone: fn(i64) -> LocalZone) {
    time::set_local_zone(zone);
}

fn parse(text: &str) -> Result<Vec<Segment>, FormatError> {
    if text.len() > Format::TEXT_BYTES_MAX {
        return Err(FormatError::TooLong);
    }
    let mut segments = Vec::new();
    let mut literal = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find('%') {
        literal.push_str(&text[at..at + found]);
        at += found;
        if text[at + 1..].starts_with('%') {
            literal.push('%');
            at += 2;
            continue;
        }
        let (token, end) = token(text, at)?;
        if !literal.is_empty() {
            segments.push(Segment::Literal(Bytes::from(std::mem::take(&mut literal))));
        }
        segments.push(Segment::Operator(Operator::parse(token.name, token.argument, 0)?, token.max));
        at = end;
    }
    literal.push_str(&text[at..]);
    if !literal.is_empty() {
        segments.push(Segment::Literal(Bytes::from(literal)));
    }
    Ok(segments)
}

/// An operator as written: `%NAME%`, `%NAME(ARGUMENT)%`, `%NAME(ARGUMENT):MAX%`.
struct Token<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    max: Option<usize>,
}

/// The operator whose percent sign is at `start`, and where it ends.
fn token(text: &str, start: usize) -> Result<(Token<'_>, usize), FormatError> {
    let rest = &text[start + 1..];
    let name_len = rest.bytes().take_while(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_').count();
    let name = &rest[..name_len];
    if name.is_empty() {
        return Err(FormatError::Unclosed(start));
    }
    let tail = &rest[name_len..];
    let Some(inner) = tail.strip_prefix('(') else {
        let (max, len) = ending(tail).ok_or(FormatError::Unclosed(start))?;
        return Ok((Token { name, argument: None, max }, start + 1 + name_len + len));
    };
    // The argument may hold percent signs and brackets itself (START_TIME): it ends at the first bracket that an
    // operator's end follows.
    for (close, _) in inner.match_indices(')') {
        if let Some((max, len)) = ending(&inner[close + 1..]) {
            let token = Token { name, argument: Some(&inner[..close]), max };
            return Ok((token, start + 1 + name_len + 1 + close + 1 + len));
        }
    }
    Err(FormatError::Unclosed(start))
}

/// `%` or `:123%`: the number, and how many bytes they are.
fn ending(text: &str) -> Option<(Option<usize>, usize)> {
    if text.starts_with('%') {
        return Some((None, 1));
    }
    let digits = text.strip_prefix(':')?;
    let len = digits.bytes().take_while(u8::is_ascii_digit).count();
    let max = digits[..len].parse().ok()?;
    digits[len..].starts_with('%').then_some((Some(max), len + 2))
}

#[cfg(test)]
#[path = "format/tests.rs"]
mod tests;
