//! Entrances for `proxy/fuzz`. Nothing else calls this.

use crate::pairs;

/// Reads a list of pairs: how many, or nothing.
///
/// # Panics
///
/// If what was read is not written as the same list.
#[must_use]
pub fn pairs(bytes: &[u8]) -> Option<usize> {
    let list = pairs::decode(bytes)?;
    let mut out = vec![0; pairs::encoded_len(list.iter().map(|(key, value)| (key.len(), value.len())))];
    pairs::encode_into(&mut out, list.len(), |each| list.iter().for_each(|(key, value)| each(key, value)));
    assert_eq!(pairs::decode(&out).as_deref(), Some(&list[..]));
    // The empty list has several forms, every other one exactly one.
    assert!(list.is_empty() || out == bytes);
    Some(list.len())
}
