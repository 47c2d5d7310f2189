//! JSON as access logs have it (RFC 8259), in one line.

use std::io::Write;

use outrigger_http::{MetadataStruct, MetadataValue};

/// A string; what is no UTF-8 becomes U+FFFD.
pub(crate) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            // Control characters, and what ends a line in JavaScript: writing to a vector cannot fail.
            '\0'..' ' | '\x7f' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// A value of metadata, whose depth is bounded where it is made.
pub(crate) fn write_value(value: &MetadataValue, out: &mut Vec<u8>) {
    match value {
        MetadataValue::Null => out.extend_from_slice(b"null"),
        MetadataValue::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        MetadataValue::Number(bits) => {
            let number = f64::from_bits(*bits);
            // There are no other numbers in JSON. Writing to a vector cannot fail.
            let _ = if number.is_finite() { write!(out, "{number}") } else { write!(out, "null") };
        }
        MetadataValue::String(text) => write_string(text.as_bytes(), out),
        MetadataValue::List(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(value, out);
            }
            out.push(b']');
        }
        MetadataValue::Struct(fields) => write_struct(fields, out),
    }
}

pub(crate) fn write_struct(fields: &MetadataStruct, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(name.as_bytes(), out);
        out.push(b':');
        write_value(value, out);
    }
    out.push(b'}');
}
