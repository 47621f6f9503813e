//! Lengths of time as text, read and written in one way by policies, plans and command lines.
//!
//! A length is a number and a unit: `500ms`, `60s`, `5m`, `2h`, `1d`, `1w`. `min` is `m`, a space
//! may stand before the unit, and the number may have a fraction (`1.5h`). A length is a whole
//! number of milliseconds, so text and value convert without loss. Zero needs no unit. A bare
//! number counts the unit that the caller names, and is refused if it names none.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::macros::named;

named! {
    /// Unit of a length of time.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum TimeUnit {
        /// `ms`.
        Milliseconds = "ms",
        /// `s`.
        Seconds = "s",
        /// `m`; `min` is accepted too.
        Minutes = "m",
        /// `h`.
        Hours = "h",
        /// `d`: 24 hours.
        Days = "d",
        /// `w`: 7 days.
        Weeks = "w",
    }
}

impl TimeUnit {
    /// Returns the unit of a short name. `min` means minutes too.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "min" {
            return Some(Self::Minutes);
        }
        Self::ALL.into_iter().find(|unit| unit.name() == name)
    }

    const fn millis(self) -> u64 {
        match self {
            Self::Milliseconds => 1,
            Self::Seconds => 1_000,
            Self::Minutes => 60_000,
            Self::Hours => 3_600_000,
            Self::Days => 86_400_000,
            Self::Weeks => 7 * 86_400_000,
        }
    }
}

/// Reads a length of time such as `500ms`, `60s`, `5m`, `2h`, `1d` or `1w`. A bare number counts
/// `bare`; if that is `None`, only zero may be bare. `InvalidInput` says what was expected.
pub fn parse_duration(text: &str, bare: Option<TimeUnit>) -> Result<Duration> {
    parsed(text.trim(), bare).ok_or_else(|| {
        let expected = "a time such as 500ms, 60s, 5m, 2h, 1d or 1w";
        let error = Error::new(ErrorKind::InvalidInput, "read time", format_args!("{text:?}"));
        match bare {
            None => error.expected(expected),
            Some(unit) => {
                error.expected(format_args!("{expected}; a bare number counts {}", unit.name()))
            }
        }
    })
}

/// Writes a length of time in the largest unit, up to days, of which it is a whole number. Omits
/// less than a millisecond. [`parse_duration`] reads it back.
pub fn duration_text(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let units = TimeUnit::ALL.into_iter().rev().skip(1);
    let unit = units.into_iter().find(|unit| millis.is_multiple_of(unit.millis()));
    let unit = unit.filter(|_| millis > 0).unwrap_or(TimeUnit::Seconds);
    format!("{}{}", millis / unit.millis(), unit.name())
}

fn parsed(text: &str, bare: Option<TimeUnit>) -> Option<Duration> {
    let end = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, name) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let unit = match name.trim_start() {
        "" if whole == 0 && fraction.is_empty() => bare.or(Some(TimeUnit::Seconds)),
        "" => bare,
        name => TimeUnit::from_name(name),
    }?;
    let parts = if fraction.is_empty() { 0 } else { part_of(unit.millis(), fraction)? };
    Some(Duration::from_millis(whole.checked_mul(unit.millis())?.checked_add(parts)?))
}

/// Returns the part of `millis` that `fraction`, the digits after a point, stands for. `None`
/// unless it is a whole number.
fn part_of(millis: u64, fraction: &str) -> Option<u64> {
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return Some(0);
    }
    let digits: u64 = fraction.parse().ok()?;
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = u128::from(millis) * u128::from(digits);
    let whole = product.is_multiple_of(u128::from(scale));
    whole.then(|| (product / u128::from(scale)) as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(text: &str, bare: Option<TimeUnit>) -> Option<u64> {
        parse_duration(text, bare).ok().map(|time| time.as_millis() as u64)
    }

    #[test]
    fn a_number_with_a_unit_is_read() {
        for (text, expected) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("5m", 300_000),
            ("5 min", 300_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1w", 604_800_000),
            ("1.5h", 5_400_000),
            ("0.250s", 250),
            ("1.0000ms", 1),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(millis(text, None), Some(expected), "{text}");
        }
        assert_eq!(millis("90", Some(TimeUnit::Seconds)), Some(90_000));
        assert_eq!(millis("90", Some(TimeUnit::Milliseconds)), Some(90));
        assert_eq!(millis("90s", Some(TimeUnit::Milliseconds)), Some(90_000));
    }

    #[test]
    fn a_text_that_is_no_time_is_refused_with_what_was_expected() {
        let bad = [
            "",
            "s",
            "90",
            "-1s",
            "+1s",
            "1x",
            "1.s",
            ".5s",
            "1..5s",
            "1e3s",
            "0.5ms",
            "1s2",
            "ä",
            "5ä",
            "1S",
            "0.0001s",
            "18446744073709551616ms",
            "18446744073709551615s",
        ];
        for text in bad {
            let error = parse_duration(text, None).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("60s"), "{error}");
        }
        let error = parse_duration("soon", Some(TimeUnit::Seconds)).expect_err("no time");
        assert!(error.to_string().contains("a bare number counts s"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_an_error_and_what_is_written_is_read_back(
            text in "[0-9. a-zä]{0,12}", millis: u64,
        ) {
            if let Ok(time) = parse_duration(&text, Some(TimeUnit::Hours)) {
                prop_assert_eq!(parse_duration(&duration_text(time), None).expect("as written"), time);
            }
            let time = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&duration_text(time), None).expect("as written"), time);
        }
    }
}
