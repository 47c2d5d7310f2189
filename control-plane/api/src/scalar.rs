//! Texts with a meaning: names, hosts, paths, headers, durations, quantities. Each function gives what it read or, as a
//! sentence for the user, what it expected.

use std::sync::Arc;
use std::time::Duration;

/// A DNS-1123 label: what names of namespaces, listeners and rules are made of.
pub(crate) fn label(text: &str) -> Result<Arc<str>, String> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let ok = text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if ok {
        Ok(Arc::from(text))
    } else {
        Err(format!("`{text}` is not a name: lower-case letters, digits and `-`, at most 63 characters"))
    }
}

/// A DNS-1123 subdomain: labels with dots between, what most objects are called.
pub(crate) fn subdomain(text: &str) -> Result<Arc<str>, String> {
    if text.len() <= 253 && text.split('.').all(|part| label(part).is_ok()) {
        Ok(Arc::from(text))
    } else {
        Err(format!("`{text}` is not a name: lower-case letters, digits, `-` and `.`, at most 253 characters"))
    }
}

/// `a.example` or `*.example`; an address is no hostname.
pub(crate) fn hostname(text: &str) -> Result<Arc<str>, String> {
    let error = || format!("`{text}` is not a hostname (`a.example` or `*.example`, lower case, without a port)");
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Err(error());
    }
    subdomain(text.strip_prefix("*.").unwrap_or(text)).map(|_| Arc::from(text)).map_err(|_| error())
}

/// A hostname without a wildcard.
pub(crate) fn precise_hostname(text: &str) -> Result<Arc<str>, String> {
    hostname(text).ok().filter(|name| !name.starts_with('*')).ok_or_else(|| format!("`{text}` is not a hostname"))
}

/// An absolute path as Gateway API wants it: nothing in it that a proxy would normalise away.
pub(crate) fn path(text: &str) -> Result<Arc<str>, String> {
    let problem = if !text.starts_with('/') {
        "must start with `/`"
    } else if text.len() > 1024 {
        "is longer than 1024 bytes"
    } else if text.contains("//") || text.contains("/./") || text.contains("/../") {
        "must not contain `//`, `/./` or `/../`"
    } else if text.ends_with("/..") || text.ends_with("/.") {
        "must not end in `/.` or `/..`"
    } else if text.to_ascii_lowercase().contains("%2f") {
        "must not contain an escaped slash (`%2f`)"
    } else if text.contains(['#', '?']) {
        "must not contain `#` or `?`"
    } else if text.chars().any(|c| c.is_control() || c == ' ' || !c.is_ascii()) {
        "must be written with percent escapes where it isn't printable ASCII"
    } else {
        return Ok(Arc::from(text));
    };
    Err(format!("the path {problem}"))
}

/// The length of a regular expression's program; a proxy would refuse what is larger.
const REGEX_BYTES_MAX: usize = 1 << 20;

pub(crate) fn regex(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > 4096 {
        return Err("a regular expression has 1 to 4096 characters".to_owned());
    }
    match regex::RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build() {
        Ok(_) => Ok(Arc::from(text)),
        Err(regex::Error::CompiledTooBig(_)) => Err("the regular expression is too large".to_owned()),
        Err(error) => {
            // The last line has the reason, those before it draw where.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(format!("not a regular expression: {reason}"))
        }
    }
}

/// A header's name, in lower case.
pub(crate) fn header_name(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > 256 || !text.bytes().all(is_token) {
        return Err(format!("`{text}` is not a header name"));
    }
    Ok(Arc::from(text.to_ascii_lowercase()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

pub(crate) fn header_value(text: &str) -> Result<Arc<str>, String> {
    let is_text = |c: char| c == '\t' || !c.is_control();
    if text.len() > 4096 || !text.chars().all(is_text) || text.trim_matches([' ', '\t']) != text {
        return Err("not a header value: no control characters, no blanks around it, at most 4096 bytes".to_owned());
    }
    Ok(Arc::from(text))
}

/// Gateway API's durations (GEP-2257): `10s`, `1m30s`, `500ms`; `0s` is none.
pub(crate) fn gateway_duration(text: &str) -> Result<Duration, String> {
    let error = || format!("`{text}` is not a duration like `10s`, `1m30s` or `500ms`");
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().ok().filter(|_| digits <= 5).ok_or_else(error)?;
        let (unit, length) =
            unit(tail, &[("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]).ok_or_else(error)?;
        total += Duration::from_millis(number * unit);
        rest = &tail[length..];
        parts += 1;
    }
    if (1..=4).contains(&parts) { Ok(total) } else { Err(error()) }
}

fn unit(text: &str, units: &[(&str, u64)]) -> Option<(u64, usize)> {
    units.iter().find(|(name, _)| text.starts_with(name)).map(|(name, factor)| (*factor, name.len()))
}

/// Our own durations, as Go writes them: also `500us`, `1.5s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let error = || format!("`{text}` is not a duration like `10ms`, `5s` or `1m30s`");
    let mut rest = text;
    let mut nanos = 0u64;
    if rest.is_empty() || rest.len() > 32 {
        return Err(error());
    }
    let units = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    while !rest.is_empty() {
        let length = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, tail) = rest.split_at(length);
        let (unit, unit_length) = unit(tail, &units).ok_or_else(error)?;
        nanos = decimal(number, unit).and_then(|part| nanos.checked_add(part)).ok_or_else(error)?;
        rest = &tail[unit_length..];
    }
    Ok(Duration::from_nanos(nanos))
}

/// `number` × `unit`, exactly: no more digits behind the point than the unit has.
fn decimal(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let scale = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = u128::from(fraction) * u128::from(unit);
    if part % u128::from(scale) != 0 {
        return None;
    }
    whole.checked_mul(unit)?.checked_add(u64::try_from(part / u128::from(scale)).ok()?)
}

/// Kubernetes' quantities of bytes: `64Mi`, `64Ki`, `1.5Gi`, `1M`, `65536`.
pub(crate) fn quantity(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 11] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("e3", 1_000),
        ("e6", 1_000_000),
        ("e9", 1_000_000_000),
    ];
    let error = || format!("`{text}` is not a quantity of bytes like `64Mi`, `64Ki` or `65536`");
    let (number, unit) =
        UNITS.iter().find_map(|(name, factor)| Some((text.strip_suffix(name)?, *factor))).unwrap_or((text, 1));
    decimal(number, unit).ok_or_else(error)
}

/// `5%` or `0.1%`, in millionths of the whole.
pub(crate) fn percentage(text: &str) -> Result<u32, String> {
    let error = || format!("`{text}` is not a percentage like `1%` or `0.1%`");
    let number = text.strip_suffix('%').ok_or_else(error)?;
    let millionths = decimal(number, 10_000).filter(|value| *value <= 1_000_000).ok_or_else(error)?;
    u32::try_from(millionths).map_err(|_| error())
}

/// RFC 3339 in UTC (`2025-01-31T12:00:00Z`), as API servers write it, in seconds since 1970.
pub(crate) fn timestamp(text: &str) -> Result<u64, String> {
    let error = || format!("`{text}` is not a time like 2025-01-31T12:00:00Z");
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00";
    let (head, tail) = bytes.split_at_checked(shape.len()).ok_or_else(error)?;
    let fits = head.iter().zip(shape).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        other => byte == other,
    });
    let fraction = tail.strip_suffix(b"Z").ok_or_else(error)?;
    let fraction_ok = match fraction.split_first() {
        None => true,
        Some((b'.', digits)) => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    };
    if !fits || !fraction_ok {
        return Err(error());
    }
    let part = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap_or(0);
    let (year, month, day) = (part(0, 4), part(5, 7), part(8, 10));
    let (hour, minute, second) = (part(11, 13), part(14, 16), part(17, 19));
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(error());
    }
    if hour > 23 || minute > 59 || second > 60 {
        return Err(error());
    }
    // Days since 1970 in the proleptic Gregorian calendar, with years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86_400 + hour * 3_600 + minute * 60 + second).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, gateway: Option<u64>, ours: Option<u64>| {
            let millis =
                |result: Result<Duration, String>| result.ok().map(|value| u64::try_from(value.as_millis()).unwrap());
            assert_eq!(millis(gateway_duration(text)), gateway, "{text}");
            assert_eq!(millis(duration(text)), ours, "{text}");
        };
        check("10ms", Some(10), Some(10));
        check("1m30s", Some(90_000), Some(90_000));
        check("0s", Some(0), Some(0));
        check("1h", Some(3_600_000), Some(3_600_000));
        check("1.5s", None, Some(1500));
        check("5000us", None, Some(5));
        for bad in ["", "5", "s", "-1s", "1x", "1d", "1..5s", ".s", "99999999999999h", "1s1s1s1s1s s", "5 s"] {
            check(bad, None, None);
        }
    }

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("64Mi", Some(64 << 20)),
            ("64Ki", Some(65536)),
            ("1.5Gi", Some(3 << 29)),
            ("1M", Some(1_000_000)),
            ("1e3", Some(1000)),
            ("65536", Some(65536)),
            ("0.5", None),
            ("1.5k", Some(1500)),
            ("64MB", None),
            ("", None),
            ("Mi", None),
            ("-1", None),
            ("99999999Ti", None),
        ] {
            assert_eq!(quantity(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn percentages() {
        for (text, expected) in
            [("1%", Some(10_000)), ("0.1%", Some(1000)), ("100%", Some(1_000_000)), ("101%", None), ("1", None)]
        {
            assert_eq!(percentage(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn timestamps() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:30:45Z", Some(951_827_445)),
            ("2025-11-23T23:09:00.123Z", Some(1_763_939_340)),
            ("2025-13-01T00:00:00Z", None),
            ("2025-11-23", None),
            ("2025-11-23T23:09:00+01:00", None),
            ("2025-11-23T23:09:00.Z", None),
        ] {
            assert_eq!(timestamp(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn names_hosts_and_paths() {
        for (text, is_label, is_subdomain, is_host) in [
            ("a", true, true, true),
            ("a-1", true, true, true),
            ("a.b", false, true, true),
            ("*.b", false, false, true),
            ("*", false, false, false),
            ("A", false, false, false),
            ("-a", false, false, false),
            ("a_b", false, false, false),
            ("a..b", false, false, false),
            ("10.0.0.1", false, true, false),
            ("a:80", false, false, false),
            ("", false, false, false),
        ] {
            let found = (label(text).is_ok(), subdomain(text).is_ok(), hostname(text).is_ok());
            assert_eq!(found, (is_label, is_subdomain, is_host), "{text}");
        }
        for good in ["/", "/a", "/a/", "/a%20b", "/.well-known/x"] {
            assert!(path(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "//", "/a//b", "/a/../b", "/a/..", "/%2Fa", "/a?b", "/a#b", "/a b", "/é"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
