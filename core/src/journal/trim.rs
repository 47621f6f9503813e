//! Copies a log up to one of its sequences, as a closed segment.
//!
//! The copy takes the place of the original in the chain, with a salt and a chain hash of its own.
//! A failover to a recovery state inside a segment ends its epoch with one.

use super::{KeyRing, Segment, SegmentKind, SegmentSink, SegmentSummary, SegmentWriter};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::units::Sequence;

/// Writes the records of `segment` up to and including `through` to `sink`.
///
/// `InvalidInput` if the segment is no log or begins after `through`; `WrongKey`, `Corrupt`, and
/// the errors of the sink.
pub(crate) fn trim<S: SegmentSink>(
    segment: &Segment,
    through: Sequence,
    sink: S,
    keys: &KeyRing,
    clock: &dyn Clock,
) -> Result<(S, SegmentSummary)> {
    let params = segment.params().clone();
    let refused = || Error::new(ErrorKind::InvalidInput, "trim", segment.name());
    if params.kind != SegmentKind::Log {
        return Err(refused().expected("a log").found(format_args!("{:?}", params.kind)));
    }
    if through < params.first_sequence {
        return Err(refused()
            .expected(format_args!("a sequence from {} on", params.first_sequence))
            .found(through));
    }
    let key = segment.key_id().and_then(|id| keys.find(id));
    let mut writer = SegmentWriter::create(sink, params, key.as_ref(), clock)?;
    'frames: for number in 0..segment.frame_count() {
        let frame = segment.frame(number)?;
        for record in frame.records() {
            let record = record?;
            if record.sequence > through {
                break 'frames;
            }
            writer.append(&record)?;
        }
    }
    writer.close(Some(through))
}
