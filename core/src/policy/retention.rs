//! How long recovery states of a volume are kept, as a value and as the text of policy files.
//!
//! ```text
//! 2h all; 24h hourly; 30d daily; bytes 100G; grace 1h
//! ```
//! A step is an age and an interval: up to the age, one recovery state of each interval is kept
//! (`all`: every sequence). Ages grow from step to step; the last is the whole window. `bytes`
//! bounds what the vault stores of the volume. `grace` is how long replaced objects stay for
//! readers of an older catalog version. [`parse_duration`](crate::parse_duration) reads times.
//! Sizes end with `K M G T` (powers of 1024).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::duration::{duration_text, parse_duration};
use crate::error::{Error, ErrorKind, Result};

/// Most thinning steps of a policy.
const STEPS_MAX: usize = 16;
/// Longest age, interval or grace: ten years.
const DURATION_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);
/// Shortest grace. Less would delete objects that a reader has just found in the catalog.
const GRACE_MIN: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
const INTERVALS: [(&str, Duration); 3] = [("hourly", HOUR), ("daily", DAY), ("weekly", WEEK)];
const SIZE_UNITS: [(char, u64); 4] =
    [('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

/// Keeps one recovery state of each interval, up to an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thinning {
    /// Age up to which the step applies.
    pub age: Duration,
    /// Length of the intervals, counted from 1970. Of each the first point is kept; without one,
    /// the first recovery state that can be restored.
    pub interval: Duration,
}

/// How long recovery states of a volume are kept. Whatever the policy, these are never dropped:
/// pinned points, points under legal hold, the last verified and the last application-consistent
/// point, and the newest recovery state.
///
/// Text of the default: `2h all; 24h hourly; 30d daily; grace 1h`. Parsed with [`FromStr`], written
/// with `Display`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Keeps every point and every sequence up to this age. Default 2 h.
    pub full: Duration,
    /// Keeps fewer of the older recovery states, by age. Beyond the last step one is kept only as
    /// the base of others. Default: hourly up to 24 h, daily up to 30 days.
    pub thinning: Vec<Thinning>,
    /// Limits the bytes that the vault stores of the volume. At the limit the oldest recovery
    /// states are dropped early, except those that are never dropped. Default: no limit.
    pub bytes_max: Option<u64>,
    /// Keeps a replaced object this long, so that restores and views with an older catalog version
    /// can finish. Set it above the longest restore. Default 1 h.
    pub grace: Duration,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            full: 2 * HOUR,
            thinning: vec![
                Thinning { age: DAY, interval: HOUR },
                Thinning { age: 30 * DAY, interval: DAY },
            ],
            bytes_max: None,
            grace: HOUR,
        }
    }
}

impl RetentionPolicy {
    /// Returns the age beyond which recovery states are kept only as the base of younger ones.
    pub fn window(&self) -> Duration {
        self.thinning.last().map_or(self.full, |step| step.age)
    }

    /// Checks order and ranges. `InvalidInput` identifies what is wrong.
    pub fn validate(&self) -> Result<()> {
        let bad = |expected: String, found: String| {
            Err(Error::new(ErrorKind::InvalidInput, "use policy", "retention")
                .expected(expected)
                .found(found))
        };
        if self.thinning.len() > STEPS_MAX {
            return bad(format!("at most {STEPS_MAX} steps"), self.thinning.len().to_string());
        }
        let mut age = self.full;
        let mut interval = Duration::ZERO;
        for step in &self.thinning {
            if step.age <= age || step.interval <= interval {
                return bad(
                    format!("steps whose ages and intervals grow, after {}", duration_text(age)),
                    format!("{} every {}", duration_text(step.age), duration_text(step.interval)),
                );
            }
            (age, interval) = (step.age, step.interval);
        }
        if self.window() > DURATION_MAX || interval > DURATION_MAX || self.grace > DURATION_MAX {
            return bad("times of at most ten years".into(), duration_text(self.window()));
        }
        if self.grace < GRACE_MIN {
            return bad(
                format!("a grace of at least {}", duration_text(GRACE_MIN)),
                duration_text(self.grace),
            );
        }
        if self.bytes_max == Some(0) {
            return bad("at least 1 byte".into(), "0".into());
        }
        Ok(())
    }
}

impl FromStr for RetentionPolicy {
    type Err = Error;

    /// Parses a policy. `InvalidInput` identifies the item that is not understood.
    fn from_str(text: &str) -> Result<Self> {
        let mut policy =
            Self { full: Duration::ZERO, thinning: Vec::new(), bytes_max: None, grace: HOUR };
        let mut steps = 0;
        for item in text.split(';').map(str::trim).filter(|item| !item.is_empty()) {
            let bad = |expected: &str| {
                Error::new(ErrorKind::InvalidInput, "parse retention", item)
                    .expected(expected)
                    .found(item)
            };
            let words: Vec<_> = item.split_whitespace().collect();
            let named = INTERVALS.iter().find(|(name, _)| words.get(1) == Some(name));
            let time = |text| parse_time(text).ok_or_else(|| bad("a time such as 2h or 30d"));
            match (words.as_slice(), named) {
                (["bytes", size], _) => {
                    let size = parse_size(size).ok_or_else(|| bad("a size such as 100G"))?;
                    policy.bytes_max = Some(size);
                }
                (["grace", grace], _) => policy.grace = time(grace)?,
                ([age, "all"], _) if steps == 0 => {
                    policy.full = time(age)?;
                    steps += 1;
                }
                ([age, "every", interval], _) => {
                    policy.thinning.push(Thinning { age: time(age)?, interval: time(interval)? });
                    steps += 1;
                }
                ([age, _], Some((_, interval))) => {
                    policy.thinning.push(Thinning { age: time(age)?, interval: *interval });
                    steps += 1;
                }
                _ => {
                    return Err(bad(
                        "AGE all (first), AGE hourly, daily or weekly, AGE every TIME, bytes SIZE or grace TIME",
                    ));
                }
            }
        }
        if steps == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "parse retention", text)
                .expected("at least one step, such as 2h all")
                .found(text));
        }
        policy.validate()?;
        Ok(policy)
    }
}

impl fmt::Display for RetentionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} all", duration_text(self.full))?;
        for step in &self.thinning {
            let age = duration_text(step.age);
            match INTERVALS.iter().find(|(_, interval)| *interval == step.interval) {
                Some((name, _)) => write!(f, "; {age} {name}")?,
                None => write!(f, "; {age} every {}", duration_text(step.interval))?,
            }
        }
        if let Some(bytes) = self.bytes_max {
            let unit = SIZE_UNITS.iter().find(|(_, size)| bytes.is_multiple_of(*size));
            match unit {
                Some((name, size)) => write!(f, "; bytes {}{name}", bytes / size)?,
                None => write!(f, "; bytes {bytes}")?,
            }
        }
        write!(f, "; grace {}", duration_text(self.grace))
    }
}

fn parse_time(text: &str) -> Option<Duration> {
    parse_duration(text, None).ok().filter(|time| *time <= DURATION_MAX)
}

fn parse_size(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, size)) => parse_digits(&text[..text.len() - 1])?.checked_mul(*size),
        None => parse_digits(text),
    }
}

fn parse_digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_value_say_the_same() {
        let default = RetentionPolicy::default();
        assert_eq!(
            default.to_string(),
            "2h all; 24h hourly; 30d daily; grace 1h".replace("24h", "1d")
        );
        for text in [
            "2h all; 24h hourly; 30d daily",
            "10m all",
            "0s all; 1h every 15m; 8w weekly; bytes 100G; grace 90s",
            "90m all;bytes 12345 ; 7d daily;",
        ] {
            let policy: RetentionPolicy = text.parse().expect(text);
            assert_eq!(policy.to_string().parse::<RetentionPolicy>().expect("again"), policy);
        }
        let parsed: RetentionPolicy = "2h all; 24h hourly; 30d daily".parse().expect("parse");
        assert_eq!(parsed, default);
        let parsed: RetentionPolicy = "1h all; bytes 100G; grace 2h".parse().expect("parse");
        assert_eq!(parsed.bytes_max, Some(100 << 30));
        assert_eq!(parsed.grace, 2 * HOUR);
    }

    #[test]
    fn an_item_that_is_not_understood_is_named_in_the_error() {
        for (text, named) in [
            ("", "at least one step"),
            ("bytes 5G", "at least one step"),
            ("2h all; 24h minutely", "24h minutely"),
            ("2h all; 3x hourly", "3x hourly"),
            ("2h all; 1h hourly", "ages and intervals grow"),
            ("2h all; 24h daily; 30d hourly", "ages and intervals grow"),
            ("24h hourly; 2h all", "2h all"),
            ("2h all; bytes many", "bytes many"),
            ("2h all; bytes 99999999999999999999G", "a size such as"),
            ("999999999999w all", "a time such as"),
            ("2h all; grace 0s", "grace of at least"),
            ("2h all; 5ä hourly", "5ä hourly"),
        ] {
            let error = text.parse::<RetentionPolicy>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(named), "{text}: {error}");
        }
    }
}
