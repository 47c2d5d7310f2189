//! Protobuf's binary form, read and written field by field. Nothing here knows any message.

use std::fmt;

use crate::schema::WireType;

/// A field's value, not interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Delimited(&'a [u8]),
    Fixed32(u32),
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A field ends after its message.
    Truncated,
    /// A number of more than ten bytes, or of more than 64 bits.
    Varint,
    /// Groups, and the two numbers that stand for nothing.
    WireType,
    /// Zero, or above 2^29 - 1.
    FieldNumber,
    /// A field is of another wire type than its type has.
    Mismatch,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the message is cut off",
            Self::Varint => "a number is longer than 64 bits",
            Self::WireType => "a field has a wire type that is not in use",
            Self::FieldNumber => "a field has an impossible number",
            Self::Mismatch => "a field has another wire type than its message defines",
        })
    }
}

impl std::error::Error for Malformed {}

/// The fields of a message, in the order in which they stand.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's number and value; `None` at the end.
    pub(crate) fn field(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed::FieldNumber)?;
        let number = key >> 3;
        if number == 0 {
            return Err(Malformed::FieldNumber);
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed::Truncated)?;
                Value::Delimited(self.take(len)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Malformed::WireType),
        };
        Ok(Some((number, value)))
    }

    /// The next element of a packed field.
    pub(crate) fn element(&mut self, wire_type: WireType) -> Result<Value<'a>, Malformed> {
        Ok(match wire_type {
            WireType::Varint => Value::Varint(self.varint()?),
            WireType::Fixed64 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            WireType::Fixed32 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            WireType::Delimited => return Err(Malformed::Mismatch),
        })
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for index in 0..10 {
            let Some((byte, rest)) = self.rest.split_first() else { return Err(Malformed::Truncated) };
            self.rest = rest;
            // The tenth byte has room for one bit.
            if index == 9 && *byte > 1 {
                return Err(Malformed::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Varint)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }
}

/// Appends a field's number and wire type.
pub(crate) fn put_key(to: &mut Vec<u8>, number: u32, wire_type: WireType) {
    put_varint(to, u64::from(number) << 3 | wire_type as u64);
}

/// Appends a number.
pub(crate) fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Appends a string, bytes or a whole message.
pub(crate) fn put_delimited(to: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

/// Where a length belongs that is known once its content is written.
#[derive(Debug)]
pub(crate) struct Open(usize);

/// Leaves room for the length of what is appended until [`close`].
pub(crate) fn open(to: &mut Vec<u8>) -> Open {
    to.push(0);
    Open(to.len())
}

/// Fills in the length. Content of 128 bytes and more moves, which costs a copy of it for each level of messages around.
pub(crate) fn close(to: &mut Vec<u8>, start: &Open) {
    let len = to.len().saturating_sub(start.0);
    let Some(slot) = start.0.checked_sub(1) else { return };
    if len < 0x80 {
        if let Some(byte) = to.get_mut(slot) {
            *byte = len as u8;
        }
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    put_varint(&mut prefix, len as u64);
    to.splice(slot..start.0, prefix);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<&[(u32, Value<'_>)], Malformed>) {
        let mut reader = Reader::new(bytes);
        let mut fields = Vec::new();
        let result = loop {
            match reader.field() {
                Ok(Some(field)) => fields.push(field),
                Ok(None) => break Ok(fields.as_slice()),
                Err(malformed) => break Err(malformed),
            }
        };
        assert_eq!(result, expected);
    }

    #[test]
    fn fields_are_read() {
        check(&[], Ok(&[]));
        check(&[0x08, 0x96, 0x01], Ok(&[(1, Value::Varint(150))]));
        check(&[0x12, 2, b'h', b'i', 0x12, 0], Ok(&[(2, Value::Delimited(b"hi")), (2, Value::Delimited(b""))]));
        check(&[0x0d, 1, 0, 0, 0], Ok(&[(1, Value::Fixed32(1))]));
        check(&[0x09, 1, 0, 0, 0, 0, 0, 0, 0], Ok(&[(1, Value::Fixed64(1))]));
        let minus_one = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        check(&minus_one, Ok(&[(1, Value::Varint(u64::MAX))]));
    }

    #[test]
    fn malformed_bytes_are_named() {
        check(&[0x08], Err(Malformed::Truncated));
        check(&[0x08, 0x80], Err(Malformed::Truncated));
        check(&[0x12, 3, b'h', b'i'], Err(Malformed::Truncated));
        check(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Err(Malformed::Truncated));
        check(&[0x0d, 1, 0, 0], Err(Malformed::Truncated));
        check(&[0x0b], Err(Malformed::WireType));
        check(&[0x0c], Err(Malformed::WireType));
        check(&[0x0f], Err(Malformed::WireType));
        check(&[0x00, 0], Err(Malformed::FieldNumber));
        check(&[0x80, 0x80, 0x80, 0x80, 0x10, 0], Err(Malformed::FieldNumber));
        check(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], Err(Malformed::Varint));
    }

    #[test]
    fn lengths_are_filled_in() {
        for len in [0, 1, 127, 128, 129, 20_000] {
            let mut bytes = vec![7];
            let start = open(&mut bytes);
            bytes.extend(std::iter::repeat_n(9, len));
            close(&mut bytes, &start);
            let mut expected = vec![7];
            put_delimited(&mut expected, &vec![9; len]);
            assert_eq!(bytes, expected);
        }
    }
}
