//! An ordered multimap of header fields.

use bytes::Bytes;

use crate::HeaderName;

/// Header fields or trailers, in order, duplicates kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    entries: Vec<(HeaderName, Bytes)>,
}

/// A value with CR, LF or NUL, which would split a message (RFC 9110 §5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("header value contains CR, LF or NUL")]
pub struct InvalidValue;

/// Whether a value can stand in a message: no CR, LF or NUL (RFC 9110 §5.5).
#[must_use]
pub fn valid_value(value: &[u8]) -> bool {
    !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

impl Headers {
    #[must_use]
    pub const fn new() -> Headers {
        Headers { entries: Vec::new() }
    }

    #[must_use]
    pub fn with_capacity(capacity: usize) -> Headers {
        Headers { entries: Vec::with_capacity(capacity) }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The sum of the lengths of names and values.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        self.entries.iter().map(|(name, value)| name.as_bytes().len() + value.len()).sum()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, (HeaderName, Bytes)> {
        self.entries.iter()
    }

    /// The first value of a name.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<&Bytes> {
        self.entries.iter().find(|(entry, _)| entry == name).map(|(_, value)| value)
    }

    /// Every value of a name, in order.
    pub fn get_all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a Bytes> {
        self.entries.iter().filter(move |(entry, _)| entry == name).map(|(_, value)| value)
    }

    #[must_use]
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Adds an entry at the end. The caller has checked the value (a codec's parser refuses what [`valid_value`] does).
    pub fn append(&mut self, name: HeaderName, value: Bytes) {
        debug_assert!(valid_value(&value));
        self.entries.push((name, value));
    }

    /// Adds an entry at the end, unless the value would split a message.
    pub fn try_append(&mut self, name: HeaderName, value: Bytes) -> Result<(), InvalidValue> {
        if !valid_value(&value) {
            return Err(InvalidValue);
        }
        self.entries.push((name, value));
        Ok(())
    }

    /// Replaces all entries of a name by one, at the place of the first. The caller has checked the value.
    pub fn set(&mut self, name: HeaderName, value: Bytes) {
        debug_assert!(valid_value(&value));
        let Some(first) = self.entries.iter().position(|(entry, _)| *entry == name) else {
            self.entries.push((name, value));
            return;
        };
        self.entries[first].1 = value;
        if self.entries[first + 1..].iter().any(|(entry, _)| *entry == name) {
            let mut index = 0;
            self.entries.retain(|(entry, _)| {
                let keep = index <= first || *entry != name;
                index += 1;
                keep
            });
        }
    }

    /// Replaces all entries of a name by one, unless the value would split a message.
    pub fn try_set(&mut self, name: HeaderName, value: Bytes) -> Result<(), InvalidValue> {
        if !valid_value(&value) {
            return Err(InvalidValue);
        }
        self.set(name, value);
        Ok(())
    }

    /// Removes all entries of a name; how many there were.
    pub fn remove(&mut self, name: &HeaderName) -> usize {
        let before = self.entries.len();
        self.entries.retain(|(entry, _)| entry != name);
        before - self.entries.len()
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &Bytes) -> bool) {
        self.entries.retain(|(name, value)| keep(name, value));
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = &'a (HeaderName, Bytes);
    type IntoIter = std::slice::Iter<'a, (HeaderName, Bytes)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

impl IntoIterator for Headers {
    type Item = (HeaderName, Bytes);
    type IntoIter = std::vec::IntoIter<(HeaderName, Bytes)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl FromIterator<(HeaderName, Bytes)> for Headers {
    fn from_iter<I: IntoIterator<Item = (HeaderName, Bytes)>>(entries: I) -> Headers {
        Headers { entries: entries.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> Headers {
        text.split_whitespace()
            .map(|entry| {
                let (name, value) = entry.split_once('=').expect("name=value");
                (HeaderName::from_bytes(name.as_bytes()).expect("a token"), Bytes::copy_from_slice(value.as_bytes()))
            })
            .collect()
    }

    #[test]
    fn set_replaces_in_place_and_removes_the_rest() {
        let check = |before: &str, name: &str, value: &'static str, after: &str| {
            let mut found = headers(before);
            found.set(HeaderName::from_bytes(name.as_bytes()).expect("a token"), Bytes::from_static(value.as_bytes()));
            assert_eq!(found, headers(after));
        };
        check("a=1 b=2", "c", "3", "a=1 b=2 c=3");
        check("a=1 b=2 c=3", "b", "9", "a=1 b=9 c=3");
        check("a=1 b=2 a=3 c=4 a=5", "a", "9", "a=9 b=2 c=4");
    }

    #[test]
    fn values_that_split_a_message_are_refused() {
        for bad in ["a\rb", "a\nb", "a\0b", "\r\n"] {
            let mut found = Headers::new();
            let value = Bytes::from_static(bad.as_bytes());
            assert_eq!(found.try_append(HeaderName::HOST, value.clone()), Err(InvalidValue));
            assert_eq!(found.try_set(HeaderName::HOST, value), Err(InvalidValue));
            assert!(found.is_empty());
        }
    }

    #[test]
    fn order_and_duplicates_are_kept() {
        let mut found = headers("a=1 b=2 a=3");
        assert_eq!(found.get_all(&HeaderName::from_bytes(b"A").expect("a token")).count(), 2);
        assert_eq!(found.remove(&HeaderName::from_bytes(b"a").expect("a token")), 2);
        assert_eq!(found, headers("b=2"));
    }
}
