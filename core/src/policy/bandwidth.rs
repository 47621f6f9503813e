//! Bandwidth that shipping may take of the link to the vault, by hour and weekday.
//!
//! A schedule as text has entries separated by `;`, of which the last that applies is in force. An
//! entry is `[DAYS] [HH:MM-HH:MM] RATE`. A rate is bytes per second, with `K`, `M` or `G` for 2^10,
//! 2^20 or 2^30 of them, or `none`. Days are `mon` to `sun`, ranges and lists of them. Times are
//! UTC. A window that ends before it begins ends on the next day.
//!
//! `8M; mon-fri 08:00-18:00 2M; sat,sun none`

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::units::Timestamp;

/// Most entries of a schedule.
const ENTRIES_MAX: usize = 64;
/// Lowest rate. Below it a segment of default size takes hours.
const RATE_MIN: u64 = 4 << 10;
const RATE_MAX: u64 = 1 << 40;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MINUTES: u16 = 24 * 60;
const EVERY_DAY: u8 = 0x7f;
const MINUTE_NS: i64 = 60_000_000_000;

/// Limits bandwidth by a weekly schedule. Default: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Set of days; bit 0 is Monday.
    days: u8,
    /// Minutes of the day, from `from` up to, not including, `to`.
    from: u16,
    to: u16,
    /// Bytes per second; `None` is no limit.
    rate: Option<u64>,
}

impl Bandwidth {
    /// Returns the limit at `time`, in bytes per second; `None` is no limit.
    pub fn at(&self, time: Timestamp) -> Option<u64> {
        let minute = time.0.div_euclid(MINUTE_NS);
        // The first of January 1970 was a Thursday.
        let day = (minute.div_euclid(i64::from(DAY_MINUTES)) + 3).rem_euclid(7) as u8;
        let minute = minute.rem_euclid(i64::from(DAY_MINUTES)) as u16;
        self.entries.iter().rev().find(|entry| entry.covers(day, minute)).and_then(|e| e.rate)
    }
}

impl Entry {
    fn is_always(&self) -> bool {
        self.days == EVERY_DAY && (self.from, self.to) == (0, DAY_MINUTES)
    }

    fn covers(&self, day: u8, minute: u16) -> bool {
        let on = |day: u8| self.days & (1 << day) != 0;
        if self.from < self.to {
            return on(day) && (self.from..self.to).contains(&minute);
        }
        (on(day) && minute >= self.from) || (on((day + 6) % 7) && minute < self.to)
    }
}

impl FromStr for Bandwidth {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |part: &str| {
            Error::new(ErrorKind::InvalidInput, "read bandwidth", text)
                .expected("entries such as 8M; mon-fri 08:00-18:00 2M, separated by semicolons")
                .found(format_args!("{part:?}"))
        };
        let parts: Vec<_> =
            text.split(';').map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.len() > ENTRIES_MAX {
            return Err(bad(text).message(format_args!("at most {ENTRIES_MAX} entries")));
        }
        let entries = parts.into_iter().map(|part| entry(part).ok_or_else(|| bad(part)));
        let mut entries = entries.collect::<Result<Vec<_>>>()?;
        // An entry for all time hides those before it, and an empty schedule already begins with no
        // limit.
        let last = entries.iter().rposition(Entry::is_always).unwrap_or(0);
        entries.drain(..last);
        if entries.first().is_some_and(|entry| entry.is_always() && entry.rate.is_none()) {
            entries.remove(0);
        }
        Ok(Self { entries })
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entries.is_empty() {
            return f.write_str("none");
        }
        for (at, entry) in self.entries.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "; " })?;
            let days: Vec<_> = (0..7).filter(|day| entry.days & (1 << day) != 0).collect();
            if days.len() < 7 {
                write!(f, "{} ", days.iter().map(|day| DAYS[*day]).collect::<Vec<_>>().join(","))?;
            }
            if (entry.from, entry.to) != (0, DAY_MINUTES) {
                let (from, to) = (entry.from, entry.to);
                write!(f, "{:02}:{:02}-{:02}:{:02} ", from / 60, from % 60, to / 60, to % 60)?;
            }
            match entry.rate {
                None => f.write_str("none")?,
                Some(rate) => {
                    let unit = [("G", 30), ("M", 20), ("K", 10), ("", 0)]
                        .into_iter()
                        .find(|(_, shift)| rate.is_multiple_of(1 << shift));
                    let (name, shift) = unit.expect("every number is a multiple of one");
                    write!(f, "{}{name}", rate >> shift)?;
                }
            }
        }
        Ok(())
    }
}

fn entry(text: &str) -> Option<Entry> {
    let words: Vec<_> = text.split_whitespace().collect();
    let (days, window, rate) = match words[..] {
        [rate] => (None, None, rate),
        [window, rate] if window.contains(':') => (None, Some(window), rate),
        [days, rate] => (Some(days), None, rate),
        [days, window, rate] => (Some(days), Some(window), rate),
        _ => return None,
    };
    let (from, to) = match window {
        None => (0, DAY_MINUTES),
        Some(window) => {
            let (from, to) = window.split_once('-')?;
            (minute(from)?, minute(to)?)
        }
    };
    if from == to || from == DAY_MINUTES {
        return None;
    }
    let days = days.map_or(Some(EVERY_DAY), day_set)?;
    Some(Entry { days, from, to, rate: self::rate(rate)? })
}

fn day_set(text: &str) -> Option<u8> {
    let number = |name: &str| DAYS.iter().position(|day| *day == name);
    text.split(',').try_fold(0, |set, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let length = (last + 7 - first) % 7;
        Some((0..=length).fold(set, |set, step| set | 1 << ((first + step) % 7)))
    })
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let total = hour.checked_mul(60)?.checked_add(minute)?;
    (minute < 60 && total <= DAY_MINUTES).then_some(total)
}

/// Parses a rate: `None` if it is none, `Some(None)` for no limit.
#[allow(clippy::option_option, reason = "\"none\" is a rate that is understood")]
fn rate(text: &str) -> Option<Option<u64>> {
    if text == "none" {
        return Some(None);
    }
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let rate = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (RATE_MIN..=RATE_MAX).contains(&rate).then_some(Some(rate))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(schedule: &str, time: &str) -> Option<u64> {
        let schedule: Bandwidth = schedule.parse().expect(schedule);
        schedule.at(Timestamp::parse(time).expect(time))
    }

    #[test]
    fn the_last_entry_that_applies_is_in_force() {
        let schedule = "8M; mon-fri 08:00-18:00 2M; sat,sun none";
        // A Friday.
        assert_eq!(at(schedule, "2026-11-20T07:59:59Z"), Some(8 << 20));
        assert_eq!(at(schedule, "2026-11-20T08:00:00Z"), Some(2 << 20));
        assert_eq!(at(schedule, "2026-11-20T17:59:59Z"), Some(2 << 20));
        assert_eq!(at(schedule, "2026-11-20T18:00:00Z"), Some(8 << 20));
        assert_eq!(at(schedule, "2026-11-21T12:00:00Z"), None);
        assert_eq!(at("", "2026-11-21T12:00:00Z"), None);
        assert_eq!(at("4096", "1969-12-31T23:59:59Z"), Some(4096));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_begins_on() {
        let night = "fri 22:00-06:00 1M";
        assert_eq!(at(night, "2026-11-20T21:59:00Z"), None);
        assert_eq!(at(night, "2026-11-20T23:00:00Z"), Some(1 << 20));
        assert_eq!(at(night, "2026-11-21T05:59:00Z"), Some(1 << 20));
        assert_eq!(at(night, "2026-11-21T06:00:00Z"), None);
        assert_eq!(at(night, "2026-11-21T23:00:00Z"), None, "Saturday");
        assert_eq!(at("sat-mon 1M", "2026-11-23T12:00:00Z"), Some(1 << 20), "Monday");
        assert_eq!(at("sat-mon 1M", "2026-11-24T12:00:00Z"), None, "Tuesday");
    }

    #[test]
    fn a_text_that_is_no_schedule_is_refused_with_its_place() {
        for text in [
            "fast",
            "1",
            "2000G",
            "8M 2M",
            "mon-xyz 1M",
            "25:00-26:00 1M",
            "08:00 1M",
            "08:60-09:00 1M",
            "08:00-08:00 1M",
            "24:00-08:00 1M",
            "mon 08:00-09:00 1M x",
            "K",
            "é",
            "-1M",
            "mon, 1M",
        ] {
            let error = text.parse::<Bandwidth>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        assert!("1M;".repeat(65).parse::<Bandwidth>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_schedule_or_an_error_and_what_is_printed_is_read_back(
            text in "[a-z0-9:;,KMG -]{0,40}"
        ) {
            if let Ok(schedule) = text.parse::<Bandwidth>() {
                let again = schedule.to_string().parse::<Bandwidth>();
                prop_assert_eq!(again.expect("as printed"), schedule);
            }
        }
    }
}
