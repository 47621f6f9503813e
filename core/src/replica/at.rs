//! Which recovery state of a volume is meant, and how text says it.

use std::fmt;

use super::{RecoveryPoint, Replica};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{LABEL_BYTES_MAX, Record, SegmentKind};
use crate::units::{PointId, Sequence, Timestamp};
use crate::vault::{SegmentEntry, unordered_at};

/// Selects a recovery state of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest state that can be restored.
    Newest,
    /// The newest point that is good as far as known, see
    /// [`Replica::newest_good`](super::Replica::newest_good).
    NewestGood,
    /// The state after exactly the records up to this one.
    Sequence(Sequence),
    /// The state after the last record at or before this time.
    Time(Timestamp),
    /// A recovery point.
    Point(PointId),
    /// The recovery point whose identity begins with these hexadecimal digits.
    PointPrefix(String),
    /// The newest recovery point with this label.
    Label(String),
    /// The newest recovery point with this label, or the other state if no point has it.
    LabelOr(String, Box<At>),
}

impl At {
    /// Parses `newest`, `newest-good`, a sequence number, a time as RFC 3339, the identity of a
    /// point (32 hexadecimal digits), `sequence:NUMBER`, `time:TIME`, `point:DIGITS` (its beginning)
    /// or `label:TEXT`. Anything else is a label. A label that exists wins over the other meanings of
    /// the same text but the first two.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |expected: &str| {
            Error::new(ErrorKind::InvalidInput, "parse state", text).expected(expected).found(text)
        };
        let sequence =
            |text: &str| text.parse().ok().map(|number| Self::Sequence(Sequence(number)));
        let time = |text: &str| Timestamp::parse(text).ok().map(Self::Time);
        match text.split_once(':') {
            Some(("point", digits)) => {
                let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
                if !is_hex || !(1..=32).contains(&digits.len()) {
                    return Err(bad("1 to 32 hexadecimal digits after point:"));
                }
                return Ok(Self::PointPrefix(digits.to_ascii_lowercase()));
            }
            Some(("sequence", number)) => {
                return sequence(number).ok_or_else(|| bad("a number after sequence:"));
            }
            Some(("time", at)) => {
                return time(at).ok_or_else(|| bad("a time as RFC 3339 after time:"));
            }
            Some(("label", label)) => return Ok(Self::Label(label.to_owned())),
            None if text == "newest" => return Ok(Self::Newest),
            None if text == "newest-good" => return Ok(Self::NewestGood),
            _ => {}
        }
        if text.is_empty() || text.len() > LABEL_BYTES_MAX {
            return Err(bad("a point, sequence, time or label"));
        }
        let point = PointId::parse(text).map(Self::Point);
        Ok(match point.or_else(|| sequence(text)).or_else(|| time(text)) {
            Some(other) => Self::LabelOr(text.to_owned(), Box::new(other)),
            None => Self::Label(text.to_owned()),
        })
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
            Self::LabelOr(_, other) => other.fmt(f),
        }
    }
}

/// Returns what `at` means for a volume with these points. [`At::LabelOr`] stays if a point has that
/// label.
fn meaning<'a>(at: &'a At, points: &[RecoveryPoint]) -> &'a At {
    match at {
        At::LabelOr(label, other) if !points.iter().any(|point| point.label == *label) => other,
        _ => at,
    }
}

impl Replica {
    /// Returns what `at` means for this volume: never [`At::LabelOr`].
    pub fn meaning_of(&self, at: &At) -> At {
        match meaning(at, &self.points()) {
            At::LabelOr(label, _) => At::Label(label.clone()),
            at => at.clone(),
        }
    }

    /// Returns the sequence that `at` selects. `NotFound` lists the newest points, or names the
    /// fold in which the state is gone; `NotOrdered` names the cause of the gap.
    pub fn resolve(&self, at: &At) -> Result<Sequence> {
        let points = self.points();
        let at = meaning(at, &points);
        let found = match at {
            At::Newest => self.catalog.newest_ordered(),
            At::NewestGood => Some(self.newest_good()?.0.sequence),
            At::Sequence(sequence) => {
                Some(*sequence).filter(|s| *s <= self.catalog.last_sequence())
            }
            At::Time(time) => self.sequence_at(*time)?,
            At::Point(_) => points.iter().find(|p| p.has(at)).map(|p| p.sequence),
            At::PointPrefix(_) => {
                let mut fits = points.iter().filter(|p| p.has(at));
                match (fits.next(), fits.next()) {
                    (Some(_), Some(_)) => {
                        return Err(Error::new(ErrorKind::InvalidInput, "find", at)
                            .expected("digits that one point alone begins with")
                            .found("more than one"));
                    }
                    (found, _) => found.map(|p| p.sequence),
                }
            }
            At::Label(_) | At::LabelOr(..) => {
                points.iter().rev().find(|p| p.has(at)).map(|p| p.sequence)
            }
        };
        let Some(sequence) = found else {
            let newest: Vec<_> = points
                .iter()
                .rev()
                .take(3)
                .map(|p| format!("{} at sequence {} ({})", p.id, p.sequence, p.time))
                .collect();
            let object = format!("{at} of {}", self.info().name);
            return Err(Error::new(ErrorKind::NotFound, "find", object).expected(format_args!(
                "a sequence up to {} or a point; the newest are [{}]",
                self.catalog.last_sequence(),
                newest.join(", ")
            )));
        };
        self.check_ordered(sequence)?;
        self.check_kept(sequence)?;
        Ok(sequence)
    }

    fn check_ordered(&self, sequence: Sequence) -> Result<()> {
        if self.catalog.is_ordered_at(sequence) {
            return Ok(());
        }
        let gap = self.timeline().into_iter().find(|entry| {
            entry.unordered.is_some() && entry.from <= sequence && sequence <= entry.to
        });
        let mut error =
            Error::new(ErrorKind::NotOrdered, "use", format_args!("sequence {sequence}"));
        if let Some(gap) = gap {
            error = error.message(format_args!(
                "sequences {} to {} are unordered ({})",
                gap.from,
                gap.to,
                gap.unordered.map_or("unknown", crate::event::Cause::name)
            ));
        }
        Err(error)
    }

    /// Refuses a state inside a folded segment, of which only the end is left.
    fn check_kept(&self, sequence: Sequence) -> Result<()> {
        let Some((first, last)) = self.catalog.folded_around(sequence) else { return Ok(()) };
        Err(Error::new(ErrorKind::NotFound, "use", format_args!("sequence {sequence}"))
            .message(format_args!("retention folded sequences {first} to {last} into one state"))
            .expected(format_args!("sequence {last}, or one outside of the fold"))
            .found(sequence))
    }

    /// Returns the last sequence that is left and whose record is not later than `time`, in write
    /// order. A clock that jumped back does not matter.
    fn sequence_at(&self, time: Timestamp) -> Result<Option<Sequence>> {
        let entries = self.catalog.segments();
        let Some(at) = entries.iter().rposition(|entry| entry.summary.first_time <= time) else {
            return Ok(None);
        };
        if entries[at].summary.last_time <= time {
            return Ok(Some(entries[at].summary.last_sequence));
        }
        if entries[at].summary.kind != SegmentKind::Log {
            // Only the end of the fold is left, and it is later: the answer is the state before the
            // fold. But if the volume was out of order then, no state is.
            let gap = unordered_at(&entries[at].summary.order_changes, time);
            if gap.is_some() {
                return Ok(gap);
            }
            return Ok(at.checked_sub(1).map(|before| entries[before].summary.last_sequence));
        }
        let found = self.last_record(&entries[at], |record| record.time <= time)?;
        Ok(found.map(|(sequence, _)| sequence))
    }

    /// Returns the time of the last record up to `sequence`; `None` before the first.
    pub fn time_of(&self, sequence: Sequence) -> Result<Option<Timestamp>> {
        let entries = self.catalog.segments();
        let end = entries.partition_point(|entry| entry.summary.first_sequence <= sequence);
        let Some(entry) = entries[..end].last() else { return Ok(None) };
        if entry.summary.last_sequence <= sequence {
            return Ok(Some(entry.summary.last_time));
        }
        let found = self.last_record(entry, |record| record.sequence <= sequence)?;
        Ok(found.map(|(_, time)| time))
    }

    /// Returns the newest record of a segment, in write order, that is `wanted`.
    fn last_record(
        &self,
        entry: &SegmentEntry,
        wanted: impl Fn(&Record<'_>) -> bool,
    ) -> Result<Option<(Sequence, Timestamp)>> {
        let segment = self.open_segment(&entry.object)?;
        let mut found = None;
        for number in 0..segment.frame_count() {
            for record in segment.frame(number)?.records() {
                let record = record?;
                if wanted(&record) {
                    found = found.max(Some((record.sequence, record.time)));
                }
            }
        }
        Ok(found)
    }
}
