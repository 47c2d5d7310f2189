//! `%START_TIME(%Y-%m-%d)%`: a subset of strftime, without a calendar library.

use std::borrow::Cow;
use std::io::Write;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// A compiled time format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimeFormat {
    items: Vec<Item>,
    is_local: bool,
}

/// How far a place's time is from UTC at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalZone {
    /// To the east.
    pub offset_seconds: i64,
    /// `CET`.
    pub abbreviation: Cow<'static, str>,
}

static LOCAL_ZONE: OnceLock<fn(i64) -> LocalZone> = OnceLock::new();

pub(super) fn set_local_zone(zone: fn(i64) -> LocalZone) {
    LOCAL_ZONE.get_or_init(|| zone);
}

const UTC: LocalZone = LocalZone { offset_seconds: 0, abbreviation: Cow::Borrowed("UTC") };

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Literal(char),
    Year,
    YearShort,
    Month,
    MonthName {
        long: bool,
    },
    Day,
    DaySpaced,
    DayOfYear,
    Weekday {
        long: bool,
    },
    Hour,
    Hour12,
    AmPm,
    Minute,
    Second,
    Epoch,
    /// `+0100`.
    Offset,
    /// `CET`.
    Zone,
    /// So many digits of the fraction of a second.
    Fraction(usize),
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl TimeFormat {
    /// The format; the error is the conversion that isn't known.
    pub(crate) fn parse(text: &str) -> Result<TimeFormat, String> {
        let mut items = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                items.push(Item::Literal(c));
                continue;
            }
            let conversion = chars.next().ok_or("ends with %")?;
            match conversion {
                'E' => {
                    let digits = chars.next().and_then(|digit| digit.to_digit(10)).filter(|n| (1..=9).contains(n));
                    let Some(digits) = digits.filter(|_| chars.next() == Some('S')) else {
                        return Err("%E is followed by a digit and S, as in %E3S".to_owned());
                    };
                    items.extend([Item::Second, Item::Literal('.'), Item::Fraction(digits as usize)]);
                }
                '1'..='9' => {
                    if chars.next() != Some('f') {
                        return Err(format!("%{conversion} is not followed by f"));
                    }
                    items.push(Item::Fraction(conversion.to_digit(10).unwrap_or(3) as usize));
                }
                _ => items.extend(conversion_items(conversion).ok_or_else(|| format!("%{conversion} is not known"))?),
            }
        }
        Ok(TimeFormat { items, is_local: false })
    }

    /// The same in local time.
    pub(crate) fn local(self) -> TimeFormat {
        TimeFormat { is_local: true, ..self }
    }

    /// `2026-01-31T23:59:59.123+0100`, in local time.
    pub(crate) fn iso_local() -> TimeFormat {
        let mut format = TimeFormat::iso().local();
        format.items.pop();
        format.items.push(Item::Offset);
        format
    }

    /// `2026-01-31T23:59:59.123Z`.
    pub(crate) fn iso() -> TimeFormat {
        use Item::{Day, Fraction, Hour, Literal, Minute, Month, Second, Year};
        let items = vec![
            Year,
            Literal('-'),
            Month,
            Literal('-'),
            Day,
            Literal('T'),
            Hour,
            Literal(':'),
            Minute,
            Literal(':'),
            Second,
            Literal('.'),
            Fraction(3),
            Literal('Z'),
        ];
        TimeFormat { items, is_local: false }
    }

    pub(crate) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let zone = LOCAL_ZONE.get().filter(|_| self.is_local);
        let at = Civil::of(time, zone);
        for item in &self.items {
            at.write(item, out);
        }
    }
}

fn conversion_items(conversion: char) -> Option<Vec<Item>> {
    use Item::{
        AmPm, Day, DayOfYear, DaySpaced, Epoch, Fraction, Hour, Hour12, Literal, Minute, Month, MonthName, Offset,
        Second, Weekday, Year, YearShort, Zone,
    };
    Some(match conversion {
        '%' => vec![Literal('%')],
        'n' => vec![Literal('\n')],
        't' => vec![Literal('\t')],
        'Y' => vec![Year],
        'y' => vec![YearShort],
        'm' => vec![Month],
        'd' => vec![Day],
        'e' => vec![DaySpaced],
        'j' => vec![DayOfYear],
        'H' => vec![Hour],
        'I' => vec![Hour12],
        'M' => vec![Minute],
        'S' => vec![Second],
        'p' => vec![AmPm],
        's' => vec![Epoch],
        'f' => vec![Fraction(9)],
        'a' => vec![Weekday { long: false }],
        'A' => vec![Weekday { long: true }],
        'b' | 'h' => vec![MonthName { long: false }],
        'B' => vec![MonthName { long: true }],
        'F' => vec![Year, Literal('-'), Month, Literal('-'), Day],
        'D' => vec![Month, Literal('/'), Day, Literal('/'), YearShort],
        'T' => vec![Hour, Literal(':'), Minute, Literal(':'), Second],
        'R' => vec![Hour, Literal(':'), Minute],
        'z' => vec![Offset],
        'Z' => vec![Zone],
        _ => return None,
    })
}

/// A point in time as a calendar has it.
struct Civil {
    /// Seconds in UTC.
    epoch: u64,
    zone: LocalZone,
    /// Seconds since midnight.
    second_of_day: u64,
    nanos: u32,
    year: u64,
    /// From 1.
    month: u64,
    /// From 1.
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// From Sunday, 0.
    weekday: u64,
}

impl Civil {
    /// A time before 1970 counts as 1970.
    fn of(time: SystemTime, zone: Option<&fn(i64) -> LocalZone>) -> Civil {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = since.as_secs();
        let zone = zone.map_or(UTC, |zone| zone(i64::try_from(epoch).unwrap_or(i64::MAX)));
        let here = epoch.saturating_add_signed(zone.offset_seconds);
        let (days, second_of_day) = (here / 86_400, here % 86_400);
        // Years from March on, in eras of 400 years: the leap day is a year's last (Howard Hinnant's algorithm).
        let shifted = days + 719_468;
        let day_of_era = shifted % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let day = from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = shifted / 146_097 * 400 + year_of_era + u64::from(month <= 2);
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        // March 1st is day 59 or 60 of its year, counted from 0.
        let day_of_year = if month > 2 { from_march + 60 + u64::from(leap) } else { from_march - 305 };
        let (nanos, weekday) = (since.subsec_nanos(), (days + 4) % 7);
        Civil { epoch, zone, second_of_day, nanos, year, month, day, day_of_year, weekday }
    }

    fn write(&self, item: &Item, out: &mut Vec<u8>) {
        let hour = self.second_of_day / 3_600;
        // Writing to a vector cannot fail.
        let _ = match item {
            Item::Literal(c) => write!(out, "{c}"),
            Item::Year => write!(out, "{:04}", self.year),
            Item::YearShort => write!(out, "{:02}", self.year % 100),
            Item::Month => write!(out, "{:02}", self.month),
            Item::MonthName { long } => write!(out, "{}", name(&MONTHS, self.month - 1, *long)),
            Item::Day => write!(out, "{:02}", self.day),
            Item::DaySpaced => write!(out, "{:2}", self.day),
            Item::DayOfYear => write!(out, "{:03}", self.day_of_year),
            Item::Weekday { long } => write!(out, "{}", name(&WEEKDAYS, self.weekday, *long)),
            Item::Hour => write!(out, "{hour:02}"),
            Item::Hour12 => write!(out, "{:02}", if hour.is_multiple_of(12) { 12 } else { hour % 12 }),
            Item::AmPm => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            Item::Minute => write!(out, "{:02}", self.second_of_day % 3_600 / 60),
            Item::Second => write!(out, "{:02}", self.second_of_day % 60),
            Item::Epoch => write!(out, "{}", self.epoch),
            Item::Zone => write!(out, "{}", self.zone.abbreviation),
            Item::Offset => {
                let minutes = self.zone.offset_seconds / 60;
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(out, "{sign}{:02}{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
            Item::Fraction(digits) => {
                let unit = (*digits..9).fold(1, |unit, _| unit * 10);
                write!(out, "{:0width$}", self.nanos / unit, width = digits)
            }
        };
    }
}

fn name<'a>(names: &[&'a str], index: u64, long: bool) -> &'a str {
    let name = usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default();
    if long { name } else { &name[..name.len().min(3)] }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_read_as_strftime_writes_them() {
        let check = |format: &str, seconds: u64, nanos: u32, expected: &str| {
            let mut out = Vec::new();
            TimeFormat::parse(format).unwrap().write(UNIX_EPOCH + Duration::new(seconds, nanos), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
        };
        check("%Y-%m-%dT%H:%M:%E3SZ", 0, 0, "1970-01-01T00:00:00.000Z");
        check("%FT%TZ %j %a %A %b %B", 951_782_399, 0, "2000-02-28T23:59:59Z 059 Mon Monday Feb February");
        check("%F %j", 951_782_400, 0, "2000-02-29 060");
        check("%F %j", 951_868_800, 0, "2000-03-01 061");
        check("%F %j", 978_220_800, 0, "2000-12-31 366");
        check("%F %j", 1_709_164_800, 0, "2024-02-29 060");
        check("%F %j", 4_107_542_400, 0, "2100-03-01 060");
        check("%s.%3f %6f %f", 1_700_000_000, 123_456_789, "1700000000.123 123456 123456789");
        check("%d/%b/%y:%I:%M %p %z %Z%%%n", 1_700_000_000, 0, "14/Nov/23:10:13 PM +0000 UTC%\n");
        check("%I%p %e", 1_709_164_800, 0, "12AM 29");
    }

    #[test]
    fn iso_is_its_format() {
        assert_eq!(TimeFormat::iso(), TimeFormat::parse("%Y-%m-%dT%H:%M:%E3SZ").unwrap());
    }

    #[test]
    fn local_time_is_where_the_process_is() {
        let west: fn(i64) -> LocalZone = |_| LocalZone { offset_seconds: -12_600, abbreviation: "NST".into() };
        let mut out = Vec::new();
        let format = TimeFormat::parse("%F %T %z %Z %s").unwrap();
        let at = Civil::of(UNIX_EPOCH + Duration::from_secs(1_709_164_800), Some(&west));
        format.items.iter().for_each(|item| at.write(item, &mut out));
        assert_eq!(String::from_utf8(out).unwrap(), "2024-02-28 20:30:00 -0330 NST 1709164800");
        assert_eq!(TimeFormat::iso_local(), TimeFormat::parse("%Y-%m-%dT%H:%M:%E3S%z").unwrap().local());
    }

    #[test]
    fn unknown_conversions_are_errors() {
        for bad in ["%", "%Q", "%E", "%EaS", "%E0S", "%E3", "%3", "%3s", "%é"] {
            assert!(TimeFormat::parse(bad).is_err(), "{bad}");
        }
    }
}
