//! Single values: numbers, words, text, bytes, enums.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::suggest;
use super::tree::excerpt;
use crate::schema::{Enum, EnumValue, Field, Kind};
use crate::wire::{put_delimited, put_key, put_varint};

/// A single value as it stands in the text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar<'n> {
    pub(crate) text: &'n str,
    pub(crate) quoted: bool,
}

/// A single value as it stands on the wire.
enum Binary<'n> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Delimited(Cow<'n, [u8]>),
}

impl Binary<'_> {
    fn is_default(&self) -> bool {
        match self {
            Self::Varint(number) | Self::Fixed64(number) => *number == 0,
            Self::Fixed32(number) => *number == 0,
            Self::Delimited(bytes) => bytes.is_empty(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Varint(number) => put_varint(out, *number),
            Self::Fixed64(number) => out.extend_from_slice(&number.to_le_bytes()),
            Self::Fixed32(number) => out.extend_from_slice(&number.to_le_bytes()),
            Self::Delimited(bytes) => put_delimited(out, bytes),
        }
    }
}

/// Writes a field with its key; nothing if it is the default and that may be left out.
pub(crate) fn put(field: &Field, scalar: &Scalar<'_>, skip_default: bool, out: &mut Vec<u8>) -> Result<(), String> {
    let binary = binary(field, scalar)?;
    if !(skip_default && binary.is_default()) {
        put_key(out, field.number(), field.kind().wire_type());
        binary.put(out);
    }
    Ok(())
}

/// Writes an element of a packed field.
pub(crate) fn put_value(field: &Field, scalar: &Scalar<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    binary(field, scalar)?.put(out);
    Ok(())
}

fn binary<'n>(field: &Field, scalar: &Scalar<'n>) -> Result<Binary<'n>, String> {
    Ok(match field.kind() {
        Kind::String => Binary::Delimited(Cow::Borrowed(string(scalar)?.as_bytes())),
        Kind::Bytes => Binary::Delimited(Cow::Owned(bytes(scalar)?)),
        Kind::Bool => Binary::Varint(u64::from(boolean(scalar)?)),
        Kind::Enum => match field.enumeration() {
            Some(enumeration) => Binary::Varint(i64::from(enum_number(enumeration, scalar)?) as u64),
            None => return Err("an enum without values".to_owned()),
        },
        Kind::Double => Binary::Fixed64(double(scalar)?.to_bits()),
        Kind::Float => Binary::Fixed32(float(scalar)?.to_bits()),
        Kind::Int32 => Binary::Varint(integer(scalar, i32::MIN.into(), i32::MAX.into())? as u64),
        Kind::Int64 => Binary::Varint(integer(scalar, i64::MIN.into(), i64::MAX.into())? as u64),
        Kind::Uint32 => Binary::Varint(integer(scalar, 0, u32::MAX.into())? as u64),
        Kind::Uint64 => Binary::Varint(integer(scalar, 0, u64::MAX.into())? as u64),
        Kind::Sint32 => Binary::Varint(zigzag(integer(scalar, i32::MIN.into(), i32::MAX.into())?)),
        Kind::Sint64 => Binary::Varint(zigzag(integer(scalar, i64::MIN.into(), i64::MAX.into())?)),
        Kind::Fixed32 => Binary::Fixed32(integer(scalar, 0, u32::MAX.into())? as u32),
        Kind::Sfixed32 => Binary::Fixed32(integer(scalar, i32::MIN.into(), i32::MAX.into())? as u32),
        Kind::Fixed64 => Binary::Fixed64(integer(scalar, 0, u64::MAX.into())? as u64),
        Kind::Sfixed64 => Binary::Fixed64(integer(scalar, i64::MIN.into(), i64::MAX.into())? as u64),
        Kind::Message => return Err("expected a mapping".to_owned()),
    })
}

fn zigzag(number: i128) -> u64 {
    let number = number as i64;
    ((number << 1) ^ (number >> 63)) as u64
}

/// Envoy takes no number and no truth value where a text belongs, so that nobody relies on how it would be spelled.
fn string<'n>(scalar: &Scalar<'n>) -> Result<&'n str, String> {
    let text = scalar.text;
    let is_number = || parse_integer(text).is_some_and(|number| i32::try_from(number).is_ok());
    if !scalar.quoted && (matches!(text, "true" | "false") || is_number()) {
        return Err(format!("expected a text, found {text}: put it in quotes"));
    }
    Ok(text)
}

fn bytes(scalar: &Scalar<'_>) -> Result<Vec<u8>, String> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(false);
    let alphabet = if scalar.text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let decoded = GeneralPurpose::new(alphabet, LENIENT).decode(scalar.text);
    decoded.map_err(|error| format!("expected bytes in base64: {error}"))
}

/// The words that Envoy takes, those of YAML 1.1, without quotes.
fn boolean(scalar: &Scalar<'_>) -> Result<bool, String> {
    const TRUE: &[&str] = &["true", "True", "TRUE", "y", "Y", "yes", "Yes", "YES", "on", "On", "ON"];
    const FALSE: &[&str] = &["false", "False", "FALSE", "n", "N", "no", "No", "NO", "off", "Off", "OFF"];
    match (scalar.quoted, TRUE.contains(&scalar.text), FALSE.contains(&scalar.text)) {
        (false, true, _) => Ok(true),
        (false, _, true) => Ok(false),
        (true, true, _) | (true, _, true) => {
            Err(format!("expected true or false, found \"{}\": drop the quotes", scalar.text))
        }
        _ => Err(format!("expected true or false, found {}", excerpt(scalar.text))),
    }
}

fn enum_number(enumeration: &Enum, scalar: &Scalar<'_>) -> Result<i32, String> {
    let values = enumeration.values();
    let number = parse_integer(scalar.text);
    let found = values
        .iter()
        .find(|value| value.name() == scalar.text || number.is_some_and(|number| number == value.number().into()));
    if let Some(value) = found {
        return Ok(value.number());
    }
    const NAMED_MAX: usize = 12;
    let names = || values.iter().map(EnumValue::name);
    let mut text = format!("{} has no value {}", enumeration.name(), excerpt(scalar.text));
    let written = match suggest::nearest(scalar.text, names()) {
        Some(nearest) => write!(text, "; did you mean {nearest}?"),
        None if values.len() <= NAMED_MAX => write!(text, ", but {}", names().collect::<Vec<_>>().join(", ")),
        None => Ok(()),
    };
    debug_assert!(written.is_ok(), "writing to a String can't fail");
    Err(text)
}

/// An integer within bounds, also where it is written as `1e3` or `1.0`, which JSON allows.
fn integer(scalar: &Scalar<'_>, min: i128, max: i128) -> Result<i128, String> {
    let number = parse_integer(scalar.text).or_else(|| parse_whole(scalar.text));
    match number {
        Some(number) if number >= min && number <= max => Ok(number),
        Some(_) => Err(format!("{} is out of range: {min} to {max}", excerpt(scalar.text))),
        None => Err(format!("expected a whole number, found {}", excerpt(scalar.text))),
    }
}

/// Decimal, and YAML's `0x1f` and `0o17`.
pub(crate) fn parse_integer(text: &str) -> Option<i128> {
    const DIGITS_MAX: usize = 30;
    if text.len() > DIGITS_MAX || !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let number = if let Some(hex) = digits.strip_prefix("0x") {
        i128::from_str_radix(hex, 16)
    } else if let Some(octal) = digits.strip_prefix("0o") {
        i128::from_str_radix(octal, 8)
    } else if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse()
    } else {
        return None;
    };
    // What follows a prefix may hold a sign of its own, which no number has.
    number.ok().filter(|number| *number >= 0).map(|number| if negative { -number } else { number })
}

fn parse_whole(text: &str) -> Option<i128> {
    let number = parse_double(text)?;
    (number.is_finite() && number.fract() == 0.0 && number.abs() < 1e20).then_some(number as i128)
}

/// A number as JSON and YAML write it; Rust's parser alone takes `inf` and `nan` as well.
pub(crate) fn parse_double(text: &str) -> Option<f64> {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Some(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    let is_number = text.bytes().any(|byte| byte.is_ascii_digit())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    if is_number { text.parse().ok() } else { parse_integer(text).map(|number| number as f64) }
}

fn double(scalar: &Scalar<'_>) -> Result<f64, String> {
    let number = match scalar.text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        text => parse_double(text),
    };
    match number {
        // The only way to infinity is its name.
        Some(number) if number.is_infinite() && scalar.text.bytes().any(|byte| byte.is_ascii_digit()) => {
            Err(format!("{} is out of range", excerpt(scalar.text)))
        }
        Some(number) => Ok(number),
        None => Err(format!("expected a number, found {}", excerpt(scalar.text))),
    }
}

fn float(scalar: &Scalar<'_>) -> Result<f32, String> {
    let number = double(scalar)?;
    let narrow = number as f32;
    if number.is_finite() && narrow.is_infinite() {
        return Err(format!("{} is out of range", excerpt(scalar.text)));
    }
    Ok(narrow)
}
