//! A look at a module before it goes anywhere: is it a core module, and is all of it there? Whether it compiles is the
//! proxy's to say.

const MAGIC: &[u8] = b"\0asm";
const CORE: [u8; 4] = [1, 0, 0, 0];
/// The component model's version and layer.
const COMPONENT_LAYER: [u8; 2] = [1, 0];

/// As a sentence for the user.
pub(crate) fn check(bytes: &[u8]) -> Result<(), String> {
    let Some((header, mut rest)) = bytes.split_at_checked(8).filter(|(header, _)| header.starts_with(MAGIC)) else {
        return Err("not a Wasm module: it doesn't start with the Wasm magic number".to_owned());
    };
    if header[4..] != CORE {
        return Err(if header[6..] == COMPONENT_LAYER {
            "a Wasm component, but a filter is a core module (Proxy-Wasm)".to_owned()
        } else {
            "not a Wasm module of version 1".to_owned()
        });
    }
    // A file that is still being written ends within a section.
    while let Some((_, tail)) = rest.split_first() {
        rest = leb128(tail)
            .and_then(|(length, tail)| tail.get(length..))
            .ok_or_else(|| "cut off: the module ends within a section".to_owned())?;
    }
    Ok(())
}

/// An unsigned 32-bit number and what follows it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules() {
        let module = |sections: &[u8]| [b"\0asm\x01\0\0\0", sections].concat();
        let check = |bytes: &[u8], expected: &str| match check(bytes) {
            Ok(()) => assert_eq!(expected, "", "{bytes:?}"),
            Err(message) => assert!(!expected.is_empty() && message.contains(expected), "{bytes:?}: {message}"),
        };
        check(&module(&[]), "");
        check(&module(&[0, 2, 1, b'x', 1, 0]), "");
        check(&module(&[0, 0x82, 0x80, 0x00, 1, b'x']), "");
        check(b"", "magic");
        check(b"\0asm\x01\0\0", "magic");
        check(b"#!/bin/sh\n", "magic");
        check(b"\0asm\x0d\0\x01\0", "component");
        check(b"\0asm\x02\0\0\0", "version 1");
        check(&module(&[0, 3, 1, b'x']), "cut off");
        check(&module(&[0]), "cut off");
        check(&module(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), "cut off");
    }
}
