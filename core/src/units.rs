//! Units: sequences, epochs, times, identities and hashes.
//!
//! Each is a separate type, so that a sequence is never passed for an epoch or a time. All are plain
//! `Copy` values. `Display` prints them in the form that the command line reads.

use std::fmt;

use crate::bytes::{hex, parse_hex};
use crate::error::{Error, ErrorKind, Result};
use crate::macros::shown;

/// Place of a record in the write order of one volume.
///
/// Sequences decide order everywhere; times are for people. The first record has 1, and no sequence
/// repeats in an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The place before the first record.
    pub const ZERO: Self = Self(0);
    /// The place after every record.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns the sequence after this one. Saturates at [`Sequence::MAX`].
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The term of one source. Each committed failover begins a new epoch, so that writes of a fenced
/// source are recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Nanoseconds since 1970-01-01T00:00:00 UTC (leap seconds not counted).
///
/// Shown and parsed as RFC 3339, for example `2026-11-21T09:30:00.250Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Returns the whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Returns the nanoseconds from `earlier` to `self`, or zero if the clock went back in between.
    pub const fn nanos_since(self, earlier: Self) -> u64 {
        let nanos = self.0.saturating_sub(earlier.0);
        if nanos < 0 { 0 } else { nanos.cast_unsigned() }
    }

    /// Reads RFC 3339 with `Z` or a numeric offset. Without an offset the time is UTC.
    ///
    /// `InvalidInput` for a day that its month does not have, and for a second 60: leap seconds are
    /// not counted.
    pub fn parse(text: &str) -> Result<Self> {
        parse_rfc3339(text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "parse time", text)
                .expected("a time such as 2026-11-21T09:30:00Z")
                .found(text)
        })
    }
}

/// Returns the days from 1970-01-01 to a civil date (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Returns how many days a month of the Gregorian calendar has.
const fn days_in_month(year: i64, month: i64) -> i64 {
    let is_leap_year = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap_year => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Inverts [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.seconds();
        let nanos = self.0.rem_euclid(1_000_000_000);
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let second_of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) =
            (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match nanos {
            0 => f.write_str("Z"),
            n if n % 1_000_000 == 0 => write!(f, ".{:03}Z", n / 1_000_000),
            n if n % 1_000 == 0 => write!(f, ".{:06}Z", n / 1_000),
            n => write!(f, ".{n:09}Z"),
        }
    }
}

fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let separator = |at: usize, allowed: &[u8]| -> Option<()> {
        allowed.contains(text.as_bytes().get(at)?).then_some(())
    };
    separator(4, b"-")?;
    separator(7, b"-")?;
    separator(10, b"Tt ")?;
    separator(13, b":")?;
    separator(16, b":")?;
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let in_range = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 9 {
            return None;
        }
        nanos = format!("{:0<9}", &fraction[..digits]).parse().ok()?;
        rest = &fraction[digits..];
    }
    let offset_minutes = match rest {
        "" | "Z" | "z" => 0,
        _ => parse_offset_minutes(rest)?,
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second
        - offset_minutes * 60;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos).map(Timestamp)
}

fn parse_offset_minutes(text: &str) -> Option<i64> {
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let two_digits = |part: &str| -> Option<i64> {
        (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok())?
    };
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

/// Defines an identity or a hash, which is shown as hexadecimal digits.
macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Reads its hexadecimal digits. Returns `None` for any other text.
            pub fn parse(text: &str) -> Option<Self> {
                parse_hex(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", hex(&self.0))
            }
        }

        shown!($name, value => value);
    };
}

identity! {
    /// Identity of a protected volume, drawn at random when it is first protected.
    VolumeId, 16
}
identity! {
    /// Identity of a recovery point. It stays the same when the segments around it are folded.
    PointId, 16
}

impl PointId {
    /// Makes the identity of a group point from the milliseconds of its time and random bytes, laid
    /// out as a UUID of version 7. So all members see the same time.
    pub fn of_group(time: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(time.0.div_euclid(1_000_000)).unwrap_or(0);
        let mut id = [0; 16];
        id[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        id[6..].copy_from_slice(&random);
        id[6] = 0x70 | (id[6] & 0x0f);
        id[8] = 0x80 | (id[8] & 0x3f);
        Self(id)
    }

    /// Returns the time in the identity of a group point.
    pub fn group_time(self) -> Timestamp {
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(&self.0[..6]);
        let millis = i64::try_from(u64::from_be_bytes(millis)).unwrap_or(i64::MAX);
        Timestamp(millis.saturating_mul(1_000_000))
    }
}
identity! {
    /// Identity of a volume key: derived from the key without revealing it.
    KeyId, 16
}

identity! {
    /// Hash of a segment and of all segments before it, shown as 64 hexadecimal digits.
    ChainHash, 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_and_parse() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2026-11-21T09:30:00.250Z",
            "1969-12-31T23:59:59.999999999Z",
            "2024-02-29T12:00:00.000001Z",
        ] {
            assert_eq!(Timestamp::parse(text).expect("valid").to_string(), text);
        }
        assert_eq!(
            Timestamp::parse("2026-11-21T10:30:00+01:00").expect("valid"),
            Timestamp::parse("2026-11-21 09:30:00").expect("valid")
        );
        for text in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-11-21T09:30:00.Z",
            "2026-11-21T09:30:00+1",
            "2026-11-21T09:3é:00Z",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_that_no_calendar_or_clock_has_are_refused() {
        for text in [
            "2026-02-29T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T09:60:00Z",
            "2016-12-31T23:59:60Z",
            "2026-11-21T09:30:00+24:00",
            "2026-11-21T09:30:00+01:60",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
        for text in ["2000-02-29T00:00:00Z", "2026-12-31T23:59:59Z", "2026-04-30T00:00:00Z"] {
            assert_eq!(Timestamp::parse(text).expect("valid").to_string(), text);
        }
    }

    #[test]
    fn identities_are_shown_in_hexadecimal_and_parsed_back() {
        let id = VolumeId([0xab; 16]);
        assert_eq!(VolumeId::parse(&id.to_string()), Some(id));
        assert_eq!(VolumeId::parse("xy"), None);
        assert_eq!(format!("{id:?}"), format!("VolumeId({})", "ab".repeat(16)));
        let hash = ChainHash([1; 32]);
        assert_eq!(format!("{hash:?}"), format!("ChainHash({})", "01".repeat(32)));
    }
}
