//! What a request to the admin interface asks for.

use http::Method;
use http::request::Parts;

/// The path and the decoded query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    query: Vec<(String, String)>,
}

impl Asked {
    pub(crate) fn parse(head: &Parts) -> Asked {
        Asked::new(head.method.clone(), head.uri.path(), head.uri.query().unwrap_or_default())
    }

    pub(crate) fn new(method: Method, path: &str, query: &str) -> Asked {
        let query = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                (decode(key), decode(value))
            })
            .collect();
        Asked { method, path: path.to_owned(), query }
    }

    /// The first value of a parameter; empty where it stands without one.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    pub(crate) fn is_json(&self) -> bool {
        self.value("format") == Some("json")
    }

    /// All parameters in order.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.query.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Percent decoding, with `+` left alone: filters are regular expressions.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while let Some(byte) = bytes.get(position) {
        let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (byte, digit(position + 1), digit(position + 2)) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits fit.
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                position += 3;
            }
            _ => {
                out.push(*byte);
                position += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let asked = Asked::new(Method::GET, "/stats", "filter=%5Ea.%2Bb%24&usedonly&format=json&x=1%zz%4&&filter=2");
        assert_eq!(asked.value("filter"), Some("^a.+b$"));
        assert!(asked.has("usedonly") && asked.is_json() && !asked.has("y"));
        assert_eq!(asked.value("x"), Some("1%zz%4"));
        assert_eq!(asked.parameters().count(), 5);
        assert_eq!(Asked::new(Method::GET, "/", "a+b=%ff").value("a+b"), Some("\u{fffd}"));
    }
}
