//! Which state of a volume is meant, and how it is said in text.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::journal::LABEL_BYTES_MAX;
use crate::units::{PointId, Sequence, Timestamp};

/// A state of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest state that can be restored.
    Newest,
    /// The newest point that is good as far as is known, see [`Replica::newest_good`](super::Replica::newest_good).
    NewestGood,
    /// After exactly the records up to this one.
    Sequence(Sequence),
    /// After the last record at or before this time.
    Time(Timestamp),
    /// A recovery point.
    Point(PointId),
    /// The recovery point whose identity begins with these hexadecimal digits.
    PointPrefix(String),
    /// The newest recovery point with this label.
    Label(String),
}

impl At {
    /// Understands `newest`, `newest-good`, a sequence number, a time as RFC 3339, the identity of a point (32 hexadecimal digits),
    /// `point:DIGITS` (its beginning), `label:TEXT`, and takes anything else as a label.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |expected: &str| {
            Err(Error::new(ErrorKind::InvalidInput, "parse state", text)
                .expected(expected)
                .found(text))
        };
        if text == "newest" {
            return Ok(Self::Newest);
        }
        if text == "newest-good" {
            return Ok(Self::NewestGood);
        }
        if let Some(digits) = text.strip_prefix("point:") {
            if digits.is_empty()
                || digits.len() > 32
                || !digits.bytes().all(|b| b.is_ascii_hexdigit())
            {
                return bad("1 to 32 hexadecimal digits after point:");
            }
            return Ok(Self::PointPrefix(digits.to_ascii_lowercase()));
        }
        if let Some(label) = text.strip_prefix("label:") {
            return Ok(Self::Label(label.to_owned()));
        }
        if let Some(point) = PointId::parse(text) {
            return Ok(Self::Point(point));
        }
        if let Ok(number) = text.parse() {
            return Ok(Self::Sequence(Sequence(number)));
        }
        if let Ok(time) = Timestamp::parse(text) {
            return Ok(Self::Time(time));
        }
        if text.is_empty() || text.len() > LABEL_BYTES_MAX {
            return bad("a point, sequence, time or label");
        }
        Ok(Self::Label(text.to_owned()))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::NewestGood => f.write_str("newest-good"),
            Self::Sequence(sequence) => write!(f, "sequence {sequence}"),
            Self::Time(time) => write!(f, "{time}"),
            Self::Point(point) => write!(f, "point {point}"),
            Self::PointPrefix(digits) => write!(f, "point {digits}…"),
            Self::Label(label) => write!(f, "label {label:?}"),
        }
    }
}
