//! A bounded-by-its-owner queue of body bytes that filters can read and edit.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Body bytes in arrival order: what a filter sees as its buffer.
#[derive(Debug, Clone, Default)]
pub struct BodyBuffer {
    /// The oldest chunk, here so that a single one needs no memory of its own. Never empty.
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
    len: usize,
}

impl BodyBuffer {
    #[must_use]
    pub const fn new() -> BodyBuffer {
        BodyBuffer { first: None, rest: VecDeque::new(), len: 0 }
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        self.len += chunk.len();
        if self.first.is_none() {
            self.first = Some(chunk);
        } else {
            self.rest.push_back(chunk);
        }
    }

    /// The next chunk, out of the buffer.
    pub fn pop(&mut self) -> Option<Bytes> {
        let chunk = std::mem::replace(&mut self.first, self.rest.pop_front())?;
        self.len -= chunk.len();
        Some(chunk)
    }

    pub fn clear(&mut self) {
        self.first = None;
        self.rest.clear();
        self.len = 0;
    }

    pub fn chunks(&self) -> impl Iterator<Item = &Bytes> {
        self.first.iter().chain(&self.rest)
    }

    /// Calls `f` with each slice of `start..start + max`, clamped to what is there.
    pub fn for_each_slice(&self, start: usize, max: usize, mut f: impl FnMut(&[u8])) {
        let end = start.saturating_add(max).min(self.len);
        let mut offset = 0;
        for chunk in self.chunks() {
            let from = start.clamp(offset, offset + chunk.len());
            let to = end.clamp(offset, offset + chunk.len());
            if from < to {
                f(&chunk[from - offset..to - offset]);
            }
            offset += chunk.len();
        }
    }

    /// `start..start + max` as one piece, clamped to what is there; shares the chunk where it lies within one.
    #[must_use]
    pub fn copy_range(&self, start: usize, max: usize) -> Bytes {
        if self.rest.is_empty() {
            let Some(chunk) = &self.first else { return Bytes::new() };
            let from = start.min(chunk.len());
            return chunk.slice(from..from.saturating_add(max).min(chunk.len()));
        }
        let mut out = BytesMut::with_capacity(max.min(self.len.saturating_sub(start)));
        self.for_each_slice(start, max, |slice| out.extend_from_slice(slice));
        out.freeze()
    }

    /// Replaces `start..start + size` (clamped) by `bytes`.
    pub fn splice(&mut self, start: usize, size: usize, bytes: Bytes) {
        let start = start.min(self.len);
        let end = start.saturating_add(size).min(self.len);
        let tail = self.copy_range(end, self.len - end);
        let head = self.copy_range(0, start);
        self.clear();
        self.push(head);
        self.push(bytes);
        self.push(tail);
    }

    /// Moves everything of `other` to the end.
    pub fn append(&mut self, other: &mut BodyBuffer) {
        if self.is_empty() {
            // Takes the other's memory instead of making its own.
            std::mem::swap(self, other);
            other.clear();
            return;
        }
        self.len += other.len;
        self.rest.extend(other.first.take());
        self.rest.append(&mut other.rest);
        other.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(chunks: &[&'static str]) -> BodyBuffer {
        let mut buffer = BodyBuffer::new();
        for chunk in chunks {
            buffer.push(Bytes::from_static(chunk.as_bytes()));
        }
        buffer
    }

    #[test]
    fn ranges_are_clamped() {
        let check = |chunks: &[&'static str], start, max, expected: &str| {
            assert_eq!(buffer(chunks).copy_range(start, max), expected.as_bytes());
        };
        check(&[], 0, 10, "");
        check(&["abc"], 0, usize::MAX, "abc");
        check(&["abc"], 1, 1, "b");
        check(&["abc"], 5, 1, "");
        check(&["abc", "def", "g"], 2, 3, "cde");
        check(&["abc", "def", "g"], usize::MAX, usize::MAX, "");
    }

    #[test]
    fn splice_replaces_inserts_and_appends() {
        let check = |chunks: &[&'static str], start, size, with: &'static str, expected: &str| {
            let mut found = buffer(chunks);
            found.splice(start, size, Bytes::from_static(with.as_bytes()));
            assert_eq!(found.copy_range(0, usize::MAX), expected.as_bytes());
            assert_eq!(found.len(), expected.len());
        };
        check(&["abc", "def"], 0, 6, "X", "X");
        check(&["abc", "def"], 0, 0, "X", "Xabcdef");
        check(&["abc", "def"], 99, 1, "X", "abcdefX");
        check(&["abc", "def"], 2, 2, "X", "abXef");
        check(&["abc"], 0, usize::MAX, "", "");
    }
}
