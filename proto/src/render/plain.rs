//! The plain part of YAML to a tree: a quick way for large configurations.
//!
//! Configuration that a program wrote, which is what gets large, uses little of YAML: mappings and lists in lines, flow
//! collections within a line, single values within a line, comments. This reader takes just that, several times as
//! fast as the full one, and gives up at the first sign of anything else: another document, anchors, tags, blocks of
//! text, values over several lines, escapes, other characters than printable ASCII, mistakes. Then the full reader starts
//! over. So nothing is lost but time; what must hold is that whatever this reader does take, the full one reads as the
//! same tree, which a test compares on many texts.

use std::borrow::Cow;

use super::tree::{Entry, NODES_MAX, Node, Value, plain};

/// Collections within each other.
const DEPTH_MAX: usize = 48;

/// The full reader takes keys of up to 1,024 characters.
const KEY_BYTES_MAX: usize = 1000;

/// The tree of a plain text; `None` for any other text.
pub(crate) fn read(text: &str) -> Option<Node<'_>> {
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')) {
        return None;
    }
    let mut reader = Reader { text, at: 0, line: 1, column: 0, nodes: 0 };
    reader.next_content()?;
    let root = reader.block(0)?;
    (reader.at == text.len()).then_some(root)
}

struct Reader<'t> {
    text: &'t str,
    /// Bytes read.
    at: usize,
    line: u32,
    /// Of the content that starts at `at`, while lines are read.
    column: usize,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.peek_at(0)
    }

    fn peek_at(&self, offset: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + offset).copied()
    }

    /// Whether a word may end before what stands at an offset: a space, the end of the line.
    fn ends_at(&self, offset: usize) -> bool {
        matches!(self.peek_at(offset), None | Some(b' ' | b'\n'))
    }

    fn slice(&self, start: usize, end: usize) -> &'t str {
        self.text.get(start..end).unwrap_or_default()
    }

    fn node(&mut self, line: u32, value: Value<'t>) -> Option<Node<'t>> {
        self.nodes += 1;
        (self.nodes <= NODES_MAX).then_some(Node { line, value })
    }

    fn skip_spaces(&mut self) -> usize {
        let start = self.at;
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
        self.at - start
    }

    /// From the start of a line to the next one that holds something, or to the end of the text.
    fn next_content(&mut self) -> Option<()> {
        loop {
            let start = self.at;
            self.skip_spaces();
            self.column = self.at - start;
            match self.peek() {
                Some(b'\n') => {}
                Some(b'#') => self.skip_comment(),
                Some(b'-' | b'.') if self.column == 0 && self.is_marker() => return None,
                _ => return Some(()),
            }
            if self.peek() == Some(b'\n') {
                self.at += 1;
                self.line = self.line.saturating_add(1);
            }
        }
    }

    /// Of the start or end of a document.
    fn is_marker(&self) -> bool {
        let rest = self.slice(self.at, self.at + 3);
        rest == "---" || rest == "..."
    }

    fn skip_comment(&mut self) {
        while !matches!(self.peek(), None | Some(b'\n')) {
            self.at += 1;
        }
    }

    /// Whether nothing but a comment follows in this line. Spaces are read.
    fn is_line_over(&mut self) -> bool {
        self.skip_spaces();
        match self.peek() {
            None | Some(b'\n') => true,
            Some(b'#') => self.slice(0, self.at).ends_with(' '),
            _ => false,
        }
    }

    /// Ends a line in which nothing but a comment may follow, and goes on to the next content.
    fn end_line(&mut self) -> Option<()> {
        if !self.is_line_over() {
            return None;
        }
        self.skip_comment();
        if self.peek() == Some(b'\n') {
            self.at += 1;
            self.line = self.line.saturating_add(1);
        }
        self.next_content()
    }

    fn is_item(&self) -> bool {
        self.peek() == Some(b'-') && self.ends_at(1)
    }

    /// A mapping or list whose first entry starts here, at `self.column`.
    fn block(&mut self, depth: usize) -> Option<Node<'t>> {
        if depth > DEPTH_MAX || self.peek().is_none() {
            return None;
        }
        if self.is_item() { self.list(depth) } else { self.mapping(depth) }
    }

    fn list(&mut self, depth: usize) -> Option<Node<'t>> {
        let (line, column) = (self.line, self.column);
        let mut items = Vec::new();
        while self.column == column && self.is_item() {
            let item_line = self.line;
            self.at += 1;
            let start = self.at;
            let item = if self.is_line_over() {
                self.end_line()?;
                // What belongs to the item is indented deeper.
                if self.peek().is_some() && self.column > column {
                    self.block(depth + 1)?
                } else {
                    self.node(item_line, Value::Null)?
                }
            } else {
                self.column = column + 1 + (self.at - start);
                self.item(depth)?
            };
            items.push(item);
            if self.peek().is_none() || self.column < column {
                break;
            }
            if self.column > column {
                return None;
            }
        }
        self.node(line, Value::List(items))
    }

    /// What stands behind the dash: a collection that goes on in the lines below, or a value that ends with the line.
    fn item(&mut self, depth: usize) -> Option<Node<'t>> {
        let (start, line, nodes) = (self.at, self.line, self.nodes);
        if self.is_item() {
            return self.block(depth + 1);
        }
        let value = self.inline(depth, true);
        match value {
            Some(value) if self.is_line_over() => {
                self.end_line()?;
                Some(value)
            }
            // A key, then.
            _ => {
                (self.at, self.line, self.nodes) = (start, line, nodes);
                self.block(depth + 1)
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Option<Node<'t>> {
        let (line, column) = (self.line, self.column);
        let mut entries = Vec::new();
        while self.column == column && self.peek().is_some() {
            if self.is_item() {
                return None;
            }
            let entry_line = self.line;
            let key = self.key()?;
            let value = if self.is_line_over() {
                self.end_line()?;
                let is_below =
                    self.peek().is_some() && (self.column > column || (self.column == column && self.is_item()));
                if is_below { self.block(depth + 1)? } else { self.node(entry_line, Value::Null)? }
            } else {
                let value = self.inline(depth, false)?;
                self.end_line()?;
                value
            };
            entries.push(Entry { key, line: entry_line, value });
            if self.column > column && self.peek().is_some() {
                return None;
            }
        }
        self.node(line, Value::Map(entries))
    }

    /// A key of a mapping in lines, and its colon.
    fn key(&mut self) -> Option<Cow<'t, str>> {
        let start = self.at;
        let key = match self.peek()? {
            b'\'' | b'"' => {
                let key = self.quoted()?;
                self.skip_spaces();
                key
            }
            _ => Cow::Borrowed(self.word(false)?),
        };
        if self.peek() != Some(b':') || !self.ends_at(1) || self.at - start > KEY_BYTES_MAX {
            return None;
        }
        self.at += 1;
        Some(key)
    }

    /// A value that ends in this line. `may_be_key`: a colon behind it makes it one, which is for the caller to see.
    fn inline(&mut self, depth: usize, may_be_key: bool) -> Option<Node<'t>> {
        let line = self.line;
        let value = match self.peek()? {
            b'{' | b'[' => return self.flow(depth + 1),
            b'\'' | b'"' => Value::Text(self.quoted()?),
            _ => {
                let word = self.word(false)?;
                if self.peek() == Some(b':') && !may_be_key {
                    return None;
                }
                plain(Cow::Borrowed(word))
            }
        };
        self.node(line, value)
    }

    /// A value within a flow collection, or such a collection.
    fn flow(&mut self, depth: usize) -> Option<Node<'t>> {
        if depth > DEPTH_MAX {
            return None;
        }
        let line = self.line;
        let value = match self.peek()? {
            b'{' => Value::Map(self.flow_mapping(depth)?),
            b'[' => Value::List(self.flow_list(depth)?),
            b'\'' | b'"' => Value::Text(self.quoted()?),
            _ => plain(Cow::Borrowed(self.word(true)?)),
        };
        self.node(line, value)
    }

    /// Goes over the comma or the closing bracket behind an element: whether it is the latter.
    fn flow_ends(&mut self, bracket: u8) -> Option<bool> {
        self.skip_spaces();
        let found = self.peek()?;
        self.at += 1;
        if found == b',' {
            self.skip_spaces();
            return Some(false);
        }
        (found == bracket).then_some(true)
    }

    fn flow_list(&mut self, depth: usize) -> Option<Vec<Node<'t>>> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_spaces();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Some(items);
        }
        loop {
            items.push(self.flow(depth + 1)?);
            if self.flow_ends(b']')? {
                return Some(items);
            }
        }
    }

    fn flow_mapping(&mut self, depth: usize) -> Option<Vec<Entry<'t>>> {
        let mut entries = Vec::new();
        self.at += 1;
        self.skip_spaces();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Some(entries);
        }
        loop {
            let (start, line) = (self.at, self.line);
            let key = match self.peek()? {
                b'\'' | b'"' => self.quoted()?,
                _ => Cow::Borrowed(self.word(true)?),
            };
            if self.peek() != Some(b':') || self.peek_at(1) != Some(b' ') || self.at - start > KEY_BYTES_MAX {
                return None;
            }
            self.at += 1;
            self.skip_spaces();
            let value = self.flow(depth + 1)?;
            entries.push(Entry { key, line, value });
            if self.flow_ends(b'}')? {
                return Some(entries);
            }
        }
    }

    /// A value without quotes: up to a colon that makes it a key, a comment, the end of the line; in a flow collection up to
    /// what separates its elements as well. Not empty, without the spaces behind it.
    fn word(&mut self, in_flow: bool) -> Option<&'t str> {
        let start = self.at;
        match self.peek()? {
            // What starts so means something else, or is on its way to.
            b'?' | b':' | b',' | b'[' | b']' | b'{' | b'}' | b'#' | b'&' | b'*' | b'!' | b'|' | b'>' | b'\'' | b'"'
            | b'%' | b'@' | b'`' | b' ' | b'\n' => return None,
            b'-' if !self.peek_at(1).is_some_and(|byte| byte.is_ascii_alphanumeric()) => return None,
            _ => {}
        }
        let mut end = start;
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => break,
                b':' if self.ends_at(1) => break,
                b':' if in_flow
                    && !self.peek_at(1).is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'/') =>
                {
                    return None;
                }
                b'#' if end < self.at => break,
                b',' | b']' | b'}' if in_flow => break,
                b'[' | b'{' if in_flow => return None,
                _ => {}
            }
            self.at += 1;
            if byte != b' ' {
                end = self.at;
            }
        }
        // A comment's sign ends a value only behind a space, which is then read again as what is before a comment.
        let before_comment = self.peek() == Some(b'#');
        if before_comment && in_flow {
            return None;
        }
        if before_comment {
            self.at = end;
        }
        Some(self.slice(start, end))
    }

    /// A value in quotes, without escapes but the doubled single quote, within the line.
    fn quoted(&mut self) -> Option<Cow<'t, str>> {
        let quote = self.peek()?;
        self.at += 1;
        let start = self.at;
        let mut doubled = false;
        loop {
            match self.peek()? {
                b'\n' => return None,
                b'\\' if quote == b'"' => return None,
                byte if byte == quote => {
                    if quote == b'\'' && self.peek_at(1) == Some(b'\'') {
                        doubled = true;
                        self.at += 2;
                        continue;
                    }
                    let text = self.slice(start, self.at);
                    self.at += 1;
                    return Some(if doubled { Cow::Owned(text.replace("''", "'")) } else { Cow::Borrowed(text) });
                }
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests;
