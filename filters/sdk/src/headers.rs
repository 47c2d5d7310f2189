//! Header and trailer maps of a stream, and the rules for names and values.
//!
//! [`Headers`] is a handle: each method is exactly one hostcall, nothing is cached, so a filter pays for what it asks.

use crate::abi::{self, HostError, Map};

/// The longest header name that [`check_name`] accepts, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// The longest header value that [`check_value`] accepts, in bytes.
pub const VALUE_BYTES_MAX: usize = 8 * 1024;

/// One header or trailer map of the stream whose callback runs.
///
/// Names are matched without regard to case, and hosts keep them in lower case; pass them so.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    map: Map,
}

impl Headers {
    pub(crate) const fn new(map: Map) -> Self {
        Self { map }
    }

    /// The first value of a header. Where a header may be repeated and that matters, use [`Headers::all`].
    ///
    /// # Errors
    /// The host refuses: the map is not there in this callback.
    pub fn get(self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        abi::map_get(self.map, name)
    }

    /// Every entry in order, repeated ones included, in one hostcall.
    ///
    /// # Errors
    /// The host refuses: the map is not there in this callback.
    pub fn all(self) -> Result<HeaderList, HostError> {
        abi::map_pairs(self.map).map(HeaderList::new)
    }

    /// Replaces the header, or adds it.
    ///
    /// Envoy 1.40 leaves exactly this entry of a repeated header (measured), but the specification does not promise it.
    /// Where a client must not be able to smuggle a second value in, use [`Headers::overwrite`].
    ///
    /// # Errors
    /// The host refuses the value, or the map cannot be written in this callback.
    pub fn set(self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HostError> {
        abi::map_set(self.map, name, value.as_ref())
    }

    /// Removes every entry of the header, then adds this one: two hostcalls, and exactly one entry on every host.
    ///
    /// # Errors
    /// The host refuses the value, or the map cannot be written in this callback.
    pub fn overwrite(self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HostError> {
        abi::map_remove(self.map, name)?;
        abi::map_add(self.map, name, value.as_ref())
    }

    /// Adds an entry beside those that are there.
    ///
    /// # Errors
    /// The host refuses the value, or the map cannot be written in this callback.
    pub fn add(self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HostError> {
        abi::map_add(self.map, name, value.as_ref())
    }

    /// Removes every entry of the header; one that is not there is no error.
    ///
    /// # Errors
    /// The map cannot be written in this callback.
    pub fn remove(self, name: &str) -> Result<(), HostError> {
        abi::map_remove(self.map, name)
    }
}

/// A copy of a whole map, as the host serialized it.
#[derive(Clone, Debug, Default)]
pub struct HeaderList {
    bytes: Vec<u8>,
}

impl HeaderList {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Name and value of every entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let count = read_u32(&self.bytes, 0).unwrap_or(0);
        let data = count.checked_mul(8).and_then(|sizes| sizes.checked_add(4)).unwrap_or(usize::MAX);
        Entries { bytes: &self.bytes, sizes: 4, data, left: count }
    }

    /// Every value of one header, in order. The name is compared without regard to case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }
}

/// Walks `u32 count`, count × (`u32 key`, `u32 value` sizes), then the entries, each part ended by NUL. It ends at the
/// first size that does not fit.
struct Entries<'a> {
    bytes: &'a [u8],
    sizes: usize,
    data: usize,
    left: usize,
}

impl<'a> Entries<'a> {
    fn part(&mut self, size: usize) -> Option<&'a [u8]> {
        let end = self.data.checked_add(size)?;
        let part = self.bytes.get(self.data..end)?;
        self.data = end.checked_add(1)?;
        Some(part)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (key_size, value_size) = (read_u32(self.bytes, self.sizes)?, read_u32(self.bytes, self.sizes + 4)?);
        self.sizes += 8;
        Some((self.part(key_size)?, self.part(value_size)?))
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(word)).ok()
}

/// The serialized form that hostcalls take.
pub(crate) fn serialize<'a>(pairs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Vec<u8> {
    // Sizes are of data that a filter holds in its 32-bit memory, so they fit.
    let word = |size: usize| u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&word(pairs.len()));
    for (key, value) in pairs.clone() {
        bytes.extend_from_slice(&word(key.len()));
        bytes.extend_from_slice(&word(value.len()));
    }
    for (key, value) in pairs {
        for part in [key, value] {
            bytes.extend_from_slice(part);
            bytes.push(0);
        }
    }
    bytes
}

/// Checks that a header name is a token (RFC 9110 §5.6.2) of bounded length. Pseudo-headers (`:path`) are none.
///
/// # Errors
/// What is wrong, as words that follow the field's path.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("is longer than {NAME_BYTES_MAX} bytes"));
    }
    if name.starts_with(':') {
        return Err(format!("`{}` is a pseudo-header", name.escape_default()));
    }
    match name.bytes().find(|byte| !is_token(*byte)) {
        Some(byte) => Err(format!("`{}` has {}, which no header name may have", name.escape_default(), shown(byte))),
        None => Ok(()),
    }
}

/// Checks that a header value has no byte that RFC 9110 §5.5 forbids (CR, LF, NUL, other controls), neither begins nor
/// ends with white space, and is of bounded length.
///
/// # Errors
/// What is wrong, as words that follow the field's path.
pub fn check_value(value: &str) -> Result<(), String> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("is longer than {VALUE_BYTES_MAX} bytes"));
    }
    if value.starts_with([' ', '\t']) || value.ends_with([' ', '\t']) {
        return Err("begins or ends with white space".to_owned());
    }
    match value.bytes().find(|byte| byte.is_ascii_control() && *byte != b'\t') {
        Some(byte) => Err(format!("has {}, which no header value may have", shown(byte))),
        None => Ok(()),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn shown(byte: u8) -> String {
    match byte {
        b'\r' => "a carriage return".to_owned(),
        b'\n' => "a line feed".to_owned(),
        0 => "a NUL".to_owned(),
        b' ' => "a space".to_owned(),
        0x21..=0x7e => format!("`{}`", char::from(byte)),
        _ => format!("the byte 0x{byte:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["x-a", "X-Api-Key", "a", "x_1!#$%&'*+-.^`|~"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for (bad, reason) in [
            ("", "is empty"),
            (":path", "pseudo-header"),
            ("a b", "a space"),
            ("a:b", "`:`"),
            ("a\r\nb", "a carriage return"),
            ("a\0", "a NUL"),
            ("é", "0xc3"),
            (&long, "longer than 256"),
        ] {
            let error = check_name(bad).unwrap_err();
            assert!(error.contains(reason), "{bad:?}: {error}");
        }
    }

    #[test]
    fn values() {
        for good in ["", "a", "a b\tc", "grün", "\"quoted\""] {
            assert_eq!(check_value(good), Ok(()), "{good}");
        }
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        for (bad, reason) in [
            ("a\r\nb: c", "a carriage return"),
            ("a\nb", "a line feed"),
            ("a\0", "a NUL"),
            ("a\x7f", "0x7f"),
            (" a", "white space"),
            ("a\t", "white space"),
            (&long, "longer than 8192"),
        ] {
            let error = check_value(bad).unwrap_err();
            assert!(error.contains(reason), "{bad:?}: {error}");
        }
    }

    #[test]
    fn lists_survive_the_round_trip() {
        let pairs: [(&[u8], &[u8]); 4] = [(b"a", b"1"), (b"B", b""), (b"a", b"\xff\x00"), (b"", b"x")];
        let list = HeaderList::new(serialize(pairs.iter().copied()));
        assert_eq!(list.iter().collect::<Vec<_>>(), pairs);
        assert_eq!(list.values("A").collect::<Vec<_>>(), [&b"1"[..], b"\xff\x00"]);
        assert_eq!(list.values("b").collect::<Vec<_>>(), [b""]);
    }

    #[test]
    fn broken_lists_end_early() {
        let whole = serialize([(&b"key"[..], &b"value"[..]), (b"k2", b"v2")].into_iter());
        for cut in 0..whole.len() {
            assert!(HeaderList::new(whole[..cut].to_vec()).iter().count() <= 2, "cut at {cut}");
        }
        for bytes in
            [&[][..], &[0], &[0; 4], &[0xff; 4], &[0xff; 64], &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]]
        {
            assert_eq!(HeaderList::new(bytes.to_vec()).iter().count(), 0, "{bytes:?}");
        }
    }
}
