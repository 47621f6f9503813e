//! What a reader expects of a volume at least, so that it notices an old copy of a vault.
//!
//! A vault that went back is sound in itself: only who saw more of it can tell. A reader keeps the
//! [`CatalogVersion`] that it saw last, or knows a point or a time from elsewhere, and checks the
//! volume against it.

use std::fmt;

use super::{At, Replica};
use crate::bytes::{hex, parse_hex};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{Sequence, Timestamp};

/// A version of a volume's catalog. Its text, such as `v12:HASH`, is what a reader remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogVersion {
    /// Its number; 0 for a volume without a catalog.
    pub number: u64,
    /// Hash of its object; zeroes for version 0.
    pub hash: [u8; 32],
    /// The last sequence that it lists.
    pub sequence: Sequence,
    /// Time of its newest record or heartbeat; `None` before both.
    pub time: Option<Timestamp>,
}

impl fmt::Display for CatalogVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}:{}", self.number, hex(&self.hash))
    }
}

/// The least that a volume must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This version of the catalog, or a later one.
    Version(u64),
    /// The version with this number and hash, or a later one of the same history.
    Seen {
        /// Number of the version.
        number: u64,
        /// Hash of its object.
        hash: [u8; 32],
    },
    /// This recovery point, a change with this sequence, a record or heartbeat of this time or
    /// later, or what else the text means here.
    State(At),
}

impl From<CatalogVersion> for Expected {
    fn from(seen: CatalogVersion) -> Self {
        Self::Seen { number: seen.number, hash: seen.hash }
    }
}

impl Expected {
    /// Parses a version such as `v12`, the text of a [`CatalogVersion`], a time as RFC 3339, or a
    /// state as [`At::parse`] does. `InvalidInput` for `newest` and `newest-good`, which every volume
    /// has.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(version) = text.strip_prefix('v').and_then(parse_version) {
            return Ok(version);
        }
        match At::parse(text)? {
            At::Newest | At::NewestGood => {
                Err(Error::new(ErrorKind::InvalidInput, "parse expectation", text)
                    .expected("a point, a sequence, a time, or a version such as v12")
                    .found(text))
            }
            at => Ok(Self::State(at)),
        }
    }
}

fn parse_version(text: &str) -> Option<Expected> {
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let (number, hash) = text.split_once(':').map_or((text, None), |(n, h)| (n, Some(h)));
    let number = Some(number).filter(|digits| is_number(digits))?.parse().ok()?;
    match hash {
        None => Some(Expected::Version(number)),
        Some(hash) => Some(Expected::Seen { number, hash: parse_hex(hash)? }),
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(number) | Self::Seen { number, .. } => {
                write!(f, "catalog version {number} or a later one")
            }
            Self::State(At::Time(time)) => write!(f, "a change or heartbeat of {time} or later"),
            Self::State(at) => write!(f, "{at}"),
        }
    }
}

impl Replica {
    /// Returns the catalog version that was read, for [`Replica::check_at_least`] at a later time.
    pub fn version(&self) -> CatalogVersion {
        CatalogVersion {
            number: self.catalog.version(),
            hash: self.catalog.version_hash(),
            sequence: self.catalog.last_sequence(),
            time: self.catalog.time(),
        }
    }

    /// Checks that the volume has at least what is expected. `Diverged` if it does not: the vault went
    /// back, or is an old copy. The error names the vault, and what was expected and found.
    ///
    /// A version that was seen and is older than this one is read and compared, if the vault still
    /// has it. A point that retention dropped is not found.
    pub fn check_at_least(&self, expected: &Expected) -> Result<()> {
        let meant = match expected {
            Expected::State(at) => Expected::State(self.meaning_of(at)),
            other => other.clone(),
        };
        let fits = match &meant {
            Expected::Version(number) => *number <= self.catalog.version(),
            Expected::State(At::Time(time)) => {
                self.catalog.time().is_some_and(|newest| newest >= *time)
            }
            Expected::Seen { number, hash } => {
                if self.found_hash(*number)?.is_some_and(|found| found != *hash) {
                    let message = "the vault has another history than the one that was seen";
                    return Err(self
                        .too_old(message)
                        .expected(format_args!("catalog version {number} with hash {}", hex(hash)))
                        .found("another version of that number"));
                }
                *number <= self.catalog.version()
            }
            Expected::State(At::Sequence(sequence)) => *sequence <= self.catalog.last_sequence(),
            Expected::State(At::Newest | At::NewestGood) => !self.points().is_empty(),
            Expected::State(at) => self.points().iter().any(|point| point.has(at)),
        };
        if fits {
            return Ok(());
        }
        let found = self.version();
        let time = found.time.map_or_else(String::new, |time| format!(" of {time}"));
        Err(self.too_old("the vault went back, or is an old copy").expected(meant).found(
            format_args!(
                "catalog version {}{time}, up to sequence {}",
                found.number, found.sequence
            ),
        ))
    }

    /// Returns the hash of a version up to the one that was read; `None` if it is not there.
    fn found_hash(&self, number: u64) -> Result<Option<[u8; 32]>> {
        match self.catalog.version() {
            newest if number > newest || number == 0 => Ok(None),
            newest if number == newest => Ok(Some(self.catalog.version_hash())),
            _ => self.catalog.hash_of(number),
        }
    }

    fn too_old(&self, message: &str) -> Error {
        let (volume, vault) = (&self.info().name, self.store().name());
        Error::new(ErrorKind::Diverged, "read", format_args!("{volume} in {vault}"))
            .message(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_its_text() {
        let seen =
            CatalogVersion { number: 12, hash: [0xa5; 32], sequence: Sequence(7), time: None };
        assert_eq!(Expected::parse(&seen.to_string()).expect("its text"), seen.into());
        assert_eq!(Expected::parse("v12").expect("a number"), Expected::Version(12));
        let time = Timestamp::parse("2026-11-21T09:30:00Z").expect("a time");
        let read = Expected::parse("time:2026-11-21T09:30:00Z").expect("a time");
        assert_eq!(read, Expected::State(At::Time(time)));
        for label in ["v", "v-1", "v1.2", "v12:", "v12:a5", "va", "v99999999999999999999"] {
            let read = Expected::parse(label).expect(label);
            assert_eq!(read, Expected::State(At::Label(label.into())));
        }
        for refused in ["", "newest", "newest-good", "point:"] {
            let error = Expected::parse(refused).expect_err(refused);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
}
