//! A small JSON reader (RFC 8259).
//!
//! `serde_json` would do, but it makes a module a third larger, most of that for floating-point numbers, which are
//! kept as text here until somebody asks for one.

use super::ConfigError;

/// How deep lists and objects may be nested.
const DEPTH_MAX: u32 = 64;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    /// As it was written; the reader has checked its form.
    Number(String),
    String(String),
    List(Vec<Json>),
    /// In the order of the text; names may repeat.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "true or false",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }
}

/// Reads one value and nothing after it.
pub(super) fn read(bytes: &[u8]) -> Result<Json, ConfigError> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(fault(bytes, error.valid_up_to(), "not UTF-8")),
    };
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0).and_then(|value| {
        reader.space();
        if reader.at == text.len() { Ok(value) } else { Err("nothing may follow the value") }
    });
    value.map_err(|what| fault(bytes, reader.at, what))
}

/// An error at a position, which is told by line and column, both from 1.
fn fault(bytes: &[u8], at: usize, what: &str) -> ConfigError {
    let before = &bytes[..at.min(bytes.len())];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
    ConfigError::at("", format!("not JSON: {what} (line {line}, column {column})"))
}

type Read<T> = Result<T, &'static str>;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Steps over this byte if it is the next.
    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, depth: u32) -> Read<Json> {
        if depth > DEPTH_MAX {
            return Err("nested too deep");
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(_) => Err("no value begins so"),
            None => Err("it ends where a value is expected"),
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Read<Json> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err("no value begins so");
        }
        self.at += word.len();
        Ok(value)
    }

    fn list(&mut self, depth: u32) -> Read<Json> {
        self.at += 1;
        let mut elements = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Json::List(elements));
        }
        loop {
            elements.push(self.value(depth + 1)?);
            self.space();
            if self.take(b']') {
                return Ok(Json::List(elements));
            }
            if !self.take(b',') {
                return Err("expected `,` or `]`");
            }
        }
    }

    fn object(&mut self, depth: u32) -> Read<Json> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err("expected a member's name in quotes");
            }
            let name = self.string()?;
            self.space();
            if !self.take(b':') {
                return Err("expected `:`");
            }
            members.push((name, self.value(depth + 1)?));
            self.space();
            if self.take(b'}') {
                return Ok(Json::Object(members));
            }
            if !self.take(b',') {
                return Err("expected `,` or `}`");
            }
        }
    }

    fn digits(&mut self) -> Read<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err("expected a digit") } else { Ok(()) }
    }

    fn number(&mut self) -> Read<Json> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Json::Number(self.text[start..self.at].to_owned()))
    }

    fn string(&mut self) -> Read<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
                self.at += 1;
            }
            // The ends are at ASCII bytes, so they are ends of characters too.
            out.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => return Err("a control character in a string must be escaped"),
                None => return Err("it ends within a string"),
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        self.at += 1;
        let kind = self.peek().ok_or("it ends within a string")?;
        self.at += 1;
        Ok(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err("no escape begins so"),
        })
    }

    fn unicode(&mut self) -> Read<char> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.take(b'\\') && self.take(b'u') {
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return char::from_u32(code).ok_or("no character has this code");
            }
        }
        char::from_u32(first).ok_or("half of a surrogate pair")
    }

    fn hex(&mut self) -> Read<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).ok_or("it ends within a string")?;
        let code = digits.iter().try_fold(0, |code, digit| {
            let digit = char::from(*digit).to_digit(16)?;
            Some(code * 16 + digit)
        });
        self.at += 4;
        code.ok_or("expected four hexadecimal digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// serde_json is the referee: what it reads we read alike, what it refuses we refuse.
    fn check(text: &str) {
        let ours = read(text.as_bytes());
        let theirs = serde_json::from_str::<serde_json::Value>(text);
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => assert_eq!(plain(ours), *theirs, "{text}"),
            (Err(_), Err(_)) => {}
            _ => panic!("{text}: {ours:?}, but serde_json says {theirs:?}"),
        }
    }

    fn plain(json: &Json) -> serde_json::Value {
        match json {
            Json::Null => serde_json::Value::Null,
            Json::Bool(value) => (*value).into(),
            Json::Number(text) => serde_json::from_str(text).unwrap(),
            Json::String(text) => text.as_str().into(),
            Json::List(elements) => elements.iter().map(plain).collect(),
            Json::Object(members) => {
                serde_json::Value::Object(members.iter().map(|(name, value)| (name.clone(), plain(value))).collect())
            }
        }
    }

    #[test]
    fn reads_what_serde_json_reads() {
        for text in [
            "{}",
            "[]",
            "null",
            "true",
            "false",
            "0",
            "-0",
            "-1",
            "10",
            "1.5",
            "1e3",
            "1E+3",
            "1.25e-2",
            "\"\"",
            r#" {"a" : [1, {"b": null}, "c"] , "d": -3.5} "#,
            r#""\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00""#,
            "\"grün €\"",
            r#"{"a":1,"a":2}"#,
            // Refused:
            "",
            " ",
            "{",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{'a':1}",
            "01",
            "+1",
            "1.",
            ".5",
            "-",
            "1e",
            "1e+",
            "tru",
            "True",
            "nul",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"a\nb\"",
            "\"\u{1}\"",
            "1 2",
            "{} x",
            "[1 2]",
            "// c\n1",
            "\u{feff}{}",
            "NaN",
            "Infinity",
            "{\"a\" 1}",
            "{1:2}",
        ] {
            check(text);
        }
    }

    #[test]
    fn any_cut_and_any_flip_is_read_alike() {
        let text = r#"{"rules": [{"header": "x-\u00e9", "weight": -1.5e2}, [true, false, null]], "s": "\ud83d\ude00"}"#;
        for cut in 0..text.len() {
            check(&text[..cut]);
            for byte in [b'"', b'\\', b'{', b']', b',', b'0', b' ', b'u'] {
                let mut bytes = text.as_bytes().to_vec();
                bytes[cut] = byte;
                check(str::from_utf8(&bytes).unwrap());
            }
        }
    }

    #[test]
    fn faults_have_a_position() {
        for (bytes, expected) in [
            (&b"{\n  \"a\": x}"[..], "not JSON: no value begins so (line 2, column 8)"),
            (b"{\"a\": \"\xff\"}", "not JSON: not UTF-8 (line 1, column 8)"),
            (b"{} {}", "not JSON: nothing may follow the value (line 1, column 4)"),
            (b"[1\n", "not JSON: expected `,` or `]` (line 2, column 1)"),
        ] {
            assert_eq!(read(bytes).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(nested(64).as_bytes()).is_ok());
        assert!(read(nested(66).as_bytes()).unwrap_err().to_string().contains("nested too deep"));
        assert!(read("[".repeat(1_000_000).as_bytes()).is_err());
    }
}
