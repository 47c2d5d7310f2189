//! Access logs (`envoy.config.accesslog.v3.AccessLog`).

mod filter;

use std::path::Path;
use std::sync::Arc;

use outrigger_http::StreamState;

use crate::{Format, FormatValue, WasmPlugin, json};

pub use filter::{Comparison, ComparisonOp, LogFilter};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    pub sink: AccessLogSink,
    pub format: AccessLogFormat,
    /// Which streams it tells of; `None`: all.
    pub filter: Option<LogFilter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AccessLogSink {
    File(Arc<Path>),
    Stdout,
    Stderr,
    /// `envoy.access_loggers.wasm`: the plugin's root context is told, and reads what it wants to know; there is no line.
    Wasm(Arc<WasmPlugin>),
}

impl AccessLog {
    /// Whether it tells of a stream that is over.
    pub fn wants(&self, state: &StreamState, random: &mut dyn FnMut() -> u64) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.wants(state, random))
    }

    /// Who is told instead of having a line written.
    #[must_use]
    pub fn plugin(&self) -> Option<&Arc<WasmPlugin>> {
        match &self.sink {
            AccessLogSink::Wasm(plugin) => Some(plugin),
            AccessLogSink::File(_) | AccessLogSink::Stdout | AccessLogSink::Stderr => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// A line; the format ends with its line feed, as Envoy's default does.
    Text(Format),
    /// An object a line.
    Json(Vec<(String, JsonNode)>),
}

/// A value of a JSON format: a single operator keeps its type, several are joined as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonNode {
    Value(Format),
    Object(Vec<(String, JsonNode)>),
    Array(Vec<JsonNode>),
    Number(String),
    Bool(bool),
    Null,
}

/// Envoy's default format.
const ENVOY_DEFAULT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n"
);

impl AccessLogFormat {
    /// What Envoy logs where no format is given.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a constant that a test parses")]
    pub fn envoy_default() -> AccessLogFormat {
        AccessLogFormat::Text(Format::parse(ENVOY_DEFAULT).expect("the default format is a format"))
    }

    /// Appends the line for a stream: at its end, when its times are marked.
    pub fn write(&self, state: &StreamState, out: &mut Vec<u8>) {
        match self {
            AccessLogFormat::Text(format) => format.write(state, out),
            AccessLogFormat::Json(fields) => {
                write_object(fields, state, out);
                out.push(b'\n');
            }
        }
    }
}

fn write_object(fields: &[(String, JsonNode)], state: &StreamState, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for (name, node) in fields {
        let start = out.len();
        if !first {
            out.push(b',');
        }
        json::write_string(name.as_bytes(), out);
        out.push(b':');
        if write_node(node, state, out) {
            first = false;
        } else {
            out.truncate(start);
        }
    }
    out.push(b'}');
}

/// Writes a value; false where it is null and its format omits that.
fn write_node(node: &JsonNode, state: &StreamState, out: &mut Vec<u8>) -> bool {
    match node {
        JsonNode::Value(format) => match format.value(state) {
            FormatValue::Null => {
                out.extend_from_slice(b"null");
                return !format.omits_empty();
            }
            FormatValue::Text(text) => json::write_string(&text, out),
            FormatValue::Json(text) => out.extend_from_slice(&text),
            FormatValue::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
        },
        JsonNode::Object(fields) => write_object(fields, state, out),
        JsonNode::Array(nodes) => {
            out.push(b'[');
            for (index, node) in nodes.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                // A place in an array is never left out.
                write_node(node, state, out);
            }
            out.push(b']');
        }
        JsonNode::Number(number) => out.extend_from_slice(number.as_bytes()),
        JsonNode::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        JsonNode::Null => out.extend_from_slice(b"null"),
    }
    true
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use outrigger_http::HeaderName;

    use super::*;

    fn value(format: &str) -> JsonNode {
        JsonNode::Value(Format::parse(format).unwrap())
    }

    #[test]
    fn the_default_format_is_envoys() {
        let mut out = Vec::new();
        let mut state = StreamState::default();
        state.info.start_time = std::time::UNIX_EPOCH;
        AccessLogFormat::envoy_default().write(&state, &mut out);
        let expected = "[1970-01-01T00:00:00.000Z] \"GET / HTTP/1.1\" 0 - 0 0 - - \"-\" \"-\" \"-\" \"-\" \"-\"\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn json_keeps_types_and_escapes() {
        let mut state = StreamState::default();
        state.request.headers.append(HeaderName::USER_AGENT, Bytes::from_static(b"a\"b\\\x1b\xff\t"));
        let check = |fields: Vec<(&str, JsonNode)>, expected: &str| {
            let fields = fields.into_iter().map(|(name, node)| (name.to_owned(), node)).collect();
            let mut out = Vec::new();
            AccessLogFormat::Json(fields).write(&state, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"));
        };
        check(vec![], "{}");
        check(
            vec![("code", value("%RESPONSE_CODE%")), ("both", value("%RESPONSE_CODE%x"))],
            r#"{"code":0,"both":"0x"}"#,
        );
        check(vec![("ua", value("%REQ(USER-AGENT)%"))], "{\"ua\":\"a\\\"b\\\\\\u001b\u{fffd}\\t\"}");
        check(vec![("a\"", value("%REQ(X)%")), ("b", value("%REQ(X)%-"))], r#"{"a\"":null,"b":"--"}"#);
        let omitted = JsonNode::Value(Format::parse("%REQ(X)%").unwrap().omit_empty());
        check(vec![("a", omitted.clone()), ("b", JsonNode::Bool(true)), ("c", omitted)], r#"{"b":true}"#);
        check(
            vec![
                ("o", JsonNode::Object(vec![("n".to_owned(), JsonNode::Null)])),
                ("l", JsonNode::Array(vec![value("x"), JsonNode::Number("1.5".to_owned())])),
            ],
            r#"{"o":{"n":null},"l":["x",1.5]}"#,
        );
    }
}
