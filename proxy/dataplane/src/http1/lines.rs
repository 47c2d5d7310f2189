//! The lines of a head or of trailers, read in one pass over bytes that are all there.

use std::ops::Range;

use bytes::Bytes;
use outrigger_http::{HeaderName, Version, find_below};

/// A line that no head has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A place in a head. Every line ends with CR LF, the last one is empty.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    head: &'a Bytes,
    at: usize,
}

impl<'a> Lines<'a> {
    pub(super) const fn new(head: &'a Bytes) -> Lines<'a> {
        Lines { head, at: 0 }
    }

    /// The bytes of a place.
    pub(super) fn at(&self, place: Range<usize>) -> &'a [u8] {
        &self.head[place]
    }

    /// The same, to be kept: they share the head's memory.
    pub(super) fn share(&self, place: Range<usize>) -> Bytes {
        self.head.slice(place)
    }

    /// Whether all of the head has been read.
    pub(super) const fn is_done(&self) -> bool {
        self.at == self.head.len()
    }

    #[inline]
    pub(super) fn takes<const LENGTH: usize>(&mut self, text: &[u8; LENGTH]) -> bool {
        let found = self.head[self.at..].first_chunk() == Some(text);
        self.at += if found { LENGTH } else { 0 };
        found
    }

    /// Visible bytes up to a space, which is taken, too.
    pub(super) fn word(&mut self) -> Result<Range<usize>, Malformed> {
        let start = self.at;
        let end = find_below::<0x21>(self.head, start).ok_or(Malformed)?;
        if end == start || self.head[end] != b' ' {
            return Err(Malformed);
        }
        self.at = end + 1;
        Ok(start..end)
    }

    pub(super) fn version(&mut self) -> Result<Version, Malformed> {
        match () {
            () if self.takes(b"HTTP/1.1") => Ok(Version::Http11),
            () if self.takes(b"HTTP/1.0") => Ok(Version::Http10),
            () => Err(Malformed),
        }
    }

    /// Three digits, and a reason or none to the end of the line.
    pub(super) fn status(&mut self) -> Result<u16, Malformed> {
        let Some(digits @ [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9']) = self.head[self.at..].first_chunk::<3>() else {
            return Err(Malformed);
        };
        let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
        self.at += 3;
        if self.takes(b" ") { self.text().map(|_| status) } else { self.end().map(|()| status) }
    }

    /// The end of a line.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        if self.takes(b"\r\n") { Ok(()) } else { Err(Malformed) }
    }

    /// The next field with its value, without the spaces around it; `None`: that was all.
    pub(super) fn field(&mut self) -> Result<Option<(HeaderName, Range<usize>)>, Malformed> {
        if self.takes(b"\r\n") {
            return Ok(None);
        }
        let (name, end) = HeaderName::read(self.head, self.at).map_err(|_| Malformed)?;
        self.at = end;
        if !self.takes(b":") {
            return Err(Malformed);
        }
        let line = self.text()?;
        let text = &self.head[line.clone()];
        if let [b' ', first, .., last] = text
            && *first > b' '
            && *last > b' '
        {
            // So stand nearly all of them.
            return Ok(Some((name, line.start + 1..line.end)));
        }
        // No control character but a tab is left in it.
        let value = text.trim_ascii_start();
        let start = line.end - value.len();
        Ok(Some((name, start..start + value.trim_ascii_end().len())))
    }

    /// The rest of a line, whose end is taken, too. It holds no control characters but tabs.
    fn text(&mut self) -> Result<Range<usize>, Malformed> {
        let start = self.at;
        loop {
            self.at = find_below::<0x20>(self.head, self.at).ok_or(Malformed)?;
            if self.head[self.at] != b'\t' {
                let end = self.at;
                return self.end().map(|()| start..end);
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_without_the_spaces_around_them() {
        let check = |text: &'static str, expected: Result<&[(&str, &str)], Malformed>| {
            let head = Bytes::from_static(text.as_bytes());
            let mut lines = Lines::new(&head);
            let mut found = Vec::new();
            let end = loop {
                match lines.field() {
                    Ok(Some((name, value))) => found.push((name, head.slice(value))),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            let found: Vec<(&str, &str)> =
                found.iter().map(|(name, value)| (name.as_str(), std::str::from_utf8(value).expect("text"))).collect();
            assert_eq!(end.map(|()| &found[..]), expected, "{text:?}");
        };
        check("\r\n", Ok(&[]));
        check("a:b\r\nC: \t d e\t \r\nf:\r\ng: \r\n\r\n", Ok(&[("a", "b"), ("c", "d e"), ("f", ""), ("g", "")]));
        check("a: b\tc\u{e9}\r\n\r\n", Ok(&[("a", "b\tc\u{e9}")]));
        for bad in [
            "",
            "a",
            "a:",
            "a:b",
            "a:b\r",
            "a:b\n\r\n",
            "a:b\r\n",
            "a:b\rc\r\n\r\n",
            "a:\u{1}\r\n\r\n",
            "a:\u{7f}\r\n\r\n",
            "a b:c\r\n\r\n",
            "a :b\r\n\r\n",
            ":b\r\n\r\n",
            " a:b\r\n\r\n",
            "a:b\r\n c\r\n\r\n",
            "a\u{e9}:b\r\n\r\n",
        ] {
            check(bad, Err(Malformed));
        }
    }

    #[test]
    fn a_status_may_have_no_reason() {
        let check = |text: &'static str, expected: Result<u16, Malformed>| {
            let head = Bytes::from_static(text.as_bytes());
            let mut lines = Lines::new(&head);
            let found = lines.status();
            assert_eq!(found, expected, "{text:?}");
            assert_eq!(lines.is_done(), found.is_ok(), "{text:?}");
        };
        check("200 OK\r\n", Ok(200));
        check("204 \r\n", Ok(204));
        check("204\r\n", Ok(204));
        check("404 N\u{e9}\tr\r\n", Ok(404));
        for bad in ["20\r\n", "2000 X\r\n", "2x0 X\r\n", "200 \u{0}\r\n", "200 X\n", "200X\r\n"] {
            check(bad, Err(Malformed));
        }
    }
}
