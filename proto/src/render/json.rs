//! JSON (RFC 8259) to a tree. `serde_json` reads it as well, but without lines and without duplicate keys.

use std::borrow::Cow;

use super::tree::{DEPTH_MAX, Entry, NODES_MAX, Node, Unreadable, Value, visible};

pub(crate) fn read(text: &str) -> Result<Node<'_>, Unreadable> {
    let mut reader = Reader { text, at: 0, line: 1, nodes: 0 };
    let node = reader.node(0)?;
    reader.skip_space();
    if reader.at < text.len() {
        return Err(reader.unexpected("the end of the text"));
    }
    Ok(node)
}

struct Reader<'t> {
    text: &'t str,
    /// Bytes read.
    at: usize,
    line: u32,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\n' | b'\r')) = self.peek() {
            self.line = self.line.saturating_add(u32::from(byte == b'\n'));
            self.at += 1;
        }
    }

    fn unexpected(&self, expected: &str) -> Unreadable {
        let found = match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(char) => format!("`{}`", visible(char)),
            None => "the end of the text".to_owned(),
        };
        Unreadable::new(self.line, format!("expected {expected}, found {found}"))
    }

    /// Whether the next character that is no space is `byte`, which is then read.
    fn accept(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn node(&mut self, depth: usize) -> Result<Node<'t>, Unreadable> {
        self.skip_space();
        let line = self.line;
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Unreadable::new(line, format!("more than {NODES_MAX} values")));
        }
        if depth > DEPTH_MAX {
            return Err(Unreadable::new(line, format!("nested more than {DEPTH_MAX} deep")));
        }
        let value = match self.peek() {
            Some(b'{') => Value::Map(self.object(depth)?),
            Some(b'[') => Value::List(self.array(depth)?),
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Plain(Cow::Borrowed(self.number()?)),
            _ => self.word()?,
        };
        Ok(Node { line, value })
    }

    fn object(&mut self, depth: usize) -> Result<Vec<Entry<'t>>, Unreadable> {
        self.at += 1;
        let mut entries = Vec::new();
        if self.accept(b'}') {
            return Ok(entries);
        }
        loop {
            self.skip_space();
            let line = self.line;
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let key = self.string()?;
            if !self.accept(b':') {
                return Err(self.unexpected("`:`"));
            }
            let value = self.node(depth + 1)?;
            entries.push(Entry { key, line, value });
            if self.accept(b'}') {
                return Ok(entries);
            }
            if !self.accept(b',') {
                return Err(self.unexpected("`,` or `}`"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Node<'t>>, Unreadable> {
        self.at += 1;
        let mut items = Vec::new();
        if self.accept(b']') {
            return Ok(items);
        }
        loop {
            items.push(self.node(depth + 1)?);
            if self.accept(b']') {
                return Ok(items);
            }
            if !self.accept(b',') {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    /// The cursor is on the opening quote.
    fn string(&mut self) -> Result<Cow<'t, str>, Unreadable> {
        self.at += 1;
        let mut unescaped: Option<String> = None;
        let mut start = self.at;
        loop {
            let Some(byte) = self.peek() else {
                return Err(self.unexpected("a closing `\"`"));
            };
            match byte {
                b'"' => {
                    let piece = self.text.get(start..self.at).unwrap_or_default();
                    self.at += 1;
                    return Ok(match unescaped {
                        Some(text) => Cow::Owned(text + piece),
                        None => Cow::Borrowed(piece),
                    });
                }
                b'\\' => {
                    let piece = self.text.get(start..self.at).unwrap_or_default();
                    let text = unescaped.get_or_insert_default();
                    text.push_str(piece);
                    let char = self.escape()?;
                    text.push(char);
                    start = self.at;
                }
                0..0x20 => return Err(self.unexpected("no control character within a text")),
                _ => self.at += 1,
            }
        }
    }

    /// The cursor is on the backslash.
    fn escape(&mut self) -> Result<char, Unreadable> {
        self.at += 1;
        let char = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.unexpected("an escape that JSON has")),
        };
        self.at += 1;
        Ok(char)
    }

    /// The cursor is on the `u`.
    fn unicode(&mut self) -> Result<char, Unreadable> {
        let invalid = Unreadable::new(self.line, "an escape `\\u` that is no character");
        let Some(first) = self.hex() else { return Err(invalid) };
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first).ok_or(invalid);
        }
        // A pair of surrogates.
        if self.text.as_bytes().get(self.at..self.at + 2) != Some(b"\\u") {
            return Err(invalid);
        }
        self.at += 1;
        match self.hex() {
            Some(second @ 0xdc00..0xe000) => {
                char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(invalid)
            }
            _ => Err(invalid),
        }
    }

    /// Four digits after the `u` that the cursor is on.
    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at + 1..self.at + 5)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 5;
        u32::from_str_radix(digits, 16).ok()
    }

    fn number(&mut self) -> Result<&'t str, Unreadable> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let leading_zero = self.peek() == Some(b'0');
        let digits = self.digits();
        if digits == 0 || (leading_zero && digits > 1) {
            return Err(Unreadable::new(self.line, "a number that JSON doesn't have"));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(self.unexpected("a digit"));
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return Err(self.unexpected("a digit"));
            }
        }
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - start
    }

    fn word(&mut self) -> Result<Value<'t>, Unreadable> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let (len, value) = if rest.starts_with("true") {
            (4, Value::Plain(Cow::Borrowed("true")))
        } else if rest.starts_with("false") {
            (5, Value::Plain(Cow::Borrowed("false")))
        } else if rest.starts_with("null") {
            (4, Value::Null)
        } else {
            return Err(self.unexpected("a value"));
        };
        self.at += len;
        Ok(value)
    }
}
