//! One query parameter of a path: its values, and the path without it.

/// The raw values of a parameter, in order. A parameter without `=` has an empty value. Names are compared after
/// percent-decoding, so that no spelling of the name gets past the filter.
pub(crate) fn values<'a>(path: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    pairs(path).filter(move |pair| is_named(pair, name)).map(value)
}

/// The path without the parameter; without the `?` too, if nothing else is after it.
pub(crate) fn without(path: &[u8], name: &str) -> Vec<u8> {
    let (base, rest) = split(path);
    let mut out = base.to_vec();
    let mut separator = b'?';
    for pair in
        rest.into_iter().flat_map(|query| query.split(|byte| *byte == b'&')).filter(|pair| !is_named(pair, name))
    {
        out.push(separator);
        out.extend_from_slice(pair);
        separator = b'&';
    }
    out
}

/// Percent-decodes; what is no valid escape stays as it is. `+` is a plus.
pub(crate) fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'%', [high, low, after @ ..]) if let (Some(high), Some(low)) = (nibble(*high), nibble(*low)) => {
                out.push((high << 4) | low);
                rest = after;
            }
            _ => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn split(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'?') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

fn pairs(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    split(path).1.into_iter().flat_map(|query| query.split(|byte| *byte == b'&'))
}

fn is_named(pair: &[u8], name: &str) -> bool {
    let raw = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    decode(raw) == name.as_bytes()
}

fn value(pair: &[u8]) -> &[u8] {
    pair.iter().position(|byte| *byte == b'=').map_or(&[], |at| &pair[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_and_removes() {
        for (path, found, left) in [
            ("/", &[][..], "/"),
            ("/?", &[], "/?"),
            ("/?a=1&b=2", &[], "/?a=1&b=2"),
            ("/?key=1", &["1"], "/"),
            ("/p?a=1&key=x%20y&b=2", &["x%20y"], "/p?a=1&b=2"),
            ("/p?key=1&a=1", &["1"], "/p?a=1"),
            ("/p?a&key&b=", &[""], "/p?a&b="),
            ("/p?key=a=b==", &["a=b=="], "/p"),
            ("/p?key=1&key=2", &["1", "2"], "/p"),
            ("/p?k%65y=1&%6b%65%79=2&a=3", &["1", "2"], "/p?a=3"),
            ("/p?KEY=1&keys=2&ke=3", &[], "/p?KEY=1&keys=2&ke=3"),
            ("/key=1?a=?key=2", &[], "/key=1?a=?key=2"),
            ("/p?&&key=1&", &["1"], "/p?&&"),
        ] {
            assert_eq!(
                values(path.as_bytes(), "key").collect::<Vec<_>>(),
                found.iter().map(|value| value.as_bytes()).collect::<Vec<_>>(),
                "{path}"
            );
            assert_eq!(String::from_utf8(without(path.as_bytes(), "key")).unwrap(), left, "{path}");
        }
    }

    #[test]
    fn decodes() {
        for (text, expected) in [
            ("", ""),
            ("abc", "abc"),
            ("a%20b", "a b"),
            ("%41%6a", "Aj"),
            ("a+b", "a+b"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%%41", "%A"),
        ] {
            assert_eq!(decode(text.as_bytes()), expected.as_bytes(), "{text}");
        }
        assert_eq!(decode(b"%ff%00"), [0xff, 0]);
    }
}
