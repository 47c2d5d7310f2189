//! The text forms of `Duration`, `Timestamp` and `Value`.

use super::scalar::{parse_double, parse_integer};
use super::tree::excerpt;
use crate::schema::{self, Message, WireType};
use crate::type_url;
use crate::wire::{put_delimited, put_key, put_varint};

/// 10,000 years, what a duration holds.
const SECONDS_MAX: i64 = 315_576_000_000;
const NANOS_PER_SECOND: i64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;
/// 0001-01-01 and the last second of 9999, what a timestamp holds.
const TIMESTAMP_MIN: i64 = -62_135_596_800;
const TIMESTAMP_MAX: i64 = 253_402_300_799;

/// The message of a type URL. Envoy takes any host before the slash, and so do we; the slash must be there.
pub(crate) fn message_of(url: &str) -> Option<&'static Message> {
    if url.contains('/') { schema::message(type_url::message_name(url)) } else { None }
}

/// Writes the fields of a `Duration`.
pub(crate) fn put_duration(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let (seconds, nanos) = parse_duration(text).ok_or_else(|| {
        format!("expected a duration in seconds such as 1s, 0.250s or 3600s, found {}", excerpt(text))
    })?;
    put_instant(seconds, nanos, out);
    Ok(())
}

/// Writes the fields of a `Timestamp`.
pub(crate) fn put_timestamp(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let (seconds, nanos) = parse_timestamp(text)
        .ok_or_else(|| format!("expected a time such as 2026-01-31T12:00:00Z, found {}", excerpt(text)))?;
    put_instant(seconds, nanos, out);
    Ok(())
}

fn put_instant(seconds: i64, nanos: i32, out: &mut Vec<u8>) {
    if seconds != 0 {
        put_key(out, 1, WireType::Varint);
        put_varint(out, seconds as u64);
    }
    if nanos != 0 {
        put_key(out, 2, WireType::Varint);
        put_varint(out, i64::from(nanos) as u64);
    }
}

/// Seconds and nanoseconds of one sign.
fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !digits(whole) || !digits(fraction) || whole.len() > 12 {
        return None;
    }
    let seconds: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let nanos = parse_fraction(fraction)?;
    if seconds > SECONDS_MAX || (seconds == SECONDS_MAX && nanos > 0) {
        return None;
    }
    Some(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// Nanoseconds of the digits after the point: at most nine.
fn parse_fraction(digits: &str) -> Option<i32> {
    if digits.is_empty() {
        return Some(0);
    }
    let missing = 9_usize.checked_sub(digits.len())?;
    let number: i32 = digits.parse().ok()?;
    number.checked_mul(10_i32.checked_pow(u32::try_from(missing).ok()?)?)
}

/// RFC 3339.
fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, expected: &[u8]| text.as_bytes().get(at).is_some_and(|byte| expected.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || day < 1 || day > month_days(year, month) || hour > 23 || minute > 59 || second > 59
    {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count()),
        None => ("", rest),
    };
    if rest.starts_with('.') && fraction.is_empty() {
        return None;
    }
    let offset = parse_zone(zone)?;
    let seconds = days_from_epoch(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second - offset;
    (TIMESTAMP_MIN..=TIMESTAMP_MAX).contains(&seconds).then_some((seconds, parse_fraction(fraction)?))
}

/// `Z`, `+01:00`: seconds east of Greenwich.
fn parse_zone(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let two_digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !two_digits(hours) || !two_digits(minutes) {
        return None;
    }
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar. A year starts in March here, so that its last day is the odd one.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_epoch`].
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year_of_era + era * 400 + carry, month, day)
}

/// `None` where the numbers are out of range.
pub(crate) fn duration_text(seconds: i64, nanos: i32) -> Option<String> {
    let in_range = (-SECONDS_MAX..=SECONDS_MAX).contains(&seconds) && i64::from(nanos).abs() < NANOS_PER_SECOND;
    if !in_range || (seconds < 0 && nanos > 0) || (seconds > 0 && nanos < 0) {
        return None;
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    Some(format!("{sign}{}{}s", seconds.abs(), fraction_text(nanos.abs())))
}

/// `None` where the numbers are out of range.
pub(crate) fn timestamp_text(seconds: i64, nanos: i32) -> Option<String> {
    if !(TIMESTAMP_MIN..=TIMESTAMP_MAX).contains(&seconds) || !(0..NANOS_PER_SECOND).contains(&i64::from(nanos)) {
        return None;
    }
    let (year, month, day) = date(seconds.div_euclid(DAY_SECONDS));
    let time = seconds.rem_euclid(DAY_SECONDS);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let fraction = fraction_text(nanos);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

/// Nothing, or a point and three, six or nine digits.
fn fraction_text(nanos: i32) -> String {
    match nanos {
        0 => String::new(),
        nanos if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
        nanos if nanos % 1000 == 0 => format!(".{:06}", nanos / 1000),
        nanos => format!(".{nanos:09}"),
    }
}

/// Writes a `google.protobuf.Value` that stands without quotes: a truth value, a number or a text.
///
/// Words are those of YAML 1.2: Envoy turns `yes` and `on` into a truth value, and numbers with a point and large ones into
/// text, which nobody who writes a configuration for a plugin expects.
pub(crate) fn plain_value(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    /// What a double holds exactly.
    const EXACT_MAX: i128 = 1 << 53;
    let number = match text {
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => {
            put_key(out, 4, WireType::Varint);
            put_varint(out, u64::from(text.starts_with(['t', 'T'])));
            return Ok(());
        }
        _ => parse_integer(text),
    };
    if number.is_some_and(|number| number.abs() > EXACT_MAX) {
        return Err(format!("{} is larger than what a number in JSON holds: put it in quotes", excerpt(text)));
    }
    match number.map(|number| number as f64).or_else(|| parse_double(text)) {
        Some(number) if number.is_finite() => {
            put_key(out, 2, WireType::Fixed64);
            out.extend_from_slice(&number.to_bits().to_le_bytes());
        }
        _ => {
            put_key(out, 3, WireType::Delimited);
            put_delimited(out, text.as_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text, expected| assert_eq!(parse_duration(text), expected, "{text}");
        check("1s", Some((1, 0)));
        check("0.25s", Some((0, 250_000_000)));
        check(".5s", Some((0, 500_000_000)));
        check("-1.5s", Some((-1, -500_000_000)));
        check("0.000000001s", Some((0, 1)));
        check("315576000000s", Some((SECONDS_MAX, 0)));
        for wrong in [
            "",
            "s",
            ".s",
            "1",
            "10ms",
            "1 s",
            "1.5",
            "+1s",
            "0.0000000001s",
            "315576000001s",
            "1e3s",
            "9999999999999s",
        ] {
            check(wrong, None);
        }
        for text in ["0s", "1s", "1.500s", "-0.000001s", "3600.000000001s"] {
            let (seconds, nanos) = parse_duration(text).unwrap();
            assert_eq!(duration_text(seconds, nanos).unwrap(), text);
        }
        assert_eq!(duration_text(1, -1), None);
        assert_eq!(duration_text(i64::MIN, 0), None);
        assert_eq!(duration_text(0, i32::MIN), None);
    }

    #[test]
    fn timestamps() {
        let check = |text, expected| assert_eq!(parse_timestamp(text), expected, "{text}");
        check("1970-01-01T00:00:00Z", Some((0, 0)));
        check("2000-02-29T23:59:59.5Z", Some((951_868_799, 500_000_000)));
        check("2026-11-23T23:09:00+01:00", Some((1_795_471_740, 0)));
        check("0001-01-01T00:00:00Z", Some((TIMESTAMP_MIN, 0)));
        check("9999-12-31T23:59:59.999999999Z", Some((TIMESTAMP_MAX, 999_999_999)));
        for wrong in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1:00",
            "0001-01-01T00:00:00+01:00",
        ] {
            check(wrong, None);
        }
        for text in ["1969-12-31T23:59:59Z", "1600-02-29T00:00:00.001Z", "2024-12-31T12:34:56.123456789Z"] {
            let (seconds, nanos) = parse_timestamp(text).unwrap();
            assert_eq!(timestamp_text(seconds, nanos).unwrap(), text);
        }
        assert_eq!(timestamp_text(i64::MAX, 0), None);
        assert_eq!(timestamp_text(0, -1), None);
    }
}
